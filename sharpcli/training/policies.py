"""The policies of a learning rate or a batch size: one table of names, formulas and functions.

To add a policy, add an entry to `_ENTRIES`. `sharp schedule`, the table in docs/schedules.md and
`parse_schedule` follow. Imports no torch.

Source: the policies in capitals are LRBench's (Wu et al. 2019, "Demystifying learning rate policies
for high accuracy training of deep neural networks"), by its names and letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["POLICIES", "Parameter", "Policy", "find_policy", "names_of_policies"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a policy: the values that it takes, in words and as a test.

    `default` is None where it has to be given. `word` is a second name for it. A parameter that
    `is_list` takes several numbers. One that `is_schedule` takes a policy or a number in place of
    each number.
    """

    name: str
    range: str
    accepts: Callable[[Any], bool]
    default: float | None = None
    word: str = ""
    is_list: bool = False
    is_schedule: bool = False


@dataclass(frozen=True)
class Policy:
    """A policy: its formula in words, its parameters in order, and its value at step t.

    `value(t, *parameters)` takes t from 0. `problem(*parameters)` says what is wrong with values
    that are each in their range but do not go together, "" where nothing is. A policy that looks
    at losses has no such value: `rule(*parameters)` makes what gives one. `also` is a second name.
    """

    name: str
    formula: str
    parameters: tuple[Parameter, ...]
    value: Callable[..., float]
    problem: Callable[..., str] = lambda *_: ""
    rule: Callable[..., Any] | None = None
    also: str = ""

    @property
    def usage(self) -> str:
        """How it is written: `TRI(k0, k1, l)`, `cosine(rate, steps, warmup=0, end=0)`."""
        written = (
            p.name if p.default is None else f"{p.name}={p.default:g}" for p in self.parameters
        )
        return f"{self.name}({', '.join(written)})"


def _at_least_0(x: float) -> bool:
    return x >= 0


def _above_0(x: float) -> bool:
    return x > 0


_K0 = Parameter("k0", "at least 0", _at_least_0, word="rate")
_K1 = Parameter("k1", "at least 0", _at_least_0)
_GAMMA = Parameter("gamma", "at least 0", _at_least_0, word="factor")
_ANY_GAMMA = Parameter("gamma", "a number", lambda _: True)
_P = Parameter("p", "a number", lambda _: True, word="power")
_P_AT_LEAST_0 = Parameter("p", "at least 0", _at_least_0, word="power")
_L = Parameter("l", "above 0", _above_0, word="every")
_LS = Parameter(
    "l",
    "a list of increasing steps, such as [100, 200]",
    lambda x: all(a < b for a, b in zip((0, *x), x, strict=False)),
    word="at",
    is_list=True,
)
_RATE = Parameter("rate", "at least 0", _at_least_0)
_START = Parameter("start", "at least 0", _at_least_0, 0.0)
_END = Parameter("end", "at least 0", _at_least_0, 0.0)
_STEPS = Parameter("steps", "above 0", _above_0)
_WARMUP = Parameter("warmup", "at least 0", _at_least_0, 0.0)
_DECAY = Parameter("decay", "at least 0", _at_least_0)


def _sigmoid(t: float, k0: float, gamma: float, length: float) -> float:
    x = gamma * (t - length)
    if x >= 0:
        return k0 / (1 + math.exp(-x))
    return k0 * math.exp(x) / (1 + math.exp(x))  # exp(-x) would overflow


def _polynomial(t: float, k0: float, k1: float, p: float, length: float) -> float:
    return k0 + (k1 - k0) * (1 - t / length) ** p if t < length else k0


# Waves from 0 to 1 by (t, l). The phase is reduced first, exactly, so that a wave is as exact at
# its thousandth period as at its first.


def _triangle(t: float, length: float) -> float:
    return 1 - abs(1 - (t % (2 * length)) / length)


def _sine(t: float, length: float) -> float:
    return abs(math.sin(math.pi * (t % (2 * length)) / (2 * length)))


def _cosine(t: float, length: float) -> float:
    return (1 + math.cos(math.pi * (t % (2 * length)) / length)) / 2


def _up_cosine(t: float, length: float) -> float:
    return (1 - math.cos(math.pi * (t % (2 * length)) / length)) / 2


def _saw(t: float, length: float) -> float:
    return (-t % length) / length


