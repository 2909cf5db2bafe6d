"""Measure a trained model, look at what it attends to, label one video, and count what models cost.

paper          | here                                            | test (tests/test_eval.py)
Sec. 3.4, (7)  | `evaluate`: mean over views, then softmax       | test_views_are_averaged
Tables 1 to 3  | `metrics_from`: top-1, top-5, mean over classes | test_metrics_match_a_slow_count
Fig. 1c        | `draw_strips`: attention before and after P2V   | test_strips_are_drawn
Tables 7 and 9 | `count_costs`, `cost_table`                     | test_costs_of_the_paper

    python eval.py                                    newest run under out/, centre crop
    python eval.py --ckpt out/run/best.pt --views 3   the paper's three crops (Sec. 4.1)
    torchrun --nproc_per_node 8 eval.py --ckpt ...    the same figures, clips shared out
    python eval.py --video dive.mp4 --pose dive.npz   one video in, its label out
    python eval.py --model clip --data diving48 --root DIR --backbone ViT-B/16     zero-shot
    python eval.py --costs --table 7                  operations and parameters; no files needed

Shapes: B clips, R views, K classes, T pose frames, Tv video frames, N patches of a frame (no class
token), J joints. Accuracies are shares of 1 in code and files, percent in print and pictures.
"""
from __future__ import annotations

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
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

from assets.draw import draw_confusion, draw_strip
from clip_model import BACKBONES, CLIP, read_weights
from data import DATASETS, Clip, Clips, DataConfig, diving_text
from pevl import ROWS, SWITCHES, TABLES, PeVLConfig, build_model
from pose import JOINT_SETS, joint_set, read_pose
from support.checks import unknown_name
from support.files import atomic
from support.settings import build_configs


def with_progress(batches, total: int, show: bool):
    """Passes batches on and says `evaluate 320/960 clips, 41.0 clips/s, 0:16 left`: rewritten on a
    terminal, a line every ten seconds in a log."""
    start, shown, done, terminal = time.monotonic(), 0.0, 0, sys.stderr.isatty()
    for batch in batches:
        yield batch
        done, spent = done + len(batch["label"]), time.monotonic() - start
        if show and (done == total or spent - shown > (0.2 if terminal else 10)):
            shown, left = spent, int((total - done) * spent / done)
            line = (f"evaluate {done}/{total} clips, {done / max(spent, 1e-6):.1f} clips/s, "
                    f"{left // 60}:{left % 60:02d} left")
            end = "\n" if done == total or not terminal else ""
            print(f"\r{line:<78}" if terminal else line, end=end, file=sys.stderr, flush=True)


# ---- Metrics -------------------------------------------------------------------------------------

def metrics_from(confusion: torch.Tensor, unread: torch.Tensor | None = None) -> dict:
    """Accuracies from counts.

    confusion: (K, K) integers, row = true label, column = predicted label. unread: (K,) clips of
    each label that could not be read, which count as wrong. Returns top1; mean, over the labels
    that have clips, since the others say nothing; per_class, K values, None without clips; clips.
    """
    total = confusion.sum(1) if unread is None else confusion.sum(1) + unread
    correct, clips = confusion.diagonal(), int(total.sum())
    per_class = [c / n if n else None for c, n in zip(correct.tolist(), total.tolist())]
    known = [accuracy for accuracy in per_class if accuracy is not None]
    return {"top1": int(correct.sum()) / max(clips, 1), "mean": sum(known) / max(len(known), 1),
            "per_class": per_class, "clips": clips}


def rank_labels(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scores (B, K) -> labels by falling score (B, K); (B,) bool, the best score is shared.

    Of equal scores the lower label comes first, so that labels of one text (Gym288 has three such
    pairs) are told apart in the same way everywhere."""
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.indices, (ranked.values[:, :1] == ranked.values[:, 1:2]).any(1)


def same_text_columns(texts: list[str]) -> torch.Tensor:
    """(K,) for each label the first label of the same text. Their logits are equal, but a matrix
    product may round two equal columns differently: taking the first one's keeps a tie a tie."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(text, label) for label, text in enumerate(texts)])


# ---- Evaluation, Eq. (7) -------------------------------------------------------------------------

def autocast(device, precision: str):
    """Context of a forward pass: `fp32`, or matrix products in `bf16` or `fp16`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=precision != "fp32")


def quiet_worker(_) -> None:
    """A loader's worker leaves Ctrl-C and Slurm's SIGTERM to the main process, which ends it when
    the step is saved; a minute after a SIGTERM it ends by itself, so that no exit waits for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))


