"""Where the time goes, as ratios measured in one run.

    python tests/bench.py [train] [data] [pose] [peers] [gpu] [--full]

train   share of the machine's matmul rate that PeVL reaches at ViT-B/16, forward and forward +
        backward; time per clip of each part at the toy size; evaluation with 48 and with 500
        classes; memory with and without checkpointing; share of a step of train.py that waits for
        clips, at the toy and at 340x256 sizes
data    clips per second of decode + augment against decoding every frame (and decord, torchcodec
        when installed); reading a Kinetics index of 240,000 rows
pose    frames per second of HRNet-W32, share of the time in the network
peers   CLIP's image tower beside Hugging Face's, where `pip install transformers` was run
gpu     on a card, in less than ten minutes: seconds, memory and share of the card's matmul rate of
        a step of train.py, with and without --grad-checkpointing and --compile, and the loader
        beside it; prints the table of docs/gpus.md

Figures of one machine: they belong in a table with its name, never in a timed test. `train`, `data`
and `pose` run where no part is named; each part is a function, at the end of its section below.
tests/test_card.py runs what of the gpu part needs no card.
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


# ---- Measuring -----------------------------------------------------------------------------------

def seconds_of(work):
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(work, runs=3):
    """Seconds of the fastest of `runs` calls after one that warms up."""
    work()
    return min(seconds_of(work) for _ in range(runs))


def line(name, value, note=""):
    """Print a figure with its name before it and what it means behind it."""
    print(f"  {name:<58} {value:>12}  {note}", flush=True)


def matmul_rate(n=2048):
    """Multiply-accumulates per second of a square float32 product."""
    a = torch.randn(n, n)
    b = torch.randn(n, n)
    return n ** 3 / best(lambda: a @ b, runs=5)


def macs(work):
    """Multiply-accumulates of one call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def texts_of(K):
    """K label texts, each another dive, as long as Diving48's."""
    texts = []
    for k in range(K):
        somersaults = k // 4 % 9 + 1
        twists = k % 7
        texts.append(f"{WORDS[k % 4]}, {somersaults}.5 somersaults, {twists} twists, "
                     "pike position, a video of diving action")
    return texts


def model_of(backbone, K=48, **overrides):
    """PeVL of K classes on random weights; overrides: of PeVLConfig."""
    torch.manual_seed(0)
    sizes = BACKBONES[backbone]
    settings = {"backbone": backbone, "image_size": sizes.image_size, **overrides}
    return build_model(PeVLConfig(**settings), CLIP(sizes), texts_of(K))


def batch_of(config, B, classes=48):
    """A batch of B random clips of the sizes of a PeVLConfig."""
    S, T, Tv = config.image_size, config.pose_frames, config.video_frames
    return {
        "frames": torch.randint(0, 256, (B, Tv, 3, S, S), dtype=torch.uint8),
        "label": torch.arange(B) % classes,
        "keypoints": torch.rand(B, T, 17, 2) * 2 - 1,
        "scores": torch.ones(B, T, 17),
    }


def train_once(model, batch):
    """Forward, losses and backward, from gradients of none."""
    model.zero_grad(set_to_none=True)
    model.losses(model(batch))["total"].backward()


# ---- train: PeVL at ViT-B/16 and at the toy size -------------------------------------------------

