"""report/page.py and its figures: well formed, complete, readable by people and programs, nothing fetched."""
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pose import JOINT_SETS
from report import beside, confusion, contents as records, markup, page, wording
from report.figures import film, heat_map
from report.contents import paired
from report.style import STYLE
from strategies import drawn
from support.person import PersonFacts
from tables.printed import Printed

COCO = JOINT_SETS["coco17"].names
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


# ---- A made-up evaluation ------------------------------------------------------------------------

def measured(K=5, n=60, name="run", seed=0, odd="<b>&amp; \"quoted\""):
    """Answers to n clips of K labels, 70 % of them right; clip 3 is broken, the last label has no clip."""
    g = np.random.default_rng(seed)
    labels = [f"label {k}, position {k % 3}" for k in range(K)]
    labels[0] = odd
    rows, table, unread = [], np.zeros((K, K), int), np.zeros(K, int)
    for i in range(n):
        true = i % (K - 1)
        said = true if g.random() < 0.7 else int(g.integers(K))
        row = {"index": i, "id": f"clip {i}", "label": true, "predicted": said, "top5": [said, true], "broken": False,
               "probability": float(g.random()), "tied": False, "alone": {"vs": said, "ps": true}}
        if i == 3:
            row.update(predicted=None, top5=[None], broken=True, probability=0.0, alone={"vs": None, "ps": None})
            unread[true] += 1
        else:
            table[true, said] += 1
        rows.append(row)
    total = table.sum(1) + unread
    shares = [float(table[k, k] / total[k]) if total[k] else None for k in range(K)]
    known = [share for share in shares if share is not None]
    result = {"top1": float(np.trace(table) / n), "top5": 1 - 1 / n, "mean": sum(known) / len(known), "clips": n,
              "per_class": shares, "confusion": table, "unread": unread, "predictions": rows, "ties": 0,
              "top1/vs": 0.4321, "top1/ps": 0.9833, "errors": ["clip 3"], "seconds": 12.5}
    history = [{"kind": "step", "epoch": 1, "step": 4 * s, "total": 3 / s, "L_t": 2 / s, "data_s": 0.5, "step_s": 1.5,
                "peak_mib": 900.0} for s in (1, 2, 3)]
    history += [{"kind": "epoch", "epoch": e, "step": 6 * e, "total": 2 / e, "top1": 0.3 * e, "mean": 0.2 * e,
                 "broken": ["train 7"]} for e in (1, 2)]
    about = {"checkpoint": f"out/{name}/last.pt", "model": "pevl", "backbone": "tiny", "data": "toy", "split": "test",
             "views": 1}
    return records.Measured(name=name, about=about, labels=labels, result=result, config={"lr": 1e-3, "sim": ["vs", "ps"]},
                         versions={"python": "3.11", "commit": "0123abc"}, history=history, sha256="f00d" * 16)


def looked(label="label 1", answer="label 2"):
    g = np.random.default_rng(0)
    maps = {name: g.random((4, 16)) for name in ("patch_weight", "before", "after")}
    strip = {"said": "", "right": None, "joints": COCO, "frames": g.integers(0, 255, (4, 16, 16, 3)).astype(np.uint8),
             "keypoints": g.uniform(-1, 1, (4, 17, 2)), "scores": np.ones((4, 17)), "maps": maps}
    matrices = [records.Matrix(text, ["back", "somer-", "sault"], g.uniform(-0.2, 0.8, (12, 3)), 0.4567) for text in (answer, label)]
    return records.LookedAt(id="clip 9", label=label, answer=answer, probability=0.876, alone={"vs": answer}, strip=strip,
                         matrices=matrices, saliency={answer: np.array([0.1, 0.2, 0.3, 0.4])},
                         rivals=[("other", {**strip, "maps": {"attention": g.random((4, 16))}})], rival_answer=label)


def contents(K=5, n=60, compare=False, **how):
    one = measured(K, n)
    comparison = None
    if compare:
        other = measured(K, n, "other", seed=1)
        comparison = records.Comparison(other, paired(one.true, one.correct(), other.correct()),
                                     paired(one.true, one.correct(), other.correct(), metric="mean"))
    costs = [["video tower", "0.112", "0.112", "1.5"], ["all", "0.952", "0.380", "2.5"]]
    return records.Contents(one, mistakes=[looked()], rights=[looked(answer="label 1")], costs=costs, comparison=comparison, **how)


# ---- Reading it as a browser does ----------------------------------------------------------------

