"""systems/transfer.py: starting from other weights, and what is refused.

First runs of ours, which start on other labels, with a head of their own or without. Then BIKE's
checkpoints: files in the form in which its authors save theirs, with random numbers, so that each
tensor can be followed to its place; published/bike.py tells and reads them.
"""
import dataclasses
import json
import math
import pickle
import re
import shutil

import pytest
import torch
import torch.nn.functional as F

import train
from bombs import Bomb
from clip_model import BACKBONES, CLIP
from eval import load_trunk, rebuild
from pevl import text_discrepancy
from published.bike import is_bike, read_bike
from runs import configs, leave_out_pictures
from support.checkpoints import read_checkpoint
from systems import transfer
from systems.config import PeVLConfig
from systems.registry import build_model

TEXTS = ["one somersault", "two somersaults", "a twist"]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    leave_out_pictures(monkeypatch)


@pytest.fixture(scope="module")
def relabelled(tree, tmp_path_factory):
    """The tree with another vocabulary: as many classes, the first two exchanged."""
    root = tmp_path_factory.mktemp("relabelled") / "dives"
    shutil.copytree(tree, root)
    vocabulary = json.loads((root / "Diving48_vocab.json").read_text())
    vocabulary[0], vocabulary[1] = vocabulary[1], vocabulary[0]
    (root / "Diving48_vocab.json").write_text(json.dumps(vocabulary))
    return root


@pytest.fixture(scope="module")
def first(tree, tmp_path_factory):
    """A function: settings -> the folder of a run of one epoch with them, trained once."""
    runs = {}

    def folder_of(**changes):
        key = repr(sorted(changes.items()))
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("first")
            train.train(*configs(tree, runs[key], epochs=1, **changes))
        return runs[key]

    return folder_of


def started(root, out, init, **changes):
    """The model as `train.py --init` has it before its first step, and what it said."""
    run = train.prepare(*configs(root, out, init=str(init), epochs=1, **changes))
    train.close_folder(run)
    return run.model, (out / "log.txt").read_text()


def differing(a, b):
    """Names of entries that are not equal to the bit; the names themselves must be the same."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


# ---- A run of ours -------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["pevl", "vilp"])
def test_init_from_another_label_set(first, relabelled, tmp_path, name):
    """Texts have no parameters: all that was trained comes along, and the texts are new."""
    folder = first(model=name)
    saved = read_checkpoint(folder / "last.pt")
    model, said = started(relabelled, tmp_path, folder, model=name)
    assert not differing(model.trainable_state(), saved["model"])
    assert not torch.equal(model.tokens, rebuild(saved).tokens)
    assert f"starts from {folder}/last.pt: {name} on diving48, 16 labels, step 4" in said
    assert "anew" not in said
    assert "cannot move" not in said, "weights that were trained are not said to be stuck"


LINEAR = [({"model": "aim"}, "head"),
          ({"text": False, "sgl": False}, "projection"),
          ({"model": "vilp", "text": False}, "head")]


@pytest.mark.parametrize("changes, head", LINEAR)
def test_init_of_a_linear_head(first, tree, relabelled, tmp_path, changes, head):
    """A row for each label: with other labels it starts anew, with the same it comes along."""
    folder = first(**changes)
    saved = read_checkpoint(folder / "last.pt")
    model, said = started(relabelled, tmp_path / "other", folder, **changes)
    anew = differing(model.trainable_state(), saved["model"])
    assert anew == {f"{head}.weight", f"{head}.bias"}
    assert "the linear head starts anew, with 16 labels" in said

    model, said = started(tree, tmp_path / "same", folder, **changes)
    assert not differing(model.trainable_state(), saved["model"])
    assert "anew" not in said


def test_init_of_another_number_of_labels(first):
    """The head of 16 labels is left out; a model of three takes the rest."""
    path = first(model="aim") / "last.pt"
    saved = read_checkpoint(path)
    config = rebuild(saved).config
    model = build_model(config, load_trunk(config), TEXTS, 17)
    transfer.start_from(path, model, TEXTS, saved["clip"])
    assert model.head.weight.shape[0] == 3

    head = {"head.weight", "head.bias"}
    got = {name: x for name, x in model.trainable_state().items() if name not in head}
    want = {name: x for name, x in saved["model"].items() if name not in head}
    assert not differing(got, want)


def test_init_with_all_of_clip_keeps_the_original_discrepancies(first, relabelled, tmp_path):
    """--tune all: the run's CLIP comes along; Eq. (5) asks the CLIP that it began with."""
    folder = first(tune="all", lr=3e-2, trunk_lr=1.0)
    saved = read_checkpoint(folder / "last.pt")
    model, _ = started(relabelled, tmp_path, folder, tune="all")
    original = load_trunk(model.config)
    assert torch.equal(model.clip.visual.proj, saved["model"]["clip.visual.proj"])
    assert not torch.equal(model.clip.visual.proj, original.visual.proj)

    with torch.no_grad():
        of_original = text_discrepancy(original.encode_text(model.tokens)[0])
        of_trained = text_discrepancy(model.clip.encode_text(model.tokens)[0])
    assert torch.equal(model.discrepancy, of_original)
    assert (of_trained - of_original).abs().max() > 1e-3, "else both would be right"


