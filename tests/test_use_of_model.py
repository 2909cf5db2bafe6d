"""How the models put their parts to use: where DropPath acts, what learns, where a heatmap lies."""
import math

import pytest
import torch

import pevl
from clip_model import BACKBONES, CLIP, CLIPConfig
from systems import heatmaps, vilp
from systems.config import PeVLConfig
from systems.registry import build_model

SMALL = CLIPConfig(embed_dim=16, image_size=20, patch_size=10, vision_width=16, vision_layers=3,
                   vision_heads=2, context_length=32, vocab_size=613, text_width=16, text_heads=2,
                   text_layers=2)
TEXTS = ["Forward, tuck", "Back, pike", "Inward", "Reverse, twist"]


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", SMALL)


def model_of(**changes):
    """A small model, its zero-start parts moved off zero."""
    settings = {"backbone": "tiny", "image_size": 20, "pose_frames": 4, "video_frames": 2,
                "tau_fw": 0.1, "drop_path": 0.0, **changes}
    torch.manual_seed(0)
    model = build_model(PeVLConfig(**settings), CLIP(SMALL), TEXTS, 5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.dim():
                p.add_(0.3 * torch.randn_like(p))
    return model


def batch_of(B=3):
    g = torch.Generator().manual_seed(0)
    return {"frames": torch.randint(0, 256, (B, 2, 3, 20, 20), generator=g, dtype=torch.uint8),
            "keypoints": torch.rand(B, 4, 5, 2, generator=g) * 2 - 1,
            "scores": torch.ones(B, 4, 5), "label": torch.arange(B)}


@pytest.mark.parametrize("tower", ["video", "pose"])
def test_drop_path_grows_with_depth(tower):
    """0 in the first block, the setting in the last, evenly in between."""
    rates = [block.rate for block in getattr(model_of(drop_path=0.4), tower).blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4]), f"DropPath of the blocks: {rates}"


@pytest.mark.parametrize("branch", ["temporal_adapter", "mlp_adapter"])
def test_drop_path_acts_on_time_and_on_the_mlp(branch):
    """With a rate near 1 the branch is gone: its adapter changes nothing any more."""
    block = pevl.AdaptedBlock(16, 0.5, temporal=True, adapters=True, drop_path=1 - 1e-7).train()
    frozen = CLIP(SMALL).visual.transformer.resblocks[0]
    x = torch.randn(2, 3, 4, 16)
    adapter = getattr(block, branch)
    with torch.no_grad():
        before = block(x, frozen)[0]
        torch.nn.init.normal_(adapter.up.weight)
        after = block(x, frozen)[0]
    assert torch.equal(before, after), f"DropPath does not act on the {branch}"


def test_refinement_loss_moves_features_from_before_too():
    """L_R stops no gradient: z learns to stay near its refinement as well."""
    model, batch = model_of(), batch_of()
    features = {name: x.detach().requires_grad_() if x.is_floating_point() else x
                for name, x in model(batch).items()}
    model.losses(features)["L_R"].backward()
    for name in ("video_before", "pose_before", "video", "pose"):
        grad = features[name].grad
        assert grad is not None and grad.any(), f"no gradient of L_R reaches {name}"


@pytest.mark.parametrize("feature, towers", [
    ("video_before", ("video",)),
    ("pose_before", ("pose",)),
    ("video", ("video", "pose")),                         # P2V's M is the pose tower's
    ("pose", ("pose", "video"))])                         # V2P reads the video tower's tokens
def test_features_train_the_towers_that_they_are_made_of(feature, towers):
    """Neither side of Eq. (3) is cut off from the gradient, nor what P2V and V2P read (D3, D8)."""
    model = model_of()
    made = model(batch_of())[feature]
    if not made.requires_grad:
        pytest.fail(f"{feature} is cut off from the gradient")
    made.sum().backward()
    for tower in towers:
        p = getattr(model, tower).blocks[0].mlp_adapter.down.weight
        reached = p.grad is not None and p.grad.any()
        assert reached, f"{feature} trains nothing in the {tower} tower"


def test_l_t_knows_labels_from_places():
    """Clips of the labels 3, 1, 3, 0, 1: texts are counted by label, not by place in the batch."""
    model = model_of()
    labels = torch.tensor([3, 1, 3, 0, 1])
    features = model({**batch_of(5), "label": labels})
    text = model.encode_texts()                           # of all K labels
    sim = pevl.mean_similarity(model.similarities(features, text))
    logits = model.logit_scale.exp() * sim[:, labels]
    want = pevl.semantic_guided_loss(logits, labels, model.discrepancy)
    got = model.losses(features)["L_t"].item()
    assert got == pytest.approx(want.item(), rel=1e-5), "labels were taken for places"


