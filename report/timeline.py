"""The labels of a long video over time, as a picture: a line for each, the winner as a band.

here          | what it draws                                     | tests/test_label.py
draw_timeline | probabilities of the labels that win or come near | test_long_video_*
clock         | seconds as 1:05                                   | test_clock_shows_*

Letters: n windows, K labels.
"""
import numpy as np

from report.draw import GREY, RULE, SERIES, Pen, draw_axes, shorten

SHOWN = len(SERIES)                               # labels with a colour of their own


def clock(seconds):
    """Seconds as minutes and seconds: 65.5 -> '1:05.5', 65 -> '1:05'."""
    minutes, rest = divmod(round(float(seconds), 1), 60)       # first: 59.96 is 1:00
    if rest == int(rest):
        shown = f"{rest:02.0f}"
    else:
        shown = f"{rest:04.1f}"
    return f"{int(minutes)}:{shown}"


def draw_timeline(spans, shares, labels, path, title):
    """Write a PNG of how probable each label is over time.

    spans: n pairs (start, end) in seconds. shares: (n, K) probabilities. labels: K texts. Drawn are
    the labels that win somewhere, then those that come nearest, SHOWN of them at most.
    """
    shares = np.asarray(shares)
    winners = shares.argmax(1)                                             # (n,)
    wins = np.bincount(winners, minlength=len(labels))                     # (K,)
    order = np.lexsort((-shares.max(0), -wins))   # by wins, then by the highest probability
    chosen = [int(k) for k in order[:SHOWN]]

    starts = np.array([span[0] for span in spans])                         # (n,)
    ends = np.array([span[1] for span in spans])
    middles = (starts + ends) / 2
    first = float(starts.min())
    last = float(ends.max())

    bottom = 300
    pen = Pen(1100, bottom + 70 + 20 * len(chosen))
    pen.text(60, 22, shorten(title, 15, 1000), size=15)
    axes = draw_axes(pen, (60, 80, 1070, bottom), [(first, 0), (last, 100)], high=100)
    pen.text(565, bottom + 32, "seconds; probability in %; the band: the label that wins", GREY,
             anchor="mm")

    # The winner of each window, as a band above the lines; grey where it has no line.
    tint_of = dict(zip(chosen, SERIES))
    for n, winner in enumerate(winners):
        tint = tint_of.get(int(winner), RULE)
        left = axes.across(starts[n])
        right = axes.across(ends[n])
        pen.line([(left, 62), (right, 62)], tint, 12)

    for place, k in enumerate(chosen):
        tint = tint_of[k]
        spots = []
        for n, middle in enumerate(middles):
            percent = 100 * float(shares[n, k])
            x = axes.across(middle)
            y = axes.down(percent)
            spots.append((x, y))
        pen.line(spots, tint, 2)
        for x, y in spots:
            pen.diamond(x, y, tint, 3)

        y = bottom + 62 + 20 * place
        pen.line([(60, y), (84, y)], tint, 3)
        pen.text(92, y, shorten(labels[k], 12, 960))
    return pen.save(path)
