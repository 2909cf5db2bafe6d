"""HRNet in raw PyTorch: the network that finds the joints where a data set has none (Sec. 4.1).

A top-down pose network: it is given a crop around one person and answers with one heatmap for each
joint. Its branches of 1/4, 1/8, 1/16 and 1/32 of the crop's resolution run side by side, and
exchange their maps again and again, so that the fine branch never loses its resolution (Sun et
al., CVPR 2019). Modules are named as in the published checkpoints, so that these load unchanged.

paper section  | what                            | here                   | test_hrnet.py
PeVL Sec. 4.1  | the network                     | HRNet                  | test_hrnet_*
               | the same, faster, for reading   | fold_norms             | test_folded_norms_*
               | published weights, read safely  | load_hrnet, WEIGHTS    | test_load_hrnet_*
               | frame -> crop                   | crop_rule, crop_people | test_crop_*
               | heatmaps -> joints in the frame | decode_heatmaps        | test_decode_*
               | flip test                       | predict_heatmaps       | test_flip_test_*
               | frames, boxes -> joints, scores | predict                | test_extract.py

Letters: N crops (one person each), J joints, (h, w) the size of a crop or of a heatmap, (H, W) that
of a frame. A point is (x, y) in pixels, (0, 0) the centre of the top left pixel. A box is
x0, y0, x1, y1. This file knows neither pose files nor videos.
"""
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from published.download import download
from support.checks import unknown_name
from support.files import most_unpacked, tensor_bomb, zip_bomb
from support.shapes import misfit

# ---- The network -------------------------------------------------------------------------------


def conv_bn(c_in, c_out, kernel, stride=1, relu=True):
    """Convolution without bias, batch norm and, unless `relu` is false, ReLU.

    A padding of half the (odd) kernel keeps the resolution; `stride` 2 halves it.
    """
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(c_out)]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """relu(x + convolutions(x)), the block that ResNet is made of.

    kernels: (3, 3) makes ResNet's basic block, (1, 3, 1) its bottleneck; all convolutions but the
    last have `c_mid` outputs.

    x (N, c_in, h, w) -> (N, c_out, h, w).
    """

    def __init__(self, c_in, c_mid, c_out, kernels):
        super().__init__()
        self.depth = len(kernels)

        c_before = c_in
        for i, kernel in enumerate(kernels, start=1):
            c_after = c_mid if i < self.depth else c_out
            conv, bn, _ = conv_bn(c_before, c_after, kernel)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", bn)
            c_before = c_after

        # The sum needs equal widths.
        if c_in == c_out:
            self.downsample = nn.Identity()
        else:
            self.downsample = conv_bn(c_in, c_out, kernel=1, relu=False)

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            conv = getattr(self, f"conv{i}")
            bn = getattr(self, f"bn{i}")
            y = bn(conv(y))
            if i < self.depth:                    # the last ReLU comes after the sum
                y = F.relu(y, inplace=True)       # in place: nobody else has this y
        return F.relu(y + self.downsample(x), inplace=True)


class Exchange(nn.Module):
    """One module of HRNet: every branch is worked on alone, then all branches are mixed.

    widths: channels of the branches, the finest first; branch b has 1 / 2^b of the resolution of
    branch 0. outputs: how many of the branches are given on. Output i is the ReLU of the sum of all
    branches, each brought to the resolution and width of branch i.

    List of (N, widths[b], h / 2^b, w / 2^b) -> the same for the first `outputs` branches.
    """

    def __init__(self, widths, outputs):
        super().__init__()
        self.branches = nn.ModuleList()
        for width in widths:
            blocks = [Residual(width, width, width, kernels=(3, 3)) for _ in range(4)]
            self.branches.append(nn.Sequential(*blocks))

        self.fuse_layers = nn.ModuleList()
        for i in range(outputs):
            row = [self._path(widths, i, j) for j in range(len(widths))]
            self.fuse_layers.append(nn.ModuleList(row))

    @staticmethod
    def _path(widths, i, j):
        """The module that leads from branch j to the resolution and width of branch i."""
        if j == i:
            return nn.Identity()
        if j > i:
            thin = conv_bn(widths[j], widths[i], kernel=1, relu=False)
            enlarge = nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")
            return nn.Sequential(*thin, enlarge)

        # From fine to coarse each convolution halves the resolution; the last sets the width.
        steps = []
        for _ in range(i - j - 1):
            steps.append(conv_bn(widths[j], widths[j], kernel=3, stride=2))
        steps.append(conv_bn(widths[j], widths[i], kernel=3, stride=2, relu=False))
        return nn.Sequential(*steps)

    def forward(self, xs):
        ys = [branch(x) for branch, x in zip(self.branches, xs)]

        mixed = []
        for row in self.fuse_layers:
            total = row[0](ys[0])
            for path, y in zip(row[1:], ys[1:]):
                total = total + path(y)
            mixed.append(F.relu(total, inplace=True))
        return mixed


