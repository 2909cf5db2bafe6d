"""Starting from other weights: runs on other labels, BIKE's checkpoints as the tests write them, and what is refused."""
import dataclasses
import json
import math
import pickle
import shutil

import pytest
import torch
import torch.nn.functional as F

import train
from clip_model import BACKBONES, CLIP
from eval import load_trunk, rebuild
from pevl import text_discrepancy
from published.bike import is_bike, read_bike
from runs import configs
from support.checkpoints import read_checkpoint
from systems import transfer
from systems.config import PeVLConfig
from systems.registry import build_model

TEXTS = ["one somersault", "two somersaults", "a twist"]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(train, "write_results", lambda *_, **__: None)
    monkeypatch.setattr(train, "draw_curves", lambda *_, **__: None)


@pytest.fixture(scope="module")
def relabelled(tree, tmp_path_factory):
    """The tree with another vocabulary: as many classes, two of them renamed."""
    root = tmp_path_factory.mktemp("relabelled") / "dives"
    shutil.copytree(tree, root)
    vocab = json.loads((root / "Diving48_vocab.json").read_text())
    vocab[0], vocab[1] = vocab[1], vocab[0]
    (root / "Diving48_vocab.json").write_text(json.dumps(vocab))
    return root


@pytest.fixture(scope="module")
def first(tree, tmp_path_factory):
    """Settings -> the folder of a run of one epoch with them, trained once per module."""
    runs = {}

    def of(**changes):
        key = repr(sorted(changes.items()))
        if key not in runs:
            out = tmp_path_factory.mktemp("first")
            train.train(*configs(tree, out, epochs=1, **changes))
            runs[key] = out
        return runs[key]
    return of


def started(root, out, init, **changes):
    """The model as `train.py --init` has it before its first step, and what it said."""
    run = train.prepare(*configs(root, out, init=str(init), epochs=1, **changes))
    train.close_folder(run)
    return run.model, (out / "log.txt").read_text()


def differing(a, b):
    """Names of entries that are not equal to the bit."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


# ---- A run of ours -------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [{}, {"model": "vilp"}])
def test_init_from_another_label_set(first, relabelled, tmp_path, changes):
    """Texts have no parameters: all that was trained comes along, and the texts are the new ones."""
    folder = first(**changes)
    saved = read_checkpoint(folder / "last.pt")
    model, said = started(relabelled, tmp_path, folder, **changes)
    assert not differing(model.trainable_state(), saved["model"])
    assert not torch.equal(model.tokens, rebuild(saved).tokens)
    assert f"starts from {folder}/last.pt: {changes.get('model', 'pevl')} on diving48, 16 labels, step 4" in said
    assert "anew" not in said and "cannot move" not in said


HEADS = [({"model": "aim"}, "head"), ({"text": False, "sgl": False}, "projection"), ({"model": "vilp", "text": False}, "head")]


@pytest.mark.parametrize("changes, head", HEADS)
def test_init_of_a_linear_head(first, tree, relabelled, tmp_path, changes, head):
    """A row for each label: with other labels it starts anew and says so, with the same it comes along."""
    saved = read_checkpoint(first(**changes) / "last.pt")
    model, said = started(relabelled, tmp_path / "other", first(**changes), **changes)
    assert differing(model.trainable_state(), saved["model"]) == {f"{head}.weight", f"{head}.bias"}
    assert "the linear head starts anew, with 16 labels" in said
    model, said = started(tree, tmp_path / "same", first(**changes), **changes)
    assert not differing(model.trainable_state(), saved["model"])
    assert "anew" not in said


def test_init_of_another_number_of_labels(first):
    """The head of 16 labels is left out; a model of three takes the rest."""
    saved = read_checkpoint(first(model="aim") / "last.pt")
    config = rebuild(saved).config
    model = build_model(config, load_trunk(config), TEXTS, 17)
    transfer.start_from(first(model="aim") / "last.pt", model, TEXTS, saved["clip"])
    assert model.head.weight.shape[0] == 3
    assert torch.equal(model.video.blocks[0].spatial_adapter.up.weight,
                       saved["model"]["video.blocks.0.spatial_adapter.up.weight"])


def test_init_with_all_of_clip_keeps_the_original_discrepancies(first, relabelled, tmp_path):
    """--tune all: the run's CLIP comes along; Eq. (5) asks the CLIP that it began with."""
    folder = first(tune="all", lr=3e-2, trunk_lr=1.0)
    saved = read_checkpoint(folder / "last.pt")
    model, _ = started(relabelled, tmp_path, folder, tune="all")
    original = load_trunk(model.config)
    with torch.no_grad():
        wanted = text_discrepancy(original.encode_text(model.tokens)[0])
        moved = text_discrepancy(model.clip.encode_text(model.tokens)[0])
    assert torch.equal(model.clip.visual.proj, saved["model"]["clip.visual.proj"])
    assert not torch.equal(model.clip.visual.proj, original.visual.proj)
    assert torch.equal(model.discrepancy, wanted)
    assert (moved - wanted).abs().max() > 1e-3                  # the trained one would say otherwise


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
    with pytest.raises(ValueError, match=message):
        started(tree, tmp_path / "run", first(**was), **here)
    assert not (tmp_path / "run").exists()


