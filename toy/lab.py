"""The lab: all rows of a table of the paper, trained on the toy benchmark, with error bars.

    python -m toy.lab table5 --seeds 5                seeds 0 to 4 of each row, then the table
    python -m toy.lab table5 --seeds 5 --jobs 2       two runs at a time, which share the cores
    python -m toy.lab table5 --published              the runs behind docs/toy.md; none is trained
    python -m toy.lab all --seeds 5                   every table, which takes a night
    python -m toy.lab table5 --seeds 1 --epochs 4     any flag of train.py may follow

Rows of one model share its runs, other tables' included. What is done is not done again, but for
--fresh; a run that was cut goes on. All rows of a table are trained for its LAB_EPOCHS
(toy/presets.py), unless --epochs says otherwise. Results: out/lab/table5.html, a page whose seeds
lead to the pages of their runs, .md, .csv and .png: each row's mean, standard deviation and
standard error over the seeds, and for each claim of the paper whether it holds here.
out/lab/runs.csv lists every run.

part                                        here          tests/test_lab.py
which runs a table needs, which are there   plan_runs     test_lab
what a run's figures depend on              key_of        test_published_*
runs side by side                           trained       test_two_at_a_time
the tables themselves                       toy/results.py
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

import train
from clip_model import TINY
from report.log import rows_of
from support.checks import unknown_name
from support.commands import run_command
from support.files import hash_of
from support.interrupt import CODE
from support.settings import Parser
from tables.rows import ROWS, TABLES
from toy import tree
from toy.presets import LAB_EPOCHS
from toy.results import CLAIMS, Result, read_runs, write_runs, write_table

# Every run behind the tables of docs/toy.md.
PUBLISHED = Path(__file__).resolve().parent.parent / "docs" / "toy-runs.csv"


@dataclass
class Trial:
    """One row with one seed."""
    row: str                                      # its name in the table
    seed: int
    out: Path                                     # the run's folder
    configs: tuple                                # TrainConfig, DataConfig, PeVLConfig
    key: str                                      # `key_of` the configs
    run: dict | None                              # its line of runs.csv; None: still to be trained


def first_of_model():
    """Row -> the first row, over all tables, that has the same switches: their runs are shared."""
    # PeVL itself is a row of Tables 4 to 8: it is trained once, not five times.
    first = {}
    shared = {}
    for name, row in ROWS.items():
        switches = repr(sorted(row.overrides.items()))
        shared[name] = first.setdefault(switches, name)
    return shared


def key_of(configs):
    """Twelve hexadecimal digits that differ where a run's figures may: settings, clips, the CLIP.

    Settings that have their defaults are left out, so that a new flag changes no key; so are those
    that change no number, such as the folder, and the name of the row, which its switches say.
    """
    differing = {"clips": tree.hash_of(tree.TOY_SETTINGS)}
    if TINY.exists():                             # else the tiny CLIP has random weights
        differing["CLIP"] = hash_of(TINY).hexdigest()
    for config in configs:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name not in (*train.FREE, "row") and value != field.default:
                differing[field.name] = value
    text = json.dumps(differing, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plan_runs(table, seeds, folder, flags, known):
    """The trials of a table. Seeds turn slowest, so that all rows are seen early.

    flags: words of the command line for train.py. known: lines of runs.csv by key.
    """
    # The folder is that of the first row with these switches, so that `table5/pevl` finds what
    # `table4` trained; the name in the plan stays the table's own, under which it is printed.
    shared = first_of_model()
    epochs = ["--epochs", str(LAB_EPOCHS.get(table, LAB_EPOCHS["default"]))]
    plan = []
    for seed, name in itertools.product(range(seeds), TABLES[table]):
        row = shared[name]
        own = ["--row", row, "--seed", str(seed)]
        (cfg, *others), _ = train.settings([*epochs, *flags, *own])

        out = folder / row.replace("/", "-") / f"seed{seed}-epochs{cfg.epochs}"
        configs = (dataclasses.replace(cfg, out=str(out)), *others)
        key = key_of(configs)
        plan.append(Trial(name, seed, out, configs, key, known.get(key)))
    return plan


# ---- Training ------------------------------------------------------------------------------------

def begin_worker(threads):
    """What a process of the lab does first: share the cores, and leave the screen to the lab."""
    torch.set_num_threads(threads)
    sys.stdout = sys.stderr = open(os.devnull, "w")    # a run's lines are in its log.txt as well

    # Ctrl-C reaches all processes. One that trains saves first (support/signals.py); one that
    # waits or is still starting has nothing to save.
    signal.signal(signal.SIGINT, lambda *_: os._exit(CODE))


def trained(trials, jobs):
    """Train these, `jobs` at a time, and give each as it is done. A run that fails ends the lab."""
    if jobs == 1:                                 # in this process, whose screen shows its progress
        for trial in trials:
            train.train(*trial.configs)
            yield trial
        return

    # A small model does not fill many cores: runs side by side, with few threads each, are faster.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, begin_worker, (threads,)) as pool:
        waiting = {pool.submit(train.train, *trial.configs): trial for trial in trials}
        try:
            for done in as_completed(waiting):
                done.result()                     # raises what the run raised
                yield waiting[done]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def line_of(trial):
    """A finished run as a line of runs.csv: its last test and validation figures, in %."""
    test = rows_of(trial.out, "test")[-1]
    val = rows_of(trial.out, "epoch")[-1]
    line = {
        "key": trial.key,
        "row": trial.configs[0].row,
        "seed": trial.seed,
        "epochs": trial.configs[0].epochs,
        "top1": test["top1"],
        "vs": test.get("top1/vs"),
        "ps": test.get("top1/ps"),
        "fw": test.get("top1/fw"),
        "val": val["top1"],
    }
    for name in ("top1", "vs", "ps", "fw", "val"):
        line[name] = "" if line[name] is None else f"{100 * line[name]:.4f}"
    return line


def results_of(table, plan, folder):
    """The rows of a table that have runs, as Results."""
    results = []
    for name in TABLES[table]:
        done = [trial for trial in plan if trial.row == name and trial.run]
        if not done:
            continue

        # Links are relative: the folder of a lab can be copied or served as it is.
        pages = []
        for trial in done:
            page = trial.out / "report.html"
            pages.append(page.relative_to(folder).as_posix() if page.exists() else "")
        tops = [float(trial.run["top1"]) for trial in done]
        row = ROWS[name]
        results.append(Result(name.split("/")[1], row.what, row.top1, tops, pages))
    return results


def lab(table, seeds, folder, flags, known, jobs=1, train_missing=True):
    """Train what is missing of a table, and print the table; see the module's docstring.

    known: lines of runs.csv by key; what is trained is added.
    """
    # The whole plan is made before the first run, so that a flag that train.py refuses for a later
    # row is refused now and not in the night.
    plan = plan_runs(table, seeds, folder, flags, known)
    missing = []
    if train_missing:
        missing = [trial for trial in plan if trial.run is None]
    record = folder / "runs.csv"
    begun = time.monotonic()
    if missing:
        print(f"lab: {table}, {len(missing)} of {len(plan)} runs to train, {jobs} at a time",
              flush=True)
    with contextlib.closing(trained(missing, jobs)) as finished:
        for number, trial in enumerate(finished, 1):
            trial.run = line_of(trial)
            known[trial.key] = trial.run
            write_runs(record, {**read_runs(record), trial.key: trial.run})
            wait = (time.monotonic() - begun) / number * (len(missing) - number)
            print(f"lab: {trial.row} seed {trial.seed} {float(trial.run['top1']):.1f} %, run "
                  f"{number} of {len(missing)}, about {wait / 60:.0f} min left", flush=True)

            # After each run, so that a lab that takes a night can be looked at in the evening.
            write_table(folder, table, results_of(table, plan, folder))

    results = results_of(table, plan, folder)
    if not results:
        print(f"{table}: none of its runs is published")
        return
    write_table(folder, table, results)
    print("\n" + (folder / f"{table}.md").read_text(encoding="utf-8")
          + f"{folder / table}.html, .png, .csv, .md")


# ---- Command line --------------------------------------------------------------------------------

def read_command(argv):
    """argv -> (namespace of the lab's own words, words that are left for train.py)."""
    # Every word that is not the lab's is train.py's to read and to refuse. Abbreviations are off,
    # or --seed would be taken for --seeds.
    parser = Parser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("table")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--published", action="store_true")
    return parser.parse_known_args(argv)


def check_command(own, args):
    """Refuse what makes no sense for a lab. own: its own words; args: train.py's namespace."""
    if own.table not in (*TABLES, "all"):
        raise unknown_name("table", own.table, (*TABLES, "all"))
    for flag, value in (("--seeds", own.seeds), ("--jobs", own.jobs)):
        if value < 1:
            raise ValueError(f"{flag} {value}. Expected 1 or more. Give 5 seeds for error bars, "
                             "and as many jobs as there are cores.")
    for flag, value in (("--row", args.row), ("--seed", args.seed)):
        if value:
            raise ValueError(f"{flag} {value} beside a lab. Expected neither: it trains all rows "
                             "of its table with seeds 0 to --seeds - 1. Leave it out.")
    if own.published and args.fresh:
        raise ValueError("--published --fresh. Expected one of them: the first trains nothing. "
                         "Leave one out.")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\ntables: {', '.join(TABLES)}, all. Flags: --seeds N (5), --jobs N (1), "
              "--published, and those of `python train.py --help`.")
        return 0
    own, flags = read_command(argv)
    _, args = train.settings(flags)

    def job():
        check_command(own, args)
        folder = Path(args.out or "out/lab")
        known = {}
        if own.published:
            known.update(read_runs(PUBLISHED))
        if not args.fresh:
            known.update(read_runs(folder / "runs.csv"))
        for table in CLAIMS if own.table == "all" else (own.table,):
            lab(table, own.seeds, folder, flags, known, own.jobs, not own.published)

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
