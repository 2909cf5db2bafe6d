"""A source file as prose and code side by side: what the page beside the paper is made of.

Nothing is typed twice. A banner begins a section, a docstring or a comment is prose on the left,
and the code up to the next comment stands on the right.

here        | what it gives                                 | tests/test_annotated.py
Part, Block | pieces of a file: sections, functions, rows   | test_no_line_of_code_is_lost
read_source | a file -> its module docstring and parts      | test_no_line_of_code_is_lost
read_map    | the tests that a file's map names             | test_the_maps_tests_are_linked
read_ledger | docs/ledger.md -> its rows by number          | test_ledger_rows_stand_where_they_*
prose       | a docstring as HTML                           | test_prose_keeps_its_words
code        | code as HTML: colours, links to what it calls | test_no_line_of_code_is_lost
"""
import ast
import inspect
import re
from dataclasses import dataclass, field

from report.markup import Html, table, tag, text_of

BANNER = re.compile(r"# ---- (.+?) -+$")
MARK = re.compile(r"\bD(\d+)\b")


@dataclass
class Row:
    """Prose and the code that it speaks of."""
    said: str                                     # a docstring, or comments
    code: str
    first: int                                    # lines of the file, from 1
    last: int

    @property
    def marks(self):
        """The ledger's numbers that are named in it, each once, in order."""
        numbers = MARK.findall(f"{self.said}\n{self.code}")
        return list(dict.fromkeys(int(number) for number in numbers))


@dataclass
class Block:
    """A function, a method, the head of a class; without a name what stands between them."""
    name: str                                     # `patch_weight`, `PeVL.forward`, or ""
    rows: list

    @property
    def marks(self):
        """The ledger's numbers that are named in its rows, each once, in order."""
        return list(dict.fromkeys(number for row in self.rows for number in row.marks))


@dataclass
class Part:
    """What stands under one banner."""
    title: str
    said: str                                     # the comment below the banner
    blocks: list = field(default_factory=list)

    @property
    def equations(self):
        """Numbers of the equations that the banner names."""
        found = []
        for first, second in re.findall(r"Eqs?\. \((\d)\)(?: and \((\d)\))?", self.title):
            found += [int(one) for one in (first, second) if one]
        return found


# ---- Source into rows ----------------------------------------------------------------------------

def comment_text(lines):
    """Comment lines -> their text; an empty comment is the end of a paragraph."""
    return "\n".join(line.strip().lstrip("#").strip() for line in lines)


def rows_between(lines, first, last, docstring=None, said=""):
    """Rows of the lines `first` to `last` (from 1): a new one begins at each comment of its own.

    docstring: its node, whose lines are no code. said: the first row's prose.
    """
    hidden = range(0)
    if docstring is not None:
        hidden = range(docstring.lineno, docstring.end_lineno + 1)
    rows = [Row(said=said, code="", first=first, last=first)]
    comments = []
    kept = []

    def close(until):
        rows[-1].code = "\n".join(kept).strip("\n")
        rows[-1].last = until
        kept.clear()

    for number in range(first, last + 1):
        line = lines[number - 1]
        if number in hidden:
            continue
        if line.strip().startswith("#"):
            comments.append(line)
            continue
        if comments:
            close(number - 1)
            rows.append(Row(said=comment_text(comments), code="", first=number, last=number))
            comments = []
        kept.append(line)
    close(last)
    return [row for row in rows if row.code or row.said]


def docstring_of(node):
    """The node of a docstring, or None."""
    if ast.get_docstring(node) is None:
        return None
    return node.body[0]


def first_line(node):
    """The first line of a function or a class, decorators included."""
    return min([node.lineno] + [one.lineno for one in node.decorator_list])


def block_of(node, lines, name, last):
    """A function, or the head of a class, as a Block."""
    said = ast.get_docstring(node) or ""
    return Block(name, rows_between(lines, first_line(node), last, docstring_of(node), said))


