"""The page: what an evaluation found, as one HTML file that opens anywhere.

No model is known here: `report/evidence.py` asks the model and fills the records below, this file
says them in the order in which a reader asks. How good is it, and how sure is that? Which labels
are confused, which are hard? What did it look at when it was wrong, and when it was right? How was
it trained, with what, at what cost? With a second run the same questions side by side.

question                          | here               | tests/test_page.py
how good, how sure, the paper's   | headline           | test_headline_*
which labels are confused, hard   | confusions, by_label | test_confusion_of_*
what was looked at (Figs. 1c, 3b) | looked_at          | test_heat_map_*, test_films_*
how it was trained, at what cost  | training, costs    | test_page_is_well_formed
two runs on the same clips        | compared           | test_two_runs_side_by_side
a table of the lab                | lab_page           | tests/test_lab.py
everything, into a file           | write_page         | test_nothing_is_fetched

Accuracies are shares of 1 in the records and percent on the page. K labels, T pose frames, Tv video
frames, W words.
"""
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from report.bootstrap import Paired, interval
from report.confusion import (SMALL, ZOOM, matrix_picture, matrix_table, most_confused,
                              order_by_confusion, pairs_table)
from report.draw import is_accuracy, is_loss
from report.figures import bar, figure, film, heat_map, interval_bar, line_chart, scale
from report.markup import Html, document, fold, note, percent, points, section, table, tag
from support.files import atomic

# What the figures of an evaluation are called on the page.
METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean": "mean over classes",
    "top1/vs": "video-sentence alone",
    "top1/ps": "pose-sentence alone",
    "top1/fw": "frame-word alone",
}
WORST = 30                                        # labels and mistakes that are shown at once


# ---- Records -------------------------------------------------------------------------------------

@dataclass
class Measured:
    """One run and what an evaluation of it found."""
    name: str                                     # of the run, for people
    about: dict                                   # facts: data, split, views, model, checkpoint ...
    labels: list                                  # K texts
    result: dict                                  # of eval.evaluate
    config: dict = field(default_factory=dict)    # settings, as in config.json
    versions: dict = field(default_factory=dict)  # packages and commit, of training
    history: list = field(default_factory=list)   # rows of metrics.jsonl
    sha256: str = ""                              # of the checkpoint's file

    @property
    def predictions(self):
        """A dict per clip: id, label, predicted, probability, alone, broken."""
        return self.result["predictions"]

    @property
    def confusion(self):
        """(K, K) int64, row = true label."""
        return np.asarray(self.result["confusion"])

    @property
    def unread(self):
        """(K,) int64: clips of each label that could not be read."""
        return np.asarray(self.result["unread"])

    @property
    def true(self):
        """(n,) true labels."""
        return np.array([p["label"] for p in self.predictions])

    def correct(self, metric="top1"):
        """(n,) bool: which clips count as right for `top1`, `top5`, or one similarity, `top1/vs`.
        The mean over classes counts the clips of `top1`."""
        right = []
        for p in self.predictions:
            if metric == "top5":
                right.append(p["label"] in p["top5"])
            elif "/" in metric:
                right.append(p["alone"][metric.split("/")[1]] == p["label"])
            else:
                right.append(p["predicted"] == p["label"])
        return np.array(right, bool)

    def bounds(self, metric):
        """95 % bootstrap interval of a metric over the clips: (low, high)."""
        labels = self.true if metric == "mean" else None
        return interval(self.correct(metric), labels)


@dataclass
class Matrix:
    """Frames x words of one clip and one text, Fig. 3b."""
    text: str                                     # the label
    words: list                                   # W texts
    values: np.ndarray                            # (T, W) cosines
    similarity: float                             # S_FW of Eq. (4), made of them


@dataclass
class LookedAt:
    """One clip: what was answered, and what the model looked at."""
    id: str
    label: str                                    # the true one
    answer: str
    probability: float
    alone: dict                                   # similarity -> the label that it would answer
    strip: dict                                   # as report.draw.draw_strip wants it
    matrices: list = field(default_factory=list)  # Matrix of the answer, and of the true label
    saliency: dict = field(default_factory=dict)  # ViLP: label -> (Tv,) share of each frame
    rivals: list = field(default_factory=list)    # (name, strip) of a second model
    rival_answer: str = ""


@dataclass
class Comparison:
    """A second run on the same clips; differences are the first run minus the second."""
    rival: Measured
    top1: Paired
    mean: Paired


