"""Settings that each make sense and together do not: refused before anything is read or built.

here                | what it refuses                               | tests/test_robustness.py
refuse_blind_towers | a tower that is to learn from what is not read | test_towers_that_would_*
refuse_too_much     | a batch of frames larger than the memory       | test_a_batch_beyond_*
"""
import math
import os


def refuse_blind_towers(data_cfg, model_cfg):
    """ValueError where a tower is to learn from what is not read: black frames, or no joints.

    The presets (tables/rows.py) read what the model looks at; a flag can undo that by mistake, and
    such a run would train without a word.
    """
    if model_cfg.model == "aim" and not data_cfg.read_video:
        raise ValueError("--no-read-video beside --model aim, which would see black. Expected its "
                         "frames to be read. Leave --no-read-video out.")
    if model_cfg.model not in ("pevl", "vilp"):   # the others have no towers to leave out
        return
    if model_cfg.video and not data_cfg.read_video:
        raise ValueError(f"--model {model_cfg.model} with its video tower, and frames are not read "
                         "(--no-read-video, or a --row without video): it would see black. "
                         "Expected both or neither. Add --read-video or --no-video.")
    if model_cfg.pose and not data_cfg.read_poses:
        raise ValueError(f"--model {model_cfg.model} with its pose tower, and poses are not read "
                         "(--no-read-poses, or a --row without poses): it would see nobody. "
                         "Expected both or neither. Add --read-poses or --no-pose.")


def refuse_too_much(cfg, data_cfg, processes):
    """ValueError where the frames of one batch are more than this machine's memory holds.

    processes: of the run, over all machines; each takes its share of the batch. Said before
    anything is allocated: a system that runs out of memory kills the process, or another one,
    without a reason that a person could read.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))     # of torchrun: the processes of a machine
    need = cfg.batch * here / processes * data_cfg.clip_bytes             # one byte a colour
    need *= 1 + 4 / cfg.accumulate                # and a part of the batch as float32
    memory = math.inf
    if hasattr(os, "sysconf"):                    # not on Windows
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > memory:
        raise ValueError(f"--batch {cfg.batch} with {data_cfg.video_frames} frames of "
                         f"{data_cfg.image_size} pixels needs {need / 2 ** 30:.0f} GiB for the "
                         f"frames alone. Expected less than this machine's {memory / 2 ** 30:.0f}. "
                         "Lower --batch, --video-frames or --image-size.")
