"""toy/lab.py: runs that are shared, cut and not repeated; a table that is what the runs found."""
import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import train
from report.contents import LabRow
from report.log import rows_of
from runs import words
from tables.rows import ROWS, TABLES
from toy import lab, results


def test_claims_are_the_papers():
    """Every claim is a difference that the paper prints, between rows of its table."""
    for table, pairs in results.CLAIMS.items():
        for better, worse in pairs:
            high, low = (ROWS[f"{table}/{name}"].top1 for name in (better, worse))
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
    rows = [LabRow("pevl", "", 91.9, high, []), LabRow("no-p2v", "", 91.1, low, [])]
    said = results.judge(rows, "pevl", "no-p2v")
    assert said == f"`pevl` above `no-p2v` (paper +0.8): {verdict}"
    assert results.judge(rows, "pevl", "no-v2p") == "", "a row without runs has no verdict"


def short_runs(tree, out):
    """Flags of a lab whose runs take a second, without those that are the rows' to say."""
    flags = [f for f in words(tree, out, epochs=1, image_size=20, pose_frames=2, video_frames=1)
             if not f.startswith(("--row", "--seed"))]
    flags = [f for f in flags if not f.lstrip("-").removeprefix("no-").replace("-", "_")
             in {k for row in ROWS.values() for k in row.overrides}]
    return [f for f in flags if not f.startswith(("--sim", "--fusion", "--pose-input"))]


