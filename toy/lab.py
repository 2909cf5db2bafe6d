"""The lab: all rows of a table of the paper, trained on the toy benchmark, with error bars.

    python -m toy.lab table5 --seeds 5                seeds 0 to 4 of each row, then the table
    python -m toy.lab table5 --seeds 1 --epochs 4     any flag of train.py may follow

Rows of one model share its runs, other tables' included. What is done is not done again, but for
--fresh; a run that was cut goes on. All rows are trained for LAB_EPOCHS, unless --epochs says
otherwise. Results: out/lab/table5.html, a page whose seeds lead to the pages of their
runs, .md, .csv and .png: each row's mean, standard deviation and standard error over the seeds, and
for each claim of the paper whether it holds here.

part                                        here          tests/test_lab.py
which runs a table needs, which are there   plan_runs     test_lab
mean and spread beside the paper's figure   write_table   test_lab
what the paper says of two rows             CLAIMS        test_claims_*
whether it holds here                       judge         test_claims_*
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import csv
import itertools
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import train
from eval import as_json
from report.beside import lab_page
from report.draw import draw_bars
from report.log import rows_of
from report.contents import LabRow
from support.checks import unknown_name
from support.commands import run_command
from support.files import atomic
from support.settings import Parser
from tables.rows import ROWS, TABLES
from toy.presets import LAB_EPOCHS


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
               ("pose", "none"), ("text", "none"), ("video", "none")),
    "table9": (("coordinates", "heatmap"),),
}


@dataclass
class Trial:
    """One row with one seed."""
    row: str                                      # its name in the table
    seed: int
    configs: tuple                                # TrainConfig, DataConfig, PeVLConfig
    metrics: dict | None                          # of the test split; None: still to be trained


def finished(out, configs):
    """Test metrics of the run in `out` if it is complete and has these settings, else None."""
    # A run's config.json says what it was made with, and its last rows what came out. Settings that
    # change no number, such as the folder, may differ.
    wanted = as_json(*configs)
    with suppress(OSError, ValueError, KeyError):
        had = json.loads((out / "config.json").read_text())["config"]
        same = all(had[name] == value for name, value in wanted.items() if name not in train.FREE)
        tests = rows_of(out, "test")
        if same and tests:
            return tests[-1]
    return None


def first_of_model():
    """Row -> the first row, over all tables, that has the same switches: their runs are shared."""
    # PeVL itself is a row of Tables 4 to 8: it is trained once, not five times.
    first = {}
    shared = {}
    for name, row in ROWS.items():
        switches = repr(sorted(row.overrides.items()))
        shared[name] = first.setdefault(switches, name)
    return shared


def plan_runs(table, seeds, folder, flags, fresh):
    """The trials of a table. Seeds turn slowest, so that all rows are seen early.

    flags: words of the command line for train.py. fresh: what is there counts for nothing.
    """
    # The folder is that of the first row with these switches, so that `table5/pevl` finds what
    # `table4` trained; the name in the plan stays the table's own, under which it is printed.
    shared = first_of_model()
    plan = []
    for seed, name in itertools.product(range(seeds), TABLES[table]):
        row = shared[name]
        out = folder / row.replace("/", "-") / f"seed{seed}"
        own = ["--row", row, "--seed", str(seed), "--out", str(out)]
        configs, _ = train.settings(["--epochs", str(LAB_EPOCHS), *flags, *own])
        metrics = None
        if not fresh:
            metrics = finished(out, configs)
        plan.append(Trial(name, seed, configs, metrics))
    return plan


def lab(table, seeds, folder, flags, fresh=False):
    """Train what is missing of a table, and print the table; see the module's docstring."""
    # The whole plan is made before the first run, so that a flag that train.py refuses for a later
    # row is refused now and not in the night.
    plan = plan_runs(table, seeds, folder, flags, fresh)
    left = sum(trial.metrics is None for trial in plan)
    found = {name: [] for name in TABLES[table]}
    spent = []                                    # seconds of each run
    for number, trial in enumerate(plan, 1):
        if trial.metrics is None:
            wait = ""
            if spent:
                wait = f", about {np.mean(spent) * left / 60:.0f} min left"
            print(f"\nlab: {trial.row} seed {trial.seed}, run {number} of {len(plan)}{wait}",
                  flush=True)
            start = time.monotonic()
            trial.metrics = train.train(*trial.configs)
            spent.append(time.monotonic() - start)
            left -= 1
        # After each run, so that a lab that takes a night can be looked at in the evening.
        found[trial.row].append(100 * trial.metrics["top1"])
        write_table(folder, table, found)
    print("\n" + (folder / f"{table}.md").read_text() + f"{folder / table}.html, .png, .csv, .md")


@dataclass
class Result:
    """A row of the printed table."""
    name: str
    what: str
    paper: float | None                           # top-1 in %, on Diving48; None: no row of it
    tops: list                                    # top-1 in % of each seed, here

    @property
    def mean(self):
        return np.mean(self.tops)

    @property
    def spread(self):
        """Standard deviation over seeds (of a sample: n - 1); one seed has none."""
        if len(self.tops) < 2:
            return None
        return np.std(self.tops, ddof=1)

    @property
    def error(self):
        """Standard error of the mean: how far it may be from the mean of all seeds there are."""
        if self.spread is None:
            return None
        return self.spread / np.sqrt(len(self.tops))

    @property
    def said(self):
        if self.spread is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.spread:.1f}"


