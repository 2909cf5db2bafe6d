"""report/page.py and its figures: a page is well formed and complete, and fetches nothing.

The pages are made of an invented evaluation, so that every figure on them is known. They are read
as a browser reads them (webpages.py), and, where one is installed, by a browser.
"""
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pose import JOINT_SETS
from report import beside, confusion, draw, markup, page, wording
from report.contents import Comparison, Contents, LookedAt, Matrix, Measured, paired
from report.figures import Bar, film, heat_map, interval_bars, line_chart
from report.metrics import mcnemar
from report.style import STYLE
from strategies import drawn
from support.person import PersonFacts
from tables.printed import Printed
from webpages import BROWSERS, pictures, read, shown

COCO = JOINT_SETS["coco17"].names


# ---- A made-up evaluation ------------------------------------------------------------------------

BROKEN = 3                                        # the clip that could not be read
ODD = '<b>&amp; "quoted"'                         # label 0: a text that looks like HTML


def answers(K, n, seed):
    """A prediction for each of n clips, as `eval.evaluate` gives them, about 70 % right."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        true = i % (K - 1)                        # the last label has no clip
        said = true if rng.random() < 0.7 else int(rng.integers(K))
        row = {"index": i, "id": f"clip {i}", "label": true, "predicted": said,
               "top5": [said, true], "broken": False, "probability": float(rng.random()),
               "tied": False, "alone": {"vs": said, "ps": true}}
        if i == BROKEN:
            row.update(predicted=None, top5=[None], broken=True, probability=0.0,
                       alone={"vs": None, "ps": None})
        rows.append(row)
    return rows


def result_of(rows, K):
    """The result of an evaluation with these predictions, as `eval.evaluate` gives it."""
    table = np.zeros((K, K), int)
    unread = np.zeros(K, int)
    for row in rows:
        if row["broken"]:
            unread[row["label"]] += 1
        else:
            table[row["label"], row["predicted"]] += 1

    shares = []
    for k, clips in enumerate(table.sum(1) + unread):
        shares.append(float(table[k, k] / clips) if clips else None)
    known = [share for share in shares if share is not None]

    n = len(rows)
    return {"top1": float(np.trace(table) / n), "top5": 1 - 1 / n, "mean": sum(known) / len(known),
            "top1/vs": 0.4321, "top1/ps": 0.9833, "per_class": shares, "clips": n,
            "confusion": table, "unread": unread, "predictions": rows, "ties": 0,
            "errors": [f"clip {BROKEN}"], "seconds": 12.5}


def log_of_training():
    """Rows of a metrics.jsonl: three steps, two epochs with a clip that could not be read."""
    rows = []
    for s in (1, 2, 3):
        rows.append({"kind": "step", "epoch": 1, "step": 4 * s, "total": 3 / s, "L_t": 2 / s,
                     "data_s": 0.5, "step_s": 1.5, "peak_mib": 900.0})
    for e in (1, 2):
        rows.append({"kind": "epoch", "epoch": e, "step": 6 * e, "total": 2 / e, "top1": 0.3 * e,
                     "mean": 0.2 * e, "broken": ["train 7"]})
    return rows


def measured(K=5, n=60, name="run", seed=0):
    """A run on K labels and n clips; clip 3 is broken, the last label has no clip."""
    labels = [f"label {k}, position {k % 3}" for k in range(K)]
    labels[0] = ODD
    about = {"checkpoint": f"out/{name}/last.pt", "model": "pevl", "backbone": "tiny",
             "data": "toy", "split": "test", "views": 1}
    return Measured(name=name, about=about, labels=labels, result=result_of(answers(K, n, seed), K),
                    config={"lr": 1e-3, "sim": ["vs", "ps"]},
                    versions={"python": "3.11", "commit": "0123abc"}, history=log_of_training(),
                    sha256="f00d" * 16)


def looked(label="label 1", answer="label 2"):
    """One clip of four frames with all there can be: maps, matrices, saliency, a rival."""
    rng = np.random.default_rng(0)
    maps = {name: rng.random((4, 16)) for name in ("patch_weight", "before", "after")}
    strip = {"said": "", "right": None, "joints": COCO,
             "frames": rng.integers(0, 255, (4, 16, 16, 3)).astype(np.uint8),
             "keypoints": rng.uniform(-1, 1, (4, 17, 2)), "scores": np.ones((4, 17)), "maps": maps}
    other = {**strip, "maps": {"attention": rng.random((4, 16))}}

    matrices = []
    for text in (answer, label):
        matrices.append(Matrix(text, words=["back", "somer-", "sault"],
                               values=rng.uniform(-0.2, 0.8, (12, 3)), similarity=0.4567))
    return LookedAt(id="clip 9", label=label, answer=answer, probability=0.876,
                    alone={"vs": answer}, strip=strip, matrices=matrices,
                    saliency={answer: np.array([0.1, 0.2, 0.3, 0.4])},
                    rivals=[("other", other)], rival_answer=label)


def contents(K=5, n=60, compare=False, **more):
    """All of a page. compare: beside a second run on the same clips. more: of Contents."""
    one = measured(K, n)
    comparison = None
    if compare:
        other = measured(K, n, name="other", seed=1)
        top1 = paired(one.true, one.correct(), other.correct())
        mean = paired(one.true, one.correct(), other.correct(), metric="mean")
        comparison = Comparison(other, top1, mean)
    costs = [["video tower", "0.112", "0.112", "1.5"], ["all", "0.952", "0.380", "2.5"]]
    return Contents(one, mistakes=[looked()], rights=[looked(answer="label 1")], costs=costs,
                    comparison=comparison, **more)


def page_text(c):
    """What a reader sees of the page of these contents, as one line."""
    return shown(read(page.page(c)))


# ---- The whole page ------------------------------------------------------------------------------

# Up to 24 labels the matrix has wide cells and the pairs are fewer; beyond 60 it is a picture.
PAGES = {"5 labels": dict(K=5),
         "30 labels, two runs": dict(K=30, n=150, compare=True),
         "500 labels, two runs": dict(K=500, n=1500, compare=True)}
SIZES = ["5 labels", "30 labels, two runs",
         pytest.param("500 labels, two runs", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=SIZES)
def made(request):
    """A page of each size: its contents, its text, and its elements."""
    c = contents(**PAGES[request.param])
    text = page.page(c)
    return SimpleNamespace(contents=c, text=text, reader=read(text))


def test_page_is_well_formed(made):
    """Ends match beginnings, ids are unique, links lead to them, headings skip no level.

    For readers who do not see it: headers have a scope, pictures an alternative text, what scrolls
    has a name and a place in the order of the keyboard.
    """
    elements = made.reader.elements
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    for name, a in elements:
        if name == "a" and a["href"].startswith("#"):
            assert a["href"][1:] in ids, a
        if name == "th":
            assert a.get("scope") in ("row", "col"), a
        if name == "img":
            assert a.get("alt"), a
            assert a["src"].startswith("data:image/"), a
        if name == "svg":
            named = a.get("role") == "img" and a.get("aria-label")
            assert a.get("aria-hidden") or named, a
        if name == "div" and a.get("class") == "scroll":
            assert a["tabindex"] == "0", a
            assert a["role"] == "region", a
            assert a["aria-label"], a
        if "aria-labelledby" in a:
            assert a["aria-labelledby"] in ids, a

    levels = [int(name[1]) for name, _ in elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    for before, level in zip(levels, levels[1:]):
        assert level <= before + 1, "a heading skips a level"
    assert ("html", {"lang": "en"}) in elements


def test_nothing_is_fetched(made):
    """One file: no script, no style sheet, no address of another place."""
    names = {name for name, _ in made.reader.elements}
    assert not names & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"https?:|url\(|@import|src=\"(?!data:)", made.text)


def test_headline_holds_the_figures_of_the_json(made):
    """Accuracies with their intervals, counts of clips, ties and broken ones, time and sources."""
    m = made.contents.measured
    said = shown(made.reader)
    for metric in ("top1", "top5", "mean", "top1/vs", "top1/ps"):
        assert f"{100 * m.result[metric]:.2f} %" in said, metric
        low, high = m.bounds(metric)
        assert f"{100 * low:.1f} to {100 * high:.1f} %" in said, metric

    right = int(np.trace(m.confusion))
    assert f"{right} of {m.result['clips']} clips right, {len(m.labels)} labels" in said
    assert "0 clips tied" in said
    assert "1 clips could not be read and count as wrong" in said
    assert "12.5 s" in said
    assert "1 clips of this split could not be read and count as wrong: clip 3." in said
    facts = ("f00d" * 16, "0123abc", "python 3.11", "vs,ps", "none printed", "train 7",
             "out/run/last.pt")
    for fact in facts:
        assert fact in said, fact


def test_headline_has_the_papers_figure():
    """The metric that the paper prints comes first, with its figure, source and what differs."""
    printed = Printed("PeVL, Table 3", {"mean": 73.3})
    c = contents(printed=printed, differing=["views 1 here, 3 in the paper"])
    c.measured.result["mean"] = 0.5551            # another one than top-1
    said = page_text(c)
    assert "the paper: 73.3 %" in said
    assert "PeVL, Table 3" in said
    assert "views 1 here, 3 in the paper" in said
    top1 = f"{100 * c.measured.result['top1']:.2f} %"
    assert said.index("55.51 %") < said.index(top1), "the printed metric comes first"

    c.measured.about["split"] = "val"
    assert "It is of the test split; this is val." in page_text(c)


def test_texts_are_escaped(made):
    """A label that looks like HTML is shown as a text; so is one in an attribute."""
    assert ODD in shown(made.reader)
    assert markup.tag("p", "1 < 2", title='"') == '<p title="&quot;">1 &lt; 2</p>'
    assert markup.tag("td", None, hidden=True, class_=None) == "<td hidden></td>"


def test_worst_pairs_and_labels_are_said(made):
    """The worst pairs in words with their counts, and all labels with clips, the lowest first."""
    m = made.contents.measured
    said = shown(made.reader)
    pairs = confusion.worst_pairs(m.confusion, 5)
    assert pairs
    for true, answered, clips in pairs:
        row = f"{m.labels[true]}{m.labels[answered]}{clips} of "
        row += f"{m.confusion[true].sum() + m.unread[true]}"
        assert row in said, "cells of a table follow each other"

    rows = page.label_rows(m)
    shares = [m.result["per_class"][m.labels.index(row[0])] for row in rows]
    assert shares == sorted(shares)
    assert len(rows) == len(m.labels) - 1
    assert "1 labels have no clip in this split" in said


def test_two_runs_side_by_side():
    """The paired difference with its interval, who was right where, both answers to a clip."""
    c = contents(compare=True)
    said = page_text(c)
    pair = c.comparison.top1
    for value in (pair.low, pair.high, pair.difference):
        assert wording.points(value) in said
    counts = f"both{pair.both}run alone{pair.only_a}other alone{pair.only_b}neither{pair.neither}"
    assert counts in said
    assert f"McNemar's exact test: p = {pair.p_value:.2g}" in said
    assert "other answered label 1" in said
    assert "attention of other" in said


ALL = [True] * 20
NONE = [False] * 20
EVERY_OTHER = [True, False] * 10
THE_OTHERS = [False, True] * 10


@pytest.mark.parametrize("first, second, said", [
    (ALL, NONE, "a is ahead"),
    (NONE, ALL, "b is ahead"),
    (ALL, ALL, "The clips do not tell"),
    (EVERY_OTHER, THE_OTHERS, "The clips do not tell")])
def test_verdict_says_no_more_than_the_interval(first, second, said):
    """A run is ahead only where the interval of the difference leaves 0 out."""
    pair = paired([0] * 20, first, second)
    assert beside.verdict("a", "b", pair).startswith(said)


def test_figures_are_said():
    """Percent, points with a real minus sign, durations, metrics and settings as texts."""
    assert wording.percent(0.91254, 2) == "91.25 %"
    assert wording.percent(None) == "-"
    assert wording.points(-0.0125) == "−1.2"
    assert wording.points(0.5) == "+50.0"
    assert wording.duration(41) == "41 s"
    assert wording.duration(200.4) == "3 min 20 s"
    assert wording.duration(25500) == "7 h 05 min"
    assert wording.metric_name("top1/concat") == "concat alone"
    assert wording.shown_value("") == "(empty)"
    assert wording.shown_value(("vs", "ps")) == "vs,ps"


def test_a_page_without_mistakes_pictures_or_history():
    """What is not there has no section, and nothing breaks."""
    m = measured(K=3, n=20)
    for row in m.predictions:
        row.update(predicted=row["label"], broken=False)
    m.result.update(confusion=np.diag([10, 10, 0]), unread=np.zeros(3, int), errors=[])
    m.history = []
    m.versions = {}
    m.sha256 = ""
    said = page_text(Contents(m))
    assert "No answer is wrong" in said
    assert "none: no file" in said
    assert "Training" not in said
    assert "All clips of this split could be read" in said


# ---- Persons in the pose files -------------------------------------------------------------------

GOOD = PersonFacts(frames=10, present=0.8, changes=2, score=0.75, lost=0.25)
FAINT = PersonFacts(frames=10, present=0.4, changes=0, score=0.60, lost=0.5)
NOBODY = PersonFacts(frames=10, present=0.0, changes=0, score=0.0, lost=1.0)


def test_persons_are_told_and_faint_clips_named():
    """A pose file of nobody is answered like any other: the page says which, and how well."""
    c = contents()
    said = page_text(c)
    assert "People in the pose files" not in said, "a run without poses claims nothing of people"

    missed = []
    for p in c.measured.predictions:
        if not p["broken"] and p["predicted"] != p["label"]:
            missed.append(p["id"])
    hit = "clip 0"
    assert hit not in missed
    c.persons = {hit: FAINT, missed[0]: FAINT, "clip 9": GOOD}
    said = page_text(c)

    # Means are over the frames with a person: 4, 4 and 8 of 30.
    assert "frames with a person53.3 % of 30" in said
    assert "mean score of their joints0.68" in said
    assert "joints lost in them37.5 %" in said
    assert "sudden changes of place or person2" in said
    assert ("2 clips show a person in fewer than 50 % of their frames; "
            "1 of them were answered rightly") in said
    assert f"these clips{hit}, {missed[0]}" in said


def test_persons_in_every_clip_or_in_none():
    """Without faint clips one sentence; without anybody no score of joints that are not there."""
    c = contents(persons={"clip 0": GOOD})
    assert ("Every clip with a pose file shows a person in 50 % of its frames or more."
            in page_text(c))

    c.persons = {"clip 0": NOBODY}
    said = page_text(c)
    assert "frames with a person0.0 % of 10" in said
    assert "joints lost in them" not in said


# ---- Confusion -----------------------------------------------------------------------------------

def test_confused_labels_are_neighbours():
    """Labels 0 and 3, and 1 and 4, are taken for each other: they stand side by side, all once."""
    table = np.diag([9, 9, 9, 9, 9])
    table[0, 3] = 4
    table[4, 1] = 3
    order = confusion.order_by_confusion(table)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert abs(order.index(0) - order.index(3)) == 1
    assert abs(order.index(1) - order.index(4)) == 1
    assert confusion.order_by_confusion(np.zeros((0, 0), int)) == []


def test_worst_pairs_are_counted():
    """(true, answered, clips), most clips first; of equal counts the larger share of its label."""
    table = np.array([[5, 2, 0],
                      [3, 1, 0],
                      [2, 0, 0]])
    assert confusion.worst_pairs(table, 9) == [(1, 0, 3), (2, 0, 2), (0, 1, 2)]
    assert confusion.worst_pairs(np.diag([3, 3]), 9) == []


def counts_in(html, shape):
    """The cells of a confusion matrix as integers, empty ones as 0."""
    cells = re.findall(r"<td[^>]*>(\d*)</td>", html)
    return np.array([int(cell or 0) for cell in cells]).reshape(shape)


def test_confusion_of_few_labels_has_every_count():
    """Every count in its cell; broken clips and answers outside of what is shown have a column."""
    m = measured(K=6, n=100)
    order = confusion.order_by_confusion(m.confusion)
    html = confusion.matrix_table(m.confusion, m.unread, m.labels, order)
    numbers = counts_in(html, shape=(6, 7))
    assert (numbers[:, :6] == m.confusion[np.ix_(order, order)]).all()
    assert (numbers[:, 6] == m.unread[order]).all()

    some = order[:3]
    html = confusion.matrix_table(m.confusion, 0 * m.unread, m.labels, some)
    numbers = counts_in(html, shape=(3, 4))
    assert (numbers.sum(1) == m.confusion[some].sum(1)).all(), "answers to other labels are lost"
    assert numbers[:, 3].any()


def test_long_labels_keep_both_ends():
    """The middle is left out, between words where there are some; short labels stay."""
    label = "Back, 2.5 somersaults, 2.5 twists, pike position"
    assert confusion.both_ends(label, 42) == "Back, 2.5 … pike position"
    assert confusion.both_ends("short", 42) == "short"
    assert len(confusion.both_ends("x" * 99, 42)) <= 42


def test_many_labels_are_a_picture_and_a_table():
    """Of more than 60 labels the matrix is a picture, and 24 of the worst pairs have a table."""
    c = contents(K=70, n=350)
    text = page.page(c)
    assert "The 24 labels that are confused most" in text
    assert "confusion matrix of 70 labels" in text

    table = c.measured.confusion
    zoomed = confusion.most_confused(table, 24)
    assert len(zoomed) == 24
    assert len(set(zoomed)) == 24
    for true, answered, _ in confusion.worst_pairs(table, 12):
        assert {true, answered} <= set(zoomed), "twelve pairs are 24 labels at most"


def test_the_diagonal_of_a_picture_is_never_covered():
    """Neighbours are what is confused: their wide dots must leave the right answers blue."""
    K = 100
    table = 80 * np.eye(K, dtype=int) + 10 * np.roll(np.eye(K, dtype=int), 1, axis=1)
    (image,) = pictures(str(confusion.matrix_picture(table, list(range(K)))))
    zoom = len(image) // K
    cells = image[zoom // 2::zoom, zoom // 2::zoom]
    for k in range(K):
        assert (cells[k, k] == confusion.MARK).all(), f"label {k}: its right answers are hidden"


def test_a_picture_has_true_labels_in_rows_and_answers_in_columns():
    """All clips of label 10 are taken for label 40: the dot lies there, and not turned over."""
    K = 70
    table = np.zeros((K, K), int)
    table[10, 40] = 5
    (image,) = pictures(str(confusion.matrix_picture(table, list(range(K)))))
    zoom = len(image) // K
    cells = image[zoom // 2::zoom, zoom // 2::zoom].astype(int)
    assert not (cells[10, 40] == cells[0, 0]).all()
    assert (cells[40, 10] == cells[0, 0]).all()


def test_mistakes_are_listed_the_surest_first():
    """Those of clips that could be read, and no right answer among them."""
    m = measured()
    found = page.mistakes_of(m)
    sure = [p["probability"] for p in found]
    assert len(found) > 5
    assert sure == sorted(sure, reverse=True)
    assert all(p["predicted"] != p["label"] and not p["broken"] for p in found)


# ---- Charts --------------------------------------------------------------------------------------

def test_bars_of_a_chart_end_at_their_figures():
    """The axis has 440 units from 8 on: 25 % is 118, 20 to 30 % 96 to 140, 75 % 338."""
    drawn_bar = str(interval_bars([Bar("x", 0.25, low=0.2, high=0.3, paper=0.75)]))
    assert re.search(r'x2="118.0"[^>]*stroke="var\(--s0\)"', drawn_bar)
    assert re.search(r'x1="96.0"[^>]*x2="140.0"', drawn_bar), "the interval"
    assert '<polygon points="338.0,' in drawn_bar, "the paper's figure"


def test_lines_of_a_chart_rise_where_values_do():
    """y runs downwards in SVG."""
    chart = str(line_chart({"a": [(1, 0.0), (2, 5.0), (3, 10.0)]}, "a", "epoch"))
    (points,) = re.findall(r'points="([^"]+)"', chart)
    heights = [float(spot.split(",")[1]) for spot in points.split()]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] - heights[-1] > 100
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.1)


# ---- Clips ---------------------------------------------------------------------------------------

def test_matrices_are_named_and_share_one_scale():
    """Which is the answer's and which the true label's; one cosine has one colour in both."""
    clip = looked()
    clip.matrices[0].values = np.array([[0.0], [0.4]])
    clip.matrices[1].values = np.array([[0.4], [0.8]])
    for matrix in clip.matrices:
        matrix.words = ["back"]
    html = "".join(map(str, page.matrices_of(clip)))
    assert "answer: label 2; frame-word similarity" in html
    assert "true label: label 1; frame-word similarity" in html
    answer, true, _ = pictures(html)
    assert (answer[0, 1] == true[0, 0]).all(), "0.4 has two colours"
    assert not (answer[0, 1] == true[0, 1]).all()


def test_films_show_the_frames_in_their_order():
    """From left to right, each its own."""
    clip = looked()
    greys = 60 * np.arange(4, dtype=np.uint8)
    clip.strip["frames"] = np.ones((4, 16, 16, 3), np.uint8) * greys[:, None, None, None]
    frames = pictures(film(clip.strip))[0]
    light = [part.mean() for part in np.array_split(frames, 4, axis=1)]
    assert light == sorted(light)
    assert light[-1] - light[0] > 100


def test_heat_map_has_a_row_a_word_and_a_pixel_a_frame():
    """The word that is met best at frame 3 is brightest there, and says so."""
    values = np.zeros((5, 2))
    values[2, 1] = 0.9
    html = heat_map(values, ["in-", "ward"], "a dive", 0, 0.9)
    assert "0.90 at frame 3" in html
    assert 'alt="cosine of “ward” with frames 1 to 5' in html

    flat, peaked = pictures(html)
    assert flat.shape == peaked.shape == (1, 5, 3)
    assert peaked[0].sum(-1).argmax() == 2
    assert (flat == flat[0, 0]).all()


def test_films_show_what_there_is():
    """A row for each map, the pose and the rival; without them no row claims to show them."""
    clip = looked()
    said = shown(read(film(clip.strip, clip.rivals)))
    for row in ("frames", "pose", "patch weight M, Eq. (1)", "attention before P2V",
                "attention after P2V", "attention of other"):
        assert row in said

    rows = pictures(film(clip.strip))
    assert len(rows) == 5
    for picture in rows:
        assert picture.shape[0] == draw.CELL

    no_p2v = {"before": clip.strip["maps"]["before"]}
    alone = {**clip.strip, "maps": no_p2v, "scores": np.zeros((4, 17))}
    assert shown(read(film(alone))) == "framesattention"


# ---- Contrast, and a real browser ----------------------------------------------------------------

def luminance(colour):
    """Relative luminance of #rrggbb, after WCAG."""
    light = []
    for i in (1, 3, 5):
        c = int(colour[i:i + 2], 16) / 255
        light.append(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def contrast(one, other):
    """Contrast of two colours, after WCAG: 1 for equal ones, 21 for black on white."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_text_has_contrast_in_light_and_dark():
    """Text at least 4.5 to 1, lines at least 3 to 1 (WCAG AA)."""
    halves = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    assert len(halves) == 2, "one for light and one for dark"
    for half in halves:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", half))
        paper = colours["paper"]
        for name, colour in colours.items():
            if name in ("paper", "rule", "panel"):
                continue
            is_line = re.fullmatch(r"s\d", name)
            least = 3 if is_line else 4.5
            assert contrast(colour, paper) >= least, name


def test_a_browser_opens_it(made, tmp_path):
    """A real browser builds a document that holds the page's text; its picture is not blank."""
    installed = [path for path in map(shutil.which, BROWSERS) if path]
    if not installed:
        pytest.skip("no browser; install one, such as Chromium")
    (tmp_path / "report.html").write_text(made.text, encoding="utf-8")
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1600",
             f"--screenshot={picture}", "--dump-dom"]
    address = (tmp_path / "report.html").as_uri()
    done = subprocess.run([installed[0], *flags, address], capture_output=True, text=True,
                          timeout=300)
    assert f"{100 * made.contents.measured.result['top1']:.2f} %" in done.stdout
    assert done.stdout.rstrip().endswith("</html>")
    drawn(picture, least=20)