RANDOM = {"clip": "random", "image_size": 80}
REFUSED = [
    ({}, {"pose_frames": 8}, r"2 entries differ, first: \['pose.temporal_embedding \(4, 1, 96\)', "
                             r"'pose.temporal_embedding \(8, 1, 96\)'\]"),
    ({}, {"p2v": False}, "p2v"),
    ({}, {"adapter_ratio": 0.5}, "adapter.down"),
    ({}, {"tune": "all"}, "clip.logit_scale"),
    ({"model": "aim"}, {}, "is a run of --model aim, and this one is of pevl. Expected the same"),
    (RANDOM, RANDOM | {"seed": 1}, "other CLIP weights: their hashes differ"),
    (RANDOM, {"image_size": 80}, "other CLIP weights: their hashes differ")]


@pytest.mark.parametrize("was, here, message", REFUSED)
def test_init_refuses_by_name(first, tree, tmp_path, was, here, message):
    """What does not fit is named, before the run's folder is made."""
    folder = first(**{"model": "pevl"} | was)
    with pytest.raises(ValueError, match=message):
        started(tree, tmp_path / "run", folder, **here)
    assert not (tmp_path / "run").exists()


def test_init_of_what_is_no_checkpoint(tree, tmp_path):
    """A file that is not there, and one that is torn."""
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pt"):
        started(tree, tmp_path / "run", tmp_path / "none.pt")
    torn = tmp_path / "torn.pt"
    torn.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="torn.pt is torn or no checkpoint"):
        started(tree, tmp_path / "run", torn)


@pytest.mark.slow
def test_a_run_with_init_goes_on(first, tree, tmp_path):
    """Stopped and continued it is the same run; from other weights it is another, and refused."""
    flags = {"init": str(first(model="pevl")), "epochs": 2}
    cut = tmp_path / "cut"
    whole = train.train(*configs(tree, tmp_path / "whole", **flags))

    def stop(run):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            train.train(*configs(tree, cut, **flags))
    again = train.train(*configs(tree, cut, **flags))
    assert torch.equal(torch.as_tensor(again["confusion"]), torch.as_tensor(whole["confusion"]))
    a = read_checkpoint(tmp_path / "whole" / "last.pt")["model"]
    b = read_checkpoint(cut / "last.pt")["model"]
    assert not differing(a, b)

    # Where the file lies is free; what is in it is not.
    moved = tmp_path / "moved.pt"
    shutil.copy(first(model="pevl") / "last.pt", moved)
    train.train(*configs(tree, cut, **flags | {"init": str(moved)}))
    other = first(lr=5e-3)
    with pytest.raises(ValueError, match="weights at the start from"):
        train.train(*configs(tree, cut, **flags | {"init": str(other)}))


# ---- BIKE: files as its authors save them --------------------------------------------------------

SIZES = dataclasses.replace(BACKBONES["tiny"], image_size=40)
FUSION_LAYERS = 6


def vilp_model(**changes):
    """A ViLP on a random tiny CLIP of 40 px. changes: of PeVLConfig."""
    settings = {"model": "vilp", "backbone": "tiny", "clip": "random", "image_size": 40,
                "pose_frames": 4, "video_frames": 2}
    torch.manual_seed(0)
    return build_model(PeVLConfig(**settings | changes), CLIP(SIZES), TEXTS, 17)


def fusion_shapes():
    """Name -> shape of the entries of BIKE's transformer over frames, at the tiny CLIP's width."""
    e = SIZES.embed_dim
    shapes = {"frame_position_embeddings.weight": (SIZES.context_length, e)}
    pieces = {
        "ln_1.weight": (e,),
        "ln_1.bias": (e,),
        "attn.in_proj_weight": (3 * e, e),
        "attn.in_proj_bias": (3 * e,),
        "attn.out_proj.weight": (e, e),
        "attn.out_proj.bias": (e,),
        "ln_2.weight": (e,),
        "ln_2.bias": (e,),
        "mlp.c_fc.weight": (4 * e, e),
        "mlp.c_fc.bias": (4 * e,),
        "mlp.c_proj.weight": (e, 4 * e),
        "mlp.c_proj.bias": (e,),
    }
    for i in range(FUSION_LAYERS):
        for piece, shape in pieces.items():
            shapes[f"transformer.resblocks.{i}.{piece}"] = shape
    return shapes


