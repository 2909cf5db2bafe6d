"""What a grading leaves: a table to read, JUnit XML, Gradescope's JSON; and the open task's board.

here       | what it gives                                   | tests/test_classroom.py
table      | points, and for each fact that fails the reason | test_reports_say_the_same
junit      | XML that any CI service reads                   | test_reports_say_the_same
gradescope | the results.json of a Gradescope autograder     | test_reports_say_the_same
board      | evaluations' JSON files, best first             | test_board_is_sorted
"""
import json
import re
import textwrap
from pathlib import Path
from xml.etree import ElementTree


def table(results):
    """The whole report as text."""
    lines = [f"{'mark':<6} {'points':>12} {'facts':>8} {'seconds':>8}"]
    for result in results:
        points = f"{result.points:.1f} / {result.most}"
        facts = f"{result.right} / {len(result.facts)}"
        lines.append(f"{result.mark:<6} {points:>12} {facts:>8} {result.seconds:>8.0f}")
    total = sum(result.points for result in results)
    most = sum(result.most for result in results)
    lines.append(f"{'sum':<6} {f'{total:.1f} / {most}':>12}")

    for result in results:
        for said in result.said:
            lines += ["", f"{result.mark}: {said}"]
        for message, facts in by_message(result).items():
            lines.append("")
            for fact in facts:
                lines.append(f"{result.mark}  {fact.name}")
                lines.append(f"    {fact.sentence}")
            for line in message.splitlines():
                lines += textwrap.wrap(line, 96, initial_indent="    > ",
                                       subsequent_indent="    > ")
    return "\n".join(lines)


def by_message(result):
    """Why facts fail -> the facts that fail for it: what is said for many is said once."""
    found = {}
    for fact in result.facts:
        if not fact.holds:
            found.setdefault(fact.message, []).append(fact)
    return found


def plain(text):
    """Without the characters that XML has no place for."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd]", "?", text)


def junit(results):
    """The results as JUnit XML, a text."""
    root = ElementTree.Element("testsuites")
    for result in results:
        suite = ElementTree.SubElement(root, "testsuite", {
            "name": result.mark, "tests": str(len(result.facts)),
            "failures": str(len(result.facts) - result.right), "time": f"{result.seconds:.1f}"})
        for fact in result.facts:
            case = ElementTree.SubElement(suite, "testcase", {"classname": result.mark,
                                                              "name": fact.name})
            if not fact.holds:
                message = plain(fact.message)
                failure = ElementTree.SubElement(case, "failure",
                                                 {"message": message.splitlines()[0][:300]})
                failure.text = f"{fact.sentence}\n{message}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def gradescope(results):
    """The results as Gradescope's results.json, a text."""
    tests = []
    for result in results:
        share = result.most / len(result.facts)
        for fact in result.facts:
            tests.append({
                "name": f"{result.mark}: {fact.name}",
                "score": round(share, 4) if fact.holds else 0.0,
                "max_score": round(share, 4),
                "status": "passed" if fact.holds else "failed",
                "output": fact.sentence if fact.holds else f"{fact.sentence}\n{fact.message}",
            })
    whole = {"score": round(sum(result.points for result in results), 2),
             "execution_time": round(sum(result.seconds for result in results)), "tests": tests}
    return json.dumps(whole, indent=1) + "\n"


def board(paths):
    """A table in Markdown of evaluations (`eval-*.json`), best first.

    Raises ValueError for a file that is none, and where they are not of the same clips, alike seen.
    """
    rows = []
    asked = {}                                    # data set, split, views, clips -> a file
    for path in map(Path, paths):
        try:
            found = json.loads(path.read_text("utf-8"))
            rows.append((float(found["top1"]), float(found["mean"]), int(found["clips"]), path))
            facts = [found.get(name) for name in ("data", "split", "views", "clips")]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is no evaluation. Expected an eval-<split>-<views>view.json. "
                             "`python eval.py` writes one beside the checkpoint.") from None
        asked.setdefault(" ".join(map(str, facts)), path)
    if len(asked) > 1:
        each = "; ".join(f"{path}: {facts}" for facts, path in asked.items())
        raise ValueError(f"these are of other data, splits, views or numbers of clips: {each}. "
                         "Expected evaluations alike. Make a board of each kind.")
    rows.sort(key=sort_key)
    lines = ["| place | top-1 | mean over classes | clips | file |", "|---|---|---|---|---|"]
    for place, (top1, mean, clips, path) in enumerate(rows, start=1):
        lines.append(f"| {place} | {100 * top1:.2f} | {100 * mean:.2f} | {clips} | {path} |")
    return "\n".join(lines)


def sort_key(row):
    """Best top-1 first, then best mean, then by name."""
    return -row[0], -row[1], str(row[3])
