"""Where the time goes, as ratios measured in one run: `python tests/bench.py [train] [data] [pose] [peers] [gpu] [--full]`.

train   share of the machine's matmul rate that PeVL reaches at ViT-B/16, forward and forward + backward; time per clip of
        each part at the toy size; evaluation with 48 and with 500 classes; memory with and without checkpointing;
        share of a step of train.py that waits for clips, at the toy and at 340x256 sizes
data    clips per second of decode + augment against decoding every frame (and decord, torchcodec when installed)
pose    frames per second of HRNet-W32, share of the time in the network
peers   CLIP's image tower beside Hugging Face's, where `pip install transformers` was run
gpu     on a card, in less than ten minutes: seconds, memory and share of the card's matmul rate of a step of train.py,
        with and without --grad-checkpointing and --compile, and the loader beside it; prints the table of docs/gpus.md
Figures of one machine: they belong in a table with its name, never in a timed test.
"""
import argparse
import csv
import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import av
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import data
import pose as poses
import train as training
from clip_model import BACKBONES, CLIP
from pevl import normalise
from published import hrnet
from report.log import peak_mib
from support.processes import World
from systems.config import PeVLConfig
from systems.registry import build_model
from tables.rows import PRESETS
from toy.tree import make_toy

WORDS = ("Forward", "Back", "Reverse", "Inward")


def best(work, runs=3):
    """Seconds of the fastest of `runs` calls after one that warms up."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def line(name, value, note=""):
    print(f"  {name:<58} {value:>12}  {note}", flush=True)


def matmul_rate(n=2048):
    """Multiply-accumulates per second of a square float32 product."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    return n ** 3 / best(lambda: a @ b, 5)


def texts_of(K):
    return [f"{WORDS[k % 4]}, {k // 4 % 9 + 1}.5 somersaults, {k % 7} twists, pike position, a video of diving action"
            for k in range(K)]


def model_of(backbone, K=48, **overrides):
    torch.manual_seed(0)
    config = PeVLConfig(**{"backbone": backbone, "image_size": BACKBONES[backbone].image_size, **overrides})
    return build_model(config, CLIP(BACKBONES[backbone]), texts_of(K))


def batch_of(config, B):
    S, T, Tv = config.image_size, config.pose_frames, config.video_frames
    return {"frames": torch.randint(0, 256, (B, Tv, 3, S, S), dtype=torch.uint8), "label": torch.arange(B) % 48,
            "keypoints": torch.rand(B, T, 17, 2) * 2 - 1, "scores": torch.ones(B, T, 17)}