def made_fake(model, mode):
    """Turn the parameters of a model into fake tensors: shapes and types without data."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    model._apply(mode.from_tensor)
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def kept_bytes(backbone, B, checkpointing, precision=torch.bfloat16):
    """Bytes of activations that a step of PeVL saves for its backward, without parameters.

    Each storage counts once. On fake tensors the graph is built as on a card, and nothing is
    computed.
    """
    model = model_of(backbone, grad_checkpointing=checkpointing)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made_fake(model, mode)
    batch = {name: mode.from_tensor(x) for name, x in batch_of(model.config, B).items()}
    sizes = {}
    alive = []                                    # a storage that is freed would give its number on

    def pack(x):
        storage = x.untyped_storage()
        is_weight = isinstance(x, torch.nn.Parameter) or isinstance(x._base, torch.nn.Parameter)
        sizes[storage._cdata] = 0 if is_weight else storage.nbytes()
        alive.append(x)
        return x

    def unpack(x):
        return x

    with mode, torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            features = model(batch)
        for name, x in features.items():
            if x.is_floating_point():
                features[name] = x.float()
        text = model.encode_texts(torch.arange(min(B, 48)))
        sum(x.sum() for x in model.similarities(features, text).values())
    return sum(sizes.values())


def memory(full):
    """Per clip and fixed, GiB: the slope and the rest of one and two clips."""
    backbones = ["ViT-B/16"]
    if full:
        backbones.append("ViT-L/14")
    for backbone in backbones:
        model = model_of(backbone)
        weights = sum(p.nbytes for p in model.parameters())
        trained = sum(x.nbytes for x in model.trainable_state().values())
        fixed = (weights + 3 * trained) / 2**30   # a gradient and AdamW's two moments each
        for checkpointing in (False, True):
            one = kept_bytes(backbone, 1, checkpointing) / 2**30
            two = kept_bytes(backbone, 2, checkpointing) / 2**30
            flag = ", --grad-checkpointing" if checkpointing else ""
            line(f"kept for backward per clip, {backbone}, bf16{flag}", f"{two - one:.2f} GiB",
                 f"estimated; beside {2 * one - two + fixed:.1f} GiB for any batch")


def train(full):
    """The train part."""
    rate = matmul_rate()
    line("float32 matmul, 2048 x 2048", f"{rate / 1e9:.1f} GMAC/s",
         f"{torch.get_num_threads()} threads")
    runs = 3 if full else 1
    shares(rate, runs)
    evaluation(runs)
    memory(full)
    toy()
    waits(full)


def shares(rate, runs):
    """How much of the machine's `rate` a forward pass and a step reach, of one clip at ViT-B/16."""
    model = model_of("ViT-B/16", drop_path=0.0)
    batch = batch_of(model.config, 1)

    def forward():
        with torch.no_grad():
            model(batch)

    def both():
        train_once(model, batch)

    for name, work in (("forward", forward), ("forward + losses + backward", both)):
        products = macs(work)
        seconds = best(work, runs)
        line(f"PeVL ViT-B/16, {name}, 1 clip", f"{seconds:.2f} s",
             f"{products / 1e9:.0f} GMAC, {products / seconds / rate:.0%} of the matmul rate")


def evaluation(runs):
    """What a clip and view costs in evaluation, whose texts are encoded once."""
    seconds = {}
    for K in (48, 500):
        model = model_of("ViT-B/16", K).eval()
        batch = batch_of(model.config, 1)
        with torch.no_grad():
            text = model.encode_texts()
            seconds[K] = best(lambda: model.class_logits(model(batch), text), runs)
    line("evaluation per clip and view, 48 classes", f"{seconds[48]:.3f} s",
         f"500 classes: {seconds[500] / seconds[48]:.3f} of it, texts encoded once")


def toy():
    """The parts of a toy step, per clip."""
    preset = {}
    for name, value in PRESETS["toy"].items():
        if name in PeVLConfig.__dataclass_fields__ and name != "backbone":
            preset[name] = value
    model = model_of("tiny", 16, **preset)
    B = PRESETS["toy"].get("batch", 32)
    batch = batch_of(model.config, B, classes=16)
    trunk = model.clip.visual
    with torch.no_grad():
        features = model(batch)
        parts = {
            "video tower": lambda: model.video(normalise(batch["frames"]), trunk),
            "pose tower": lambda: model.pose(batch["keypoints"], batch["scores"], trunk),
            "texts": lambda: model.encode_texts(),
            "forward": lambda: model(batch),
            "losses": lambda: model.losses(features),
        }
        seconds = {name: best(work, runs=5) for name, work in parts.items()}

    whole = best(lambda: train_once(model, batch), runs=5)
    for name, spent in seconds.items():
        line(f"toy, {name}, per clip of a batch of {B}", f"{spent / B * 1e3:.2f} ms",
             f"{spent / whole:.0%} of a step")
    line("toy, whole step (forward, losses, backward), per clip", f"{whole / B * 1e3:.2f} ms")


def flags_of(settings):
    """Settings, {field: value}, as a command line."""
    flags = []
    for name, value in settings.items():
        name = name.replace("_", "-")
        if value is True:
            flags.append(f"--{name}")
        elif value is False:
            flags.append(f"--no-{name}")
        else:
            flags.append(f"--{name}={value}")
    return flags


