"""Make assignments from this repository, and grade what comes back: docs/classroom.md.

    python -m classroom list                                   marks and assignments
    python -m classroom make eq1 eq5 --out DIR                 a student's copy
    python -m classroom make contrast --out DIR --solutions S  the same, and the teacher's folder
    python -m classroom grade DIR                              table; --junit, --gradescope: files
    python -m classroom hidden DIR --seed 7                    clips for the open task
    python -m classroom board out/*/eval-test-1view.json       its leaderboard
"""
if __name__ == "__main__":                        # before all other imports
    import support.interrupt

import argparse
import sys
from pathlib import Path

from classroom import report
from classroom.assignments import ASSIGNMENTS, MARKS, chosen
from classroom.grade import grade, marks_of, refuse_no_folder
from classroom.make import make_copy, make_solutions, refuse_full
from support.files import atomic
from support.settings import Parser
from toy.tree import TOY_SETTINGS, make_toy


def parser():
    """The command line."""
    whole = Parser(prog="python -m classroom", description=__doc__,
                   formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(dest="command", required=True)

    commands.add_parser("list", help="marks and assignments")

    make = commands.add_parser("make", help="a student's copy")
    make.add_argument("names", nargs="+", help="marks or assignments, see `list`")
    make.add_argument("--out", required=True, help="a new folder, for the student")
    make.add_argument("--solutions", help="a new folder, for the teacher")
    make.add_argument("--seed", type=int, default=1, help="of the private answers (1)")

    grading = commands.add_parser("grade", help="points for a hand-in")
    grading.add_argument("folder", help="what the student gave back")
    grading.add_argument("names", nargs="*", help="marks; else those of its assignment.json")
    grading.add_argument("--seed", type=int, default=1, help="of the private answers (1)")
    grading.add_argument("--seconds", type=float, default=20, help="time of one fact (20)")
    grading.add_argument("--mark-seconds", type=float, default=180, help="time of a mark (180)")
    grading.add_argument("--memory", type=int, default=2048, help="MiB beside PyTorch's (2048)")
    grading.add_argument("--junit", help="write JUnit XML to this file")
    grading.add_argument("--gradescope", help="write Gradescope's results.json to this file")

    hidden = commands.add_parser("hidden", help="the toy benchmark with another seed")
    hidden.add_argument("folder", help="a new folder")
    hidden.add_argument("--seed", type=int, required=True, help="of its clips; keep it to yourself")

    board = commands.add_parser("board", help="a leaderboard")
    board.add_argument("files", nargs="+", help="eval-<split>-<views>view.json files")
    return whole


def show_list():
    """All names that `make` takes."""
    print("assignments")
    for name, entry in ASSIGNMENTS.items():
        print(f"  {name:<11} {entry.title} ({', '.join(entry.marks) or 'open'}; {entry.hours}"
              f"{'' if entry.hours == 'a week' else ' hours'})")
    print("marks")
    for name, entry in MARKS.items():
        print(f"  {name:<11} {entry.title}, {entry.where}: {entry.points} points")


def make_command(args):
    """make: the copy, and the solutions where they are asked for."""
    marks, assignments = chosen(args.names)

    # What is wrong with the second folder is told before the first is written.
    if args.solutions:
        solutions = refuse_full(args.solutions).resolve()
        if Path(args.out).resolve() in (solutions, *solutions.parents):
            raise ValueError(f"--solutions {args.solutions} lies in the student's copy {args.out}. "
                             "Expected a folder of its own. Choose another.")
    make_copy(args.out, marks, assignments)
    print(f"{args.out}: the student's copy of {', '.join(args.names)}; ASSIGNMENT.md says the rest")
    if args.solutions:
        make_solutions(args.solutions, marks, args.seed)
        print(f"{args.solutions}: reference, oracles, answers of seed {args.seed}, rubric.md; "
              "not for students")


def grade_command(args):
    """grade: the table, and the files that were asked for."""
    refuse_no_folder(args.folder)
    marks, assignments = chosen(args.names)
    marks = marks or marks_of(args.folder)
    if marks is None and "open" not in assignments:
        raise ValueError(f"{args.folder} does not say what it is about. Expected an "
                         "assignment.json, or marks. Name them: `grade DIR eq1`.")
    if not marks:
        raise ValueError("the open task is measured, not graded. Expected marks. See `hidden` and "
                         "`board` in docs/classroom.md.")
    results = grade(args.folder, marks, seed=args.seed, seconds=args.seconds,
                    mark_seconds=args.mark_seconds, memory=args.memory)
    print(report.table(results))
    for path, text in ((args.junit, report.junit), (args.gradescope, report.gradescope)):
        if path:
            with atomic(path) as part:
                part.write_text(text(results), "utf-8")


def hidden_clips(folder, seed):
    """hidden: test clips anew, of the test split's identities; of the others one of each class.

    They are read as `--data diving48`, whose layout they have: as `--data toy` the program would
    replace them by its own.
    """
    if seed == TOY_SETTINGS["seed"]:
        raise ValueError(f"--seed {seed} gives the clips that every student has. Expected another "
                         "number. Choose one, and keep it to yourself.")
    make_toy(refuse_full(folder), {"seed": seed, "train": 16, "val": 16})
    print(f"{folder}: the toy benchmark's test clips of seed {seed}. Measure with `python eval.py "
          f"--data diving48 --root {folder} --ckpt CHECKPOINT`")


def run(argv):
    """One command."""
    args = parser().parse_args(argv)
    if args.command == "list":
        show_list()
    elif args.command == "make":
        make_command(args)
    elif args.command == "grade":
        grade_command(args)
    elif args.command == "hidden":
        hidden_clips(args.folder, args.seed)
    else:
        print(report.board(args.files))


def main(argv=None):
    """Exit code 0, or 2 with one line on standard error where a person made a mistake."""
    try:
        run(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError) as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