def blocks_of(node, lines):
    """The blocks of a top-level statement: one, or of a class its head and its methods."""
    if isinstance(node, ast.FunctionDef):
        return [block_of(node, lines, node.name, node.end_lineno)]
    if not isinstance(node, ast.ClassDef):
        return [Block("", rows_between(lines, node.lineno, node.end_lineno))]

    # What a class says and what it is built from stand together: an __init__ without a docstring of
    # its own goes with the head.
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    last = node.end_lineno
    if methods and methods[0].name == "__init__" and docstring_of(methods[0]) is None:
        last = methods.pop(0).end_lineno
    elif methods:
        last = first_line(methods[0]) - 1
    blocks = [block_of(node, lines, node.name, last)]
    for method in methods:
        blocks.append(block_of(method, lines, f"{node.name}.{method.name}", method.end_lineno))
    return blocks


def read_source(text):
    """A file's text -> its module docstring, and the Parts that its banners make.

    What stands before the first banner, imports above all, is a part with the title "".
    """
    lines = text.splitlines()
    tree = ast.parse(text)
    parts = [Part("", "")]
    starts = [0]
    # A banner is a comment, which a syntax tree does not keep: it is looked for in the lines.
    for number, line in enumerate(lines, 1):
        found = BANNER.match(line)
        if found:
            below = []
            while lines[number + len(below)].startswith("#"):
                below.append(lines[number + len(below)])
            parts.append(Part(found[1], comment_text(below).strip()))
            starts.append(number)

    # Each statement belongs to the last banner above it.
    for node in tree.body:
        if node is docstring_of(tree):
            continue
        here = sum(start < node.lineno for start in starts) - 1
        blocks = blocks_of(node, lines)
        before = parts[here].blocks
        if before and not before[-1].name and not blocks[0].name:
            # Imports are one piece of code.
            before[-1].rows = rows_between(lines, before[-1].rows[0].first, node.end_lineno)
        else:
            before += blocks
    return ast.get_docstring(tree), parts


def read_map(docstring):
    """Function names -> the test that the file's own map names, of `... | names | test_x` rows."""
    found = {}
    for line in docstring.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 4 and cells[3].startswith("test_"):
            for name in cells[2].split(", "):
                found.setdefault(name.strip(), []).append(cells[3])
    return found


def read_ledger(text):
    """docs/ledger.md -> number: [printed, we do, why, switch, test]."""
    rows = {}
    for number, rest in re.findall(r"^\| D(\d+) \| (.*) \|$", text, re.M):
        cells = re.split(r"(?<!\\)\|", rest)
        rows[int(number)] = [cell.strip().replace("\\|", "|") for cell in cells]
    return rows


# ---- Prose ---------------------------------------------------------------------------------------

def anchor(name):
    """Where links to a function lead."""
    return f"fn-{name}"


def is_spelled(name):
    """Whether a known name is unlike any word of a sentence, so that prose may link it."""
    if name == "PeVL":
        return False                              # in prose it is the paper's system
    return "_" in name.strip("_") or "." in name or bool(re.search(r"[a-z][A-Z]", name))


def inline(text, names):
    """A sentence: `code`, ledger numbers and names of functions as links, all else escaped."""
    pieces = []
    for piece in re.split(r"(`[^`]+`|\bD\d+\b|[A-Za-z_][\w.]*\w)", text):
        is_code = len(piece) > 2 and piece[0] == piece[-1] == "`"
        bare = piece.strip("`")
        if MARK.fullmatch(piece):
            pieces.append(tag("a", piece, href=f"#{piece}"))
        elif is_code or (bare in names and is_spelled(bare)):
            inside = tag("code", bare)
            if bare in names:
                inside = tag("a", inside, href=f"#{anchor(bare)}")
            pieces.append(inside)
        else:
            pieces.append(piece)
    return Html(text_of(pieces))


def cells_of(lines):
    """Rows of a table in a docstring; one whose first cell is empty goes on with the one before."""
    rows = []
    for line in lines:
        if not set(line) - set("-+ "):
            continue                              # a rule under the header
        cells = [cell.strip() for cell in line.split("|")]
        if cells[0] or not rows:
            rows.append(cells)
        else:
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells)]
    return rows


def named(cell, names, header=""):
    """A cell of a map: functions and tests as links, else a sentence. header: of its column."""
    if cell.startswith("test_") and header.startswith("tests/"):
        return tag("a", cell, href=f"../{header}")
    words = cell.split(", ")
    if not all(re.fullmatch(r"[\w.]+", word) and word in names for word in words):
        return inline(cell, names)
    links = []
    for word in words:
        links += [", ", tag("a", tag("code", word), href=f"#{anchor(word)}")]
    return Html(text_of(links[1:]))


