"""Which label is taken for which: a matrix that can be read with 16, 48 and 500 labels.

A matrix in the order of the label file scatters what belongs together. Here labels that are taken
for each other stand side by side, so that groups show as blocks; each row and column has a number,
since turned texts cannot be read; and the worst pairs are said in words. Beyond SMALL labels the
matrix is a picture, and the labels that are confused most have a table of their own.

here                        | what it gives                            | tests/test_page.py
order_by_confusion          | labels, neighbours are taken for another | test_confused_labels_are_*
worst_pairs                 | (true, answered, clips), most clips first | test_worst_pairs_*
most_confused               | the labels of the worst pairs            | test_many_labels_*
matrix_table, matrix_picture | HTML                                    | test_confusion_of_*

Shapes: K labels. A confusion is (K, K) integers, row = true label, column = answered label.
"""
import numpy as np
from PIL import Image

from report.figures import picture
from report.markup import Html, scroller, table, tag

SMALL = 60                                        # labels of a table that can be taken in
ZOOM = 24                                         # labels of the table beside a picture
MARK = (11, 92, 173)                              # answered rightly; as --mark of the style
MISS = (190, 70, 10)                              # and wrongly, as --miss


def shares_of(confusion):
    """What part of its row each count is, (K, K) float64; rows without clips stay 0."""
    clips = confusion.sum(1, keepdims=True)       # (K, 1)
    return confusion / np.maximum(clips, 1)


def order_by_confusion(confusion):
    """The K labels in an order in which neighbours are taken for each other, a list.

    A chain: it begins with the label that is confused most; next comes, of those left, the label
    that is confused most with the last one, then with any before it. Labels without confusion
    follow in their own order.
    """
    both = shares_of(confusion)
    both = both + both.T                          # (K, K): it does not matter which is the true one
    np.fill_diagonal(both, 0)
    left = list(range(len(both)))
    if not left:
        return []

    last = int(both.sum(1).argmax())
    order = [last]
    left.remove(last)
    bond = both[last].copy()                      # (K,) the strongest bond to the chain
    while left:
        near = both[last, left]                   # to the last label, decides first
        far = bond[left]
        if near.max() > 0:
            place = int(near.argmax())
        elif far.max() > 0:
            place = int(far.argmax())
        else:                                     # nothing binds: the worst of those left begins
            place = int(both[left].sum(1).argmax())
        last = left.pop(place)
        order.append(last)
        bond = np.maximum(bond, both[last])
    return order