def waits(full):
    """What a step of train.py waits for its clips: real files, default workers, the whole loop."""
    with tempfile.TemporaryDirectory() as folder:
        toy_clips = Path(folder, "toy")
        make_toy(toy_clips, {"train": 320, "val": 4, "test": 4}, progress=lambda *_: None)
        wait("toy clips, toy preset", 3, "diving48", toy_clips, *flags_of(PRESETS["toy"]))

        large_clips = Path(folder, "340x256")
        make_large_clips(large_clips, 10 if full else 4)
        wait("340x256 clips of 300 frames, ViT-B/16, batch 1", 1, "custom", large_clips,
             "--backbone", "ViT-B/16", "--clip", "random", "--batch", "1")


def make_large_clips(folder, count):
    """`count` clips of 300 frames, 340x256, with poses, as data set `custom`; one is to test."""
    (folder / "poses").mkdir(parents=True, exist_ok=True)
    rows = ["path,label,split"]
    for k in range(count):
        name = f"clip{k}"
        rows.append(f"{name}.mp4,dive {k},{'train' if k else 'test'}")
        write_video(folder / f"{name}.mp4", 340, 256)
        keypoints = np.random.default_rng(0).uniform(0, 256, (FRAMES, 17, 2))
        poses.write_pose(folder / "poses" / f"{name}.npz", keypoints, np.ones((FRAMES, 17)),
                         size=(256, 340), times=np.arange(FRAMES) / 30,
                         joints=data.JOINT_SETS["coco17"].names)
    (folder / "clips.csv").write_text("\n".join(rows))


def wait(name, skip, dataset, root, *flags):
    """One epoch of train.py, without the first `skip` steps, which wait for the workers' start."""
    script = Path(data.__file__).with_name("train.py")
    out = root / "run"
    command = [sys.executable, script, "--data", dataset, "--root", root, "--out", out, *flags,
               "--epochs", "1", "--warmup", "0", "--log-every", "1"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)

    rows = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"][skip:]
    waited = np.mean([row["data_s"] for row in steps])
    worked = np.mean([row["step_s"] for row in steps])
    line(f"data wait, {name}", f"{waited / (waited + worked):.2%}",
         f"{1e3 * waited:.1f} ms beside {worked:.2f} s, {len(steps)} steps; goal under 2 %")


# ---- data: every decoder does the same job, 16 random frames and one crop, one thread each -------

FRAMES = 300                                      # of a video
WANTED = 16                                       # of which so many are read
SIDE = 224                                        # of the crop, pixels


def write_video(path, width, height, frames=FRAMES, gop=250, fps=30):
    """A panned and shaken texture with moving blobs: motion and B-frames as in real clips.

    gop: at most so many frames from one key frame to the next.
    """
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 8 + 40, width // 8 + 60, 3)).astype(np.uint8)
    size = small.shape[1] * 8, small.shape[0] * 8
    wide = np.asarray(data.Image.fromarray(small).resize(size))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "medium"})
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        for i in range(frames):
            left = int(220 + 200 * math.sin(i / 40))
            top = int(150 + 140 * math.cos(i / 55))
            image = wide[top:top + height, left:left + width].copy()
            x = int(width * (0.5 + 0.4 * math.sin(i / 9)))
            y = int(height * (0.5 + 0.3 * math.cos(i / 7)))
            image[max(0, y - 30):y + 30, max(0, x - 20):x + 20] = (255 - i % 256, i % 256, 90)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(stream.encode())


def draws_of(seed):
    """-> the frames that are wanted, one in each of WANTED equal parts, and the draws of a view."""
    rng = np.random.default_rng(seed)
    moments = (np.arange(WANTED) + rng.random(WANTED)) / WANTED
    return (moments * FRAMES).astype(int), rng.random(5)


def view_of(size, draws):
    """The crop of training from frames of `size`, (height, width)."""
    return data.train_view(*size, SIDE, draws, 0.5, True)


def finish(images, view):
    """Frames already at view.size -> the crop, mirrored as drawn, channels first."""
    out = np.empty((WANTED, 3, SIDE, SIDE), np.uint8)
    for i, image in enumerate(images):
        piece = data.cut(image, view.boxes[0], SIDE)
        if view.flip:
            piece = piece[:, ::-1]
        out[i] = piece.transpose(2, 0, 1)
    return out


def resized(image, view):
    """A frame of the file's size, made as large as the view wants it."""
    height, width = view.size
    image = data.Image.fromarray(image)
    return np.asarray(image.resize((width, height), data.Image.Resampling.BILINEAR))


def decode_ours(path, seed):
    chosen, draws = draws_of(seed)
    views = []

    def choose(instants):
        return chosen

    def plan(H, W):
        if not views:
            views.append(view_of((H, W), draws))
        return views[0].size

    images, _ = data.decode(path, choose, plan)
    return finish(images, views[0])


