"""Click parameter types of the commands."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from sharpcli.cli.completion import names
from sharpcli.errors import did_you_mean
from sharpcli.settings.fields import SEEDS

__all__ = [
    "DEVICE",
    "DURATION",
    "NAMES",
    "NAME_VALUE",
    "POSITIVE",
    "SEED",
    "SIZE",
    "EveryType",
    "NumberType",
    "ParameterType",
    "WholeType",
    "WordedType",
]

if TYPE_CHECKING:
    ParameterType = click.ParamType[Any]
else:
    ParameterType = click.ParamType  # which cannot be subscripted in Click 8.1


class WordedType(ParameterType):
    """A type that takes some `words` as they are, which a shell completes."""

    words: tuple[str, ...] = ()

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 (Click's signature)
        param: click.Parameter,  # noqa: ARG002 (Click's signature)
        incomplete: str,
    ) -> list[CompletionItem]:
        """The words; anything else is the user's."""
        return names(self.words, incomplete)


class NameValueType(ParameterType):
    """`name=value` as a pair of strings."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first `=`; fails without one or without a name before it."""
        if isinstance(value, tuple):
            return value
        name, equals, given = str(value).partition("=")
        if not equals or not name.strip():
            self.fail(f"'{value}' is not of the form name=value (as in width=128)", param, ctx)
        return name.strip(), given.strip()


class NamesType(ParameterType):
    """`a,b,c` as a tuple of names, such as keys of checkpoints' metadata."""

    name = "name,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at the commas; fails on an empty name and on a repeated one."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        if "" in names:
            self.fail(f"'{value}' is not a list such as optimizer,batch_size", param, ctx)
        if len(set(names)) < len(names):
            self.fail(f"'{value}' contains a name twice", param, ctx)
        return names


class DurationType(ParameterType):
    """A time such as `60`, `60s`, `2m` or `1h`, in seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds; fails unless they are a positive number."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+|\d*\.\d+)([smh]?)", str(value).strip())
        seconds = float(found[1]) * {"m": 60, "h": 3600}.get(found[2], 1) if found else 0.0
        if not 0 < seconds < math.inf:
            self.fail(f"'{value}' is not a time such as 60, 60s, 2m or 1h", param, ctx)
        return seconds


class DeviceType(WordedType):
    """The name of a device; torch checks later whether this machine has it."""

    name = "auto|cpu|cuda[:i]|mps"
    words = ("auto", "cpu", "cuda", "mps")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name; fails on an unknown one and suggests the nearest."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", str(value)):
            near = did_you_mean(str(value), ["auto", "cpu", "cuda", "cuda:0", "mps"])
            self.fail(f"'{value}' is not a device: {near}", param, ctx)
        return str(value)


class SizeType(ParameterType):
    """Bytes, such as 500MB or 2GB (decimal) or 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes; fails on anything else and below one."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kKMGT]?)(i?)[bB]?\s*", str(value))
        size = 0
        if found:
            base = 1024 if found[3] else 1000
            size = int(float(found[1]) * base ** " kMGT".index(found[2].replace("K", "k") or " "))
        if size < 1:
            self.fail(f"'{value}' is not a size such as 500MB or 2GB", param, ctx)
        return size


class _Ranged(ParameterType):
    """A finite number within bounds; `open_` excludes the lower bound."""

    def __init__(
        self, low: float | None = None, high: float | None = None, *, open_: bool = False
    ) -> None:
        self.low, self.high, self.open = low, high, open_

    def _checked(
        self, number: float, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        low, high = self.low, self.high
        below = low is not None and (number <= low if self.open else number < low)
        if not math.isfinite(number) or below or (high is not None and number > high):
            self.fail(f"{value} is not {self._wanted()}", param, ctx)
        return number

    def _wanted(self) -> str:
        """The accepted values in words: `a whole number from 1 to 2`."""
        low, high = self.low, self.high
        if low is None:
            return f"a finite {self.name}"
        if self.open:
            return f"a {self.name} above {low:g}" + ("" if high is None else f", at most {high:g}")
        if high is None:
            return f"a {self.name} of {low:.10g} or more"
        return f"a {self.name} from {low:.10g} to {high:.10g}"


class WholeType(_Ranged):
    """An integer within bounds."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; fails on anything else, and outside of the bounds."""
        try:
            number = int(value)
        except (TypeError, ValueError):
            self.fail(f"'{value}' is not {self._wanted()}", param, ctx)
        self._checked(min(number, 10**300), value, param, ctx)
        return number


class NumberType(_Ranged):
    """A number within bounds, never NaN or infinite."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; fails on anything else, and outside of the bounds."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            if "," in str(value):
                self.fail(f"'{value}' is not one number: separate several by blanks", param, ctx)
            self.fail(f"'{value}' is not {self._wanted()}", param, ctx)
        return self._checked(number, value, param, ctx)


class EveryType(WordedType):
    """How often: a number of steps from 1, or a word such as `epoch`."""

    def __init__(self, word: str) -> None:
        self.words = (word,)
        self.name = f"n|{word}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """The number or the word; fails on anything else."""
        (word,) = self.words
        if str(value) == word:
            return word
        if not re.fullmatch(r"0*[1-9]\d{0,17}", str(value)):
            self.fail(f"'{value}' is not a number of steps from 1 or '{word}'", param, ctx)
        return int(value)


NAME_VALUE: Final = NameValueType()
NAMES: Final = NamesType()
DURATION: Final = DurationType()
DEVICE: Final = DeviceType()
POSITIVE: Final = WholeType(1)
SIZE: Final = SizeType()
SEED: Final = WholeType(SEEDS.start, SEEDS.stop - 1)
