"""Ready for a card where there is none: what can go wrong on a GPU alone is looked for on the CPU.

A step is traced by torch.compile in one piece; it asks nothing of the device but once, at its end; and autocast
gives each product the precision that docs/gpus.md tells. What does need a card has the mark `cuda`: run
`python -m pytest -m cuda` on one; elsewhere it is skipped.
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
from clip_model import BACKBONES, CLIP
from pevl import cosine
from runs import SMALL, configs, outcome
from support.processes import World
from systems.config import PeVLConfig
from systems.registry import build_model
from test_train import clips, close, gradients, run_job, same, start_gloo, tiny_model, words

HERE = Path(train.__file__).parent


def shallow_model(**changes):
    """A model like tiny_model with one block of each kind: tracing takes its time, and each block is traced alike."""
    config = PeVLConfig(**SMALL | dict(clip="random", drop_path=0.0) | changes)
    torch.manual_seed(0)
    sizes = dataclasses.replace(BACKBONES["tiny"], image_size=40, vision_layers=1, text_layers=1)
    model = build_model(config, CLIP(sizes), [f"{n} somersaults" for n in "1 2 3 4 5 6".split()], 17)
    if config.model == "vilp":
        model.mixer.layers.layers = model.mixer.layers.layers[:1]
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return model.train()


def clips_alone(B):
    return {name: x for name, x in clips(B).items() if name not in ("index", "broken")}


# ---- torch.compile -------------------------------------------------------------------------------

def whole_step(model, batch, compiled):
    """Losses and gradients of a step whose two halves are compiled, or not."""
    forward, losses = model.forward, model.losses
    if compiled:
        torch.compiler.reset()
        forward = torch.compile(forward, backend="aot_eager", fullgraph=True)
        losses = torch.compile(losses, backend="aot_eager", fullgraph=True)
    model.zero_grad(set_to_none=True)
    terms = losses(forward(batch))
    terms["total"].backward()
    return {name: x.detach() for name, x in terms.items()}, gradients(model)


@pytest.mark.parametrize("changes", [
    {"own_loss": 0.3},                                         # video, pose and text tower, P2V, V2P
    pytest.param({"grad_checkpointing": True, "video": False, "text": False}, marks=pytest.mark.slow),
    pytest.param({"model": "vilp"}, marks=pytest.mark.slow),
    pytest.param({"model": "aim"}, marks=pytest.mark.slow)], ids=["pevl", "checkpointing", "vilp", "aim"])
def test_compile_traces_without_a_break(changes):
    """Towers and losses are one graph each (`fullgraph` raises at a break), with the numbers of the plain program."""
    model, batch = shallow_model(**changes), clips_alone(4)
    if changes.get("model") == "aim":                          # its dropout is another with each way of running
        model.eval()
    terms, grads = whole_step(model, batch, compiled=False)
    again, traced = whole_step(model, batch, compiled=True)
    close(again, terms)
    close(traced, grads)


# ---- A step asks the device once -----------------------------------------------------------------

# These need to know values on the host, or their result's size depends on values: a GPU is waited for.
WAITING = re.compile(r"aten\.(_local_scalar_dense|item|is_nonzero|equal|nonzero|nonzero_static|masked_select|_unique.*|"
                     r"unique_.*|bincount|histc|repeat_interleave\.Tensor)\b")


class NoWaiting(TorchDispatchMode):
    """Looks at each operation, backward's too: one that would wait for a GPU is an AssertionError that names it.

    Tensors lie on the device "meta", which has shapes and no values. What is moved to the CPU is counted, in
    `transfers`, and is zero there. Everything else that mixes devices is refused, and so are masks as
    indices: their number of hits must be known.
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
        if name.startswith(("aten.index.", "aten.index_put", "aten._index_put")):
            kinds = {x.dtype for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)}
            assert not kinds & {torch.bool, torch.uint8}, f"{name} with a mask waits for the device"
        if name == "aten._to_copy.default" and torch.device(kwargs.get("device") or "meta").type == "cpu":
            self.transfers += 1
            return torch.zeros(args[0].shape, dtype=args[0].dtype)

        out = func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in tensors}
        assert devices <= {"meta"}, f"{name} on {devices}: a copy between host and device"
        return out


