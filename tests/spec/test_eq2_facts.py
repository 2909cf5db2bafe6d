"""Eq. (2), Sec. 3.2.2: the pose tokens of a frame look at the video tokens of that frame."""
import pytest
import torch
from torch import nn

import pevl
from expected import cases
from spec import close, f64, fill, gradients_are_right, holds, randn
from systems.readings import group_pixels

pytestmark = pytest.mark.eq2


def block_and_inputs(number=0):
    """A V2P with drawn weights; pose (B, 4, 1 + J, 16), video (B, 2, Nv, 16), frames 1 and 3."""
    case = cases("eq2.v2p")[number]
    module = fill(pevl.V2P(16, 2).double(), case["state"])
    return module, case["pose_tokens"], case["video_tokens"], case["index"], case


def test_one_query_by_hand():
    """Scores 1 and 0 share out 0.73 and 0.27 of the values (10, 0) and (20, 0): 12.69 is added."""
    module = pevl.V2P(2, 1).double()
    module.ln_pose = nn.Identity()
    module.ln_video = nn.Identity()
    eye = torch.eye(2).double()
    state = {"query.weight": eye, "key.weight": eye, "out_proj.weight": eye,
             "value.weight": f64([10.0, 20.0], [0.0, 0.0]), "background": torch.zeros(2).double()}
    for name in ("query", "key", "value", "out_proj"):
        state[f"{name}.bias"] = torch.zeros(2).double()
    fill(module, state)
    pose = f64([0.0, 0.0], [2 ** 0.5, 0.0])[None, None]            # class token, one joint
    video = f64([1.0, 0.0], [0.0, 1.0])[None, None]
    got = module(pose, video, torch.tensor([0]))
    close(got[0, 0, 1], f64(2 ** 0.5 + 12.689414, 0.0), "softmax(q . k / sqrt(c)) over the video "
          "tokens, times their values, through out_proj, added to the token.", tol=1e-5)


def test_v2p_matches_loops():
    """Tokens of random clips equal what loops over queries and heads give."""
    for number in range(len(cases("eq2.v2p"))):
        module, zp, zv, index, case = block_and_inputs(number)
        close(module(zp, zv, index),
              case["want"],
              "V2P differs from a loop over queries and heads. The facts beside this one say "
              "which rule it is; if all hold, look at the scale 1 / sqrt(c), c = d / heads.")


def test_frames_without_a_picture_stay():
    """Pose frames of moments that no video frame shows are given back as they came."""
    module, zp, zv, index, _ = block_and_inputs()
    close(module(zp, zv, index)[:, [0, 2]], zp[:, [0, 2]], "Only the frames in `index` have a "
          "picture; the others must come back unchanged and at their places.", tol=0)


def test_frames_with_a_picture_change():
    """Every token of a chosen frame is refined, the background's too."""
    module, zp, zv, index, _ = block_and_inputs()
    changed = (module(zp, zv, index) - zp)[:, index].abs().amax(-1) > 1e-6
    holds(changed[:, :, 1:].all(), "All joints of the frames in `index` are refined; some of yours "
          "are not.")
    holds(changed[:, :, 0].all(),
          "The background token (token 0 of a frame) is "
          "refined, too: it is one of the J + 1 queries (D7).")


def test_the_change_is_added_to_the_tokens_themselves():
    """With an output projection of zero nothing changes.

    The background vector is in the query alone.
    """
    module, zp, zv, index, _ = block_and_inputs()
    module.out_proj.weight.data.zero_()
    module.out_proj.bias.data.zero_()
    close(module(zp, zv, index),
          zp,
          "z_p + out_proj(...): the residual is the token itself. Was it forgotten, "
          "or does it carry the background vector, which belongs to the query only?",
          tol=0)


def test_the_background_vector_is_the_first_tokens():
    """Another background vector changes token 0 of a frame and no joint."""
    module, zp, zv, index, _ = block_and_inputs()
    before = module(zp, zv, index)
    module.background.data += randn(7, 16)
    moved = (module(zp, zv, index) - before).abs().amax(-1)[:, index] > 1e-9
    holds(not moved[:, :, 1:].any(), "The learned background vector is added to the query of token "
          "0 alone; yours reaches the joints.")
    holds(moved[:, :, 0].all(), "The query of token 0 is the frame's class token + the learned "
          "background vector (D7); yours does not depend on it.")