def compares_texts(model) -> bool:
    """Whether labels are texts to `model`, not rows of a linear head."""
    return model.config.text and model.config.model != "aim"


def clip_logits(model, batch: dict, text, device) -> dict:
    """A batch with views, frames (B, R, Tv, 3, S, S) and so on -> name -> logits (B, K), the mean
    over the R views, which pass through the model as clips do; float32 on the CPU."""
    views = batch["frames"].shape[1]
    folded = {name: batch[name].to(device, non_blocking=True).flatten(0, 1)
              for name in ("frames", "keypoints", "scores")}
    label = batch["label"].to(device).repeat_interleave(views)
    logits = model.class_logits(model({**folded, "label": label}), text)                # (B * R, K)
    return {name: x.float().unflatten(0, (-1, views)).mean(1).cpu() for name, x in logits.items()}


@torch.no_grad()
def evaluate(model, dataset, batch_size, device, workers=0, precision="fp32", progress=True,
             probabilities=False) -> dict:
    """Accuracy of `model` on `dataset`, a `data.Clips` in evaluation mode.

        p = softmax(mean over views of sim / tau)     Eq. (7); one similarity alone is ranked alike

    The K texts are encoded once. Under torch.distributed each rank answers the clips rank, rank +
    world and so on, none twice and none as padding; then every rank has all answers and counts
    them. A clip that cannot be read is wrong in every figure. Returns top1, top5, mean, top1/vs and
    so on; per_class (K); clips; confusion (K, K) long [true, predicted]; unread (K,); ties; errors,
    ids of broken clips; predictions, a dict per clip in the data set's order; seconds; where asked
    for, probabilities, float32 (clips, K), NaN for broken clips.
    """
    grouped = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
    start, was_training, rows = time.monotonic(), model.training, []
    mine = range(rank, len(dataset), world)
    loader = DataLoader(Subset(dataset, mine), batch_size, num_workers=workers,
                        worker_init_fn=quiet_worker)
    model.eval()
    try:
        with autocast(device, precision):
            text = model.encode_texts() if compares_texts(model) else None
            columns = slice(None) if text is None else same_text_columns(dataset.texts)
            for batch in with_progress(loader, len(mine), progress and rank == 0):
                logits = clip_logits(model, batch, text, device)
                logits = {name: x[:, columns] for name, x in logits.items()}
                rows += answers(logits, batch, dataset.clips)
    finally:
        model.train(was_training)
    if world > 1:
        parts = [None] * world
        dist.all_gather_object(parts, rows)
        rows = sorted(itertools.chain(*parts), key=lambda row: row["index"])
    shares = [row.pop("share") for row in rows]
    result = {**count(rows, len(dataset.labels)), "seconds": time.monotonic() - start}
    return {**result, "probabilities": np.stack(shares)} if probabilities and shares else result


def answers(logits: dict, batch: dict, clips) -> list[dict]:
    """logits: name -> (B, K), of which `all` predicts. A row of plain values for each clip."""
    read, share, rows = ~batch["broken"].bool(), logits["all"].softmax(1).numpy(), []
    order, tied = rank_labels(logits["all"])
    alone = {name: rank_labels(x)[0][:, 0] for name, x in logits.items() if name != "all"}
    sound = torch.stack([x.isfinite().all(1) for x in logits.values()])                # (names, B)
    for b, index in enumerate(batch["index"].tolist()):
        if read[b] and not sound[:, b].all():
            raise ValueError(f"the logits of clip {clips[index].id} are not finite. Expected "
                             "numbers. The weights have diverged: take an earlier checkpoint, or "
                             "train with a lower learning rate.")
        best = order[b].tolist() if read[b] else [None]
        rows.append({"index": index, "id": clips[index].id, "label": int(batch["label"][b]),
                     "predicted": best[0], "top5": best[:5], "broken": not read[b],
                     "probability": float(share[b, best[0]]) if read[b] else 0.0,
                     "share": share[b] if read[b] else np.full_like(share[b], np.nan),
                     "tied": bool(tied[b] & read[b]),
                     "alone": {name: int(x[b]) if read[b] else None for name, x in alone.items()}})
    return rows


