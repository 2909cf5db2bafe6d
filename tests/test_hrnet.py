"""published/hrnet.py: the network against the published keys, its weights, crops and heatmaps.

No published weights are here, so that the network is compared with their list of keys and shapes
(tests/golden_hrnet.json), and each step around it with a slow transcription. Whole videos go
through HRNet in test_extract.py.
"""
import copy
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pose
from pose_clips import COCO, RunsACommand, narrow_hrnet  # noqa: F401
from published import hrnet
from strategies import randn, seeds

GOLDEN = json.loads((Path(__file__).parent / "golden_hrnet.json").read_text())


def random_crops(seed, count, height=64, width=64):
    """Normalised crops (count, 3, height, width) of nothing in particular."""
    return randn(seed, count, 3, height, width, dtype=torch.float32)


@pytest.fixture(scope="module")
def narrow():
    """One untrained network for all tests of this file; none of them changes it."""
    return narrow_hrnet()


# ---- The network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 48])
def test_hrnet_has_the_published_keys(width):
    """Every key and shape of the published checkpoints, by number, by part and by hash."""
    with torch.device("meta"):                    # shapes alone: no weights are drawn
        model = hrnet.HRNet(width)
    lines = [f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items()]
    published = GOLDEN[f"w{width}"]

    # From what tells most to what tells least, should one of them fail.
    assert set(published["some"]) <= set(lines)
    for part, count in published["keys_per_part"].items():
        assert sum(line.startswith(part) for line in lines) == count, part
    assert len(lines) == published["keys"]
    assert sum(weight.numel() for weight in model.parameters()) == published["parameters"]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    assert digest == published["sha256_of_sorted_lines"]


def test_hrnet_gives_quarter_size_heatmaps(narrow):
    """A map for each joint, a quarter of the crop's height and width."""
    five_joints = hrnet.HRNet(width=8, joints=5).eval()
    with torch.inference_mode():
        assert narrow(torch.zeros(2, 3, 64, 32)).shape == (2, 17, 16, 8)
        assert five_joints(torch.zeros(1, 3, 96, 96)).shape == (1, 5, 24, 24)


def test_hrnet_alone_equals_in_a_batch(narrow):
    """A crop's heatmaps do not depend on the crops beside it."""
    crops = random_crops(0, count=3)
    with torch.inference_mode():
        together = narrow(crops)
        alone = narrow(crops[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-6)


def test_folded_norms_give_the_same_heatmaps(narrow):
    """To 1e-5 of the largest, when folded once, twice and in channels_last; no norm is left."""
    model = copy.deepcopy(narrow)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # As PyTorch makes them, norms do next to nothing, and losing one would not be noticed.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(std=0.1, generator=generator)

        crops = random_crops(1, count=2)
        want = model(crops)
        once = hrnet.fold_norms(model)(crops)
        twice = hrnet.fold_norms(model)(crops)
        in_channels_last = model.to(memory_format=torch.channels_last)(crops)

    tolerance = 1e-5 * want.abs().max()
    for got in (once, twice, in_channels_last):
        assert (got - want).abs().max() <= tolerance
    for module in model.modules():
        assert not isinstance(module, torch.nn.BatchNorm2d)


# ---- Published weights ---------------------------------------------------------------------------


class Logged:
    """Stands for what mmengine stores beside the weights: a class that the reader does not know."""

    def __init__(self):
        self.history = [1.0, 2.0]


def as_published(model, style):
    """What a checkpoint of the network holds, in one of the namings that are about."""
    state = model.state_dict()
    if style == "official":
        return state
    if style == "parallel":                       # of nn.DataParallel
        return {f"module.{key}": value for key, value in state.items()}
    if style == "old":                            # before PyTorch 0.4.1 there were no counters
        for key in list(state):
            if key.endswith("num_batches_tracked"):
                del state[key]
        return state

    head = {"mmpose0": "keypoint_head.", "mmpose1": "head."}[style]
    named = {}
    for key, value in state.items():
        part = head if key.startswith("final_layer") else "backbone."
        named[part + key] = value
    if style == "mmpose1":
        named["data_preprocessor.mean"] = torch.zeros(3)
    meta = {"epoch": 210, "array": np.arange(3), "log": Logged()}
    return {"state_dict": named, "meta": meta}


@pytest.mark.parametrize("style", ["official", "parallel", "old", "mmpose0", "mmpose1"])
def test_load_hrnet_reads_every_published_naming(tmp_path, narrow, style):
    """The network is the one that was saved, in eval mode, for crops as the file's name says."""
    path = tmp_path / "hrnet_384x288.pth"
    is_zip = style != "old"                       # nor were files zipped before PyTorch 1.6
    torch.save(as_published(narrow, style), path, _use_new_zipfile_serialization=is_zip)

    loaded = hrnet.load_hrnet(path)
    assert loaded.input_size == (384, 288)
    assert not loaded.training
    crops = random_crops(2, count=1)
    with torch.inference_mode():
        assert torch.equal(loaded(crops), narrow(crops))


@pytest.mark.parametrize(
    "key, value, fault",
    [
        ("extra", torch.zeros(1), r"extra: \(1,\), not expected"),
        ("bn1.weight", None, r"bn1.weight: missing, not \(64,\)"),
        ("bn1.weight", torch.zeros(3), r"bn1.weight: \(3,\), not \(64,\)"),
        ("final_layer.weight", None, "final_layer.weight: missing"),
    ],
)
def test_load_hrnet_accounts_for_every_key(tmp_path, narrow, key, value, fault):
    """A key too many, one too few (value None) and another shape are named, not ignored."""
    state = narrow.state_dict()
    if value is None:
        del state[key]
    else:
        state[key] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=fault):
        hrnet.load_hrnet(tmp_path / "w.pth")


