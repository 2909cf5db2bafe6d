"""What a run says while it works: lines, rows of figures, tables of parameters and memory.

here             | what it gives                                         | tests/test_train.py
Log              | log.txt, metrics.jsonl, TensorBoard: row by row | test_resume, test_tensorboard
parameter_table  | M parameters, trainable and frozen, of each part      | test_command
reach_table      | how far a part's weights can go in this run           | test_reach_*
count_saved      | bytes that autograd keeps for the backward pass       | test_command
versions         | packages and commit, for config.json                  | test_command
"""
import importlib.metadata
import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from support.files import atomic


def seconds_of(steps):
    """Seconds that the steps of a run took; measuring after the epochs is not counted.

    steps: its rows of kind "step", each with the mean times of the steps since the row before.
    """
    seconds = 0.0
    done = 0
    for row in steps:
        seconds += (row["step"] - done) * (row["data_s"] + row["step_s"])
        done = row["step"]
    return seconds


def rows_of(folder, *kinds):
    """The rows of these kinds ("step", "epoch", "test") in a run's metrics.jsonl, a list of dicts.

    Empty where there is no such file. The half line that a kill can leave is no row.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("kind") in kinds:
                rows.append(row)
    return rows


class Log:
    """Lines to the screen and log.txt; rows of figures to metrics.jsonl and TensorBoard.

    folder: of the run. active: whether this process speaks; of several, rank 0 alone does.
    """

    def __init__(self, folder, active):
        self.folder = folder
        self.active = active
        self.board = None                         # TensorBoard's writer, with --tensorboard
        self.unfinished = False                   # the screen's last line may be overwritten

    def say(self, text, progress=False):
        """A line; on a terminal, one with `progress` is overwritten by the next such line."""
        if not self.active:
            return
        with open(self.folder / "log.txt", "a") as file:
            file.write(text + "\n")

        # A progress line stays open at its end, so that the next one can go back over it.
        if self.unfinished:
            begin = "\r" if progress else "\n"
        else:
            begin = ""
        self.unfinished = progress and sys.stdout.isatty()
        clear_rest = "\033[K"                     # of a longer line that was there before
        end = clear_rest if self.unfinished else "\n"
        print(begin + text, end=end, flush=True)

    def row(self, **values):
        """One JSON object of the plain values; it is on disk before any later checkpoint.

        values: `kind` ("step", "epoch" or "test"), `step`, `epoch` and figures. What is no number,
        text or list of broken clips, such as a confusion matrix, is left out.
        """
        if not self.active:
            return
        plain = {}
        for name, value in values.items():
            if isinstance(value, (int, float, str)) or name == "broken":
                plain[name] = value

        # Flushed to the disk itself: a checkpoint must never be ahead of its rows, or the rows of
        # the steps between would be missing for good when a run is killed and goes on.
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(plain) + "\n")
            file.flush()
            os.fsync(file.fileno())

        if self.board:
            for name in plain.keys() - {"kind", "broken"}:
                self.board.add_scalar(f"{plain['kind']}/{name}", plain[name], plain["step"])
            self.board.flush()

    def rows(self, *kinds):
        """The rows of these kinds so far, see `rows_of`."""
        return rows_of(self.folder, *kinds)

    def rewind(self, step, epoch):
        """Forget rows from beyond this step and epoch: a run that goes on writes them again."""
        # A kill leaves rows that are newer than the newest checkpoint. Step rows carry `step`,
        # epoch rows `epoch`; rows of the test split are made again at the end.
        kept = []
        for row in self.rows("step", "epoch"):
            reached = step if row["kind"] == "step" else epoch
            if row[row["kind"]] <= reached:
                kept.append(row)
        if self.active:
            with atomic(self.folder / "metrics.jsonl") as part:
                part.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def open_board(self, step):
        """Write TensorBoard events too, from `step` on; ValueError without the package."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard: there is no such package. Expected tensorboard. Leave "
                             "the flag out or run pip install tensorboard.") from None
        self.board = SummaryWriter(self.folder, purge_step=step)


def versions():
    """What made a run: Python, packages and, in a git checkout, the commit."""
    found = {"python": sys.version.split()[0], "commit": ""}
    project = Path(__file__).resolve().parent.parent
    if (project / ".git").exists():
        with suppress(OSError, subprocess.TimeoutExpired):        # no git here, or a slow disk
            git = subprocess.run(["git", "-C", str(project), "rev-parse", "HEAD"], text=True,
                                 capture_output=True, timeout=10)
            found["commit"] = git.stdout.strip()
    for name in ("torch", "numpy", "pillow", "av", "ftfy", "regex"):
        found[name] = importlib.metadata.version(name)
    return found