@dataclass
class Contents:
    """All that is on a page."""
    measured: Measured
    printed: Any = None                           # tables.printed.Printed, or None
    differing: list = field(default_factory=list)  # what is set otherwise than in the paper
    mistakes: list = field(default_factory=list)  # LookedAt, the most confident ones first
    rights: list = field(default_factory=list)    # LookedAt of right answers
    costs: list = field(default_factory=list)     # rows: part, trainable M, total M, G operations
    comparison: Comparison | None = None


# ---- Headline ------------------------------------------------------------------------------------

def metrics_of(result):
    """Names of the accuracies that an evaluation gives, in the order of the page."""
    own = [name for name in result if name.startswith("top1/")]
    return ["top1", "top5", "mean", *own]


def metric_name(metric):
    """What a metric is called on the page; unknown ones keep their own name."""
    return METRICS.get(metric, metric.replace("top1/", "") + " alone" if "/" in metric else metric)


def between(low, high):
    """An interval of shares in percent: `88.1 to 94.4 %`."""
    return f"{100 * low:.1f} to {percent(high)}"


def paper_said(contents):
    """A sentence on the paper's figure: its source and what is set otherwise, or that none is."""
    about = contents.measured.about
    if contents.printed is None:
        return (f"The paper's figure: none printed for {about['data']} with {about['model']}, "
                f"{about['backbone']} and these switches.")
    said = f"The paper's figure: {contents.printed.source}."
    if about["split"] != "test":
        said += f" It is of the test split; this is {about['split']}."
    if contents.differing:
        said += " It was measured with other settings: " + "; ".join(contents.differing) + "."
    return said


def headline(contents):
    """Top-1 in large, then each figure with its interval and the paper's."""
    m = contents.measured
    result = m.result
    figures = {}
    if contents.printed is not None:
        figures = contents.printed.figures

    # The metric that the paper prints stands in large: the mean over classes for Toyota-Smarthome.
    first = next(iter(figures), "top1")
    low, high = m.bounds(first)
    large = [tag("strong", percent(result[first], 2)),
             tag("span", f"{metric_name(first)}; 95 % interval {between(low, high)}")]
    if figures:
        large.append(tag("span", f"the paper: {figures[first]} %"))
    else:
        large.append(tag("span", "the paper: none printed"))
    hero = tag("p", large, class_="hero")

    rows = []
    bars = []
    for metric in metrics_of(result):
        low, high = m.bounds(metric)
        row = [metric_name(metric), percent(result[metric], 2), between(low, high)]
        share = None
        if metric in figures:
            share = figures[metric] / 100
            row.append(f"{figures[metric]} %")
        elif figures:
            row.append("-")
        rows.append(row)
        bars.append((metric_name(metric), result[metric], low, high, share))

    said = ("Interval: 95 % bootstrap over the clips, 2,000 resamples. It says how far another "
            "sample of clips might lead, not another seed of training.")
    right = int(m.correct().sum())
    counts = [f"{right} of {result['clips']} clips right, {len(m.labels)} labels"]
    empty = list(result["per_class"]).count(None)
    if empty:
        counts.append(f"{empty} labels have no clip in this split and are left out of the mean")
    counts.append(f"{result['ties']} clips tied between labels")
    counts.append(f"{len(result['errors'])} clips could not be read and count as wrong")
    if result.get("seconds"):
        counts.append(f"evaluated in {result['seconds']:.1f} s")
    drawing = figure(interval_bar(bars), "percent; the diamond is the paper's figure"
                     if figures else "percent; whiskers are the intervals")
    headers = ["accuracy", "this run", "95 % interval"]
    if figures:
        headers.append("the paper")
    figures_table = table(headers, rows)
    return section("results", "Results", hero, tag("p", paper_said(contents)),
                   tag("div", figures_table, drawing, class_="two"),
                   note(said), note("; ".join(counts), "."))


# ---- Labels --------------------------------------------------------------------------------------

