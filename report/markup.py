"""HTML by small functions: every text is escaped unless it was made here.

    tag("p", "1 < 2", class_="note")              <p class="note">1 &lt; 2</p>
    table(["label", "clips"], rows)               headers with a scope, numbers to the right
    document(title, body)                         one file: the style is inside, nothing is fetched

The page has no script at all, so that it opens from a disk, in an e-mail and on a phone, and light
or dark follows what the reader's system says.

here             | what it gives                                  | tests/test_page.py
Html, tag        | a piece of HTML, its texts escaped             | test_texts_are_escaped
table, scroller  | tables and wide things that a keyboard reaches | test_page_is_well_formed
document, STYLE  | the whole file                                 | test_nothing_is_fetched
"""
import html

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


def percent(share, digits=1):
    """A share of 1 as a text in percent, `-` for None."""
    if share is None:
        return "-"
    return f"{100 * share:.{digits}f} %"


def points(difference):
    """A difference of shares in percentage points, with its sign."""
    sign = "−" if difference < 0 else "+"
    return f"{sign}{abs(100 * difference):.1f}"


def document(title, *body):
    """The whole file, as text."""
    head = tag("head",
               tag("meta", charset="utf-8"),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("meta", name="color-scheme", content="light dark"),
               tag("title", title),
               tag("style", Html(STYLE)))
    skip = tag("a", "Skip to the results", class_="skip", href="#main")
    page = tag("html", head, tag("body", skip, *body), lang="en")
    return "<!doctype html>\n" + page + "\n"


