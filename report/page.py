"""The page: what an evaluation found, as one HTML file that opens anywhere.

No model is known here: `report/evidence.py` asks the model and fills `report/contents.py`, this
file says it in the order in which a reader asks. How good is it, and how sure is that? Which labels
are confused, which are hard? What did it look at when it was wrong, and when it was right? How was
it trained, with what, at what cost? A section is a function from records to HTML.

question                          | here                     | tests/test_page.py
how good, how sure, the paper's   | `headline`               | test_headline_*
two runs on the same clips        | report/beside.py         | test_two_runs_side_by_side
which labels are confused, hard   | `confusions`, `by_label` | test_confusion_*, test_worst_*
what was looked at (Figs. 1c, 3b) | `looked_at`              | test_heat_map_*, test_films_*
how it was trained, at what cost  | `training`, `costs`      | test_page_is_well_formed
whether there were people at all  | `persons`                | test_persons_*
everything, into a file           | `write_page`             | test_nothing_is_fetched

Accuracies are shares of 1 in the records and percent on the page. K labels, Tv video frames.
"""
from report.beside import compared
from report.confusion import (SMALL, ZOOM, matrix_picture, matrix_table, most_confused,
                              order_by_confusion, pairs_table)
from report.draw import is_accuracy, is_loss
from report.figures import (Bar, bar, curves, figure, film, heat_map, interval_bars, line_chart,
                            scale)
from report.log import seconds_of
from report.markup import Html, document, fold, note, section, table, tag
from report.wording import between, duration, metric_name, metrics_of, percent, shown_value
from support.files import atomic
from support.person import ENOUGH, faint, together

WORST = 30                                        # labels, pairs and mistakes shown at once


# ---- Headline ------------------------------------------------------------------------------------

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


def hero(m, figures):
    """The figure that counts, in large: the one that the paper prints first, else top-1.

    figures: the paper's, metric -> percent. For Toyota-Smarthome the paper prints the mean over
    classes.
    """
    # The first that is printed is the one that the benchmark's papers compare.
    metric = next(iter(figures), "top1")
    low, high = m.bounds(metric)
    parts = [tag("strong", percent(m.result[metric], 2)),
             tag("span", f"{metric_name(metric)}; 95 % interval {between(low, high)}")]
    if figures:                                   # that none is printed says `paper_said`
        parts.append(tag("span", f"the paper: {figures[metric]} %"))
    return tag("p", *parts, class_="hero")


def counted(m):
    """A sentence of counts: clips, labels, ties, what could not be read, seconds."""
    result = m.result
    # Counts stand beside the shares: 95 % of twenty clips and of two thousand are told apart here.
    right = int(m.correct().sum())
    counts = [f"{right} of {result['clips']} clips right, {len(m.labels)} labels"]
    empty = list(result["per_class"]).count(None)
    if empty:
        counts.append(f"{empty} labels have no clip in this split and are left out of the mean")
    counts.append(f"{result['ties']} clips tied between labels")
    counts.append(f"{len(result['errors'])} clips could not be read and count as wrong")
    if result.get("seconds"):
        counts.append(f"evaluated in {result['seconds']:.1f} s")
    return "; ".join(counts) + "."


def headline(contents):
    """The figure in large, then all of them with their intervals and the paper's."""
    m = contents.measured
    figures = {}
    if contents.printed is not None:
        figures = contents.printed.figures

    # The same figures twice: as a table, to be read off, and as bars, to be compared at a glance.
    rows = []
    bars = []
    for metric in metrics_of(m.result):
        low, high = m.bounds(metric)
        row = [metric_name(metric), percent(m.result[metric], 2), between(low, high)]
        one = Bar(metric_name(metric), m.result[metric], low, high)
        if metric in figures:
            row.append(f"{figures[metric]} %")
            one.paper = figures[metric] / 100
        elif figures:
            row.append("-")
        rows.append(row)
        bars.append(one)

    # Without a figure of the paper its column would say "none" in every row: it is left out.
    headers = ["accuracy", "this run", "95 % interval"]
    caption = "percent; whiskers are the intervals"
    if figures:
        headers.append("the paper")
        caption += ", the diamond is the paper's figure"
    both = tag("div", table(headers, rows), figure(interval_bars(bars), caption), class_="two")
    sure = note("Interval: 95 % bootstrap over the clips, 10,000 draws. It says how far another "
                "sample of clips might lead, not another seed of training.")
    return section("results", "Results", hero(m, figures), tag("p", paper_said(contents)), both,
                   sure, note(counted(m)))