class HRNet(nn.Module):
    """The whole network; `width` 32 and 48 are published as HRNet-W32 and HRNet-W48.

    Crops (N, 3, h, w) float, RGB, normalised by MEAN and STD, h and w multiples of 32
    -> heatmaps (N, J, h/4, w/4), unbounded; trained towards a Gaussian of height 1 at the joint.

    input_size: (h, w) of the crops the weights were trained on; `load_hrnet` sets it.
    """

    def __init__(self, width=32, joints=17):
        super().__init__()
        self.input_size = (256, 192)
        c = [width, 2 * width, 4 * width, 8 * width]                       # of the four branches
        same = nn.Identity()

        # The stem: down to a quarter of the resolution.
        self.conv1, self.bn1 = conv_bn(3, 64, kernel=3, stride=2, relu=False)
        self.conv2, self.bn2 = conv_bn(64, 64, kernel=3, stride=2, relu=False)
        self.layer1 = nn.Sequential(
            Residual(64, 64, 256, kernels=(1, 3, 1)),
            Residual(256, 64, 256, kernels=(1, 3, 1)),
            Residual(256, 64, 256, kernels=(1, 3, 1)),
            Residual(256, 64, 256, kernels=(1, 3, 1)),
        )

        # What makes a new branch out of the coarsest one so far, before stages 2, 3 and 4. The
        # published names have a level more than is needed, hence the Sequential around one part.
        to_branch_1 = nn.Sequential(conv_bn(256, c[1], kernel=3, stride=2))
        to_branch_2 = nn.Sequential(conv_bn(c[1], c[2], kernel=3, stride=2))
        to_branch_3 = nn.Sequential(conv_bn(c[2], c[3], kernel=3, stride=2))

        self.transition1 = nn.ModuleList([conv_bn(256, c[0], kernel=3), to_branch_1])
        self.stage2 = nn.Sequential(
            Exchange(c[:2], outputs=2),
        )

        self.transition2 = nn.ModuleList([same, same, to_branch_2])
        self.stage3 = nn.Sequential(
            Exchange(c[:3], outputs=3),
            Exchange(c[:3], outputs=3),
            Exchange(c[:3], outputs=3),
            Exchange(c[:3], outputs=3),
        )

        # Only the finest branch is read, so the last module makes no other.
        self.transition3 = nn.ModuleList([same, same, same, to_branch_3])
        self.stage4 = nn.Sequential(
            Exchange(c, outputs=4),
            Exchange(c, outputs=4),
            Exchange(c, outputs=1),
        )
        self.final_layer = nn.Conv2d(c[0], joints, kernel_size=1)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))                                # (N, 64, h/2, w/2)
        x = F.relu(self.bn2(self.conv2(x)))                                # (N, 64, h/4, w/4)
        xs = [self.layer1(x)]                                              # (N, 256, h/4, w/4)

        for i in (1, 2, 3):
            transition = getattr(self, f"transition{i}")
            stage = getattr(self, f"stage{i + 1}")

            # One branch more each time: branch b goes on as branch b, the new one is made from the
            # coarsest. Before stage 2 both are made from the stem.
            moved = []
            for b, move in enumerate(transition):
                source = min(b, len(xs) - 1)
                moved.append(move(xs[source]))
            xs = stage(moved)

        return self.final_layer(xs[0])                                     # (N, J, h/4, w/4)


def fold_norms(model):
    """Put each batch norm into the convolution before it, in place: a tenth less time; -> model.

    In eval mode a batch norm is a x + b with two fixed numbers for each channel. The convolution is
    linear, so that a can be multiplied into its weights and b become its bias: the same numbers to
    rounding. What is left of the norm is nn.Identity, and the state dict has no norms any more.
    """
    for module in model.modules():
        children = list(module.named_children())
        for (conv_name, conv), (name, child) in zip(children, children[1:]):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, child))
                setattr(module, name, nn.Identity())
    return model