def test_load_hrnet_names_what_it_knows():
    """For a misspelt name the nearest one, for a path without a file all names of weights."""
    with pytest.raises(ValueError, match="Did you mean 'w32_256x192'"):
        hrnet.load_hrnet("w32-256x192")

    for gone in ("gone.pth", "folder/gone"):
        with pytest.raises(FileNotFoundError, match=f"no HRNet weights {gone}.*w32_256x192"):
            hrnet.load_hrnet(gone)

def test_load_hrnet_refuses_foreign_files(tmp_path):
    """Bytes that are no checkpoint: the error names the file."""
    foreign = tmp_path / "foreign.pth"
    foreign.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="cannot read .*foreign.pth.*weights"):
        hrnet.load_hrnet(foreign)


def test_load_hrnet_runs_no_code(tmp_path, narrow):
    """A checkpoint may name any function. None is called, whether the file is read or refused."""
    mark = tmp_path / "ran"
    checkpoint = {"state_dict": narrow.state_dict(), "meta": RunsACommand(f"touch {mark}")}
    torch.save(checkpoint, tmp_path / "w.pth")
    try:
        hrnet.load_hrnet(tmp_path / "w.pth")
    except ValueError:
        pass
    assert not mark.exists(), "the checkpoint's command was run"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *args):
        pass