# ---- Labels --------------------------------------------------------------------------------------

def confusions(m):
    """The confusion matrix, as a table or as a picture with a table, and the worst pairs."""
    # In the data set's order look-alikes may lie far apart; side by side they make a block.
    order = order_by_confusion(m.confusion)
    parts = [note("Rows are true labels, columns answered ones, by the numbers of the rows. Labels "
                  "that are taken for each other stand side by side. Blue: right; orange: wrong; "
                  "the shade is the share of the row.")]
    if len(m.labels) <= SMALL:
        parts.append(matrix_table(m.confusion, m.unread, m.labels, order))
    else:
        # A table of 500 x 500 cells can neither be read nor scrolled. The picture shows whether
        # labels are confused in groups or all over; the names are in the smaller table.
        parts.append(matrix_picture(m.confusion, order))
        zoomed = most_confused(m.confusion, ZOOM)
        if zoomed:
            parts.append(tag("h3", f"The {len(zoomed)} labels that are confused most"))
            parts.append(matrix_table(m.confusion, m.unread, m.labels, zoomed))

    # A matrix whose every name is readable needs fewer pairs in words.
    count = WORST
    if len(m.labels) <= ZOOM:
        count = WORST // 2
    pairs = pairs_table(m.confusion, m.unread, m.labels, count)
    if pairs is None:
        pairs = tag("p", "No answer is wrong.")
    return section("confusion", "Which label is taken for which", parts, pairs)


def label_row(m, k):
    """Label k: its accuracy, its clips, and what it is most often taken for."""
    share = m.result["per_class"][k]
    wrong = m.confusion[k].copy()                 # (K,) how often each label was answered
    right = int(wrong[k])
    clips = int(wrong.sum() + m.unread[k])
    wrong[k] = 0

    taken = "-"
    if wrong.any():
        worst = int(wrong.argmax())
        taken = f"{m.labels[worst]} ({int(wrong[worst])})"
    shown = tag("span", bar(share), " ", percent(share), class_="share")
    return [m.labels[k], shown, f"{right} of {clips}", taken]


def label_rows(m):
    """Rows of all labels that have clips, the lowest accuracy first."""
    # Labels without clips have no accuracy; `by_label` names them.
    shares = m.result["per_class"]
    known = []
    for k, share in enumerate(shares):
        if share is not None:
            known.append((share, k))
    return [label_row(m, k) for _, k in sorted(known)]


def by_label(m):
    """Accuracy by class, the hardest first; of many labels the rest is folded away."""
    # The lowest are what a reader comes for: of 300 labels the good ones are a click away.
    headers = ["label", "right", "clips", "most often taken for"]
    rows = label_rows(m)
    parts = []
    if len(rows) <= SMALL:
        parts.append(table(headers, rows))
    else:
        parts.append(table(headers, rows[:WORST], caption=f"the {WORST} lowest of {len(rows)}"))
        parts.append(fold(f"the other {len(rows) - WORST}", table(headers, rows[WORST:])))

    empty = []
    for label, share in zip(m.labels, m.result["per_class"]):
        if share is None:
            empty.append(label)
    if empty:
        parts.append(fold(f"{len(empty)} labels without clips", tag("p", ", ".join(empty))))
    return section("labels", "Accuracy by class, the lowest first", parts)


# ---- Clips ---------------------------------------------------------------------------------------

