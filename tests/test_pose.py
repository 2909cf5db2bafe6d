"""pose.py: HRNet against the published checkpoint's keys, the chain crop -> heatmap -> decode, files, importers."""
import csv
import hashlib
import http.server
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pose
from strategies import seeds

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
    return dict(keypoints=rng.random((T, len(joints), 2)) * 60, scores=rng.random((T, len(joints))),
                size=(64, 96), times=np.arange(T) / 20, joints=joints)


# ---------------------------------------------------------------------------------- joint sets, files


@pytest.mark.parametrize("name", pose.JOINT_SETS)
def test_joint_sets_are_consistent(name):
    known = pose.JOINT_SETS[name]
    mirrored = [n.translate(str.maketrans("", "")).replace("left", "L").replace("right", "left")
                .replace("L", "right") for n in known.names]
    assert [known.names[j] for j in known.flip_index] == mirrored
    assert [known.flip_index[j] for j in known.flip_index] == list(range(len(known.names)))
    assert {a for bone in known.bones for a in bone} == set(range(len(known.names)))
    assert pose.joint_set(list(known.names)) is known
    parts = [known.names[j].split("_") for j in known.to_coco17]
    for (*_, part), target in zip(parts, COCO):
        assert part == "head" or part == target.split("_")[-1]
    for j, target in zip(known.to_coco17, COCO):
        assert known.names[j] == "head" or known.names[j] == target


def test_coco17_has_the_official_pairs_and_smarthome_its_order():
    assert pose.JOINT_SETS["coco17"].flip_pairs == tuple(zip(range(1, 17, 2), range(2, 17, 2)))
    assert pose.JOINT_SETS["smarthome13"].names[:4] == ("right_ankle", "left_ankle", "right_knee",
                                                        "left_knee")
    assert pose.JOINT_SETS["smarthome13"].names[-3:] == ("right_shoulder", "left_shoulder", "head")


def test_thirteen_joints_become_seventeen():
    joints = pose.JOINT_SETS["smarthome13"].names
    points, scores = pose.to_coco17(np.arange(26.0).reshape(1, 13, 2), np.arange(13.0)[None], joints)
    assert points.shape == (1, 17, 2)
    assert scores[0].tolist() == [12] * 5 + [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="unknown joints.*Expected.*coco17.*JOINT_SETS"):
        pose.joint_set(["nose", "tail"])


@given(seeds, st.integers(1, 5), st.sampled_from(sorted(pose.JOINT_SETS)))
def test_pose_files_come_back(tmp_path_factory, seed, T, name):
    given_clip = a_clip(T, pose.JOINT_SETS[name].names, seed)
    path = pose.write_pose(tmp_path_factory.getbasetemp() / "there" / "-a b.npz", **given_clip, extractor="me")
    back = pose.read_pose(path)
    for field, value in given_clip.items():
        assert np.array_equal(getattr(back, field), np.asarray(value, np.asarray(getattr(back, field)).dtype))
    assert (back.extractor, back.size, back.keypoints.dtype) == ("me", (64, 96), np.float32)
    first = path.read_bytes()
    assert pose.write_pose(path, **given_clip, extractor="me").read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["-a b.npz"]


@pytest.mark.parametrize("change", [
    dict(keypoints=np.zeros((4, 17, 3))), dict(scores=np.zeros((3, 17))), dict(scores=-np.ones((4, 17))),
    dict(scores=np.full((4, 17), np.nan)), dict(size=(0, 5)), dict(size=(5,)), dict(times=[3, 2, 1, 0]),
    dict(times=[0, 1]), dict(times=[0, np.nan, 1, 2]), dict(joints=COCO[:-1]),
    dict(keypoints=np.full((4, 17, 2), np.inf)), dict(keypoints=np.zeros((0, 17, 2)),
                                                      scores=np.zeros((0, 17)), times=[])])
