"""toy/lab.py: runs that are shared, cut and not repeated; a table that is what the runs found.

A lab trains the rows of a table with several seeds. The tests in the middle train for real, on a
tree of 16 clips; the last ones read the runs that are published in docs/ and hold docs/toy.md to
them.
"""
import csv
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import train
from children import draw_nothing
from report.contents import LabRow
from report.log import rows_of
from runs import words
from tables.rows import ROWS, TABLES
from toy import lab, results
from waiting import wait_for


# ---- Claims --------------------------------------------------------------------------------------

def test_claims_are_the_papers():
    """Every claim is a difference that the paper prints, between rows of its table."""
    for table, pairs in results.CLAIMS.items():
        for better, worse in pairs:
            high = ROWS[f"{table}/{better}"].top1
            low = ROWS[f"{table}/{worse}"].top1
            assert high > low, f"{table}: {better} is printed with {high}, {worse} with {low}"
    assert set(results.CLAIMS) == {f"table{k}" for k in range(4, 10)}


@pytest.mark.parametrize("high, low, verdict", [
    ([90, 92, 94], [80, 82, 84], "+10.0 ± 1.6, holds"),       # errors 2 / sqrt(3) each
    ([90, 92, 94], [89, 91, 93], "+1.0 ± 1.6, not told apart"),
    ([80, 82, 84], [90, 92, 94], "-10.0 ± 1.6, the reverse"),
    ([90], [80], "+10.0, as in the paper; one seed has no error"),
    ([80], [90], "-10.0, not as in the paper; one seed has no error"),
    ([90, 90], [90, 90], "+0.0 ± 0.0, not told apart"),
])
def test_claims_hold_beyond_two_standard_errors(high, low, verdict):
    """Difference of the means with its standard error; within two of them nothing is found."""
    rows = [LabRow("pevl", "", 91.9, high, []), LabRow("no-p2v", "", 91.1, low, [])]
    said = results.judge(rows, "pevl", "no-p2v")
    assert said == f"`pevl` above `no-p2v` (paper +0.8): {verdict}"
    assert results.judge(rows, "pevl", "no-v2p") == "", "a row without runs has no verdict"


# ---- Labs that train -----------------------------------------------------------------------------

