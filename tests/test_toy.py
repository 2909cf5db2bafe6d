"""toy/: pictures show what poses, labels and captions say; making them can be interrupted."""
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pose import joint_set, read_pose
from toy import show, tree
from toy.captions import (
    LABEL,
    PARTS,
    TOY_ATTRIBUTES,
    TOY_HELD_OUT_STILLS,
    TOY_PHRASES,
    TOY_WORDS,
    WAYS,
    toy_captions,
    toy_paraphrase,
    toy_parts,
    toy_still,
    toy_vector,
)
from toy.divers import PEOPLE, STILLS, THINGS, TOY_CLASSES, TOY_JOINTS, Dive
from toy.picture import LIMBS, SS, H, Picture, W, toy_frame

SMALL = {"train": 16, "val": 4, "test": 4, "frames": 6, "fps": 3}
CLEAN = {**tree.TOY_SETTINGS, "cut": 0, "joint_noise": 0, "joint_drop": 0, "joint_jump": 0, "frame_drop": 0,
         "legs_lost": 0, "sides_swapped": 0, "wrong_person": 0}
TIMES = np.arange(32) / 16


def dive_of(label, number=0, split="train"):
    return tree.toy_dive(tree.TOY_SETTINGS, split, label, number)


def detected(dive, settings=tree.TOY_SETTINGS):
    """Keypoints (32, 17, 2) and scores of a dive, as the pose file has them."""
    centres, points = dive.seen(tree.toy_times(dive, settings))
    return tree.toy_poses(dive, centres, points[:, :17], settings)


def decoded(path):
    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def fingerprint(root):
    """One hash of all poses (bytes) and all frames (decoded)."""
    digest = hashlib.sha256()
    for path in sorted(root.glob("poses/*.npz")):
        digest.update(path.read_bytes() + decoded(root / "rgb" / (path.stem + ".mp4")).tobytes())
    return digest.hexdigest()


def here(root, shares, total, progress, lock):
    """run_workers in this process, to save starting some."""
    for first in range(shares):
        tree.run_worker(root, first, shares)


def quiet(line):
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy") / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "run_workers", here)
        assert tree.make_toy(root, SMALL, workers=3, progress=quiet) > 0
    return root


def test_layout_is_diving48s(made):
    vocab = json.loads((made / "Diving48_vocab.json").read_text())
    assert len(vocab) == 16 and all(len(tokens) == 5 for tokens in vocab)
    assert vocab[0][4] == "Balls"
    names = []
    for split in ("train", "val", "test"):
        rows = json.loads((made / f"Diving48_V2_{split}.json").read_text())
        assert len(rows) == SMALL[split]
        for row in rows:
            assert set(row) == {"vid_name", "label", "start_frame", "end_frame"}
            names.append(row["vid_name"])
            clip = read_pose(made / "poses" / (row["vid_name"] + ".npz"))
            assert clip.keypoints.shape == (6, 17, 2) and clip.size == (96, 128)
            assert clip.joints == joint_set(clip.joints).names and len(clip.joints) == 17
            frames = decoded(made / "rgb" / (row["vid_name"] + ".mp4"))
            assert frames.shape == (6, 96, 128, 3) and row["end_frame"] == 6
    assert len(set(names)) == 24 and not list(made.rglob("*.part"))


def test_same_bytes_from_another_number_of_processes_and_after_a_cut(made, tmp_path, monkeypatch):
    root, told = tmp_path / "again", []
    tree.make_toy(root, SMALL, workers=2, progress=told.append)
    assert fingerprint(root) == fingerprint(made) and any("24/24 clips" in line for line in told)
    monkeypatch.setattr(tree, "run_workers", here)
    note = json.loads((root / "toy.json").read_text())
    (root / "toy.json").write_text(json.dumps({**note, "complete": False}))   # as after a kill
    (root / "rgb" / ".part.toy_train_00000.mp4").write_bytes(b"half")
    kept = root / "poses" / "toy_train_00001.npz"
    (root / "poses" / "toy_train_00000.npz").unlink()
    (root / "rgb" / "toy_train_00000.mp4").write_bytes(b"half")
    before = kept.stat().st_mtime_ns
    tree.make_toy(root, SMALL, workers=1, progress=told.append)
    assert fingerprint(root) == fingerprint(made) and kept.stat().st_mtime_ns == before
    assert not list(root.rglob("*.part"))