class NoConstants(TorchFunctionMode):
    """Refuses tensors made of Python numbers: on a GPU each is a copy from the host, and is waited for.

    The device "meta" takes no numbers, so that NoWaiting sees nothing of it.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func in (torch.tensor, torch.asarray, torch.Tensor.new_tensor)
        made = made or func is torch.as_tensor and not isinstance(args[0], torch.Tensor)
        assert not made, f"{func.__name__} is a copy between host and device"
        return func(*args, **(kwargs or {}))


def run_on_meta(model, **settings):
    """As much of a Run as take_step needs; the optimizer is torch's simplest one."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for group in optimizer.param_groups:
        group["factor"] = 1.0
    return SimpleNamespace(
        cfg=train.TrainConfig(**settings), at=train.new_position(), model=model, optimizer=optimizer,
        scaler=torch.amp.GradScaler("cpu", enabled=False), precision="fp32", memory_told=True, steps=10,
        warmup_steps=1.0, world=World(0, 1, torch.device("meta")), names=[str(i) for i in range(8)],
        train_set=range(800), config={"allow_broken": True})


def step_on_meta(model, monkeypatch, **settings):
    """One real take_step, watched -> the watcher."""
    monkeypatch.setattr(train, "autocast", lambda *_: contextlib.nullcontext())     # it knows no such device
    batch = {name: x.to("meta") for name, x in clips(8).items()}
    run = run_on_meta(model.to("meta").train(), **settings)
    with NoWaiting() as watcher, NoConstants():
        facts, _ = train.take_step(run, batch, stop=0)
    assert facts["total"] == 0.0 and facts["grad_norm"] == 0.0                      # the zeros of the transfer
    return watcher


@pytest.mark.parametrize("changes, settings", [
    ({"own_loss": 0.3, "drop_path": 0.3}, {"clip_grad": 1.0}),
    ({"literal_mask": True, "sgl": False, "grad_checkpointing": True}, {}),
    ({"fusion": "concat"}, {"accumulate": 2}),
    ({"text": False, "sgl": False}, {}),
    ({"video": False, "pose_input": "heatmaps", "sim": ("ps", "fw")}, {}),
    ({"model": "vilp"}, {}),
    ({"model": "aim"}, {"accumulate": 4})])
def test_a_step_waits_once(monkeypatch, changes, settings):
    """Forward, losses and backward run ahead of the device; what is printed leaves it in one transfer at the end."""
    watcher = step_on_meta(tiny_model(**changes), monkeypatch, **settings)
    assert watcher.transfers == 1
    assert watcher.seen > 500


