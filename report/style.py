"""How the page looks: one style for light and dark, wide and narrow screens, and paper.

Nothing here comes from elsewhere: the fonts are those of the reader's system, and no rule names an
address. The parts below are joined into STYLE, which `report/markup.py` puts into the file.

part      | of what                                     | tests/test_page.py
COLOURS   | names of colours, light and dark            | test_text_has_contrast_in_light_and_dark
TEXT      | the column, headings, links, keyboard focus | test_a_browser_opens_it
TABLES    | tables and bars                             | test_a_browser_opens_it
PICTURES  | charts, legends, folded parts               | test_a_browser_opens_it
CONFUSION | the matrix of labels                        | test_a_browser_opens_it
CLIPS     | films and heat maps                         | test_a_browser_opens_it
OTHERS    | phones and paper                            | test_a_browser_opens_it
"""

# Colours have names. The dark half changes what the names mean and nothing else; text has a
# contrast of at least 4.5 to the page in both, which tests/test_page.py computes. --mark and --miss
# are red, green, blue, so that a cell can be more or less transparent.
COLOURS = """
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
"""

# The page as a whole: one column that is not wider than can be read, larger figures on top.
TEXT = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
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
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; padding: 0;
  margin: .75rem 0 1rem; font-size: .9rem; }
.hero { display: flex; flex-wrap: wrap; gap: .25rem 2rem; align-items: baseline; margin: .5rem 0; }
.hero strong { font-size: 3rem; line-height: 1.1; letter-spacing: -.02em; }
.hero span { color: var(--quiet); }
.wrong { color: var(--wrong); } .right { color: var(--right); }
"""

# Tables scroll by themselves where a screen is narrower than they are.
TABLES = """
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
"""

# Folded parts, pictures, charts and their legends.
PICTURES = """
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
"""

# The confusion matrix: small squares, the names of rows stay while the rest scrolls.
CONFUSION = """
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
"""

# A clip: rows of frames, and the frames x words matrix, whose rows are pictures one pixel high.
CLIPS = """
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
"""

# Narrow screens, and paper.
OTHERS = """
@media (max-width: 40rem) {
  header, main, footer, nav { padding-left: .9rem; padding-right: .9rem; }
  .hero strong { font-size: 2.4rem; }
  .bar { width: 4.5rem; }
  .plain { font-size: .82rem; }
  .plain th, .plain td { padding-right: .6rem; }
  .plain tbody th { min-width: 7.5rem; }
  .confusion tbody th, .confusion.dense tbody th { min-width: 8rem; max-width: 9.5rem;
    white-space: normal; font-size: .62rem; line-height: 1.15; }
  .film { grid-template-columns: 4.2rem minmax(0, 1fr); min-width: 26rem; }
  .film span { font-size: .72rem; }
  .heat { font-size: .78rem; }
  .heat thead th:first-child { width: 4.6rem; }
  .heat .best { width: 7.4rem; font-size: .72rem; }
  .clip { padding: .25rem .7rem .6rem; }
  .two { grid-template-columns: minmax(0, 1fr); }
}
@media print {
  nav, .skip { display: none; }
  .clip { break-inside: avoid; }
}
"""

STYLE = COLOURS + TEXT + TABLES + PICTURES + CONFUSION + CLIPS + OTHERS
