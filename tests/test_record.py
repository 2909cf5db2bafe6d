"""report/record.py and docs/results.md: a row has everything, or it is not written."""
import hashlib
import json
import re

import pytest

import eval as ev
from report import record

# What the JSON of an evaluation has for a row, and what only people can say.
FOUND = {"data": "diving48", "variant": "v2", "split": "test", "views": 3, "frames": "16 of 48",
         "system": "pevl", "backbone": "ViT-B/16", "top1": 0.9, "mean": 0.85, "clips": 1970,
         "seed": 0, "commit": "a" * 40, "sha256": "b" * 64, "hours": 12.5,
         "command": "train.py --data diving48"}
SAID = {"who": "A. Name", "card": "1 x A100", "hours": 0.0}

# Column of the page -> name in the JSON, of those that no flag can say.
OF_THE_JSON = [(column, name) for column, name in record.FIELDS.items() if name not in SAID]


def rows_of(text):
    """The rows of a page's table as dicts, by the names of the columns."""
    lines = text.splitlines()
    rows = []
    for line in lines[lines.index(record.header()[0]) + 2:]:
        if not line.startswith("|"):
            break
        cells = [part.strip() for part in line.strip("|").split("|")]
        rows.append(dict(zip(record.FIELDS, cells, strict=True)))
    return rows


@pytest.fixture
def page(tmp_path):
    """A page with a table that has no rows yet, and a line below it."""
    path = tmp_path / "results.md"
    path.write_text("# Results\n\n" + "\n".join(record.header()) + "\n\nend\n")
    return path


def check_row(row):
    """Fail unless all columns are filled, figures are figures, and the hash is one."""
    for column, cell in row.items():
        assert cell not in ("", "-", "None", "``"), f"{column} is empty in {row}"
    assert 0 <= float(row["top-1 %"]) <= 100
    assert float(row["hours"]) > 0
    assert re.fullmatch("`[0-9a-f]{12}`", row["checkpoint"])


def test_every_row_has_everything(page):
    """Each row of the page as it is, which outsiders edit, and a row that is written here."""
    for row in rows_of(record.PAGE.read_text("utf-8")):
        check_row(row)

    record.add_row(record.row_of(FOUND, SAID), page)
    (row,) = rows_of(page.read_text())
    check_row(row)


@pytest.mark.parametrize("column, name", OF_THE_JSON)
def test_what_is_missing_is_told(column, name):
    """Each column by its name: a JSON without it gives no row."""
    found = {key: value for key, value in FOUND.items() if key != name}
    with pytest.raises(ValueError, match=f"no {column} for the row"):
        record.row_of(found, SAID)


def test_a_row_is_added_once(page):
    """The same row twice is one row, another seed is another; what is below the table stays."""
    row = record.row_of(FOUND, SAID)
    record.add_row(row, page)
    record.add_row(row, page)
    record.add_row(record.row_of({**FOUND, "seed": 1}, SAID), page)

    rows = rows_of(page.read_text())
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert page.read_text().endswith("\n\nend\n")
    assert rows[0]["top-1 %"] == "90.00"
    assert rows[0]["hours"] == "12.50", "the log's, where the command line says 0"
    assert rows[0]["who"] == "A. Name"


def test_a_bar_or_a_line_break_ends_no_cell(page):
    """A prompt may hold a bar, and a name of several lines is one."""
    said = {**SAID, "who": "A. Name,\na lab"}
    row = record.row_of({**FOUND, "command": "train.py --prompt '{} | a dive'"}, said)
    record.add_row(row, page)
    (row,) = rows_of(page.read_text())
    assert row["command"] == "`train.py --prompt '{} / a dive'`"
    assert row["who"] == "A. Name, a lab"


@pytest.mark.parametrize("foreign", ["[1, 2]", "3", "null"])
def test_foreign_json_is_no_evaluation(page, tmp_path, foreign):
    """JSON that is no object is named, and the page stays as it was."""
    before = page.read_text()
    (tmp_path / "foreign.json").write_text(foreign)
    with pytest.raises(ValueError, match="foreign.json holds no evaluation"):
        record.record(tmp_path / "foreign.json", SAID, page)
    assert page.read_text() == before


def test_a_page_without_the_table_is_an_error(tmp_path):
    """A row is not written below just any text."""
    other = tmp_path / "other.md"
    other.write_text("nothing")
    with pytest.raises(ValueError, match="has no table"):
        record.add_row(record.row_of(FOUND, SAID), other)
    assert other.read_text() == "nothing"


def test_record_of_a_run(trained, page, tmp_path, monkeypatch, capsys):
    """Train, evaluate, record: the hash is the checkpoint's, the hours are those of its log."""
    ev.main(["--ckpt", str(trained.run), "--out", str(tmp_path), "--strips", "0"])
    evaluation = tmp_path / "eval-test-1view.json"
    found = json.loads(evaluation.read_text())
    assert found["sha256"] == hashlib.sha256((trained.run / "last.pt").read_bytes()).hexdigest()

    # A row of the log has the mean times of the steps since the row before: here of both steps.
    rows = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]
    (step,) = [row for row in rows if row["kind"] == "step"]
    assert step["step"] == 2
    assert found["hours"] == pytest.approx(2 * (step["data_s"] + step["step_s"]) / 3600)

    # Without git there is no commit, and without a commit no row: one is said in its place.
    evaluation.write_text(json.dumps({**found, "commit": found["commit"] or "0" * 40}))
    monkeypatch.setattr(record.record, "__defaults__", (page,))
    flags = ["--record", str(evaluation), "--card", "no GPU"]
    capsys.readouterr()
    assert ev.main(flags) == 2
    assert "no who for the row" in capsys.readouterr().err
    assert not rows_of(page.read_text())

    assert ev.main([*flags, "--who", "a test", "--hours", "2"]) == 0
    (row,) = rows_of(page.read_text())
    assert row["frames"] == "2 of 4"
    assert row["hours"] == "2.00"


def test_record_of_nothing(capsys):
    """A file that is not there is an error, and exit code 2."""
    assert ev.main(["--record", "nothing.json"]) == 2
    assert "no evaluation nothing.json" in capsys.readouterr().err