def count(rows: list[dict], K: int) -> dict:
    """The answers for all clips -> the result of `evaluate`."""
    confusion, unread = torch.zeros(K, K, dtype=torch.long), torch.zeros(K, dtype=torch.long)
    for row in rows:
        if row["broken"]:
            unread[row["label"]] += 1
        else:
            confusion[row["label"], row["predicted"]] += 1
    share = lambda right: sum(map(right, rows)) / max(len(rows), 1)
    alone = {f"top1/{name}": share(lambda row: row["alone"][name] == row["label"])
             for name in (rows[0]["alone"] if rows else ())}
    return {**metrics_from(confusion, unread), **alone,
            "top5": share(lambda row: row["label"] in row["top5"]),
            "confusion": confusion, "unread": unread, "predictions": rows,
            "ties": sum(row["tied"] for row in rows),
            "errors": [row["id"] for row in rows if row["broken"]]}


# ---- Strips: what the model looked at, as in Fig. 1c ---------------------------------------------

@torch.no_grad()
def strip_clip(model, dataset, index: int, said: str, right: bool | None, device) -> dict:
    """Clip `index` as `draw_strip` wants it, in its middle view."""
    item, maps = dataset[index], {}
    middle = len(item["frames"]) // 2
    one = {name: item[name][middle][None] for name in ("frames", "keypoints", "scores")}
    if hasattr(model, "attention_maps") and model.video is not None:
        batch = {**one, "label": item["label"][None]}
        maps = model.attention_maps({name: x.to(device) for name, x in batch.items()})
    T, Tv = one["keypoints"].shape[1], one["frames"].shape[1]
    seen = (np.arange(Tv) * T + T // 2) // Tv                # the pose frames that are video frames
    return {"said": said, "right": right, "joints": dataset.joints,
            "frames": one["frames"][0].permute(0, 2, 3, 1).numpy(),
            **{name: one[name][0, seen].numpy() for name in ("keypoints", "scores")},
            "maps": {name: x[0].float().cpu().numpy() for name, x in maps.items()}}


def draw_strips(model, dataset, predictions: list[dict], folder, device, classes: int) -> int:
    """A strip for each of the first `classes` labels: a clip that was right, one that was not."""
    was_training, written = model.training, 0
    model.eval()
    for label, name in enumerate(dataset.labels[:classes]):
        clips, own = [], [p for p in predictions if p["label"] == label and not p["broken"]]
        for right in (True, False):
            for p in [p for p in own if (p["predicted"] == label) == right][:1]:
                answer = "" if right else f", taken for: {dataset.labels[p['predicted']]}"
                said = f"{p['id']}: {name}{answer} ({100 * p['probability']:.0f} %)"
                clips.append(strip_clip(model, dataset, p["index"], said, right, device))
        if clips:
            safe = "".join(c if c.isalnum() or c in ".-" else "_" for c in name)[:60]
            draw_strip(clips, Path(folder) / f"{label:03d}-{safe}.png")
            written += 1
    model.train(was_training)
    return written


# ---- Checkpoints ---------------------------------------------------------------------------------

def find_checkpoint(row: str = "", out="out") -> Path:
    """`last.pt`, the final weights, of the newest run in out/; with `row` of the newest that has
    its switches, whatever it is called, a lab's runs included."""
    from train import as_json                                    # train.py imports this file
    like = as_json(PeVLConfig(**ROWS[row].overrides)) if row else {}
    runs = Path(out).glob("**/last.pt" if row else "*/last.pt")
    for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
        about = path.with_name("config.json")
        config = json.loads(about.read_text()).get("config", {}) if about.exists() else {}
        same = all(config.get(k) == like[k] for k in ("model", *SWITCHES) if like)
        if config.get("data") != "toy-stills" and same:
            return path
    flag = f" --row {row}" if row else ""
    raise FileNotFoundError(f"no trained model{flag and f' of {row}'} under {out}/. Expected a "
                            f"run's last.pt. Run `python train.py{flag}`, or name one with --ckpt.")


def rebuild(saved: dict, clip_path: str = ""):
    """The trained model of a checkpoint, on the CPU, in evaluation mode. clip_path: where CLIP's
    weights lie now, if not where they lay in training."""
    from train import fingerprint, load_trunk, reseed            # train.py imports this file
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["config"].items()}
    values["clip"] = clip_path or values["clip"]
    config = PeVLConfig(**{f.name: values[f.name] for f in dataclasses.fields(PeVLConfig)
                           if f.name in values})
    reseed(values.get("seed", 0))              # --clip random: the same random CLIP as in training
    clip = load_trunk(config)
    if config.tune != "all" and fingerprint(clip.state_dict()) != saved["clip"]:
        raise ValueError(f"the CLIP weights {config.clip or config.backbone} are not those of "
                         "training: their hashes differ. Expected the same file. Give it: --clip.")
    model = build_model(config, clip, saved["texts"], saved["joints"])
    model.load_trainable_state(saved["model"])
    return model.eval()


