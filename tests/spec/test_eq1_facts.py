"""Eq. (1), Sec. 3.2.1: the weighted mask M, and attention that looks where it says."""
import pytest
import torch

import pevl
from clip_model import ResidualAttentionBlock
from expected import cases
from spec import close, f64, fill, gradients_are_right, holds, rand, randn, worked_example_holds

pytestmark = pytest.mark.eq1


def weigh(xy, weights=None, scores=None, grid=2):
    """M (N,) of one frame: xy, a list of (x, y); all joints of weight 1 and seen, unless told."""
    J = len(xy)
    weights = [1.0] * J if weights is None else weights
    scores = [1.0] * J if scores is None else scores
    return pevl.patch_weight(f64(weights)[None], f64(xy)[None], f64(scores)[None], grid)[0, 0]


# ---- M -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["patch_weight", "masked_softmax"])
def test_worked_example(name):
    """The numbers in the docstring come out as printed."""
    worked_example_holds(getattr(pevl, name), pevl)


def test_m_of_three_joints_by_hand():
    """Weights 1 at the top left, 2 and 1 at the top right: M is 1/3, 1, 0, 0."""
    got = weigh([[-0.5, -0.5], [0.5, -0.5], [0.9, -0.1]], weights=[1.0, 2.0, 1.0])
    close(got, f64(1 / 3, 1, 0, 0), "M of Eq. (1): add up the weights of the joints in a "
          "patch, divide by the frame's largest sum.")


def test_m_matches_loops():
    """M of random poses equals what a loop over joints gives."""
    for case in cases("eq1.patch_weight"):
        got = pevl.patch_weight(case["joint_weights"], case["keypoints"], case["scores"],
                                int(case["grid"]))
        close(got, case["want"], "M of Eq. (1) differs from a loop over the joints, although the "
              "facts beside this one may hold: look at edges, and at joints outside of the frame.")


def test_x_is_the_column_and_y_the_row():
    """A joint at the top right lies in patch 1 of 2 x 2, one at the bottom left in patch 2."""
    close(weigh([[0.5, -0.5]]), f64(0, 1, 0, 0), "Patches are counted by rows: number = row * grid "
          "+ column, x gives the column and y the row. Are x and y swapped?")
    close(weigh([[-0.5, 0.5]]), f64(0, 0, 1, 0), "Patches are counted by rows: number = row * grid "
          "+ column, x gives the column and y the row. Are x and y swapped?")


def test_a_missing_joint_counts_nothing():
    """Score 0 means not found: wherever its coordinates are, no patch gets its weight."""
    close(weigh([[-0.5, -0.5], [0.5, 0.5]], scores=[1.0, 0.0]), f64(1, 0, 0, 0),
          "A joint of score 0 was not found and must give no weight: only scores > 0 count.")


def test_confidence_is_no_weight():
    """How sure the detector was does not scale a joint's weight."""
    close(weigh([[-0.5, -0.5], [0.5, 0.5]], scores=[1.0, 0.25]), f64(1, 0, 0, 1),
          "M adds up the joints' attention weights; the detector's confidence only says whether a "
          "joint is there (score > 0). Are weights multiplied by scores?")


def test_a_joint_of_low_confidence_counts():
    """Any score above 0 is found, 0.01 too."""
    close(weigh([[-0.5, -0.5], [0.5, 0.5]], scores=[1.0, 0.01]), f64(1, 0, 0, 1),
          "Every joint with a score above 0 counts. Is there a threshold other than 0?")


def test_joints_in_one_patch_add_up():
    """Two joints of weight 1 in a patch, one in another: 1 and 1/2."""
    close(weigh([[-0.5, -0.5], [-0.6, -0.4], [0.5, 0.5]]), f64(1, 0, 0, 0.5),
          "The weights of all joints in a patch are added; does a later joint overwrite an earlier "
          "one?")


def test_the_largest_patch_of_each_frame_is_1():
    """Each frame is divided by its own maximum, not by the clip's, nor by its sum."""
    w = f64([[1.0, 3.0], [0.1, 0.2]])
    xy = f64([[[-0.5, -0.5], [0.5, 0.5]], [[-0.5, -0.5], [0.5, 0.5]]])
    got = pevl.patch_weight(w.reshape(1, 2, 2), xy.reshape(1, 2, 2, 2),
                            torch.ones(1, 2, 2).double(), 2)
    close(got.amax(-1), torch.ones(1, 2), "The largest patch of every single frame has M = 1. Is M "
          "divided by a maximum over the frames of the clip, or by a sum, or not at all?")