def test_l_r_has_temperatures_of_at_least_a_hundredth():
    """1 / tau is 100 at most, wherever the parameter has gone (D8)."""
    model = model_of()
    features = model(batch_of())
    want = 0.0
    for name in ("video", "pose"):
        model.refine_scale[name].data.fill_(6.0)          # e^6 = 403
        want += pevl.nt_xent(features[f"{name}_before"], features[name], 0.01).item()
    got = model.losses(features)["L_R"].item()
    assert got == pytest.approx(want, rel=1e-5), "tau went below 0.01"


@pytest.mark.parametrize("raw", [False, True])
def test_vilp_reads_its_gate(raw):
    """--gate-raw is the gate of the logits, with a head too, and of the saliency (D25)."""
    model = model_of(model="vilp", gate_raw=raw)
    features, text = model(batch_of()), model.encode_texts()
    v, p = features["frames"], features["pose"]
    with torch.no_grad():
        sim = vilp.pose_guided_concept_spotting(v, p, **text, tau=0.1, raw=raw)
        logits = model.class_logits(features, text)["all"]
        _, A = vilp.votes_of_words(v, p, text["words"], text["word_mask"], 0.1, raw)
        saliency = model.saliency(features, text)
    assert torch.allclose(logits, model.logit_scale.exp() * sim, atol=1e-4), "not of its gate"
    assert torch.allclose(saliency, A, atol=1e-5), "saliency is of another gate"

    head = model_of(model="vilp", gate_raw=raw, text=False)
    features = head(batch_of())
    u = vilp.gate(features["frames"], features["pose"], raw).mean(1)
    logits = head.class_logits(features)["all"]
    assert torch.allclose(logits, head.head(u), atol=1e-5), "the head reads another gate"


def centre(picture):
    """Centre of brightness of (H, W) in [-1, 1], x and y."""
    H, W = picture.shape
    across, down = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in (W, H))
    weight = picture.clamp_min(0).double()
    return (float((weight.sum(0) * across).sum() / weight.sum()),
            float((weight.sum(1) * down).sum() / weight.sum()))


def test_heatmaps_of_table_9_lie_on_their_joints(monkeypatch):
    """To a hundredth of a pixel: the centre of what is drawn is the joint's place."""
    drawn = []
    real = heatmaps.gaussian_heatmaps
    monkeypatch.setattr(heatmaps, "gaussian_heatmaps",
                        lambda *args, **more: drawn.append(real(*args, **more)) or drawn[-1])
    tower = model_of(pose_input="heatmaps", video=False).pose
    place = torch.tensor([0.25, -0.3])
    tower.embed(place.expand(1, 4, 5, 2), torch.ones(1, 4, 5))
    x, y = centre(drawn[0][0, 0, 0])
    half = 1 / 112                                        # half a pixel, in [-1, 1]
    assert abs(x - 0.25) < half / 20 and abs(y + 0.3) < half / 20, "heatmaps are off their joints"


def test_heatmaps_of_vilp_lie_on_their_joints():
    """The same of the grey pictures that ViLP's pose tower sees."""
    model = model_of(model="vilp")
    batch = batch_of(1)
    batch["keypoints"][:] = torch.tensor([0.1, -0.2])
    picture = model.heatmaps(batch)[0, 0]
    x, y = centre(picture - picture.min())
    assert abs(x - 0.1) < 0.02 and abs(y + 0.2) < 0.02, "heatmaps are off their joints"


def test_the_temperature_of_the_refinement_loss_starts_at_clips():
    """exp(refine_scale) = 1 / 0.07."""
    for scale in model_of().refine_scale.values():
        assert math.isfinite(float(scale.detach()))
    model = build_model(PeVLConfig(backbone="tiny", image_size=20, pose_frames=4, video_frames=2),
                        CLIP(SMALL), TEXTS, 5)
    for scale in model.refine_scale.values():
        assert float(scale.detach().exp()) == pytest.approx(1 / 0.07)


def wrong_keypoints():
    pevl.patch_weight(torch.ones(1, 2, 3), torch.zeros(1, 2, 4, 2), torch.ones(1, 2, 3), 2)


def wrong_scores():
    pevl.patch_weight(torch.ones(1, 2, 3), torch.zeros(1, 2, 3, 2), torch.ones(1, 3, 3), 2)


def wrong_mask():
    M = torch.ones(1, 2, 5)                               # of five patches, where there are four
    pevl.P2V(8, 2)(torch.zeros(1, 2, 5, 8), M)


def wrong_index():
    index = torch.tensor([0, 1, 2])                       # of three frames, where there are two
    pevl.V2P(8, 2)(torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 5, 8), index)


def wrong_pose():
    vilp.gate(torch.ones(1, 2, 8), torch.ones(1, 3, 8))


@pytest.mark.parametrize("call, name", [
    (wrong_keypoints, "keypoints"), (wrong_scores, "scores"), (wrong_mask, "tokens"),
    (wrong_index, "video_tokens"), (wrong_pose, "pose")])
def test_sizes_that_do_not_fit_are_named(call, name):
    """Broadcasting would go on with some of them, and give numbers."""
    with pytest.raises(ValueError, match=f"^{name} has the shape"):
        call()