class Reader(HTMLParser):
    """The elements of a page; every end must belong to the last beginning."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in markup.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open.pop() == name, f"</{name}> ends something else"

    def handle_data(self, text):
        if "style" not in self.open:
            self.text.append(text)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open, f"never ended: {reader.open}"
    return reader


def shown(reader):
    return re.sub(r"\s+", " ", "".join(reader.text))


PAGES = {"5 labels": dict(K=5), "48 labels, two runs": dict(K=48, n=300, compare=True),
         "500 labels, two runs": dict(K=500, n=1500, compare=True)}
SIZES = [name if "500" not in name else pytest.param(name, marks=pytest.mark.slow) for name in PAGES]


@pytest.fixture(scope="module", params=SIZES)
def made(request):
    c = contents(**PAGES[request.param])
    return c, page.page(c)


def test_page_is_well_formed(made):
    """Ends match beginnings, ids are unique, links lead to them, headings skip no level, headers have a scope, pictures
    an alternative text, what scrolls a name and a place in the order of the keyboard."""
    reader = read(made[1])
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for name, a in reader.elements:
        if name == "a" and a["href"].startswith("#"):
            assert a["href"][1:] in ids, a
        if name == "th":
            assert a.get("scope") in ("row", "col"), a
        if name == "img":
            assert a.get("alt") and a["src"].startswith("data:image/"), a
        if name == "svg":
            assert a.get("aria-hidden") or (a.get("role") == "img" and a.get("aria-label")), a
        if name == "div" and a.get("class") == "scroll":
            assert a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"]
        if "aria-labelledby" in a:
            assert a["aria-labelledby"] in ids
    levels = [int(name[1]) for name, _ in reader.elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))
    assert ("html", {"lang": "en"}) in reader.elements


def test_nothing_is_fetched(made):
    """One file: no script, no style sheet, no address of another place."""
    text = made[1]
    names = {name for name, _ in read(text).elements}
    assert not names & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"https?:|url\(|@import|src=\"(?!data:)", text)


def test_headline_holds_the_figures_of_the_json(made):
    """Every accuracy of the evaluation, its count of clips, ties, broken clips and seconds."""
    c, text = made
    m, said = c.measured, shown(read(text))
    for metric in ("top1", "top5", "mean", "top1/vs", "top1/ps"):
        assert f"{100 * m.result[metric]:.2f} %" in said, metric
        low, high = m.bounds(metric)
        assert f"{100 * low:.1f} to {100 * high:.1f} %" in said, metric
    right = int(np.trace(m.confusion))
    assert f"{right} of {m.result['clips']} clips right, {len(m.labels)} labels" in said
    assert "0 clips tied" in said and "1 clips could not be read and count as wrong" in said and "12.5 s" in said
    assert "1 clips of this split could not be read and count as wrong: clip 3." in said
    for fact in ("f00d" * 16, "0123abc", "python 3.11", "vs,ps", "none printed", "train 7", "out/run/last.pt"):
        assert fact in said, fact


def test_headline_has_the_papers_figure():
    printed = Printed("PeVL, Table 3", {"mean": 73.3})
    c = contents(printed=printed, differing=["views 1 here, 3 in the paper"])
    c.measured.result["mean"] = 0.5551                        # another one than top-1
    said = shown(read(page.page(c)))
    assert "the paper: 73.3 %" in said and "PeVL, Table 3" in said and "views 1 here, 3 in the paper" in said
    assert said.index(f"{100 * c.measured.result['mean']:.2f} %") < said.index(f"{100 * c.measured.result['top1']:.2f} %")
    c.measured.about["split"] = "val"
    assert "It is of the test split; this is val." in shown(read(page.page(c)))


def test_texts_are_escaped(made):
    """A label that is HTML is a text; so is one in an attribute."""
    c, text = made
    assert "<b>&amp; \"quoted\"" in shown(read(text))
    assert markup.tag("p", "1 < 2", title='"') == '<p title="&quot;">1 &lt; 2</p>'
    assert markup.tag("td", None, hidden=True, class_=None) == "<td hidden></td>"


def test_worst_pairs_and_labels_are_said(made):
    c, text = made
    m, said = c.measured, shown(read(text))
    for true, answered, clips in confusion.worst_pairs(m.confusion, 5):
        assert m.labels[true] in said and m.labels[answered] in said
        assert f"{clips} of {m.confusion[true].sum()}" in said
    rows = page.label_rows(m)
    shares = [m.result["per_class"][m.labels.index(row[0])] for row in rows]
    assert shares == sorted(shares) and len(rows) == len(m.labels) - 1
    assert "1 labels have no clip in this split" in said


def test_two_runs_side_by_side():
    c = contents(compare=True)
    said, pair = shown(read(page.page(c))), c.comparison.top1
    for value in (pair.low, pair.high, pair.difference):
        assert wording.points(value) in said
    assert f"run right{pair.both}{pair.only_a}" in said and f"run wrong{pair.only_b}{pair.neither}" in said
    assert "other answered label 1" in said and "attention of other" in said
    assert beside.verdict("a", "b", paired([0] * 20, [True] * 20, [False] * 20)).startswith("a is ahead")
    assert beside.verdict("a", "b", paired([0] * 20, [False] * 20, [True] * 20)).startswith("b is ahead")
    assert beside.verdict("a", "b", paired([0] * 20, [True] * 20, [True] * 20)).startswith("The clips do not tell")
    assert beside.verdict("a", "b", paired([0] * 21, [True, False] * 10 + [True], [False, True] * 10 + [False])).startswith("The clips do not")


def test_figures_are_said():
    assert wording.percent(0.91254, 2) == "91.25 %" and wording.percent(None) == "-"
    assert wording.points(-0.0125) == "−1.2" and wording.points(0.5) == "+50.0"
    assert [wording.duration(s) for s in (41, 200.4, 25500)] == ["41 s", "3 min 20 s", "7 h 05 min"]
    assert wording.metric_name("top1/concat") == "concat alone"
    assert wording.shown_value("") == "(empty)" and wording.shown_value(("vs", "ps")) == "vs,ps"


def test_persons_are_told_and_faint_clips_named():
    """A pose file of nobody is answered like any other: the page says which, and how well."""
    c = contents()
    assert "People in the pose files" not in page.page(c)         # a run without poses claims nothing of them
    right = {p["id"] for p in c.measured.predictions if p["predicted"] == p["label"]}
    hit, missed = "clip 0", next(p["id"] for p in c.measured.predictions if p["id"] not in right and p["id"] != "clip 3")
    assert hit in right
    good = PersonFacts(frames=10, present=0.8, changes=2, score=0.75, lost=0.25)
    bad = PersonFacts(frames=10, present=0.4, changes=0, score=0.60, lost=0.5)
    c.persons = {hit: bad, missed: bad, "clip 9": good}
    said = shown(read(page.page(c)))
    assert "frames with a person53.3 % of 30" in said and "mean score of their joints0.68" in said
    assert "joints lost in them37.5 %" in said and "sudden changes of place or person2" in said
    assert "2 clips show a person in fewer than 50 % of their frames; 1 of them were answered rightly" in said
    assert f"these clips{hit}, {missed}" in said
    c.persons = {hit: good}
    assert "Every clip shows a person in 50 % of its frames or more." in shown(read(page.page(c)))
    c.persons = {hit: PersonFacts(frames=10, present=0.0, changes=0, score=0.0, lost=1.0)}
    said = shown(read(page.page(c)))
    assert "frames with a person0.0 % of 10" in said and "joints lost in them" not in said


# ---- Confusion -----------------------------------------------------------------------------------

def test_confused_labels_are_neighbours():
    """Labels 0 and 3 are taken for each other, so are 1 and 4: they stand side by side, and all stand once."""
    table = np.diag([9, 9, 9, 9, 9])
    table[0, 3], table[4, 1] = 4, 3
    order = confusion.order_by_confusion(table)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert abs(order.index(0) - order.index(3)) == 1 and abs(order.index(1) - order.index(4)) == 1
    assert confusion.order_by_confusion(np.zeros((0, 0), int)) == []


def test_worst_pairs_are_counted():
    table = np.array([[5, 2, 0], [3, 1, 0], [2, 0, 0]])
    assert confusion.worst_pairs(table, 9) == [(1, 0, 3), (2, 0, 2), (0, 1, 2)]       # of equal counts the larger share
    assert confusion.worst_pairs(np.diag([3, 3]), 9) == []


def test_confusion_of_few_labels_has_every_count():
    """Every count stands in its cell; answers to labels that are not shown and broken clips have a column."""
    m = measured(K=6, n=100)
    order = confusion.order_by_confusion(m.confusion)
    cells = re.findall(r"<td[^>]*>(\d*)</td>", confusion.matrix_table(m.confusion, m.unread, m.labels, order))
    numbers = np.array([int(cell or 0) for cell in cells]).reshape(6, 7)
    assert (numbers[:, :6] == m.confusion[np.ix_(order, order)]).all() and (numbers[:, 6] == m.unread[order]).all()
    some = order[:3]
    cells = re.findall(r"<td[^>]*>(\d*)</td>", confusion.matrix_table(m.confusion, 0 * m.unread, m.labels, some))
    numbers = np.array([int(cell or 0) for cell in cells]).reshape(3, 4)
    assert (numbers.sum(1) == m.confusion[some].sum(1)).all() and numbers[:, 3].any()


def test_long_labels_keep_both_ends():
    assert confusion.both_ends("Back, 2.5 somersaults, 2.5 twists, pike position", 42) == "Back, 2.5 … pike position"
    assert confusion.both_ends("short", 42) == "short" and len(confusion.both_ends("x" * 99, 42)) <= 42


def test_many_labels_are_a_picture_and_a_table():
    text = page.page(contents(K=200, n=1000))
    assert "The 24 labels that are confused most" in text and "confusion matrix of 200 labels" in text
    zoomed = confusion.most_confused(contents(K=200, n=1000).measured.confusion, 24)
    assert len(set(zoomed)) == 24


# ---- Clips ---------------------------------------------------------------------------------------

def pictures(html, folder):
    import base64
    found = []
    for place, data in enumerate(re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)):
        (folder / f"{place}").write_bytes(base64.b64decode(data))
        found.append(np.asarray(Image.open(folder / f"{place}").convert("RGB")))
    return found


def test_heat_map_has_a_row_a_word_and_a_pixel_a_frame(tmp_path):
    """The word that is met best at frame 3 is brightest there, and says so."""
    values = np.zeros((5, 2))
    values[2, 1] = 0.9
    html = heat_map(values, ["in-", "ward"], "a dive", 0, 0.9)
    assert "0.90 at frame 3" in html and 'alt="cosine of “ward” with frames 1 to 5' in html
    rows = pictures(html, tmp_path)
    assert [row.shape for row in rows] == [(1, 5, 3)] * 2
    assert rows[1][0].sum(-1).argmax() == 2 and (rows[0] == rows[0][0, 0]).all()


def test_films_show_what_there_is(tmp_path):
    clip = looked()
    said = shown(read(film(clip.strip, clip.rivals)))
    for row in ("frames", "pose", "patch weight M, Eq. (1)", "attention before P2V", "attention after P2V", "attention of other"):
        assert row in said
    alone = {**clip.strip, "maps": {"before": clip.strip["maps"]["before"]}, "scores": np.zeros((4, 17))}
    said = shown(read(film(alone)))
    assert said == "framesattention"                         # no P2V, no pose: nothing claims them
    assert all(picture.shape[0] == 124 for picture in pictures(film(clip.strip), tmp_path))


def test_a_page_without_mistakes_pictures_or_history():
    """What is not there has no section, and nothing breaks."""
    m = measured(K=3, n=20)
    for row in m.predictions:
        row.update(predicted=row["label"], broken=False)
    m.history, m.versions, m.sha256 = [], {}, ""
    m.result.update(confusion=np.diag([10, 10, 0]), unread=np.zeros(3, int), errors=[])
    said = shown(read(page.page(records.Contents(m))))
    assert "No answer is wrong" in said and "none: no file" in said and "Training" not in said
    assert "All clips of this split could be read" in said


# ---- Contrast, and a real browser ----------------------------------------------------------------

def luminance(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_in_light_and_dark():
    """Text at least 4.5 to 1, lines at least 3 to 1 (WCAG AA)."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    for half in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", half))
        for name, colour in colours.items():
            if name in ("paper", "rule", "panel"):
                continue
            a, b = sorted((luminance(colour), luminance(colours["paper"])))
            assert (b + 0.05) / (a + 0.05) >= (3 if re.fullmatch(r"s\d", name) else 4.5), name


