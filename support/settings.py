"""From dataclasses to the command line and back: one place where every setting is described.

A setting is a field of a frozen dataclass (`PeVLConfig`, `DataConfig`, `TrainConfig`, ...):

    epochs: Annotated[int, "passes over the training clips (Sec. 4.1: 50)"] = 50

The field's name is the flag (`--epochs`), its type reads the word that follows, its text and its
default are what `--help` prints. So a setting cannot be in the code and missing in the help.

here          | what it does                                      | tests/test_support.py
build_configs | argv -> one instance of each dataclass            | test_build_configs_*
Parser        | argparse with errors that name the nearest flag   | test_unknown_flag_*
"""
import argparse
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from support.checks import unknown_name


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, `error: ...`, and name the nearest flag."""

    def error(self, message):
        self.exit(2, f"error: {message}\n")

    def parse_args(self, args=None, namespace=None):
        values, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(unknown_name("argument", rest[0].split("=")[0], flags))
        return values


def word_reader(kind, flag):
    """The function that turns one word of the command line into a value of the field's type.

    kind: int, float, str, tuple[str, ...] (words with commas between) or Literal (a fixed choice).
    The function raises argparse.ArgumentTypeError, which argparse prints beside the flag.
    """
    is_choice = get_origin(kind) is Literal
    is_tuple = get_origin(kind) is tuple

    def read(word):
        if is_tuple:
            return tuple(part.strip() for part in word.split(",") if part.strip())
        if is_choice:
            if word not in get_args(kind):
                raise argparse.ArgumentTypeError(unknown_name(flag, word, get_args(kind)))
            return word
        try:
            return kind(word)
        except ValueError:
            expected = {int: "a whole number", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"{word!r}. Expected {expected}. See --help.") from None

    return read


def help_text(kind, doc, default):
    """What --help says of a field: its text, its default and, for a fixed choice, the choices."""
    shown = ",".join(default) if isinstance(default, tuple) else repr(default)
    text = f"{doc} (default: {shown})"
    if get_origin(kind) is Literal:
        text += ": " + " | ".join(map(str, get_args(kind)))
    return text.replace("%", "%%")                # argparse formats help texts with %


def add_fields(parser, cls, defaults):
    """Add a flag for each field of the dataclass `cls`; `defaults` gets name -> default.

    A field whose name another dataclass has used already shares that flag: `--seed` is one flag,
    though both the data and the training have a seed.
    """
    group = parser.add_argument_group(cls.__name__)
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        if field.name in defaults:
            continue
        defaults[field.name] = field.default

        kind, doc = get_args(hints[field.name])[:2]
        flag = "--" + field.name.replace("_", "-")
        text = help_text(kind, doc, field.default)
        if kind is bool:                          # --flip and --no-flip
            group.add_argument(flag, dest=field.name, help=text,
                               action=argparse.BooleanOptionalAction)
        else:
            metavar = getattr(kind, "__name__", "name").upper()
            # Paths are several words, `--video a.mp4 b.mp4`: a comma may be part of a file's name.
            words = "+" if kind == tuple[Path, ...] else None
            group.add_argument(flag, dest=field.name, help=text, metavar=metavar, nargs=words,
                               type=Path if words else word_reader(kind, flag))


def build_configs(argv, classes, presets=None, description="", extra=None):
    """Read a command line into dataclasses -> (one instance of each class), namespace of all flags.

    argv: list of words. classes: the dataclasses. extra(parser) adds arguments that are no
    settings, such as a command's name. presets(namespace) -> {field: value}: defaults that follow
    from other flags, as a data set's number of epochs follows from --data.

    Precedence: the command line, then the preset, then the dataclass's default. A ValueError of a
    preset or of a dataclass (`__post_init__` checks what fits together) ends the program as a wrong
    flag does: one line, exit code 2.
    """
    parser = Parser(description=description, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    if extra:
        extra(parser)
    defaults = {}
    for cls in classes:
        add_fields(parser, cls, defaults)

    values = parser.parse_args(argv)
    given = {}
    for name in defaults:
        if getattr(values, name) is not None:     # argparse's None: the flag was not there
            given[name] = getattr(values, name)

    try:
        # Presets look at flags such as --data, so these are complete before a preset is asked.
        vars(values).update(defaults | given)
        preset = presets(values) if presets else {}
        preset = {name: value for name, value in preset.items() if name in defaults}
        vars(values).update(defaults | preset | given)

        configs = []
        mistakes = []
        for cls in classes:
            own = {field.name: getattr(values, field.name) for field in fields(cls)}
            for name, value in own.items():
                if isinstance(value, list):       # argparse's word for several words
                    own[name] = tuple(value)
            try:
                configs.append(cls(**own))
            except ValueError as mistake:         # the others may have one, too: all are told
                if str(mistake) not in mistakes:
                    mistakes.append(str(mistake))
        if mistakes:
            parser.error("\nerror: ".join(mistakes))
        return tuple(configs), values
    except ValueError as error:
        parser.error(error)
