"""From dataclasses to the command line and back: one place where every setting is described.

A setting is a field of a frozen dataclass (`PeVLConfig`, `DataConfig`, `TrainConfig`, ...):

    epochs: Annotated[int, "passes over the training clips (Sec. 4.1: 50)"] = 50

The field's name is the flag (`--epochs`), its type reads the word that follows, its text and its
default are what `--help` prints. So a setting cannot be in the code and missing in the help.

A number's range stands there as well: `Annotated[int, "passes", Range(1, 1000)]`. `check_fields`
compares all fields of a config with their types and ranges; every dataclass calls it first in its
`__post_init__`, so that a config made in Python is held to the same as one of a command line.

here          | what it does                                 | tests
build_configs | argv -> one instance of each dataclass       | test_support.py: test_bridge_*
Parser        | argparse with errors that name a near flag   | test_support.py: test_bridge_errors_*
Range         | the numbers that make sense                  | test_robustness.py: test_range_*
check_fields  | a config against its fields' types, ranges   | test_robustness.py: test_fields_*
"""
import argparse
import math
import re
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from support.checks import unknown_name


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included; with `above`, `low` itself is not."""
    low: float
    high: float
    above: bool = False

    def holds(self, value):
        if self.above and value == self.low:
            return False
        return self.low <= value <= self.high     # not true of NaN

    def __str__(self):
        if self.above:
            return f"above {self.low:,}, at most {self.high:,}"
        return f"{self.low:,} to {self.high:,}"


@lru_cache
def described_fields(cls):
    """The fields of a config: a list of (name, type, text, Range or None)."""
    hints = get_type_hints(cls, include_extras=True)
    described = []
    for field in fields(cls):
        kind, doc, *rest = get_args(hints[field.name])
        described.append((field.name, kind, doc, rest[0] if rest else None))
    return described


def check_fields(config):
    """ValueError where a field of a config is of another type than it says, or out of its range.

    Types, ranges and fixed choices are refused here alone; a `__post_init__` looks at the rest,
    such as what does not fit together.
    """
    for name, kind, doc, allowed in described_fields(type(config)):
        value = getattr(config, name)
        expected = expected_of(kind, allowed)
        if get_origin(kind) is Literal and not has_kind(value, kind):
            raise unknown_name(flag_of(name), str(value)[:80], get_args(kind))
        if not has_kind(value, kind) or allowed and not allowed.holds(value):
            shown = repr(value)[:80]
            raise ValueError(f"{flag_of(name)} {shown}. Expected {expected}: {doc}. Change it.")


def has_kind(value, kind):
    """Whether a value is of a field's type. True counts as no number, a whole number as a float."""
    if get_origin(kind) is Literal:
        return type(value) in (str, int) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(part, (str, Path)) for part in value)
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and not math.isnan(value)        # infinite: where its Range says so
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def expected_of(kind, allowed):
    """What a field takes, in words."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
    expected = words.get(kind, "names with commas between")
    if allowed:
        expected += f", {allowed}"
    return expected


def flag_of(name):
    """The flag of a field: --pose-frames of pose_frames."""
    return "--" + name.replace("_", "-")


class Parser(argparse.ArgumentParser):
    """argparse whose errors begin with `error: `, in three parts; a near flag is named."""

    def error(self, message):
        text = str(message)
        if "Expected" not in text:                # argparse's own words
            text += ". Expected the words and flags of --help. Run it with --help."
        text = re.sub(r"(\S{80})\S{300,}", r"\1...", text)
        self.exit(2, f"error: {text}\n")

    def parse_args(self, args=None, namespace=None):
        values, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = []
            for action in self._actions:
                flags += action.option_strings
                if isinstance(action, argparse._SubParsersAction):    # and those of its command
                    command = action.choices[getattr(values, action.dest)]
                    flags += [flag for one in command._actions for flag in one.option_strings]
            self.error(unknown_name("argument", rest[0].split("=")[0], flags))
        return values


def word_reader(kind, flag):
    """The function that turns one word of the command line into a value of the field's type.

    kind: int, float, str, tuple[str, ...] (words with commas between) or Literal (a fixed choice).
    The function raises argparse.ArgumentTypeError, which argparse prints beside the flag.
    """
    is_choice = get_origin(kind) is Literal
    is_tuple = get_origin(kind) is tuple
    by_word = {str(choice): choice for choice in get_args(kind)}

    def read(word):
        if is_tuple:
            return tuple(part.strip() for part in word.split(",") if part.strip())
        if is_choice:
            if word not in by_word:
                raise argparse.ArgumentTypeError(unknown_name(flag, word, by_word))
            return by_word[word]
        try:
            return kind(word)
        except ValueError:
            expected = {int: "a whole number", float: "a number"}[kind]
            message = f"{repr(word)[:80]}. Expected {expected}. See --help."
            raise argparse.ArgumentTypeError(message) from None

    return read


def placeholder_of(kind):
    """The word that stands for a flag's value in --help: `--epochs N`."""
    if get_origin(kind) is Literal:
        return "CHOICE"
    return {int: "N", float: "X", str: "TEXT", tuple[Path, ...]: "FILE"}.get(kind, "A,B,...")