def matrices_of(clip):
    """Fig. 3b for a clip: the answer's words and, where they differ, the true label's."""
    if not clip.matrices:
        return None

    # One scale for both maps: brighter in one is more similar than darker in the other.
    low = min(float(matrix.values.min()) for matrix in clip.matrices)
    high = max(float(matrix.values.max()) for matrix in clip.matrices)
    maps = []
    for matrix in clip.matrices:
        which = "answer"
        if matrix.text == clip.label:
            which = "true label"
        said = f"{which}: {matrix.text}; frame-word similarity {matrix.similarity:.3f}"
        maps.append(heat_map(matrix.values, matrix.words, said, low, high))
    return [tag("h4", "Frames and words"), tag("div", maps, class_="two"), scale(low, high)]


def saliency_of(clip):
    """ViLP: which frames the words vote for, beside what it would be if all were alike."""
    if not clip.saliency:
        return None
    # The shares of a label sum to 100 %, so that a flat line means that no frame counts more.
    series = {}
    for label, shares in clip.saliency.items():
        Tv = len(shares)
        series[label] = [(i + 1, 100 * float(share)) for i, share in enumerate(shares)]
    series["all frames alike"] = [(1, 100 / Tv), (Tv, 100 / Tv)]
    return line_chart(series, "saliency over time: share of the words' votes, %", "video frame")


def answer_said(clip):
    """The answer, and the true label where it is another one."""
    right = clip.label == clip.answer
    kind = "right" if right else "wrong"
    # Colour says it a second time, never alone: the true label follows where it is another one.
    said = ["answered ", tag("b", clip.answer, class_=kind), f" with {percent(clip.probability)}"]
    if not right:
        said += ["; it is ", tag("b", clip.label)]
    return tag("p", said, ".")


def clip_card(clip, other):
    """One clip: what was said, what was looked at. other: name of the second run, or empty."""
    parts = [tag("h3", clip.id), answer_said(clip)]
    if clip.alone:
        alone = [f"{metric_name(f'top1/{name}')}: {label}" for name, label in clip.alone.items()]
        parts.append(note(f"Each similarity by itself. {'; '.join(alone)}."))
    if clip.rival_answer:
        parts.append(note(f"{other} answered {clip.rival_answer}."))
    parts += [film(clip.strip, clip.rivals), matrices_of(clip), saliency_of(clip)]
    return tag("article", parts, class_="clip")


def mistakes_of(m):
    """The predictions of clips that were read and answered wrongly, the most confident first."""
    wrong = []
    for p in m.predictions:
        if not p["broken"] and p["predicted"] != p["label"]:
            wrong.append(p)
    return sorted(wrong, key=doubt)


def doubt(prediction):
    """The key by which mistakes are sorted."""
    return -prediction["probability"]


def looked_at(contents):
    """The most confident mistakes, and a few right answers to compare them with."""
    m = contents.measured
    other = ""
    if contents.comparison is not None:
        other = contents.comparison.rival.name

    wrong = mistakes_of(m)
    if wrong:
        rows = []
        for p in wrong[:WORST]:
            rows.append([p["id"], m.labels[p["label"]], m.labels[p["predicted"]],
                         percent(p["probability"])])
        lead = f"{len(wrong)} clips were answered wrongly. These were the most confident."
        headers = ["clip", "true label", "answered", "probability"]
        more = fold(f"the {len(rows)} most confident mistakes", table(headers, rows))
    else:
        lead = "No clip that could be read was answered wrongly."
        more = None
    # Of a few mistakes all is shown that the model looked at; of the next ones what was answered.
    cards = [clip_card(clip, other) for clip in contents.mistakes]
    parts = [section("mistakes", "The most confident mistakes", tag("p", lead), cards, more)]
    if contents.rights:
        cards = [clip_card(clip, other) for clip in contents.rights]
        parts.append(section("rights", "Right answers, for comparison", cards))
    return Html("".join(parts))