@dataclass(frozen=True)
class _Wave:
    """w(t) of a cyclic policy, and how often it has been halved by step t in the -2 form."""

    formula: str
    value: Callable[[float, float], float]
    halvings: str
    halved: Callable[[float, float], float]


_BY_PERIOD = ("⌊t/2l⌋", lambda t, length: t // (2 * length))
_BY_SHIFTED = ("⌊(t+l)/2l⌋", lambda t, length: (t + length) // (2 * length))
_BY_RESTART = ("⌊t/l⌋", lambda t, length: t // length)
_R = "r = −t/l − ⌊−t/l⌋"
_WAVES = {
    "TRI": _Wave("(2/π)·|asin sin(πt/2l)|", _triangle, *_BY_PERIOD),
    "DTRI": _Wave(
        "(2/π)·|asin sin(π(t+l)/2l)|", lambda t, length: _triangle(t + length, length), *_BY_SHIFTED
    ),
    "SIN": _Wave("|sin(πt/2l)|", _sine, *_BY_PERIOD),
    "DSIN": _Wave("|sin(π(t+l)/2l)|", lambda t, length: _sine(t + length, length), *_BY_SHIFTED),
    "COS": _Wave("½(1+cos(πt/l))", _cosine, *_BY_SHIFTED),
    "UPCOS": _Wave("½(1+cos(π(t/l+1)))", _up_cosine, *_BY_PERIOD),
    "RSW": _Wave(f"r, {_R}", _saw, *_BY_RESTART),
    "SINRSW": _Wave(
        f"sin(πr/2), {_R}", lambda t, length: math.sin(math.pi * _saw(t, length) / 2), *_BY_RESTART
    ),
    "COSRSW": _Wave(
        f"½(1−cos πr), {_R}",
        lambda t, length: (1 - math.cos(math.pi * _saw(t, length))) / 2,
        *_BY_RESTART,
    ),
}


def _cyclic(name: str, wave: _Wave) -> list[Policy]:
    """The plain, the halving and the decaying form of one wave."""

    def plain(t: float, k0: float, k1: float, length: float) -> float:
        return k0 + (k1 - k0) * wave.value(t, length)

    def halving(t: float, k0: float, k1: float, length: float) -> float:
        part: float = 2.0 ** -wave.halved(t, length)
        return k0 + (k1 - k0) * wave.value(t, length) * part

    def decaying(t: float, k0: float, k1: float, gamma: float, length: float) -> float:
        part: float = gamma**t
        return k0 + (k1 - k0) * wave.value(t, length) * part

    def problem(k0: float, k1: float, gamma: float, _length: float) -> str:
        falls = gamma > 1 and k1 < k0
        return "gamma above 1 and k1 below k0 become negative" if falls else ""

    shape, _, where = wave.formula.partition(", ")
    where = where and f" where {where}"
    return [
        Policy(name, f"k0 + (k1−k0)·{shape}{where}", (_K0, _K1, _L), plain),
        Policy(
            f"{name}2",
            f"k0 + (k1−k0)·{shape}/2^{wave.halvings}{where}",
            (_K0, _K1, _L),
            halving,
        ),
        Policy(
            f"{name}EXP",
            f"k0 + (k1−k0)·{shape}·γᵗ{where}",
            (_K0, _K1, _GAMMA, _L),
            decaying,
            problem,
        ),
    ]


# Policies by plain words. What comes after `steps` stays at the last value.


def _ramp(t: float, start: float, end: float, steps: float) -> float:
    """From `start` at 0 to `end` at `steps`, and there from then on."""
    share = min(t / steps, 1.0) if steps > 0 else 1.0
    return start + (end - start) * share


def _half_cosine(t: float, start: float, end: float, steps: float) -> float:
    share = min(t / steps, 1.0) if steps > 0 else 1.0
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _warmed_up(
    decay: Callable[[float, float, float, float], float],
) -> Callable[[float, float, float, float, float], float]:
    """A decay over `steps`, the first `warmup` of which go up from 0."""

    def value(t: float, rate: float, steps: float, warmup: float, end: float) -> float:
        if t < warmup:
            return rate * t / warmup
        return decay(t - warmup, rate, end, steps - warmup)

    return value


def _warm_up_fits(_rate: float, steps: float, warmup: float, *_: float) -> str:
    return f"warmup is more than steps ({steps:g})" if warmup > steps else ""


def _wsd_fits(_rate: float, steps: float, decay: float, warmup: float, _end: float) -> str:
    more = warmup + decay > steps
    return f"warmup and decay are more than steps ({steps:g})" if more else ""


def _wsd(t: float, rate: float, steps: float, decay: float, warmup: float, end: float) -> float:
    if t < warmup:
        return rate * t / warmup
    return _ramp(max(t - (steps - decay), 0.0), rate, end, decay) if t > steps - decay else rate


def _one_cycle(
    t: float,
    rate: float,
    steps: float,
    pct_start: float,
    div_factor: float,
    final_div_factor: float,
) -> float:
    start = rate / div_factor
    top, last = pct_start * steps - 1, steps - 1
    if t <= top:
        return _half_cosine(t, start, rate, top)
    return _half_cosine(t - top, rate, start / final_div_factor, last - top)


_ENTRIES = (
    Policy("FIX", "k0", (_K0,), lambda t, k0: k0),  # noqa: ARG005
    Policy(
        "STEP",
        "k0·γ^⌊t/l⌋",
        (_K0, _GAMMA, _L),
        lambda t, k0, gamma, length: k0 * gamma ** (t // length),
    ),
    Policy(
        "NSTEP",
        "k0·γ^(how many lᵢ ≤ t)",
        (_K0, _GAMMA, _LS),
        lambda t, k0, gamma, places: k0 * gamma ** sum(place <= t for place in places),
    ),
    Policy("EXP", "k0·γᵗ", (_K0, _GAMMA), lambda t, k0, gamma: k0 * gamma**t),
    Policy(
        "INV",
        "k0/(1+γt)^p",
        (_K0, _GAMMA, _P),
        lambda t, k0, gamma, p: k0 * (1 + gamma * t) ** -p,
    ),
    Policy(
        "POLY",
        "k0 + (k1−k0)·(1−t/l)^p, k0 from t = l on",
        (_K0, _K1, _P_AT_LEAST_0, _L),
        _polynomial,
    ),
    Policy("SIG", "k0/(1+e^(−γ(t−l)))", (_K0, _ANY_GAMMA, _L), _sigmoid),
    *(policy for name, wave in _WAVES.items() for policy in _cyclic(name, wave)),
    Policy("constant", "rate", (_RATE,), lambda t, rate: rate),  # noqa: ARG005
    Policy(
        "warmup",
        "start + (rate−start)·t/steps, rate from t = steps on",
        (_RATE, _STEPS, _START),
        lambda t, rate, steps, start: _ramp(t, start, rate, steps),
    ),
    Policy(
        "linear",
        "rate·t/warmup, then a line to end at t = steps",
        (_RATE, _STEPS, _WARMUP, _END),
        _warmed_up(_ramp),
        _warm_up_fits,
    ),
    Policy(
        "cosine",
        "rate·t/warmup, then end + (rate−end)·½(1+cos(π(t−warmup)/(steps−warmup)))",
        (_RATE, _STEPS, _WARMUP, _END),
        _warmed_up(_half_cosine),
        _warm_up_fits,
    ),
    Policy(
        "wsd",
        "rate·t/warmup, then rate, then a line to end over the last decay steps of steps",
        (_RATE, _STEPS, _DECAY, _WARMUP, _END),
        _wsd,
        _wsd_fits,
    ),
    Policy(
        "one-cycle",
        "half a cosine from rate/div_factor up to rate at t = pct_start·steps − 1, and half a "
        "cosine down to rate/(div_factor·final_div_factor) at t = steps − 1",
        (
            _RATE,
            Parameter("steps", "at least 2", lambda x: x >= 2),
            Parameter("pct_start", "above 0 and below 1", lambda x: 0 < x < 1, 0.3),
            Parameter("div_factor", "above 0", _above_0, 25.0),
            Parameter("final_div_factor", "above 0", _above_0, 1e4),
        ),
        _one_cycle,
    ),
)

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in _ENTRIES}


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def find_policy(name: str, policies: Mapping[str, Policy] = POLICIES) -> Policy | None:
    """The policy of a name in any case, with or without `-`: `TRI2` is `tri-2`; None: no such."""
    wanted = _plain(name)
    named = (each for each in policies.values() if wanted in (_plain(each.name), _plain(each.also)))
    return next(named, None)


def names_of_policies(policies: Mapping[str, Policy] = POLICIES) -> list[str]:
    """All names in small letters, as far as a misspelt one is compared with them."""
    names = (name for each in policies.values() for name in (each.name, each.also) if name)
    return [name.lower() for name in names]
