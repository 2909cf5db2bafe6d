"""What all systems share: settings, texts, temperatures, parameters, and how layers start.

These are the promises that the loops of training and evaluation rest on. They hold for PeVL, its
ablations and its rivals alike: VARIANTS lists them. What each of the rivals is, is shown in
tests/test_rivals.py.

    systems/registry.py          every variant: alone as in a batch, gradients, half precision
    systems/base.py              shapes, texts, temperatures, what is trained and stored
    systems/config.py            settings that do not go together
    systems/initialisation.py    how layers start; more of it in tests/test_towers.py
"""
import math

import pytest
import torch

import pevl
from clip_model import BACKBONES, CLIP
from small_models import (SMALL, TEXTS, alone, batch_of, close, examples_hold,  # noqa: F401
                          model_of, settings_of, small_backbone, stir)
from systems import base, initialisation
from systems.config import PeVLConfig
from systems.registry import build_model

VARIANTS = {
    "pevl": {},
    "concat": {"fusion": "concat"},
    "linear head": {"text": False},
    "heatmaps": {"pose_input": "heatmaps", "video": False},
    "grad checkpointing": {"grad_checkpointing": True},
    "tune all": {"tune": "all"},
    "own loss": {"own_loss": 0.3},
    "log mask, grouping": {"mask": "log", "v2p_group": True},
    "p2v block": {"p2v_kind": "block"},
    "p2v after 1": {"p2v_after": 1},
    "p2v block after 1, checkpointing": {"p2v_after": 1, "p2v_kind": "block",
                                         "grad_checkpointing": True},
    "aim": {"model": "aim"},
    "vilp": {"model": "vilp"},
    "vilp without text": {"model": "vilp", "text": False},
    "vilp, raw gate": {"model": "vilp", "gate_raw": True},
    "vilp without video": {"model": "vilp", "video": False},
    "vilp without pose": {"model": "vilp", "pose": False},
}


@pytest.mark.parametrize("module", [base, initialisation], ids=lambda module: module.__name__)
def test_worked_examples_of_systems_come_out_as_printed(module):
    """The small numbers in the docstrings."""
    examples_hold(module)


# ---- Every variant -------------------------------------------------------------------------------

def unread_by(model):
    """Names of parameters that no loss depends on.

    A softmax does not see what is added to all scores of a row. A bias of the keys adds just that,
    but for P2V, whose M multiplies it; where queries compete (grouping), so does theirs.
    """
    unread = set()
    if model.config.tune == "all":                # each system has a temperature of its own
        unread.add("clip.logit_scale")
    if getattr(model, "v2p", None) is not None:
        if model.config.v2p_group:
            unread |= {"v2p.query.bias", "v2p.ln_pose.bias"}
        else:
            unread.add("v2p.key.bias")
    if getattr(model, "p2v", None) is not None and model.config.mask == "log":
        unread.add("p2v.key.bias")
    return unread


@pytest.mark.parametrize("variant", VARIANTS)
def test_alone_as_in_a_batch_and_gradients_reach_everything(variant):
    """A clip's logits do not depend on its neighbours, and nothing is trained in vain."""
    model = stir(model_of(**VARIANTS[variant]), std=0.1).train()
    batch = batch_of()
    losses = model.losses(model(batch))
    losses["total"].backward()
    for name, loss in losses.items():
        assert loss.isfinite(), f"{name} is no number"

    # What is no gradient comes out as rounding, 1e-9; the smallest that is one is 6e-4.
    dead = set()
    for name, p in model.named_parameters():
        if p.requires_grad and (p.grad is None or p.grad.abs().max() < 1e-6):
            dead.add(name)
    assert dead == unread_by(model), f"no gradient reaches {dead - unread_by(model)}"

    model.eval()
    logits = model.class_logits(model(batch))["all"]
    for i in range(3):
        by_itself = model.class_logits(model(alone(batch, i)))["all"]
        close(logits[i:i + 1], by_itself, tol=1e-4, why=f"clip {i} depends on its batch")


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_features_give_float32_losses(variant):
    """Under autocast losses are float32 and about as without it, and gradients are numbers."""
    model = stir(model_of(**VARIANTS[variant]), std=0.05).eval()
    batch = batch_of()
    want = model.losses(model(batch))["total"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(batch)
        inside = model.losses(features)
        logits = model.class_logits(features)["all"]

    # Outside of autocast, as in training, features are made float32 first.
    whole = {}
    for name, x in features.items():
        whole[name] = x.float() if x.is_floating_point() else x
    outside = model.losses(whole)

    for place, losses in (("inside", inside), ("outside", outside)):
        for name, loss in losses.items():
            assert loss.dtype == torch.float32, f"{name}, {place} of autocast"
        close(losses["total"], want, tol=0.05, why=f"{place} of autocast")
    if model.compares_texts:
        assert logits.dtype == torch.float32, "cosines must be float32 wherever they are"

    inside["total"].backward()
    for name, p in model.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), f"the gradient of {name}"


