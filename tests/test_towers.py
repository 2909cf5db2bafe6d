"""The encoders of PeVL, Sec. 3.1 and their place in Fig. 2: adapters, pose tokens, DropPath.

Their main facts, that an adapted block is its formula and that towers start as CLIP, stand in
tests/test_pevl.py; here is what else a tower promises, and where P2V stands between its blocks.

    adapters and DropPath    what starts at zero, what is dropped, what a frozen tower costs
    pose tokens              what a joint's token is made of, and how much of each part
    P2V between the blocks   --p2v-after: by hand, and as the copy of which block it starts
"""
from dataclasses import replace

import pytest
import torch

import pevl
from clip_model import BACKBONES, CLIP
from pevl import Adapter, patch_weight
from small_models import (SMALL, TEXTS, batch_of, close, model_of, settings_of,  # noqa: F401
                          small_backbone, stir)
from systems.registry import build_model
from tables.rows import ROWS


# ---- Adapters and DropPath -----------------------------------------------------------------------

def test_adapter_bottleneck():
    """It starts as no change, and has the weights of d -> d * ratio -> d."""
    x = torch.randn(3, 8)
    with_skip = Adapter(8, 0.25, skip=True)
    assert torch.equal(with_skip(x), x), "an adapter with skip changes something before training"
    without_skip = Adapter(8, 0.25, skip=False)
    assert not without_skip(x).any(), "an adapter without skip gives something before training"

    matrices = 8 * 2 + 2 * 8
    biases = 2 + 8
    assert sum(p.numel() for p in with_skip.parameters()) == matrices + biases


def test_drop_path_drops_whole_clips_and_keeps_the_mean():
    """At a rate of a quarter: 0 or 4/3 for all of a clip, 1 on average; in evaluation nothing."""
    block = pevl.AdaptedBlock(8, 0.5, temporal=True, adapters=True, drop_path=0.25)
    x = torch.ones(4000, 2, 3, 1)
    torch.manual_seed(0)
    dropped = block.drop_path(x)
    assert {round(float(value), 4) for value in dropped.unique()} == {0.0, 1.3333}
    assert (dropped == dropped[:, :1, :1]).all(), "a clip is dropped in part"
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(block.eval().drop_path(x), x), "something is dropped in evaluation"


@pytest.mark.parametrize("adapters", [True, False])
def test_a_frozen_branch_has_no_drop_path(adapters):
    """Tables 4 and 8: what cannot learn need not be kept from overfitting (D27)."""
    model = model_of(drop_path=0.9, pose_adapters=adapters, video_adapters=adapters)
    stir(model).train()

    # One clip 64 times: at a rate of 0.9 no two of them would be sure to come out alike.
    one = batch_of(B=1)
    batch = {name: x.expand(64, *x.shape[1:]) for name, x in one.items()}
    pose, _ = model.pose(batch["keypoints"], batch["scores"], model.clip.visual)
    video, _ = model.video(pevl.normalise(batch["frames"]), model.clip.visual)
    for name, tokens in (("pose", pose), ("video", video)):
        alike = torch.allclose(tokens, tokens[:1].expand_as(tokens), atol=1e-4)
        if adapters:
            assert not alike, f"nothing is dropped in the {name} tower: nothing is shown"
        else:
            assert alike, f"a frozen branch of the {name} tower is dropped"


def saved_for_backward(run):
    """How many tensors autograd keeps while `run()` runs."""
    kept = []

    def keep(x):
        kept.append(x)
        return x

    def give_back(x):
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        run()
    return len(kept)


def test_frozen_towers_keep_nothing_for_backward():
    """Without adapters video and text cost no memory for gradients, with adapters they do."""
    frames = pevl.normalise(batch_of()["frames"])
    frozen = model_of(**ROWS["table8/none"].overrides)
    adapted = model_of()
    assert saved_for_backward(lambda: frozen.video(frames, frozen.clip.visual)) == 0
    assert saved_for_backward(frozen.encode_texts) == 0
    assert saved_for_backward(lambda: adapted.video(frames, adapted.clip.visual)) > 0
    assert saved_for_backward(adapted.encode_texts) > 0


# ---- Pose tokens ---------------------------------------------------------------------------------

