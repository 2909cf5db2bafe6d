"""The settings of a system: what is built, and which settings go together.

PeVL and its rivals share one dataclass, so that a checkpoint's config.json, the command line and a
row of the paper's Tables 4 to 9 all speak of the same fields. Nothing is computed here.

paper        | here         | tests/test_systems.py, or as named
Sec. 4.1     | PeVLConfig   | test_bad_settings_say_what_fits
Eq. (4)      | SIMILARITIES | test_pevl.py: test_losses_are_put_together_as_printed
Tables 4 - 9 | SWITCHES     | test_bad_settings_say_what_fits
"""
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from clip_model import BACKBONES
from support.checks import unknown_name
from support.settings import Range, check_fields

# The terms of Eq. (4): video with sentence, pose with sentence, frames of the pose with words.
SIMILARITIES = ("vs", "ps", "fw")

# What ablations turn, and which systems read it. To change a switch that a system does not read
# is refused: the run would be called an ablation and be none. (Whether the part that a switch
# belongs to is on is not asked: `--no-p2v --mask log` is the same as `--no-p2v`.)
SWITCHES = {
    "video": ("pevl", "vilp"),
    "pose": ("pevl", "vilp"),
    "text": ("pevl", "vilp"),
    "video_adapters": ("pevl",),
    "pose_adapters": ("pevl",),
    "text_adapters": ("pevl",),
    "p2v": ("pevl",),
    "v2p": ("pevl",),
    "sgl": ("pevl",),
    "sim": ("pevl",),
    "refinement": ("pevl",),
    "literal_mask": ("pevl",),
    "mask": ("pevl",),
    "p2v_kind": ("pevl",),
    "p2v_after": ("pevl",),
    "v2p_group": ("pevl",),
    "fusion": ("pevl",),
    "pose_input": ("pevl",),
    "all_tokens": ("vilp",),
    "gate_raw": ("vilp",),
}


def conflict(found, expected):
    """The ValueError for settings that do not go together: what was found, and what would."""
    return ValueError(f"{found}. Expected {expected}. Change the flag of that name.")