def paragraph(lines, names):
    """A paragraph of a docstring as HTML: a table, a formula, an example, terms, or a sentence."""
    # Bars between cells; those of KL(q || p) are none.
    bars = [len(re.findall(r"(?<!\|)\|(?!\|)", line)) for line in lines]
    is_indented = lines[0].startswith("    ") or lines[0].startswith(">>>")
    if min(bars) >= 2 and not is_indented:
        headers, *rows = cells_of(lines)
        linked = []
        for row in rows:
            linked.append([named(cell, names, header) for cell, header in zip(row, headers)])
        return table(headers, linked)
    if is_indented or min(bars) >= 1:
        inside = inspect.cleandoc("\n" + "\n".join(lines))
        return tag("pre", inside)

    # Terms, as of a glossary: a word, two blanks, what it means; the lines below go on with it.
    if len(lines) > 1 and re.match(r"\S+  +\S", lines[0]):
        terms = []
        for line in lines:
            if line.startswith(" "):
                terms[-1] += f" {line.strip()}"
            else:
                terms.append(line)
        pieces = []
        for term in terms:
            word, _, meaning = term.partition("  ")
            pieces.append(tag("p", tag("b", word), " ", inline(meaning.strip(), names)))
        return Html(text_of(pieces))
    return tag("p", inline(" ".join(line.strip() for line in lines), names))


def prose(text, names):
    """A docstring or a comment, cleaned of its indentation, as HTML."""
    found = []
    for piece in re.split(r"\n\s*\n", text):
        lines = piece.splitlines()
        if lines:
            found.append(paragraph(lines, names))
    return Html(text_of(found))


# ---- Code ----------------------------------------------------------------------------------------

KEYWORDS = {"and", "as", "assert", "break", "class", "continue", "def", "del", "elif", "else",
            "except", "False", "finally", "for", "from", "if", "import", "in", "is", "lambda",
            "None", "not", "or", "pass", "raise", "return", "True", "try", "while", "with", "yield"}

# In this order: a `#` in a string is no comment.
TOKEN = re.compile(r"""(?P<string>[rbf]?"(?:[^"\\\n]|\\.)*"|[rbf]?'(?:[^'\\\n]|\\.)*')"""
                   r"""|(?P<comment>[ ]*\#[^\n]*)"""
                   r"""|(?P<number>\b\d[\d_.e]*(?:e-?\d+)?\b)"""
                   r"""|(?P<name>(?:self\.)?[A-Za-z_]\w*)"""
                   r"""|(?P<other>.|\n)""")


def code_link(word, names, owner, before):
    """Where a name in code leads: `self.mask` to the class's own method, else to a function."""
    if word.startswith("self."):
        return f"{owner}.{word[5:]}" if f"{owner}.{word[5:]}" in names else ""
    is_own = before.endswith((".", "def ", "class "))
    if word in names and not is_own:
        return word
    return ""


def code(text, names, owner=""):
    """Lines of code as HTML. names: functions that are on the page. owner: the class around it."""
    pieces = []
    for found in TOKEN.finditer(text):
        kind = found.lastgroup
        word = found.group()
        if kind == "comment":
            # The blanks before a comment go on a phone, where a line is never long enough.
            bare = word.lstrip()
            gap = word[:len(word) - len(bare)]
            if len(gap) > 2:
                pieces.append(tag("i", gap[2:], class_="gap"))
                gap = gap[:2]
            pieces += [gap, tag("i", bare, class_="c")]
        elif kind == "string":
            pieces.append(tag("i", word, class_="s"))
        elif kind == "name" and word in KEYWORDS:
            pieces.append(tag("b", word))
        elif kind == "name" and code_link(word, names, owner, text[:found.start()]):
            target = code_link(word, names, owner, text[:found.start()])
            pieces.append(tag("a", word, href=f"#{anchor(target)}"))
        else:
            pieces.append(word)
    return tag("pre", tag("code", pieces), class_="code")