# ---- Training and costs --------------------------------------------------------------------------

def training(m):
    """Curves of the run, and the figures of each epoch; None for a system that was not trained."""
    # Training logs a row every few steps, with losses, and one an epoch, with held-out accuracies.
    steps = [row for row in m.history if row["kind"] == "step"]
    epochs = [row for row in m.history if row["kind"] == "epoch"]
    if not steps and not epochs:
        return None

    accuracies = {}
    for name, line in curves(epochs, is_accuracy, "epoch", unit=100).items():
        accuracies[metric_name(name)] = line
    # Losses are logged every few steps; a run of one or two epochs has a curve by that, too.
    losses = curves(steps or epochs, is_loss, "step")
    charts = [line_chart(losses, "training loss", "step"),
              line_chart(accuracies, "held-out accuracy, %", "epoch", high=100)]

    rows = []
    for row in epochs:
        rows.append([f"{row['epoch']}", f"{row['total']:.4f}", percent(row.get("top1"), 2),
                     percent(row.get("mean"), 2)])
    headers = ["epoch", "training loss", "held-out top-1", "held-out mean"]
    return section("training", "Training", tag("div", charts, class_="charts"),
                   fold("the epochs as a table", table(headers, rows)))


def spent_in_training(history):
    """Seconds that the steps of a run took, and the most MiB that it held, or (None, None)."""
    steps = [row for row in history if row["kind"] == "step"]
    if not steps:
        return None, None
    return seconds_of(steps), max(row["peak_mib"] for row in steps)


def costs(contents):
    """What the model and the runs cost."""
    m = contents.measured
    rows = []
    seconds, peak = spent_in_training(m.history)
    if seconds is not None:
        rows.append(["steps of training", duration(seconds)])
        rows.append(["most memory in training", f"{peak:.0f} MiB"])
    if m.result.get("seconds"):
        speed = m.result["clips"] / m.result["seconds"]
        rows.append(["this evaluation", f"{duration(m.result['seconds'])}, {speed:.1f} clips/s"])

    # Whether operations were counted shows in the rows: they have a fourth cell.
    parts = []
    if rows:
        parts.append(table(["what", "took"], rows))
    if contents.costs:
        headers = ["part", "trained, M", "all parameters, M"]
        caption = "parameters, in millions"
        counted_too = len(contents.costs[0]) > len(headers)
        if counted_too:
            headers.append("operations, G")
            caption += ", and multiply-accumulates of a clip, in 10⁹"
        parts.append(table(headers, contents.costs, caption=caption))
        if not counted_too:
            parts.append(note("Operations are counted by ", tag("code", "python -m tables.costs"),
                              " and on the page of ", tag("code", "python eval.py --report"), "."))
    return section("costs", "Costs", parts)


def persons(contents):
    """What the pose files hold of a person; None where the run reads no poses."""
    facts = contents.persons
    if not facts:
        return None
    m = contents.measured
    every = together(facts)
    rows = [["frames with a person", f"{percent(every.present)} of {every.frames}"]]
    # Without any person there is no score, and "100 % lost" would read like a poor detector's.
    if every.present:
        rows.append(["mean score of their joints", f"{every.score:.2f}"])
        rows.append(["joints lost in them", percent(every.lost)])
        rows.append(["sudden changes of place or person", f"{every.changes}"])
    parts = [table(["in the pose files", "figure"], rows,
                   caption=f"{len(facts)} clips")]

    # A model answers for a clip without anybody as for any other. Whether it does so worse is told
    # beside their number: if not, the pose is not what it went by.
    doubtful = faint(facts)
    if not doubtful:
        parts.append(tag("p", "Every clip with a pose file shows a person in "
                         f"{percent(ENOUGH, 0)} of its frames or more."))
        return section("persons", "People in the pose files", parts)
    right = 0
    names = set(doubtful)
    for p in m.predictions:
        right += p["id"] in names and p["predicted"] == p["label"]
    parts.append(tag("p", f"{len(doubtful)} clips show a person in fewer than {percent(ENOUGH, 0)} "
                     f"of their frames; {right} of them were answered rightly."))
    parts.append(fold("these clips", tag("p", ", ".join(doubtful))))
    return section("persons", "People in the pose files", parts)