@dataclass(frozen=True)
class PeVLConfig:
    """What is built. The defaults are PeVL with ViT-B/16 (Sec. 4.1); an ablation overrides some.

    Each field is a flag of the command line (`--pose-frames`, `--no-p2v`), its text the help, and
    the section or table in it the source of the default.

    Raises ValueError where fields do not go together (`__post_init__`).
    """

    model: Annotated[Literal["pevl", "vilp", "aim", "clip"], "system to build"] = "pevl"
    backbone: Annotated[str, "CLIP backbone: " + ", ".join(BACKBONES)] = "ViT-B/16"
    clip: Annotated[str, "file of CLIP weights; '' fetches the published ones; 'random': none"] = ""
    pose_frames: Annotated[int, "pose frames T of a clip (Sec. 4.3: 48)", Range(1, 4096)] = 48
    video_frames: Annotated[int, "video frames Tv; divides pose_frames (Sec. 4.3: 16)",
                            Range(1, 4096)] = 16
    image_size: Annotated[int, "side of a frame in pixels (Sec. 4.1: 224)", Range(8, 2048)] = 224

    # Sec. 3.1: towers and their adapters.
    video: Annotated[bool, "use the video tower (Table 7)"] = True
    pose: Annotated[bool, "use the pose tower (Table 7)"] = True
    text: Annotated[bool, "compare with texts; off: linear head, cross-entropy (Table 7)"] = True
    video_adapters: Annotated[bool, "adapters in the video tower (Table 8)"] = True
    pose_adapters: Annotated[bool, "adapters in the pose tower (Table 8)"] = True
    text_adapters: Annotated[bool, "adapters in the text tower (Table 8)"] = True
    adapter_ratio: Annotated[float, "bottleneck of image adapters over the width (AIM)",
                             Range(0, 4, above=True)] = 0.25
    text_adapter_ratio: Annotated[float, "the same of text adapters (Table 7: 6 M; D2)",
                                  Range(0, 4, above=True)] = 0.5
    drop_path: Annotated[float, "stochastic depth of adapters, 0 to this over depth (AIM)",
                         Range(0, 0.99)] = 0.2

    # Sec. 3.2: UCMR. From literal_mask on: which reading of an equation or a sentence is built.
    p2v: Annotated[bool, "pose-adapted vision attention, Eq. (1) (Table 5)"] = True
    v2p: Annotated[bool, "video-enriched pose, Eq. (2) (Table 5)"] = True
    refinement: Annotated[bool, "refinement supervision, Eq. (3) (Table 5)"] = True
    literal_mask: Annotated[bool, "Eq. (1) as printed: background scores are 0 (D4)"] = False
    mask: Annotated[Literal["product", "log"],
                    "Eq. (1): scores times M, as printed, or scores + log M (D4)"] = "product"
    p2v_kind: Annotated[Literal["attention", "block"],
                        "P2V alone, or with the frozen MLP of a block of CLIP behind it (D30)"
                        ] = "attention"
    p2v_after: Annotated[int, "block of the video tower behind which P2V is; 0: last (D6)",
                         Range(0, 64)] = 0
    v2p_group: Annotated[bool, "Eq. (2) as a grouping: tokens compete for pixels (D31)"] = False

    # Sec. 3.3: SGMC.
    fusion: Annotated[Literal["similarities", "concat"],
                      "the terms of Eq. (4), or one similarity of concatenated clip features "
                      "(Table 4)"] = "similarities"
    sim: Annotated[tuple[str, ...], "terms of Eq. (4) that are averaged (Table 6)"] = SIMILARITIES
    tau_fw: Annotated[float, "temperature inside sim_fw and P-VCS; tiny: 0.1 and 1 (D10)",
                      Range(1e-4, 100)] = 0.01
    sgl: Annotated[bool, "strengths of Eq. (5); off: plain contrastive loss (Sec. 4.3.3)"] = True

    # Sec. 3.4: the objective.
    lambda_r: Annotated[float, "weight of the refinement loss (Sec. 4.1: 0.1)",
                        Range(0, 1000)] = 0.1
    own_loss: Annotated[float, "weight of Eq. (6) on each similarity alone; ours (D15)",
                        Range(0, 1000)] = 0.0

    # Rivals, and how it runs.
    pose_input: Annotated[Literal["coordinates", "heatmaps"], "of joints: Table 9"] = "coordinates"
    tune: Annotated[Literal["adapters", "all"],
                    "what is new to CLIP (ViLP: and the image towers), or all of CLIP too"
                    ] = "adapters"
    all_tokens: Annotated[bool, "ViLP: all 77 tokens vote, padding too, as its code (D32)"] = False
    gate_raw: Annotated[bool, "ViLP: gate before the pose feature is normalised (D25)"] = False
    grad_checkpointing: Annotated[bool, "recompute blocks in backward: less memory"] = False

    def __post_init__(self):
        # First each field by itself, then what has to fit together.
        check_fields(self)
        if self.backbone not in BACKBONES:
            raise unknown_name("backbone", self.backbone, BACKBONES)
        for name in self.sim:
            if name not in SIMILARITIES:
                raise unknown_name("similarity", name, SIMILARITIES)
        if len(set(self.sim)) < len(self.sim):
            raise conflict(f"sim={','.join(self.sim)}", "each similarity once")

        # A video frame is the middle of a group of T / Tv pose frames: groups must come out even.
        T, Tv = self.pose_frames, self.video_frames
        if T % Tv != 0:
            raise conflict(f"pose_frames={T}", f"a multiple of video_frames={Tv}")

        self.check_sizes()
        self.refuse_unread_switches()

        if not self.video and not self.pose:
            raise conflict("video and pose are off", "at least one on")

        # With a projection (Table 4) or a linear head (Table 7) Eq. (4) is not asked for.
        compares = self.text and self.fusion == "similarities"
        if compares and not self.usable_similarities():
            raise conflict(
                f"sim={','.join(self.sim)} and video={self.video}, pose={self.pose}",
                "vs with video, ps or fw with pose")

        # log 0 leaves background out by itself, so that it has no score of 0 as in Eq. (1).
        if self.literal_mask and self.mask == "log":
            raise conflict("literal_mask and mask=log", "literal_mask with mask=product")

        # Blocks are counted from 1; 0 is the last, so that nobody needs to know the depth.
        depth = BACKBONES[self.backbone].vision_layers
        if self.p2v_after > depth:
            raise conflict(f"p2v_after={self.p2v_after}",
                           f"1 to {depth}, the blocks of {self.backbone}, or 0 for the last")

        # P2V must know in which patch a joint lies, and a token of heatmaps is no joint.
        if self.video and self.pose_input == "heatmaps":
            raise conflict("pose_input=heatmaps and video",
                           "heatmaps with --no-video, as in Table 9")

        # These run CLIP's blocks as they are; only AdaptedTower.run can recompute.
        if self.grad_checkpointing and self.model in ("vilp", "clip"):
            raise conflict(f"grad_checkpointing and model={self.model}",
                           "pevl or aim, whose blocks are recomputed")

    def check_sizes(self):
        """ValueError where a picture is not whole patches, or a bottleneck has nothing in it.

        Both depend on the backbone, so that no range of a field alone can say them.
        """
        sizes = BACKBONES[self.backbone]
        if self.image_size % sizes.patch_size != 0:
            raise conflict(f"image_size={self.image_size} and backbone={self.backbone}",
                           f"a multiple of its patches of {sizes.patch_size} pixels")

        ratios = (("adapter_ratio", sizes.vision_width), ("text_adapter_ratio", sizes.text_width))
        for name, width in ratios:
            if int(getattr(self, name) * width) < 1:
                least = math.ceil(1e4 / width) / 1e4          # rounded up: what is named must fit
                raise conflict(f"{name}={getattr(self, name)} and a width of {width}",
                               f"a bottleneck of one or more, {least:g} at least")

    def refuse_unread_switches(self):
        """ValueError where a switch is off its default that this model does not read."""
        # The class holds the defaults of a dataclass: what differs from them was asked for.
        read = []
        changed_in_vain = []
        for name, readers in SWITCHES.items():
            if self.model in readers:
                read.append(name)
            elif getattr(self, name) != getattr(PeVLConfig, name):
                changed_in_vain.append(name)

        if changed_in_vain:
            known = ", ".join(read) or "none of these switches"
            raise conflict(
                f"model={self.model} beside {', '.join(changed_in_vain)}, which it does not read",
                f"only what it reads: {known}")

    def usable_similarities(self):
        """The terms of `sim` whose tower is on: "vs" compares the video, "ps" and "fw" the pose."""
        usable = []
        for name in self.sim:
            tower_is_on = self.video if name == "vs" else self.pose
            if tower_is_on:
                usable.append(name)
        return usable
