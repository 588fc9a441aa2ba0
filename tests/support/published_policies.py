"""Every policy's published formula, written out once more and apart from the package.

The cyclic ones are as in "Demystifying learning rate policies" (Wu et al. 2019), with asin, floor
and cosine as they stand there; those in plain words follow their description in docs/schedules.md.
"""

from __future__ import annotations

from math import asin, cos, exp, fabs, floor, pi, sin


def _line(a, b, share):
    return a * (1 - share) + b * share


def _annealed(a, b, share):
    return b + (a - b) / 2 * (1 + cos(pi * share))


def _one_cycle(t, rate=0.1, steps=1000):
    top = 0.3 * steps - 1
    if t <= top:
        return _annealed(rate / 25, rate, t / top)
    return _annealed(rate, rate / 25 / 1e4, (t - top) / (steps - 1 - top))


K0, K1, G, L = 0.001, 0.1, 0.999, 130


def _cyclic(wave, halvings):
    """The values of the three forms of a wave at step t."""
    return (
        lambda t: (K1 - K0) * wave(t) + K0,
        lambda t: (K1 - K0) * wave(t) / 2 ** halvings(t) + K0,
        lambda t: (K1 - K0) * wave(t) * G**t + K0,
    )


def _saw(t):
    return -1.0 * t / L - floor(-1.0 * t / L)


_WAVES = {
    "TRI": (lambda t: 2 / pi * fabs(asin(sin(pi * t / (2 * L)))), lambda t: floor(t / (2 * L))),
    "DTRI": (
        lambda t: 2 / pi * fabs(asin(sin(pi * (t + L) / (2 * L)))),
        lambda t: floor((t + L) / (2 * L)),
    ),
    "SIN": (lambda t: fabs(sin(pi * t / (2 * L))), lambda t: floor(t / (2 * L))),
    "DSIN": (lambda t: fabs(sin(pi * (t + L) / (2 * L))), lambda t: floor((t + L) / (2 * L))),
    "COS": (lambda t: 0.5 * (1 + cos(pi * t / L)), lambda t: floor((t + L) / (2 * L))),
    "UPCOS": (lambda t: 0.5 * (1 + cos(pi * (t / L + 1))), lambda t: floor(t / (2 * L))),
    "RSW": (_saw, lambda t: floor(t / L)),
    "SINRSW": (lambda t: sin(pi / 2 * _saw(t)), lambda t: floor(t / L)),
    "COSRSW": (lambda t: 0.5 * (1 - cos(pi * _saw(t))), lambda t: floor(t / L)),
}
# spec → its value at step t
PUBLISHED = {
    "FIX(k0=0.1)": lambda t: 0.1,
    "STEP(k0=0.1, gamma=0.5, l=130)": lambda t: 0.1 * 0.5 ** floor(t / 130),
    "NSTEP(k0=0.1, gamma=0.5, l=[100, 250, 700])": lambda t: (
        0.1 * 0.5 ** ((t >= 100) + (t >= 250) + (t >= 700))
    ),
    "EXP(k0=0.1, gamma=0.99)": lambda t: 0.1 * 0.99**t,
    "INV(k0=0.1, gamma=0.01, p=0.75)": lambda t: 0.1 * (1 + 0.01 * t) ** (-0.75),
    "POLY(k0=0.001, k1=0.1, p=1.2, l=1000)": lambda t: (
        (0.1 - 0.001) * (1.0 - t / 1000) ** 1.2 + 0.001
    ),
    "SIG(k0=0.1, gamma=-0.02, l=400)": lambda t: 0.1 / (1 + exp(0.02 * (t - 400))),
    **{
        f"{name}{form}(k0=0.001, k1=0.1, {'gamma=0.999, ' if form == 'EXP' else ''}l=130)": value
        for name, (wave, halvings) in _WAVES.items()
        for form, value in zip(("", "2", "EXP"), _cyclic(wave, halvings), strict=True)
    },
    "constant(0.1)": lambda t: 0.1,
    "warmup(0.1, steps=300, start=0.01)": lambda t: _line(0.01, 0.1, min(t, 300) / 300),
    "linear(0.1, steps=900, warmup=100, end=0.01)": lambda t: (
        0.1 * t / 100 if t < 100 else _line(0.1, 0.01, min((t - 100) / 800, 1))
    ),
    "cosine(0.1, steps=900, warmup=100, end=0.01)": lambda t: (
        0.1 * t / 100 if t < 100 else _annealed(0.1, 0.01, min((t - 100) / 800, 1))
    ),
    "wsd(0.1, steps=900, warmup=100, decay=300)": lambda t: (
        0.1 * min(t / 100, 1) if t < 600 else _line(0.1, 0, min((t - 600) / 300, 1))
    ),
    "one-cycle(0.1, steps=1000)": _one_cycle,
}