def bike_content():
    """What BIKE's authors save, for the tiny CLIP: names and shapes theirs, numbers random."""
    torch.manual_seed(3)
    clip = {name: 0.3 * torch.randn_like(x) for name, x in CLIP(SIZES).state_dict().items()}
    fusion = {name: 0.2 * torch.randn(shape) for name, shape in fusion_shapes().items()}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}},
                 "param_groups": [{"lr": 5e-5}]}
    return {"epoch": 29, "model_state_dict": clip, "fusion_model_state_dict": fusion,
            "optimizer_state_dict": optimizer}


def in_parallel(content):
    """The same, saved from several GPUs: `module.` before each name of both state dicts."""
    changed = dict(content)
    for part in ("model_state_dict", "fusion_model_state_dict"):
        changed[part] = {f"module.{name}": x for name, x in content[part].items()}
    return changed


@pytest.fixture
def bike_file(tmp_path):
    """A checkpoint of BIKE."""
    path = tmp_path / "k400.pt"
    torch.save(bike_content(), path)
    return path


def text_tower(model):
    """Copies of what of a model's CLIP is not its image tower, by name."""
    return {name: p.detach().clone() for name, p in model.clip.named_parameters()
            if not name.startswith("visual.")}


def layer_norm(x, layer, name):
    """CLIP's layer norm, as BIKE's transformer has it; layer: the tensors of one block."""
    return F.layer_norm(x, x.shape[-1:], layer[f"{name}.weight"], layer[f"{name}.bias"], 1e-12)


def linear(x, layer, name):
    return x @ layer[f"{name}.weight"].T + layer[f"{name}.bias"]


def fusion_by_formula(fusion, x, heads):
    """BIKE's transformer over frames x (B, T, e), written from its description.

    Six pre-norm blocks with QuickGELU, positions added before, and one skip around all of it.
    """
    B, T, e = x.shape
    c = e // heads
    z = x + fusion["frame_position_embeddings.weight"][:T]
    for i in range(FUSION_LAYERS):
        stem = f"transformer.resblocks.{i}."
        layer = {name.removeprefix(stem): v for name, v in fusion.items() if name.startswith(stem)}

        h = layer_norm(z, layer, "ln_1")
        joint = h @ layer["attn.in_proj_weight"].T + layer["attn.in_proj_bias"]
        q, k, v = joint.view(B, T, 3, heads, c).permute(2, 0, 3, 1, 4)     # each (B, h, T, c)
        shares = (q @ k.transpose(2, 3) / math.sqrt(c)).softmax(-1)        # (B, h, T, T)
        mixed = (shares @ v).transpose(1, 2).reshape(B, T, e)
        z = z + linear(mixed, layer, "attn.out_proj")

        h = linear(layer_norm(z, layer, "ln_2"), layer, "mlp.c_fc")
        z = z + linear(h * torch.sigmoid(1.702 * h), layer, "mlp.c_proj")
    return x + z


# ---- BIKE: what comes from where -----------------------------------------------------------------

@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_bike_starts_both_towers_and_the_transformer(tmp_path, parallel, zipped):
    """Frames and poses begin with BIKE's image tower; frames see each other as in BIKE."""
    content = bike_content()
    saved = in_parallel(content) if parallel else content
    path = tmp_path / "k400.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    model = vilp_model()
    text_before = text_tower(model)
    said = transfer.start_from(path, model, TEXTS, "any hash")

    clip = content["model_state_dict"]
    for tower in (model.clip.visual, model.pose):
        for name, p in tower.named_parameters():
            assert torch.equal(p, clip[f"visual.{name}"]), name
    assert model.logit_scale == clip["logit_scale"]
    assert not differing(text_tower(model), text_before), "texts stay CLIP's"

    x = torch.randn(3, 2, SIZES.embed_dim)
    want = fusion_by_formula(content["fusion_model_state_dict"], x, SIZES.text_heads)
    with torch.no_grad():
        assert torch.allclose(model.mixer(x), want, atol=1e-4)
    assert "BIKE's image tower" in said
    assert "differs from the CLIP's here by up to" in said
    assert "anew" not in said


def test_bike_with_the_text_tower_of_clip(tmp_path):
    """Equal text towers are called equal."""
    model = vilp_model()
    content = bike_content()
    content["model_state_dict"].update(text_tower(model))
    path = tmp_path / "same.pt"
    torch.save(content, path)
    assert "its text tower is the CLIP's here" in transfer.start_of_vilp(path, model)


def test_bike_says_whose_texts_there_are(bike_file):
    """With --tune all BIKE's text tower is taken; a linear head starts anew."""
    model = vilp_model(tune="all")
    assert "its text tower too" in transfer.start_of_vilp(bike_file, model)
    clip = bike_content()["model_state_dict"]
    assert torch.equal(model.clip.text_projection, clip["text_projection"])

    model = vilp_model(text=False)
    assert "the linear head starts anew" in transfer.start_of_vilp(bike_file, model)


