"""Checks that speak: shapes of tensors, and names that a person may have mistyped.

An error of this program has three parts: what was wrong and where, what was expected, and what to
do next. The two checks that all files share are written here once.

here         | what it refuses                              | tests
check_shape  | a tensor whose axes are not what a name says | test_support.py: test_check_shape_*
unknown_name | a name that is in no registry                | test_clip_model.py: test_unknown_*
"""
import difflib


def check_shape(x, spec, name="tensor", /, **sizes):
    """Compare the shape of `x` with a line of axis letters, and give the sizes that were found.

    spec: axes with blanks between, such as "B T J 2". A letter is a size, equal letters must agree;
    a number is that very size; a leading "..." stands for any number of axes. `sizes` fixes letters
    beforehand. Only shapes are read, never values, so that no GPU has to wait.

    Returns letter -> size. Raises ValueError where the shape does not fit.

    >>> import torch
    >>> check_shape(torch.zeros(2, 5, 17, 2), "B T J 2", "keypoints")
    {'B': 2, 'T': 5, 'J': 17}
    """
    axes = spec.split()
    found = dict(sizes)

    # "... n d" beside (4, 3, 8, 16) becomes "4 3 n d": the free axes are whatever is there.
    if axes[0] == "...":
        free = max(0, x.dim() - len(axes) + 1)
        axes = [str(size) for size in x.shape[:free]] + axes[1:]

    fits = len(axes) == x.dim()
    for axis, size in zip(axes, x.shape):
        if axis.isdigit():
            wanted = int(axis)
        else:
            wanted = found.setdefault(axis, size)
        fits = fits and size == wanted

    if not fits:
        expected = f"({', '.join(spec.split())})"
        if sizes:
            expected += f" with {sizes}"
        raise ValueError(f"{name} has the shape {tuple(x.shape)}. Expected {expected}. Check what "
                         f"is passed as {name}.")
    return found


def unknown_name(what, name, choices):
    """The ValueError for a `name` that is none of `choices`; it suggests the nearest of them.

    what: the kind of name, for the message, such as "backbone". Case does not matter when the
    nearest name is looked for.

    >>> print(unknown_name("split", "tset", ["train", "test"]))
    unknown split 'tset'. Expected one of train, test. Did you mean 'test'?
    """
    by_lower_case = {str(choice).lower(): str(choice) for choice in choices}
    near = difflib.get_close_matches(str(name).lower(), by_lower_case, 1)

    names = list(by_lower_case.values())
    listed = ", ".join(names) if len(names) < 40 else f"{len(names)} names, see --help"
    if near:
        hint = f"Did you mean {by_lower_case[near[0]]!r}?"
    else:
        hint = "Choose one of these."
    return ValueError(f"unknown {what} {name!r}. Expected one of {listed}. {hint}")
