"""HTML by small functions: every text is escaped unless it was made here.

    tag("p", "1 < 2", class_="note")              <p class="note">1 &lt; 2</p>
    table(["label", "clips"], rows)               headers with a scope, numbers to the right
    document(title, body)                         one file: the style is inside, nothing is fetched

The page has no script at all, so that it opens from a disk, in an e-mail and on a phone, and light
or dark follows what the reader's system says.

here             | what it gives                                  | tests/test_page.py
Html, tag        | a piece of HTML, its texts escaped             | test_texts_are_escaped
table, scroller  | tables and wide things that a keyboard reaches | test_page_is_well_formed
document         | the whole file                                 | test_nothing_is_fetched
"""
import html

from report.style import STYLE

# Tags that have no content and no end.
VOID = {"img", "meta", "br", "hr"}


class Html(str):
    """Text that is HTML already, and is not escaped again."""


def text_of(child):
    """A child as HTML: Html as it is, a list piece by piece, None as nothing, all else escaped."""
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, (list, tuple)):
        return "".join(text_of(one) for one in child)
    return html.escape(str(child))


def tag(name, /, *children, **attributes):
    """One element. Attributes: `class_` for class, `_` for `-`; None and False are left out."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        else:
            parts.append(f'{key}="{html.escape(str(value))}"')

    opening = "<" + " ".join(parts) + ">"
    if name in VOID:
        return Html(opening)
    inside = text_of(children)
    return Html(f"{opening}{inside}</{name}>")


def section(name, title, *children):
    """A part of the page under a heading of the second level; `name` is what links lead to."""
    heading = tag("h2", title, id=f"{name}-title")
    return tag("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def note(*children):
    """A paragraph that stands back."""
    return tag("p", *children, class_="note")


def fold(summary, *children):
    """What is shown on request; `summary` is the line that opens it."""
    return tag("details", tag("summary", summary), *children)


def scroller(label, *children):
    """Something wide, which scrolls by itself so that the page does not; a keyboard reaches it."""
    return tag("div", *children, class_="scroll", role="region", aria_label=label, tabindex=0)


def is_number(cell):
    """Whether a cell is set to the right: numbers, and texts that begin with one."""
    if isinstance(cell, Html) or not str(cell):
        return False
    return str(cell).lstrip("+-−")[:1].isdigit()


def table(headers, rows, caption="", class_="plain"):
    """A table whose first cell of a row is the row's header.

    headers: texts. rows: lists of cells, texts, numbers or Html. caption: what the table shows, for
    everybody; a table without one stands under a heading that says it.
    """
    head = tag("tr", [tag("th", name, scope="col") for name in headers])
    body = []
    for first, *others in rows:
        cells = [tag("th", first, scope="row")]
        for cell in others:
            cells.append(tag("td", cell, class_="number" if is_number(cell) else None))
        body.append(tag("tr", cells))

    title = tag("caption", caption) if caption else None
    inside = tag("table", title, tag("thead", head), tag("tbody", body), class_=class_)
    return scroller(caption or f"table: {', '.join(map(str, headers))}", inside)


def document(title, *body, style=STYLE, skip="Skip to the results"):
    """The whole file, as text. skip: of the link that leads a keyboard past what comes first."""
    head = tag("head",
               tag("meta", charset="utf-8"),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("meta", name="color-scheme", content="light dark"),
               tag("title", title),
               tag("style", Html(style)))
    first = tag("a", skip, class_="skip", href="#main")
    page = tag("html", head, tag("body", first, *body), lang="en")
    return "<!doctype html>\n" + page + "\n"