def decode_everything(path, seed):
    """Decode all frames from the first to the last, convert and keep the chosen ones."""
    chosen, draws = draws_of(seed)
    kept = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in chosen:
                kept[number] = frame.to_ndarray(format="rgb24")
    view = view_of(kept[chosen[0]].shape[:2], draws)
    return finish([resized(kept[number], view) for number in chosen.tolist()], view)


def with_decord(path, seed):
    import decord
    chosen, draws = draws_of(seed)
    width, height = path.stem.split("-")[0].split("x")         # it wants the size before it opens
    view = view_of((int(height), int(width)), draws)
    reader = decord.VideoReader(str(path), width=view.size[1], height=view.size[0], num_threads=1)
    return finish(reader.get_batch(chosen.tolist()).asnumpy(), view)


def with_torchcodec(path, seed):
    from torchcodec.decoders import VideoDecoder
    chosen, draws = draws_of(seed)
    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC",
                           seek_mode="exact")
    view = view_of((decoder.metadata.height, decoder.metadata.width), draws)
    images = decoder.get_frames_at(chosen.tolist()).data.numpy()
    return finish([resized(image, view) for image in images], view)


def clips_per_second(job, path, seconds):
    """Of `job(path, seed)`, the best of three rounds, which take `seconds` together."""
    job(path, 0)
    rates = []
    for _ in range(3):
        begun = time.perf_counter()
        clips = 0
        while time.perf_counter() - begun < seconds / 3 or clips < 2:
            job(path, clips)
            clips += 1
        rates.append(clips / (time.perf_counter() - begun))
    return max(rates)


def write_kinetics_index(root, rows):
    """A train.csv of `rows` clips, and an empty file for each."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    draw = random.Random(0)
    (root / "train").mkdir()
    with open(root / "train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
        for i in range(rows):
            video = "".join(draw.choices(letters, k=11))
            start = i % 300
            end = start + 10
            table.writerow([f"action number {i % 400}", video, start, end, "train", 0])
            (root / "train" / f"{video}_{start:06d}_{end:06d}.mp4").touch()


READ_INDEX = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
import data

def used():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() / 2**20

cfg = data.DataConfig(data="k400", root=sys.argv[2], read_poses=False)
before = used()
begun = time.process_time()
clips = data.Clips(cfg, "train", True)
print(len(clips), time.process_time() - begun, used() - before)
"""


def index_cost(rows=240_000):
    """Seconds and MiB that reading a Kinetics index of that many rows takes, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        write_kinetics_index(Path(folder), rows)
        place = Path(data.__file__).parent
        done = subprocess.run([sys.executable, "-c", READ_INDEX, str(place), folder],
                              capture_output=True, text=True, check=True)
    _, seconds, mib = done.stdout.split()[-3:]
    return float(seconds), float(mib)


def decoders():
    """Name -> job of each decoder that is installed; why another is not is printed."""
    jobs = {"ours": decode_ours, "every frame (PyAV)": decode_everything}
    others = (("decord", "decord", with_decord),
              ("torchcodec", "torchcodec.decoders", with_torchcodec))
    for name, module, job in others:
        try:
            __import__(module)
            jobs[name] = job
        except Exception as error:                # where a shared library is missing, any kind
            print(f"{name}: not measured ({str(error).splitlines()[0][:70]})")
    return jobs


def decoding(full):
    """The data part."""
    seconds = 18 if full else 6
    jobs = decoders()
    with tempfile.TemporaryDirectory() as folder:
        for width, height, gop in ((340, 256, 250), (340, 256, 12), (1280, 720, 250),
                                   (1280, 720, 30)):
            path = Path(folder) / f"{width}x{height}-{gop}.mp4"
            write_video(path, width, height, gop=gop)
            rates = []
            for name, job in jobs.items():
                rates.append(f"{name} {clips_per_second(job, path, seconds):.1f}")
            mib = path.stat().st_size / 2**20
            print(f"{WANTED} of {FRAMES} frames, {width}x{height} h264, key frame every {gop} "
                  f"({mib:.1f} MiB), clips/s: {', '.join(rates)}", flush=True)
    seconds, mib = index_cost()
    print(f"240,000 Kinetics rows: {seconds:.2f} s, {mib:.0f} MiB")


# ---- pose: 256 x 192 crops of 640 x 480 frames ---------------------------------------------------

def pose(full):
    """Frames per second of crop, network and decoding, and the network's share of the time."""
    frames = list(np.random.default_rng(0).integers(0, 255, (8, 480, 640, 3), dtype=np.uint8))
    boxes = torch.tensor([[200.0, 60, 420, 460]] * len(frames))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = hrnet.fold_norms(hrnet.HRNet(32).eval())
    model = model.to(device, memory_format=torch.channels_last)
    crops = hrnet.crop_people(frames, boxes, model.input_size, device)

    def network(flip):
        with torch.inference_mode():
            hrnet.predict_heatmaps(model, crops, flip)
        if device == "cuda":
            torch.cuda.synchronize()

    for flip in (False, True):
        whole = best(lambda: hrnet.predict(model, frames, boxes, flip))
        inner = best(lambda: network(flip))
        with_flip = "with" if flip else "without"
        line(f"HRNet-W32, 256 x 192, {with_flip} flip test, {device}",
             f"{len(frames) / whole:.2f} frames/s",
             f"network {inner / whole:.0%} of the time (goal 85 %)")


