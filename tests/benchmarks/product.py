"""One Hessian-vector product, counted in gradients of the same objective."""

from __future__ import annotations

import math
from collections.abc import Callable

import peers
import torch
from paired import in_turns, ratio
from problem import Problem, Setting, digits, epochs_of_adam, objective
from report import Bar, Section
from torch import Tensor, nn

from sharpcli.operators import make_operator

NAME = "product"
_BAR = 1.6


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "One product in gradients",
        "A Hessian-vector product in units of our gradient (forward and backward over the same "
        "data), whose graphs are kept from the first product on. A block of two is a product of "
        "the Hessian with two vectors, by two. Peers run in their fastest layout; PyHessian keeps "
        "its graph in the layout of one batch, the other two build theirs for every product.",
    )
    rounds = 3 if setting.quick else max(7, 2 * setting.repeats)
    for problem in (setting.main_problem(), *(it.to(setting.device) for it in (_conv(), _block()))):
        with_peers = problem.inputs.is_floating_point()
        timed = in_turns(_calls(problem, with_peers=with_peers), rounds)
        gradient = timed["our gradient"]
        rows = []
        for name, it in timed.items():
            per = ratio(it, gradient)
            rows.append((name, it.spread(), str(per)))
        title = f"{problem.name}, training loss {problem.loss:.2g}"
        section.tables.append((title, ("", "seconds", "in gradients"), rows))
        if not section.bars:
            found = ratio(timed["our product"], gradient)
            bar = Bar(f"a product, {problem.name}", str(found), f"≤ {_BAR}", found.median <= _BAR)
            section.bars.append(bar)
    return section


def _calls(problem: Problem, *, with_peers: bool) -> dict[str, Callable[[], object]]:
    loss = None if with_peers else _token_loss
    built, theta = objective(problem, loss=loss)
    hessian = make_operator(built, theta)
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(len(theta), 2, generator=generator).to(theta)
    vector = pair[:, 0].contiguous()
    hessian @ vector
    built.gradient(theta)
    calls: dict[str, Callable[[], object]] = {
        "our gradient": lambda: built.gradient(theta),
        "our product": lambda: hessian @ vector,
        "our block of two": lambda: hessian @ pair,
    }
    if not with_peers:
        return calls
    count = len(problem.inputs)
    layouts = [count // parts for parts in (1, 2, 4, 8) if count % parts == 0]
    for name, make in peers.PRODUCTS.items():
        products = {str(size): make(problem, size) for size in layouts}
        pilot = in_turns({k: lambda p=p: p(vector) for k, p in products.items()}, 3)
        best = min(pilot, key=lambda layout: min(pilot[layout].seconds[1:]))
        product = products[best]
        calls[f"{name}, batches of {best}"] = lambda product=product: product(vector)
    return calls


def _conv() -> Problem:
    """A small convolutional net with 1,024 of the digits, trained a little."""
    torch.manual_seed(0)
    images, labels = digits()
    inputs, targets = images[:1024].view(-1, 1, 8, 8), labels[:1024]
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )
    training = epochs_of_adam(model, inputs, targets, batch=64, seed=0)
    loss = [next(training) for _ in range(10)][-1]
    model.zero_grad(set_to_none=True)
    return Problem("conv 16-32, 1,024 digits", model, inputs, targets, loss)


class _Block(nn.Module):
    """One GPT-like block between an embedding and a linear head: causal, LayerNorm, GELU."""

    def __init__(self, vocabulary: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places
        count, length, width = x.shape
        split = self.queries_keys_values(self.before(x)).view(count, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(count, length, width))
        return self.head(x + self.mlp(self.between(x)))


def _token_loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    losses = nn.functional.cross_entropy(
        outputs.transpose(1, 2).double(), batch[1], reduction="none"
    )
    weights = torch.full_like(losses.sum(1), losses.shape[1])
    return losses.sum(1), weights.detach()


def _block() -> Problem:
    """A block at its random start: 64 rows of 64 tokens."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(256, (64, 65), generator=generator)
    model = _Block(256, 128, 4, 64)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return Problem("GPT-like block, width 128, 64x64 tokens", model, inputs, targets, math.log(256))