def order_of(results, key):
    """Names of the rows from the best to the worst."""
    # Rows that the paper does not print have no figure and come last.
    ranked = sorted(results, key=lambda result: -(key(result) or 0))
    return " > ".join(result.name for result in ranked)


def judge(results, better, worse):
    """A claim, and what the runs say of it, in a line of words; "" while a row has no run.

    results: the Results of a table. better, worse: names of two rows. The standard error of a
    difference of two means is the root of the sum of their squares. A difference of more than two
    such errors is hardly chance.
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
    elif difference > -2 * error:
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


def page_of(folder, table, results):
    """The table as a page, each seed a link to the page of its run, where that is there."""
    # Links are relative: the folder of a lab can be copied or served as it is.
    shared = first_of_model()
    rows = []
    for result in results:
        run = shared[f"{table}/{result.name}"].replace("/", "-")
        pages = []
        for seed in range(len(result.tops)):
            place = f"{run}/seed{seed}/report.html"
            pages.append(place if (folder / place).exists() else "")
        rows.append(LabRow(result.name, result.what, result.paper, result.tops, pages))
    remarks = (f"Order of the paper: {order_of(results, lambda r: r.paper)}.",
               f"Order here: {order_of(results, lambda r: r.mean)}.",
               *judge_all(table, results))
    return lab_page(table, "the toy benchmark", rows, remarks)


def write_table(folder, table, found):
    """found: row -> top-1 of its seeds in % -> <table>.html, .csv, .md and .png, each whole or not.
    """
    results = []
    for name, tops in found.items():
        if tops:
            row = ROWS[name]
            results.append(Result(name.split("/")[1], row.what, row.top1, tops))

    # For people, with the two orders beneath: what a toy can show of a claim is an order of rows.
    lines = [f"| {table} | what | paper | toy top-1, mean ± standard deviation | standard error | "
             "each seed |",
             "|---|---|---|---|---|---|"]
    for r in results:
        each = " ".join(f"{top:.1f}" for top in r.tops)
        printed = "-" if r.paper is None else r.paper
        error = "-" if r.error is None else f"{r.error:.1f}"
        lines.append(f"| `{r.name}` | {r.what} | {printed} | {r.said} | {error} | {each} |")
    lines.append("")
    if any(r.paper is not None for r in results):
        lines.append(f"Order of the paper: {order_of(results, lambda r: r.paper)}.  ")
    lines += [f"Order here: {order_of(results, lambda r: r.mean)}.", ""]
    claims = judge_all(table, results)
    if claims:
        lines += ["What the paper says, and the difference here ± its standard error (holds: more "
                  "than two of them):", ""]
        lines += [f"* {line}" for line in claims] + [""]
    with atomic(folder / f"{table}.md") as part:
        part.write_text("\n".join(lines))

    # For programs: unrounded.
    with atomic(folder / f"{table}.csv") as part, open(part, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "what", "paper", "mean", "std", "error", "seeds"))
        for r in results:
            each = " ".join(str(top) for top in r.tops)
            writer.writerow((r.name, r.what, r.paper, r.mean, r.spread, r.error, each))

    with atomic(folder / f"{table}.html") as part:
        part.write_text(page_of(folder, table, results), encoding="utf-8")

    bars = [(r.name, r.mean, r.spread, r.paper) for r in results]
    draw_bars(bars, folder / f"{table}.png", f"{table} on the toy benchmark, test top-1, %")


# ---- Command line --------------------------------------------------------------------------------

def read_command(argv):
    """argv -> (table, seeds, words that are left for train.py)."""
    # The table and --seeds are the lab's; every other word is train.py's to read and to refuse.
    # Abbreviations are off, or --seed would be taken for --seeds.
    parser = Parser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("table")
    parser.add_argument("--seeds", type=int, default=5)
    own, flags = parser.parse_known_args(argv)
    return own.table, own.seeds, flags


def check_command(table, seeds, args):
    """Refuse what makes no sense for a lab; args: train.py's namespace."""
    if table not in TABLES:
        raise unknown_name("table", table, TABLES)
    if seeds < 1:
        raise ValueError(f"--seeds {seeds}. Expected 1 or more. Give 5 for error bars.")
    for flag, value in (("--row", args.row), ("--seed", args.seed)):
        if value:
            raise ValueError(f"{flag} {value} beside a lab. Expected neither: it trains all rows "
                             "of its table with seeds 0 to --seeds - 1. Leave it out.")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\ntables: {', '.join(TABLES)}. Flags: --seeds N (5), and those of "
              "`python train.py --help`.")
        return 0
    table, seeds, flags = read_command(argv)
    _, args = train.settings(flags)

    def job():
        check_command(table, seeds, args)
        folder = Path(args.out or "out/lab")
        lab(table, seeds, folder, flags, fresh=args.fresh)

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