def maker(root, settings, **pipes):
    """A process that makes a benchmark and prints the seconds: no `if __name__`, a bare script."""
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from toy.tree import make_toy; "
            f"print(make_toy(sys.argv[2], {settings!r}, workers=2))")
    argv = [sys.executable, "-u", "-c", code, str(tree.PROJECT), str(root)]
    return subprocess.Popen(argv, text=True, **pipes)


def clips_in(root):
    return len(list(root.glob("poses/*.npz")))


def wait_for(condition, seconds=30):
    """Whether the condition comes true in time."""
    end = time.time() + seconds
    while not condition() and time.time() < end:
        time.sleep(.02)
    return condition()


def lock_is_free(root):
    with open(root / tree.LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_killed_run_leaves_no_workers_and_whole_clips(tmp_path):
    """After a SIGKILL the workers end by themselves, quietly; the lock says so, as they hold it."""
    root = tmp_path / "cut"
    settings = {"train": 400, "val": 0, "test": 0, "frames": 2}
    with open(tmp_path / "said", "w") as said:
        job = maker(root, settings, stdout=said, stderr=said)
        assert wait_for(lambda: clips_in(root) >= 3) and not lock_is_free(root)
        job.kill()
        job.wait()
    assert wait_for(lambda: lock_is_free(root), seconds=10), "workers outlived their parent"
    done = clips_in(root)
    time.sleep(.5)
    assert 3 <= done < 400 and clips_in(root) == done                         # no orphan goes on
    assert (tmp_path / "said").read_text() == ""
    assert not json.loads((root / "toy.json").read_text())["complete"]
    for path in root.glob("poses/*.npz"):
        read_pose(path)


@pytest.mark.parametrize("seed", [0, 1])
def test_two_makers_of_a_folder_wait_for_each_other(tmp_path, seed):
    """The second finds all clips made; if it wants others, it replaces them after the first."""
    root, settings = tmp_path / "both", {"train": 20, "val": 0, "test": 0, "frames": 2}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    first = maker(root, settings, **pipes)
    assert wait_for(lambda: clips_in(root) > 0)
    first.send_signal(signal.SIGSTOP)                         # so that it cannot end too soon
    second = maker(root, {**settings, "seed": seed}, **pipes)
    told = second.stdout.readline()
    first.send_signal(signal.SIGCONT)
    assert "waiting for another process" in told
    ours, theirs = first.communicate()[0], second.communicate()[0]
    assert first.returncode == second.returncode == 0, (ours, theirs)
    assert "waiting" not in ours and float(ours.split()[-1]) > 0
    assert (float(theirs.split()[-1]) > 0) == (seed == 1)
    note = json.loads((root / "toy.json").read_text())
    assert note["complete"] and note["settings"]["seed"] == seed
    assert clips_in(root) == 20 and not list(root.rglob(".part.*"))


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch):
    """Some network file systems know no locks: the benchmark is made all the same."""
    def refuse(file, how):
        raise OSError(37, "No locks available")
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(tree, "run_workers", here)
    told = []
    tree.make_toy(tmp_path / "x", {**SMALL, "train": 1, "val": 0, "test": 0}, progress=told.append)
    assert clips_in(tmp_path / "x") == 1 and "No locks available" in told[0]


