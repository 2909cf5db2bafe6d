"""report/record.py and docs/results.md: a row has everything, or it is not written."""
import hashlib
import json

import pytest

import eval as ev
from report import record
from test_label import trained  # noqa: F401

FOUND = {"data": "diving48", "variant": "v2", "split": "test", "views": 3, "frames": "16 of 48", "model": "pevl",
         "backbone": "ViT-B/16", "top1": 0.9, "mean": 0.85, "clips": 1970, "seed": 0, "commit": "a" * 40, "sha256": "b" * 64,
         "hours": 12.5, "command": "train.py --data diving48"}
SAID = {"who": "A. Name", "card": "1 x A100", "hours": 0.0}


def test_every_row_has_everything():
    """Of the page as it is: all columns filled, figures are figures."""
    text = record.PAGE.read_text("utf-8")
    for row in record.rows_in(text):
        assert len(row) == len(record.FIELDS) and all(cell not in ("", "-", "None", "``") for cell in row), row
        values = dict(zip(record.FIELDS, row))
        assert 0 <= float(values["top-1 %"]) <= 100 and float(values["hours"]) > 0 and len(values["checkpoint"]) == 14


@pytest.mark.parametrize("name", [name for name in record.FIELDS.values() if name not in SAID])
def test_what_is_missing_is_told(name):
    column = next(column for column, one in record.FIELDS.items() if one == name)
    with pytest.raises(ValueError, match=f"no {column} for the row"):
        record.row_of({key: value for key, value in FOUND.items() if key != name}, SAID)


def test_a_row_is_added_once(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n\n" + "\n".join(record.header()) + "\n\nend\n")
    row = record.row_of(FOUND, SAID)
    record.add_row(row, page)
    record.add_row(row, page)
    record.add_row(record.row_of({**FOUND, "seed": 1}, SAID), page)
    rows = [dict(zip(record.FIELDS, row)) for row in record.rows_in(page.read_text())]
    assert [row["seed"] for row in rows] == ["0", "1"] and page.read_text().endswith("\n\nend\n")
    assert rows[0]["top-1 %"] == "90.00" and rows[0]["hours"] == "12.50" and rows[0]["who"] == "A. Name"
    for foreign in ("[1, 2]", "3", "null"):
        (tmp_path / "foreign.json").write_text(foreign)
        with pytest.raises(ValueError, match="foreign.json holds no evaluation"):
            record.record(tmp_path / "foreign.json", SAID, page)
    with pytest.raises(ValueError, match="has no table"):
        (tmp_path / "other.md").write_text("nothing")
        record.add_row(row, tmp_path / "other.md")


def test_record_of_a_run(trained, tmp_path, monkeypatch, capsys):  # noqa: F811
    """The whole path: train, evaluate, record; the hash is the checkpoint's, the hours those of its log."""
    page = tmp_path / "results.md"
    page.write_text("\n".join(record.header()) + "\n")
    monkeypatch.setattr(record.record, "__defaults__", (page,))
    ev.main(["--ckpt", str(trained.run), "--out", str(tmp_path), "--strips", "0"])
    found = json.loads((tmp_path / "eval-test-1view.json").read_text())
    assert found["sha256"] == hashlib.sha256((trained.run / "last.pt").read_bytes()).hexdigest()
    rows = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert found["hours"] == pytest.approx(sum(2 * (r["data_s"] + r["step_s"]) for r in steps) / 3600)      # 2 steps, 1 row
    flags = ["--record", str(tmp_path / "eval-test-1view.json"), "--card", "no GPU"]
    capsys.readouterr()
    assert ev.main(flags) == 2 and "no who for the row" in capsys.readouterr().err
    assert ev.main([*flags, "--who", "a test", "--hours", "2"]) == 0
    (row,) = record.rows_in(page.read_text())
    assert dict(zip(record.FIELDS, row))["frames"] == "2 of 4" and dict(zip(record.FIELDS, row))["hours"] == "2.00"
    assert ev.main(["--record", "nothing.json"]) == 2 and "no evaluation" in capsys.readouterr().err