def test_bad_pose_clips_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match=r"bad pose clip .*x.npz.*Expected.*--overwrite"):
        pose.write_pose(tmp_path / "x.npz", **(a_clip() | change))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_pose_files_name_the_path_and_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pose file .*gone.npz.*pose.py extract"):
        pose.read_pose(tmp_path / "gone.npz")
    path = pose.write_pose(tmp_path / "cut.npz", **a_clip())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot read pose file .*cut.npz"):
        pose.read_pose(path)
    np.savez(path, keypoints=np.zeros((1, 17, 2)))
    with pytest.raises(ValueError, match="cannot read pose file .*scores"):
        pose.read_pose(path)
    np.savez(path, **(a_clip() | dict(joints=np.array([object()] * 17))))
    with pytest.raises(ValueError, match="cannot read pose file .*allow_pickle"):
        pose.read_pose(path)
    with pytest.raises(ValueError, match="Expected .npz"):
        pose.write_pose(tmp_path / "x.npy", **a_clip())


def test_unknown_times_are_spread_over_the_clip():
    clip = pose.PoseClip(**(a_clip() | dict(times=[5.0, 5.5, 6.0, 6.5])))
    assert clip.clock(np.arange(9.0)).tolist() == [0, 0.5, 1, 1.5]
    clip.times = np.full(4, np.nan)
    assert clip.check("here").clock(np.array([0, 1, 2, 6.0])).tolist() == [0, 1, 2, 6]
    assert clip.clock(np.linspace(0, 3, 7)).tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------- heatmaps, drawing


@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9),
       st.floats(0.5, 4))
def test_heatmaps_equal_the_formula(seed, T, J, H, W, sigma):
    rng = np.random.default_rng(seed)
    points, scores = rng.random((T, J, 2)) * (W, H), rng.integers(0, 2, (T, J))
    maps = pose.gaussian_heatmaps(points, scores, (H, W), sigma)
    assert maps.shape == (T, J, H, W)
    for t, j, y, x in np.ndindex(maps.shape):
        away = (x - points[t, j, 0]) ** 2 + (y - points[t, j, 1]) ** 2
        expected = np.exp(-away / (2 * sigma ** 2)) * scores[t, j]
        assert abs(float(maps[t, j, y, x]) - expected) < 1e-5


def test_heatmaps_peak_at_the_joint_and_are_empty_without_it():
    maps = pose.gaussian_heatmaps([[[3, 2], [np.nan, np.nan]]], [[0.2, 0]], (5, 7), 2)
    assert maps[0, 0, 2, 3] == 1 == maps[0, 0].max() and maps[0, 1].abs().sum() == 0


def test_draw_skeleton_paints_seen_joints_only():
    image = Image.new("RGB", (100, 100))
    points, scores = np.zeros((17, 2)), np.zeros(17)
    points[5], points[6], points[7] = (80, 20), (20, 20), (80, 80)         # shoulders, left elbow
    scores[[5, 6]] = 1
    drawn = pose.draw_skeleton(image, points, scores, COCO)
    assert drawn.getpixel((80, 20)) == pose.SIDE_COLOURS["left"]
    assert drawn.getpixel((20, 20)) == pose.SIDE_COLOURS["right"]
    assert drawn.getpixel((50, 20)) != (0, 0, 0) and drawn.getpixel((80, 50)) == (0, 0, 0)
    assert image.getpixel((80, 20)) == (0, 0, 0)


# ---------------------------------------------------------------------------------- HRNet


GOLDEN = json.loads((ROOT / "tests" / "golden_hrnet.json").read_text())


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return pose.HRNet(8).eval()


@pytest.mark.parametrize("width", [32, 48])
def test_hrnet_has_the_published_keys(width):
    with torch.device("meta"):
        model = pose.HRNet(width)
    lines = [f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items()]
    golden = GOLDEN[f"w{width}"]
    assert set(golden["some"]) <= set(lines)
    assert len(lines) == golden["keys"]
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"]
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == golden["sha256_of_sorted_lines"]
    for part, count in golden["keys_per_part"].items():
        assert sum(line.startswith(part) for line in lines) == count, part


def test_hrnet_gives_quarter_size_heatmaps(narrow):
    with torch.inference_mode():
        assert narrow(torch.zeros(2, 3, 64, 32)).shape == (2, 17, 16, 8)
        assert pose.HRNet(8, 5).eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 5, 24, 24)


def test_hrnet_alone_equals_in_a_batch(narrow):
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(narrow(x)[1:2], narrow(x[1:2]), atol=1e-6)


