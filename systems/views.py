"""Several views of a clip become one answer: the mean of Eq. (7), and AIM's mean beside it.

paper    | what                                      | here          | tests/test_eval.py
Sec. 4.1 | three crops of a clip pass as three clips | clip_features | test_views_are_averaged
Eq. (7)  | mean of S / tau over the views, softmax   | average_views | test_views_are_averaged
AIM      | softmax of each view, then the mean       | average_views | test_average_of_*

B clips, R views, K classes.
"""
import math


def clip_features(model, batch, device):
    """A batch of clips with R views each -> the model's features, a dict of tensors (B * R, ...).

    batch: frames (B, R, Tv, 3, S, S), keypoints (B, R, T, J, 2), scores (B, R, T, J), label (B,).
    A view passes through the model as a clip does.
    """
    views = batch["frames"].shape[1]
    folded = {}
    for name in ("frames", "keypoints", "scores"):
        folded[name] = batch[name].to(device, non_blocking=True).flatten(0, 1)     # (B * R, ...)
    folded["label"] = batch["label"].to(device).repeat_interleave(views)
    return model(folded)


def clip_logits(model, features, text):
    """Features of (B * R) views -> name -> logits (B * R, K), float32, on the CPU.

    text: from `model.encode_texts`, or None.
    """
    logits = model.class_logits(features, text)
    return {name: x.float().cpu() for name, x in logits.items()}


def answering(features):
    """The names among a model's features that its answer is made of, a list in their order.

    Left out are the label and what Eq. (3) alone compares, `video_before` and `pose_before`.
    """
    return [name for name in features if name != "label" and not name.endswith("_before")]


def mean_features(features, views):
    """Features of (B * R, ...) views -> name -> the mean over a clip's views, (B, ...), float32.

    Of those that the answer is made of, on the CPU.
    """
    means = {}
    for name in answering(features):
        by_clip = features[name].float().unflatten(0, (-1, views))         # (B, R, ...)
        means[name] = by_clip.mean(1).cpu()
    return means


def average_views(logits, views, average="similarities"):
    """(B * R, K) -> (B, K) logits, R = views, whose softmax are the clip's probabilities.

    similarities: the mean inside the softmax, Eq. (7). probabilities: the mean behind it, as AIM
    reports; here its logarithm, so that the softmax gives it back. With one view both are the same
    answer; with several, a view that is very sure counts for more in the first (D19).
    """
    logits = logits.unflatten(0, (-1, views))                              # (B, R, K)
    if average == "probabilities":
        return logits.log_softmax(-1).logsumexp(1) - math.log(views)
    return logits.mean(1)
