"""The lab: all rows of a table of the paper, trained on the toy benchmark, with error bars.

(On another data set with --data and what else train.py needs for it; its own --out, its --epochs.)

    python -m toy.lab table5 --seeds 5                seeds 0 to 4 of each row, then the table
    python -m toy.lab table5 --seeds 5 --jobs 2       two runs at a time, which share the cores
    python -m toy.lab table5 --published              the runs behind docs/toy.md; none is trained
    python -m toy.lab all --seeds 5                   Tables 4 to 9, some 15 hours on two cores
    python -m toy.lab table5 --seeds 1 --epochs 4     flags of train.py may follow

Rows of one model share its runs, also between tables that train equally long. What is done is not
done again, but for --fresh; a run that was cut goes on. All rows of a table are trained for its
LAB_EPOCHS (toy/presets.py), by the paper's loss without L_own of ours, unless --epochs or
--own-loss say otherwise.

Results, in out/lab: table5.md, each row's mean, standard deviation and standard error over the
seeds, and for each claim of the paper whether it holds here; table5.html, a page with the same,
whose seeds lead to the pages of their runs; table5.csv, the rows unrounded; table5.png, bars.
runs.csv lists every run.

part                                        here          tests/test_lab.py
which runs a table needs, which are there   plan_runs     test_lab
what a run's figures depend on              key_of        test_published_*
runs side by side                           trained       test_two_at_a_time
the tables themselves                       toy/results.py
"""
if __name__ in ("__main__", "__mp_main__"):       # before PyTorch, which takes seconds to import
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
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

import train
from clip_model import TINY
from report.contents import LabRow
from report.log import rows_of
from support.checks import unknown_name
from support.commands import run_command
from support.files import hash_of, lock
from support.settings import Parser
from support.stopped import CODE
from tables.rows import ROWS, TABLES
from toy import tree
from toy.presets import LAB_EPOCHS, LAB_OWN_LOSS
from toy.results import CLAIMS, read_runs, write_runs, write_table

# Every run behind the tables of docs/toy.md.
PUBLISHED = tree.PROJECT / "docs" / "toy-runs.csv"

# Settings that say nothing of a run's figures: what may change while it is trained, but for where
# its data, its CLIP and its first weights lie and for --allow-broken; and the row's name, whose
# switches are settings of their own.
UNKEYED = train.FREE - {"root", "poses", "init", "clip", "allow_broken"} | {"row"}


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
    # PeVL itself is a row of Tables 4 to 8: it is trained once for each number of epochs.
    first = {}
    shared = {}
    for name, row in ROWS.items():
        switches = repr(sorted(row.overrides.items()))
        shared[name] = first.setdefault(switches, name)
    return shared


def key_of(configs):
    """Twelve hexadecimal digits of a run's settings, the toy's clips and the tiny CLIP.

    Not of the code, of the machine (with --device auto and --precision auto), of the number of
    threads, or of what lies in a folder that is named. Settings that have their defaults are left
    out, so that a new flag changes no key.
    """
    differing = {"clips": tree.hash_of(tree.TOY_SETTINGS)}
    if TINY.exists():                             # else the tiny CLIP has random weights
        differing["CLIP"] = hash_of(TINY).hexdigest()
    for config in configs:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name not in UNKEYED and value != field.default:
                differing[field.name] = value
    text = json.dumps(differing, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flags_of(table):
    """How a table's rows are trained, as words of the command line, which others may follow."""
    epochs = LAB_EPOCHS.get(table, LAB_EPOCHS["default"])
    return ["--epochs", str(epochs), "--own-loss", str(LAB_OWN_LOSS)]


def plan_runs(table, seeds, folder, flags, known):
    """The trials of a table. Seeds turn slowest, so that all rows are seen early.

    flags: words of the command line for train.py. known: lines of runs.csv by key.
    """
    # The folder is that of the first row with these switches, so that `table5/pevl` finds what
    # `table4` trained; the name in the plan stays the table's own, under which it is printed.
    shared = first_of_model()
    plan = []
    for seed, name in itertools.product(range(seeds), TABLES[table]):
        row = shared[name]
        own = ["--row", row, "--seed", str(seed)]
        (cfg, *others), _ = train.settings([*flags_of(table), *flags, *own])

        out = folder / row.replace("/", "-") / f"seed{seed}-epochs{cfg.epochs}"
        configs = (dataclasses.replace(cfg, out=str(out)), *others)
        key = key_of(configs)
        plan.append(Trial(name, seed, out, configs, key, known.get(key)))
    return plan


# ---- Training ------------------------------------------------------------------------------------

def begin_worker(threads):
    """What a process of the lab does first: share the cores, and leave the screen to the lab."""
    torch.set_num_threads(threads)
    # What a run says while it trains is in its log.txt as well.
    sys.stdout = sys.stderr = open(os.devnull, "w")

    # Ctrl-C reaches all processes. One that trains saves first (support/signals.py); one that waits
    # has nothing to save.
    signal.signal(signal.SIGINT, lambda *_: os._exit(CODE))

    # Nobody waits for a run of a lab that was killed: it saves, and ends.
    def follow():
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def run_one(configs):
    """A run, in a process of the lab; where the lab was killed meanwhile, the process ends with it.

    It would wait for its next run for ever: those beside it hold the other end of the queue, too.
    """
    try:
        train.train(*configs)
    finally:
        if not multiprocessing.parent_process().is_alive():
            os._exit(CODE)


def outcome(future, trial, jobs):
    """Wait for a run; raise what it raised, a ValueError with the run's name."""
    try:
        future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            f"a process of the lab was killed. Expected memory for {jobs} runs at a time. Lower "
            "--jobs, and give the same command again: finished runs are kept.") from None
    except ValueError as reason:
        raise ValueError(f"{trial.row} seed {trial.seed}: {reason}") from reason