class Peek(torch.autograd.Function):
    """Looks at a gradient, in backward."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * float(grad.sum() > 0)


@pytest.mark.parametrize("fault", [
    lambda x: x * float(x.sum()),
    lambda x: x + len(x[x > 0]),
    lambda x: x + x.unique().sum(),
    lambda x: x * torch.tensor([2.0], device="meta"),
    lambda x: x * torch.ones(1).to("meta"),
    lambda x: x + (1 if (x > 0).all() else 2),
    Peek.apply], ids=["item", "mask", "unique", "constant", "copy", "condition", "backward"])
def test_the_watcher_sees_who_waits(monkeypatch, fault):
    """Each way to wait, put into the read-out of a tower, is found: the test above can fail."""
    model = tiny_model()
    read_out = model.clip.visual.read_out
    monkeypatch.setattr(model.clip.visual, "read_out", lambda tokens: fault(read_out(tokens)))
    with pytest.raises(AssertionError, match="waits for the device|between host and device"):
        step_on_meta(model, monkeypatch)


# ---- Precision ------------------------------------------------------------------------------------

PRODUCTS = re.compile(r"aten\.(mm|addmm|.*convolution.*|_scaled_dot_product.*)\b")     # with weights; attention


class Precisions(TorchDispatchMode):
    """Records the types that operations read: of products, and of all floating point."""

    def __init__(self):
        super().__init__()
        self.products = set()
        self.all = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        read = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.is_floating_point()}
        self.all |= read
        if PRODUCTS.match(str(func)):
            self.products |= read
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA card here: run python -m pytest -m cuda on a machine with one")])])
@pytest.mark.parametrize("changes", [{}, {"text": False, "sgl": False}, {"model": "vilp"}, {"model": "aim"}],
                         ids=["pevl", "head", "vilp", "aim"])
def test_products_have_the_precision_that_is_told(device, changes):
    """docs/gpus.md: towers and refinement in bf16, the losses and the texts that they encode in float32.

    Without a card: under the CPU's autocast, whose rule for products is the card's. (A pretended CUDA tensor cannot be
    used: torch's CPU build refuses to index one.)
    """
    model = tiny_model(**changes).to(device).train()
    batch = {name: x.to(device) for name, x in clips(4).items()}
    with Precisions() as towers:
        features = train.features_of(model, batch, (0,), "bf16")
    with Precisions() as losses:
        terms = model.losses(features)
    assert towers.products == {torch.bfloat16}
    assert losses.all == {torch.float32}
    assert all(x.dtype == torch.float32 for x in terms.values())


def test_cosines_stay_out_of_autocast():
    """A cosine is multiplied by up to 100: it is computed in float32 wherever it stands."""
    with torch.autocast("cpu", torch.bfloat16), Precisions() as inside:
        cosine(torch.randn(3, 8).bfloat16(), torch.randn(2, 8))
    assert inside.products == {torch.float32}


# ---- `bench.py gpu`, as far as it runs without a card --------------------------------------------

def test_bench_gpu_says_that_there_is_no_card(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main(["gpu"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[2].strip().startswith("not run: torch finds no CUDA card")


@pytest.mark.slow
def test_bench_gpu_measures_a_step_of_train_py(tree):
    """The measuring code on the CPU with the smallest sizes, and the table's line that is made of it."""
    small = SMALL | {"image_size": 80}
    found = bench.measure_step(2, "cpu", "fp32", warm=1, steps=2, **small)
    assert found["clips"] == 2 and found["clips_s"] == pytest.approx(2 / found["seconds"])
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
    assert bench.loader_rate(bench.data.Clips(cfg, "train", True), 4, workers=0, seconds=0) > 0


def test_bench_gpu_chooses_batches_that_fit():
    assert [bench.batch_that_fits("ViT-B/16", gib) for gib in (8, 16, 24, 80)] == [4, 8, 8, 32]
    assert [bench.batch_that_fits("ViT-L/14", gib) for gib in (8, 16, 24, 80)] == [1, 2, 2, 8]


def test_bench_gpu_ends_a_trial_that_takes_too_long(monkeypatch):
    assert bench.run_trial(bench.TRIALS[0], seconds=5) == {"error": "no time left"}
    monkeypatch.setattr(bench.sys, "executable", "/bin/false")
    assert bench.run_trial(bench.TRIALS[0], seconds=30) == {"error": "failed: no message"}


def test_the_table_of_the_page_is_that_of_the_command():
    """Header and first column of docs/gpus.md are card_table's: filled, or "not run"."""
    page = (HERE / "docs" / "gpus.md").read_text("utf-8")
    for line in bench.card_table({})[2:]:
        assert line.split(" | ")[0] + " | " in page
    assert f" | {bench.HEADER} |" in page


# ---- What needs a card: python -m pytest -m cuda -------------------------------------------------

needs_card = pytest.mark.skipif(not torch.cuda.is_available(),
                                reason="no CUDA card here: run python -m pytest -m cuda on a machine with one")


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
    """Stopped after the third step and continued: the undisturbed run's weights, with deterministic kernels to the bit."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    real = train.take_step
    try:
        train.train(*configs(tree, tmp_path / "whole", device="cuda", precision=precision))

        def stops(run, batch, stop):
            return real(run, batch, 15 if run.at["step"] == 2 else stop)       # SIGTERM's number
        monkeypatch.setattr(train, "take_step", stops)
        with pytest.raises(train.Stopped):
            train.train(*configs(tree, tmp_path / "parts", device="cuda", precision=precision))
        monkeypatch.setattr(train, "take_step", real)
        train.train(*configs(tree, tmp_path / "parts", device="cuda", precision=precision, resume=True))
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(moved(outcome(tmp_path / "parts")[0], "cpu"), moved(outcome(tmp_path / "whole")[0], "cpu"))


@pytest.mark.cuda
@needs_card
def test_two_processes_on_one_card(tree, tmp_path):
    """Two ranks that share card 0, through gloo: NCCL wants a card for each; losses as on one process."""
    flags = dict(epochs=1, drop_path=0.0, device="cuda:0", precision="fp32")
    train.train(*configs(tree, tmp_path / "one", **flags))
    start_gloo(2, ranks_of_one_card, words(tree, tmp_path / "two", **flags))
    one, two = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    close(moved(two[0], "cpu"), moved(one[0], "cpu"), 1e-3)
    for row, other in zip(two[3], one[3]):
        assert row.get("total") == pytest.approx(other.get("total"), rel=1e-3)


def ranks_of_one_card(rank, world, argv):
    """A rank of the test above: what join_world would choose, NCCL, refuses two ranks on one card."""
    torch.distributed.init_process_group("gloo")
    run_job(rank, world, argv)


@pytest.mark.cuda
@needs_card
def test_card_step_waits_once():
    """CUDA's own word for it: in its error mode a forward and backward pass synchronises nowhere."""
    model = tiny_model(own_loss=0.3).to("cuda").train()
    batch = moved(clips(8), "cuda")
    train.forward_backward(model, [batch], [(0,), (1,)])                         # what is set up at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        train.forward_backward(model, [batch], [(0,), (1,)], "bf16")
    finally:
        torch.cuda.set_sync_debug_mode("default")