def broken(m):
    """Clips that could not be read, in this evaluation and in training."""
    # In evaluation such a clip is wrong; in training another takes its place. Both bend figures.
    lost = m.result["errors"]
    if lost:
        said = (f"{len(lost)} clips of this split could not be read and count as wrong: "
                f"{', '.join(lost)}.")
    else:
        said = "All clips of this split could be read."
    parts = [tag("p", said)]

    replaced = {}                                 # a dict keeps the order and each clip once
    for row in m.history:
        replaced.update(dict.fromkeys(row.get("broken", ())))
    if replaced:
        parts.append(tag("p", f"{len(replaced)} training clips could not be read and were "
                         f"replaced by others, mostly of their class: {', '.join(replaced)}."))
    return section("broken", "Broken clips", parts)


def made_with(m):
    """Settings, commit, checkpoint and versions: all that is needed to do it again."""
    packages = []
    for name, version in m.versions.items():
        if name != "commit":
            packages.append(f"{name} {version}")
    commit = m.versions.get("commit") or "not known"

    # What was evaluated, and on what; then what the checkpoint says of its training.
    facts = [[name, shown_value(value)] for name, value in m.about.items()]
    facts.append(["checkpoint's SHA-256", tag("code", m.sha256 or "none: no file")])
    facts.append(["commit of training", tag("code", commit)])
    facts.append(["versions of training", ", ".join(packages) or "not known"])

    settings = []
    for name, value in m.config.items():
        settings.append([name, tag("code", shown_value(value))])
    return section("settings", "Settings and versions", table(["fact", "value"], facts),
                   fold(f"all {len(settings)} settings", table(["setting", "value"], settings)))


# ---- The page ------------------------------------------------------------------------------------

# What the links at the top lead to: id of a section -> what the link says.
SECTIONS = {
    "results": "results",
    "compared": "two runs",
    "confusion": "confusion",
    "labels": "by class",
    "mistakes": "mistakes",
    "rights": "right answers",
    "training": "training",
    "costs": "costs",
    "persons": "people",
    "broken": "broken clips",
    "settings": "settings",
}


def navigation(body):
    """Links to the sections that are in the body."""
    # A link to a section that this run has not would lead nowhere.
    links = []
    for name, said in SECTIONS.items():
        # Ids are written by `section` alone, and texts cannot hold this: quotes are escaped there.
        if f' id="{name}"' in body:
            links.append(tag("li", tag("a", said, href=f"#{name}")))
    return tag("nav", tag("ul", links), aria_label="parts of this page")


def page(contents):
    """The page as text. contents: Contents."""
    m = contents.measured
    about = m.about
    crops = "one centre crop"
    if about["views"] > 1:
        crops = f"{about['views']} crops a clip"
    lead = note(f"{about['model']} with {about['backbone']}, {crops}. A page of the PeVL reference "
                "implementation; it holds everything, and fetches nothing.")
    title = f"{m.name}: {about['data']}, {about['split']} split"
    header = tag("header", tag("h1", title), lead)

    # In the order of a reader's questions. A section that has nothing to say is None, and absent.
    parts = [
        headline(contents),
        compared(contents),
        confusions(m),
        by_label(m),
        looked_at(contents),
        training(m),
        costs(contents),
        persons(contents),
        broken(m),
        made_with(m),
    ]
    body = tag("main", parts, id="main")
    footer = tag("footer", "Accuracies of this page are those of this run, on these clips.")
    return document(title, header, navigation(body), body, footer)


def write_page(contents, path):
    """Write the page, whole or not at all."""
    with atomic(path) as part:
        part.write_text(page(contents), encoding="utf-8")
    return path