def test_scaled_joint_weights_give_the_same_m():
    """Ten times the attention on all joints changes nothing."""
    xy = [[-0.5, -0.5], [0.5, 0.5], [0.4, -0.7]]
    close(weigh(xy, weights=[0.1, 0.2, 0.05]), weigh(xy, weights=[1.0, 2.0, 0.5]),
          "M says how the attention is shared out, not how much there is: normalise it.")


def test_a_joint_outside_of_the_frame_is_in_no_patch():
    """Beyond -1 or 1 there is no patch, and the nearest one must not get the weight."""
    close(weigh([[-0.5, -0.5], [1.5, 0.5], [0.5, -1.01]]), f64(1, 0, 0, 0),
          "A joint outside of [-1, 1] lies in no patch. Was it clamped into the nearest one?")


def test_a_joint_on_the_last_edge_is_in_the_last_patch():
    """x = 1 or y = 1 belongs to the last column or row."""
    close(weigh([[1.0, 1.0]], grid=3), f64(*[0] * 8, 1),
          "1 is still inside: the last patch has it. Does the index reach `grid`?")


def test_a_frame_without_joints_has_m_0():
    """No joint, or all of them outside: all zero, and no NaN."""
    close(weigh([[0.5, 0.5]], scores=[0.0]), torch.zeros(4), "A frame without joints: 0 / 0 must "
          "not happen. Keep the divisor above 0.")
    close(weigh([[7.0, 7.0]]), torch.zeros(4), "A frame whose joints are all outside: 0 / 0 must "
          "not happen. Keep the divisor above 0.")


def test_what_the_video_sees_trains_the_joint_weights():
    """M is not cut off from the gradient: V may tell the pose tower which joints matter (D3)."""
    weights = f64([0.2, 0.5, 0.3])[None].requires_grad_()                   # (1, 1, 3)
    xy = f64([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5]])[None]                 # (1, 1, 3, 2)
    M = pevl.patch_weight(weights, xy, torch.ones(1, 1, 3).double(), 2)
    why = "M must keep its gradient (D3); is something detached?"
    holds(M.requires_grad, why)
    (gradient,) = torch.autograd.grad((M * randn(0, *M.shape)).sum(), weights)
    holds(gradient.abs().max() > 1e-6, why)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_coordinates_that_are_no_numbers_are_no_place(score):
    """NaN coordinates give no weight and spoil no patch."""
    nan = float("nan")
    close(weigh([[-0.5, -0.5], [nan, nan]], scores=[1.0, score]), f64(1, 0, 0, 0),
          "A joint at NaN lies in no patch and must not turn M into NaN.")


# ---- The softmax ---------------------------------------------------------------------------------

def test_background_gets_no_attention():
    """Where M = 0 the share is exactly 0, however large the score."""
    got = pevl.masked_softmax(f64([2.0, 9.0, 1.0]), f64([1.0, 0.0, 1.0]))
    close(got[0, 1], 0.0, "A background patch (M = 0) gets attention. A score times 0 is 0, and "
          "exp(0) = 1 is not nothing: leave it out of the softmax before, do not multiply it (D4).",
          tol=0)


def test_rows_sum_to_1_over_body_patches():
    """A query shares out exactly 1 among the patches."""
    M = torch.where(rand(1, 1, 6) > 0.3, rand(2, 1, 6), 0.0)
    got = pevl.masked_softmax(randn(0, 4, 6), M)
    close(got.sum(-1), torch.ones(4), "Rows of a body patch must sum to 1 over the patches. If "
          "columns do, the softmax runs over the queries; if less than 1, M was multiplied to the "
          "shares once more after the softmax.")


def test_m_scales_the_scores():
    """Scores 2 and 2 with M = 1 and 1/2 are 2 and 1: shares 0.73 and 0.27."""
    got = pevl.masked_softmax(f64([2.0, 2.0]), f64([1.0, 0.5]))
    close(got, f64([0.7310586, 0.2689414]), "M multiplies the scores before the softmax: s * M, "
          "then exp. Is M missing from the scores, or multiplied to the shares?", tol=1e-5)


def test_the_printed_mask_lets_background_take_part():
    """literal_mask: Eq. (1) to the letter, background has the score 0."""
    got = pevl.masked_softmax(f64([2.0, 5.0]), f64([1.0, 0.0]), literal_mask=True)
    close(got, f64([0.8807971, 0.1192029]),
          "literal_mask=True: background takes part with the score 0 * M = 0. Is the switch the "
          "wrong way round?", tol=1e-5)


