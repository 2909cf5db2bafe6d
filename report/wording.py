"""How figures are said on the page: names of metrics, percent, points, durations, settings.

here           | what it says                                   | tests/test_page.py
metric_name    | `top1/vs` as "video-sentence alone"            | test_headline_holds_*
percent, ...   | shares of 1 in percent, with units             | test_figures_are_said
duration       | seconds as a person says them                  | test_figures_are_said
"""

# The accuracies of an evaluation. Those of one similarity are the terms of Eq. (4).
METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean": "mean over classes",
    "top1/vs": "video-sentence alone",
    "top1/ps": "pose-sentence alone",
    "top1/fw": "frame-word alone",
}


def metrics_of(result):
    """Names of the accuracies that an evaluation gives, in the order of the page."""
    names = ["top1", "top5", "mean"]
    for name in result:
        if name.startswith("top1/"):
            names.append(name)
    return names


def metric_name(metric):
    """What a metric is called; a similarity without a name here keeps its own: `concat alone`."""
    if metric in METRICS:
        return METRICS[metric]
    if "/" in metric:
        return metric.split("/")[1] + " alone"
    return metric


def percent(share, digits=1):
    """A share of 1 in percent, `-` for None."""
    if share is None:
        return "-"
    return f"{100 * share:.{digits}f} %"


def between(low, high):
    """An interval of shares in percent: `88.1 to 94.4 %`."""
    return f"{100 * low:.1f} to {percent(high)}"


def points(difference):
    """A difference of shares in percentage points, with its sign."""
    sign = "+"
    if difference < 0:
        sign = "−"
    return f"{sign}{abs(100 * difference):.1f}"


def duration(seconds):
    """Seconds as `41 s`, `3 min 20 s`, `7 h 05 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min {seconds % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def shown_value(value):
    """A setting as text."""
    if value == "":
        return "(empty)"
    if isinstance(value, (list, tuple)):
        return ",".join(str(one) for one in value)
    return str(value)