# ---- Published weights -------------------------------------------------------------------------

MMPOSE = "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco/td-hm_"

# Name -> address. The 8 hex digits before the date are the first of the file's SHA-256; the name
# ends with the crops' height x width.
WEIGHTS = {
    "w32_256x192": MMPOSE + "hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth",
    "w32_384x288": MMPOSE + "hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909.pth",
    "w48_256x192": MMPOSE + "hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth",
    "w48_384x288": MMPOSE + "hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth",
}


MOST_WIDTH = 256                                  # channels; published are 32 and 48
MOST_JOINTS = 1000


class Inert:
    """Stands for the classes that a checkpoint names beside its tensors; it does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def read_checkpoint(path):
    """What torch.save has written, read without running any code of it.

    mmpose keeps objects of its own classes beside the tensors; each of them is replaced by an
    Inert. Raises ValueError where the file cannot be read so, or is a bomb (see support/files.py).
    """
    try:
        fault = ""
        if zipfile.is_zipfile(path):              # files from before PyTorch 1.6 are none
            with zipfile.ZipFile(path) as archive:
                fault = zip_bomb(archive, most_unpacked(path))
        if not fault:
            return load_inert(path)

    # A cut or foreign file fails in any way. PyTorch's own words are not shown: they advise to load
    # the file with the guard against foreign code taken off.
    except Exception as error:
        fault = ("its bytes are damaged or of another kind, or this machine's memory is too small "
                 f"({type(error).__name__})")
    raise unreadable(path, fault)


def load_inert(path):
    """torch.load with an Inert in place of every class that is not part of a tensor."""
    names = []
    with suppress(ValueError):                    # files from before PyTorch 1.6 have no list
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)

    stand_ins = [(Inert, name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


def unreadable(path, fault):
    """The ValueError for a file that holds no weights; fault: why, in words."""
    return ValueError(f"cannot read {path}: {fault}. Expected HRNet's weights, as published. Fetch "
                      f"them again, or name one of {', '.join(WEIGHTS)}.")


def weights_path(name_or_path):
    """Path of a weights file: a name of WEIGHTS is downloaded, anything else must be a file.

    Raises ValueError for a word that is no known name, FileNotFoundError for a path (it has a
    folder or an ending) where there is no file.
    """
    if name_or_path in WEIGHTS:
        url = WEIGHTS[name_or_path]
        digits = re.search(r"-([0-9a-f]{8})_\d+\.pth$", url)[1]     # of the file's SHA-256
        return download(url, digits, "Run again to go on, or fetch it by hand and give its path.")

    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix or path.name != str(name_or_path):
        raise FileNotFoundError(f"no HRNet weights {path}. Expected a file, or one of "
                                f"{', '.join(WEIGHTS)}. Check the path.")
    raise unknown_name("HRNet weights", str(name_or_path), WEIGHTS)


def read_state(path):
    """State dict of a checkpoint in the official or in mmpose's naming, in this file's names.

    Raises ValueError where there is anything but tensors in it, or they claim too much.
    """
    found = read_checkpoint(path)
    if isinstance(found, dict):
        found = found.get("state_dict", found)
    problem = misfit(found, {str: torch.Tensor})
    if problem:
        raise unreadable(path, f"its state dict, {problem.place}, holds a "
                               f"{type(problem.value).__name__} and not {problem.expected}")
    bomb = tensor_bomb(found.values(), most_unpacked(path))
    if bomb:
        raise unreadable(path, bomb)

    state = {}
    for key, value in found.items():
        if key.startswith("data_preprocessor."):  # mmpose's copy of MEAN and STD
            continue
        name = re.sub(r"^(module\.)?(backbone\.|keypoint_head\.|head\.)?", "", key)
        state[name] = value
    return state


def load_hrnet(name_or_path, input_size=None):
    """HRNet with published weights, float32, on the CPU, in eval mode.

    name_or_path: a name in WEIGHTS, or a file in the official or in mmpose's naming. The network's
    width and number of joints are read off the weights. input_size: (h, w) of the crops; by default
    what the file's name says, as in 384x288, else (256, 192).

    Raises ValueError for an unknown name, a file that cannot be read, and weights whose keys or
    shapes are not the network's; FileNotFoundError for a path without a file.
    """
    path = weights_path(name_or_path)
    state = read_state(path)

    # Weights of HRNet as a classifier have no final layer; the check below then says so.
    final = state.get("final_layer.weight", torch.empty(17, 32, 1, 1))     # (J, width, 1, 1)
    joints, width = (*final.shape, 0, 0)[:2]
    if not (1 <= width <= MOST_WIDTH and 1 <= joints <= MOST_JOINTS):
        raise unreadable(path, f"its final layer is {tuple(final.shape)}")
    model = HRNet(width, joints)
    wanted = model.state_dict()

    # Files from before PyTorch 0.4.1 have no batch norm counters; nothing reads them in eval mode.
    for key in wanted:
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.tensor(0))

    check_fit(state, wanted, path)
    model.load_state_dict(state)
    model.input_size = input_size or size_in_name(path.name)
    return model.float().eval()


def check_fit(state, wanted, path):
    """Raise a ValueError that lists missing, unexpected and mis-shaped keys, if there are any."""
    faults = []
    for key in sorted(state.keys() | wanted.keys()):
        have = tuple(state[key].shape) if key in state else "missing"
        need = tuple(wanted[key].shape) if key in wanted else "expected"
        if have != need:
            faults.append(f"{key}: {have}, not {need}")

    if faults:
        raise ValueError(f"{path}: {len(faults)} keys do not fit: {'; '.join(faults[:8])}. "
                         f"Expected HRNet's weights for poses. Take one of {', '.join(WEIGHTS)}.")


def size_in_name(name):
    """(h, w) of the crops as a weights file's name says it; (256, 192) where it does not."""
    said = re.search(r"(\d{3})x(\d{3})", name)
    if said is None:
        return 256, 192
    return int(said[1]), int(said[2])