def confusions(m):
    """The confusion matrix, as a table or as a picture with a table, and the worst pairs."""
    K = len(m.labels)
    order = order_by_confusion(m.confusion)
    pairs = pairs_table(m.confusion, m.labels, WORST if K > ZOOM else 15)
    said = ("Rows are true labels, columns answered ones, by the numbers of the rows. Labels that "
            "are taken for each other stand side by side. Blue: right; orange: wrong; the shade "
            "is the share of the row.")
    parts = [note(said)]
    if K <= SMALL:
        parts.append(matrix_table(m.confusion, m.unread, m.labels, order))
    else:
        parts.append(matrix_picture(m.confusion, order))
        zoomed = most_confused(m.confusion, ZOOM)
        if zoomed:
            parts.append(tag("h3", f"The {len(zoomed)} labels that are confused most"))
            parts.append(matrix_table(m.confusion, m.unread, m.labels, zoomed))
    parts.append(pairs if pairs is not None else tag("p", "No answer is wrong."))
    return section("confusion", "Which label is taken for which", parts)


def label_rows(m):
    """Rows of the table of labels that have clips, the lowest accuracy first."""
    shares = m.result["per_class"]
    known = [k for k, share in enumerate(shares) if share is not None]
    rows = []
    for k in sorted(known, key=lambda k: (shares[k], k)):
        clips = int(m.confusion[k].sum() + m.unread[k])
        wrong = m.confusion[k].copy()
        wrong[k] = 0
        taken = "-"
        if wrong.any():
            worst = int(wrong.argmax())
            taken = f"{m.labels[worst]} ({int(wrong[worst])})"
        share = tag("span", bar(shares[k]), " ", percent(shares[k]), class_="share")
        rows.append([m.labels[k], share, f"{int(m.confusion[k, k])} of {clips}", taken])
    return rows


def by_label(m):
    """Accuracy by class, the hardest first; of many labels the rest is folded away."""
    headers = ["label", "right", "clips", "most often taken for"]
    rows = label_rows(m)
    parts = []
    if len(rows) <= SMALL:
        parts.append(table(headers, rows))
    else:
        parts.append(table(headers, rows[:WORST], caption=f"the {WORST} lowest of {len(rows)}"))
        parts.append(fold(f"the other {len(rows) - WORST}", table(headers, rows[WORST:])))
    empty = [m.labels[k] for k, share in enumerate(m.result["per_class"]) if share is None]
    if empty:
        parts.append(fold(f"{len(empty)} labels without clips", tag("p", ", ".join(empty))))
    return section("labels", "Accuracy by class, the lowest first", parts)


# ---- Clips ---------------------------------------------------------------------------------------

def matrices_of(clip):
    """Fig. 3b for a clip: the answer's words and, where they differ, the true label's."""
    if not clip.matrices:
        return None
    low = min(float(matrix.values.min()) for matrix in clip.matrices)
    high = max(float(matrix.values.max()) for matrix in clip.matrices)
    maps = []
    for matrix in clip.matrices:
        which = "true label" if matrix.text == clip.label else "answer"
        said = f"{which}: {matrix.text}; frame-word similarity {matrix.similarity:.3f}"
        maps.append(heat_map(matrix.values, matrix.words, said, low, high))
    return [tag("h4", "Frames and words"), tag("div", maps, class_="two"), scale(low, high)]


def saliency_of(clip):
    """ViLP: which frames the words vote for."""
    if not clip.saliency:
        return None
    series = {}
    for label, shares in clip.saliency.items():
        series[label] = [(i + 1, 100 * float(share)) for i, share in enumerate(shares)]
    Tv = len(next(iter(clip.saliency.values())))
    series["all frames alike"] = [(1, 100 / Tv), (Tv, 100 / Tv)]
    return line_chart(series, "saliency over time: share of the words' votes, %", "video frame")


def clip_card(clip, other):
    """One clip: what was said, what was looked at. other: name of the second run, or empty."""
    right = clip.label == clip.answer
    said = [tag("span", "answered ", tag("b", clip.answer, class_="right" if right else "wrong"),
                f" with {percent(clip.probability)}")]
    if not right:
        said.append(tag("span", "; it is ", tag("b", clip.label)))
    parts = [tag("h3", clip.id), tag("p", said, ".")]
    if clip.alone:
        alone = "; ".join(f"{metric_name(f'top1/{name}')}: {label}"
                          for name, label in clip.alone.items())
        parts.append(note(f"Each similarity by itself. {alone}."))
    if clip.rival_answer:
        parts.append(note(f"{other} answered {clip.rival_answer}."))
    parts += [film(clip.strip, clip.rivals), matrices_of(clip), saliency_of(clip)]
    return tag("article", parts, class_="clip")