def macs(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def kept_bytes(backbone, B, checkpointing, precision=torch.bfloat16):
    """Bytes of activations that a step of PeVL saves for its backward, each storage once, without parameters.

    Fake tensors have shapes and types but no data: the graph is built as on a card, and nothing is computed."""
    model, seen = model_of(backbone, grad_checkpointing=checkpointing), {}
    mode, future = FakeTensorMode(allow_non_fake_inputs=True), torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    future.set_overwrite_module_params_on_conversion(True)
    model._apply(mode.from_tensor)
    future.set_overwrite_module_params_on_conversion(before)
    batch = {name: mode.from_tensor(x) for name, x in batch_of(model.config, B).items()}

    def pack(x):
        own = isinstance(x, torch.nn.Parameter) or isinstance(x._base, torch.nn.Parameter)
        seen[x.untyped_storage()._cdata] = 0 if own else x.untyped_storage().nbytes(), x
        return x

    with mode, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            features = model(batch)
        features = {name: x.float() if x.is_floating_point() else x for name, x in features.items()}
        text = model.encode_texts(torch.arange(min(B, 48)))
        sum(x.sum() for x in model.similarities(features, text).values())
    return sum(size for size, _ in seen.values())


def memory(full):
    """Per clip and fixed, GiB: the slope and the rest of one and two clips."""
    for backbone in ("ViT-B/16", "ViT-L/14")[:1 + full]:
        model = model_of(backbone)
        weights = sum(p.nbytes for p in model.parameters()) + 3 * sum(x.nbytes for x in model.trainable_state().values())
        for on in (False, True):
            one, two = (kept_bytes(backbone, B, on) / 2**30 for B in (1, 2))
            line(f"kept for backward per clip, {backbone}, bf16{', --grad-checkpointing' if on else ''}",
                 f"{two - one:.2f} GiB", f"estimated; beside {2 * one - two + weights / 2**30:.1f} GiB for any batch")


def train(full):
    rate = matmul_rate()
    line("float32 matmul, 2048 x 2048", f"{rate / 1e9:.1f} GMAC/s", f"{torch.get_num_threads()} threads")
    model, B = model_of("ViT-B/16", drop_path=0.0), 1
    batch = batch_of(model.config, B)

    def forward():
        with torch.no_grad():
            return model(batch)

    def both():
        model.zero_grad(set_to_none=True)
        model.losses(model(batch))["total"].backward()

    for name, work in (("forward", forward), ("forward + losses + backward", both)):
        count, seconds = macs(work), best(work, 3 if full else 1)
        line(f"PeVL ViT-B/16, {name}, {B} clip", f"{seconds:.2f} s",
             f"{count / 1e9:.0f} GMAC, {count / seconds / rate:.0%} of the matmul rate")
    evaluation = {}
    for K in (48, 500):
        m = model_of("ViT-B/16", K).eval()
        with torch.no_grad():
            text = m.encode_texts()
            evaluation[K] = best(lambda: m.class_logits(m(batch), text), 3 if full else 1)
    line("evaluation per clip and view, 48 classes", f"{evaluation[48]:.3f} s",
         f"500 classes: {evaluation[500] / evaluation[48]:.3f} of it, texts encoded once")
    memory(full)
    toy(full)
    waits(full)


def toy(full):
    """The parts of a toy step, per clip."""
    fields = PeVLConfig.__dataclass_fields__
    preset = {k: v for k, v in PRESETS["toy"].items() if k in fields and k != "backbone"}
    model = model_of("tiny", 16, **preset)
    B = PRESETS["toy"].get("batch", 32)
    batch = {**batch_of(model.config, B), "label": torch.arange(B) % 16}
    trunk = model.clip.visual
    with torch.no_grad():
        features = model(batch)
        parts = {"video tower": lambda: model.video(normalise(batch["frames"]), trunk),
                 "pose tower": lambda: model.pose(batch["keypoints"], batch["scores"], trunk),
                 "texts": lambda: model.encode_texts(),
                 "forward": lambda: model(batch), "losses": lambda: model.losses(features)}
        seconds = {name: best(work, 5) for name, work in parts.items()}

    def step():
        model.zero_grad(set_to_none=True)
        model.losses(model(batch))["total"].backward()

    whole = best(step, 5)
    for name, s in seconds.items():
        line(f"toy, {name}, per clip of a batch of {B}", f"{s / B * 1e3:.2f} ms", f"{s / whole:.0%} of a step")
    line("toy, whole step (forward, losses, backward), per clip", f"{whole / B * 1e3:.2f} ms")


def waits(full):
    """What a step of train.py waits for its clips: real files, the default workers, the whole loop."""
    preset = [f"--{'no-' * (value is False)}{key.replace('_', '-')}" + f"={value}" * (not isinstance(value, bool))
              for key, value in PRESETS["toy"].items()]
    with tempfile.TemporaryDirectory() as folder:
        toy_clips, large_clips = Path(folder, "toy"), Path(folder, "340x256")
        make_toy(toy_clips, {"train": 320, "val": 4, "test": 4}, progress=lambda *_: None)
        wait("toy clips, toy preset", 3, "diving48", toy_clips, *preset)
        make_large_clips(large_clips, 10 if full else 4)
        wait("340x256 clips of 300 frames, ViT-B/16, batch 1", 1, "custom", large_clips,
             "--backbone", "ViT-B/16", "--clip", "random", "--batch", "1")


def make_large_clips(folder, count):
    """`count` clips of 300 frames, 340x256, with poses, as data set `custom`; the first one is for evaluation."""
    names = [f"clip{k}" for k in range(count)]
    rows = [f"{name}.mp4,dive {k},{'train' if k else 'test'}" for k, name in enumerate(names)]
    for name in names:
        (folder / "poses").mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{name}.mp4", 340, 256)
        joints = np.random.default_rng(0).uniform(0, 256, (FRAMES, 17, 2))
        poses.write_pose(folder / "poses" / f"{name}.npz", joints, np.ones((FRAMES, 17)), (256, 340),
                         np.arange(FRAMES) / 30, data.JOINT_SETS["coco17"].names)
    (folder / "clips.csv").write_text("\n".join(["path,label,split", *rows]))


def wait(name, skip, dataset, root, *flags):
    """One epoch of train.py; the first `skip` steps, which wait for the workers to start, are left out."""
    script, out = Path(data.__file__).with_name("train.py"), root / "run"
    command = [sys.executable, script, "--data", dataset, "--root", root, "--out", out, *flags]
    done = subprocess.run([*map(str, command), "--epochs", "1", "--warmup", "0", "--log-every", "1"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    rows = [(row["data_s"], row["step_s"]) for row in rows if row["kind"] == "step"][skip:]
    waited, worked = np.mean(rows, axis=0)
    line(f"data wait, {name}", f"{waited / (waited + worked):.2%}",
         f"{1e3 * waited:.1f} ms beside {worked:.2f} s, {len(rows)} steps; goal under 2 %")


# ---- data: every decoder does the same job, 16 random frames and one crop, one thread each --------------------------

FRAMES, WANTED, SIDE = 300, 16, 224


def write_video(path, width, height, frames=FRAMES, gop=250, fps=30):
    """A panned and shaken texture with moving blobs: motion vectors, residuals and B-frames as in real clips."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 8 + 40, width // 8 + 60, 3)).astype(np.uint8)
    wide = np.asarray(data.Image.fromarray(small).resize((small.shape[1] * 8, small.shape[0] * 8)))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for i in range(frames):
            x, y = int(220 + 200 * math.sin(i / 40)), int(150 + 140 * math.cos(i / 55))
            image = wide[y:y + height, x:x + width].copy()
            cx, cy = int(width * (0.5 + 0.4 * math.sin(i / 9))), int(height * (0.5 + 0.3 * math.cos(i / 7)))
            image[max(0, cy - 30):cy + 30, max(0, cx - 20):cx + 20] = (255 - i % 256, i % 256, 90)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(stream.encode())


def draws_of(seed):
    rng = np.random.default_rng(seed)
    chosen = ((np.arange(WANTED) + rng.random(WANTED)) / WANTED * FRAMES).astype(int)
    return chosen, rng.random(5)


def finish(images, view):
    """Frames already at view.size -> the crop, mirrored as drawn, channels first."""
    out = np.empty((WANTED, 3, SIDE, SIDE), np.uint8)
    for i, image in enumerate(images):
        piece = data.cut(image, view.boxes[0], SIDE)
        out[i] = (piece[:, ::-1] if view.flip else piece).transpose(2, 0, 1)
    return out


def view_of(size, draws):
    return data.train_view(*size, SIDE, draws, 0.5, True)


def decode_ours(path, seed):
    chosen, draws = draws_of(seed)
    views = []

    def plan(H, W):
        if not views:
            views.append(view_of((H, W), draws))
        return views[0].size
    images, _ = data.decode(path, lambda at: chosen, plan)
    return finish(images, views[0])


def decode_everything(path, seed):
    """Decode all frames from the first to the last, convert and keep the chosen ones."""
    chosen, draws = draws_of(seed)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", 1
        every = {k: frame.to_ndarray(format="rgb24") for k, frame in enumerate(container.decode(stream))
                 if k in chosen}
    view = view_of(every[chosen[0]].shape[:2], draws)
    return finish([resized(every[k], view) for k in chosen.tolist()], view)


def resized(image, view):
    image = data.Image.fromarray(image).resize(view.size[::-1], data.Image.Resampling.BILINEAR)
    return np.asarray(image)


def with_decord(path, seed):
    import decord
    chosen, draws = draws_of(seed)
    view = view_of(tuple(map(int, path.stem.split("-")[0].split("x")))[::-1], draws)
    reader = decord.VideoReader(str(path), width=view.size[1], height=view.size[0], num_threads=1)
    return finish(reader.get_batch(chosen.tolist()).asnumpy(), view)


def with_torchcodec(path, seed):
    from torchcodec.decoders import VideoDecoder
    chosen, draws = draws_of(seed)
    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode="exact")
    view = view_of((decoder.metadata.height, decoder.metadata.width), draws)
    images = decoder.get_frames_at(chosen.tolist()).data.numpy()
    return finish([resized(image, view) for image in images], view)


def rate(job, path, seconds):
    """Clips per second, best of three rounds."""
    job(path, 0)
    best = 0.0
    for _ in range(3):
        begun, n = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds / 3 or n < 2:
            job(path, n)
            n += 1
        best = max(best, n / (time.perf_counter() - begun))
    return best


def index_seconds(rows=240_000):
    """Seconds and MiB that reading a Kinetics index of that many rows takes, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        (root := Path(folder)).joinpath("train").mkdir()
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
        draw = random.Random(0)
        with open(root / "train.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            for i in range(rows):
                video = "".join(draw.choices(letters, k=11))
                table.writerow([f"action number {i % 400}", video, i % 300, i % 300 + 10, "train", 0])
                (root / "train" / f"{video}_{i % 300:06d}_{i % 300 + 10:06d}.mp4").touch()
        code = ("import resource, sys, time; sys.path.insert(0, sys.argv[1]); import data; from pathlib import Path\n"
                "used = lambda: int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20\n"
                "cfg, before, begun = data.DataConfig(data='k400', root=sys.argv[2], read_poses=False), used(), time.process_time()\n"
                "clips = data.Clips(cfg, 'train', True)\n"
                "print(len(clips), time.process_time() - begun, used() - before)")
        done = subprocess.run([sys.executable, "-c", code, str(Path(data.__file__).parent), folder],
                              capture_output=True, text=True, check=True)
    _, seconds, mib = done.stdout.split()
    return float(seconds), float(mib)


def decoding(full):
    """The data part."""
    seconds = 18 if full else 6
    jobs = {"ours": decode_ours, "every frame (PyAV)": decode_everything}
    for name, module, job in (("decord", "decord", with_decord), ("torchcodec", "torchcodec.decoders", with_torchcodec)):
        try:
            __import__(module)
            jobs[name] = job
        except Exception as error:
            print(f"{name}: not measured ({str(error).splitlines()[0][:70]})")
    with tempfile.TemporaryDirectory() as folder:
        for width, height, gop in ((340, 256, 250), (340, 256, 12), (1280, 720, 250), (1280, 720, 30)):
            path = Path(folder) / f"{width}x{height}-{gop}.mp4"
            write_video(path, width, height, gop=gop)
            rates = {name: rate(job, path, seconds) for name, job in jobs.items()}
            print(f"{WANTED} of {FRAMES} frames, {width}x{height} h264, key frame every {gop} "
                  f"({path.stat().st_size / 2**20:.1f} MiB), clips/s: "
                  + ", ".join(f"{name} {value:.1f}" for name, value in rates.items()), flush=True)
    print("240,000 Kinetics rows: {:.2f} s, {:.0f} MiB".format(*index_seconds()))


# ---- pose: 256 x 192 crops of 640 x 480 frames ---------------------------------------------------

def pose(full):
    """Frames per second of the whole step (crop, network, decode), and the network's share of it."""
    frames = list(np.random.default_rng(0).integers(0, 255, (8, 480, 640, 3), dtype=np.uint8))
    boxes = torch.tensor([[200.0, 60, 420, 460]] * len(frames))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = hrnet.fold_norms(hrnet.HRNet(32).eval()).to(device, memory_format=torch.channels_last)
    crops = hrnet.crop_people(frames, boxes, model.input_size, device)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    for flip in (False, True):
        def network():
            with torch.inference_mode():
                hrnet.predict_heatmaps(model, crops, flip)
            wait()
        whole = best(lambda: hrnet.predict(model, frames, boxes, flip))
        line(f"HRNet-W32, 256 x 192, {'with' if flip else 'without'} flip test, {device}",
             f"{len(frames) / whole:.2f} frames/s", f"network {best(network) / whole:.0%} of the time (goal 85 %)")


# ---- gpu: a step of train.py on a card -----------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Trial:
    """One row of the table: what is trained, and how."""
    backbone: str
    checkpointing: bool
    compile: bool

    @property
    def name(self):
        name = self.backbone
        if self.checkpointing:
            name += " `--grad-checkpointing`"
        if self.compile:
            name += " `--compile`"
        return name


# Those that compile come last: they may take minutes before their first step.
TRIALS = [Trial(backbone, checkpointing, compile)
          for compile in (False, True)
          for backbone in ("ViT-B/16", "ViT-L/14")
          for checkpointing in (False, True)]
SECONDS = 570                                     # for all of it: the command ends within ten minutes
MEMORY = {"ViT-B/16": (1.4, 1.2), "ViT-L/14": (4.3, 3.8)}      # GiB: fixed, and of a clip; docs/gpus.md, estimated
HEADER = "clips | s a step | clips/s | peak GiB | of the matmul rate"


def in_turn(ours, theirs, runs):
    """Seconds of the fastest call of each, called in turn, so that a busy moment meets both."""
    ours(), theirs()
    times = [], []
    for _ in range(runs):
        for work, spent in zip((ours, theirs), times):
            start = time.perf_counter()
            work()
            spent.append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def peers(full):
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        print(f"transformers: not measured ({error}); pip install transformers")
        return
    config = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                              patch_size=16, image_size=224, projection_dim=512, attn_implementation="sdpa")
    theirs = CLIPVisionModelWithProjection(config).eval()
    ours = CLIP(BACKBONES["ViT-B/16"]).visual.eval()
    images = torch.randn(8, 3, 224, 224)
    with torch.no_grad():
        own, other = in_turn(lambda: ours(images), lambda: theirs(pixel_values=images), 15 if full else 7)
    line("ViT-B/16 image tower, 8 images", f"{own:.2f} s", f"Hugging Face (sdpa) {other:.2f} s, {other / own:.2f} of ours")


def batch_that_fits(backbone, gib):
    """Clips of a step, a power of two up to 32, that a card of `gib` should hold without checkpointing."""
    fixed, each = MEMORY[backbone]
    clips = 32
    while clips > 1 and fixed + clips * each > 0.8 * gib:
        clips //= 2
    return clips


def step_macs(B, **settings):
    """Multiply-accumulates of forward, losses and backward, without what checkpointing repeats: counted on shapes."""
    with torch.device("meta"):
        model = model_of(**settings)
        batch = batch_of(model.config, B)
    return macs(lambda: model.losses(model.train()(batch))["total"].backward())


def measure_step(B, device, precision, compile=False, warm=3, steps=8, **settings):
    """A step of train.py on random clips: seconds (median), clips/s, peak MiB; settings: of PeVLConfig.

    It is train.take_step itself, from clips in pinned memory to new weights; the transfer of its losses, at its end,
    waits for the device, so that the clock is right without a further wait.
    """
    device = torch.device(device)
    with torch.device(device):
        model = model_of(**settings).train()
    cfg = training.TrainConfig(batch=B, precision=precision)
    batch = {**batch_of(model.config, B), "index": torch.arange(B), "broken": torch.zeros(B, dtype=torch.bool)}
    if device.type == "cuda":
        batch = {name: x.pin_memory() for name, x in batch.items()}
    groups = training.optimizer_groups(model, cfg)
    run = SimpleNamespace(
        cfg=cfg, at=training.new_position(), model=model, precision=precision, memory_told=True,
        optimizer=torch.optim.AdamW(groups, lr=cfg.lr, fused=True), world=World(0, 1, device),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"), steps=1000, warmup_steps=10)
    if compile:
        model.compile()

    times = []
    for _ in range(warm + steps):
        start = time.perf_counter()
        training.take_step(run, batch, stop=0)
        times.append(time.perf_counter() - start)
        run.at["batch"] += 1
        run.at["step"] += 1
    seconds = float(np.median(times[warm:]))
    return {"clips": B, "seconds": seconds, "clips_s": B / seconds, "peak_mib": peak_mib(device)}


def card_trial(text):
    """A child of `gpu`: one Trial, given as JSON -> the last line is a JSON object of figures, or of an error."""
    trial = Trial(**json.loads(text))
    gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    settings = dict(backbone=trial.backbone, grad_checkpointing=trial.checkpointing)
    try:
        B = batch_that_fits(trial.backbone, gib)
        found = measure_step(B, "cuda", precision, trial.compile, **settings)
        found["macs"] = step_macs(B, backbone=trial.backbone)
    except torch.cuda.OutOfMemoryError:
        found = {"error": "out of memory"}
    print("\n" + json.dumps(found))


def run_trial(trial, seconds):
    """The figures of a trial, from a process of its own, which `seconds` later is ended."""
    command = [sys.executable, __file__, "gpu", "--trial", json.dumps(dataclasses.asdict(trial))]
    if seconds < 20:
        return {"error": "no time left"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"not within {seconds:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"failed: {last[:60]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def card_table(results, rate=None, card="a card"):
    """The table of docs/gpus.md as lines. results: name of a Trial -> its figures; what is missing was not run."""
    lines = [f"| PeVL on {card} | {HEADER} |", "|---" * 6 + "|"]
    for trial in TRIALS:
        found = results.get(trial.name, {"error": "not run"})
        if "error" in found:
            cells = [found["error"]] + ["-"] * 4
        else:
            share = found["macs"] / found["seconds"] / rate
            cells = [str(found["clips"]), f"{found['seconds']:.3f}", f"{found['clips_s']:.1f}",
                     f"{found['peak_mib'] / 1024:.1f}", f"{share:.0%}"]
        lines.append(f"| {trial.name} | {' | '.join(cells)} |")
    return lines


def card_matmul_rate(device, precision, n=8192):
    """Multiply-accumulates per second of a square product of the precision that steps have."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    a = torch.randn(n, n, device=device, dtype=dtype)
    b = torch.randn(n, n, device=device, dtype=dtype)

    def products():
        for _ in range(10):
            c = a @ b
        return float(c[0, 0])                     # waits for the device

    return 10 * n ** 3 / best(products, 5)


def loader_rate(clips, batch, workers, seconds):
    """Clips per second of a DataLoader as train.py has it, clips drawn again and again; the first batch is not timed."""
    sampler = torch.utils.data.RandomSampler(clips, replacement=True, num_samples=10**6)
    loader = torch.utils.data.DataLoader(clips, batch, sampler=sampler, num_workers=workers,
                                         pin_memory=torch.cuda.is_available())
    batches = iter(loader)
    next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count == 0:
        count += len(next(batches)["label"])
    return count / (time.perf_counter() - start)


def gpu(full):
    """The gpu part."""
    if not torch.cuda.is_available():
        print("  not run: torch finds no CUDA card here. On a machine with one: python tests/bench.py gpu")
        return
    start = time.monotonic()
    precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    rate = card_matmul_rate("cuda", precision)
    workers = min(os.cpu_count(), 16)
    with tempfile.TemporaryDirectory() as folder:
        make_large_clips(Path(folder), 8)
        cfg = data.DataConfig(data="custom", root=folder, video_frames=16, pose_frames=48, image_size=224)
        loading = loader_rate(data.Clips(cfg, "train", True), 8, workers, seconds=20)
    torch.cuda.empty_cache()

    results = {}
    for trial in TRIALS:
        left = SECONDS - (time.monotonic() - start)
        results[trial.name] = run_trial(trial, left)
        print(f"  {trial.name}: {results[trial.name]}", flush=True)

    card = f"one {torch.cuda.get_device_name()}, {precision}, torch {torch.__version__}"
    print("\n".join(["", *card_table(results, rate, card), ""]))
    print(f"{precision} product of 8192 x 8192: {rate / 1e12:.0f} T multiply-accumulates/s. Loader: {loading:.0f} clips/s "
          f"of 340x256 h264 with {workers} workers on {os.cpu_count()} cores; {time.monotonic() - start:.0f} s in all.")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help="what to measure; default: train, data and pose")
    parser.add_argument("--full", action="store_true", help="more repetitions")
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.trial:
        return card_trial(args.trial)
    parts = {"train": train, "data": decoding, "pose": pose, "peers": peers, "gpu": gpu}
    if unknown := set(args.parts) - set(parts):
        parser.error(f"unknown part {sorted(unknown)[0]!r}. Expected one of {', '.join(parts)}")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in args.parts or ("train", "data", "pose"):
        print(name)
        parts[name](args.full)


if __name__ == "__main__":
    main()