# ---- Two runs on the same clips ------------------------------------------------------------------

CLIPS = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1,
                 max_size=30)


@settings(max_examples=12)
@given(CLIPS)
def test_paired_counts_clips_and_turns_round(clips):
    """The difference is first minus second; turned round, everything but the ties changes sides."""
    labels = [label for label, _, _ in clips]
    a = [right for _, right, _ in clips]
    b = [right for _, _, right in clips]
    pair = paired(labels, a, b)
    turned = paired(labels, b, a)
    assert pair.difference == pytest.approx((sum(a) - sum(b)) / len(clips))
    assert pair.difference == -turned.difference

    both_answers = list(zip(a, b))
    assert pair.both == both_answers.count((True, True))
    assert pair.only_a == both_answers.count((True, False))
    assert pair.only_b == both_answers.count((False, True))
    assert pair.neither == both_answers.count((False, False))
    assert pair.p_value == mcnemar(pair.only_a, pair.only_b) == turned.p_value
    assert pair.low <= pair.difference + 1e-9
    assert pair.difference <= pair.high + 1e-9


def test_paired_mean_over_classes_weighs_classes_alike():
    """Nine clips of one label and one of another: the one counts as much as the nine."""
    labels = [0] * 9 + [1]
    a = [True] * 9 + [False]
    b = [False] * 9 + [True]
    assert paired(labels, a, b, metric="mean").difference == 0
    assert paired(labels, a, b).difference == pytest.approx(0.8)
