"""NumPy's .npz files of other people: plain arrays alone, and no more of them than is asked for.

An .npz is a zip of .npy files, and each of these begins with a head that says type and shape. Three
things in it cannot be trusted: the zip may unpack to a thousand times its size, the head may claim
more than follows, and NumPy makes room by the head alone; and an array of Python objects is a
pickle, that is, a program. All three are looked at before anything is unpacked.

here       | what it does                              | tests/test_robustness.py
read_npz   | file -> its arrays by name, within limits | test_pose_files_*
array_head | shape and type of a .npy                  | test_pose_files_that_are_bombs_*
"""
import math
import zipfile

import numpy as np

from support.files import zip_bomb


class BadArrays(ValueError):
    """What is wrong with an .npz, in words that are fit to be printed after its name."""


def read_npz(path, most, most_of):
    """The arrays of an .npz file: {name: array}.

    most: bytes to which it may unpack. most_of: the names that must be in it -> how many entries
    the array may have, None: any number. Other names are not looked at.

    Raises BadArrays, in our words: NumPy's own advise to unpack Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bomb = zip_bomb(archive, most)
            if bomb:
                raise BadArrays(bomb)
            return {name: read_one(archive, name, limit) for name, limit in most_of.items()}
    except BadArrays:
        raise
    except Exception as error:                    # broken bytes fail in every possible way
        kind = type(error).__name__
        raise BadArrays(f"its bytes are damaged or of another kind ({kind})") from None


def read_one(archive, name, limit):
    """One array of an open ZipFile, once its head says that it is harmless; else BadArrays."""
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise BadArrays(f"there are no {name} in it")

    with archive.open(member) as file:
        shape, dtype = array_head(file)
    entries = math.prod(shape)
    if dtype.hasobject:
        raise BadArrays(f"its {name} are Python objects, which are not unpacked")
    if entries * dtype.itemsize > archive.getinfo(member).file_size:
        raise BadArrays(f"its {name} {shape} claim more than the file holds")
    if limit is not None and entries > limit:
        raise BadArrays(f"its {name} are {entries}, and {limit} at most")

    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def array_head(file):
    """The head of a .npy file that is open at its start -> shape, dtype; ValueError if none."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype
