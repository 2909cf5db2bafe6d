"""Open a trained model, measure it on a data set, or ask it about one video.

    python eval.py                                    newest run under out/, centre crop
    python eval.py --ckpt out/run/best.pt --views 3   the paper's three crops (Sec. 4.1)
    python eval.py --row table5/no-p2v                newest run with the switches of that row
    torchrun --nproc_per_node 8 eval.py --ckpt ...    the same figures, clips shared out
    python eval.py --video dive.mp4 --pose dive.npz   one video in, its label out
    python eval.py --model clip --data diving48 --root DIR --backbone ViT-B/16     zero-shot CLIP
    python eval.py --model aim --aim-weights FILE --data diving48 --root DIR --backbone ViT-B/16

This file is the floor that train.py stands on, and knows nothing of it: how a checkpoint becomes a
model again, on which device and in which precision, and what is counted.

paper         | what                            | here                    | tests/test_eval.py
Sec. 3.4, (7) | mean over views, then softmax   | clip_logits, evaluate   | test_views_are_averaged
Tables 1 to 3 | top-1, top-5, mean over classes | metrics_from            | test_metrics_match_*
-             | a checkpoint becomes a model    | rebuild, check_data     | test_errors_of_*
-             | one video in, its label out     | OneClip, label_video    | test_one_video_*

Shapes: B clips, R views, K classes, T pose frames, Tv video frames, J joints, S side of a crop.
Accuracies are shares of 1 in code and files, percent in print and pictures.
"""
import contextlib
import dataclasses
import itertools
import json
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Subset

from clip_model import BACKBONES, CLIP, load_clip
from data import Clip, Clips, DataConfig
from pevl import predict
from pose import JOINT_SETS, joint_set, read_pose
from published.clip_weights import read_weights
from report.draw import draw_strip
from report.results import strip_of, write_results
from report.text import summary, with_progress
from support.checkpoints import fingerprint, read_checkpoint
from support.processes import join_world, leave_world, reseed
from support.settings import build_configs
from systems.config import SWITCHES, PeVLConfig
from systems.registry import build_model
from tables.rows import find_row, preset_of


# ---- Devices and precision -----------------------------------------------------------------------

def choose_precision(precision, device):
    """`auto`, `fp32`, `bf16` or `fp16` -> the one that is used on `device`.

    bf16 by itself only where it is native: on CPUs it is emulated, hundreds of times slower, and
    asking for it there is a ValueError.
    """
    on_gpu = device.type == "cuda"
    if precision == "auto":
        return "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    if precision != "fp32" and not on_gpu:
        raise ValueError(f"--precision {precision} on {device.type}, which emulates it. "
                         "Expected fp32 there. Leave --precision out.")
    return precision


def autocast(device, precision):
    """Context of a forward pass: matrix products in `bf16` or `fp16`, or everything in `fp32`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=precision != "fp32")


STOPPING = {signal.SIGINT, signal.SIGTERM}        # Ctrl-C, and what Slurm sends


def quiet_worker(_):
    """What a loader's worker process does first: leave signals to the main process.

    Ctrl-C and Slurm's SIGTERM reach all processes at once. The main process finishes its step, for
    which it needs the workers, and ends them itself; a minute after a SIGTERM a worker ends on its
    own, so that no exit waits for it. What came before this line was held back, see `held_signals`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
    if hasattr(signal, "pthread_sigmask"):        # not on Windows
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


@contextlib.contextmanager
def held_signals():
    """Start a loader's workers inside of this: a signal waits until they have made themselves quiet.

    Without it, one that comes while a worker is starting ends that worker, since PyTorch's own
    handler is in place first, and the main process with it: "DataLoader worker is killed". A slow
    machine starts workers for a second and longer.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- Opening: settings, weights, data ------------------------------------------------------------

def as_json(*configs):
    """The fields of dataclasses as config.json and checkpoints hold them: tuples become lists."""
    values = {}
    for config in configs:
        for name, value in dataclasses.asdict(config).items():
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


def load_trunk(model_cfg):
    """The CLIP that a model adapts, float32, on the CPU. `--clip random`: one without weights."""
    if model_cfg.clip == "random":
        return CLIP(BACKBONES[model_cfg.backbone])
    return load_clip(model_cfg.clip or model_cfg.backbone, model_cfg.image_size,
                     backbone=model_cfg.backbone)


def saved_config(path):
    """The settings of the run that a checkpoint belongs to, as far as its config.json is there."""
    about = path.with_name("config.json")
    if not about.exists():
        return {}
    return json.loads(about.read_text()).get("config", {})


def find_checkpoint(row="", out="out"):
    """`last.pt`, the final weights, of the newest run in `out`.

    row: of the newest run that has this row's switches, whatever its folder is called; the runs of
    a lab, which lie deeper, count too. Raises FileNotFoundError where there is none.
    """
    wanted = {}
    if row:
        config = as_json(PeVLConfig(**find_row(row).overrides))
        wanted = {name: config[name] for name in ("model", *SWITCHES)}

    runs = Path(out).glob("**/last.pt" if row else "*/last.pt")
    newest_first = sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first:
        config = saved_config(path)
        alike = all(config.get(name) == value for name, value in wanted.items())
        if alike and config.get("model") != "clip":       # CLIP's own pretraining: no classifier
            return path

    flag = f" --row {row}" if row else ""
    of_row = f" of --row {row}" if row else ""
    raise FileNotFoundError(f"no trained model{of_row} under {out}/. Expected a run's last.pt. Run "
                            f"`python train.py{flag}`, or name one with --ckpt.")


def rebuild(saved, clip_path=""):
    """The trained model of a checkpoint, on the CPU, in evaluation mode.

    saved: from `read_checkpoint`. clip_path: where CLIP's weights lie now, if not where they lay in
    training. The frozen CLIP is not in the checkpoint; its hash is, and must agree.
    """
    values = {}
    for name, value in saved["config"].items():
        values[name] = tuple(value) if isinstance(value, list) else value
    values["clip"] = clip_path or values["clip"]
    known = {field.name for field in dataclasses.fields(PeVLConfig)}
    config = PeVLConfig(**{name: value for name, value in values.items() if name in known})

    reseed(values.get("seed", 0))                 # --clip random: the same random one as in training
    clip = load_trunk(config)
    if config.tune != "all" and fingerprint(clip.state_dict()) != saved["clip"]:
        raise ValueError(f"the CLIP weights {config.clip or config.backbone} are not those of "
                         "training: their hashes differ. Expected the same file. Give it: --clip.")

    model = build_model(config, clip, saved["texts"], saved["joints"])
    model.load_trainable_state(saved["model"])
    return model.eval()


def check_data(dataset, saved):
    """The data set must be the checkpoint's: the same labels in the same order, as many joints.

    Raises ValueError with the first label that differs.
    """
    here = list(dataset.labels)
    there = saved["labels"]
    for k, (ours, theirs) in enumerate(itertools.zip_longest(here, there, fillvalue="no label")):
        if ours != theirs:
            raise ValueError(f"the data set has {len(here)} labels, the checkpoint {len(there)}; "
                             f"number {k} is {ours!r} here and {theirs!r} there. Expected those of "
                             "training. Check --data, --root, --version.")
    if len(dataset.joints) != saved["joints"]:
        raise ValueError(f"poses with {len(dataset.joints)} joints, and the checkpoint was trained "
                         f"with {saved['joints']}. Expected as many. Choose others: --poses.")


# ---- Metrics -------------------------------------------------------------------------------------

def metrics_from(confusion, unread=None):
    """Accuracies from counts.

    confusion: (K, K) integers, row = true label, column = predicted label. unread: (K,) clips of
    each label that could not be read, which count as wrong. Returns top1; mean, over the labels
    that have clips, since the others say nothing; per_class, K values, None without clips; clips.
    """
    total = confusion.sum(1)                      # (K,)
    if unread is not None:
        total = total + unread
    correct = confusion.diagonal()
    clips = int(total.sum())

    per_class = []
    for right, n in zip(correct.tolist(), total.tolist()):
        per_class.append(right / n if n else None)
    known = [accuracy for accuracy in per_class if accuracy is not None]

    return {"top1": int(correct.sum()) / max(clips, 1),
            "mean": sum(known) / max(len(known), 1),
            "per_class": per_class,
            "clips": clips}


def rank_labels(scores):
    """scores (B, K) -> labels by falling score (B, K); whether the best score is shared, (B,) bool.

    Of equal scores the lower label comes first, so that labels of one text (Gym288 has three such
    pairs) are told apart in the same way everywhere.
    """
    ranked = scores.sort(dim=1, descending=True, stable=True)
    tied = (ranked.values[:, :1] == ranked.values[:, 1:2]).any(1)
    return ranked.indices, tied


def same_text_columns(texts):
    """(K,) int64: for each label the first label that has the same text.

    Their logits are equal by definition, but a matrix product may round two equal columns
    differently: taking the first one's value for both keeps a tie a tie.
    """
    first = {}
    columns = [first.setdefault(text, label) for label, text in enumerate(texts)]
    return torch.tensor(columns)


# ---- Evaluation, Eq. (7) -------------------------------------------------------------------------

def clip_logits(model, batch, text, device):
    """A batch of clips with R views each -> name -> logits (B * R, K), float32, on the CPU.

    batch: frames (B, R, Tv, 3, S, S), keypoints (B, R, T, J, 2), scores (B, R, T, J), label (B,).
    text: from `model.encode_texts`, or None. A view passes through the model as a clip does.
    """
    views = batch["frames"].shape[1]
    folded = {}
    for name in ("frames", "keypoints", "scores"):
        folded[name] = batch[name].to(device, non_blocking=True).flatten(0, 1)     # (B * R, ...)
    folded["label"] = batch["label"].to(device).repeat_interleave(views)

    logits = model.class_logits(model(folded), text)
    return {name: x.float().cpu() for name, x in logits.items()}


def mean_over_views(logits, views):
    """(B * R, K) -> (B, K), R = views: the mean inside the softmax of Eq. (7)."""
    return logits.unflatten(0, (-1, views)).mean(1)


@torch.no_grad()
def evaluate(model, dataset, batch_size, device, workers=0, precision="fp32", progress=True,
             probabilities=False):
    """Accuracy of `model` on `dataset`, a `data.Clips` in evaluation mode.

        p = softmax(mean over views of sim / tau)     Eq. (7); one similarity alone is ranked alike

    The K texts are encoded once. Under torch.distributed each rank answers the clips rank, rank +
    world and so on, none twice and none as padding; then every rank has all answers and counts
    them. A clip that cannot be read is wrong in every figure.

    Returns top1, top5, mean, top1/vs and so on; per_class (K); clips; confusion (K, K) int64 [true,
    predicted]; unread (K,); ties; errors, ids of broken clips; predictions, a dict per clip in the
    data set's order; seconds; with `probabilities` also probabilities, float32 (clips, K), NaN for
    broken clips. Raises ValueError where logits are not finite.
    """
    rank, world = 0, 1
    if dist.is_available() and dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()

    start = time.monotonic()
    mine = range(rank, len(dataset), world)
    loader = DataLoader(Subset(dataset, mine), batch_size, num_workers=workers,
                        worker_init_fn=quiet_worker)
    rows = []
    was_training = model.training
    model.eval()
    try:
        with autocast(device, precision):
            text = None
            columns = slice(None)                 # a linear head knows labels, not texts
            if model.compares_texts:
                text = model.encode_texts()
                columns = same_text_columns(dataset.texts)
            with held_signals():                  # its workers start here
                batches = iter(loader)
            for batch in with_progress(batches, len(mine), show=progress and rank == 0):
                views = batch["frames"].shape[1]
                logits = clip_logits(model, batch, text, device)
                logits = {name: x[:, columns] for name, x in logits.items()}
                rows += answers(logits, views, batch, dataset.clips)
    finally:
        model.train(was_training)

    if world > 1:
        parts = [None] * world
        dist.all_gather_object(parts, rows)
        rows = sorted(itertools.chain(*parts), key=lambda row: row["index"])

    shares = [row.pop("share") for row in rows]
    result = count(rows, len(dataset.labels))
    result["seconds"] = time.monotonic() - start
    if probabilities and shares:
        result["probabilities"] = np.stack(shares)
    return result


def answers(logits, views, batch, clips):
    """What is answered for the clips of one batch: a dict of plain values for each.

    logits: name -> (B * R, K), of which `all` predicts. batch: label, index and broken, (B,).
    clips: those of the data set, for their ids.
    """
    share = predict(logits["all"], views).numpy()                       # (B, K) probabilities
    means = {name: mean_over_views(x, views) for name, x in logits.items()}
    order, tied = rank_labels(means["all"])                             # (B, K), (B,)
    alone = {}                                    # the answer of each similarity by itself
    for name, mean in means.items():
        if name != "all":
            alone[name] = rank_labels(mean)[0][:, 0]                    # (B,)
    finite = torch.stack([mean.isfinite().all(1) for mean in means.values()]).all(0)    # (B,)
    readable = ~batch["broken"].bool()

    rows = []
    for b, index in enumerate(batch["index"].tolist()):
        row = {"index": index, "id": clips[index].id, "label": int(batch["label"][b])}
        if readable[b]:
            if not finite[b]:
                raise ValueError(f"the logits of clip {clips[index].id} are not finite. Expected "
                                 "numbers. The weights have diverged: take an earlier checkpoint, "
                                 "or train with a lower learning rate.")
            best = order[b].tolist()
            row.update(predicted=best[0], top5=best[:5], broken=False,
                       probability=float(share[b, best[0]]), share=share[b], tied=bool(tied[b]),
                       alone={name: int(label[b]) for name, label in alone.items()})
        else:
            row.update(predicted=None, top5=[None], broken=True,
                       probability=0.0, share=np.full_like(share[b], np.nan), tied=False,
                       alone=dict.fromkeys(alone))
        rows.append(row)
    return rows


def count(rows, K):
    """The answers for all clips, and the number of labels -> the result of `evaluate`."""
    confusion = torch.zeros(K, K, dtype=torch.long)
    unread = torch.zeros(K, dtype=torch.long)
    in_top5 = 0
    for row in rows:
        if row["broken"]:
            unread[row["label"]] += 1
        else:
            confusion[row["label"], row["predicted"]] += 1
            in_top5 += row["label"] in row["top5"]

    result = metrics_from(confusion, unread)
    names = rows[0]["alone"] if rows else ()
    for name in names:
        right = sum(row["alone"][name] == row["label"] for row in rows)
        result[f"top1/{name}"] = right / len(rows)
    result["top5"] = in_top5 / max(len(rows), 1)
    result["confusion"] = confusion
    result["unread"] = unread
    result["predictions"] = rows
    result["ties"] = sum(row["tied"] for row in rows)
    result["errors"] = [row["id"] for row in rows if row["broken"]]
    return result


# ---- One video -----------------------------------------------------------------------------------

class OneClip(Clips):
    """A data set of one file that belongs to no benchmark, sampled as a benchmark's clips are."""

    def __init__(self, cfg, video, pose, saved, views):
        self.cfg = cfg
        self.train = False
        self.views = views
        self.pose = pose
        self.clips = [Clip(video.stem, str(video), 0)]
        self.labels = saved["labels"]
        self.texts = saved["texts"]
        if cfg.read_poses:
            self.joints = read_pose(pose).joints
        else:
            self.joints = JOINT_SETS["coco17"].names
        self.flip_index = joint_set(self.joints).flip_index

    def pose_path(self, clip):
        return self.pose