def test_lab(tree, tmp_path, monkeypatch, capsys):
    """A table's rows x seeds are trained once each, a model that two tables share included; a lab
    that was cut goes on; the figures written are those of the runs' own test rows."""
    flags = short_runs(tree, tmp_path / "lab")
    trained, real = [], train.train

    def count(cfg, *others):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((cfg.row, cfg.seed))
        return real(cfg, *others)

    monkeypatch.setattr(train, "train", count)
    command = ["table9", *flags, "--seeds", "2"]
    assert lab.main(command) == 130 and trained == [("table9/heatmap", 0), ("table7/p", 0)]
    trained.clear()
    assert lab.main(command) == 0 and trained == [("table9/heatmap", 1), ("table7/p", 1)]
    out = capsys.readouterr().out
    assert "lab: table9, 2 of 4 runs to train, 1 at a time" in out and "Order of the paper: coordinates > heatmap" in out
    assert "`coordinates` above `heatmap` (paper +2.5): " in out
    with open(tmp_path / "lab" / "table9.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"heatmap", "coordinates"} and rows["heatmap"]["paper"] == "80.1"
    for name, folder in (("heatmap", "table9-heatmap"), ("coordinates", "table7-p")):
        tops = [100 * json.loads(line)["top1"] for seed in (0, 1) for line in
                (tmp_path / "lab" / folder / f"seed{seed}-epochs1" / "metrics.jsonl").open()
                if json.loads(line)["kind"] == "test"]
        assert len(tops) == 2 and float(rows[name]["mean"]) == pytest.approx(sum(tops) / 2)
        assert float(rows[name]["std"]) == pytest.approx(abs(tops[0] - tops[1]) / 2 ** 0.5)
        assert float(rows[name]["error"]) == pytest.approx(abs(tops[0] - tops[1]) / 2)
    assert (tmp_path / "lab" / "table9.png").stat().st_size > 1000
    page = (tmp_path / "lab" / "table9.html").read_text(encoding="utf-8")      # each seed leads to its run's page
    links = re.findall(r'href="([^"#]+)">([^<]+)</a>', page)
    assert len(links) == 4 and all((tmp_path / "lab" / path).is_file() for path, _ in links)
    assert links[2][0] == "table7-p/seed0-epochs1/report.html" and links[2][1] == f"{tops[0]:.1f}"
    assert "80.1" in page and f"{float(rows['heatmap']['mean']):.1f} ± " in page
    trained.clear()                                            # all is there: nothing is trained
    assert lab.main(command) == 0 and not trained
    assert lab.main([*command, "--fresh"]) == 130 and len(trained) == 2         # but for --fresh
    trained.clear()
    for flags_beside in (["--row", "table5/no-p2v"], ["--seed", "1"], ["--list-rows"]):
        assert lab.main([*command, *flags_beside]) == 2
        assert "beside a lab" in capsys.readouterr().err
    for flags_beside in (["--seeds", "0"], ["--jobs", "0"]):
        assert lab.main([*command, *flags_beside]) == 2
        assert "Expected 1 or more" in capsys.readouterr().err
    assert lab.main([*command, "--lambda-r", "0.2"]) == 2        # other settings: not these runs
    assert "lambda_r" in capsys.readouterr().err
    assert lab.main(["table55", *flags]) == 2
    assert "table5" in capsys.readouterr().err


def published_line(trial, top1):
    return {"key": trial.key, "row": trial.configs[0].row, "seed": trial.seed, "epochs": 4,
            "top1": top1, "vs": "", "ps": "", "fw": "", "val": 50}


def test_published_runs_stand_for_these_settings_alone(tmp_path, monkeypatch, capsys):
    """--published prints what the file of published runs holds, trains nothing, and takes no run of
    other settings, clips or CLIP weights for one of these."""
    folder = tmp_path / "lab"
    monkeypatch.setattr(lab, "PUBLISHED", tmp_path / "toy-runs.csv")
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("--published trains nothing"))
    runs = {}
    for trial in lab.plan_runs("table9", 2, folder, [], {}):
        top1 = 80 + trial.seed if trial.row == "table9/coordinates" else 70 + trial.seed
        runs[trial.key] = published_line(trial, top1)
    assert len(runs) == 4, "two rows with two seeds are four different runs"
    results.write_runs(lab.PUBLISHED, runs)
    assert results.read_runs(lab.PUBLISHED).keys() == runs.keys()

    command = ["table9", "--published", "--out", str(folder)]
    assert lab.main(command) == 0
    said = capsys.readouterr().out
    assert "`coordinates` above `heatmap` (paper +2.5): +10.0 ± 0.7, holds" in said
    assert "80.5 ± 0.7" in said and "80.0 81.0" in said

    # Coordinates are a row of Table 7 as well: it is one run, which both tables print.
    assert lab.main(["table7", *command[1:]]) == 0
    assert "| `p` |" in capsys.readouterr().out
    assert lab.main(["table5", *command[1:]]) == 0
    assert "none of its runs is published" in capsys.readouterr().out

    for flags in (["--epochs", "9"], ["--lr", "0.1"], ["--pose-frames", "8"], ["--init", "x.pt"]):
        assert lab.main([*command, *flags]) == 0
        assert "none of its runs is published" in capsys.readouterr().out, flags
    assert lab.main([*command, "--log-every", "7"]) == 0, "changes no figure"
    assert "80.5" in capsys.readouterr().out
    with monkeypatch.context() as other:
        other.setitem(lab.tree.TOY_SETTINGS, "legs_lost", .99)
        assert lab.main(command) == 0
        assert "none of its runs is published" in capsys.readouterr().out
    with monkeypatch.context() as other:
        other.setattr(lab, "TINY", tmp_path / "toy-runs.csv")      # other weights
        assert lab.main(command) == 0
        assert "none of its runs is published" in capsys.readouterr().out

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
    assert runs
    first = lab.first_of_model()
    assert len({tuple(run.values()) for run in runs.values()}) == len(runs)
    for run in runs.values():
        assert first[run["row"]] == run["row"], f"{run['row']}: published under the first row of its model"
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
        found[jobs] = {(run["row"], run["top1"]) for run in results.read_runs(out / "runs.csv").values()}
    assert found["1"] == found["2"] and len(found["1"]) == 2
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
    assert "error: table9/heatmap seed 0: " in said and "Traceback" not in said
    assert not multiprocessing.active_children(), "a process of the lab is left"
    begun = [path for path in out.glob("*/seed*") if path != broken]
    assert len(begun) <= 2, f"runs were begun after the failure: {begun}"


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_of_the_lab(tree, tmp_path):
    """The runs save and end, none begins, and the command says so in a line."""
    out = tmp_path / "lab"
    flags = [flag for flag in short_runs(tree, out) if not flag.startswith("--epochs")]
    command = [sys.executable, "-m", "toy.lab", "table9", *flags, "--epochs", "500", "--seeds", "4",
               "--jobs", "2"]
    process = subprocess.Popen(command, cwd=lab.tree.PROJECT, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    folders = [out / row / "seed0-epochs500" for row in ("table9-heatmap", "table7-p")]
    deadline = time.monotonic() + 120
    while not all(rows_of(folder, "step") for folder in folders):
        assert time.monotonic() < deadline and process.poll() is None, "the runs did not begin"
        time.sleep(.2)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (130, 128 + signal.SIGINT)
    assert "Traceback" not in said, said
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True).stdout
    group = [line.split() for line in listed.splitlines()]
    left = [state for number, state in group if number == str(process.pid) and state[0] != "Z"]
    assert not left, "a process of the lab is left"              # Z: ended, and not yet taken note of
    assert all((folder / "last.pt").is_file() for folder in folders), "what was trained is lost"
    assert len(list(out.glob("*/seed*"))) == 2, "a run was begun after Ctrl-C"