def test_init_of_what_is_no_checkpoint(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pt"):
        started(tree, tmp_path / "run", tmp_path / "none.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="torn.pt is torn or no checkpoint"):
        started(tree, tmp_path / "run", tmp_path / "torn.pt")


@pytest.mark.slow
def test_a_run_with_init_goes_on(first, tree, tmp_path):
    """Stopped and continued it is the same run; from other weights it is another, and refused."""
    flags = dict(init=str(first()), epochs=2)
    whole = train.train(*configs(tree, tmp_path / "whole", **flags))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "measure", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train.train(*configs(tree, tmp_path / "cut", **flags))
    again = train.train(*configs(tree, tmp_path / "cut", **flags))
    assert torch.equal(torch.as_tensor(again["confusion"]), torch.as_tensor(whole["confusion"]))
    a, b = (read_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("whole", "cut"))
    assert not differing(a, b)

    moved = tmp_path / "moved.pt"                               # where the file lies is free
    shutil.copy(first() / "last.pt", moved)
    train.train(*configs(tree, tmp_path / "cut", **flags | {"init": str(moved)}))
    other = first(lr=5e-3)
    with pytest.raises(ValueError, match="weights at the start from"):
        train.train(*configs(tree, tmp_path / "cut", **flags | {"init": str(other)}))


# ---- BIKE ----------------------------------------------------------------------------------------

def vilp_model(seed=0, texts=TEXTS, **changes):
    """A ViLP on a random tiny CLIP of 40 px."""
    config = PeVLConfig(**dict(model="vilp", backbone="tiny", clip="random", image_size=40, pose_frames=4,
                               video_frames=2) | changes)
    torch.manual_seed(seed)
    clip = CLIP(dataclasses.replace(BACKBONES["tiny"], image_size=40))
    return build_model(config, clip, texts, 17)


def bike_content(seed=3):
    """What BIKE's authors save, for the tiny CLIP: names and shapes theirs, numbers random."""
    torch.manual_seed(seed)
    sizes = dataclasses.replace(BACKBONES["tiny"], image_size=40)
    clip = {name: 0.3 * torch.randn_like(x) for name, x in CLIP(sizes).state_dict().items()}
    e = sizes.embed_dim
    fusion = {"frame_position_embeddings.weight": torch.randn(sizes.context_length, e)}
    for i in range(6):
        pieces = {"ln_1.weight": (e,), "ln_1.bias": (e,), "attn.in_proj_weight": (3 * e, e), "attn.in_proj_bias": (3 * e,),
                  "attn.out_proj.weight": (e, e), "attn.out_proj.bias": (e,), "ln_2.weight": (e,), "ln_2.bias": (e,),
                  "mlp.c_fc.weight": (4 * e, e), "mlp.c_fc.bias": (4 * e,), "mlp.c_proj.weight": (e, 4 * e),
                  "mlp.c_proj.bias": (e,)}
        for piece, shape in pieces.items():
            fusion[f"transformer.resblocks.{i}.{piece}"] = 0.2 * torch.randn(shape)
    return {"epoch": 29, "model_state_dict": clip, "fusion_model_state_dict": fusion,
            "optimizer_state_dict": {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 5e-5}]}}


