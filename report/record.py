"""The table of results that outsiders fill: a row of docs/results.md from an evaluation's JSON.

    python eval.py --record out/run/eval-test-3view.json --who "A. Name, a lab" --card "1 x A100"

A figure without its split, its views and its checkpoint cannot be compared with another one, so a
row holds all of that or is not written.

here       | what it does                                        | tests/test_record.py
FIELDS     | the columns, in their order                         | test_every_row_has_everything
row_of     | JSON of an evaluation -> a row, or what is missing  | test_what_is_missing_is_told
add_row    | a row more in the page                              | test_a_row_is_added_once
facts_of   | what `eval.py` writes into the JSON for this        | test_record_of_a_run
           | (`system`: tables/printed.py)                       |
"""
import json
import shlex
from contextlib import suppress
from pathlib import Path

from report.log import rows_of, seconds_of
from support.files import atomic, hash_of

# Column of the table -> its name in the JSON, or in what the command line says.
FIELDS = {
    "data set": "data",
    "version": "variant",
    "split": "split",
    "views": "views",
    "frames": "frames",
    "system": "system",
    "backbone": "backbone",
    "top-1 %": "top1",
    "mean %": "mean",
    "clips": "clips",
    "seed": "seed",
    "commit": "commit",
    "checkpoint": "sha256",
    "card": "card",
    "hours": "hours",
    "command": "command",
    "who": "who",
}
PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"


def hours_of(folder):
    """Hours that a run has trained, by its metrics.jsonl; None where there is none."""
    if not (Path(folder) / "metrics.jsonl").exists():
        return None
    return seconds_of(rows_of(folder, "step")) / 3600


def facts_of(path, saved, variant):
    """What a row needs of the run behind a checkpoint: a dict for the JSON of its evaluation.

    path: the checkpoint. saved: what is in it. variant: version or split of the data set.
    """
    config = saved["config"]
    facts = {
        "variant": variant or "the only one",
        "frames": f"{config['video_frames']} of {config['pose_frames']}",
        "seed": config["seed"],
        "commit": saved["versions"].get("commit", ""),
        "sha256": hash_of(path).hexdigest(),
        "hours": hours_of(path.parent),
    }
    # No evaluation is lost to a config.json that is not there, or that somebody has edited.
    about = path.with_name("config.json")
    with suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
        facts["command"] = shlex.join(json.loads(about.read_text("utf-8")).get("command", []))
    return facts


def cell(name, value):
    """A value as the table shows it."""
    if name in ("top1", "mean"):
        return f"{100 * value:.2f}"
    if name == "hours":
        return f"{value:.2f}"
    if name in ("commit", "sha256"):
        return f"`{str(value)[:12]}`"
    text = " ".join(str(value).replace("|", "/").split())     # a cell has no bar and is one line
    return f"`{text}`" if name == "command" else text


def row_of(found, said):
    """JSON of an evaluation and what the command line says -> a line of the table.

    said: name -> text, of which empty ones are left out; it wins over the JSON. Raises ValueError
    that lists what is missing.
    """
    values = {**found, **{name: value for name, value in said.items() if value}}
    missing = []
    for column, name in FIELDS.items():
        if values.get(name) in (None, ""):
            missing.append(column)
    if missing:
        raise ValueError(f"no {', '.join(missing)} for the row. Expected all columns of "
                         f"{PAGE.name}. Say --who, --card and --hours; the command is in a run's "
                         "config.json, beside its checkpoint, and the commit in a checkpoint that "
                         "was trained in a git checkout; for the rest evaluate again with eval.py.")
    return "| " + " | ".join(cell(name, values[name]) for name in FIELDS.values()) + " |"


def header():
    """The two lines above the rows."""
    return ["| " + " | ".join(FIELDS) + " |", "|" + "---|" * len(FIELDS)]


def add_row(row, page=PAGE):
    """Write a row below the others of the page; one that is there already stays alone.

    Raises ValueError where the page has no such table.
    """
    lines = Path(page).read_text("utf-8").splitlines()
    top, rule = header()
    if top not in lines:
        raise ValueError(f"{page} has no table with the columns {', '.join(FIELDS)}. Expected it "
                         "there. Take the page from the repository again.")
    place = lines.index(top) + 2
    while place < len(lines) and lines[place].startswith("|"):
        if lines[place] == row:
            return
        place += 1
    lines.insert(place, row)
    with atomic(page) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def record(path, said, page=PAGE):
    """`eval.py --record`: the row of a JSON file into the page; returns the row."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no evaluation {path}. Expected an eval-*.json of eval.py. Run "
                                "`python eval.py` first.")
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Expected an eval-*.json of eval.py. Make it "
                         "again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no evaluation. Expected an eval-*.json of eval.py. Make it "
                         "again.")
    row = row_of(found, said)
    add_row(row, page)
    return row