def renamed(model, style):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if style == "module":
        return {f"module.{k}": v for k, v in state.items()}
    if style == "old":                             # before PyTorch 0.4.1 there were no counters
        return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if style.startswith("mmpose"):
        head = "keypoint_head." if style == "mmpose0" else "head."
        state = {(head if k.startswith("final_layer") else "backbone.") + k: v for k, v in state.items()}
        state |= {"data_preprocessor.mean": torch.zeros(3)} if style == "mmpose1" else {}
        return {"state_dict": state, "meta": {"epoch": 210, "array": np.arange(3), "log": Logged()}}
    return state


class Logged:
    """Stands for what mmengine stores beside the weights: a class that the reader does not know."""

    def __init__(self):
        self.history = [1.0, 2.0]


@pytest.mark.parametrize("style", ["official", "module", "old", "mmpose0", "mmpose1"])
def test_load_hrnet_reads_every_published_naming(tmp_path, narrow, style):
    torch.save(renamed(narrow, style), tmp_path / "hrnet_384x288.pth")
    loaded = pose.load_hrnet(tmp_path / "hrnet_384x288.pth")
    assert loaded.input_size == (384, 288) and not loaded.training
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(x), narrow(x))


def test_load_hrnet_accounts_for_every_key(tmp_path, narrow):
    path = tmp_path / "w.pth"
    state = narrow.state_dict()
    for change, fault in (({"extra": torch.zeros(1)}, "unexpected extra"),
                          ({"bn1.weight": None}, "missing bn1.weight"),
                          ({"bn1.weight": torch.zeros(3)}, r"bn1.weight is \(3,\), not \(64,\)"),
                          ({"final_layer.weight": None}, "no final_layer.weight")):
        torch.save({k: v for k, v in (state | change).items() if v is not None}, path)
        with pytest.raises(ValueError, match=fault):
            pose.load_hrnet(path)
    with pytest.raises(FileNotFoundError, match="Did you mean w32_256x192"):
        pose.load_hrnet("w32-256x192")
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="cannot read .* as a checkpoint"):
        pose.load_hrnet(path)


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_load_hrnet_runs_no_code(tmp_path, narrow):
    mark = tmp_path / "ran"
    torch.save({"state_dict": narrow.state_dict(), "meta": Evil(f"touch {mark}")}, tmp_path / "w.pth")
    try:
        pose.load_hrnet(tmp_path / "w.pth")       # read as inert, or refused: both are right
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


def test_load_hrnet_downloads_once_and_checks_the_hash(tmp_path, narrow, server, monkeypatch, capsys):
    address, folder = server
    torch.save(renamed(narrow, "mmpose1"), folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    good, bad = f"td-hm_256x192-{digest[:8]}_20220909.pth", "td-hm_256x192-00000000_20220909.pth"
    (folder / "net.pth").rename(folder / good)
    (folder / bad).write_bytes((folder / good).read_bytes())
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pose, "WEIGHTS", {"good": address + good, "bad": address + bad,
                                          "gone": address + "x-00000000_1.pth"})
    pose.load_hrnet("good")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [good]
    with pytest.raises(ValueError, match="SHA-256.*begins with 00000000.*by hand"):
        pose.load_hrnet("bad")
    with pytest.raises(ValueError, match="cannot download.*by hand"):
        pose.load_hrnet("gone")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [good]      # no half file, no bad file
    (folder / good).unlink()
    assert pose.load_hrnet("good").input_size == (256, 192)
    assert "MiB" in capsys.readouterr().err


def test_known_weights_carry_their_hash_in_the_name():
    for name, url in pose.WEIGHTS.items():
        assert re.search(r"-[0-9a-f]{8}_\d{8}\.pth$", url) and name[-7:] in url and name[:3] in url


# ---------------------------------------------------------------------------------- crop, decode