def looked_at(contents):
    """The most confident mistakes, and a few right answers to compare them with."""
    m = contents.measured
    other = contents.comparison.rival.name if contents.comparison else ""
    wrong = [p for p in m.predictions if not p["broken"] and p["predicted"] != p["label"]]
    wrong.sort(key=lambda p: -p["probability"])
    parts = []
    if wrong:
        listed = []
        for p in wrong[:WORST]:
            listed.append([p["id"], m.labels[p["label"]], m.labels[p["predicted"]],
                           percent(p["probability"])])
        parts.append(tag("p", f"{len(wrong)} clips were answered wrongly. These were the most "
                         "confident."))
        for clip in contents.mistakes:
            parts.append(clip_card(clip, other))
        listed = table(["clip", "true label", "answered", "probability"], listed)
        parts.append(fold(f"the {min(len(wrong), WORST)} most confident mistakes", listed))
    else:
        parts.append(tag("p", "No clip that could be read was answered wrongly."))
    mistakes = section("mistakes", "The most confident mistakes", parts)
    if not contents.rights:
        return mistakes
    cards = [clip_card(clip, other) for clip in contents.rights]
    return Html(mistakes + section("rights", "Right answers, for comparison", cards))


# ---- Training and costs --------------------------------------------------------------------------

def curve(rows, key, x, unit=1.0):
    """[(x, value)] of one value of the log, without the rows that lack it."""
    found = []
    for row in rows:
        value = row.get(key)
        if isinstance(value, (int, float)) and np.isfinite(value):
            found.append((row[x], unit * value))
    return found


def curves_of(rows, wanted, x, unit=1.0):
    """All values of a log whose name is `wanted`: name -> [(x, value)]."""
    names = {}
    for row in rows:
        for key in row:
            if wanted(key):
                names[key] = None                 # a dict keeps the order
    return {name: curve(rows, name, x, unit) for name in names}


def training(m):
    """Curves of the run, and the figures of each epoch."""
    steps = [row for row in m.history if row["kind"] == "step"]
    epochs = [row for row in m.history if row["kind"] == "epoch"]
    if not epochs and not steps:
        return None
    accuracies = {metric_name(name): line for name, line in
                  curves_of(epochs, is_accuracy, "epoch", 100).items()}
    charts = [line_chart(curves_of(steps or epochs, is_loss, "step"), "training loss", "step"),
              line_chart(accuracies, "held-out accuracy, %", "epoch", high=100)]

    rows = []
    for row in epochs:
        rows.append([f"{row['epoch']}", f"{row['total']:.4f}", percent(row.get("top1"), 2),
                     percent(row.get("mean"), 2)])
    listed = table(["epoch", "training loss", "held-out top-1", "held-out mean"], rows)
    return section("training", "Training", tag("div", charts, class_="charts"),
                   fold("the epochs as a table", listed))


def hours_of(history):
    """Seconds that the steps of a run took, and the most MiB that it held, or (None, None)."""
    seconds = 0.0
    peak = None
    before = 0
    for row in history:
        if row["kind"] == "step":
            seconds += (row["step"] - before) * (row.get("data_s", 0) + row.get("step_s", 0))
            before = row["step"]
            peak = max(peak or 0, row.get("peak_mib", 0))
    return (seconds if before else None), peak


def duration(seconds):
    """Seconds as `41 s`, `3 min 20 s`, `7 h 05 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def costs(contents):
    """What the model and the runs cost."""
    m = contents.measured
    spent, peak = hours_of(m.history)
    facts = []
    if spent is not None:
        facts.append(["steps of training", duration(spent)])
        facts.append(["most memory in training", f"{peak:.0f} MiB"])
    if m.result.get("seconds"):
        speed = m.result["clips"] / m.result["seconds"]
        facts.append(["this evaluation", f"{duration(m.result['seconds'])}, {speed:.1f} clips/s"])

    parts = []
    if facts:
        parts.append(table(["", "took"], facts))
    if contents.costs:
        counted = any(len(row) > 3 for row in contents.costs)
        headers = ["part", "trained, M", "all parameters, M"]
        caption = "parameters, in millions"
        if counted:
            headers.append("operations, G")
            caption += ", and multiply-accumulates of a clip, in 10⁹"
        parts.append(table(headers, contents.costs, caption=caption))
        if not counted:
            parts.append(note("Operations: ", tag("code", "python -m tables.costs"),
                              " counts them, and so does a page of eval.py."))
    return section("costs", "Costs", parts)


def broken(m):
    """Clips that could not be read, in this evaluation and in training."""
    parts = []
    lost = m.result["errors"]
    if lost:
        parts.append(tag("p", f"{len(lost)} clips of this split could not be read and count as "
                         "wrong: ", ", ".join(lost), "."))
    else:
        parts.append(tag("p", "All clips of this split could be read."))
    replaced = {}
    for row in m.history:
        for clip in row.get("broken", ()):
            replaced[clip] = None
    if replaced:
        parts.append(tag("p", f"{len(replaced)} training clips could not be read and were "
                         "replaced by others of their class: ", ", ".join(replaced), "."))
    return section("broken", "Broken clips", parts)


def shown_value(value):
    """A setting as text."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "(empty)" if value == "" else str(value)


