"""Values from files of other people, held against the shape that a reader counts on.

What JSON or a checkpoint gives can be anything: null where a list should be, `true` for a number,
a part missing. A reader that says its shape once, before it looks inside, cannot stumble later; and
the person is told the place, what stands there and what should.

here    | what it is                                    | tests
misfit  | the first place of a value that does not fit  | test_hostile_files.py: test_hostile_*
Maybe   | a shape that may be null or missing           | test_robustness.py: test_shapes_*
Misfit  | place, value, what was expected               | test_robustness.py: test_checkpoint_*
"""
from dataclasses import dataclass
from typing import NamedTuple

WORDS = {str: "a text", int: "a whole number", float: "a number", list: "a list",
         dict: "names and values in { }"}


@dataclass(frozen=True)
class Maybe:
    """A shape that may also be null or, in an object, not be there."""
    shape: object


class Misfit(NamedTuple):
    """The first place of a value that does not have its shape."""
    place: str                # such as "entry 3, 'label'"
    value: object             # what stands there
    expected: str             # what should


def misfit(value, shape, place="as a whole"):
    """Compare a value that was read with a shape -> the first `Misfit`, None where all fits.

    A shape is written as the value itself looks:

        str, int, float          a text; a whole number of 64 bits; a number within 2^63 of 0
        another class            an object of it, such as a torch.Tensor or a dict
        [shape]                  a list, each entry of that shape
        (shape, shape)           a list of exactly so many entries
        {str: shape}             an object with any names, each value of that shape
        {"name": shape, ...}     an object with at least these names
        Maybe(shape)             the shape, or null, or a name that is missing

    `true` is no number here, though Python counts it as one: as a label it would pass for class 1.

    >>> misfit([{"label": 3}, {"label": True}], [{"label": int}])
    Misfit(place="entry 2, 'label'", value=True, expected='a whole number')
    >>> misfit({"a": None, "b": 1.5}, {str: Maybe(float)}) is None
    True
    """
    if isinstance(shape, Maybe):
        return None if value is None else misfit(value, shape.shape, place)

    if isinstance(shape, type):
        if fits(value, shape):
            return None
        return Misfit(place, value, WORDS.get(shape, f"a {shape.__name__}"))

    kind = dict if isinstance(shape, dict) else list
    if not isinstance(value, kind):
        return Misfit(place, value, WORDS[kind])
    if kind is dict:
        strange = [name for name in value if not isinstance(name, str)]
        if strange:                               # in a pickle a name can be anything
            return Misfit(place, strange[0], "names that are texts")

    if isinstance(shape, tuple) and len(value) != len(shape):
        return Misfit(place, value, f"a list of {len(shape)}")

    for inner_place, inner_value, inner_shape in members(value, shape):
        deeper = inner_place if place == "as a whole" else f"{place}, {inner_place}"
        found = misfit(inner_value, inner_shape, deeper)
        if found:
            return found
    return None


def fits(value, kind):
    """True where a value is of the kind that is asked for and, if a number, of a usable size."""
    if kind not in (int, float):
        return isinstance(value, kind)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if kind is int:
        return isinstance(value, int) and -2 ** 63 <= value < 2 ** 63
    return -2 ** 63 <= value < 2 ** 63            # not true of NaN and of the infinities either


def members(value, shape):
    """(place, value, shape) of everything directly inside a list or an object."""
    if isinstance(shape, tuple):
        for number, (entry, inner) in enumerate(zip(value, shape), 1):
            yield f"entry {number}", entry, inner

    elif isinstance(shape, list):
        for number, entry in enumerate(value, 1):
            yield f"entry {number}", entry, shape[0]

    elif str in shape:
        for name, entry in value.items():
            yield repr(name), entry, shape[str]

    else:
        for name, inner in shape.items():
            yield repr(name), value.get(name), inner