def short_runs(tree, out, epochs=1):
    """Flags of a lab whose runs take a second, without those that are the rows' to say."""
    own = {"row", "seed", "sim", "fusion", "pose_input"}
    for row in ROWS.values():
        own.update(row.overrides)
    flags = []
    for flag in words(tree, out, epochs=epochs, image_size=20, pose_frames=2, video_frames=1):
        name = flag.split("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        if name not in own:
            flags.append(flag)
    return flags


class Trainings:
    """In place of train.train: notes what is trained; after `limit` runs comes Ctrl-C."""

    def __init__(self):
        self.real = train.train
        self.limit = 0
        self.trained = []

    def __call__(self, cfg, *others):
        if len(self.trained) == self.limit:
            raise KeyboardInterrupt
        self.trained.append((cfg.row, cfg.seed))
        return self.real(cfg, *others)

    def begin(self, limit):
        self.limit = limit
        self.trained = []


@pytest.fixture
def trainings(monkeypatch):
    """What the lab trains, with no pictures but the page of each run, to which the lab leads."""
    trainings = Trainings()
    monkeypatch.setattr(train, "train", trainings)
    monkeypatch.setattr(train, "write_results", draw_nothing)
    monkeypatch.setattr(train, "draw_curves", draw_nothing)
    return trainings


def top1s_of(folder):
    """The test accuracies of a run's two seeds, in per cent, from their own logs."""
    found = []
    for seed in (0, 1):
        (row,) = rows_of(folder / f"seed{seed}-epochs1", "test")
        found.append(100 * row["top1"])
    return found


def test_lab(tree, tmp_path, trainings, capsys):
    """A table's rows x seeds are trained once each, a model that two tables share included; a lab
    that was cut goes on; the figures written are those of the runs' own test rows."""
    out = tmp_path / "lab"
    command = ["table9", *short_runs(tree, out), "--seeds", "2"]
    trainings.begin(limit=2)
    assert lab.main(command) == 130
    assert trainings.trained == [("table9/heatmap", 0), ("table7/p", 0)]
    trainings.begin(limit=4)
    assert lab.main(command) == 0
    assert trainings.trained == [("table9/heatmap", 1), ("table7/p", 1)]

    said = capsys.readouterr().out
    assert "lab: table9, 2 of 4 runs to train, 1 at a time" in said
    assert "Order of the paper: coordinates > heatmap" in said
    assert "`coordinates` above `heatmap` (paper +2.5): " in said

    with open(out / "table9.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"heatmap", "coordinates"}
    assert rows["heatmap"]["paper"] == "80.1"
    first, second = top1s_of(out / "table9-heatmap")
    check_figures(rows["heatmap"], first, second)
    first, second = top1s_of(out / "table7-p")
    check_figures(rows["coordinates"], first, second)
    assert (out / "table9.png").stat().st_size > 1000

    page = (out / "table9.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(?P<path>[^"#]+)">(?P<said>[^<]+)</a>', page)
    assert len(links) == 4, "each seed leads to the page of its run"
    for path, _ in links:
        assert (out / path).is_file(), f"{path} leads nowhere"
    assert links[2] == ("table7-p/seed0-epochs1/report.html", f"{first:.1f}")
    assert "80.1" in page
    assert "Table 9 on diving48" in page, "the benchmark has another name"
    assert f"{float(rows['heatmap']['mean']):.1f} ± " in page

    trainings.begin(limit=0)
    assert lab.main(command) == 0, "all is there, and something is trained"

    # A folder in which another run was made since: its page is not the figure's.
    with open(out / "table7-p/seed0-epochs1/metrics.jsonl", "a") as log:
        log.write('{"kind": "test", "top1": 0.123456}\n')
    assert lab.main(command) == 0
    page = (out / "table9.html").read_text(encoding="utf-8")
    assert "table7-p/seed0" not in page, "a figure leads to the page of another run"
    assert "table7-p/seed1" in page
    assert lab.main([*command, "--fresh"]) == 130, "--fresh trains again"
    trainings.begin(limit=1)
    assert lab.main([*command, "--lambda-r", "0.2"]) == 2, "other settings: not these runs"
    assert "lambda_r" in capsys.readouterr().err


def check_figures(row, first, second):
    """A row of the csv has the mean, deviation and error of its two seeds."""
    apart = abs(first - second)
    assert float(row["mean"]) == pytest.approx((first + second) / 2)
    assert float(row["std"]) == pytest.approx(apart / 2 ** 0.5)
    assert float(row["error"]) == pytest.approx(apart / 2)


@pytest.mark.parametrize("beside, said", [
    (["--row", "table5/no-p2v"], "beside a lab"),
    (["--row", "table5/no-p2v", "--p2v"], "Expected a row as it is"),
    (["--seed", "1"], "beside a lab"),
    (["--list-rows"], "beside a lab"),
    (["--seeds", "0"], "Expected 1 or more"),
    (["--jobs", "0"], "Expected 1 or more"),
])
def test_a_lab_refuses_what_makes_no_sense(beside, said, tmp_path, trainings, capsys):
    """Flags that are the lab's to set, and no run at all, are an error; nothing is trained."""
    assert lab.main(["table9", "--out", str(tmp_path / "lab"), *beside]) == 2
    assert said in capsys.readouterr().err
    assert not trainings.trained


def test_a_mistyped_table_gets_the_nearest(tmp_path, capsys):
    """table55 is none, table5 is."""
    assert lab.main(["table55", "--out", str(tmp_path / "lab")]) == 2
    assert "table5" in capsys.readouterr().err


# ---- Runs that are published ---------------------------------------------------------------------

def published_line(trial, top1):
    """The line of a trial in a list of runs, as if it had been trained with this accuracy."""
    return {"key": trial.key, "row": trial.configs[0].row, "seed": trial.seed, "epochs": 4,
            "top1": top1, "vs": "", "ps": "", "fw": "", "val": 50}


NONE = "none of its runs is published"


def test_published_runs_stand_for_these_settings_alone(tmp_path, monkeypatch, capsys):
    """--published prints what the file of published runs holds, trains nothing, and takes no run of
    other settings, clips or CLIP weights for one of these."""
    command = publish(tmp_path, monkeypatch)
    assert lab.main(command) == 0
    said = capsys.readouterr().out
    assert "`coordinates` above `heatmap` (paper +2.5): +10.0 ± 0.7, holds" in said
    assert "80.5 ± 0.7" in said
    assert "80.0 81.0" in said

    # Coordinates are a row of Table 7 as well: it is one run, which both tables print.
    assert lab.main(["table7", *command[1:]]) == 0
    assert "| `p` |" in capsys.readouterr().out
    assert lab.main(["table5", *command[1:]]) == 0
    assert NONE in capsys.readouterr().out

    for flags in (["--epochs", "9"], ["--lr", "0.1"], ["--pose-frames", "8"], ["--init", "x.pt"]):
        assert lab.main([*command, *flags]) == 0
        assert NONE in capsys.readouterr().out, f"{flags} are other runs"
    assert lab.main([*command, "--log-every", "7"]) == 0
    assert "80.5" in capsys.readouterr().out, "how often a line is logged changes no figure"

    with monkeypatch.context() as other_clips:
        other_clips.setitem(lab.tree.TOY_SETTINGS, "legs_lost", .99)
        assert lab.main(command) == 0
        assert NONE in capsys.readouterr().out
    with monkeypatch.context() as other_weights:
        other_weights.setattr(lab, "TINY", lab.PUBLISHED)
        assert lab.main(command) == 0
        assert NONE in capsys.readouterr().out


def publish(tmp_path, monkeypatch):
    """Publish two seeds of each row of Table 9 -> the command that prints them."""
    folder = tmp_path / "lab"
    monkeypatch.setattr(lab, "PUBLISHED", tmp_path / "toy-runs.csv")
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("--published trains nothing"))
    runs = {}
    for trial in lab.plan_runs("table9", 2, folder, [], {}):
        top1 = 80 if trial.row == "table9/coordinates" else 70
        runs[trial.key] = published_line(trial, top1 + trial.seed)
    assert len(runs) == 4, "two rows with two seeds are four different runs"
    results.write_runs(lab.PUBLISHED, runs)
    assert results.read_runs(lab.PUBLISHED).keys() == runs.keys()
    return ["table9", "--published", "--out", str(folder)]


def test_published_runs_have_to_be_there(tmp_path, monkeypatch, capsys):
    """Without the list, with another file in its place, and with --fresh there is only an error."""
    command = publish(tmp_path, monkeypatch)
    assert lab.main([*command, "--fresh"]) == 2
    assert "--published --fresh" in capsys.readouterr().err
    lab.PUBLISHED.write_text("row,top1\ntable9/heatmap,99\n")
    assert lab.main(command) == 2
    assert "toy-runs.csv line 1: other columns" in capsys.readouterr().err
    lab.PUBLISHED.unlink()
    assert lab.main(command) == 2
    assert "Expected the list of published runs" in capsys.readouterr().err


def test_what_is_published_are_runs_of_the_rows():
    """Each line of the file behind docs/toy.md names the first row of its model."""
    runs = results.read_runs(lab.PUBLISHED)
    assert runs, "no run is published"
    first = lab.first_of_model()
    for run in runs.values():
        assert first[run["row"]] == run["row"], f"{run['row']} is another row's model as well"
        assert 0 <= float(run["top1"]) <= 100


@pytest.mark.slow
def test_two_at_a_time(tree, tmp_path, capfd):
    """--jobs 2 finds what one process finds, run by run."""
    found = {}
    for jobs in ("1", "2"):
        out = tmp_path / f"jobs{jobs}"
        flags = short_runs(tree, out)
        assert lab.main(["table9", *flags, "--seeds", "1", "--jobs", jobs]) == 0
        said = capfd.readouterr()
        assert f"{jobs} at a time" in said.out and "run 2 of 2" in said.out
        assert "Traceback" not in said.err
        runs = results.read_runs(out / "runs.csv").values()
        found[jobs] = {run["row"]: run["top1"] for run in runs}
    assert len(found["1"]) == 2
    assert found["1"] == found["2"]
    assert not multiprocessing.active_children(), "a process of the lab is left"


@pytest.mark.slow
def test_a_run_that_fails_ends_the_lab(tree, tmp_path, capfd):
    """Its error says which run it was; those that wait are not trained, and no process is left."""
    out = tmp_path / "lab"
    broken = out / "table9-heatmap" / "seed0-epochs1"
    broken.mkdir(parents=True)
    (broken / "last.pt").write_bytes(b"no checkpoint")
    assert lab.main(["table9", *short_runs(tree, out), "--seeds", "4", "--jobs", "2"]) == 2
    said = capfd.readouterr().err
    assert "error: table9/heatmap seed 0: " in said
    assert "Traceback" not in said
    assert not multiprocessing.active_children(), "a process of the lab is left"
    begun = [path for path in out.glob("*/seed*") if path != broken]
    assert len(begun) <= 2, f"runs were begun after the failure: {begun}"


def alive_in_group(number):
    """The states of the processes of a group; Z has ended, and is not yet taken note of."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True)
    states = []
    for line in listed.stdout.splitlines():
        group, state = line.split()
        if group == str(number) and state[0] != "Z":
            states.append(state)
    return states


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_a_lab_that_is_stopped_leaves_no_process(tree, tmp_path, how):
    """The runs save and end, and none begins. Ctrl-C reaches all, the others the lab alone."""
    out = tmp_path / "lab"
    command = [sys.executable, "-m", "toy.lab", "table9", *short_runs(tree, out, epochs=500),
               "--seeds", "4", "--jobs", "2"]
    process = subprocess.Popen(command, cwd=lab.tree.PROJECT, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    folders = [out / row / "seed0-epochs500" for row in ("table9-heatmap", "table7-p")]
    deadline = time.monotonic() + 120
    while not all(rows_of(folder, "step") for folder in folders):
        assert process.poll() is None, "the lab has ended"
        assert time.monotonic() < deadline, "the runs did not begin"
        time.sleep(.2)
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(getattr(signal, how))
    said = process.communicate(timeout=60)[1]     # until nobody holds its end of the pipe
    if how == "Ctrl-C":
        assert process.returncode in (130, 128 + signal.SIGINT)
    assert "Traceback" not in said, said
    # A process gives its end of the pipe back a moment before it has ended.
    gone = wait_for(lambda: not alive_in_group(process.pid), seconds=20)
    assert gone, "a process of the lab is left"
    for folder in folders:
        assert (folder / "last.pt").is_file(), f"what was trained is lost: {folder}"
    assert len(list(out.glob("*/seed*"))) == 2, "a run was begun afterwards"


HEAD = ",".join(results.RUN_FIELDS) + "\n"
GOOD = "aa,table9/heatmap,0,8,50.0,,,,40\n"
NO_LIST = "Expected a lab's list of runs"


def test_a_list_of_runs_is_read(tmp_path):
    """By its keys; a list that is not there yet has no run."""
    (tmp_path / "runs.csv").write_text(HEAD + GOOD)
    assert list(results.read_runs(tmp_path / "runs.csv")) == ["aa"]
    assert not results.read_runs(tmp_path / "none.csv")


@pytest.mark.parametrize("bad", [
    pytest.param("bb,table9/heatmap,0\n", id="too short"),
    pytest.param("bb,table9/gone,0,8,50,,,,40\n", id="no such row"),
    pytest.param("bb,table9/heatmap,x,8,50,,,,\n", id="the seed is no number"),
    pytest.param("bb,table9/heatmap,0,8,,,,,\n", id="no accuracy"),
    pytest.param("bb,table9/heatmap,0,8,101,,,,\n", id="above 100 %"),
    pytest.param(GOOD[:-1] + ",1\n", id="too long"),
])
def test_a_list_of_runs_that_is_none_is_refused(bad, tmp_path):
    """Whatever is wrong with a line, the error names file and line."""
    path = tmp_path / "runs.csv"
    path.write_text(HEAD + GOOD + bad)
    with pytest.raises(ValueError, match=rf"runs\.csv line 3: .*{NO_LIST}"):
        results.read_runs(path)


def test_a_list_of_runs_in_another_encoding_is_refused(tmp_path):
    """A letter that is no UTF-8 is an error like the others."""
    path = tmp_path / "runs.csv"
    path.write_bytes(HEAD.encode() + b"bb,table9/heatm\xe4p,0,8,50,,,,40\n")
    with pytest.raises(ValueError, match=NO_LIST):
        results.read_runs(path)


LOSSES = {"the paper's loss": [], "with L_own": ["--own-loss", "0.5"]}


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """(loss, table) -> the runs that the table needs, those that are published among them."""
    known = results.read_runs(lab.PUBLISHED)
    folder = tmp_path_factory.mktemp("plans")
    found = {}
    for loss, flags in LOSSES.items():
        for table in TABLES:
            found[loss, table] = lab.plan_runs(table, 5, folder, flags, known)
    return found


@pytest.mark.parametrize("loss", LOSSES)
def test_the_tables_of_the_docs_are_the_published_runs(loss, plans, tmp_path):
    """docs/toy.md prints each table whose rows have all been run, as its runs say."""
    text = (lab.PUBLISHED.parent / "toy.md").read_text("utf-8")
    printed = 0
    for table in results.CLAIMS:
        rows = lab.results_of(table, plans[loss, table], tmp_path)
        if len(rows) < len(TABLES[table]):        # PeVL alone is a row of five tables
            continue
        printed += 1
        for line in results.markdown_of(table, rows):
            assert line.strip() in text, f"{table}: docs/toy.md lacks this line:\n{line}"
    assert printed, "no table of these settings is published"


def test_published_runs_are_of_settings_that_a_lab_can_have(plans):
    """Each stands in a table of one of the two losses: none is left from other settings."""
    counted = set()
    for plan in plans.values():
        counted.update(trial.key for trial in plan if trial.run)
    for run in results.read_runs(lab.PUBLISHED).values():
        name = f"{run['row']} seed {run['seed']}"
        assert run["key"] in counted, f"{name} is of other settings: it stands in no table"
