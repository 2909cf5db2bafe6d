"""A pickle that would run code, for the tests of what reads files of unknown origin."""


class Bomb:
    """Unpickling this calls `boom` with the path of a file, which is there afterwards."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return boom, (self.path,)


def boom(path):
    """Leave a file that says that code was run."""
    with open(path, "w"):
        pass