# ---- From the frame to the crop and back -------------------------------------------------------

MEAN = (0.485, 0.456, 0.406)                      # ImageNet's, RGB, of values in [0, 1]
STD = (0.229, 0.224, 0.225)

# Joint j of a mirrored COCO-17 person is joint FLIP_INDEX[j] of the person: after the nose come
# left and right in turn.
FLIP_INDEX = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def crop_rule(boxes, size):
    """Where the crops of boxes (N, 4) lie in the frame -> centres (N, 2), widths (N,), in pixels.

    size: (h, w), of which only the aspect counts: the same rule serves crops and heatmaps. A crop
    is the smallest rectangle of that aspect around the box's centre that holds the box, made larger
    by 1.25, as HRNet was trained. Crop pixel (u, v) shows the frame at

        centre + ((u, v) - (w, h) / 2) * width / w.
    """
    h, w = size
    start = boxes[:, :2]                                                   # (N, 2), x and y
    end = boxes[:, 2:]

    side = end - start
    width = 1.25 * torch.maximum(side[:, 0], side[:, 1] * w / h)
    centre = (start + end) / 2
    return centre, width


def crop_people(frames, boxes, size, device="cpu"):
    """Cut one person out of each frame and normalise: HRNet's input, black beyond the frame.

    frames: N uint8 arrays (H, W, 3), RGB. boxes: (N, 4) float32, pixels. size: (h, w)
    -> (N, 3, h, w) float32 on `device`.
    """
    centres, widths = crop_rule(boxes, size)
    crops = torch.empty(len(boxes), 3, *size, device=device)
    for n, frame in enumerate(frames):
        crops[n] = read_crop(frame, centres[n], widths[n], size, device)

    mean = crops.new_tensor(MEAN)[:, None, None]
    std = crops.new_tensor(STD)[:, None, None]
    return (crops / 255 - mean) / std