# ---- peers: CLIP's image tower beside Hugging Face's ---------------------------------------------

def in_turn(ours, theirs, runs):
    """Seconds of the fastest call of each, called in turn, so that a busy moment meets both."""
    ours()
    theirs()
    our_times = []
    their_times = []
    for _ in range(runs):
        our_times.append(seconds_of(ours))
        their_times.append(seconds_of(theirs))
    return min(our_times), min(their_times)


def peers(full):
    """The peers part."""
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        print(f"transformers: not measured ({error}); pip install transformers")
        return
    config = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                              num_attention_heads=12, patch_size=16, image_size=224,
                              projection_dim=512, attn_implementation="sdpa")
    theirs = CLIPVisionModelWithProjection(config).eval()
    ours = CLIP(BACKBONES["ViT-B/16"]).visual.eval()
    images = torch.randn(8, 3, 224, 224)
    with torch.no_grad():
        own, other = in_turn(lambda: ours(images), lambda: theirs(pixel_values=images),
                             runs=15 if full else 7)
    line("ViT-B/16 image tower, 8 images", f"{own:.2f} s",
         f"Hugging Face (sdpa) {other:.2f} s, {other / own:.2f} of ours")


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
TRIALS = [
    Trial("ViT-B/16", checkpointing=False, compile=False),
    Trial("ViT-B/16", checkpointing=True, compile=False),
    Trial("ViT-L/14", checkpointing=False, compile=False),
    Trial("ViT-L/14", checkpointing=True, compile=False),
    Trial("ViT-B/16", checkpointing=False, compile=True),
    Trial("ViT-B/16", checkpointing=True, compile=True),
    Trial("ViT-L/14", checkpointing=False, compile=True),
    Trial("ViT-L/14", checkpointing=True, compile=True),
]
SECONDS = 570                                     # for all of it: the command ends in ten minutes
HEADER = "clips | s a step | clips/s | peak GiB | of the matmul rate"


@dataclasses.dataclass(frozen=True)
class Need:
    """GiB that a step without checkpointing takes: docs/gpus.md, estimated."""
    fixed: float
    clip: float


MEMORY = {"ViT-B/16": Need(fixed=1.4, clip=1.2), "ViT-L/14": Need(fixed=4.3, clip=3.8)}


def batch_that_fits(backbone, gib):
    """Clips that a card of `gib` should hold without checkpointing: a power of two, 32 at most."""
    need = MEMORY[backbone]
    clips = 32
    while clips > 1 and need.fixed + clips * need.clip > 0.8 * gib:
        clips //= 2
    return clips


def step_macs(B, **settings):
    """Multiply-accumulates of forward, losses and backward, counted on shapes.

    What checkpointing computes again is not counted.
    """
    with torch.device("meta"):
        model = model_of(**settings).train()
        batch = batch_of(model.config, B)
    return macs(lambda: train_once(model, batch))


