"""Schedules: the value of a learning rate or a batch size at each step, from a short text.

A spec is one part, or several with lengths: `FIX(k0=0.1):100, EXP(k0=0.1, gamma=0.99)`. Each part
counts its steps from its own start. A part is a policy with its parameters, by name or in order, or
a number that stays: `0.1:100, 0.01:50, 0.001`. The policies in `PLATEAUS` look at the losses of a
training, and have others inside: `plateau(cosine(0.1, steps=500), factor=0.5)`. Imports no torch.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sharpcli.errors import UsageError, did_you_mean
from sharpcli.training.plateaus import PLATEAUS, PlateauState
from sharpcli.training.policies import (
    POLICIES,
    Parameter,
    Policy,
    find_policy,
    names_of_policies,
)

__all__ = ["Part", "Schedule", "constant_parts", "parse_schedule"]

_PART = re.compile(r"(?P<name>[A-Za-z][\w-]*)\s*(?:\((?P<arguments>.*)\))?", re.DOTALL)
_SHAPE = "write NAME(k0=…, …), or several with lengths: NAME(…):100, NAME(…)"
_KNOWN = {**POLICIES, **PLATEAUS}


@dataclass(frozen=True)
class Part:
    """A policy with its parameters in order, for `length` steps; None: to the end.

    `rule` is what a policy that looks at losses goes by.
    """

    policy: str
    values: tuple[Any, ...]
    length: int | None = None
    rule: Any = field(default=None, compare=False, repr=False)

    def at(self, step: int) -> float:
        """The value `step` steps after the part's start."""
        if self.rule is not None:
            return float(self.rule.at(step))
        return float(POLICIES[self.policy].value(float(step), *self.values))


