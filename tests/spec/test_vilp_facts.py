"""ViLP: pose gates frames, words vote for them, what is voted for meets the sentence (P-VCS)."""
import pytest
import torch
import torch.nn.functional as F

from expected import cases
from spec import close, f64, gradients_are_right, randn, worked_example_holds
from systems import vilp

pytestmark = pytest.mark.vilp


def draw(seed=0, B=2, T=3, K=2, W=4):
    """Frames, pose, words, sentences, and a mask in which text k has words 1 to 1 + k."""
    mask = torch.zeros(K, W, dtype=torch.bool)
    for k in range(K):
        mask[k, 1:2 + k] = True
    return [randn(seed, B, T, 8), randn(seed + 1, B, T, 8), randn(seed + 2, K, W, 8),
            randn(seed + 3, K, 8), mask]


def test_worked_example():
    """The numbers in the docstring come out as printed."""
    worked_example_holds(vilp.gate, vilp)


def test_gate_by_hand():
    """v = (0.6, 0.8); sigmoids of (1, 0) are 0.73 and 0.5."""
    close(vilp.gate(f64([3.0, 4.0])[None], f64([5.0, 0.0])[None]), f64([0.4386351, 0.4])[None],
          "u = v * sigmoid(p), v and p at unit length. (0.596, 0.4) has p as its tower gives it; "
          "a vector of length 1 was normalised once more (D25).", tol=1e-5)


def test_the_raw_gate_by_hand():
    """raw: sigmoids of (5, 0), and u at unit length."""
    u = f64(0.6 * 0.9933071, 0.8 * 0.5)
    got = vilp.gate(f64([3.0, 4.0])[None], f64([5.0, 0.0])[None], raw=True)
    close(got, (u / u.norm())[None, None],
          "raw: the pose feature is not normalised, u is (D25).", tol=1e-5)


def test_without_pose_a_frame_is_itself():
    """u = v at unit length."""
    close(vilp.gate(f64([3.0, 4.0])[None], None), f64([0.6, 0.8])[None],
          "Without pose u = v, at unit length.")


def test_spotting_matches_loops():
    """Similarities of random clips and texts equal what loops over words and frames give."""
    for case in cases("vilp.spotting"):
        got = vilp.pose_guided_concept_spotting(
            case["frames"], case["pose"], case["words"], case["sentences"], case["word_mask"],
            float(case["tau"]))
        close(got, case["want"], "P-VCS differs from loops over words and frames. The facts beside "
              "this one say which rule it is.")


def test_one_frame_gives_that_frame():
    """With one frame every word votes for it."""
    v, p, words, sentences, mask = draw(T=1)
    got = vilp.pose_guided_concept_spotting(v, p, words, sentences, mask)
    u = F.normalize(v[:, 0], dim=-1) * F.normalize(p[:, 0], dim=-1).sigmoid()
    close(got,
          u @ F.normalize(sentences, dim=-1).T,
          "One frame has the whole share, 1: the votes of a word sum "
          "to 1 over the frames, and the shares of the words sum to 1.")


def test_the_raw_gate_reaches_the_frames():
    """raw: what is voted for is made of frames by the raw gate."""
    v, p, words, sentences, mask = draw(T=1)
    got = vilp.pose_guided_concept_spotting(v, p, words, sentences, mask, raw=True)
    u = F.normalize(F.normalize(v[:, 0], dim=-1) * p[:, 0].sigmoid(), dim=-1)
    close(got, u @ F.normalize(sentences, dim=-1).T,
          "raw=True: the gate is the raw one (D25). Is raw handed on to it?")


def test_words_vote_for_the_frame_that_shows_them():
    """Two frames, the word is the second: at a small tau the second is what is read."""
    v = f64([1.0, 0.0], [0.0, 1.0])[None]
    word = f64([0.0, 1.0])[None]
    sentence = f64([1.0, 1.0])
    got = vilp.pose_guided_concept_spotting(v, None, word, sentence, torch.ones(1, 1).bool(), 0.01)
    close(got,
          f64([0.5 ** 0.5]),
          "A word shares its vote out over the frames by "
          "softmax(word . u / tau); does the softmax run over the words?")
    sentence = f64([0.0, 1.0])
    got = vilp.pose_guided_concept_spotting(v, None, word, sentence, torch.ones(1, 1).bool(), 0.01)
    close(got, f64([1.0]), "The frame that the word points at is what meets the sentence.")


def test_padding_does_not_vote():
    """What stands in masked places changes nothing."""
    v, p, words, sentences, mask = draw()
    other = torch.where(mask[..., None], words, 9.0 + randn(9, *words.shape))
    close(vilp.pose_guided_concept_spotting(v, p, other, sentences, mask),
          vilp.pose_guided_concept_spotting(v, p, words, sentences, mask),
          "The mean is over real words (word_mask): start, end and padding do not vote.")


def test_a_text_without_words_is_voted_for_by_all_its_tokens():
    """Finite, and the same as if all were words."""
    v, p, words, sentences, mask = draw()
    close(vilp.pose_guided_concept_spotting(v, p, words, sentences, mask & False),
          vilp.pose_guided_concept_spotting(v, p, words, sentences, mask | True),
          "A text without words must not divide by 0: all its tokens vote.")


def test_what_is_voted_for_is_not_normalised():
    """A mean of frames at right angles is shorter than 1, and stays so."""
    v = f64([1.0, 0.0], [0.0, 1.0])[None]
    word = f64([1.0, 1.0])[None]
    got = vilp.pose_guided_concept_spotting(v, None, word, f64([1.0, 1.0]), torch.ones(1, 1).bool())
    close(got,
          f64([0.5 ** 0.5]),
          "video_k is the weighted sum of frames as it is; "
          "1.0 would be its cosine with the sentence (D25).")


def test_lengths_of_words_and_sentences_do_not_count():
    """Words and sentences are brought to unit length."""
    v, p, words, sentences, mask = draw()
    close(vilp.pose_guided_concept_spotting(v, p, 4 * words, 3 * sentences, mask),
          vilp.pose_guided_concept_spotting(v, p, words, sentences, mask),
          "Words and sentences are compared at unit length.")


def test_frames_have_no_order():
    """Frames with their poses in another order give the same."""
    v, p, words, sentences, mask = draw()
    close(vilp.pose_guided_concept_spotting(v.flip(1), p.flip(1), words, sentences, mask),
          vilp.pose_guided_concept_spotting(v, p, words, sentences, mask),
          "The order of the frames must not count, as long as pose goes with its frame.")


def test_the_temporal_transformer_adds_to_the_frames():
    """v + layers(v + position)."""
    mixer = vilp.TemporalTransformer(8, 2, 3).double().eval()
    frames = randn(0, 2, 3, 8)
    mixer.position.data = randn(1, 3, 8)
    with torch.no_grad():
        want = frames + mixer.layers(frames + mixer.position)
        close(mixer(frames), want, "v + layers(v + position): was the residual, or the position, "
              "forgotten?")


def test_gradients():
    """Slopes by autograd equal those of small steps."""
    v, p, words, sentences, mask = draw(B=1)

    def spotting(a, b):
        return vilp.pose_guided_concept_spotting(a, b, words, sentences, mask, 0.3)

    gradients_are_right(spotting, v, p,
                        why="P-VCS's gradients are not those of its values: is something detached?")
