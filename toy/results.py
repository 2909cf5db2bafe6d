"""What the lab found: tables with error bars, and whether the paper's claims hold in them.

here          | what it is                                         | tests/test_lab.py
CLAIMS        | what the paper says of two rows                    | test_claims_*
judge         | whether it holds here                              | test_claims_*
write_table   | a table as a page, a picture, Markdown and CSV     | test_lab
read_runs     | every seed of every row, as the lab writes it      | test_published_*
"""
import csv

import numpy as np

from report.beside import lab_page
from report.draw import draw_bars
from support.files import atomic
from tables.rows import ROWS

# What the paper's tables say, as pairs: the row on the left is above the row on the right.
CLAIMS = {
    # Each part that is added helps.
    "table4": (("pose", "baseline"), ("adapters", "pose"), ("ucmr", "adapters"), ("sgmc", "ucmr")),
    # Each part of UCMR that is taken away is missed.
    "table5": (("pevl", "no-ucmr"), ("pevl", "no-p2v"), ("pevl", "no-v2p"),
               ("pevl", "no-refinement")),
    # All levels together are better than any one or two, and the strengths of Eq. (5) help.
    "table6": (("all", "ps"), ("all", "vs"), ("all", "fw"), ("all", "ps+vs"), ("all", "ps+fw"),
               ("all", "vs+fw"), ("all", "vanilla")),
    # The printed order, from the best to the worst.
    "table7": (("pevl", "v+p+t"), ("v+p+t", "v+p"), ("v+p", "p+t"), ("p+t", "p"), ("p", "v+t"),
               ("v+t", "v")),
    # Adapters in all towers are best, in none worst.
    "table8": (("all", "video+pose"), ("all", "pose"), ("all", "text"), ("all", "video"),
               ("video+pose", "none"), ("pose", "none"), ("text", "none"), ("video", "none")),
    "table9": (("coordinates", "heatmap"),),
}

# The columns of runs.csv. key: what the settings are, as `lab.key_of` says them. top1 is of the
# test split, val of the last epoch's validation, vs, ps and fw of a similarity alone; all in %.
RUN_FIELDS = ("key", "row", "seed", "epochs", "top1", "vs", "ps", "fw", "val")


# ---- Every run -----------------------------------------------------------------------------------

def read_runs(path):
    """A runs.csv -> its lines, key -> dict of RUN_FIELDS (texts); {} where there is no such file.

    Raises ValueError where the file is none that a lab wrote.
    """
    runs = {}
    number = 1                                    # of the line that is read, for the error
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != RUN_FIELDS:
                raise ValueError("other columns")
            for line in reader:
                number = reader.line_num
                check_run(line)
                runs[line["key"]] = line
    except FileNotFoundError:
        return {}
    except (ValueError, csv.Error) as reason:
        advice = "Move the file away" if number == 1 else "Remove this line, or the file"
        raise ValueError(f"{path} line {number}: {reason}. Expected a lab's list of runs, with "
                         f"the columns {', '.join(RUN_FIELDS)}. {advice}.") from None
    return runs


def check_run(line):
    """ValueError where a line of runs.csv, a dict of texts, is no run."""
    if None in line or None in line.values():     # as csv.DictReader marks it
        raise ValueError("too many or too few fields")
    if line["row"] not in ROWS:
        raise ValueError(f"no row is called {line['row'][:80]!r}")
    if not (line["seed"].isdecimal() and 0 <= float(line["top1"]) <= 100):
        raise ValueError("no seed and top-1 in percent")


def write_runs(path, runs):
    """runs: key -> dict of RUN_FIELDS, written in the order of rows and seeds."""
    def place(run):
        return list(ROWS).index(run["row"]), int(run["seed"])

    with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, RUN_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(runs.values(), key=place))


# ---- Rows of a table -----------------------------------------------------------------------------

def order_of(results, key):
    """Names of the rows from the best to the worst."""
    # Rows that the paper does not print have no figure and come last.
    ranked = sorted(results, key=lambda result: -(key(result) or 0))
    return " > ".join(result.name for result in ranked)