def worst_pairs(confusion, count):
    """Up to `count` pairs (true, answered, clips), those with most clips first.

    Among equal counts the one that is the larger share of its true label's clips comes first.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    shares = shares_of(confusion)
    pairs = []
    for true, answered in np.argwhere(wrong):
        pairs.append((int(true), int(answered), int(wrong[true, answered])))

    def worse_first(pair):
        true, answered, clips = pair
        return -clips, -shares[true, answered], true, answered

    return sorted(pairs, key=worse_first)[:count]


def most_confused(confusion, count):
    """The labels of the worst pairs, `count` at most, in the order of `order_by_confusion`."""
    chosen = []
    for true, answered, _ in worst_pairs(confusion, confusion.size):
        for label in (true, answered):
            if label not in chosen and len(chosen) < count:
                chosen.append(label)
        if len(chosen) == count:
            break
    part = confusion[np.ix_(chosen, chosen)]
    return [chosen[place] for place in order_by_confusion(part)]


def both_ends(label, room=42):
    """A label of at most `room` letters, its middle left out: labels often differ at the end.

    Words stay whole where there are some.
    """
    if len(label) <= room:
        return label
    half = (room - 3) // 2                        # beside the dots and their blanks
    head = label[:half].rsplit(" ", 1)[0]
    tail = label[-half:].split(" ", 1)[-1]
    return f"{head} … {tail}"


def matrix_cell(true, answered, clips, total, labels):
    """One cell of the table: its shade is the share of its row, its title says it in words."""
    if clips == 0:
        return Html("<td></td>")
    kind = "miss"
    said = f"{labels[true]} taken for {labels[answered]}: {clips} of {total}"
    if true == answered:
        kind = "hit"
        said = f"{labels[true]}: {clips} of {total} right"
    return tag("td", clips, class_=kind, style=f"--v:{clips / max(total, 1):.2f}", title=said)


def matrix_table(confusion, unread, labels, order):
    """The matrix of the labels in `order` as a table of HTML.

    unread: (K,) clips of each label that could not be read. Answers that are not in `order` and
    clips that could not be read have columns of their own, where there are any.
    """
    total = confusion.sum(1) + unread             # (K,)
    inside = confusion[:, order].sum(1)
    beside = confusion.sum(1) - inside            # (K,) answers outside of `order`
    some_beside = beside[order].any()
    some_unread = unread[order].any()

    head = [tag("th", "true label, and number of the answered one", scope="col")]
    for number, label in enumerate(order, 1):
        head.append(tag("th", number, scope="col", title=labels[label],
                        aria_label=f"{number}, answered {labels[label]}"))
    if some_beside:
        head.append(tag("th", "…", scope="col", title="any other label",
                        aria_label="any other label"))
    if some_unread:
        head.append(tag("th", "×", scope="col", title="could not be read",
                        aria_label="could not be read"))

    rows = []
    room = 70 if len(order) <= ZOOM else 42       # letters beside the cells
    for number, true in enumerate(order, 1):
        name = both_ends(labels[true], room)
        cells = [tag("th", f"{number} {name}", scope="row", title=labels[true])]
        for answered in order:
            clips = int(confusion[true, answered])
            cells.append(matrix_cell(true, answered, clips, int(total[true]), labels))
        if some_beside:
            cells.append(tag("td", int(beside[true]) or None))
        if some_unread:
            cells.append(tag("td", int(unread[true]) or None))
        rows.append(tag("tr", cells))

    class_ = "confusion" if len(order) <= ZOOM else "confusion dense"
    inside = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_=class_)
    return scroller("confusion matrix", inside)


def spread(values):
    """Each entry becomes the largest of the 3 x 3 entries around it: (K, K) -> (K, K)."""
    K = len(values)
    padded = np.pad(values, 1)
    around = []
    for down in range(3):
        for across in range(3):
            around.append(padded[down:down + K, across:across + K])
    return np.max(around, axis=0)


def matrix_picture(confusion, order):
    """The matrix of many labels as a picture that lies well on light and dark: a dot is a count.

    Blue on the diagonal, orange beside it; the less transparent, the larger the share of its row.
    Dots of wrong answers are three cells wide, since one cell of 500 cannot be seen.
    """
    shares = shares_of(confusion)[np.ix_(order, order)]            # (K, K)
    K = len(order)
    right = np.diag(np.diag(shares))
    wrong = spread(shares - right)

    # The root lifts rare confusions out of the ground: a share of 1 % is drawn like 10 %.
    pixels = np.zeros((K, K, 4), np.uint8)
    # The diagonal stays in sight: its neighbours are what is confused, whose dots would cover it.
    on_top = (wrong > 0) & ~np.eye(K, dtype=bool)
    pixels[..., :3] = np.where(on_top[..., None], MISS, MARK)
    pixels[..., 3] = (255 * np.where(on_top, wrong, right) ** 0.5).round()

    zoom = max(2, 900 // K)                       # whole pixels a cell, so that none is blurred
    image = Image.fromarray(pixels).resize((K * zoom, K * zoom), Image.Resampling.NEAREST)
    alt = f"confusion matrix of {K} labels; the worst pairs are in the table below"
    said = ("A point for each pair of labels, in the order described above. Dots of wrong answers "
            "are drawn three cells wide.")
    return tag("figure", picture(image, alt), tag("figcaption", said), class_="matrix-picture")


def pairs_table(confusion, unread, labels, count):
    """The worst pairs as text; None where no answer is wrong. unread: as of matrix_table."""
    total = confusion.sum(1) + unread
    rows = []
    for true, answered, clips in worst_pairs(confusion, count):
        share = 100 * clips / max(int(total[true]), 1)
        rows.append([labels[true], labels[answered], f"{clips} of {int(total[true])}",
                     f"{share:.0f} %"])
    if not rows:
        return None
    headers = ["true label", "taken for", "clips", "of its clips"]
    return table(headers, rows, caption="worst pairs, most clips first")
