"""One Hessian-vector product, counted in gradients of the same objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import peers
import torch
from deep import gpt_problem, resnet_problem, token_loss
from paired import Timed, in_turns, ratio
from problem import Problem, Setting, objective
from report import Bar, Section
from sharpcli.settings.curvature import CurvatureSettings
from torch import Tensor

from sharpcli.curvature import make_operator
from sharpcli.curvature.modes import MODES
from sharpcli.errors import SharpError

NAME = "product"
# More than this between two exact products is a wrong derivative, not rounding.
_AGREE = 1e-3
_BEST = 1.1


@dataclass(frozen=True)
class _Case:
    """A problem, its loss (None: the task's default), and the bar of a product in gradients."""

    problem: Problem
    loss: Callable[..., object] | None
    bar: float
    with_peers: bool = False


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "One product in gradients",
        "A product in units of our gradient (forward and backward over the same data). `our "
        "product` is the mode that `--hvp auto` takes, its graphs kept from the first product on; "
        "the modes by name are forced, and `rebuilt` keeps no graph. A block of two is the product "
        "with two vectors. Peers run in their fastest layout; PyHessian keeps its graph in the "
        "layout of one batch, the other two build theirs for every product.",
    )
    rounds = 3 if setting.quick else max(7, 2 * setting.repeats)
    for case in _cases(setting):
        calls, wrong = _calls(case)
        timed = in_turns(calls, rounds)
        gradient = timed["our gradient"]
        rows = [(name, it.spread(), str(ratio(it, gradient))) for name, it in timed.items()]
        problem = case.problem
        title = f"{problem.name}, training loss {problem.loss:.2g}"
        section.tables.append((title, ("", "seconds", "in gradients"), rows))
        section.bars += _bars(case, timed)
        section.notes += [f"{problem.name}: {said}" for said in wrong]
    return section


def _bars(case: _Case, timed: dict[str, Timed]) -> list[Bar]:
    name, product = case.problem.name, timed["our product"]
    found = ratio(product, timed["our gradient"])
    best = min((timed[mode] for mode in MODES if mode in timed), key=lambda it: it.median)
    beside = ratio(product, best)
    return [
        Bar(f"a product, {name}", str(found), f"≤ {case.bar}", found.median <= case.bar),
        Bar(
            f"a product by the best mode's, {name}",
            str(beside),
            f"≤ {_BEST}",
            beside.median <= _BEST,
        ),
    ]


def _cases(setting: Setting) -> list[_Case]:
    resnet = resnet_problem(64, 1) if setting.quick else resnet_problem()
    gpt = gpt_problem(2, 64, 8, 32, 2) if setting.quick else gpt_problem()
    return [
        _Case(setting.main_problem(), None, 1.5, with_peers=True),
        _Case(resnet.to(setting.device), None, 2.8),
        _Case(gpt.to(setting.device), token_loss, 2.4),
    ]


def _calls(case: _Case) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """What is timed, and what is said of modes that are not."""
    problem = case.problem
    built, theta = objective(problem, loss=case.loss)
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(len(theta), 2, generator=generator).to(theta)
    vector = pair[:, 0].contiguous()

    def operator(**settings: object) -> object:
        return make_operator(built, theta, CurvatureSettings(**settings))  # type: ignore[arg-type]

    usual, ggn = operator(), operator(operator="ggn")
    rebuilt = operator(hvp="double-backward", memory=0)
    calls: dict[str, Callable[[], object]] = {
        "our gradient": lambda: built.gradient(theta),
        "our product": lambda: usual @ vector,
        "our block of two": lambda: usual @ pair,
        "Gauss-Newton": lambda: ggn @ vector,
        "rebuilt": lambda: rebuilt @ vector,
        "rebuilt, a block of two": lambda: rebuilt @ pair,
    }
    wrong = []
    true = usual @ vector
    for mode in MODES:
        forced = operator(hvp=mode)
        try:
            off = float((forced @ vector - true).norm() / true.norm())
        except SharpError as error:
            wrong.append(f"{mode} is left out: {error.message}")
            continue
        if off > _AGREE:
            wrong.append(f"{mode} is left out: its product is off by {off:.1g}")
            continue
        calls[mode] = lambda forced=forced: forced @ vector
    for call in calls.values():
        call()
    return calls | (_peers(problem, vector) if case.with_peers else {}), wrong


def _peers(problem: Problem, vector: Tensor) -> dict[str, Callable[[], object]]:
    count = len(problem.inputs)
    layouts = [count // parts for parts in (1, 2, 4, 8) if count % parts == 0]
    calls = {}
    for name, make in peers.PRODUCTS.items():
        products = {str(size): make(problem, size) for size in layouts}
        pilot = in_turns({k: lambda p=p: p(vector) for k, p in products.items()}, 3)
        best = min(pilot, key=lambda layout: min(pilot[layout].seconds[1:]))
        product = products[best]
        calls[f"{name}, batches of {best}"] = lambda product=product: product(vector)
    return calls