def test_a_list_of_runs_that_is_none_is_refused(tmp_path):
    """Whatever is wrong with it, the error names file and line."""
    path = tmp_path / "runs.csv"
    head = ",".join(results.RUN_FIELDS) + "\n"
    good = "aa,table9/heatmap,0,8,50.0,,,,40\n"
    path.write_text(head + good)
    assert list(results.read_runs(path)) == ["aa"] and not results.read_runs(tmp_path / "none.csv")
    for bad in ("bb,table9/heatmap,0\n", "bb,table9/gone,0,8,50,,,,40\n", "bb,table9/heatmap,x,8,50,,,,\n",
                "bb,table9/heatmap,0,8,,,,,\n", "bb,table9/heatmap,0,8,101,,,,\n", good[:-1] + ",1\n"):
        path.write_text(head + good + bad)
        with pytest.raises(ValueError, match=r"runs\.csv line 3: .*Expected a lab's list of runs"):
            results.read_runs(path)
    path.write_bytes(head.encode() + b"bb,table9/heatm\xe4p,0,8,50,,,,40\n")
    with pytest.raises(ValueError, match="Expected a lab's list of runs"):
        results.read_runs(path)


@pytest.mark.parametrize("flags", [[], ["--own-loss", "0.5"]], ids=["the paper's loss", "with L_own"])
def test_the_tables_of_the_docs_are_the_published_runs(flags, tmp_path):
    """docs/toy.md prints a table whose rows have all been run, row for row and claim for claim, as its runs say."""
    text = (lab.PUBLISHED.parent / "toy.md").read_text()
    known = results.read_runs(lab.PUBLISHED)
    printed = 0
    for table in results.CLAIMS:
        plan = lab.plan_runs(table, 5, tmp_path, flags, known)
        rows = lab.results_of(table, plan, tmp_path)
        if len(rows) < len(TABLES[table]):                       # PeVL alone is a row of five tables
            continue
        printed += 1
        for line in results.markdown_of(table, rows):
            assert line.strip() in text, f"{table}: docs/toy.md lacks this line:\n{line}"
    assert printed, "no table of these settings is published"


def test_published_runs_are_of_settings_that_a_lab_can_have(tmp_path):
    known = results.read_runs(lab.PUBLISHED)
    counted = set()
    for flags in ([], ["--own-loss", "0.5"]):
        for table in TABLES:
            counted |= {trial.key for trial in lab.plan_runs(table, 5, tmp_path, flags, known) if trial.run}
    for run in known.values():
        assert run["key"] in counted, f"{run['row']} seed {run['seed']} is of other settings: it stands in no table"
