"""More optimizers written from their formulas, on the problem of `plain_loops`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from plain_loops import START, Array, gradient


def adagrad(rates: Sequence[float], lr_decay: float = 0.0, eps: float = 1e-10) -> Array:
    """Duchi et al. 2011: s ← s + g², w ← w − η/(1 + (t − 1)d) g/(√s + ε)."""
    w, s = START.copy(), np.zeros(4)
    for t, rate in enumerate(rates):
        g = gradient(w)
        s = s + g**2
        w = w - rate / (1 + t * lr_decay) * g / (np.sqrt(s) + eps)
    return w


def adadelta(rates: Sequence[float], rho: float = 0.9, eps: float = 1e-6) -> Array:
    """Zeiler 2012, Algorithm 1, with a rate."""
    w, v, u = START.copy(), np.zeros(4), np.zeros(4)
    for rate in rates:
        g = gradient(w)
        v = rho * v + (1 - rho) * g**2
        step = np.sqrt(u + eps) / np.sqrt(v + eps) * g
        u = rho * u + (1 - rho) * step**2
        w = w - rate * step
    return w


def rmsprop(
    rates: Sequence[float],
    alpha: float = 0.99,
    momentum: float = 0.0,
    eps: float = 1e-8,
    *,
    centered: bool = False,
) -> Array:
    """Hinton's lecture 6e; centred as in Graves 2013."""
    w, v, mean, b = START.copy(), np.zeros(4), np.zeros(4), np.zeros(4)
    for rate in rates:
        g = gradient(w)
        v = alpha * v + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        b = momentum * b + g / (np.sqrt(v - mean**2 if centered else v) + eps)
        w = w - rate * b
    return w


def adamax(
    rates: Sequence[float], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Array:
    """Kingma and Ba 2015, Algorithm 2."""
    w, m, u = START.copy(), np.zeros(4), np.zeros(4)
    for t, rate in enumerate(rates, start=1):
        g = gradient(w)
        m = betas[0] * m + (1 - betas[0]) * g
        u = np.maximum(betas[1] * u, np.abs(g) + eps)
        w = w - rate / (1 - betas[0] ** t) * m / u
    return w


def nadam(
    rates: Sequence[float],
    betas: tuple[float, float] = (0.9, 0.999),
    psi: float = 4e-3,
    eps: float = 1e-8,
) -> Array:
    """Dozat 2016, with the warming momentum μ_t = β1(1 − ½ 0.96^(tψ))."""
    w, m, v, product = START.copy(), np.zeros(4), np.zeros(4), 1.0

    def mu(t: int) -> float:
        return betas[0] * (1 - 0.5 * 0.96 ** (t * psi))

    for t, rate in enumerate(rates, start=1):
        g = gradient(w)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        product *= mu(t)
        first = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        w = w - rate * first / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return w


def radam(
    rates: Sequence[float], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Array:
    """Liu et al. 2020, Algorithm 2."""
    w, m, v = START.copy(), np.zeros(4), np.zeros(4)
    most = 2 / (1 - betas[1]) - 1
    for t, rate in enumerate(rates, start=1):
        g = gradient(w)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        left = 1 - betas[1] ** t
        length = most - 2 * t * betas[1] ** t / left
        step = m / (1 - betas[0] ** t)
        if length > 5:
            above, below = (length - 4) * (length - 2) * most, (most - 4) * (most - 2) * length
            step = step * math.sqrt(above / below) * math.sqrt(left) / (np.sqrt(v) + eps)
        w = w - rate * step
    return w


def asgd(rates: Sequence[float], lambd: float = 1e-4, alpha: float = 0.75) -> Array:
    """Polyak and Juditsky 1992 with Bottou's rates, before it averages: w ← (1 − λη_t)w − η_t g."""
    w, falling = START.copy(), rates[0]
    for t, rate in enumerate(rates, start=1):
        w = (1 - lambd * falling) * w - falling * gradient(w)
        falling = rate / (1 + lambd * rate * t) ** alpha
    return w


def rprop(
    rates: Sequence[float],
    etas: tuple[float, float] = (0.5, 1.2),
    bounds: tuple[float, float] = (1e-6, 50.0),
) -> Array:
    """Riedmiller and Braun 1993: the rate is where each weight's own step begins."""
    w, before, size = START.copy(), np.zeros(4), np.full(4, rates[0])
    for _ in rates:
        g = gradient(w)
        turned = np.sign(g * before)
        factor = np.where(turned > 0, etas[1], np.where(turned < 0, etas[0], 1.0))
        size = np.clip(size * factor, *bounds)
        g = np.where(turned < 0, 0.0, g)
        w = w - np.sign(g) * size
        before = g
    return w


def lion(rates: Sequence[float], betas: tuple[float, float] = (0.9, 0.99)) -> Array:
    """Chen et al. 2023, Program 1, without decay."""
    w, m = START.copy(), np.zeros(4)
    for rate in rates:
        g = gradient(w)
        w = w - rate * np.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
    return w