def made_with(m):
    """Settings, commit, checkpoint and versions: all that is needed to do it again."""
    facts = [[name, shown_value(value)] for name, value in m.about.items()]
    facts.append(["checkpoint's SHA-256", tag("code", m.sha256 or "none: no file")])
    facts.append(["commit of training", tag("code", m.versions.get("commit") or "not known")])
    packages = [f"{name} {version}" for name, version in m.versions.items() if name != "commit"]
    facts.append(["versions of training", ", ".join(packages) or "not known"])
    settings = [[name, tag("code", shown_value(value))] for name, value in m.config.items()]
    return section("settings", "Settings and versions", table(["", "value"], facts),
                   fold(f"all {len(settings)} settings", table(["setting", "value"], settings)))


# ---- Two runs side by side -----------------------------------------------------------------------

def verdict(first, second, difference):
    """A sentence on a paired difference that says no more than the interval does."""
    bounds = f"{points(difference.low)} to {points(difference.high)}"
    if difference.low > 0:
        return f"{first} is ahead: the 95 % interval of the difference is {bounds} points."
    if difference.high < 0:
        return f"{second} is ahead: the 95 % interval of the difference is {bounds} points."
    return (f"The clips do not tell the two apart: the 95 % interval of the difference, {bounds} "
            "points, holds 0.")


def differing_settings(a, b):
    """Rows: setting, of the first, of the second; those that are the same are left out."""
    rows = []
    for name in {**a.config, **b.config}:
        ours = shown_value(a.config.get(name, "-"))
        theirs = shown_value(b.config.get(name, "-"))
        if ours != theirs and name not in ("out", "root", "poses", "fresh", "resume"):
            rows.append([name, tag("code", ours), tag("code", theirs)])
    return rows


def label_differences(a, b):
    """Rows: label, accuracy of both, difference; the largest loss of the first run first."""
    rows = []
    pairs = zip(a.labels, a.result["per_class"], b.result["per_class"])
    for label, ours, theirs in pairs:
        if ours is not None and theirs is not None:
            rows.append((ours - theirs, label, ours, theirs))
    rows.sort(key=lambda row: row[0])
    return [[label, percent(ours), percent(theirs), points(difference)]
            for difference, label, ours, theirs in rows]