def check_data(dataset, saved: dict) -> None:
    """The data set must be the checkpoint's: the same labels in the same order, as many joints."""
    pairs = enumerate(itertools.zip_longest(dataset.labels, saved["labels"], fillvalue="no label"))
    for k, (here, there) in pairs:
        if here != there:
            raise ValueError(f"the data set has {len(dataset.labels)} labels, the checkpoint "
                             f"{len(saved['labels'])}; number {k} is {here!r} here and {there!r} "
                             "there. Expected those of training. Check --data, --root, --version.")
    if len(dataset.joints) != saved["joints"]:
        raise ValueError(f"poses with {len(dataset.joints)} joints, and the checkpoint was trained "
                         f"with {saved['joints']}. Expected as many. Choose others: --poses.")


# ---- One video -----------------------------------------------------------------------------------

class OneClip(Clips):
    """A data set of one file that belongs to no benchmark, sampled as a benchmark's clips are."""

    def __init__(self, cfg, video: Path, pose: Path, saved: dict, views: int):
        self.cfg, self.train, self.views, self.pose = cfg, False, views, pose
        self.clips = [Clip(video.stem, str(video), 0)]
        self.labels, self.texts = saved["labels"], saved["texts"]
        self.joints = read_pose(pose).joints if cfg.read_poses else JOINT_SETS["coco17"].names
        self.flip_index = joint_set(self.joints).flip_index

    def pose_path(self, clip):
        return self.pose


def label_video(cfg: EvalConfig, one: VideoConfig, model, saved: dict, data_cfg, device) -> None:
    """Prints the topk labels of one file and draws its strip."""
    video, uses_pose = Path(one.video), model.config.model in ("pevl", "vilp") and model.config.pose
    pose = Path(one.pose) if one.pose else video.with_suffix(".npz")
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
    if error := dataset[0]["error"]:
        raise ValueError(f"cannot read {error}. Expected a whole video and its own pose clip. "
                         "Fetch or convert them again.")
    answer = evaluate(model, dataset, 1, device, progress=False, probabilities=True)
    share = torch.from_numpy(answer["probabilities"])                                    # (1, K)
    best = rank_labels(share)[0][0].tolist()
    for place, label in enumerate(best[:one.topk], 1):
        print(f"{place:>3}. {100 * share[0, label]:5.1f} %  {saved['labels'][label]}")
    said = f"{video.name}: {saved['labels'][best[0]]} ({100 * share[0, best[0]]:.0f} %)"
    strip = strip_clip(model, dataset, 0, said, None, device)
    print(f"wrote {draw_strip([strip], Path(cfg.out or '.') / f'{video.stem}-strip.png')}")


# ---- Command line --------------------------------------------------------------------------------