def help_text(kind, doc, default, allowed):
    """What --help says of a field: its text, then [its range or fixed choices; its default]."""
    notes = []
    if get_origin(kind) is Literal:
        notes.append(" | ".join(map(str, get_args(kind))))
    if allowed:
        notes.append(str(allowed))
    if default not in ("", ()):                   # of an empty one the text says what it means
        shown = ",".join(default) if isinstance(default, tuple) else default
        notes.append(f"default: {shown}")
    text = f"{doc} [{'; '.join(notes)}]" if notes else doc
    return text.replace("%", "%%")                # argparse formats help texts with %


def add_fields(parser, cls, defaults):
    """Add a flag for each field of the dataclass `cls`; `defaults` gets name -> default.

    A field whose name another dataclass has used already shares that flag: `--seed` is one flag,
    though both the data and the training have a seed.
    """
    group = parser.add_argument_group(cls.__name__)
    for name, kind, doc, allowed in described_fields(cls):
        if name in defaults:
            continue
        default = cls.__dataclass_fields__[name].default
        defaults[name] = default

        flag = flag_of(name)
        text = help_text(kind, doc, default, allowed)
        if kind is bool:                          # --flip and --no-flip
            group.add_argument(flag, dest=name, help=text, action=argparse.BooleanOptionalAction)
        else:
            # Paths are several words, `--video a.mp4 b.mp4`: a comma may be part of a file's name.
            words = None
            reader = word_reader(kind, flag)
            if kind == tuple[Path, ...]:
                words = "+"
                reader = Path
            group.add_argument(flag, dest=name, help=text, metavar=placeholder_of(kind),
                               nargs=words, type=reader)


def build_configs(argv, classes, presets=None, description="", extra=None):
    """Read a command line into dataclasses -> (one instance of each class), namespace of all flags.

    argv: list of words. classes: the dataclasses. extra(parser) adds arguments that are no
    settings, such as a command's name. presets(namespace) -> {field: value}: defaults that follow
    from other flags, as a data set's number of epochs follows from --data.

    Precedence: the command line, then the preset, then the dataclass's default. A ValueError of a
    preset or of a dataclass (`__post_init__` checks what fits together) ends the program as a wrong
    flag does: exit code 2, and a line for each mistake.
    """
    parser = Parser(description=description, allow_abbrev=False,
                    epilog="Defaults are the paper's where they name a section; a preset or a "
                    "checkpoint may bring others. The command line wins over all of them.",
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    if extra:
        extra(parser)
    # Usage names the words of a command alone; the settings follow in groups, each with its text.
    parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " [settings]"
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