def test_a_joint_looks_at_its_own_frame():
    """Another picture in video frame 0 changes pose frame 1, and no other."""
    module, zp, zv, index, _ = block_and_inputs()
    other = zv.clone()
    other[:, 0] += randn(5, *zv[:, 0].shape)
    moved = (module(zp, other, index) - module(zp, zv, index)).abs().amax((0, 2, 3)) > 1e-9
    changed = moved.nonzero().flatten().tolist()
    holds(moved.tolist() == [False, True, False, False],
          "Video frame i belongs to pose frame index[i]; "
          f"here frame 0 to 1. Yours changed the frames {changed}.")


def test_the_videos_class_token_is_a_key():
    """All Nv video tokens are looked at, the class token too."""
    module, zp, zv, index, _ = block_and_inputs()
    other = zv.clone()
    other[:, :, 0] += randn(6, *zv[:, :, 0].shape)
    moved = (module(zp, other, index) - module(zp, zv, index)).abs().amax() > 1e-9
    holds(moved,
          "Keys and values are all video tokens, class token first (Eq. (2) "
          "has the encoder's tokens); yours leaves the class token out.")


def test_video_tokens_have_no_order():
    """The picture's tokens in another order change nothing."""
    module, zp, zv, index, _ = block_and_inputs()
    close(module(zp, zv.flip(2), index), module(zp, zv, index), "Attention knows no order of keys.")


def test_each_side_has_its_own_norm():
    """ln_pose before the queries, ln_video before keys and values."""
    module, zp, zv, index, _ = block_and_inputs(1)
    before = module(zp, zv, index)
    module.ln_video.weight.data *= 2
    after = module(zp, zv, index)
    holds((after - before).abs().max() > 1e-6, "Keys and values come from "
          "ln_video(video_tokens); yours do not depend on ln_video.")
    module.ln_pose.weight.data *= 2
    holds((module(zp, zv, index) - after).abs().max() > 1e-6, "Queries come from "
          "ln_pose(pose tokens); yours do not depend on ln_pose.")


def test_the_other_reading_groups_pixels():
    """group=True: the queries compete, by group_pixels of systems/readings.py."""
    case = cases("eq2.v2p")[0]
    module = fill(pevl.V2P(16, 2, group=True).double(), case["state"])
    zp, zv, index = case["pose_tokens"], case["video_tokens"], case["index"]
    asking = zp[:, index].clone()
    asking[:, :, 0] += module.background
    q, k, v = module.project(module.ln_pose(asking), module.ln_video(zv))
    want = zp[:, index] + module.join(group_pixels(q, k, v))
    close(module(zp, zv, index)[:, index], want,
          "group=True: group_pixels(q, k, v) in the place of the softmax over the pixels (D31). Is "
          "the switch read?")


def test_it_starts_as_no_change():
    """A fresh V2P gives the tokens back: training begins at plain CLIP."""
    _, zp, zv, index, _ = block_and_inputs()
    close(pevl.V2P(16, 2).double()(zp, zv, index), zp,
          "out_proj starts at zero, so that a fresh V2P must change nothing.", tol=0)


def test_the_input_is_not_overwritten():
    """The tokens that were passed are what they were."""
    module, zp, zv, index, case = block_and_inputs()
    before = zp.clone()
    module(zp, zv, index)
    close(zp, before, "pose_tokens was changed in place: Eq. (3) needs it as it was. Write into a "
          "copy.", tol=0)


def test_gradients_reach_pose_and_video():
    """Slopes by autograd equal those of small steps."""
    module, zp, zv, index, _ = block_and_inputs()
    gradients_are_right(lambda a, b: module(a, b, index), zp[:1].clone(), zv[:1].clone(),
                        why="V2P's gradients are not those of its values: is something detached?")