def label_video(cfg, model, saved, data_cfg, device):
    """Print the most probable labels of one file, and draw what the model looked at.

    cfg: EvalConfig with `video` and, where the pose lies elsewhere, `pose`. saved: the checkpoint,
    for its labels.
    """
    video = Path(cfg.video)
    pose = Path(cfg.pose) if cfg.pose else video.with_suffix(".npz")
    uses_pose = model.config.model in ("pevl", "vilp") and model.config.pose
    if not video.exists():
        raise FileNotFoundError(f"no video {video}. Expected a file FFmpeg reads. Check the path.")
    if uses_pose and not pose.exists():
        raise FileNotFoundError(f"no pose clip {pose} for {video}. Expected a person's joints. Run "
                                f"`python pose.py extract {video} --out {video.parent}`, or name "
                                "it with --pose.")

    data_cfg = dataclasses.replace(data_cfg, read_poses=uses_pose)
    dataset = OneClip(data_cfg, video, pose, saved, cfg.views)
    if uses_pose:
        check_data(dataset, saved)
    error = dataset[0]["error"]
    if error:
        raise ValueError(f"cannot read {error}. Expected a whole video and its own pose clip. "
                         "Fetch or convert them again.")

    answer = evaluate(model, dataset, 1, device, progress=False, probabilities=True)
    share = torch.from_numpy(answer["probabilities"])                   # (1, K)
    order, _ = rank_labels(share)
    best = order[0].tolist()
    for place, label in enumerate(best[:cfg.topk], 1):
        print(f"{place:>3}. {100 * share[0, label]:5.1f} %  {saved['labels'][label]}")

    said = f"{video.name}: {saved['labels'][best[0]]} ({100 * share[0, best[0]]:.0f} %)"
    strip = strip_of(model, dataset, 0, said, None, device)
    picture = draw_strip([strip], Path(cfg.out or ".") / f"{video.stem}-strip.png")
    print(f"wrote {picture}")


