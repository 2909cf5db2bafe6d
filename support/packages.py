"""Packages that are no requirement: imported where they are used, with the command that installs.

here             | what it does                                    | tests/test_person.py
optional_package | import one, or say how it is installed          | test_missing_package_*
has_package      | whether one is there, without importing it      | test_missing_package_*
cached           | networks that a run over many videos makes once | test_extract.py
"""
import importlib
import importlib.util
from functools import lru_cache


@lru_cache(maxsize=4)
def cached(make, *arguments, **options):
    """make(*arguments, **options), made once: a run over many videos loads its networks once."""
    return make(*arguments, **options)


def optional_package(module, package):
    """Import an optional package's module; the ValueError says how `package` is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        quoted = " ".join(f"'{name}'" for name in package.split())
        raise ValueError(f"cannot import {module}: {error}. Expected the optional package "
                         f"{package}. Run `pip install {quoted}`.") from error


def has_package(name):
    """Whether an optional package is installed; it is not imported."""
    return importlib.util.find_spec(name) is not None