def read_crop(frame, centre, width, size, device):
    """One crop (3, h, w), values 0 to 255, read bilinearly from a frame by the rule of crop_rule.

    Only the part of the frame that the crop shows is converted and moved to the device.
    """
    h, w = size
    scale = width / w                             # frame pixels for a crop pixel

    x = centre[0] + (torch.arange(w) - w / 2) * scale                      # (w,) frame columns
    left, right = needed_range(x, frame.shape[1])
    frame = frame[:, left:right]

    y = centre[1] + (torch.arange(h) - h / 2) * scale                      # (h,) frame rows
    top, bottom = needed_range(y, frame.shape[0])
    frame = frame[top:bottom]

    # grid_sample has its own unit: -1 and 1 are the outer edges of the first and last pixel.
    grid_x = (2 * (x - left) + 1) / (right - left) - 1
    grid_y = (2 * (y - top) + 1) / (bottom - top) - 1
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)
    grid = grid[None].to(device)                                           # (1, h, w, 2)

    image = torch.from_numpy(np.ascontiguousarray(frame)).to(device)
    image = image.permute(2, 0, 1)[None].float()                           # (1, 3, rows, columns)
    return F.grid_sample(image, grid, align_corners=False)[0]


def needed_range(at, length):
    """first, last + 1 of the `length` pixels of an axis that ascending positions `at` read.

    It holds at least one pixel, also where all positions lie outside.
    """
    first = int(at[0].floor().clamp(0, length - 1))
    stop = int((at[-1].ceil() + 1).clamp(first + 1, length))
    return first, stop


def decode_heatmaps(heatmaps, boxes):
    """Heatmaps (N, J, h, w) of crops of boxes (N, 4) -> keypoints (N, J, 2), scores (N, J).

    A keypoint is the map's highest pixel, moved by a quarter pixel towards the higher of its
    neighbours in x and in y, unless it lies in the first two or the last column or row, as
    published; in pixels of the frame.
    Its score is the height of that pixel. Where nothing is positive the score is 0 and the keypoint
    is the crop's corner.
    """
    h, w = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)                                             # (N, J, h * w)
    scores, top = flat.max(-1)                                             # (N, J)
    x = top % w
    y = top // w

    # A pixel at the edge has no neighbours; it looks at pixel (1, 1) instead, which has some, and
    # the difference is then multiplied by 0.
    inside = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
    safe = torch.where(inside, top, w + 1)[..., None]                      # (N, J, 1)
    rise_x = flat.gather(2, safe + 1) - flat.gather(2, safe - 1)
    rise_y = flat.gather(2, safe + w) - flat.gather(2, safe - w)
    rise = torch.cat([rise_x, rise_y], dim=-1)                             # (N, J, 2)

    step = 0.25 * rise.sign() * inside[..., None]
    spot = torch.stack([x, y], dim=-1) + step                              # (N, J, 2)
    spot = spot * (scores > 0)[..., None]

    # From the pixel, as seen from the map's middle, to the frame.
    spot = spot - spot.new_tensor([w, h]) / 2
    boxes = boxes.to(heatmaps.device)
    centres, widths = crop_rule(boxes, (h, w))
    scales = (widths / w)[:, None, None]          # frame pixels for a pixel of the heatmap
    keypoints = centres[:, None] + spot * scales
    return keypoints, scores.clamp(min=0)


def predict_heatmaps(model, crops, flip=True):
    """Heatmaps (N, J, h/4, w/4) of crops (N, 3, h, w).

    flip: take the mean with the heatmaps of the mirrored crops, mirrored back, left and right
    joints exchanged; for COCO-17. The middle of a crop is pixel w / 2 and not (w - 1) / 2, so that
    the mirror of column u is w - u: the map that was mirrored back goes one pixel to the right.
    """
    heatmaps = model(crops)
    if not flip:
        return heatmaps

    mirrored = model(crops.flip(-1)).flip(-1)
    mirrored = mirrored[:, FLIP_INDEX]
    mirrored[..., 1:] = mirrored[..., :-1].clone()
    return (heatmaps + mirrored) / 2


@torch.inference_mode()
def predict(model, frames, boxes, flip=True):
    """The joints of one person in each frame.

    frames: N uint8 arrays (H, W, 3), RGB. boxes: (N, 4), pixels. flip: see predict_heatmaps
    -> keypoints (N, J, 2) in pixels of the frame, scores (N, J) >= 0; numpy, float32.
    """
    boxes = torch.as_tensor(np.asarray(boxes), dtype=torch.float32)
    device = model.final_layer.weight.device
    crops = crop_people(frames, boxes, model.input_size, device)
    heatmaps = predict_heatmaps(model, crops, flip)
    keypoints, scores = decode_heatmaps(heatmaps, boxes)
    return keypoints.cpu().numpy(), scores.cpu().numpy()
