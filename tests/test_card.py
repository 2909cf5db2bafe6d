"""Ready for a card where there is none: what goes wrong on a GPU alone is looked for on the CPU.

A step is traced by torch.compile in one piece; it asks nothing of the device but once, at its end;
and autocast gives each product the precision that docs/gpus.md tells. What does need a card has the
mark `cuda`: run `python -m pytest -m cuda` on one; elsewhere it is skipped.
"""
import contextlib
import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bench
import train
from children import run_rank, start_gloo
from clip_model import BACKBONES
from pevl import cosine
from runs import SMALL, configs, outcome, same, words
from steps import clips, close, gradients, small_model, tiny_model
from support.processes import World

HERE = Path(train.__file__).parent
needs_card = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no CUDA card here: run python -m pytest -m cuda on a machine with one")


# ---- torch.compile -------------------------------------------------------------------------------

def shallow_model(blocks=1, **changes):
    """A model with few blocks of each kind: watching takes its time, and blocks are alike."""
    sizes = dataclasses.replace(BACKBONES["tiny"], image_size=40, vision_layers=blocks,
                                text_layers=1)
    model = small_model(sizes, **changes)
    if model.config.model == "vilp":
        model.mixer.layers = model.mixer.layers[:1]
    return model.train()


def clips_alone(B):
    """A batch without what the loader says of its clips."""
    batch = clips(B)
    del batch["index"]
    del batch["broken"]
    return batch


def whole_step(model, batch, backend=None):
    """Losses and gradients of a step whose two halves are compiled, where a backend is named."""
    forward = model.forward
    losses = model.losses
    if backend:
        torch.compiler.reset()
        forward = torch.compile(forward, backend=backend, fullgraph=True)
        losses = torch.compile(losses, backend=backend, fullgraph=True)
    model.zero_grad(set_to_none=True)
    terms = losses(forward(batch))
    terms["total"].backward()
    return {name: x.detach() for name, x in terms.items()}, gradients(model)


@pytest.mark.parametrize("backend, changes", [
    pytest.param("eager", {"own_loss": 0.3}, id="pevl"),       # all towers, P2V, V2P
    pytest.param("aot_eager", {"own_loss": 0.3}, id="pevl, backward", marks=pytest.mark.slow),
    pytest.param("aot_eager", {"grad_checkpointing": True, "video": False, "text": False},
                 id="checkpointing", marks=pytest.mark.slow),
    pytest.param("aot_eager", {"model": "vilp"}, id="vilp", marks=pytest.mark.slow),
    pytest.param("aot_eager", {"model": "aim"}, id="aim", marks=pytest.mark.slow),
])
def test_compile_traces_without_a_break(backend, changes):
    """Towers and losses are one graph each, with the numbers of the plain program.

    At a break `fullgraph` raises. The backend "eager" traces the way forward, "aot_eager" the way
    back as well; neither makes code of the graph, which takes minutes.
    """
    model = shallow_model(**changes)
    batch = clips_alone(4)
    if changes.get("model") == "aim":             # its dropout differs with each way of running
        model.eval()
    terms, grads = whole_step(model, batch)
    again, traced = whole_step(model, batch, backend)
    close(again, terms)
    close(traced, grads)


# ---- A step asks the device once -----------------------------------------------------------------

# These need to know values on the host, or their result's size depends on values: they wait for
# the GPU.
WAITING = re.compile(
    r"aten\.(_local_scalar_dense|item|is_nonzero|equal|nonzero|nonzero_static|masked_select"
    r"|_unique.*|unique_.*|bincount|histc|repeat_interleave\.Tensor)\b")
INDEXING = ("aten.index.", "aten.index_put", "aten._index_put")


def tensors_of(value):
    """All tensors in nested containers."""
    return [x for x in tree_leaves(value) if isinstance(x, torch.Tensor)]


class NoWaiting(TorchDispatchMode):
    """Looks at each operation, backward's too: one that would wait for a GPU is an AssertionError.

    Tensors lie on the device "meta", which has shapes and no values. What is moved to the CPU is
    counted, in `transfers`, and is zero there. Everything else that mixes devices is refused, and
    so are masks as indices: their number of hits must be known.
    """

    def __init__(self):
        super().__init__()
        self.transfers = 0
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func)
        self.seen += 1
        assert not WAITING.match(name), f"{name} waits for the device"

        if name.startswith(INDEXING):
            kinds = {x.dtype for x in tensors_of(args[1])}
            is_mask = torch.bool in kinds or torch.uint8 in kinds
            assert not is_mask, f"{name} with a mask waits for the device"

        goal = torch.device(kwargs.get("device") or "meta")
        if name == "aten._to_copy.default" and goal.type == "cpu":
            self.transfers += 1
            return torch.zeros(args[0].shape, dtype=args[0].dtype)

        out = func(*args, **kwargs)
        devices = {x.device.type for x in tensors_of((args, kwargs, out))}
        assert devices <= {"meta"}, f"{name} on {devices}: a copy between host and device"
        return out


