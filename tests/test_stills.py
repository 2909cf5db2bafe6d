"""toy/stills.py: pretraining of the tiny CLIP on captioned stills."""
import torch

from clip_model import load_clip
from runs import outcome
from support.checkpoints import read_checkpoint
from toy import stills


def test_stills(tmp_path, monkeypatch):
    """Pretraining of the tiny CLIP on captioned stills, and its export, which loads as a CLIP."""
    class Few(stills.ToyStills):
        def __init__(self, *args):
            super().__init__(*args)
            self.length = 24

    monkeypatch.setattr(stills, "ToyStills", Few)
    export = tmp_path / "clip.pt"
    argv = ["--epochs", "2", "--batch", "12",
            "--workers", "0", "--out",
            str(tmp_path / "run"), "--export", str(export)]
    assert stills.main(argv) == 0
    rows = [row for row in outcome(tmp_path / "run")[3] if row["kind"] == "epoch"]
    assert len(rows) == 2 and {"top1", "top1/apparatus", "total"} <= rows[-1].keys()
    assert export.stat().st_size < 4e6
    loaded = load_clip(str(export), backbone="tiny").state_dict()
    saved = read_checkpoint(tmp_path / "run" / "last.pt")["model"]
    for name, x in saved.items():
        assert torch.equal(loaded[name.removeprefix("clip.")], x.half().float()), name