def measure_step(B, device, precision, compile=False, warm=3, steps=8, **settings):
    """A step of train.py on random clips: seconds (median), clips/s, peak MiB.

    settings: of PeVLConfig, and the classes K. It is train.take_step itself, from clips in pinned
    memory to new weights; the transfer of its losses, at its end, waits for the device, so that the
    clock is right without a further wait.
    """
    device = torch.device(device)
    with torch.device(device):
        model = model_of(**settings).train()
    cfg = training.TrainConfig(batch=B, precision=precision)
    batch = batch_of(model.config, B)
    batch["index"] = torch.arange(B)
    batch["broken"] = torch.zeros(B, dtype=torch.bool)
    if device.type == "cuda":
        batch = {name: x.pin_memory() for name, x in batch.items()}
    groups = training.optimizer_groups(model, cfg)
    run = SimpleNamespace(
        cfg=cfg, at=training.new_position(), model=model, precision=precision, memory_told=True,
        optimizer=torch.optim.AdamW(groups, lr=cfg.lr, fused=True), world=World(0, 1, device),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"), steps=1000,
        warmup_steps=10)
    if compile:
        model.compile()

    times = []
    for _ in range(warm + steps):
        times.append(seconds_of(lambda: training.take_step(run, batch, stop=0)))
        run.at["batch"] += 1
        run.at["step"] += 1
    seconds = float(np.median(times[warm:]))
    return {"clips": B, "seconds": seconds, "clips_s": B / seconds, "peak_mib": peak_mib(device)}


def card_trial(text):
    """A child of `gpu`: one Trial, as JSON -> its last line is JSON, of figures or of an error."""
    trial = Trial(**json.loads(text))
    gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    try:
        B = batch_that_fits(trial.backbone, gib)
        found = measure_step(B, "cuda", precision, trial.compile, backbone=trial.backbone,
                             grad_checkpointing=trial.checkpointing)
        found["macs"] = step_macs(B, backbone=trial.backbone)
    except torch.cuda.OutOfMemoryError:
        found = {"error": "out of memory"}
    print("\n" + json.dumps(found))


def run_trial(trial, seconds):
    """The figures of a trial, from a process of its own, which `seconds` later is ended."""
    if seconds < 20:
        return {"error": "no time left"}
    told = json.dumps(dataclasses.asdict(trial))
    command = [sys.executable, __file__, "gpu", "--trial", told]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"not within {seconds:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"failed: {last[:60]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def card_table(results, rate=None, card="a card"):
    """The table of docs/gpus.md as lines.

    results: name of a Trial -> its figures; what is missing there was not run.
    """
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
    """Clips per second of a DataLoader as train.py has it, clips drawn again and again.

    The first batch, for which the workers start, is not timed.
    """
    sampler = torch.utils.data.RandomSampler(clips, replacement=True, num_samples=10**6)
    loader = torch.utils.data.DataLoader(clips, batch, sampler=sampler, num_workers=workers,
                                         pin_memory=torch.cuda.is_available())
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds or count == 0:
        count += len(next(batches)["label"])
    return count / (time.perf_counter() - start)


def gpu(full):
    """The gpu part."""
    if not torch.cuda.is_available():
        print("  not run: torch finds no CUDA card here. "
              "On a machine with one: python tests/bench.py gpu")
        return
    start = time.monotonic()
    precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    rate = card_matmul_rate("cuda", precision)
    workers = min(os.cpu_count(), 16)
    with tempfile.TemporaryDirectory() as folder:
        make_large_clips(Path(folder), 8)
        cfg = data.DataConfig(data="custom", root=folder, video_frames=16, pose_frames=48,
                              image_size=224)
        loading = loader_rate(data.Clips(cfg, "train", True), 8, workers, seconds=20)
    torch.cuda.empty_cache()

    results = {}
    for trial in TRIALS:
        left = SECONDS - (time.monotonic() - start)
        results[trial.name] = run_trial(trial, left)
        print(f"  {trial.name}: {results[trial.name]}", flush=True)

    card = f"one {torch.cuda.get_device_name()}, {precision}, torch {torch.__version__}"
    print("\n".join(["", *card_table(results, rate, card), ""]))
    print(f"{precision} product of 8192 x 8192: {rate / 1e12:.0f} T multiply-accumulates/s. "
          f"Loader: {loading:.0f} clips/s of 340x256 h264 with {workers} workers on "
          f"{os.cpu_count()} cores; {time.monotonic() - start:.0f} s in all.")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part",
                        help="what to measure; default: train, data and pose")
    parser.add_argument("--full", action="store_true", help="more repetitions")
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.trial:
        return card_trial(args.trial)
    parts = {"train": train, "data": decoding, "pose": pose, "peers": peers, "gpu": gpu}
    for name in args.parts:
        if name not in parts:
            parser.error(f"unknown part {name!r}. Expected one of {', '.join(parts)}")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in args.parts or ["train", "data", "pose"]:
        print(name)
        parts[name](args.full)


if __name__ == "__main__":
    main()