def test_the_log_of_m_may_be_added_in_place():
    """mask="log": equal scores are shared out as M is, 1 and 1/2 as 2/3 and 1/3."""
    got = pevl.masked_softmax(f64([-2.0, -2.0, 5.0]), f64([1.0, 0.5, 0.0]), mask="log")
    close(got, f64([2 / 3, 1 / 3, 0.0]), "mask=\"log\": scores + log M (log_masked), and the "
          "background is left out as always (D4). Is the switch read?", tol=1e-5)


def test_a_row_without_body_stays_finite():
    """Where nothing is left to look at: numbers still, and gradients still."""
    scores = randn(0, 2, 3).requires_grad_()
    got = pevl.masked_softmax(scores, torch.zeros(1, 3).double())
    holds(got.isfinite().all(),
          "A frame without body gives NaN: a softmax of -inf alone. Fill with the least number of "
          "the type.")
    (got * randn(1, 2, 3)).sum().backward()
    holds(scores.grad.isfinite().all(), "A frame without body gives NaN gradients. Fill with the "
          "least number of the type, not with -inf.")


# ---- P2V -----------------------------------------------------------------------------------------

def block_and_inputs(number=0):
    """A P2V with drawn weights, tokens (B, Tv, 1 + N, 16) and M; frame [0, 0] has no joints."""
    case = cases("eq1.p2v")[number]
    module = fill(pevl.P2V(16, 2).double(), case["state"])
    return module, case["tokens"], case["weight"], case


def test_p2v_matches_loops():
    """Tokens of random frames equal what loops over queries and heads give."""
    for number in range(len(cases("eq1.p2v"))):
        module, z, M, case = block_and_inputs(number)
        close(module(z, M), case["want"],
              "P2V differs from a loop over queries and heads. The facts beside this one say which "
              "rule it is; if all hold, look at the scale 1 / sqrt(c), c = d / heads, and at which "
              "layer makes queries, keys and values.")


def test_background_patches_pass_unchanged():
    """A patch without joint asks nothing: its token stays as it was, to the bit."""
    module, z, M, _ = block_and_inputs()
    background = torch.cat([torch.zeros(*M.shape[:2], 1).bool(), M == 0], dim=-1)
    close(module(z, M)[background], z[background], "Tokens of background patches (M = 0) must pass "
          "unchanged, that is the + I of Eq. (1) (D5). Yours change.", tol=0)


def test_a_frame_without_joints_passes_unchanged():
    """Nobody looks where there is no body, the class token neither."""
    module, z, M, _ = block_and_inputs()
    close(module(z, M)[0, 0], z[0, 0],
          "In a frame without any joint all tokens pass unchanged, the class token too (D5).",
          tol=0)


def test_the_class_token_looks_at_the_body():
    """Where there is a body, the class token changes."""
    module, z, M, _ = block_and_inputs()
    body = M.amax(-1) > 0
    changed = (module(z, M) - z)[:, :, 0].abs().amax(-1) > 1e-6
    holds(changed[body].all(), "The class token must look at the body patches: it is what a frame "
          "is read from. Was it left out of the queries because M has no entry for it?")


def test_the_change_is_added():
    """With an output projection of zero, nothing changes: z + 0."""
    module, z, M, _ = block_and_inputs()
    module.out_proj.weight.data.zero_()
    module.out_proj.bias.data.zero_()
    close(module(z, M), z, "P2V adds to the tokens: z + out_proj(...). Was the residual forgotten?",
          tol=0)


def test_background_is_not_looked_at():
    """Other pixels in the background change no other token."""
    module, z, M, _ = block_and_inputs(1)
    background = torch.cat([torch.zeros(*M.shape[:2], 1).bool(), M == 0], dim=-1)
    other = torch.where(background[..., None], z + randn(9, *z.shape), z)
    close(module(other, M)[~background], module(z, M)[~background], "Background tokens are keys of "
          "nobody: changing them changed the body.")


def test_the_class_token_is_no_key():
    """Body patches look at body patches; the class token is not among them."""
    module, z, M, _ = block_and_inputs(1)
    other = z.clone()
    other[:, :, 0] += randn(9, *z[:, :, 0].shape)
    close(module(other, M)[:, :, 1:], module(z, M)[:, :, 1:], "The class token is not looked at: "
          "keys and values are those of the patches alone (D5).")