class NoConstants(TorchFunctionMode):
    """Refuses tensors made of Python numbers: on a GPU each is a copy from the host.

    The device "meta" takes no numbers, so that NoWaiting sees nothing of it.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        makes_one = func in (torch.tensor, torch.asarray, torch.Tensor.new_tensor)
        if func is torch.as_tensor:
            makes_one = not isinstance(args[0], torch.Tensor)
        assert not makes_one, f"{func.__name__} is a copy between host and device"
        return func(*args, **(kwargs or {}))


def run_on_meta(model, **settings):
    """As much of a Run as take_step needs; the optimizer is torch's simplest one."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    for group in optimizer.param_groups:
        group["factor"] = 1.0
    return SimpleNamespace(
        cfg=train.TrainConfig(**settings), at=train.new_position(), model=model,
        optimizer=optimizer, scaler=torch.amp.GradScaler("cpu", enabled=False), precision="fp32",
        memory_told=True, steps=10, warmup_steps=1.0, world=World(0, 1, torch.device("meta")),
        names=[str(i) for i in range(8)], train_set=range(800), config={"allow_broken": True})


def step_on_meta(model, monkeypatch, **settings):
    """One real take_step, watched -> the watcher."""
    monkeypatch.setattr(train, "autocast", lambda *_: contextlib.nullcontext())
    batch = {name: x.to("meta") for name, x in clips(8).items()}
    run = run_on_meta(model.to("meta").train(), **settings)
    with NoWaiting() as watcher, NoConstants():
        facts, _ = train.take_step(run, batch, stop=0)
    assert facts["total"] == 0.0, "the loss is not what the transfer brought, which are zeros"
    assert facts["grad_norm"] == 0.0, "the norm is not what the transfer brought, which are zeros"
    return watcher


@pytest.mark.parametrize("changes, settings", [
    ({"own_loss": 0.3, "drop_path": 0.3}, {"clip_grad": 1.0}),
    ({"literal_mask": True, "sgl": False, "grad_checkpointing": True}, {}),
    ({"fusion": "concat"}, {"accumulate": 2}),
    ({"text": False, "sgl": False}, {}),
    ({"video": False, "pose_input": "heatmaps", "sim": ("ps", "fw")}, {}),
    ({"model": "vilp"}, {}),
    ({"model": "aim"}, {"accumulate": 4}),
])
def test_a_step_waits_once(monkeypatch, changes, settings):
    """Forward, losses and backward run ahead of the device; one transfer, at the end, tells all."""
    model = shallow_model(blocks=2, **changes)    # the first block drops no path
    watcher = step_on_meta(model, monkeypatch, **settings)
    assert watcher.transfers == 1, "all that is printed leaves the device together"
    assert watcher.seen > 500, "the watcher was asked about a few operations only: it sees nothing"