def test_a_browser_opens_it(made, tmp_path):
    """The page in a real browser: its own text is in the document that was built, and the picture of it is not blank."""
    browser = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if browser is None:
        pytest.skip("no browser; install one, such as Chromium")
    c, text = made
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1600"]
    address = (tmp_path / "report.html").as_uri()
    picture = tmp_path / "page.png"
    done = subprocess.run([browser, *flags, f"--screenshot={picture}", "--dump-dom", address], capture_output=True,
                          text=True, timeout=300)
    said = done.stdout
    assert f"{100 * c.measured.result['top1']:.2f} %" in said and said.rstrip().endswith("</html>")
    drawn(picture, least=20)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_paired_counts_clips_and_turns_round(clips):
    """The difference is first minus second; turned round, everything but the ties changes sides."""
    labels, a, b = zip(*clips)
    pair, turned = paired(labels, a, b), paired(labels, b, a)
    assert pair.difference == pytest.approx(sum(a) / len(a) - sum(b) / len(b)) == -turned.difference
    assert (pair.both, pair.only_a, pair.only_b, pair.neither) == tuple(
        sum((x, y) == want for x, y in zip(a, b)) for want in ((1, 1), (1, 0), (0, 1), (0, 0)))
    assert pair.low <= pair.difference + 1e-9 and pair.difference <= pair.high + 1e-9


def test_paired_mean_over_classes_weighs_classes_alike():
    """Nine clips of one label and one of another: the one counts as much as the nine."""
    labels, a, b = [0] * 9 + [1], [True] * 9 + [False], [False] * 9 + [True]
    assert paired(labels, a, b, metric="mean").difference == 0
    assert paired(labels, a, b).difference == pytest.approx(0.8)