@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. Settings of the model and the data come from the checkpoint."""
    ckpt: Annotated[str, "checkpoint or run folder; empty: last.pt of the newest run in out/"] = ""
    views: Annotated[int, "crops of a clip: 1, the centre, or 3 (Sec. 4.1)"] = 1
    eval_split: Annotated[Literal["train", "val", "test"], "split to evaluate"] = "test"
    batch: Annotated[int, "clips at a time: speed and memory, not the answer"] = 16
    out: Annotated[str, "folder for results; empty: beside the checkpoint"] = ""
    strips: Annotated[int, "labels that get a picture strip, from the first; 0: none"] = 48
    save_probabilities: Annotated[bool, "also write every clip's probabilities as .npz"] = False
    costs: Annotated[bool, "count operations and parameters; takes model flags"] = False
    table: Annotated[str, "with --costs: the rows of a table, 4 to 9"] = ""
    row: Annotated[str, "with --costs: a row, as table5/no-p2v; else: newest run like it"] = ""
    clip: Annotated[str, "where CLIP's weights lie now; empty: where they lay in training"] = ""
    aim_weights: Annotated[str, "with --model aim: a file that AIM's authors publish"] = ""
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], "of matrix products"] = "auto"

    def __post_init__(self):
        if min(self.views, self.batch) < 1:
            raise ValueError(f"--views {self.views} --batch {self.batch}. Expected at least 1. "
                             "Raise them.")


@dataclass(frozen=True)
class VideoConfig:
    """One video in, its label out."""
    video: Annotated[str, "video file to label instead of evaluating a split"] = ""
    pose: Annotated[str, "its pose clip; empty: FILE.npz beside FILE.mp4"] = ""
    topk: Annotated[int, "labels to print"] = 5


def check_flags(args, model: str) -> None:
    """Flags that contradict each other or would be without effect are refused."""
    if args.row and args.row not in ROWS:
        raise unknown_name("row", args.row, ROWS)
    said = {"row": args.row, "table": args.table, "ckpt": args.ckpt, "model": model,
            "aim-weights": args.aim_weights}
    for wrong, expected in (
            (args.table and not args.costs, "--table with --costs"),
            (args.row and (args.table or args.ckpt), "--row without --table and --ckpt"),
            (model != "pevl" and (args.row or args.table), "PeVL, whose rows they are"),
            (model != "aim" and args.aim_weights, "--model aim")):
        if wrong:
            said = " ".join(f"--{flag} {word}" for flag, word in said.items() if word)
            raise ValueError(f"{said}. Expected {expected}. Change one of them.")


def read_command(argv) -> tuple:
    """argv -> EvalConfig, VideoConfig or PeVLConfig, DataConfig, a checkpoint's path and content.

    --video and --pose are files here and switches of a model in training, so model flags are read
    only after --costs, --model or --backbone; a run's checkpoint has its own."""
    import train                                                 # train.py imports this file
    given, held = {word.split("=")[0] for word in argv}, {}
    modelled = bool(given & {"--costs", "--model", "--backbone"})

    def presets(args):
        model = args.model if modelled else "pevl"
        check_flags(args, model)
        if args.costs:
            return ROWS[args.row].overrides if args.row else train.PRESETS.get(model, {})
        if model == "clip" or args.aim_weights:
            return train.presets(args)
        path = Path(args.ckpt) if args.ckpt else find_checkpoint(args.row)
        saved = train.read_checkpoint(path / "last.pt" if path.is_dir() else path)
        held.update(path=path, saved=saved)
        config = saved["config"]
        what = f"{path}, which is {config['model']} on {config['data']} and {config['backbone']}"
        if modelled:
            raise ValueError(f"--model or --backbone beside {what}. Expected them with --costs, "
                             "--model clip or --aim-weights, since a checkpoint has its own. Leave "
                             "them out.")
        if config["data"] == "toy-stills":
            raise ValueError(f"cannot evaluate {what}: CLIP's own pretraining. Expected pevl, vilp "
                             "or aim on clips. Choose another --ckpt.")
        wanted = ["precision", *(f.name for f in dataclasses.fields(DataConfig))]
        return {name: config[name] for name in wanted if name in config}

    classes = (EvalConfig, PeVLConfig if modelled else VideoConfig, DataConfig)
    return (*build_configs(argv, classes, presets, __doc__)[0], held)