def in_parallel(content):
    """The same, saved from several GPUs."""
    for part in ("model_state_dict", "fusion_model_state_dict"):
        content[part] = {f"module.{name}": x for name, x in content[part].items()}
    return content


def fusion_by_formula(fusion, x, heads):
    """BIKE's transformer over frames x (B, T, e), written from its description: pre-norm, QuickGELU, one skip around."""
    B, T, e = x.shape
    z = x + fusion["frame_position_embeddings.weight"][:T]
    for i in range(6):
        w = {name.split(f"resblocks.{i}.")[1]: v for name, v in fusion.items() if f"resblocks.{i}." in name}
        h = F.layer_norm(z, (e,), w["ln_1.weight"], w["ln_1.bias"], 1e-12)
        q, k, v = (h @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"]).chunk(3, -1)
        split = lambda y: y.view(B, T, heads, e // heads).transpose(1, 2)
        shares = (split(q) @ split(k).transpose(2, 3) / math.sqrt(e // heads)).softmax(-1)
        mixed = (shares @ split(v)).transpose(1, 2).reshape(B, T, e)
        z = z + mixed @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]
        h = F.layer_norm(z, (e,), w["ln_2.weight"], w["ln_2.bias"], 1e-12) @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]
        z = z + (h * torch.sigmoid(1.702 * h)) @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]
    return x + z


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_bike_starts_both_towers_and_the_transformer(tmp_path, parallel, zipped):
    """Frames and poses begin with BIKE's image tower; frames see each other as they do in BIKE; texts stay CLIP's."""
    content = bike_content()
    saved = in_parallel(bike_content()) if parallel else content
    torch.save(saved, tmp_path / "k400.pt", _use_new_zipfile_serialization=zipped)
    model = vilp_model()
    text = {name: p.clone() for name, p in model.clip.named_parameters() if not name.startswith("visual.")}
    said = transfer.start_from(tmp_path / "k400.pt", model, TEXTS, "any hash")

    clip, fusion = content["model_state_dict"], content["fusion_model_state_dict"]
    for name, p in model.clip.visual.named_parameters():
        assert torch.equal(p, clip[f"visual.{name}"]), name
    for name, p in model.pose.named_parameters():
        assert torch.equal(p, clip[f"visual.{name}"]), name
    assert model.logit_scale == clip["logit_scale"]
    now = {name: p for name, p in model.clip.named_parameters() if not name.startswith("visual.")}
    assert not differing(now, text)
    x = torch.randn(3, 2, model.clip.config.embed_dim)
    with torch.no_grad():
        assert torch.allclose(model.mixer(x), fusion_by_formula(fusion, x, model.clip.config.text_heads), atol=1e-4)
    assert "BIKE's image tower" in said and "differs from the CLIP's here by up to" in said and "anew" not in said


def test_bike_says_whose_texts_there_are(tmp_path):
    """Equal text towers are called equal; with --tune all BIKE's is taken; a linear head starts anew."""
    content, model = bike_content(), vilp_model()
    own = {name: x for name, x in model.clip.state_dict().items() if not name.startswith("visual.")}
    torch.save(content | {"model_state_dict": content["model_state_dict"] | own}, tmp_path / "same.pt")
    assert "its text tower is the CLIP's here" in transfer.start_of_vilp(tmp_path / "same.pt", model)

    torch.save(content, tmp_path / "k400.pt")
    model = vilp_model(tune="all")
    assert "its text tower too" in transfer.start_of_vilp(tmp_path / "k400.pt", model)
    assert torch.equal(model.clip.text_projection, content["model_state_dict"]["text_projection"])
    assert "the linear head starts anew" in transfer.start_of_vilp(tmp_path / "k400.pt", vilp_model(text=False))

    model = vilp_model(video=False)                             # poses alone: the tower of frames is not ours to move
    before = model.clip.visual.proj.clone()
    transfer.start_of_vilp(tmp_path / "k400.pt", model)
    assert torch.equal(model.clip.visual.proj, before)
    assert torch.equal(model.pose.proj, content["model_state_dict"]["visual.proj"])


@pytest.mark.parametrize("part, name, change, message", [
    ("model_state_dict", "visual.proj", None, "CLIP visual.proj"),
    ("model_state_dict", "visual.more", torch.zeros(2), "CLIP visual.more"),
    ("model_state_dict", "ln_final.weight", torch.zeros(2), r"CLIP ln_final.weight \(2,\)"),
    ("fusion_model_state_dict", "transformer.resblocks.5.mlp.c_fc.bias", None, "fusion transformer.resblocks.5.mlp.c_fc.bias"),
    ("fusion_model_state_dict", "transformer.resblocks.6.ln_1.bias", torch.zeros(2), "fusion transformer.resblocks.6"),
    ("fusion_model_state_dict", "frame_position_embeddings.weight", torch.zeros(8, 4), r"frame_position_embeddings.weight \(8, 4\)")])
def test_bike_is_read_strictly(tmp_path, part, name, change, message):
    """A name too few, too many or of another shape is named, and nothing has been copied."""
    content = bike_content()
    if change is None:
        del content[part][name]
    else:
        content[part][name] = change
    torch.save(content, tmp_path / "k400.pt")
    model = vilp_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=f"no checkpoint of BIKE for this backbone: .*{message}"):
        transfer.start_of_vilp(tmp_path / "k400.pt", model)
    assert not differing(dict(model.named_parameters()), before)