def parameter_rows(model):
    """Millions of parameters of each part and of all: [(name, all, trainable)]."""
    rows = []
    for name, part in {**model.parts(), "all": model}.items():
        params = list(part.parameters())
        total = sum(p.numel() for p in params) / 1e6
        tuned = sum(p.numel() for p in params if p.requires_grad) / 1e6
        rows.append((name, total, tuned))
    return rows


def parameter_table(model):
    """Total, trainable and frozen parameters of each part in millions, as text: see Table 7."""
    lines = [f"{'parameters, M':<16}{'total':>9}{'trainable':>11}{'frozen':>9}"]
    for name, total, tuned in parameter_rows(model):
        lines.append(f"{name:<16}{total:>9.3f}{tuned:>11.3f}{total - tuned:>9.3f}")
    return "\n".join(lines)


def widest(params):
    """Of some parameters the one whose entries lie furthest apart: (deviation, parameter).

    Norms, biases and temperatures are left out: they are vectors and single numbers that start at
    a value which already works. (0.0, None) where nothing is left.
    """
    deviation = 0.0
    chosen = None
    for p in params:
        if p.dim() < 2 or p.numel() < 2:
            continue
        own = p.detach().float().std().item()
        if chosen is None or own > deviation:
            deviation = own
            chosen = p
    return deviation, chosen


def reach_table(model, rates, drawn=True):
    """How far the weights of each part can go in a run, beside how far apart they start, as text.

    rates: kind of a group ("new" or "trunk") -> sum of its learning rates over the run. A step of
    AdamW moves a weight by about its rate, so the sum is as far as a weight gets when all its steps
    go the same way; they seldom do. A new part whose weights start further apart than that ends
    about where a random draw put it, and a line below the table says so. CLIP's own weights need
    not go far: they start where they work. drawn: whether new parts were drawn at random; with
    --init they were not, and need not go far either.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    lines = [f"{'learning rates':<21}{'sum':>10}{'deviation of weights':>22}"]
    stuck = []
    for group in model.parameter_groups():
        reach = rates[group["kind"]]
        deviation, chosen = widest(group["params"])
        if chosen is None:
            lines.append(f"{group['name']:<21}{reach:>10.2g}{'-':>22}")
            continue

        which = names[id(chosen)]
        lines.append(f"{group['name']:<21}{reach:>10.2g}{deviation:>22.2g}  {which}")
        if drawn and group["kind"] == "new" and reach < deviation:
            stuck.append(group["name"])

    if stuck:
        recipe = "--recipe aim, " if model.config.model == "pevl" else ""
        lines.append(f"note: cannot move: {', '.join(stuck)}. Their rates sum to less than the "
                     "deviation with which their weights start, so that they stay about where they "
                     f"were drawn. Try {recipe}a larger --new-lr or more --epochs.")
    return "\n".join(lines)


def peak_mib(device):
    """Most MiB so far: of the GPU's tensors, or of this process; 0 where none can tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2 ** 20
    try:
        import resource
    except ImportError:                           # on Windows
        return 0.0
    unit = 2 ** 20 if sys.platform == "darwin" else 2 ** 10         # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextmanager
def count_saved():
    """Count the bytes that autograd keeps for backward, each storage once: storage -> bytes.

    Weights are left out: they are there anyway.
    """
    seen = {}

    # Autograd calls `keep` for each tensor that it stores. Several may be views of one storage, so
    # the address of the storage is the key.
    def keep(x):
        storage = x.untyped_storage()
        # A linear layer keeps its weight transposed: a view, whose base is the weight.
        origin = x if x._base is None else x._base
        if isinstance(origin, nn.Parameter):
            seen[storage.data_ptr()] = 0
        else:
            seen[storage.data_ptr()] = storage.nbytes()
        return x

    def give_back(x):
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        yield seen


def memory_estimate(model, saved_bytes):
    """The memory of a training step as a line of text; saved_bytes: what autograd keeps."""
    tuned = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    weights = sum(p.nbytes for p in model.parameters())
    moments = 3 * tuned                           # the gradient, and AdamW's two moments
    mib = [round(x / 2 ** 20) for x in (weights, moments, saved_bytes)]
    total = round((weights + moments + saved_bytes) / 2 ** 20)
    return (f"memory of a step, estimated: weights {mib[0]} + gradients and AdamW {mib[1]} + "
            f"activations {mib[2]} = {total} MiB")