@pytest.fixture
def website(tmp_path, narrow, monkeypatch):
    """A local web server with one checkpoint, an empty cache, and three known names of weights.

    "good" is the checkpoint, "bad" the same file under another hash, "gone" is not on the server.
    """
    folder = tmp_path / "web"
    folder.mkdir()
    file = folder / "net.pth"
    torch.save(as_published(narrow, "mmpose1"), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    good = file.rename(folder / f"td-hm_256x192-{digest[:8]}_20220909.pth")
    bad = folder / "td-hm_256x192-00000000_20220909.pth"
    bad.write_bytes(good.read_bytes())

    cache = tmp_path / "cache"
    monkeypatch.setenv("PEVL_CACHE", str(cache))

    def handler(*args):
        return QuietHandler(*args, directory=folder)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        weights = {
            "good": address + good.name,
            "bad": address + bad.name,
            "gone": address + "x-00000000_1.pth",
        }
        monkeypatch.setattr(hrnet, "WEIGHTS", weights)
        yield SimpleNamespace(good=good, cache=cache)
        server.shutdown()


def test_load_hrnet_downloads_once(website, capsys):
    """The second time the file is in the cache: it may be gone from the server."""
    hrnet.load_hrnet("good")
    assert [path.name for path in website.cache.glob("*.pth")] == [website.good.name]
    assert "MB/s" in capsys.readouterr().err, "a download must show that it goes on"

    website.good.unlink()
    assert hrnet.load_hrnet("good").input_size == (256, 192)


def test_load_hrnet_checks_the_hash(website):
    """A file of another hash is refused, as is one that cannot be had, and neither is kept."""
    with pytest.raises(ValueError, match="has SHA-256 .*Expected SHA-256 00000000.*by hand"):
        hrnet.load_hrnet("bad")
    with pytest.raises(ValueError, match="cannot download.*by hand"):
        hrnet.load_hrnet("gone")
    kept = [path.name for path in website.cache.iterdir() if path.suffix != ".lock"]
    assert kept == [], "half a file, or a wrong one, was kept"


def test_known_weights_carry_their_hash_in_the_name():
    """Each address ends with hash and date, and has the width and crop that its name promises."""
    for name, url in hrnet.WEIGHTS.items():
        width, crop = name.split("_")
        assert re.search(rf"hrnet-{width}_.*-{crop}-[0-9a-f]{{8}}_\d{{8}}\.pth$", url), name


# ---- From the frame to the crop and back ---------------------------------------------------------


def box_from(corner_and_sides):
    x, y, width, height = corner_and_sides
    return [x, y, x + width, y + height]


# Boxes around, in and partly outside of FRAME.
boxes = st.tuples(
    st.floats(-40, 200),
    st.floats(-40, 160),
    st.floats(2, 300),
    st.floats(2, 300),
).map(box_from)
FRAME = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


def colour_at(frame, x, y):
    """The colour (3,), 0 to 1, between four pixels of a frame, by their nearness; black outside."""
    height, width = frame.shape[:2]
    left = int(np.floor(x))
    top = int(np.floor(y))
    colour = np.zeros(3)
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= column < width and 0 <= row < height:
                nearness = (1 - abs(x - column)) * (1 - abs(y - row))
                colour += frame[row, column] / 255 * nearness
    return colour


@given(box=boxes, seed=seeds)
def test_crop_equals_bilinear_reading(box, seed):
    """Ten pixels of the crop, worked out one by one: centre to centre, one scale, black outside."""
    h, w = 64, 48
    crop = hrnet.crop_people([FRAME], torch.tensor([box]), (h, w))[0]
    crop = crop.permute(1, 2, 0) * torch.tensor(hrnet.STD) + torch.tensor(hrnet.MEAN)

    # The box is widened to the crop's aspect, then by a quarter.
    x0, y0, x1, y1 = box
    box_width = max(x1 - x0, (y1 - y0) * w / h)
    scale = 1.25 * box_width / w                  # frame pixels for one of the crop

    rng = np.random.default_rng(seed)
    for _ in range(10):
        u = int(rng.integers(w))
        v = int(rng.integers(h))
        x = (x0 + x1) / 2 + (u - w / 2) * scale
        y = (y0 + y1) / 2 + (v - h / 2) * scale
        assert np.abs(crop[v, u].numpy() - colour_at(FRAME, x, y)).max() < 2e-3


@given(
    box=boxes,
    across=st.floats(0.02, 0.97),
    down=st.floats(0.02, 0.97),
    size=st.sampled_from([(64, 48), (96, 72)]),
)
def test_decode_returns_a_planted_joint(box, across, down, size):
    """Heatmap of a joint in a crop, decoded to the frame: within half a heatmap pixel of it."""
    h, w = size
    box = torch.tensor([box])
    (centre,), (width,) = hrnet.crop_rule(box, size)
    scale = width / w                             # frame pixels for one of the heatmap
    spot = torch.tensor([across * (w - 1), down * (h - 1)])
    joint = centre + (spot - torch.tensor([w, h]) / 2) * scale

    heatmaps = pose.gaussian_heatmaps(spot[None, None], torch.ones(1, 1), size, sigma=2.0)
    found, score = hrnet.decode_heatmaps(heatmaps, box)
    assert ((found[0, 0] - joint).abs() <= 0.5 * scale + 1e-3).all()
    assert score > 0.8


def test_decode_equals_the_published_steps():
    """Highest pixel, a quarter pixel towards the higher neighbour, back through the crop's rule."""
    people, joints, h, w = 2, 60, 16, 12
    heatmaps = randn(3, people, joints, h, w, dtype=torch.float32)
    heatmaps[0, 0] = -1.0                         # a joint that is nowhere
    boxes_of_people = torch.tensor([[10.0, 20, 70, 90], [5, 5, 50, 20]])
    found, scores = hrnet.decode_heatmaps(heatmaps, boxes_of_people)

    for n, j in np.ndindex(people, joints):
        heat = heatmaps[n, j].numpy()
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        score = heat.max()
        if score <= 0:
            x = y = score = 0
        spot = np.array([x, y], float)
        if 1 < x < w - 1 and 1 < y < h - 1:
            slope_x = heat[y, x + 1] - heat[y, x - 1]
            slope_y = heat[y + 1, x] - heat[y - 1, x]
            spot += 0.25 * np.sign([slope_x, slope_y])

        x0, y0, x1, y1 = boxes_of_people[n].tolist()
        centre = np.array([x0 + x1, y0 + y1]) / 2
        scale = 1.25 * max(x1 - x0, (y1 - y0) * w / h) / w
        want = centre + (spot - np.array([w, h]) / 2) * scale
        assert np.abs(found[n, j].numpy() - want).max() < 1e-4
        assert scores[n, j] == score, "the score is the height of the highest pixel"


def test_flip_test_of_a_symmetric_input_is_symmetric(narrow):
    """A left joint's map is its right one's, mirrored at column w / 2; not so without the test."""
    crop = random_crops(4, count=1)
    symmetric = crop + crop.flip(-1)
    with torch.inference_mode():
        tested = hrnet.predict_heatmaps(narrow, symmetric, flip=True)
        plain = hrnet.predict_heatmaps(narrow, symmetric, flip=False)

    # Column w / 2 is the crop's middle by crop_rule, so that column 0 has nothing opposite.
    swap = pose.JOINT_SETS["coco17"].flip_index
    opposite = tested.flip(-1)[:, swap]
    assert torch.allclose(tested[..., 1:], opposite[..., :-1], atol=1e-5)
    opposite = plain.flip(-1)[:, swap]
    assert not torch.allclose(plain[..., 1:], opposite[..., :-1], atol=1e-3)


# ---- It can learn --------------------------------------------------------------------------------

# A person who stands upright, joints in COCO's order: x to the right and y down from the middle of
# the body, in lengths of the upper body.
STANDING = [
    (0, -0.55), (0.07, -0.62), (-0.07, -0.62), (0.14, -0.58), (-0.14, -0.58),     # head
    (0.26, -0.3), (-0.26, -0.3), (0.45, 0), (-0.45, 0), (0.5, 0.3), (-0.5, 0.3),  # arms
    (0.17, 0.4), (-0.17, 0.4), (0.25, 0.8), (-0.25, 0.8), (0.25, 1.2), (-0.25, 1.2),      # legs
]


def stick_figure(rng, size=(96, 80)):
    """A drawn person on a noisy ground -> image (H, W, 3), joints (17, 2)."""
    H, W = size
    middle_x = W * rng.uniform(0.4, 0.6)
    middle_y = H * rng.uniform(0.3, 0.4)
    length = H * rng.uniform(0.28, 0.36)

    shape = np.array(STANDING)
    shape[7:11] += rng.normal(0, 0.12, (4, 2))    # elbows and wrists
    shape[13:] += rng.normal(0, 0.1, (4, 2))      # knees and ankles
    joints = shape * length + (middle_x, middle_y)

    ground = Image.fromarray(rng.integers(0, 60, (H, W, 3), dtype=np.uint8))
    drawn = pose.draw_skeleton(ground, joints, np.ones(17), COCO)
    return np.asarray(drawn), joints


def draw_weights(model):
    """Weights to start from: PyTorch's own let the sums over the branches explode."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    torch.nn.init.normal_(model.final_layer.weight, std=0.001)
    torch.nn.init.zeros_(model.final_layer.bias)


def share_learned(frames, steps, settled, size=(128, 96)):
    """Train a narrow HRNet on a few drawn frames, through the program's own crop, target and decode
    -> the share of their joints that it then finds, to a tenth of the torso.

    settled: read with the running statistics of batch norm, which need more steps.
    """
    rng = np.random.default_rng(0)
    images = []
    joints = []
    for _ in range(frames):
        image, its_joints = stick_figure(rng)
        images.append(image)
        joints.append(its_joints)
    joints = np.stack(joints)                                              # (frames, 17, 2)
    around = np.concatenate([joints.min(1) - 4, joints.max(1) + 4], axis=1)
    people = torch.tensor(around, dtype=torch.float32)                     # (frames, 4)

    torch.manual_seed(0)
    model = hrnet.HRNet(width=8)
    draw_weights(model)
    model.input_size = size

    # The target has the joints in pixels of the heatmap.
    h, w = size[0] // 4, size[1] // 4
    crops = hrnet.crop_people(images, people, size)
    centres, widths = hrnet.crop_rule(people, size)
    scales = widths / w
    from_centre = (torch.tensor(joints) - centres[:, None]) / scales[:, None, None]
    spots = from_centre + torch.tensor([w, h]) / 2
    target = pose.gaussian_heatmaps(spots, torch.ones(frames, 17), (h, w), sigma=1.5)

    # The 17 maps are sums of 8 and cannot all be the targets: weight on the peaks lets each be
    # highest in the right place.
    weight = 1 + 10 * target
    rate = 3e-3
    optimiser = torch.optim.Adam(model.parameters(), rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, 2 * (1 - step / steps))
        loss = ((model(crops) - target).pow(2) * weight).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    model.train(not settled)
    found, _ = hrnet.predict(model, images, people, flip=False)
    shoulders = joints[:, 5:7].mean(1)
    hips = joints[:, 11:13].mean(1)
    torso = np.linalg.norm(shoulders - hips, axis=-1)                      # (frames,)
    away = np.linalg.norm(found - joints, axis=-1)                         # (frames, 17)
    return (away < 0.1 * torso[:, None]).mean()


def test_narrow_hrnet_begins_to_learn_stick_figures():
    """Fourteen steps on one frame: six joints of ten are found."""
    assert share_learned(frames=1, steps=14, settled=False) >= 0.6


@pytest.mark.slow
def test_narrow_hrnet_learns_stick_figures():
    """Ninety steps on four frames, read as a trained network is: nine joints of ten are found."""
    assert share_learned(frames=4, steps=90, settled=True) >= 0.9