# ---- Command line --------------------------------------------------------------------------------

@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. Settings of the model and the data come from the checkpoint."""
    ckpt: Annotated[str, "checkpoint or run folder; empty: last.pt of the newest run in out/"] = ""
    row: Annotated[str, "instead: the newest run like this row of a table, as table5/no-p2v"] = ""
    model: Annotated[Literal["", "clip", "aim"], "without a run of ours: zero-shot CLIP, or AIM's "
                     "published weights"] = ""
    backbone: Annotated[str, "with --model: " + ", ".join(BACKBONES)] = "ViT-B/16"
    aim_weights: Annotated[str, "with --model aim: a file that AIM's authors publish"] = ""
    clip: Annotated[str, "where CLIP's weights lie now; empty: where they lay in training"] = ""
    eval_split: Annotated[Literal["train", "val", "test"], "split to evaluate"] = "test"
    views: Annotated[int, "crops of a clip: 1, the centre, or 3 (Sec. 4.1)"] = 1
    batch: Annotated[int, "clips at a time: speed and memory, not the answer"] = 16
    video: Annotated[str, "label this video file instead of evaluating a split"] = ""
    pose: Annotated[str, "with --video: its pose clip; empty: FILE.npz beside FILE.mp4"] = ""
    topk: Annotated[int, "with --video: labels to print"] = 5
    out: Annotated[str, "folder for results; empty: beside the checkpoint"] = ""
    strips: Annotated[int, "labels that get a picture strip, from the first; 0: none"] = 48
    save_probabilities: Annotated[bool, "also write every clip's probabilities as .npz"] = False
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], "of matrix products"] = "auto"

    def __post_init__(self):
        if min(self.views, self.batch) < 1:
            raise ValueError(f"--views {self.views} --batch {self.batch}. Expected at least 1. "
                             "Raise them.")
        if self.row and self.ckpt:
            raise ValueError(f"--row {self.row} --ckpt {self.ckpt}. Expected --row without --ckpt. "
                             "Leave one of them out.")
        if self.model and (self.row or self.ckpt or self.video):
            raise ValueError(f"--model {self.model} beside --row, --ckpt or --video. Expected "
                             "--model alone: a run of ours has its own. Leave one of them out.")
        if self.aim_weights and self.model != "aim":
            raise ValueError(f"--aim-weights {self.aim_weights}. Expected --model aim. Add it.")
        if self.model == "aim" and not self.aim_weights:
            raise ValueError("--model aim without --aim-weights. Expected the file that its "
                             "authors publish; for a run of ours name it with --ckpt. Add it.")


def open_run(args):
    """The checkpoint that the flags mean: (path, what is in it)."""
    path = Path(args.ckpt) if args.ckpt else find_checkpoint(args.row)
    if path.is_dir():
        path = path / "last.pt"
    saved = read_checkpoint(path)
    if saved["config"]["model"] == "clip":
        raise ValueError(f"cannot evaluate {path}: CLIP's own pretraining. Expected pevl, vilp or "
                         "aim on clips. Choose another --ckpt.")
    return path, saved


def read_command(argv):
    """argv -> EvalConfig, DataConfig, path and content of the checkpoint (None with --model).

    How clips are read is not for the command line to repeat: a checkpoint knows the settings of its
    training, and they become the defaults here.
    """
    opened = {"path": None, "saved": None}

    def presets(args):
        if args.model:
            return {**preset_of(args.data, args.model), "read_poses": False}
        path, saved = open_run(args)
        opened["path"] = path
        opened["saved"] = saved
        wanted = ["precision", "backbone", *(f.name for f in dataclasses.fields(DataConfig))]
        return {name: saved["config"][name] for name in wanted if name in saved["config"]}

    (cfg, data_cfg), _ = build_configs(argv, (EvalConfig, DataConfig), presets, __doc__)
    saved = opened["saved"]
    if saved and cfg.backbone != saved["config"]["backbone"]:
        trained = saved["config"]
        raise ValueError(f"--backbone {cfg.backbone} beside {opened['path']}, which is "
                         f"{trained['model']} on {trained['data']} and {trained['backbone']}. "
                         "Expected --backbone with --model alone. Leave it out.")
    return cfg, data_cfg, opened["path"], saved


def model_without_run(cfg, data_cfg, dataset):
    """Zero-shot CLIP, or AIM with the weights that its authors publish."""
    config = PeVLConfig(model=cfg.model, backbone=cfg.backbone, clip=cfg.clip,
                        image_size=data_cfg.image_size, pose_frames=data_cfg.pose_frames,
                        video_frames=data_cfg.video_frames)
    if cfg.model == "clip":
        return build_model(config, load_trunk(config), dataset.texts, len(dataset.joints))

    # AIM's file holds CLIP's image tower too, so that no other weights are needed.
    trunk = load_trunk(dataclasses.replace(config, clip="random"))
    model = build_model(config, trunk, dataset.texts, len(dataset.joints))
    model.load_published(read_weights(cfg.aim_weights))
    return model


def results_folder(cfg, data_cfg, source):
    """Where results go: --out, beside the checkpoint, or out/<data>-clip for the zero-shot CLIP."""
    if cfg.out:
        return Path(cfg.out)
    if cfg.model == "clip":
        return Path(f"out/{data_cfg.data}-clip")
    return source.parent


def run(argv):
    """The command line; the result of `evaluate`, or None where one video was labelled."""
    cfg, data_cfg, path, saved = read_command(argv)
    world = join_world(cfg.device)
    precision = choose_precision(cfg.precision, world.device)

    if saved:
        model = rebuild(saved, cfg.clip).to(world.device)
    if cfg.video:
        return label_video(cfg, model, saved, data_cfg, world.device)

    dataset = Clips(data_cfg, cfg.eval_split, train=False, views=cfg.views)
    if saved:
        check_data(dataset, saved)
    else:
        path = Path(cfg.aim_weights or f"{cfg.model} {cfg.backbone}")
        model = model_without_run(cfg, data_cfg, dataset).to(world.device)

    result = evaluate(model, dataset, cfg.batch, world.device, workers=data_cfg.workers,
                      precision=precision, probabilities=cfg.save_probabilities)
    if world.rank == 0:
        about = {"checkpoint": str(path), "model": model.config.model,
                 "backbone": model.config.backbone, "data": data_cfg.data,
                 "split": cfg.eval_split, "views": cfg.views}
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        print(summary(result, dataset.labels))
        write_results(result, model, dataset, results_folder(cfg, data_cfg, path), about,
                      world.device, cfg.strips)
    return result


def main(argv=None):
    try:
        run(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError) as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    finally:
        leave_world()
    return 0


if __name__ == "__main__":
    sys.exit(main())