# Colours have names; the dark half of the style changes what the names mean and nothing else. Text
# has a contrast of at least 4.5 to what is behind it, in both.
STYLE = """
:root {
  --paper: #ffffff; --ink: #1c2430; --quiet: #555e6d; --rule: #d8dde4; --panel: #f4f6f9;
  --accent: #0b5cad; --wrong: #b3400a; --right: #0a6e52; --mark: 11, 92, 173; --miss: 190, 70, 10;
  --s0: #0b5cad; --s1: #b3400a; --s2: #0a6e52; --s3: #7f3d96; --s4: #8a6100; --s5: #1d7fa8;
  --s6: #5a5a5a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161c; --ink: #e7ebf1; --quiet: #a5afbd; --rule: #333b47; --panel: #1b212a;
    --accent: #7cb9f5; --wrong: #ff9d66; --right: #5fd0ac; --mark: 86, 160, 235;
    --miss: 245, 130, 70;
    --s0: #7cb9f5; --s1: #ff9d66; --s2: #5fd0ac; --s3: #d7a1ea; --s4: #e6c15c; --s5: #74d3ec;
    --s6: #bdbdbd;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, footer, nav { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.5rem; }
footer { padding-top: 1rem; padding-bottom: 3rem; color: var(--quiet); font-size: .875rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; overflow-wrap: anywhere; }
h4 { font-size: .95rem; margin: 1.25rem 0 .25rem; overflow-wrap: anywhere; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
section { border-top: 1px solid var(--rule); padding: 1.5rem 0 1rem; scroll-margin-top: .5rem; }
.note, figcaption, caption { color: var(--quiet); font-size: .875rem; }
.skip { position: absolute; left: -999rem; }
.skip:focus { position: static; display: inline-block; padding: .5rem 1.25rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; margin: .75rem 0 1rem;
  padding: 0; font-size: .9rem; }
.hero { display: flex; flex-wrap: wrap; gap: .25rem 2rem; align-items: baseline; margin: .5rem 0; }
.hero strong { font-size: 3rem; line-height: 1.1; letter-spacing: -.02em; }
.hero span { color: var(--quiet); }
.wrong { color: var(--wrong); } .right { color: var(--right); }
.scroll { overflow-x: auto; max-width: 100%; margin: .25rem 0 .75rem; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; padding-bottom: .35rem; }
th { text-align: left; font-weight: 600; }
tbody th { font-weight: 400; }
.plain th, .plain td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
.plain thead th { white-space: nowrap; }
.plain tbody th { min-width: 9rem; max-width: 28rem; overflow-wrap: break-word; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: inline-block; width: 9rem; height: .8rem; background: var(--panel);
  border: 1px solid var(--rule); vertical-align: -.05rem; }
.bar i { display: block; height: 100%; background: var(--accent); }
details { margin: .5rem 0 1rem; }
summary { cursor: pointer; color: var(--accent); padding: .2rem 0; }
figure { margin: .5rem 0 1.25rem; }
img { display: block; max-width: 100%; height: auto; }
svg { display: block; width: 100%; height: auto; max-width: 34rem; }
svg text { fill: var(--quiet); font: 13px system-ui, sans-serif; }
svg .axis { stroke: var(--rule); fill: none; }
svg .line { fill: none; stroke-width: 2.2; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
.charts figure { flex: 1 1 22rem; min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; margin: 0 0 .25rem; }
.legend svg { display: inline-block; width: 1.5rem; margin-right: .35rem; vertical-align: .1rem; }
.confusion { border-collapse: separate; border-spacing: 0; font-size: .75rem; }
.confusion th, .confusion td { padding: 0; border: 0 solid var(--rule); }
.confusion td { border-width: 0 0 1px 1px; width: 1.55rem; min-width: 1.55rem; height: 1.55rem;
  text-align: center; font-variant-numeric: tabular-nums; line-height: 1.55rem; }
.confusion .hit { background: rgba(var(--mark), calc(.12 + .4 * var(--v))); }
.confusion .miss { background: rgba(var(--miss), calc(.15 + .5 * var(--v))); }
.confusion thead th { text-align: center; font-weight: 400; color: var(--quiet); }
.confusion tbody th { position: sticky; left: 0; background: var(--paper); padding-right: .5rem;
  min-width: 8rem; max-width: 30rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; border-bottom-width: 1px; line-height: 1.55rem; }
.confusion.dense { font-size: .62rem; }
.confusion.dense td { width: .96rem; min-width: .96rem; height: 1rem; line-height: 1rem; }
.confusion.dense tbody th { line-height: 1rem; max-width: 16.5rem; font-size: .68rem; }
.share { white-space: nowrap; font-variant-numeric: tabular-nums; }
.matrix-picture img { image-rendering: pixelated; border: 1px solid var(--rule); width: 100%;
  max-width: 44rem; }
.film { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); gap: 3px .6rem;
  align-items: center; min-width: 34rem; }
.film span { color: var(--quiet); font-size: .85rem; text-align: right; line-height: 1.25; }
.heat { width: 100%; max-width: 44rem; table-layout: fixed; border-spacing: 0; }
.heat th { text-align: right; padding: 0 .6rem 0 0; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; line-height: 1.4; }
.heat thead th { font-size: .8rem; text-align: left; }
.heat thead th:first-child { width: 6.5rem; text-align: right; }
.heat td { padding: 0; }
.heat td img { width: 100%; height: 1.4rem; image-rendering: pixelated; max-width: none; }
.heat .best { width: 8.6rem; padding-left: .6rem; white-space: nowrap; color: var(--quiet);
  font-size: .8rem; font-variant-numeric: tabular-nums; }
.heat .frames { display: flex; justify-content: space-between; color: var(--quiet);
  font-size: .75rem; }
.scale { display: flex; align-items: center; gap: .5rem; color: var(--quiet); font-size: .8rem; }
.scale img { width: 9rem; height: .7rem; }
.clip { border: 1px solid var(--rule); border-radius: .5rem; padding: .25rem 1rem .75rem;
  margin: 1rem 0; }
.clip h3 { margin-top: .6rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 0 2rem;
  align-items: start; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85em;
  overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  header, main, footer, nav { padding-left: .9rem; padding-right: .9rem; }
  .hero strong { font-size: 2.4rem; }
  .bar { width: 4.5rem; }
  .plain { font-size: .82rem; }
  .plain tbody th { min-width: 7.5rem; }
  .confusion tbody th, .confusion.dense tbody th { min-width: 8rem; max-width: 9.5rem;
    white-space: normal; font-size: .62rem; line-height: 1.15; }
  .film { grid-template-columns: 4.6rem minmax(0, 1fr); }
  .film span { font-size: .72rem; }
  .heat { min-width: 27rem; }
  .heat thead th:first-child { width: 5.5rem; }
  .two { grid-template-columns: minmax(0, 1fr); }
}
@media print {
  nav, .skip { display: none; }
  .clip { break-inside: avoid; }
}
"""