def test_bike_for_poses_alone(bike_file):
    """Without video the tower of frames is not ours to move; that of poses begins with BIKE's."""
    model = vilp_model(video=False)
    before = model.clip.visual.proj.clone()
    transfer.start_of_vilp(bike_file, model)
    assert torch.equal(model.clip.visual.proj, before)
    assert torch.equal(model.pose.proj, bike_content()["model_state_dict"]["visual.proj"])


def test_bike_through_the_command(tree, bike_file, tmp_path):
    """train.py --model vilp --init FILE trains, and its checkpoint opens again."""
    run = tmp_path / "run"
    assert train.main(["--data", "diving48", "--root", str(tree), "--workers", "0",
                       "--model", "vilp", "--backbone", "tiny", "--image-size", "40",
                       "--pose-frames", "2", "--video-frames", "2", "--epochs", "1",
                       "--warmup", "0.5", "--batch", "8", "--out", str(run),
                       "--init", str(bike_file)]) == 0
    assert f"starts from {bike_file}" in (run / "log.txt").read_text()
    assert rebuild(read_checkpoint(run / "last.pt")).config.model == "vilp"


# ---- BIKE: what is refused -----------------------------------------------------------------------

CLIP_PART = "model_state_dict"
FUSION_PART = "fusion_model_state_dict"
LAST_BIAS = "transformer.resblocks.5.mlp.c_fc.bias"


@pytest.mark.parametrize("part, name, change, message", [
    (CLIP_PART, "visual.proj", None, "CLIP visual.proj"),
    (CLIP_PART, "visual.more", torch.zeros(2), "CLIP visual.more"),
    (CLIP_PART, "ln_final.weight", torch.zeros(2), "CLIP ln_final.weight (2,)"),
    (FUSION_PART, LAST_BIAS, None, f"fusion {LAST_BIAS}"),
    (FUSION_PART, "transformer.resblocks.6.ln_1.bias", torch.zeros(2),
     "fusion transformer.resblocks.6"),
    (FUSION_PART, "frame_position_embeddings.weight", torch.zeros(8, 4),
     "frame_position_embeddings.weight (8, 4)")])
def test_bike_is_read_strictly(tmp_path, part, name, change, message):
    """A name too few, too many or of another shape is named, and nothing has been copied."""
    content = bike_content()
    if change is None:
        del content[part][name]
    else:
        content[part][name] = change
    path = tmp_path / "k400.pt"
    torch.save(content, path)

    model = vilp_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    said = f"no checkpoint of BIKE for this backbone: .*{re.escape(message)}"
    with pytest.raises(ValueError, match=said):
        transfer.start_of_vilp(path, model)
    assert not differing(dict(model.named_parameters()), before)


def test_bike_is_for_vilp(tree, bike_file, tmp_path):
    """Another system has no place for it, and it has positions for 32 frames at most."""
    said = "is a checkpoint of BIKE, and this is --model pevl. Expected --model vilp"
    with pytest.raises(ValueError, match=said):
        started(tree, tmp_path / "run", bike_file)
    model = vilp_model(video_frames=64, pose_frames=64)
    with pytest.raises(ValueError, match="positions for 32 frames, and --video-frames is 64"):
        transfer.start_of_vilp(bike_file, model)


def test_bike_with_code_is_refused(tmp_path):
    """A pickle that asks for a function is named, and the function is not called."""
    mark = tmp_path / "code-was-run"
    path = tmp_path / "k400.pt"
    torch.save(bike_content() | {"optimizer_state_dict": Bomb(mark)}, path)
    assert is_bike(path)
    with pytest.raises(ValueError, match=r"asks for \S*boom, .*nothing of it was run"):
        read_bike(path)
    assert not mark.exists()

    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb is one: unpickling it does run code"


def test_is_bike_by_its_names(first, bike_file, tmp_path):
    """Told without unpickling: runs of ours, torn files, pickles and texts are none."""
    assert is_bike(bike_file)
    assert not is_bike(first(model="pevl") / "last.pt")
    others = {"pickle": pickle.dumps({"model_state_dict": 1}),
              "torn": b"PK\x03\x04 fusion_model_state_dict",
              "text": b"no weights"}
    for name, content in others.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert not is_bike(path), name


def test_half_a_bike_is_an_error(tmp_path):
    """A file with one of the two state dicts is told by its name, and lacks the other."""
    half = tmp_path / "half.pt"
    torch.save({"fusion_model_state_dict": {}}, half)
    assert is_bike(half)
    with pytest.raises(ValueError, match="it holds no state dict model_state_dict"):
        read_bike(half)
