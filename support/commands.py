"""How every command ends: its exit code, and one line for what a person has to know.

here        | what it promises                                       | tests/test_robustness.py
run_command | a mistake is a line `error: ...`, a Ctrl-C is one, too | test_errors_begin_alike_*
"""
import os
import sys

import torch

from support.processes import leave_world
from support.stopped import CODE, STOPPED

# Where data loaders do not fork (macOS, Windows, Python 3.14), their workers are `python -c`, which
# looks for modules in the current folder first: a json.py there would be run. With this, from
# Python 3.11 on, they do not; the parent tells them where its own modules lie.
SAFE_PATH = "PYTHONSAFEPATH"


def run_command(job, *arguments):
    """Call `job(*arguments)` -> exit code: what the job gives, 0 for None.

    A person's mistake (ValueError, OSError) is one line on standard error and 2; so is a machine
    that is too small. Ctrl-C is a line and 130. With several processes the line says which rank.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        return job(*arguments) or 0
    except KeyboardInterrupt:
        tell(STOPPED)
        return CODE
    except (MemoryError, RuntimeError) as reason:
        # PyTorch's own: of a GPU an OutOfMemoryError, of a CPU a RuntimeError that only words tell.
        is_memory = isinstance(reason, (MemoryError, torch.OutOfMemoryError))
        if not is_memory and "can't allocate memory" not in str(reason):
            raise
        tell("error: out of memory. Expected room for the data and the model. Take a smaller "
             "--batch, or close other programs.")
        return 2
    except (ValueError, OSError) as reason:
        advice = ""
        if getattr(reason, "errno", None):        # the system's own words say no next step
            advice = ". Expected files and folders open to us, and room. Check them."
        tell(f"error: {reason}{advice}")
        return 2
    finally:
        leave_world()
        del os.environ[SAFE_PATH]
        if before is not None:
            os.environ[SAFE_PATH] = before


def tell(line):
    """A line on standard error, below a progress line where a terminal shows one."""
    rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"{line}{rank}", file=sys.stderr, flush=True)


def attempt(job, mistakes):
    """job(), or None with its ValueError or OSError appended to `mistakes`."""
    try:
        return job()
    except (ValueError, OSError) as mistake:
        mistakes.append(mistake)
        return None


def one_error(mistakes):
    """The only one of these errors, or a ValueError that lists all."""
    if len(mistakes) == 1:
        return mistakes[0]
    listed = "".join(f"\n  {number}. {mistake}" for number, mistake in enumerate(mistakes, 1))
    return ValueError(f"{len(mistakes)} mistakes:{listed}")