def report(result: dict, labels: list[str]) -> str:
    """The figures of `evaluate` as text; of more than 60 labels, the twenty with the worst."""
    figures = {"top-1": "top1", "top-5": "top5", "mean over classes": "mean"}
    said = ["   ".join([f"{word} {100 * result[name]:.2f} %" for word, name in figures.items()]
                       + [f"{result['clips']} clips"])]
    alone = [f"{name[5:]} {100 * x:.2f} %" for name, x in result.items() if name[:5] == "top1/"]
    said += ["one similarity alone: " + ", ".join(alone)] if alone else []
    rows = [k for k, accuracy in enumerate(result["per_class"]) if accuracy is not None]
    rows = sorted(rows, key=lambda k: result["per_class"][k])[:20] if len(rows) > 60 else rows
    cells, others = [["label", "clips", "right %"]], ["most often taken for"]
    for k in rows:
        wrong = result["confusion"][k].clone()
        clips, wrong[k] = int(wrong.sum() + result["unread"][k]), 0
        cells.append([labels[k], str(clips), f"{100 * result['per_class'][k]:.1f}"])
        others.append(f"{labels[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.any() else "")
    said += ["", *(f"{line}   {other}".rstrip() for line, other in zip(table(cells), others)), ""]
    if empty := result["per_class"].count(None):
        said.append(f"{empty} labels have no clip in this split and are left out of the mean")
    if result["ties"]:
        said.append(f"{result['ties']} clips were tied between labels; the first label won")
    if lost := result["errors"]:
        said.append(f"{len(lost)} clips could not be read and count as wrong: "
                    + ", ".join(lost[:5] + ["..."] * (len(lost) > 5)))
    return "\n".join(said)


def write_results(result: dict, model, dataset, cfg: EvalConfig, folder: Path, about: dict,
                  device) -> None:
    """JSON, confusion matrix, strips and, where asked for, probabilities, into `folder`."""
    name, labels = f"{cfg.eval_split}-{cfg.views}view", list(dataset.labels)
    plain = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in result.items()
             if k != "probabilities"}
    with atomic(folder / f"eval-{name}.json") as part:
        part.write_text(json.dumps({**about, "labels": labels, **plain}))
    title = (f"top-1 {100 * result['top1']:.1f} %, mean over classes {100 * result['mean']:.1f} %; "
             f"{result['clips']} clips, {cfg.eval_split} split")
    draw_confusion(result["confusion"], labels, folder / f"confusion-{name}.png", title)
    said = f"wrote into {folder}: eval-{name}.json, confusion-{name}.png"
    if "probabilities" in result:
        columns = {k: [row[k] for row in result["predictions"]] for k in ("id", "label")}
        columns |= {"labels": labels, "probabilities": result["probabilities"]}
        with atomic(folder / f"probabilities-{name}.npz") as part, open(part, "wb") as file:
            np.savez_compressed(file, **columns)
        said += f", probabilities-{name}.npz"
    if cfg.strips:
        strips = folder / f"strips-{cfg.eval_split}"
        number = draw_strips(model, dataset, result["predictions"], strips, device, cfg.strips)
        said += f", {number} pictures in {strips.name}/"
    print(said)


def run(argv) -> dict | None:
    """The command line; the result of `evaluate`, or None where nothing is evaluated."""
    cfg, other, data_cfg, held = read_command(argv)
    if cfg.costs:
        return print(cost_table(cost_rows(cfg, other)))
    from train import choose_precision, join_world, load_trunk, open_split
    world, model, saved = join_world(cfg), None, held.get("saved")
    precision = choose_precision(cfg, world.device)
    if saved:
        model = rebuild(saved, cfg.clip).to(world.device)
        if other.video:
            return label_video(cfg, other, model, saved, data_cfg, world.device)
    dataset = open_split(data_cfg, cfg.eval_split, False, cfg.views)
    if saved:
        check_data(dataset, saved)
    else:
        trunk = dataclasses.replace(other, clip="random") if cfg.aim_weights else other
        model = build_model(other, load_trunk(trunk), dataset.texts, len(dataset.joints))
        if cfg.aim_weights:                            # which hold CLIP's image tower, too
            model.load_published(read_weights(cfg.aim_weights))
        model = model.to(world.device)
    result = evaluate(model, dataset, cfg.batch, world.device, data_cfg.workers, precision,
                      probabilities=cfg.save_probabilities)
    if world.rank == 0:
        path = held.get("path", Path(cfg.aim_weights or f"out/{data_cfg.data}-clip"))
        folder = Path(cfg.out) if cfg.out else path.parent if path.suffix else path
        about = {"checkpoint": str(path), "model": model.config.model,
                 "backbone": model.config.backbone, "data": data_cfg.data, "split": cfg.eval_split,
                 "views": cfg.views}
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        print(report(result, dataset.labels))
        write_results(result, model, dataset, cfg, folder, about, world.device)
    return result


def main(argv=None) -> int:
    try:
        run(sys.argv[1:] if argv is None else argv)
        return 0
    except (ValueError, OSError) as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