def test_bike_is_for_vilp(tree, first, tmp_path):
    torch.save(bike_content(), tmp_path / "k400.pt")
    with pytest.raises(ValueError, match="is a checkpoint of BIKE, and this is --model pevl. Expected --model vilp"):
        started(tree, tmp_path / "run", tmp_path / "k400.pt")
    with pytest.raises(ValueError, match="positions for 32 frames, and --video-frames is 64"):
        transfer.start_from(tmp_path / "k400.pt", vilp_model(video_frames=64, pose_frames=64), TEXTS, "")


def test_bike_through_the_command(tree, tmp_path):
    """train.py --model vilp --init FILE trains, and its checkpoint opens again."""
    torch.save(bike_content(), tmp_path / "k400.pt")
    assert train.main(["--data", "diving48", "--root", str(tree), "--workers", "0", "--model", "vilp", "--backbone", "tiny",
                       "--image-size", "40", "--pose-frames", "2", "--video-frames", "2", "--epochs", "1", "--warmup", "0.5", "--batch", "8",
                       "--out", str(tmp_path / "run"), "--init", str(tmp_path / "k400.pt")]) == 0
    assert "starts from" in (tmp_path / "run" / "log.txt").read_text()
    assert rebuild(read_checkpoint(tmp_path / "run" / "last.pt")).config.model == "vilp"


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/t14-a-bomb-went-off", "w"))


def test_bike_with_code_is_refused(tmp_path):
    """A pickle that asks for a function is named, and the function is not called."""
    torch.save(bike_content() | {"optimizer_state_dict": Bomb()}, tmp_path / "k400.pt")
    assert is_bike(tmp_path / "k400.pt")
    with pytest.raises(ValueError, match="asks for (io|_io|builtins).open, .*nothing of it was run"):
        read_bike(tmp_path / "k400.pt")


def test_is_bike_by_its_names(first, tmp_path):
    """Told without unpickling: runs of ours, torn files, pickles and texts are none."""
    assert not is_bike(first() / "last.pt")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"model_state_dict": 1}))
    (tmp_path / "torn").write_bytes(b"PK\x03\x04 fusion_model_state_dict")
    (tmp_path / "text").write_text("no weights")
    for name in ("pickle", "torn", "text"):
        assert not is_bike(tmp_path / name), name
    torch.save({"fusion_model_state_dict": {}}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match="it holds no state dict model_state_dict"):
        read_bike(tmp_path / "half.pt")