def test_workers_run_no_code_of_the_current_folder(tmp_path, monkeypatch):
    """A folder one stands in may hold anything; of `python -c` it is the first on the path."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in ("hashlib", "json", "numpy", "av", "linecache", "toy", "support"):
        (folder / f"{name}.py").write_text("open(__file__ + '.ran', 'w'); raise SystemExit(1)")
    monkeypatch.chdir(folder)
    settings = {**SMALL, "train": 2, "val": 0, "test": 0}
    tree.make_toy("relative", settings, workers=2, progress=quiet)
    assert not list(folder.glob("*.ran")) and clips_in(folder / "relative") == 2


def test_workers_start_without_torch():
    code = "import sys, toy.tree; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tree.PROJECT).returncode == 0


def test_made_again_only_when_settings_change(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "run_workers", here)
    settings, told = {**SMALL, "train": 2, "val": 1, "test": 1}, []
    root = tmp_path / "settings"
    tree.make_toy(root, settings, workers=1, progress=told.append)
    stamp = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    (root / "mine.txt").write_text("a foreign file")
    assert tree.make_toy(root, settings, workers=1, progress=told.append) == 0.0
    assert all(p.stat().st_mtime_ns == t for p, t in stamp.items())
    first = fingerprint(root)
    settings = {**settings, "seed": 1, "train": 1}
    assert tree.make_toy(root, settings, workers=1, progress=told.append) > 0
    assert fingerprint(root) != first and any("settings changed" in line for line in told)
    assert not (root / "rgb" / "toy_train_00001.mp4").exists() and (root / "mine.txt").exists()


@pytest.mark.parametrize("name, text", [("Diving48_vocab.json", "[]"), ("rgb/mine.mp4", "video"),
                                        ("toy.json", "{"), ("toy.json", '{"hash": "other"}')])
def test_other_data_is_never_overwritten(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(ValueError, match="no valid toy.json. Expected.*Give another --root"):
        tree.make_toy(tmp_path, SMALL)
    assert path.read_text() == text and not list(tmp_path.rglob("*.npz"))


def test_a_failing_worker_is_reported(tmp_path, capfd):
    settings = {**SMALL, "train": 2, "val": 0, "test": 0, "fps": 0}
    with pytest.raises(OSError, match="stopped at clip 0 of 2. Expected.*Run the command again"):
        tree.make_toy(tmp_path / "x", settings, workers=1)
    assert "Traceback" in capfd.readouterr().err


def test_files_get_their_names_when_whole_and_on_disk(tmp_path, monkeypatch):
    """The bytes are on disk before they get the name; a full disk leaves the old file."""
    path, calls = tmp_path / "a.json", []
    tree.write(path, [1, 2])
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("name"), replace(*names)))
    tree.write(path, b"3")
    assert calls == ["fsync", "name"] and path.read_bytes() == b"3"

    def full(file):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        tree.write(path, b"4")
    assert path.read_bytes() == b"3" and list(tmp_path.iterdir()) == [path]
    path.unlink()                                             # a part alone is no one's data, nor
    (tmp_path / ".part.toy.json").write_bytes(b"ha")          # is the lock of a run that was cut
    (tmp_path / tree.LOCK).touch()
    assert tree.read_note(tmp_path) == {}


def test_settings_keep_the_hash_of_made_benchmarks():
    text = json.dumps(tree.TOY_SETTINGS, sort_keys=True).encode()
    assert hashlib.sha256(text).hexdigest().startswith("62ab23c0c7887fc5")


def test_what_models_without_order_or_pictures_can_tell_apart():
    """What docs/toy.md says: 12 / 16 by poses; 12 / 16 by pictures in no order if the thing is known,
    and six groups if it is not."""
    facing = {c: c[0] in ("Forward", "Reverse") for c in TOY_CLASSES}
    assert len({c[:4] for c in TOY_CLASSES}) == 12
    assert len({(*c[3:], facing[c]) for c in TOY_CLASSES}) == 12
    for a, b in ((0, 8), (2, 9), (5, 10), (6, 11)):           # these differ in the direction alone
        assert TOY_CLASSES[a][1:] == TOY_CLASSES[b][1:]
        assert facing[TOY_CLASSES[a]] == facing[TOY_CLASSES[b]] and TOY_CLASSES[a] != TOY_CLASSES[b]
    assert len({(c[3], facing[c]) for c in TOY_CLASSES}) == 6
    things = Counter(c[4] for c in TOY_CLASSES)
    assert set(things) == set(THINGS) and set(things.values()) == {4}     # a thing alone tells little


def test_labels_are_balanced_and_pairs_differ_in_the_thing_alone():
    counts = Counter((split, label) for split, _, label, _ in tree.toy_plan(tree.TOY_SETTINGS))
    assert [counts[s, 3] for s in ("train", "val", "test")] == [110, 15, 20]
    for split in PEOPLE:
        assert len({counts[split, k] for k in range(16)}) == 1
    assert len(set(TOY_CLASSES)) == 16
    for k in range(0, 8, 2):
        assert TOY_CLASSES[k][:4] == TOY_CLASSES[k + 1][:4] and TOY_CLASSES[k] != TOY_CLASSES[k + 1]
        first, second = dive_of(k, 5), dive_of(k + 1, 5)      # the same seed: the very same poses
        for a, b in zip(detected(first), detected(second)):
            assert np.array_equal(a, b)


def test_identities_of_the_splits_are_disjoint():
    spans = sorted(PEOPLE.values())
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])) and spans[-1][1] <= STILLS
    a, b = toy_still(7)[0], toy_still(7 + TOY_HELD_OUT_STILLS)[0]
    assert a.shape == (96, 128, 3) and a.dtype == np.uint8 and not np.array_equal(a, b)
    assert np.array_equal(a, toy_still(7)[0])


def drawn_body(dive, t, centre, points):
    """Pixels (96, 128) that the diver covers, drawn alone on white."""
    picture, image = Picture(dive, t, centre), Image.new("RGB", (W, H), "white")
    picture.draw = ImageDraw.Draw(image)
    picture.body(points)
    return (np.asarray(image.reduce(SS)) < 250).any(-1)


@pytest.mark.parametrize("label", [0, 3, 4, 7, 9, 13])
def test_joints_lie_on_the_drawn_body(label):
    dive = dive_of(label, label)
    centres, points = dive.seen(TIMES)
    keypoints, scores = detected(dive, CLEAN)
    inside = total = 0
    for i in range(0, 32, 3):
        body = drawn_body(dive, TIMES[i], centres[i], points[i])
        for x, y in np.rint(keypoints[i]).astype(int):
            if 0 <= x < 128 and 0 <= y < 96:
                total += 1
                inside += bool(body[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].any())
        assert body.mean() < .2
        for start, end, *_ in LIMBS:                          # and so does the middle of each limb
            for x, y in np.rint((points[i, start, :2] + points[i, end, :2]) / 2 - .5).astype(int):
                if 1 <= x < 127 and 1 <= y < 95:
                    total, inside = total + 1, inside + body[y - 1:y + 2, x - 1:x + 2].any()
    assert inside == total > 150 and (scores > 0).all()


def test_limbs_keep_their_lengths_and_divers_do_their_dive():
    for label in range(16):
        dive = dive_of(label, label)
        joints = dive.joints(np.arange(200) / 100)
        for a, b in ((5, 7), (7, 9), (13, 15), (11, 13), (5, 6), (11, 12)):
            length = np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)
            assert np.ptp(length) < .02 * length.mean()
        before = np.arange(200) / 100 < dive.t_off
        assert joints[before, :19, 1].min() > -.05            # above the board before the jump
        spine = joints[:, 5:7].mean(1) - joints[:, 11:13].mean(1)
        turned = np.unwrap(np.arctan2(spine[:, 1], spine[:, 0]))
        off, entry = int(dive.t_off * 100), int((dive.t_off + dive.t_air) * 100) + 1
        turns = (turned[entry] - turned[off]) / (2 * np.pi)
        assert abs(turns - dive.turn * dive.somersaults) < .06
        assert joints[entry, 9, 1] < joints[entry, 15, 1]     # hands first


def test_noise_is_a_detectors():
    settings = {**tree.TOY_SETTINGS, "legs_lost": 0, "sides_swapped": 0, "wrong_person": 0}
    errors, missing = [], []
    for k in range(32):
        dive = dive_of(k % 16, k)
        points = dive.seen(tree.toy_times(dive, settings))[1][:, :17]
        keypoints, scores = detected(dive, settings)
        seen = scores > 0
        errors.append(np.linalg.norm(keypoints - (points[..., :2] - .5), axis=-1)[seen])
        missing.append(1 - seen.mean())
        assert (keypoints[~seen] == 0).all() and scores.max() <= 1 and scores[seen].min() >= .05
    errors = np.concatenate(errors)
    assert .4 < np.median(errors) < 2 and .01 < (errors > 6).mean() < .15
    assert .03 < np.mean(missing) < .12


def faulty(fault):
    """Dives with a fault alone, always: (dive, clean joints, keypoints, scores) of each."""
    for k in range(16):
        dive = dive_of(k, k)
        yield (dive, *detected(dive, CLEAN)[:1], *detected(dive, {**CLEAN, fault: 1}))


def one_stretch(frames):
    """Whether the true entries of (n,) bool are neighbours, 5 to 10 of them or up to the end."""
    found = np.flatnonzero(frames)
    return (np.diff(found) == 1).all() and (5 <= len(found) <= 10 or found[-1] == len(frames) - 1)


def test_legs_are_lost_in_the_air():
    for dive, clean, keypoints, scores in faulty("legs_lost"):
        lost = (scores[:, 13:17] == 0).all(1)
        assert one_stretch(lost) and (scores[:, :13] > 0).all()
        assert (scores[~lost] > 0).all() and np.array_equal(keypoints[~lost], clean[~lost])
        begins = TIMES[np.flatnonzero(lost)[0]]
        assert dive.t_off - 1 / 16 <= begins <= dive.t_off + .5 * dive.t_air


def test_left_and_right_change_places_for_a_stretch():
    mirror = list(joint_set(TOY_JOINTS).flip_index)
    for _, clean, keypoints, _ in faulty("sides_swapped"):
        changed = (keypoints != clean).any((1, 2))
        assert one_stretch(changed)
        assert np.array_equal(keypoints[changed], clean[changed][:, mirror])


def test_clips_begin_at_different_moments_of_a_dive():
    starts = [tree.toy_times(dive_of(k % 16, k), tree.TOY_SETTINGS)[0] for k in range(64)]
    assert min(starts) < -.2 and max(starts) > .2 and max(map(abs, starts)) <= .25
    times = tree.toy_times(dive_of(0), tree.TOY_SETTINGS)
    assert np.allclose(np.diff(times), 1 / 16) and len(times) == 32


def test_a_spectator_is_taken_for_the_diver_and_is_in_the_picture():
    seen = 0
    for dive, clean, keypoints, scores in faulty("wrong_person"):
        wrong = (np.abs(keypoints - clean) > 1e-6).any((1, 2))
        assert (scores > 0).all()                             # the detector is sure of it
        if not wrong.any():                                   # no spectator is in sight
            continue
        seen += 1
        assert one_stretch(wrong)
        people = [c for c in dive.clutter if c.shape == "spectator"]
        centres, _ = dive.seen(TIMES)
        near = [np.abs(dive.behind(c, centres) - .5 - keypoints[:, 5:7].mean(1))[wrong].max()
                for c in people]
        assert min(near) < .02, "the joints are those of no spectator"
    assert seen > 8


def test_stills_have_no_doubles_and_clips_have():
    for k in range(8):
        dive = dive_of(k, k)
        things = Counter(c.thing for c in dive.clutter)
        assert sum(things[name] > 0 for name in THINGS) >= 3, "one kind is all around"
        assert sum(things[name] for name in THINGS) >= 24
        assert "spectator" in {c.shape for c in dive.clutter}
        still = Dive(TOY_CLASSES[k], dive.seed, diver=5, scene=5, camera=5, crowded=False)
        assert not any(c.thing for c in still.clutter)


def test_parts_lie_where_the_body_is_drawn():
    for k in range(0, 16, 3):
        dive = dive_of(k, k)
        centres, points = dive.seen(TIMES)
        for i in (4, 14, 18):
            body = drawn_body(dive, TIMES[i], centres[i], points[i])
            places, numbers = toy_parts(points[i, :, :2], dive.thing.lower())
            assert {PARTS[n] for n in numbers} == {*list(PARTS)[:7], dive.thing.lower()}
            for x, y in np.rint(places - .5).astype(int):
                if 1 <= x < 127 and 1 <= y < 95:
                    assert body[y - 1:y + 2, x - 1:x + 2].any()


def test_the_apparatus_is_seen_early():
    for label in range(0, 16, 3):
        dive = dive_of(label, 3 * label)
        blank = dive_of(label, 3 * label)
        blank.board_rgb = blank.post_rgb = (255.0, 0.0, 255.0)
        centres, points = dive.seen(TIMES[:8])
        for i in range(8):
            a, b = (toy_frame(d, TIMES[i], centres[i], points[i]).astype(int)
                    for d in (dive, blank))
            changed = np.abs(a - b).sum(-1) > 30
            assert changed[:, 24:104].sum() > 60, (label, i)


def test_captions_are_true_and_say_what_they_mention():
    rng, words = np.random.default_rng(0), set(TOY_WORDS)
    seen = {name: Counter() for name in TOY_ATTRIBUTES}
    for seed in range(120):
        attributes = toy_still(seed)[1]
        vector = toy_vector(attributes)
        for name, value in attributes.items():
            seen[name][value] += 1
        for _ in range(4):
            text, mask = toy_captions(attributes, rng)
            assert mask.shape == vector.shape and mask.any() and (vector[mask] > 0).all()
            assert set(text.lower().replace(",", " ").split()) <= words
            said = {name for name, m in zip(TOY_ATTRIBUTES, mask) if m}
            for name in TOY_ATTRIBUTES:                       # said: one of the ways; unsaid: none
                parts = [p.lower() for p in text.split(", ")]
                ways = {w for value in TOY_PHRASES[name].values() for w in value}
                told = [p for p in parts if p in ways]
                assert (len(told) == 1) == (name in said)
                assert all(p in TOY_PHRASES[name][attributes[name]] for p in told)
    for name in ("thing", "position"):
        assert seen[name][""] < 90 and min(seen[name][value] for value in TOY_PHRASES[name]) > 6
    assert len(set(WAYS)) == len(WAYS)                        # no phrase means two things


def test_paraphrases_say_the_same_facts_twice():
    rng, counts = np.random.default_rng(0), np.zeros((5, 5), int)
    for _ in range(300):
        *texts, facts = toy_paraphrase(rng)
        assert facts.shape == (5,) and facts.any()
        assert texts[0][0] in "FBRIDNTPHC1"                   # capital or digit
        for text in texts:
            parts = [part.lower() for part in text.split(", ")]
            for name, fact in zip(LABEL, facts):
                ways = {way: value for value, ways in TOY_PHRASES[name].items() for way in ways}
                said = [ways[part] for part in parts if part in ways]
                assert said == [TOY_ATTRIBUTES[name][fact]] * int(fact > 0)
        counts[np.arange(5), facts] += 1
    assert all((counts[i, :len(TOY_ATTRIBUTES[name])] > 20).all() for i, name in enumerate(LABEL))


def test_what_a_still_shows_agrees_with_the_body():
    for seed in range(40):
        attributes = toy_still(seed)[1]
        if attributes["stage"] == "board":
            assert attributes["position"] == "" and attributes["head"] in ("up", "")
            assert attributes["apparatus"] != "none" and attributes["facing"]
        if attributes["stage"] == "entry":
            assert attributes["water"] != "dry" and attributes["head"] in ("down", "")


def test_the_sheet_shows_the_clips_and_their_joints(tmp_path, capsys):
    path = tmp_path / "new" / "sheet.png"
    assert show.main(["--out", str(path), "--clips", "2", "--first", "5"]) == 0
    image = np.asarray(Image.open(path))
    assert image.shape == (2 * (96 + show.LINE), 8 * 128, 3)
    bare = np.asarray(show.sheet(2, 5, settings={**tree.TOY_SETTINGS, "frame_drop": 1}))
    dive = dive_of(5, 5)
    times = tree.toy_times(dive, tree.TOY_SETTINGS)
    centres, points = dive.seen(times)
    frame = toy_frame(dive, times[2], centres[2], points[2])
    assert np.array_equal(bare[show.LINE:show.LINE + 96, :128], frame), "not the clip's frame"
    assert not np.array_equal(image[show.LINE:show.LINE + 96], bare[show.LINE:show.LINE + 96])
    for flags in (["--clips", "0"], ["--first", "-1"], ["--clips", "501"], ["--first", "1755"]):
        assert show.main(["--out", str(tmp_path / "no.png"), *flags]) == 2
        assert "Expected 1 to 500 clips" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