@dataclass(frozen=True)
class Schedule:
    """A learning rate or a batch size by step. Made by `parse_schedule`.

    >>> schedule = parse_schedule("FIX(k0=0.5):2, STEP(k0=0.5, gamma=0.5, l=1)")
    >>> [schedule.at(step) for step in range(5)]
    [0.5, 0.5, 0.5, 0.25, 0.125]
    """

    spec: str
    parts: tuple[Part, ...] = field(repr=False)

    def at(self, step: int) -> float:
        """The value at `step`, counted from 0. After the last part's length it stays.

        Raises:
            UsageError: The value at this step is not a finite number of at least 0.
            ValueError: The step is negative.
        """
        if step < 0:
            raise ValueError(f"steps count from 0, not from {step}")
        index = bisect.bisect_right(self._ends, step)
        if index == len(self.parts):
            index, step = index - 1, self._ends[-1] - 1
        part = self.parts[index]
        try:
            value = part.at(step - (self._ends[index - 1] if index else 0))
        except OverflowError:
            value = math.inf
        if not 0 <= value < math.inf:
            raise UsageError(
                f"schedule '{_short(self.spec)}': is {value:g} at step {step}",
                f"give a shorter run, or other values in {_formula(_KNOWN[part.policy])}",
            )
        return value

    def batch_size_at(self, step: int) -> int:
        """The value at `step` as a batch size: the nearest whole number, at least 1."""
        return max(1, round(self.at(step)))

    @property
    def observes(self) -> bool:
        """Whether its values depend on the losses of a training."""
        return bool(self._rules)

    def observe(self, loss: float, steps: int) -> None:
        """Take in the mean loss of an epoch that ended after so many steps."""
        index = bisect.bisect_right(self._ends, steps - 1)
        if index < len(self.parts) and self.parts[index].rule is not None:
            start = self._ends[index - 1] if index else 0
            self.parts[index].rule.observe(loss, steps - start)

    def state(self) -> list[dict[str, Any]]:
        """What `restore` goes on from: all that has been observed."""
        return [asdict(rule.state) for rule in self._rules]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on where `state` was taken."""
        for rule, own in zip(self._rules, state, strict=True):
            rule.state = PlateauState(**own)

    @property
    def _rules(self) -> list[Any]:
        return [part.rule for part in self.parts if part.rule is not None]

    @functools.cached_property
    def _ends(self) -> list[int]:
        """The step at which each part with a length ends."""
        return list(itertools.accumulate(p.length for p in self.parts if p.length is not None))


def parse_schedule(spec: str) -> Schedule:
    """Read a schedule such as `cosine(0.1, steps=500, warmup=50)` or `TRI(k0=0, k1=0.1, l=200)`.

    Args:
        spec: One part, or several separated by commas, all but the last one with `:LENGTH` in
            steps. Names of policies are taken in any case.

    Raises:
        UsageError: An unknown policy (names the nearest one), a parameter that is missing, unknown
            or out of range (names it and the formula), or a value that becomes negative.
    """
    try:
        texts = _split(spec)
        parts = [_part(text) for text in texts]
        for text, part in zip(texts[:-1], parts, strict=False):
            if part.length is None:
                raise UsageError(
                    f"'{text}' has no length, and another part follows",
                    f"say for how many steps: {text}:100",
                )
    except UsageError as error:
        raise UsageError(f"schedule '{_short(spec)}': {error.message}", error.hint) from None
    return Schedule(spec.strip(), tuple(parts))


def constant_parts(values: Sequence[float]) -> str:
    """The shortest spec of parts that stay: `0.1:100, 0.01:50, 0.001`.

    The last part has no length: it stays for as long as the run goes on.
    """
    runs = [(value, len([*same])) for value, same in itertools.groupby(values)]
    texts = [f"{value!r}:{length}" for value, length in runs[:-1]]
    return ", ".join([*texts, f"{runs[-1][0]!r}"])


def _short(spec: str, most: int = 120) -> str:
    spec = spec.strip()
    return spec if len(spec) <= most else spec[: most - 1] + "…"


def _split(text: str) -> list[str]:
    """The texts between the commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for index, sign in enumerate(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(sign, 0)
        if depth < 0:
            raise UsageError(f"a '{sign}' closes nothing", _SHAPE)
        if sign == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    if depth:
        raise UsageError("a bracket is not closed", _SHAPE)
    return [*parts, text[start:].strip()]


def _part(text: str) -> Part:
    body, colon, length = text.rpartition(":")
    if not colon or length.endswith((")", "]")):  # the colon is inside of brackets
        body, colon, length = text, "", ""
    body, length = body.strip(), length.strip()
    if colon and not (length.isascii() and length.isdecimal() and int(length) > 0):
        raise UsageError(
            f"'{length}' is not a length", "after : comes a number of steps: FIX(k0=0.1):100"
        )
    steps = int(length) if colon else None
    alone = _number(body)
    if alone is not None:
        if alone < 0:
            raise UsageError(f"{body} is negative", "a rate and a batch size are at least 0")
        return Part("constant", (alone,), steps)
    found = _PART.fullmatch(body)
    if not found:
        raise UsageError(f"'{body}' is no policy" if body else "a part is empty", _SHAPE)
    policy = find_policy(found["name"], _KNOWN)
    if policy is None:
        near = did_you_mean(found["name"].lower(), names_of_policies(_KNOWN))
        raise UsageError(f"there is no policy '{found['name']}'", near)
    values = _values(policy, found["arguments"] or "")
    if policy.rule is None:
        return Part(policy.name, values, steps)
    return Part(policy.name, values, steps, policy.rule(*values))


def _inner(policy: Policy, text: str) -> Schedule:
    """A schedule inside of a policy: one part without a length, which looks at no losses."""
    part = _part(text)
    if part.length is not None:
        raise _refused(policy, f"'{text}': a length has no place inside of {policy.name}")
    if part.rule is not None:
        raise _refused(policy, f"{part.policy} has no place inside of {policy.name}")
    return Schedule(text, (part,))


def _values(policy: Policy, arguments: str) -> tuple[Any, ...]:
    """The parameters' values in order, those that are not given by their defaults."""
    known: dict[str, Parameter] = {}
    for parameter in policy.parameters:
        known |= {parameter.name: parameter}
        known |= {parameter.word: parameter} if parameter.word else {}
    given: dict[str, Any] = {}
    for index, text in enumerate(_split(arguments) if arguments.strip() else ()):
        name, equals, value = (each.strip() for each in text.partition("="))
        if not equals or "(" in name or "[" in name:
            name, value = "", text
            if index >= len(policy.parameters):
                raise _refused(policy, f"{policy.name} takes no {index + 1} values")
            if any(p.name not in given for p in policy.parameters[:index]):
                raise _refused(policy, f"'{text}' follows a parameter with a name")
        parameter_ = known.get(name.lower()) if name else policy.parameters[index]
        if parameter_ is None:
            raise _refused(policy, f"{policy.name} has no parameter '{name}'")
        if parameter_.name in given:
            raise _refused(policy, f"{parameter_.name} is given twice")
        given[parameter_.name] = _value(policy, parameter_, value)
    missing = [p.name for p in policy.parameters if p.default is None and p.name not in given]
    if missing:
        raise _refused(policy, f"{policy.name} lacks {' and '.join(missing)}")
    values = tuple(given.get(p.name, p.default) for p in policy.parameters)
    if problem := policy.problem(*values):
        raise _refused(policy, f"{policy.name}: {problem}")
    return values


def _value(policy: Policy, parameter: Parameter, text: str) -> Any:
    listed = parameter.is_list and text.startswith("[") and text.endswith("]")
    texts = _split(text[1:-1] if listed else text) if parameter.is_list else [text]
    if parameter.is_schedule:
        given: list[Any] = [_inner(policy, each) for each in texts]
    else:
        given = [_number(each) for each in texts]
    value: Any = tuple(given) if parameter.is_list else given[0]
    if None in given:
        raise _refused(policy, f"{parameter.name}={text}: is not a number")
    if not parameter.accepts(value):
        raise _refused(policy, f"{parameter.name}={text}: {parameter.name} is {parameter.range}")
    return value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _refused(policy: Policy, message: str) -> UsageError:
    return UsageError(message, _formula(policy))


def _formula(policy: Policy) -> str:
    if policy.rule is not None:
        return f"write {policy.usage}"
    return f"{policy.usage} = {policy.formula}"