def test_patches_have_no_order():
    """Patches and their M in another order give the same tokens in that order."""
    module, z, M, _ = block_and_inputs(2)
    order = torch.tensor([3, 0, 4, 2, 1])
    tokens = torch.cat([torch.tensor([0]), 1 + order])
    close(module(z[:, :, tokens], M[:, :, order]), module(z, M)[:, :, tokens],
          "Attention knows no order: permuting patches with M must permute the result. Does M "
          "stand at the patch it belongs to (the class token is token 0)?")


def test_frames_do_not_see_each_other():
    """Another frame of the clip changes nothing here."""
    module, z, M, _ = block_and_inputs(2)
    other = z.clone()
    other[:, 0] += randn(9, *z[:, 0].shape)
    close(module(other, M)[:, 1], module(z, M)[:, 1],
          "P2V works within a frame; yours mixes frames.")


def test_attention_that_is_given_is_the_class_tokens():
    """need_weights: the class token's shares, mean over heads."""
    for number in range(2):
        module, z, M, case = block_and_inputs(number)
        _, got = module(z, M, need_weights=True)
        close(got, case["attention"], "need_weights gives the class token's attention to the "
              "patches, the mean over heads (not one head), after the softmax.")


def test_attention_of_a_frame_without_joints_is_0():
    """Nobody looked, so no share is shown."""
    module, z, M, _ = block_and_inputs()
    _, got = module(z, M, need_weights=True)
    close(got[0, 0], torch.zeros(M.shape[-1]), "In a frame without joints the attention that is "
          "given must be all 0, not the uniform shares of a softmax over nothing.", tol=0)


def test_class_only_is_the_first_token():
    """class_only computes the class token alone, and the same one."""
    module, z, M, case = block_and_inputs(3)
    close(module(z, M, class_only=True), module(z, M)[:, :, :1],
          "class_only=True must give the same class token as the whole, as (B, Tv, 1, d).")
    _, got = module(z, M, class_only=True, need_weights=True)
    close(got, case["attention"], "class_only with need_weights gives the same attention as "
          "without: the mean over heads.")


def test_switches_reach_the_softmax():
    """A P2V that was made with literal_mask, or with mask="log", looks as its switch says."""
    case = cases("eq1.p2v")[4]
    z, M = case["tokens"], case["weight"]
    literal = fill(pevl.P2V(16, 2, literal_mask=True).double(), case["state"])
    _, share = literal(z, M, need_weights=True)
    there = (M > 0).any(-1, keepdim=True)
    holds((share > 0)[there & (M == 0)].all(), "P2V(literal_mask=True): background patches get a "
          "share. Is self.literal_mask handed to masked_softmax?")
    log = fill(pevl.P2V(16, 2, mask="log").double(), case["state"])
    holds((log(z, M) - case["want"]).abs().max() > 1e-6, "P2V(mask=\"log\") does as without it. "
          "Is self.mask handed to masked_softmax?")


def test_the_block_has_an_mlp_behind_a_gate():
    """kind="block": those that looked get gate * MLP(LN2(z)) of a frozen block of CLIP (D30)."""
    _, z, M, case = block_and_inputs(1)
    module = fill(pevl.P2V(16, 2, kind="block").double(), case["state"])
    block = ResidualAttentionBlock(16, 2, layers=1).double()
    close(module(z, M, block), case["want"], "kind=\"block\" starts with a gate of 0: attention "
          "alone.")
    module.gate.data.fill_(0.7)
    looks = torch.cat([(M > 0).any(-1, keepdim=True), M > 0], dim=-1)
    want = case["want"] + 0.7 * block.mlp(block.ln_2(case["want"])) * looks[..., None]
    close(module(z, M, block), want, "kind=\"block\": z + gate * MLP(LN2(z)) with block.ln_2 and "
          "block.mlp, for the tokens that looked (D30).")


def test_the_default_leaves_background_out():
    """Without any switch, P2V masks; the printed form must be asked for."""
    module, z, M, _ = block_and_inputs(4)
    holds(not getattr(module, "literal_mask", False), "The default is our reading, background left "
          "out (D4); the printed form is a switch.")
    _, share = module(z, M, need_weights=True)
    close(share[M == 0], torch.zeros(int((M == 0).sum())),
          "By default background has no share (D4).", tol=0)


def test_gradients_reach_tokens_and_m():
    """Slopes by autograd equal those of small steps, for tokens and for M."""
    module, z, _, _ = block_and_inputs()
    z = z[:1, :1, :4].clone()

    def run(tokens, two):
        M = torch.cat([two[:1], two.new_zeros(1), two[1:]])
        return module(tokens, M[None, None])

    gradients_are_right(run, z, f64(0.4, 0.9), why="P2V's gradients are not those of "
                        "its values: is something detached, or changed in place?")