def orders(results):
    """The rows in the paper's order, where it prints any, and in the order here: sentences."""
    said = [f"Order here: {order_of(results, lambda r: r.mean)}."]
    if any(r.paper is not None for r in results):
        said.insert(0, f"Order of the paper: {order_of(results, lambda r: r.paper)}.")
    return said


def judge(results, better, worse):
    """A claim, and what the runs say of it, in a line of words; "" while a row has no run.

    results: the LabRows of a table. better, worse: names of two rows. The standard error of a
    difference of two means is the root of the sum of their squares. A difference of more than two
    such errors comes by chance one time in twelve with five seeds, and one in five with two, which
    do not know their own error well.
    """
    found = {result.name: result for result in results}
    if better not in found or worse not in found:
        return ""

    high, low = found[better], found[worse]
    difference = high.mean - low.mean
    claim = f"`{better}` above `{worse}`"
    if high.paper is not None and low.paper is not None:
        claim += f" (paper {high.paper - low.paper:+.1f})"
    if high.error is None or low.error is None:
        verdict = "as in the paper" if difference > 0 else "not as in the paper"
        return f"{claim}: {difference:+.1f}, {verdict}; one seed has no error"

    error = np.hypot(high.error, low.error)
    if difference > 2 * error:
        verdict = "holds"
    elif difference >= -2 * error:
        verdict = "not told apart"
    else:
        verdict = "the reverse"
    return f"{claim}: {difference:+.1f} ± {error:.1f}, {verdict}"


def judge_all(table, results):
    """The lines of `judge` for all claims of a table, a list."""
    lines = []
    for better, worse in CLAIMS.get(table, ()):
        line = judge(results, better, worse)
        if line:
            lines.append(line)
    return lines


# ---- The table -----------------------------------------------------------------------------------

def markdown_of(table, results, data="toy"):
    """The table for people, with the two orders beneath and a line for each claim, a list."""
    lines = [f"| {table} | what | paper | {data} top-1, mean ± standard deviation | "
             "standard error | each seed |",
             "|---|---|---|---|---|---|"]
    for r in results:
        each = " ".join(f"{top:.1f}" for top in r.tops)
        printed = "-" if r.paper is None else r.paper
        error = "-" if r.error is None else f"{r.error:.1f}"
        lines.append(f"| `{r.name}` | {r.what} | {printed} | {r.said} | {error} | {each} |")
    lines.append("")

    lines += ["  \n".join(orders(results)), ""]  # two spaces: a line of its own

    claims = judge_all(table, results)
    if claims:
        lines += ["What the paper says, and the difference here ± its standard error (holds: more "
                  "than two of them):", ""]
        lines += [f"* {line}" for line in claims] + [""]
    return lines


def benchmark_of(data):
    """What a data set is called in a title; data: the name of --data."""
    return "the toy benchmark" if data == "toy" else data


def page_of(table, results, data):
    """The table as a page, each seed a link to the page of its run, where that is there."""
    # On the page names stand as they are; backticks are Markdown's.
    remarks = [remark.replace("`", "") for remark in [*orders(results), *judge_all(table, results)]]
    return lab_page(table, benchmark_of(data), results, remarks)


def write_table(folder, table, results, data):
    """results: LabRows of the rows that have runs -> <table>.html, .csv, .md, .png, each whole or
    not there. data: the name of --data."""
    with atomic(folder / f"{table}.md") as part:
        part.write_text("\n".join(markdown_of(table, results, data)), encoding="utf-8")

    # For programs: unrounded.
    with atomic(folder / f"{table}.csv") as part, open(part, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "what", "paper", "mean", "std", "error", "seeds"))
        for r in results:
            each = " ".join(str(top) for top in r.tops)
            writer.writerow((r.name, r.what, r.paper, r.mean, r.spread, r.error, each))

    with atomic(folder / f"{table}.html") as part:
        part.write_text(page_of(table, results, data), encoding="utf-8")

    bars = [(r.name, r.mean, r.spread, r.paper) for r in results]
    title = f"{table.replace('table', 'Table ')} on {benchmark_of(data)}, test top-1, %"
    draw_bars(bars, folder / f"{table}.png", title)