def test_pose_tokens_by_formula():
    """Joint by joint: place + which joint, or "missing"; CLIP's class token first; time on all."""
    model = stir(model_of())
    batch = batch_of(B=2)
    tower = model.pose.eval()
    trunk = model.clip.visual

    x = torch.zeros(2, 4, 6, 16)
    for b in range(2):
        for t in range(4):
            time = tower.temporal_embedding[t, 0]
            x[b, t, 0] = trunk.class_embedding + trunk.positional_embedding[0] + time
            for j in range(5):
                place = tower.missing
                if batch["scores"][b, t, j] > 0:
                    place = tower.coordinates(batch["keypoints"][b, t, j])
                x[b, t, 1 + j] = place + tower.joint[j] + time
    x = trunk.ln_pre(x)
    for ours, frozen in zip(tower.blocks, trunk.transformer.resblocks):
        x, weights = ours(x, frozen, need_weights=True)

    tokens, joint_weights = tower(batch["keypoints"], batch["scores"], trunk)
    close(tokens, x, tol=1e-5, why="the tokens of the pose tower")
    close(joint_weights, weights[:, :, 1:], tol=1e-5, why="the last block's attention to joints")


@pytest.mark.parametrize("d", [96, 768])
def test_place_joint_and_time_hold_a_tenth_of_a_pose_token_each(d):
    """At every width, for joints spread like a body in its crop (variance 0.05 of x, 0.15 of y)."""
    sizes = replace(SMALL, vision_width=d, vision_layers=0)
    T = 32
    J = 17
    starts = 20
    torch.manual_seed(0)
    share = torch.zeros(3)
    for _ in range(starts):
        tower = pevl.PoseTower(settings_of(pose_frames=T), sizes, J)
        assert tower.coordinates.bias is None, "equal in all tokens, a bias would say nothing"
        keypoints = torch.randn(1, T, J, 2) * torch.tensor([0.05, 0.15]).sqrt()
        both = tower.embed(keypoints, torch.ones(1, T, J))[0].detach()      # (T, J, d)
        joint = tower.joint.detach()                                        # (J, d)
        place = (both - joint).flatten(0, 1)                                # (T J, d)
        time = tower.temporal_embedding[:, 0].detach()                      # (T, d)
        variance = torch.stack([part.var(0).sum() for part in (place, joint, time)])
        share += variance / variance.sum() / starts
    assert share.min() > 0.1, f"place, joint, time at d = {d}: {share.tolist()}"
    assert share[0] > 0.5, f"motion lies in the place, which is drowned: {share.tolist()}"


def frames_that_change(model, batch, other):
    """(T,): how far the pose tokens of a frame differ between two batches."""
    trunk = model.clip.visual
    before, _ = model.pose(batch["keypoints"], batch["scores"], trunk)
    after, _ = model.pose(other["keypoints"], other["scores"], trunk)
    return (before - after).abs().amax((0, 2, 3))


def test_pose_tower_starts_without_time_and_adapters_open_it():
    """A joint that moves in one frame changes that frame alone; after training, all frames."""
    model = model_of()
    batch = batch_of()
    moved = {**batch, "keypoints": batch["keypoints"].clone()}
    moved["keypoints"][:, 0] += 0.5

    change = frames_that_change(model, batch, moved)
    assert change[0] > 0, "the frame itself does not change"
    assert (change[1:] == 0).all(), "frames see each other before training"

    stir(model)
    assert (frames_that_change(model, batch, moved)[1:] > 1e-4).all(), "frames stay blind"


def test_missing_joint_is_not_the_point_zero():
    """(0, 0) is the middle of the frame; a joint of score 0 is nowhere, whatever its numbers."""
    model = model_of().eval()
    batch = batch_of()
    middle = torch.zeros_like(batch["keypoints"])
    anywhere = torch.full_like(middle, 7.0)
    found = torch.ones_like(batch["scores"])
    missing = torch.zeros_like(found)

    def pose(keypoints, scores):
        return model({**batch, "keypoints": keypoints, "scores": scores})["pose"]

    assert not torch.allclose(pose(middle, found), pose(middle, missing))
    close(pose(middle, missing), pose(anywhere, missing), tol=0,
          why="the coordinates of a missing joint count")


# ---- P2V between the blocks ----------------------------------------------------------------------

