"""Take the bodies of functions out of a source file, and look for answers that were left behind.

here     | what it does                                       | tests/test_classroom.py
blank    | bodies become an error; signature and docstring    | test_blanked_functions_keep_...
         | stay, worked examples among it                     |
bodies   | the statements that were taken out                 | test_no_answer_is_in_the_copy
answers  | which of them are still to be found in a folder    | test_an_answer_is_found
"""
import ast
import re

# A statement shorter than this, written out, says nothing: `B = len(x)` is in many places.
LEAST = 24


def functions_in(tree):
    """Name or `Class.name` -> node, of the functions and methods of a module."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found[f"{node.name}.{inner.name}"] = inner
    return found


def look_up(functions, name, file):
    """The node of a name; ValueError where the file has no such function."""
    if name not in functions:
        raise ValueError(f"{file} has no function {name}. Expected one, since an assignment hands "
                         "it out. Correct classroom/assignments.py.")
    return functions[name]


def after_docstring(node):
    """The statements of a function that are no docstring."""
    if ast.get_docstring(node) is None:
        return node.body
    return node.body[1:]


def blank(source, messages, file="the file"):
    """The source with each function of `messages` (name -> text) raising NotImplementedError(text).

    Decorators, signature and docstring stay. A docstring that is one line gains nothing, a function
    without one keeps its signature alone.
    """
    lines = source.splitlines(keepends=True)
    functions = functions_in(ast.parse(source))
    cuts = []
    for name, message in messages.items():
        node = look_up(functions, name, file)
        rest = after_docstring(node)
        if not rest:
            raise ValueError(f"{name} of {file} has no body. Expected one to take out. Correct "
                             "classroom/assignments.py.")

        # From behind the docstring (or signature), so that comments above the first statement go
        # as well: they tell the way.
        first = rest[0].lineno
        if len(rest) < len(node.body):
            first = node.body[0].end_lineno + 1
        else:
            while lines[first - 2].strip().startswith("#"):
                first -= 1
        last = node.end_lineno
        indent = " " * rest[0].col_offset
        # A line of its own, folded where it would be longer than the files' 100 columns.
        error = f'{indent}raise NotImplementedError("{message}")\n'
        if len(error) > 101:
            half = message.rfind(" ", 0, 60) + 1
            error = (f'{indent}raise NotImplementedError(\n{indent}    "{message[:half]}"\n'
                     f'{indent}    "{message[half:]}")\n')
        cuts.append((first, last, error))

    # From the end of the file on, so that the numbers of the lines before stay true.
    for first, last, error in sorted(cuts, reverse=True):
        lines[first - 1:last] = [error]
    blanked = "".join(lines)
    ast.parse(blanked)
    return blanked


def statements(node):
    """Every statement inside a function, also inside its loops and conditions, on one line each.

    As Python writes them out again: blanks, brackets that are not needed and comments do not count.
    """
    found = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.stmt) and inner is not node:
            if isinstance(inner, (ast.If, ast.For, ast.While, ast.With, ast.FunctionDef)):
                continue                          # their bodies are walked by themselves
            if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant):
                continue                          # a docstring
            found.append(ast.unparse(inner))
    return found


def bodies(source, names, file="the file"):
    """The statements that blanking these functions takes away, those that say something."""
    functions = functions_in(ast.parse(source))
    elsewhere = set()
    for name, node in functions.items():
        if name not in names:
            elsewhere.update(statements(node))

    # What another function of the file says as well is no secret, nor are checks of shapes, which
    # are worded alike everywhere.
    found = []
    for name in names:
        for statement in statements(look_up(functions, name, file)):
            is_check = statement.startswith(("check_shape", "raise "))
            if len(statement) >= LEAST and statement not in elsewhere and not is_check:
                found.append(statement)
    return found


def squeezed(text):
    """Without blanks and line ends, as a statement is looked for in any file of text."""
    return re.sub(r"\s+", "", text).replace("'", '"')


def answers(folder, wanted):
    """Where in a folder statements of `wanted` stand: a list of (file, statement).

    In Python as statements, since a short one may be the beginning of another; in all other text
    however it is laid out.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix in (".pt", ".png", ".gz", ".jpg"):
            continue
        text = path.read_text("utf-8", errors="replace")
        if path.suffix == ".py":
            there = set(statements(ast.parse(text)))
            left = [statement for statement in wanted if statement in there]
        else:
            text = squeezed(text)
            left = [statement for statement in wanted if squeezed(statement) in text]
        for statement in left:
            found.append((str(path.relative_to(folder)), statement))
    return found