# ---- Batches -------------------------------------------------------------------------------------

ODD_BATCHES = {
    "usual": {},
    "one label": {"label": torch.ones(3).long()},
    "no joint": {"scores": torch.zeros(3, 4, 5)},
}


@pytest.mark.parametrize("clips", ["three clips", "one clip"])
@pytest.mark.parametrize("odd", ODD_BATCHES)
def test_one_clip_and_one_label_and_no_joint_are_legal(odd, clips):
    """Losses and gradients are numbers, whoever is in the batch."""
    model = model_of()
    batch = {**batch_of(), **ODD_BATCHES[odd]}
    if clips == "one clip":
        batch = alone(batch, 0)
    losses = model.losses(model(batch))
    losses["total"].backward()
    for name, loss in losses.items():
        assert loss.isfinite(), name
    for name, p in model.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), f"the gradient of {name}"


@pytest.mark.parametrize("model, name, shape", [
    ("pevl", "frames", (3, 3, 3, 20, 20)),                # 3 video frames for 2
    ("pevl", "keypoints", (3, 4, 7, 2)),                  # 7 joints for 5
    ("pevl", "scores", (3, 4, 4)),                        # 4 joints for 5
    ("pevl", "keypoints", (3, 2, 5, 2)),                  # 2 pose frames for 4
    ("vilp", "keypoints", (3, 5, 5, 2)),                  # 5 pose frames for 4
    ("aim", "frames", (3, 2, 1, 20, 20)),                 # grey for coloured frames
])
def test_a_batch_of_another_shape_is_refused_by_name(model, name, shape):
    """What the model was not built for is a ValueError that says which tensor it is."""
    built = model_of(model=model)
    batch = {**batch_of(), name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        built(batch)


# ---- Texts and temperatures ----------------------------------------------------------------------

def test_words_of_the_prompt_are_words():
    """D11: what a prompt adds to a label is masked as little as the label."""
    def count_words(text):
        return int(model_of(texts=[text]).encode_texts()["word_mask"].sum())

    added = 5                                             # a comma and four words
    bare = count_words("somersault")
    assert count_words("somersault, a video of action") == bare + added


def test_texts_are_encoded_once_per_label():
    """As many texts as a batch has clips, and at most as many as there are labels."""
    model = model_of()
    seen = []

    def note(module, args, output):
        tokens = args[0]
        seen.append(len(tokens))

    model.text.register_forward_hook(note)
    for B in (2, 6):
        model.losses(model(batch_of(B=B)))
    assert seen == [2, len(TEXTS)]


@pytest.mark.parametrize("seed", range(5))
def test_distinct_labels_are_those_of_unique(seed):
    """As `unique` gives them, then label 0 in the places left over, to which no clip points."""
    g = torch.Generator().manual_seed(seed)
    K = 1 + 2 * seed
    labels = torch.randint(0, K, (5,), generator=g)
    want, want_column = labels.unique(return_inverse=True)
    distinct, column = base.distinct_labels(labels, K)
    assert torch.equal(distinct[:len(want)], want)
    assert torch.equal(column, want_column)
    assert len(distinct) == min(5, K)
    assert not distinct[len(want):].any(), "a place that is left over holds another label than 0"
    assert torch.equal(distinct[column], labels), "a clip has lost its label"


def test_temperature_stays_at_most_100_and_keeps_its_gradient():
    """CLIP's published scale is a little beyond the bound: it is held there and still learns."""
    scale = torch.nn.Parameter(torch.tensor(4.6052))             # exp is 100.003
    inverse = base.inverse_tau(scale)
    inverse.backward()
    assert float(inverse.detach()) == pytest.approx(100, rel=1e-5)
    assert float(scale.detach()) <= math.log(100) + 1e-6
    assert scale.grad > 0, "a clamp in the graph has stopped the gradient"


@pytest.mark.parametrize("compares, learns, overrides", [
    (True, True, {}), (False, False, {"text": False}), (True, True, {"model": "vilp"}),
    (False, False, {"model": "aim"}), (True, False, {"model": "clip"})], ids=str)
def test_who_compares_texts_and_who_learns_their_temperature(compares, learns, overrides):
    """A linear head has no texts and no temperature; zero-shot CLIP keeps CLIP's own."""
    model = model_of(**overrides)
    assert model.compares_texts is compares
    assert model.logit_scale.requires_grad is learns


# ---- What is trained -----------------------------------------------------------------------------

def test_trainable_state_round_trip_and_mismatch():
    """What is stored makes the model again, without CLIP; another model refuses it."""
    source = stir(model_of()).eval()
    target = model_of(seed=5).eval()
    target.clip.load_state_dict(source.clip.state_dict())
    state = source.trainable_state()
    assert not any(name.startswith("clip.") for name in state), "the frozen CLIP is stored"

    before = target(batch_of())["pose"]
    want = source(batch_of())["pose"]
    assert not torch.allclose(before, want), "alike before it is loaded: nothing is shown"
    target.load_trainable_state(state)
    close(target(batch_of())["pose"], want, tol=0, why="not the model that was stored")

    with pytest.raises(ValueError, match="entries differ.*p2v.*Expected.*Use"):
        model_of(p2v=False).load_trainable_state(state)


@pytest.mark.parametrize("overrides", [{}, {"tune": "all"}, {"model": "vilp"}, {"model": "aim"},
                                       {"text": False}], ids=str)
def test_every_trained_parameter_is_in_one_group(overrides):
    """None is forgotten by the optimiser, and none is given to it twice."""
    model = model_of(**overrides)
    grouped = []
    for group in model.parameter_groups():
        grouped += [id(p) for p in group["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)


def kinds_of(**overrides):
    """Name of a parameter group -> its kind."""
    return {group["name"]: group["kind"] for group in model_of(**overrides).parameter_groups()}


def test_kinds_of_parameters():
    """All that PeVL and AIM train is new; ViLP trains CLIP's image tower and a copy of it."""
    parts = ("video tower", "pose tower", "text tower", "P2V", "V2P", "temperatures")
    assert kinds_of() == dict.fromkeys(parts, "new")
    assert kinds_of(tune="all") == {"CLIP": "trunk", **dict.fromkeys(parts, "new")}
    assert kinds_of(model="vilp") == {"CLIP": "trunk", "pose image": "trunk",
                                      "temporal transformer": "new", "temperatures": "new"}
    assert kinds_of(model="aim") == dict.fromkeys(("video tower", "last norm", "head"), "new")


def millions(part):
    """M trained parameters of a module, to two digits."""
    return round(sum(p.numel() for p in part.parameters() if p.requires_grad) / 1e6, 2)


def test_sizes_at_vit_b_16_are_those_of_table_7():
    """Millions of trained parameters, on the meta device: no memory, no arithmetic."""
    with torch.device("meta"):
        clip = CLIP(BACKBONES["ViT-B/16"])
    model = build_model(PeVLConfig(), clip, TEXTS, joints=17)
    devices = {x.device.type for x in (*model.parameters(), *model.buffers())}
    assert devices == {"meta"}

    parts = {name: millions(part) for name, part in model.parts().items()}
    assert parts == {"CLIP": 0, "video tower": 7.10, "pose tower": 10.70, "text tower": 6.31,
                     "P2V": 2.36, "V2P": 2.37, "temperatures": 0}
    assert millions(model.pose.blocks) == 10.65           # the rest: joints and their frames

    config = PeVLConfig(model="aim", pose_frames=8, video_frames=8)
    aim = build_model(config, clip, TEXTS * 12)
    assert millions(aim) == 10.70                         # with ln_post and a head of 48


# ---- Settings ------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad, message", [
    ({"backbone": "ViT-B16"}, "ViT-B/16"),
    ({"pose_frames": 7}, "pose_frames=7.*multiple of video_frames=2"),
    ({"video_frames": 0}, "--video-frames 0. Expected a whole number, 1 to 4,096"),
    # Similarities whose towers are there.
    ({"sim": ("vw",)}, "vs, ps, fw"),
    ({"sim": ()}, "ps or fw"),
    ({"sim": ("vs", "vs")}, "sim=vs,vs.*each similarity once"),
    ({"video": False, "pose": False}, "at least one"),
    ({"video": False, "sim": ("vs",)}, "sim=vs and video=False.*with video"),
    ({"pose": False, "sim": ("ps", "fw")}, "pose=False.*ps or fw with pose"),
    # Switches that a system does not read.
    ({"model": "aim", "video": False}, "model=aim beside video, .* none of"),
    ({"model": "vilp", "sim": ("vs",)}, "beside sim, .* video, pose, text"),
    ({"all_tokens": True}, "model=pevl beside all_tokens"),
    ({"model": "vilp", "v2p_group": True}, "model=vilp beside v2p_group"),
    ({"model": "aim", "p2v_after": 1}, "model=aim beside p2v_after"),
    ({"gate_raw": True}, "model=pevl beside gate_raw"),
    ({"model": "vilp", "grad_checkpointing": True}, "pevl or aim"),
    # Readings that exclude each other, and places that are not there.
    ({"pose_input": "heatmaps"}, "--no-video"),
    ({"literal_mask": True, "mask": "log"}, "with mask=product"),
    ({"p2v_after": 3}, "p2v_after=3.* 1 to 2, the blocks of tiny"),
    ({"p2v_after": -1}, "--p2v-after -1"),
], ids=str)
def test_bad_settings_say_what_fits(bad, message):
    """Settings that do not go together are a ValueError that names them and what would do."""
    with pytest.raises(ValueError, match=message):
        settings_of(**bad)


# ---- How layers start ----------------------------------------------------------------------------

@pytest.mark.eq1
@pytest.mark.eq2
def test_refinement_asks_from_the_first_step_as_the_last_block_does():
    """P2V with M = 1 shares out as CLIP's last block does over patches, V2P as over its tokens."""
    torch.manual_seed(0)
    model = model_of()
    block = stir(CLIP(SMALL)).visual.transformer.resblocks[-1].requires_grad_(False)
    initialisation.start_from_block(model.p2v, block)
    initialisation.start_from_block(model.v2p, block)
    z = torch.randn(2, 2, 5, 16)

    # P2V has no class token among its keys: the block is asked without it, too.
    no_class = torch.ones(5, 5, dtype=torch.bool)
    no_class[:, 0] = False
    _, want = block.attn(block.ln_1(z), no_class, need_weights=True)
    _, shares = model.p2v(z, torch.ones(2, 2, 4), need_weights=True)
    close(shares, want[..., 1:], tol=1e-5, why="P2V shares out otherwise than the block")

    # Behind the block's own out_proj V2P is the block's attention.
    with torch.no_grad():
        model.v2p.out_proj.load_state_dict(block.attn.out_proj.state_dict())
    got = model.v2p(z, z, torch.tensor([0, 1]))
    close(got, z + block.attn(block.ln_1(z)), tol=1e-5, why="V2P asks otherwise than the block")


@pytest.mark.parametrize("modality", [{}, {"video": False}, {"pose": False}], ids=str)
def test_projection_starts_as_the_mean_of_video_and_pose(modality):
    """[I; I] / 2 where there is a text to meet, I of one alone; a linear head starts at random."""
    model = model_of(fusion="concat", **modality).eval()
    features = model(batch_of())
    found = [features[name] for name in ("video", "pose") if name in features]
    close(model.concatenated(features), sum(found) / len(found), tol=1e-6, why="not the mean")

    head = model_of(text=False, **modality).projection
    assert head.out_features == len(TEXTS)
    distinct = head.weight.unique()
    assert len(distinct) > 0.9 * head.weight.numel(), "a head that is not drawn at random"


def test_frames_start_with_sinusoids_of_their_time():
    """By loops: sines of d / 2 waves, then their cosines, divided by sqrt(d)."""
    tower = model_of(pose_frames=6).pose
    T, _, d = tower.temporal_embedding.shape
    for t in range(T):
        for k in range(d // 2):
            angle = 2 * math.pi * (16 * (k + 1) / d) * t / T
            sine, cosine = tower.temporal_embedding[t, 0, [k, d // 2 + k]].tolist()
            assert sine == pytest.approx(math.sin(angle) / d ** 0.5, abs=1e-5)
            assert cosine == pytest.approx(math.cos(angle) / d ** 0.5, abs=1e-5)


@pytest.mark.parametrize("T", [32, 48])
def test_no_two_frames_start_alike(T):
    """Embeddings of other moments are apart, and each has the length sqrt(1/2)."""
    rows = pevl.sinusoids(T, 96)[:, 0]
    apart = torch.cdist(rows, rows).fill_diagonal_(1)
    assert apart.min() > 0.1, "two moments look the same"
    close(rows.norm(dim=1), torch.full((T,), 0.5 ** 0.5), tol=1e-5, why="length")