class Peek(torch.autograd.Function):
    """Looks at a gradient, in backward."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * float(grad.sum() > 0)


FAULTS = {
    "item": lambda x: x * float(x.detach().sum()),
    "mask": lambda x: x + len(x[x > 0]),
    "unique": lambda x: x + x.unique().sum(),
    "constant": lambda x: x * torch.tensor([2.0], device="meta"),
    "copy": lambda x: x * torch.ones(1).to("meta"),
    "condition": lambda x: x + (1 if (x > 0).all() else 2),
    "backward": Peek.apply,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_watcher_sees_who_waits(monkeypatch, fault):
    """Each way to wait, put into the read-out of a tower, is found: the test above can fail."""
    model = shallow_model()
    read_out = model.clip.visual.read_out

    def faulty(tokens):
        return FAULTS[fault](read_out(tokens))

    monkeypatch.setattr(model.clip.visual, "read_out", faulty)
    with pytest.raises(AssertionError, match="waits for the device|between host and device"):
        step_on_meta(model, monkeypatch)


# ---- Precision -----------------------------------------------------------------------------------

# Products with weights, and attention.
PRODUCTS = re.compile(r"aten\.(mm|addmm|.*convolution.*|_scaled_dot_product.*)\b")


class Precisions(TorchDispatchMode):
    """Records the types that operations read: of products, and of all floating point."""

    def __init__(self):
        super().__init__()
        self.products = set()
        self.all = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        read = {x.dtype for x in tensors_of((args, kwargs)) if x.is_floating_point()}
        self.all |= read
        if PRODUCTS.match(str(func)):
            self.products |= read
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", [
    "cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_card])])
@pytest.mark.parametrize("changes", [
    pytest.param({}, id="pevl"),
    pytest.param({"text": False, "sgl": False}, id="head"),
    pytest.param({"model": "vilp"}, id="vilp"),
    pytest.param({"model": "aim"}, id="aim"),
])
def test_products_have_the_precision_that_is_told(device, changes):
    """docs/gpus.md: towers and refinement in bf16, the losses and the texts they encode in float32.

    Without a card: under the CPU's autocast, whose rule for products is the card's. (A pretended
    CUDA tensor cannot be used: torch's CPU build refuses to index one.)
    """
    model = shallow_model(**changes).to(device)
    batch = moved(clips(4), device)
    with Precisions() as towers:
        features = train.features_of(model, batch, (0,), "bf16")
    with Precisions() as losses:
        terms = model.losses(features)
    assert towers.products == {torch.bfloat16}, "a product of the towers is not in bf16"
    assert losses.all == {torch.float32}, "the losses read another precision"
    assert {x.dtype for x in terms.values()} == {torch.float32}


def test_cosines_stay_out_of_autocast():
    """A cosine is multiplied by up to 100: it is computed in float32 wherever it stands."""
    with torch.autocast("cpu", torch.bfloat16), Precisions() as inside:
        cosine(torch.randn(3, 8).bfloat16(), torch.randn(2, 8))
    assert inside.products == {torch.float32}, "autocast reached the product of a cosine"


# ---- `bench.py gpu`, as far as it runs without a card --------------------------------------------

def test_bench_gpu_says_that_there_is_no_card(monkeypatch, capsys):
    """One line below the heading, and no traceback."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main(["gpu"])
    _, part, said = capsys.readouterr().out.splitlines()
    assert part == "gpu"
    assert said.strip().startswith("not run: torch finds no CUDA card")


@pytest.mark.slow
def test_bench_gpu_measures_a_step_of_train_py(tree):
    """The measuring code on the CPU with the smallest sizes, and the table's line made of it."""
    small = SMALL | {"image_size": 80}
    found = bench.measure_step(2, "cpu", "fp32", warm=1, steps=2, **small)
    assert found["clips"] == 2
    assert found["clips_s"] == pytest.approx(2 / found["seconds"])

    found["macs"] = bench.step_macs(2, **small)
    assert found["macs"] == pytest.approx(2 * bench.step_macs(1, **small), rel=0.2)

    rate = bench.card_matmul_rate("cpu", "fp32", n=64)
    name = "ViT-L/14 `--grad-checkpointing`"
    table = bench.card_table({name: found, "ViT-B/16": {"error": "out of memory"}}, rate, "this")
    share = found["macs"] / found["seconds"] / rate
    assert table[2] == "| ViT-B/16 | out of memory | - | - | - | - |"
    assert table[5] == (f"| {name} | 2 | {found['seconds']:.3f} | {found['clips_s']:.1f} | "
                        f"{found['peak_mib'] / 1024:.1f} | {share:.0%} |")

    _, cfg, _ = configs(tree, "unused")
    dataset = bench.data.Clips(cfg, "train", True)
    assert bench.loader_rate(dataset, 4, workers=0, seconds=0) > 0


@pytest.mark.parametrize("backbone, gib, batch", [
    ("ViT-B/16", 8, 4), ("ViT-B/16", 16, 8), ("ViT-B/16", 24, 8), ("ViT-B/16", 80, 32),
    ("ViT-L/14", 8, 1), ("ViT-L/14", 16, 2), ("ViT-L/14", 24, 2), ("ViT-L/14", 80, 8),
])
def test_bench_gpu_chooses_batches_that_fit(backbone, gib, batch):
    """The largest power of two that leaves a fifth of the card free, by estimate; 1 at least."""
    assert bench.batch_that_fits(backbone, gib) == batch


def test_bench_gpu_ends_a_trial_that_takes_too_long(monkeypatch):
    """A trial that is not done in its seconds is an error in words, and so is one without time."""
    assert bench.run_trial(bench.TRIALS[0], seconds=5) == {"error": "no time left"}

    def wait_in_vain(command, timeout, **how):
        raise bench.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(bench.subprocess, "run", wait_in_vain)
    assert bench.run_trial(bench.TRIALS[0], seconds=30) == {"error": "not within 30 s"}


def test_bench_gpu_says_that_a_trial_failed(monkeypatch):
    """A child that ends with an error and says nothing is told as that."""
    monkeypatch.setattr(bench.sys, "executable", "/bin/false")
    assert bench.run_trial(bench.TRIALS[0], seconds=30) == {"error": "failed: no message"}


def test_the_table_of_the_page_is_that_of_the_command():
    """Header and first column of docs/gpus.md are card_table's: filled, or "not run"."""
    page = (HERE / "docs" / "gpus.md").read_text("utf-8")
    for line in bench.card_table({})[2:]:
        name = line.split(" | ")[0]
        assert f"{name} | " in page, f"docs/gpus.md has no row {name}"
    assert f" | {bench.HEADER} |" in page, "docs/gpus.md has another header"


# ---- What needs a card: python -m pytest -m cuda -------------------------------------------------

def moved(batch, device):
    return {name: x.to(device) for name, x in batch.items()}


@pytest.mark.cuda
@needs_card
@pytest.mark.parametrize("changes", [{}, {"model": "vilp"}, {"text": False, "sgl": False}])
def test_card_agrees_with_cpu(monkeypatch, changes):
    """Losses and gradients of a step in float32, TF32 off, to 1e-4."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = tiny_model(**changes)
    terms, _ = train.forward_backward(model, [clips(8)], [(0,), (1,)])
    grads = gradients(model)
    model.zero_grad(set_to_none=True)
    model.to("cuda")
    again, _ = train.forward_backward(model, [moved(clips(8), "cuda")], [(0,), (1,)])
    close(moved(again, "cpu"), terms, 1e-4)
    close(moved(gradients(model), "cpu"), grads, 1e-4)


@pytest.mark.cuda
@needs_card
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_card_resumes(tree, tmp_path, monkeypatch, precision):
    """Stopped after the third step and continued: with deterministic kernels the same bits."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    how = {"device": "cuda", "precision": precision}
    parts = tmp_path / "parts"
    real = train.take_step

    def stops(run, batch, stop):
        if run.at["step"] == 2:
            stop = 15                             # SIGTERM's number
        return real(run, batch, stop)

    try:
        train.train(*configs(tree, tmp_path / "whole", **how))
        monkeypatch.setattr(train, "take_step", stops)
        with pytest.raises(train.Stopped):
            train.train(*configs(tree, parts, **how))
        monkeypatch.setattr(train, "take_step", real)
        train.train(*configs(tree, parts, resume=True, **how))
    finally:
        torch.use_deterministic_algorithms(False)
    weights = moved(outcome(parts).model, "cpu")
    assert same(weights, moved(outcome(tmp_path / "whole").model, "cpu"))


@pytest.mark.cuda
@needs_card
def test_two_processes_on_one_card(tree, tmp_path):
    """Two ranks that share card 0, through gloo, have the losses and the weights of one process."""
    flags = {"epochs": 1, "drop_path": 0.0, "device": "cuda:0", "precision": "fp32"}
    train.train(*configs(tree, tmp_path / "one", **flags))
    start_gloo(2, rank_of_one_card, words(tree, tmp_path / "two", **flags))
    one = outcome(tmp_path / "one")
    two = outcome(tmp_path / "two")
    close(moved(two.model, "cpu"), moved(one.model, "cpu"), 1e-3)
    assert len(two.rows) == len(one.rows)
    for row, other in zip(two.rows, one.rows):
        assert row.get("total") == pytest.approx(other.get("total"), rel=1e-3)


def rank_of_one_card(rank, world, argv):
    """A rank of the test above: what join_world would choose, NCCL, refuses two on one card."""
    torch.distributed.init_process_group("gloo")
    run_rank(rank, world, argv)


@pytest.mark.cuda
@needs_card
def test_card_step_waits_once():
    """CUDA's own word for it: in its error mode a forward and backward pass waits nowhere."""
    model = tiny_model(own_loss=0.3).to("cuda").train()
    batch = moved(clips(8), "cuda")
    train.forward_backward(model, [batch], [(0,), (1,)])       # what is set up at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        train.forward_backward(model, [batch], [(0,), (1,)], "bf16")
    finally:
        torch.cuda.set_sync_debug_mode("default")
