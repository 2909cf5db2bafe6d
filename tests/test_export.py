"""label/export.py: what onnxruntime computes is what the module computes, for real clips and other texts."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import eval as ev
from label import export
from systems.views import clip_features
from test_label import trained  # noqa: F401


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([None, "bool", "float"]))
def test_attention_written_out_is_the_fused_one(seed, causal, mask):
    g = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 3, 5, 4, generator=g)
    attn_mask = None
    if mask and not causal:
        attn_mask = torch.rand(5, 5, generator=g) > 0.4
        attn_mask |= torch.eye(5, dtype=torch.bool)        # a row without anything is no softmax
        attn_mask = attn_mask if mask == "bool" else attn_mask.float().log()
    got = export.plain_attention(q, k, v, attn_mask, is_causal=causal)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=causal)
    torch.testing.assert_close(got, want)


def test_export_without_its_packages_names_them(trained, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(export, "PACKAGES", "not_there_one not_there_two")
    assert ev.main(["--ckpt", str(trained.run), "--export", "onnx", "--out", str(tmp_path)]) == 2
    assert "`pip install 'not_there_one' 'not_there_two'`" in capsys.readouterr().err, "one word for pip each"
    assert F.scaled_dot_product_attention is not export.plain_attention


def test_export_gives_what_the_module_gives(trained, tmp_path, capsys):  # noqa: F811
    for package in export.PACKAGES.split():
        pytest.importorskip(package, reason=f"optional: pip install {export.PACKAGES}")
    import onnxruntime
    assert ev.main(["--ckpt", str(trained.run), "--export", "onnx", "--out", str(tmp_path)]) == 0
    assert "clip.onnx: frames, keypoints, scores -> video" in capsys.readouterr().out
    model = ev.load(trained.run, device="cpu")
    dataset, _, _ = model.open(trained.root / "rgb" / "test0.mp4", [(0, float("inf"))],
                               pose=str(trained.root / "poses" / "test0.npz"))
    batch = model.item(dataset, 0)
    with torch.no_grad():
        want = clip_features(model.model, batch, "cpu")
    clip = onnxruntime.InferenceSession(str(tmp_path / "clip.onnx"))
    feed = {name: batch[name][:, 0].float().numpy() for name in ("frames", "keypoints", "scores")}
    names = [one.name for one in clip.get_outputs()]
    alone = dict(zip(names, clip.run(None, feed)))
    for name, got in alone.items():
        assert got == pytest.approx(want[name].numpy(), abs=1e-3), name
    three = {name: np.concatenate([x, x[:, ::-1], x]) for name, x in feed.items()}       # the second runs backwards
    for name, got in zip(names, clip.run(None, three)):
        assert len(got) == 3 and got[[0, 2]] == pytest.approx(np.concatenate([alone[name]] * 2), abs=1e-3), name
        assert np.abs(got[1] - got[0]).max() > 1e-4 or name == "video", name
    text = onnxruntime.InferenceSession(str(tmp_path / "text.onnx"))
    short = model.model.tokens[1:2]                        # another text than the one of the export
    tokens = torch.zeros(1, model.model.clip.config.context_length, dtype=torch.long)
    tokens[:, :short.shape[1]] = short
    sentences, _ = text.run(None, {"tokens": tokens.numpy()})
    assert sentences == pytest.approx(model.features(trained.root / "rgb" / "test0.mp4")["sentences"][1:2], abs=1e-4)
    assert np.isfinite(sentences).all()