def trained(trials, jobs):
    """Train these, `jobs` at a time, and give each as it is done.

    A run that fails ends the lab, once those beside it have ended.
    """
    if jobs == 1:                                 # in this process, whose screen shows its progress
        for trial in trials:
            train.train(*trial.configs)
            yield trial
        return

    # A small model does not fill many cores: runs side by side, with few threads each, are faster.
    # No more are handed over than run: one that waited in the pool could not be called back.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, begin_worker, (threads,))
    rest = iter(trials)
    running = {}
    try:
        for trial in itertools.islice(rest, jobs):
            running[pool.submit(run_one, trial.configs)] = trial
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial = running.pop(future)
                outcome(future, trial, jobs)
                for following in itertools.islice(rest, 1):
                    running[pool.submit(run_one, following.configs)] = following
                yield trial
    finally:
        # Waits for those that train: to their end or, after Ctrl-C, until they have saved.
        pool.shutdown(cancel_futures=True)


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
        line[name] = in_percent(line[name])
    return line


def in_percent(share):
    """An accuracy as runs.csv has it; None, of a row without this similarity, is empty."""
    return "" if share is None else f"{100 * share:.4f}"


def results_of(table, plan, folder):
    """The rows of a table that have runs, as LabRows."""
    results = []
    for name in TABLES[table]:
        done = [trial for trial in plan if trial.row == name and trial.run]
        if not done:
            continue

        # Links are relative: the folder of a lab can be copied or served as it is.
        pages = []
        for trial in done:
            # After --fresh with other flags a folder holds another run than the list's.
            page = trial.out / "report.html"
            tests = rows_of(trial.out, "test")
            is_this = bool(tests) and in_percent(tests[-1]["top1"]) == trial.run["top1"]
            pages.append(page.relative_to(folder).as_posix() if page.exists() and is_this else "")
        tops = [float(trial.run["top1"]) for trial in done]
        row = ROWS[name]
        results.append(LabRow(name.split("/")[1], row.what, row.top1, tops, pages))
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
    data_cfg = plan[0].configs[1]                 # of all runs alike
    if missing:
        print(f"lab: {table}, {len(missing)} of {len(plan)} runs to train, {jobs} at a time",
              flush=True)
        if data_cfg.data == "toy":                # here, where its progress is seen
            tree.make_toy(data_cfg.folder)
    begun = time.monotonic()
    with contextlib.closing(trained(missing, jobs)) as finished:
        for number, trial in enumerate(finished, 1):
            trial.run = line_of(trial)
            known[trial.key] = trial.run
            # With --fresh, `known` began empty: the file keeps what is not trained again.
            write_runs(record, {**read_runs(record), trial.key: trial.run})
            left = (time.monotonic() - begun) / number * (len(missing) - number)
            print(f"lab: {trial.row} seed {trial.seed} {float(trial.run['top1']):.1f} %, run "
                  f"{number} of {len(missing)}, about {left / 60:.0f} min left", flush=True)

            # After each run, so that a lab that takes a night can be looked at in the evening.
            write_table(folder, table, results_of(table, plan, folder), data_cfg.data)

    results = results_of(table, plan, folder)
    if not results:
        print(f"{table}: none of its runs is published")
        return
    write_table(folder, table, results, data_cfg.data)
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
    if args.list_rows:
        raise ValueError("--list-rows beside a lab. Expected it alone: python train.py "
                         "--list-rows. Leave it out.")
    if own.published and args.fresh:
        raise ValueError("--published --fresh. Expected one of them: the first trains nothing. "
                         "Leave one out.")
    if own.published and not PUBLISHED.is_file():
        raise ValueError(f"no {PUBLISHED}. Expected the list of published runs. Take it from the "
                         "repository, or leave --published out.")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        print(f"{__doc__}\ntables: {', '.join(TABLES)}, all. Flags: --seeds N (5), --jobs N (1), "
              "--published, and those of `python train.py --help` but --row and --seed.")
        return 0
    own, flags = read_command(argv)

    def job():
        _, args = train.settings([*flags_of(own.table), *flags])
        check_command(own, args)
        tables = CLAIMS if own.table == "all" else (own.table,)
        folder = Path(args.out or "out/lab")
        if own.published:
            # In a folder of their own: they are no runs of this machine.
            known = read_runs(PUBLISHED)
            for table in tables:
                lab(table, own.seeds, folder / "published", flags, known, train_missing=False)
            return

        # Held until this process ends: two labs in one folder would train the same runs.
        held = lock(folder / "lab.lock", f"process {os.getpid()}")
        with held:
            known = {}
            if not args.fresh:
                known = read_runs(folder / "runs.csv")
            for table in tables:                  # what a later one refuses is told now
                plan_runs(table, own.seeds, folder, flags, known)
            for table in tables:
                lab(table, own.seeds, folder, flags, known, own.jobs)

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