def deeper(monkeypatch, **overrides):
    """A model of three blocks, whose weights and layer norms all differ."""
    sizes = replace(SMALL, vision_layers=3)
    monkeypatch.setitem(BACKBONES, "tiny", sizes)
    torch.manual_seed(0)
    return build_model(settings_of(**overrides), stir(CLIP(sizes)), TEXTS, joints=5)


def check_copies(part, block):
    """Queries, keys, values and layer norms are copies of the block's, to be trained."""
    ours = torch.cat([part.query.weight, part.key.weight, part.value.weight])
    assert torch.equal(ours, block.attn.in_proj_weight), "weights of another block"
    biases = torch.cat([part.query.bias, part.key.bias, part.value.bias])
    assert torch.equal(biases, block.attn.in_proj_bias), "biases of another block"
    for norm in part.children():
        if isinstance(norm, torch.nn.LayerNorm):
            assert torch.equal(norm.weight, block.ln_1.weight), "a layer norm of another block"
            assert torch.equal(norm.bias, block.ln_1.bias), "a layer norm of another block"

    assert part.query.weight.requires_grad, "the copies are not trained"
    shared = part.query.weight.data_ptr() == block.attn.in_proj_weight.data_ptr()
    assert not shared, "to train P2V or V2P would change the trunk"


@pytest.mark.parametrize("number, overrides", [
    (2, {}), (2, {"tune": "all"}), (2, {"p2v_kind": "block"}), (2, {"v2p_group": True}),
    (2, {"p2v_after": 3}), (1, {"p2v_after": 1}), (2, {"p2v_after": 2, "p2v_kind": "block"})],
    ids=str)
def test_refinement_starts_from_the_trunk_and_leaves_it(number, overrides, monkeypatch):
    """D28: P2V starts as a copy of the block that it stands before, else of the last, as V2P does;
    and until the first step refinement changes nothing, to the last bit."""
    model = deeper(monkeypatch, **overrides).eval()
    blocks = model.clip.visual.transformer.resblocks
    check_copies(model.p2v, blocks[number])
    check_copies(model.v2p, blocks[2])

    features = model(batch_of())
    assert torch.equal(features["video"], features["video_before"])
    assert torch.equal(features["pose"], features["pose_before"])


@pytest.mark.parametrize("kind", ["attention", "block"])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_p2v_stands_where_it_is_told_to(place, kind, monkeypatch):
    """By hand: blocks up to the place, P2V, those behind it again; V2P reads the first pass."""
    model = stir(deeper(monkeypatch, p2v_after=place, p2v_kind=kind)).eval()
    trunk = model.clip.visual
    blocks = trunk.transformer.resblocks
    index = [1, 3]                                        # the video frames among T = 4
    batch = batch_of()
    batch["scores"][0] = 0                                # a clip without any joint

    frames = pevl.normalise(batch["frames"]).flatten(0, 1)                  # (B Tv, 3, S, S)
    z = trunk.embed(frames).unflatten(0, (3, 2))                            # (B, Tv, Nv, d)
    for n in range(place):
        z, _ = model.video.blocks[n](z, blocks[n])

    z_p, joint_weights = model.pose(batch["keypoints"], batch["scores"], trunk)
    M = patch_weight(joint_weights[:, index], batch["keypoints"][:, index],
                     batch["scores"][:, index], grid=2)
    refined = model.p2v(z, M, blocks[min(place, 2)])
    for n in range(place, 3):
        z, _ = model.video.blocks[n](z, blocks[n])
        refined, _ = model.video.blocks[n](refined, blocks[n])
    refined_p = model.v2p(z_p, z, torch.tensor(index))

    def read_video(tokens):
        return trunk.read_out(tokens[:, :, 0]).mean(1)

    got = model(batch)
    close(got["video"], read_video(refined), tol=1e-5, why="P2V stands somewhere else")
    close(got["video_before"], read_video(z), tol=1e-5, why="the first pass is not as without P2V")
    close(got["pose"], trunk.read_out(refined_p.mean(2)).mean(1), tol=1e-5,
          why="V2P does not read the first pass")

    close(got["video"][0], got["video_before"][0], tol=1e-6, why="nobody is there to look at")
    moved = (got["video"][1:] - got["video_before"][1:]).abs().amax()
    assert moved > 1e-2, "P2V does nothing here: nothing is shown"
    assert model.attention_maps(batch)["after"].shape == M.shape