boxes_in_frame = st.tuples(st.floats(-40, 200), st.floats(-40, 160), st.floats(2, 300), st.floats(2, 300)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
FRAME = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


@given(boxes_in_frame, seeds)
def test_crop_equals_bilinear_reading(box, seed):
    """Against a pixel-wise transcription of the rule: centre to centre, one scale, black outside."""
    rng, (h, w) = np.random.default_rng(seed), (64, 48)
    crop = pose.crop_people([FRAME], torch.tensor([box]), (h, w))[0]
    crop = (crop * torch.tensor(pose.STD)[:, None, None] + torch.tensor(pose.MEAN)[:, None, None]).numpy()
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


@given(boxes_in_frame, st.floats(0.02, 0.97), st.floats(0.02, 0.97), st.sampled_from([(64, 48), (96, 72)]))
def test_decode_returns_a_planted_joint(box, fx, fy, size):
    """Crop, heatmap, decode, back to the frame: within half a heatmap pixel, for any box."""
    boxes, (h, w) = torch.tensor([box]), size
    (centre,), (width,) = pose.crop_rule(boxes, size)
    spot = torch.tensor([fx * (w - 1), fy * (h - 1)])
    joint = centre + (spot - torch.tensor([w, h]) / 2) * width / w
    maps = pose.gaussian_heatmaps(spot[None, None], torch.ones(1, 1), size, 2.0)
    found, score = pose.decode_heatmaps(maps, boxes)
    assert ((found[0, 0] - joint).abs() <= 0.5 * width / w + 1e-3).all() and score > 0.8


def test_decode_equals_the_published_steps():
    """Slow transcription: argmax, quarter pixel towards the higher neighbour, inverse affine."""
    torch.manual_seed(3)
    maps = torch.randn(2, 60, 16, 12)
    maps[0, 0] = -1.0
    boxes = torch.tensor([[10.0, 20, 70, 90], [5, 5, 50, 20]])
    found, scores = pose.decode_heatmaps(maps, boxes)
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
        maps = pose.predict_heatmaps(narrow, x, flip=True)
        plain = pose.predict_heatmaps(narrow, x, flip=False)
    mirrored = maps.flip(-1)[:, pose.JOINT_SETS["coco17"].flip_index]
    assert torch.allclose(maps[..., 1:], mirrored[..., :-1], atol=1e-5)     # about column w / 2
    assert not torch.allclose(plain[..., 1:], plain.flip(-1)[..., :-1], atol=1e-3)


def stick_figure(rng, size=(96, 80)):
    """A drawn person on a noisy ground -> image (H, W, 3), joints (17, 2)."""
    H, W = size
    x, y, s = W * rng.uniform(0.4, 0.6), H * rng.uniform(0.3, 0.4), H * rng.uniform(0.28, 0.36)
    shape = np.array([(0, -.55), (.07, -.62), (-.07, -.62), (.14, -.58), (-.14, -.58), (.26, -.3), (-.26, -.3),
                      (.45, 0), (-.45, 0), (.5, .3), (-.5, .3), (.17, .4), (-.17, .4), (.25, .8), (-.25, .8),
                      (.25, 1.2), (-.25, 1.2)])
    shape[7:11] += rng.normal(0, .12, (4, 2))
    shape[13:] += rng.normal(0, .1, (4, 2))
    joints = shape * s + (x, y)
    ground = Image.fromarray(rng.integers(0, 60, (H, W, 3), dtype=np.uint8))
    return np.asarray(pose.draw_skeleton(ground, joints, np.ones(17), COCO)), joints


def overfit(frames, steps, size=(128, 96)):
    """Train a narrow HRNet on a few frames through the file's own crop, target, flip and decode."""
    rng = np.random.default_rng(0)
    images, joints = zip(*[stick_figure(rng) for _ in range(frames)])
    boxes = torch.tensor(np.array([[*j.min(0) - 4, *j.max(0) + 4] for j in joints]), dtype=torch.float32)
    torch.manual_seed(0)
    model = pose.HRNet(8)
    model.input_size, heat = size, (size[0] // 4, size[1] // 4)
    crops = pose.crop_people(images, boxes, size)
    centres, widths = pose.crop_rule(boxes, size)
    spots = (torch.tensor(np.array(joints)) - centres[:, None]) / (widths / heat[1])[:, None, None]
    target = pose.gaussian_heatmaps(spots + torch.tensor([heat[1], heat[0]]) / 2, torch.ones(frames, 17), heat, 1.5)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        loss = (model(crops) - target).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found, scores = pose.predict(model.eval(), images, boxes, flip=False)
    joints = np.array(joints)
    torso = np.linalg.norm(joints[:, 5:7].mean(1) - joints[:, 11:13].mean(1), axis=-1)
    return (np.linalg.norm(found - joints, axis=-1) < 0.1 * torso[:, None]).mean()
