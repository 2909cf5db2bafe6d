"""BIKE's checkpoints (Wu et al., CVPR 2023), from which ViLP's authors start on Kinetics.

BIKE is a CLIP, trained on Kinetics, with a small transformer over the frames of a clip. Its authors
save both, and the optimizer, in one file of torch.save; a name such as `k400-vit-b-16-f8.pt` says
data set, backbone and frames:

    model_state_dict          the whole CLIP, by OpenAI's names
    fusion_model_state_dict   frame_position_embeddings.weight (77, e), of which the first T rows
                              are used, and transformer.resblocks.0 to .5, by CLIP's names
    optimizer_state_dict, epoch    not read here

here      | what it does                                 | tests/test_transfer.py
is_bike   | tells such a file from others, without it    | test_is_bike_by_its_names
          | being loaded                                 |
read_bike | file -> the tensors of CLIP and of the       | test_bike_starts_both_towers_...
          | transformer, by the file's own names         |

Nothing here knows how ViLP is built: systems/transfer.py says which tensor goes where.
"""
import zipfile
from pathlib import Path

from published.clip_weights import read_weights

CLIP_PART = "model_state_dict"
FUSION_PART = "fusion_model_state_dict"

# The names of a file stand at its beginning, or in a small member of the zip archive: bytes that
# are looked at to tell what it is.
LOOKED_AT = 2 ** 22


def is_bike(path):
    """Whether a file names BIKE's second state dict, which no other has. Nothing is unpickled.

    False for a file that is damaged or something else. Raises FileNotFoundError without one.
    """
    with open(path, "rb") as file:
        beginning = file.read(LOOKED_AT)          # torch.save's older format: one stream

    if beginning.startswith(b"PK\x03\x04"):       # the newer one: a zip archive
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                with archive.open(names[0]) as file:
                    beginning = file.read(LOOKED_AT)
        except Exception:                         # broken bytes fail in every possible way
            return False
    return FUSION_PART.encode() in beginning


def without_module(state):
    """State dict without the `module.` in front of names that were saved from several GPUs.

    >>> without_module({"module.ln_post.bias": 1})
    {'ln_post.bias': 1}
    """
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_bike(path):
    """A BIKE checkpoint -> (CLIP's tensors, the fusion transformer's), by name, on the CPU.

    Raises ValueError where the file is damaged, lacks one of the two, or asks for code to be run,
    which is then not done (published/clip_weights.py).
    """
    path = Path(path)
    clip = without_module(read_weights(path, part=CLIP_PART))
    fusion = without_module(read_weights(path, part=FUSION_PART))
    return clip, fusion
