"""Several runs on one page: two that answered the same clips, and a table of the lab.

question                         | here                    | test
which of two is better, how sure | `verdict`, `figures_of` | test_two_runs_side_by_side
where each is ahead              | `label_differences`     | test_two_runs_side_by_side
what is set otherwise            | `differing_settings`    | test_compare_two_runs
a table of the paper, as trained | `lab_page`              | test_lab

The tests are in tests/test_page.py, test_evidence.py and test_lab.py.

Differences are the first run minus the second, in percentage points.
"""
from report.figures import Bar, curve, figure, interval_bars, line_chart
from report.markup import document, fold, note, section, table, tag
from report.wording import between, metric_name, metrics_of, percent, points, shown_value

MANY = 60                                         # labels, of which both ends are shown alone
END = 15                                          # labels of such an end

# Where a run lies and how it was started says nothing about what was trained.
PLACES = ("out", "root", "poses", "fresh", "resume", "force", "workers", "device")


# ---- Two runs on the same clips ------------------------------------------------------------------

def verdict(first, second, pair):
    """A sentence on a paired difference that says no more than its interval does. pair: Paired."""
    bounds = f"{points(pair.low)} to {points(pair.high)}"
    interval = "the 95 % interval of the difference in top-1"
    if pair.low > 0:
        return f"{first} is ahead: {interval} is {bounds} points."
    if pair.high < 0:
        return f"{second} is ahead: {interval} is {bounds} points."
    return f"The clips do not tell the two apart: {interval}, {bounds} points, holds 0."


def figures_of(comparison, a):
    """Both runs' accuracies with their intervals; of top-1 and the mean the paired difference."""
    b = comparison.rival

    # Two intervals that overlap do not say that two runs are alike: most clips are hard or easy for
    # both, and that cancels in the difference. Hence the interval of the difference itself.
    pairs = {"top1": comparison.top1, "mean": comparison.mean}
    rows = []
    for metric in metrics_of(a.result):
        if metric not in b.result:                # not every system has every similarity
            continue
        cells = [metric_name(metric)]
        for run in (a, b):
            low, high = run.bounds(metric)
            cells.append(f"{percent(run.result[metric], 2)} ({between(low, high)})")

        difference = points(a.result[metric] - b.result[metric])
        if metric in pairs:
            pair = pairs[metric]
            difference += f" ({points(pair.low)} to {points(pair.high)})"
        rows.append([*cells, difference])
    return table(["accuracy", a.name, b.name, "difference, points"], rows,
                 caption="with 95 % intervals; that of the difference resamples clips, both "
                 "answers together")


def clips_by_answers(pair, first, second):
    """How many clips both, one or none answered rightly."""
    # The two in the middle are all that tells the runs apart.
    rows = [["both", pair.both], [f"{first} alone", pair.only_a], [f"{second} alone", pair.only_b],
            ["neither", pair.neither]]
    return table(["right", "clips"], rows,
                 caption=f"clips by both answers; McNemar's exact test: p = {pair.p_value:.2g}")


def label_differences(a, b):
    """Accuracy of both runs by class, the first run's largest loss first; of many both ends."""
    # A label without clips says nothing, neither here nor there.
    found = []
    for label, ours, theirs in zip(a.labels, a.result["per_class"], b.result["per_class"]):
        if ours is not None and theirs is not None:
            found.append((ours - theirs, label, ours, theirs))
    found.sort(key=difference_of)

    caption = "by class, the first run's largest loss first"
    if len(found) > MANY:
        found = found[:END] + found[-END:]
        caption = f"by class: the {END} largest losses and gains of the first run"
    rows = []
    for difference, label, ours, theirs in found:
        rows.append([label, percent(ours), percent(theirs), points(difference)])
    return table(["label", a.name, b.name, "difference"], rows, caption=caption)


def difference_of(row):
    """The key by which classes are sorted."""
    return row[0]


def differing_settings(a, b):
    """A table of the settings that are not the same, folded; those of places are left out."""
    rows = []
    for name in {**a.config, **b.config}:         # a setting that only one of them has counts, too
        ours = shown_value(a.config.get(name, "-"))
        theirs = shown_value(b.config.get(name, "-"))
        if ours != theirs and name not in PLACES:
            rows.append([name, tag("code", ours), tag("code", theirs)])
    if not rows:
        return note("All settings are the same.")
    return fold(f"{len(rows)} settings that differ", table(["setting", a.name, b.name], rows))


def held_out_curves(runs):
    """Held-out top-1 of both in training, one chart; None where neither was trained here."""
    series = {}
    for run in runs:
        epochs = [row for row in run.history if row["kind"] == "epoch"]
        series[run.name] = curve(epochs, "top1", "epoch", unit=100)
    return line_chart(series, "held-out top-1 in training, %", "epoch", high=100)


def compared(contents):
    """Two runs side by side, or None where a page has one."""
    comparison = contents.comparison
    if comparison is None:
        return None

    # From the sentence to the details: who is ahead, by how much, on which clips and labels, and
    # what was set otherwise, which may be the reason.
    a = contents.measured
    b = comparison.rival
    pair = comparison.top1
    answers = tag("div", clips_by_answers(pair, a.name, b.name), held_out_curves((a, b)),
                  class_="two")
    hashes = note(f"{b.name}: SHA-256 ", tag("code", b.sha256 or "none: no file"))
    return section("compared", "Two runs on the same clips",
                   tag("p", verdict(a.name, b.name, pair)), figures_of(comparison, a), answers,
                   label_differences(a, b), differing_settings(a, b), hashes)


# ---- A table of the lab --------------------------------------------------------------------------

def seeds_of(row):
    """Each seed's figure, a link to the page of its run where there is one. row: LabRow."""
    # A link from file to file: the lab's folder can be moved, or sent, as a whole.
    cells = []
    for top, page in zip(row.tops, row.pages):
        said = f"{top:.1f}"
        if page:
            said = tag("a", said, href=page)
        cells += [said, " "]
    return tag("span", cells)


def lab_bar(row):
    """A row of the lab as a bar: its whisker is one standard deviation to each side."""
    # The whisker must stay on the axis, though a mean plus a deviation may pass 100.
    one = Bar(row.name, row.mean / 100, whisker="one standard deviation to each side,")
    if row.spread is not None:
        one.low = max(row.mean - row.spread, 0) / 100
        one.high = min(row.mean + row.spread, 100) / 100
    if row.paper is not None:
        one.paper = row.paper / 100
    return one


def lab_page(name, benchmark, rows, remarks=()):
    """A table of the paper as the lab trained it, as text.

    name: such as `table5`. benchmark: on which it was trained. rows: LabRow. remarks: sentences.
    """
    cells = []
    for row in rows:
        paper = "none printed"
        if row.paper is not None:
            paper = f"{row.paper}"
        cells.append([row.name, row.what, paper, row.said, seeds_of(row)])

    title = f"{name.replace('table', 'Table ')} on {benchmark}"
    lead = note("Test top-1, mean ± standard deviation over the seeds. The paper's figures are "
                "those of its own benchmark, and stand here for the order of the rows.")
    drawing = figure(interval_bars([lab_bar(row) for row in rows]),
                     "percent; whiskers: one standard deviation over the seeds; the diamond is "
                     "the paper's figure")
    headers = ["row", "what it is", "paper, %", f"{benchmark}, %", "each seed"]
    body = section("results", "Rows", table(headers, cells), drawing,
                   [tag("p", remark) for remark in remarks])
    return document(title, tag("header", tag("h1", title), lead), tag("main", body, id="main"))
