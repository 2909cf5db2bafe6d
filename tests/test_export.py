"""label/export.py: what onnxruntime computes is what the module computes, for real clips and texts.

Only the last test needs the optional packages; it says which where they are missing.
"""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import eval as ev
from label import export
from systems.views import clip_features


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["none", "causal", "bool", "float"]))
def test_attention_written_out_is_the_fused_one(seed, kind):
    """The same numbers as PyTorch's own, without a mask and with each kind of mask there is."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 3, 5, 4, generator=generator)
    seen = torch.rand(5, 5, generator=generator) > 0.4
    seen |= torch.eye(5, dtype=torch.bool)        # a row without anything is no softmax

    mask = None
    if kind == "bool":
        mask = seen
    if kind == "float":
        mask = torch.zeros(5, 5).masked_fill(~seen, -math.inf)
    causal = kind == "causal"
    got = export.plain_attention(q, k, v, mask, is_causal=causal)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(got, want)


def test_attention_is_fused_again_after_an_export():
    """Only while `written_out` is open is attention the plain one, even where an export fails."""
    fused = F.scaled_dot_product_attention
    with pytest.raises(RuntimeError, match="an exporter's fault"), export.written_out():
        assert F.scaled_dot_product_attention is export.plain_attention
        raise RuntimeError("an exporter's fault")
    assert F.scaled_dot_product_attention is fused


def test_export_without_its_packages_names_them(trained, tmp_path, monkeypatch, capsys):
    """An error with the command that installs them."""
    monkeypatch.setattr(export, "PACKAGES", "not_there_one not_there_two")
    assert ev.main(["--ckpt", str(trained.run), "--export", "onnx", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "`pip install 'not_there_one' 'not_there_two'`" in said, "one word for pip each"


def test_export_gives_what_the_module_gives(trained, tmp_path, capsys):
    """clip.onnx for a clip alone and for three of them, text.onnx for another text."""
    for package in export.PACKAGES.split():
        pytest.importorskip(package, reason=f"optional: pip install {export.PACKAGES}")
    import onnxruntime
    assert ev.main(["--ckpt", str(trained.run), "--export", "onnx", "--out", str(tmp_path)]) == 0
    assert "clip.onnx: frames, keypoints, scores -> video" in capsys.readouterr().out

    # A clip of the data set, by the module.
    model = ev.load(trained.run, device="cpu")
    video = trained.root / "rgb" / "test0.mp4"
    joints = trained.root / "poses" / "test0.npz"
    dataset, _, _ = model.open(video, [(0, math.inf)], pose=str(joints))
    batch = model.item(dataset, 0)
    with torch.no_grad():
        want = clip_features(model.model, batch, "cpu")

    # The same by the file.
    clip = onnxruntime.InferenceSession(str(tmp_path / "clip.onnx"))
    names = [one.name for one in clip.get_outputs()]
    feed = {}
    for name in ("frames", "keypoints", "scores"):
        feed[name] = batch[name][:, 0].float().numpy()                 # the only view
    alone = dict(zip(names, clip.run(None, feed)))
    for name, got in alone.items():
        assert got == pytest.approx(want[name].numpy(), abs=1e-3), name

    # Three clips, of which the second runs backwards: nothing is shared between clips.
    three = {name: np.concatenate([x, x[:, ::-1], x]) for name, x in feed.items()}
    for name, got in zip(names, clip.run(None, three)):
        assert len(got) == 3
        for place in (0, 2):
            assert got[place] == pytest.approx(alone[name][0], abs=1e-3), name
        if name != "video":                       # a mean over the frames
            assert np.abs(got[1] - got[0]).max() > 1e-4, name

    # Another text than the one of the export.
    text = onnxruntime.InferenceSession(str(tmp_path / "text.onnx"))
    short = model.model.tokens[1:2]
    tokens = torch.zeros(1, model.model.clip.config.context_length, dtype=torch.long)
    tokens[:, :short.shape[1]] = short
    sentences, _ = text.run(None, {"tokens": tokens.numpy()})
    assert np.isfinite(sentences).all()
    assert sentences == pytest.approx(model.features(video)["sentences"][1:2], abs=1e-4)
