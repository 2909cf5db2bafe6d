"""Figures as text: aligned tables, progress of long work, the summary of an evaluation.

here          | what it prints                                   | tests
align         | rows of cells as lines, columns under each other | test_costs.py: test_cost_table_*
with_progress | how far an evaluation is                         | test_eval.py: test_evaluation_*
summary       | accuracy, by class too, and what went wrong      | test_eval.py: test_evaluation_*
"""
from report.metrics import intervals_of
from report.wording import METRICS
from support.progress import Progress


def align(lines):
    """Rows of cells -> lines of text: the first column to the left, the others to the right."""
    # A column is as wide as its widest cell; titles are cells, too.
    widths = []
    for column in zip(*lines):
        widths.append(max(len(cell) for cell in column))

    # The first column is words, the others are figures, whose units should stand under each other.
    aligned = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        for cell, width in zip(line[1:], widths[1:]):
            cells.append(cell.rjust(width))
        aligned.append("  ".join(cells))
    return aligned


def with_progress(batches, total, show):
    """Pass batches on, and say on standard error how many clips are done and how long it takes.

    batches: dicts with `label` (B,). total: their clips. show: whether anything is said.
    """
    progress = Progress("evaluate", total=total, unit="clips")
    done = 0
    for batch in batches:
        yield batch
        done += len(batch["label"])
        if show:
            progress.show(done)


def summary(result, labels):
    """The figures of `eval.evaluate` as text. Of more than 60 labels, the twenty worst are shown.

    result: what `evaluate` returns. labels: K texts.
    """
    # The line that goes into a table, first.
    lines = [f"top-1 {100 * result['top1']:.2f} %   top-5 {100 * result['top5']:.2f} %   "
             f"mean over classes {100 * result['mean']:.2f} %   {result['clips']} clips"]
    ranges = []
    for name, one in intervals_of(result).items():
        ranges.append(f"{METRICS[name]} {100 * one.low:.1f} to {100 * one.high:.1f}")
    if ranges:
        lines.append(f"95 % interval over clips: {', '.join(ranges)} %")

    alone = []
    for name, share in result.items():
        if name.startswith("top1/"):
            alone.append(f"{name.removeprefix('top1/')} {100 * share:.2f} %")
    if alone:
        lines.append("one similarity alone: " + ", ".join(alone))

    lines += ["", *by_label(result, labels), ""]

    # What a reader of the figures has to know: what was not measured, tied or broken.
    empty = result["per_class"].count(None)
    if empty:
        lines.append(f"{empty} labels have no clip in this split and are left out of the mean")
    if result["ties"]:
        lines.append(f"{result['ties']} clips were tied between labels; the first label won")
    lost = result["errors"]
    if lost:
        shown = lost[:5]
        if len(lost) > 5:
            shown = [*shown, "..."]
        lines.append(f"{len(lost)} clips could not be read and count as wrong: {', '.join(shown)}")
    return "\n".join(lines)


def by_label(result, labels):
    """Lines of a table: label, clips, accuracy, and the label that it is most often taken for."""
    # Labels without clips have no accuracy, and a line of dashes would say nothing.
    shown = [k for k, accuracy in enumerate(result["per_class"]) if accuracy is not None]
    if len(shown) > 60:
        shown = sorted(shown, key=lambda k: result["per_class"][k])[:20]

    cells = [["label", "clips", "right %"]]
    mistakes = ["most often taken for"]
    for k in shown:
        # Row k of the confusion matrix: how often each label was answered for a clip of label k.
        answers = result["confusion"][k].clone()  # (K,)
        clips = int(answers.sum() + result["unread"][k])
        cells.append([labels[k], str(clips), f"{100 * result['per_class'][k]:.1f}"])

        answers[k] = 0                            # what is left are mistakes
        if answers.any():
            worst = int(answers.argmax())
            mistakes.append(f"{labels[worst]} ({int(answers[worst])})")
        else:
            mistakes.append("")

    lines = []
    for line, mistake in zip(align(cells), mistakes):
        lines.append(f"{line}   {mistake}".rstrip())
    return lines