def compared(contents):
    """Both runs' figures, the paired difference, where each is ahead, and what is set otherwise."""
    if contents.comparison is None:
        return None
    a, b = contents.measured, contents.comparison.rival
    pairs = {"top1": contents.comparison.top1, "mean": contents.comparison.mean}

    rows = []
    for metric in metrics_of(a.result):
        if metric not in b.result:
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
    headers = ["", a.name, b.name, "difference, points"]
    figures = table(headers, rows, caption="figures with their 95 % intervals; the difference is "
                    "resampled clip by clip, both answers together")

    pair = pairs["top1"]
    answers = table(["", f"{b.name} right", f"{b.name} wrong"],
                    [[f"{a.name} right", pair.both, pair.only_a],
                     [f"{a.name} wrong", pair.only_b, pair.neither]],
                    caption="clips by both answers")

    changes = label_differences(a, b)
    label_headers = ["label", a.name, b.name, "difference"]
    if len(changes) <= SMALL:
        by_class = table(label_headers, changes, caption="by class, the first run's largest loss "
                         "first")
    else:
        ends = changes[:WORST // 2] + changes[-WORST // 2:]
        by_class = table(label_headers, ends, caption="by class: the largest losses and gains")

    curves = {}
    for run in (a, b):
        epochs = [row for row in run.history if row["kind"] == "epoch"]
        curves[run.name] = curve(epochs, "top1", "epoch", 100)
    chart = line_chart(curves, "held-out top-1 in training, %", "epoch", high=100)

    settings = differing_settings(a, b)
    other = table(["setting", a.name, b.name], settings) if settings else None
    return section("compared", "Two runs on the same clips",
                   tag("p", verdict(a.name, b.name, pair)), figures,
                   tag("div", answers, chart, class_="two"), by_class,
                   fold(f"{len(settings)} settings that differ", other),
                   note(f"{b.name}: SHA-256 ", tag("code", b.sha256 or "none: no file")))


# ---- The page ------------------------------------------------------------------------------------

def navigation(parts):
    """Links to the sections that are there."""
    links = []
    for name, said in (("results", "results"), ("compared", "two runs"),
                       ("confusion", "confusion"), ("labels", "by class"),
                       ("mistakes", "mistakes"), ("rights", "right answers"),
                       ("training", "training"), ("costs", "costs"), ("broken", "broken clips"),
                       ("settings", "settings")):
        if f'<section id="{name}"' in parts or f' id="{name}"' in parts:
            links.append(tag("li", tag("a", said, href=f"#{name}")))
    return tag("nav", tag("ul", links), aria_label="parts of this page")


def page(contents):
    """The page as text."""
    m = contents.measured
    about = m.about
    title = f"{m.name}: {about['data']}, {about['split']} split"
    crops = "one centre crop" if about["views"] == 1 else f"{about['views']} crops a clip"
    lead = tag("p", f"{about['model']} with {about['backbone']}, {crops}. A page of the PeVL "
               "reference implementation; it holds everything, and fetches nothing.",
               class_="note")

    parts = [headline(contents), compared(contents), confusions(m), by_label(m),
             looked_at(contents), training(m), costs(contents), broken(m), made_with(m)]
    body = Html("".join(part for part in parts if part))
    return document(title, tag("header", tag("h1", title), lead), navigation(body),
                    tag("main", body, id="main"),
                    tag("footer", "Accuracies of this page are those of this run, on these clips."))


def write_page(contents, path):
    """Write the page, whole or not at all."""
    with atomic(path) as part:
        part.write_text(page(contents), encoding="utf-8")
    return path


# ---- A table of the lab --------------------------------------------------------------------------

@dataclass
class LabRow:
    """A row of a table that the lab trained."""
    name: str
    what: str
    paper: float | None                           # percent, as printed
    tops: list                                    # percent of each seed, here
    pages: list = field(default_factory=list)     # path of each seed's own page, from the table's


def seeds_of(row):
    """Each seed's figure, as a link to the page of its run where there is one."""
    cells = []
    for place, top in enumerate(row.tops):
        said = f"{top:.1f}"
        if place < len(row.pages) and row.pages[place]:
            said = tag("a", said, href=row.pages[place])
        cells += [said, " "]
    return tag("span", cells[:-1])


def lab_page(table_name, benchmark, rows, remarks=()):
    """A table of the paper as the lab trained it, as text. rows: LabRow. remarks: sentences."""
    cells = []
    bars = []
    for row in rows:
        mean = float(np.mean(row.tops))
        spread = float(np.std(row.tops, ddof=1)) if len(row.tops) > 1 else None
        said = f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"
        paper = f"{row.paper}" if row.paper is not None else "none printed"
        cells.append([row.name, row.what, paper, said, seeds_of(row)])

        low = None if spread is None else max(mean - spread, 0) / 100
        high = None if spread is None else min(mean + spread, 100) / 100
        share = None if row.paper is None else row.paper / 100
        bars.append((row.name, mean / 100, low, high, share))

    headers = ["row", "what it is", "paper, %", f"{benchmark}, %", "each seed"]
    title = f"{table_name.replace('table', 'Table ')} on {benchmark}"
    said = ("Test top-1, mean ± standard deviation over the seeds. The paper's figures are those "
            "of its own benchmark and stand here for the order of the rows.")
    drawing = figure(interval_bar(bars), "percent; whiskers: one standard deviation over the "
                     "seeds; the diamond is the paper's figure")
    body = section("results", "Rows", table(headers, cells), drawing,
                   [tag("p", remark) for remark in remarks])
    return document(title, tag("header", tag("h1", title), note(said)),
                    tag("main", body, id="main"))
