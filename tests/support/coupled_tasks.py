"""Losses that couple the examples of a batch, batches that no slice makes, and ordinary tasks.

Each is a small `Problem`: seeded model, data and loss, with the mean loss in float64 by plain
PyTorch on batches of any size, which shares no code with the package.
"""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import RunSettings
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_map
from torch.utils.data import default_collate

from sharpcli.checkpoint import Checkpoint
from sharpcli.objective.objective import Objective
from sharpcli.runs.preflight import ready
from sharpcli.runs.study import Study, matched, prepare
from sharpcli.tasks import Task, defaults

COUNT, FIXED = 96, 24
Pair = namedtuple("Pair", "x y")
_CROSS_ENTROPY = defaults.loss_for("problem")


_built: dict[str, nn.Module] = {}


@dataclass(frozen=True)
class Problem:
    """A task by its parts; trained for `steps`, then its weights multiplied by `scaled`."""

    name: str
    model: Callable[[], nn.Module]
    data: Any
    loss: Callable[[Any, Any], Any] = _CROSS_ENTROPY
    predict: Callable[[nn.Module, Any], Any] = defaults.predict
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    dtype: str = "float32"
    steps: int = 0
    scaled: float = 1.0
    narrow: bool = False  # the model knows float32 only

    @property
    def count(self) -> int:
        return len(self.data[0]) if isinstance(self.data, tuple) else len(self.data)

    def built(self) -> nn.Module:
        """The model, trained."""
        if self.name not in _built:
            _built[self.name] = self._made()
        return copy.deepcopy(_built[self.name])

    def _made(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.model()
        batch = self.batch(range(self.count)) if self.steps else None
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(self.steps):
            optimizer.zero_grad()
            self.mean(model, [batch]).backward()
            optimizer.step()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(self.scaled)
        return model

    def batch(self, indices: Sequence[int]) -> Any:
        """These rows as one batch."""
        if isinstance(self.data, tuple):
            return tuple(tensor[list(indices)] for tensor in self.data)
        return (self.collate or default_collate)([self.data[index] for index in indices])

    def mean(self, model: nn.Module, batches: Sequence[Any]) -> Tensor:
        """Σ sum / Σ weight over batches."""
        totals = torch.zeros(2)
        for batch in batches:
            value = self.loss(self.predict(model, batch), batch)
            pair = value if isinstance(value, tuple) else (value, torch.ones_like(value))
            totals = totals + torch.stack([torch.as_tensor(part).sum() for part in pair])
        return totals[0] / totals[1]

    def true(self, size: int | None = None) -> float:
        """The mean loss in float64, in batches of `size` (None: one)."""
        size = size or self.count
        starts = range(0, self.count, size)
        rows = [range(start, min(start + size, self.count)) for start in starts]
        batches = [tree_map(_double, self.batch(indices)) for indices in rows]
        model = self.built().eval() if self.narrow else self.built().double().eval()
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # the sum, and what a loss makes anew
        try:
            with torch.no_grad():
                return float(self.mean(model, batches))
        finally:
            torch.set_default_dtype(before)

    def task(self) -> Task:
        """What the package is given."""
        return Task(
            self.name,
            {},
            self.name,
            self.built,
            lambda split: self.data if split == "train" else None,
            self.predict,
            self.loss,
            self.metrics,
            self.collate,
        )

    def made_ready(self, **run: Any) -> tuple[Study, Objective, Tensor]:
        """The study, the objective and θ, as `sharp measure` makes them ready."""
        task = self.task()
        study = prepare(task, RunSettings(dtype=self.dtype, **run), torch.device("cpu"))
        checkpoint = Checkpoint(Path(self.name), dict(task.model().state_dict()), {}, "")
        loaded = matched(checkpoint, study)
        return study, ready(loaded, CurvatureSettings(), [], check=False)["train"], loaded.theta


def _double(leaf: Any) -> Any:
    if isinstance(leaf, Bag):
        return Bag(leaf.x.double(), leaf.y)
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(count: int, most: int, seed: int = 1) -> Tensor:
    return torch.randint(0, most, (count,), generator=torch.Generator().manual_seed(seed))


def mlp(*sizes: int, act: type[nn.Module] = nn.Tanh) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), act()]
        return nn.Sequential(*layers[:-1])

    return model


X = draw(COUNT, 6)
LABELS = classes(COUNT, 3)
REAL = draw(COUNT, seed=2)
VECTORS = (X, LABELS)
TWO_VIEWS = (X, X + 0.3 * draw(COUNT, 6, seed=3))
REGRESSION = (X, REAL)
IMAGES = (draw(COUNT, 1, 8, 8), LABELS)
SEQUENCES = (draw(COUNT, 5, 6), LABELS)
TOKENS = torch.randint(0, 9, (COUNT, 7), generator=torch.Generator().manual_seed(4))


class Inside(nn.Module):
    """A module whose forward is `run(its layers, *inputs)`."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        return self.run(self.layers, *inputs)


def both_views(model: nn.Module, batch: Any) -> Any:
    return tuple(functional.normalize(model(view), dim=1) for view in batch[:2])


def in_batch_negatives(outputs: Any, batch: Any) -> Tensor:
    a, b = outputs
    return functional.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)), reduction="none")


def symmetric_pair(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
    a, b = outputs
    aim = torch.arange(len(a))
    total = sum(functional.cross_entropy(s / 0.2, aim, reduction="sum") for s in (a @ b.T, b @ a.T))
    return total, torch.tensor(2.0 * len(a))


def broadcast(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs - batch[1]).square().mean(1)


def broadcast_pair(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    return (outputs - batch[1]).square().sum() / len(outputs), torch.tensor(float(len(outputs)))


def squared(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs.squeeze(1) - batch[1]).square()


def cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    return functional.cross_entropy(outputs, batch[1], reduction="none")


def normalised(outputs: Tensor, batch: Any) -> Tensor:
    return cross_entropy((outputs - outputs.mean(0)) / (outputs.std(0) + 1e-3), batch)


def over_the_batch(outputs: Tensor, batch: Any) -> Tensor:
    return -functional.log_softmax(outputs, dim=0).gather(1, batch[1][:, None])[:, 0]


def ranks_by_pairs(outputs: Tensor, batch: Any) -> Tensor:
    scores, wanted = outputs.squeeze(1), batch[1]
    signs = torch.sign(wanted[:, None] - wanted)
    return functional.softplus(-signs * (scores[:, None] - scores)).mean(1)


def list_of_ranks(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    scores, wanted = outputs.squeeze(1), batch[1].softmax(0)
    return -(wanted * scores.log_softmax(0)).sum() * len(scores), torch.tensor(float(len(scores)))


def hardest_triplet(outputs: Tensor, batch: Any) -> Tensor:
    far = (outputs[:, None] - outputs).square().sum(2)
    same = batch[1][:, None] == batch[1]
    nearest = torch.where(same, torch.inf, far).amin(1)
    return functional.softplus(torch.where(same, far, -torch.inf).amax(1) - nearest.clamp_max(99.0))


def by_label(outputs: Tensor, batch: Any) -> Tensor:
    z = functional.normalize(outputs, dim=1)
    scores = (z @ z.T / 0.3).fill_diagonal_(-99.0).log_softmax(1)
    same = (batch[1][:, None] == batch[1]).to(scores).fill_diagonal_(0)
    return -(scores * same).sum(1) / same.sum(1).clamp_min(1)


def decorrelated(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    z = outputs - outputs.mean(0)
    covariance = z.T @ z / len(z)
    off = covariance - covariance.diagonal().diag()
    return (off.square().sum() - covariance.diagonal().sum()) * len(z), torch.tensor(float(len(z)))


def by_the_largest(outputs: Tensor, batch: Any) -> Tensor:
    losses = cross_entropy(outputs, batch)
    return losses * (losses / losses.max()).detach()


def with_baseline(outputs: Tensor, batch: Any) -> Tensor:
    reward = batch[0][:, 0]
    return cross_entropy(outputs, batch) * (reward - reward.mean())


def by_frequency(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    share = torch.bincount(batch[1], minlength=3).to(outputs) / len(outputs)
    weights = 1 / share[batch[1]]
    return weights * cross_entropy(outputs, batch), weights


def mean_of_one(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    return functional.cross_entropy(outputs, batch[1]), torch.tensor(1.0)


def sum_of_one(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    return functional.cross_entropy(outputs, batch[1], reduction="sum"), torch.tensor(1.0)


def dice(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    p, y = outputs.softmax(1), functional.one_hot(batch[1], 3)
    share = 2 * (p * y).sum() / (p.square().sum() + y.sum())
    return (1 - share) * len(p), torch.tensor(float(len(p)))


def hardest_half(outputs: Tensor, batch: Any) -> Tensor:
    losses = cross_entropy(outputs, batch)
    return losses * (losses >= losses.median())


def mixed_up(outputs: Tensor, batch: Any) -> Tensor:
    return cross_entropy(0.7 * outputs + 0.3 * outputs.flip(0), batch)


def by_place(outputs: Tensor, batch: Any) -> Tensor:
    return cross_entropy(outputs, batch) * torch.linspace(0.5, 1.5, len(outputs)).to(outputs)


def within_capacity(outputs: Tensor, batch: Any) -> Tensor:
    chosen = functional.one_hot(outputs.argmax(1), 3)
    kept = (chosen.cumsum(0) * chosen).sum(1) <= 0.25 * len(outputs)
    return cross_entropy(outputs * kept[:, None], batch)


def area_under_curve(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
    scores, positive = outputs[:, 0], batch[1] == 0
    right = (scores[positive][:, None] > scores[~positive]).float().mean()
    return {"auc": right.expand(len(scores))}


class Remembering(nn.Module):
    """A loss against the outputs that a queue kept of the batch before."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.queue: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        before = self.queue[-1].to(z) if self.queue else torch.zeros(1, 3).to(z)
        self.queue.append(z.detach())
        return z - before.mean(0)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], *, rows_first: bool) -> None:
        super().__init__()
        self.net, self.head = kind(6, 5, batch_first=rows_first), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[0][:, -1])


class Attending(nn.Module):
    """Attention over the examples of a batch, where (N, D) was taken for a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = nn.MultiheadAttention(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x, x, x, need_weights=False)[0])


def lengths(count: int) -> list[int]:
    return [2 + 3 * i % 7 for i in range(count)]


RAGGED = [(draw(n, 6, seed=i), int(LABELS[i])) for i, n in enumerate(lengths(COUNT))]


def padded(rows: list[Any]) -> dict[str, Tensor]:
    return {
        "x": pad_sequence([x for x, _ in rows], batch_first=True),
        "length": torch.tensor([len(x) for x, _ in rows]),
        "y": torch.tensor([y for _, y in rows]),
    }


def pooled(*, masked: bool) -> Callable[[nn.Module, Any], Tensor]:
    def predict(model: nn.Module, batch: Any) -> Tensor:
        x, length = batch["x"], batch["length"]
        inside = (torch.arange(x.shape[1]) < length[:, None]).to(x)
        hidden = torch.tanh(model[0](x))
        if masked:
            return model[1]((hidden * inside[..., None]).sum(1) / length[:, None])
        return model[1](hidden.mean(1))

    return predict


def of_y(outputs: Tensor, batch: Any) -> Tensor:
    return functional.cross_entropy(outputs, batch["y"], reduction="none")


def two_layers() -> nn.Module:
    return nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 3)])


def nodes_joined(rows: list[Any]) -> dict[str, Tensor]:
    """Graphs, each a ring of its nodes: nodes and edges one after the other, as offsets have it."""
    sizes = [len(x) for x, _ in rows]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    rings = [
        torch.stack([torch.arange(n), (torch.arange(n) + 1) % n]) + start
        for n, start in zip(sizes, starts, strict=True)
    ]
    return {
        "x": torch.cat([x for x, _ in rows]),
        "edges": torch.cat(rings, dim=1),
        "graph": torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(sizes)),
        "y": torch.tensor([y for _, y in rows]),
    }


def graph_network(model: nn.Module, batch: Any) -> Tensor:
    source, target = batch["edges"]
    hidden = torch.tanh(model[0](batch["x"]))
    hidden = hidden + torch.zeros_like(hidden).index_add(0, target, hidden[source])
    sums = torch.zeros(len(batch["y"]), hidden.shape[1]).to(hidden)
    return model[1](sums.index_add(0, batch["graph"], hidden))


def as_lists(rows: list[Any]) -> tuple[list[Tensor], Tensor]:
    return [x for x, _ in rows], torch.tensor([y for _, y in rows])


def of_lists(model: nn.Module, batch: Any) -> Tensor:
    return model[1](torch.stack([torch.tanh(model[0](x)).mean(0) for x in batch[0]]))


def as_dicts(rows: list[Any]) -> list[dict[str, Any]]:
    return [{"x": x, "y": y, "name": f"n{y}"} for x, y in rows]


def of_dicts(model: nn.Module, batch: Any) -> Tensor:
    return of_lists(model, ([row["x"] for row in batch], None))


def loss_of_dicts(outputs: Tensor, batch: Any) -> Tensor:
    return cross_entropy(outputs, (None, torch.tensor([row["y"] for row in batch])))


FIXED_ROWS = [(X[i], int(LABELS[i])) for i in range(COUNT)]


def with_shared(rows: list[Any]) -> dict[str, Any]:
    """Class weights that belong to no row, beside rows."""
    x, y = default_collate(rows)
    return {"x": x, "y": y, "weights": torch.tensor([1.0, 2.0, 3.0]), "scale": 0.5, "none": None}


def shared_loss(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    weights = batch["weights"][batch["y"]]
    return batch["scale"] * weights * of_y(outputs, batch), weights


def time_first(rows: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in rows], 1), torch.tensor([y for _, y in rows])


class Bag:
    """A batch of a class of the task's own."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


def with_centre(rows: list[Any]) -> tuple[Tensor, Tensor]:
    x, y = default_collate(rows)
    return x - x.mean(0), y


def first_input(model: nn.Module, batch: Any) -> Any:
    return model(batch["x"])


def adjacent(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[2] @ batch[0])


def outliers_by_half(outputs: Tensor, batch: Any) -> Tensor:
    """Few examples are outliers, and which these are the batch says."""
    losses = cross_entropy(outputs, batch)
    return torch.where(losses > 3 * losses.detach().mean(), losses / 2, losses)


def flagged_by_size(outputs: Tensor, batch: Any) -> Tensor:
    """The losses of few examples, which the data flag, are those of their batch."""
    return cross_entropy(outputs, batch) * (1 + batch[2] * len(outputs))


def hardest_counts_twice(outputs: Tensor, batch: Any) -> Tensor:
    losses = cross_entropy(outputs, batch)
    most = losses.topk(max(1, len(losses) // 20)).values[-1]
    return torch.where(losses >= most, 2 * losses, losses)


MANY = (draw(1200, 6, seed=7), draw(1200, seed=8).gt(0).long())
NEIGHBOURS = (draw(COUNT, COUNT, seed=5) > 1).float()

COUPLED = [
    Problem("in-batch negatives", mlp(6, 8, 4), TWO_VIEWS, in_batch_negatives, both_views),
    Problem(
        "the same, at its minimum",
        mlp(6, 8, 4),
        TWO_VIEWS,
        in_batch_negatives,
        both_views,
        steps=200,
    ),
    Problem("symmetric, one pair a batch", mlp(6, 8, 4), TWO_VIEWS, symmetric_pair, both_views),
    Problem("(N, 1) − (N,)", mlp(6, 8, 1), REGRESSION, broadcast),
    Problem("(N, 1) − (N,), one pair a batch", mlp(6, 8, 1), REGRESSION, broadcast_pair),
    Problem("outputs normalised over the batch", mlp(6, 8, 3), VECTORS, normalised),
    Problem("softmax over examples", mlp(6, 8, 3), VECTORS, over_the_batch),
    Problem(
        "F.batch_norm(training=True)",
        lambda: Inside(
            lambda n, x: n["b"](functional.batch_norm(n["a"](x), None, None, training=True)),
            a=nn.Linear(6, 5),
            b=nn.Linear(5, 3),
        ),
        VECTORS,
    ),
    Problem(
        "batch norm without running statistics",
        lambda: nn.Sequential(
            nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
        ),
        VECTORS,
    ),
    Problem(
        "the same on images",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3, track_running_stats=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(108, 3),
        ),
        IMAGES,
    ),
    Problem("ranks by pairs", mlp(6, 8, 1), REGRESSION, ranks_by_pairs),
    Problem("a list's ranks", mlp(6, 8, 1), REGRESSION, list_of_ranks),
    Problem("hardest triplet", mlp(6, 8, 4), VECTORS, hardest_triplet),
    Problem("supervised contrastive", mlp(6, 8, 4), VECTORS, by_label),
    Problem("decorrelation", mlp(6, 8, 4), VECTORS, decorrelated),
    Problem("weights by the largest loss", mlp(6, 8, 3), VECTORS, by_the_largest),
    Problem("a baseline from the batch", mlp(6, 8, 3), VECTORS, with_baseline),
    Problem("weights by the batch's classes", mlp(6, 8, 3), VECTORS, by_frequency),
    Problem("(mean, 1)", mlp(6, 8, 3), VECTORS, mean_of_one),
    Problem("(sum, 1)", mlp(6, 8, 3), VECTORS, sum_of_one),
    Problem("dice over the batch", mlp(6, 8, 3), VECTORS, dice),
    Problem("hardest half", mlp(6, 8, 3), VECTORS, hardest_half),
    Problem("mixed with another example", mlp(6, 8, 3), VECTORS, mixed_up),
    Problem("weights by place", mlp(6, 8, 3), VECTORS, by_place),
    Problem("experts of limited capacity", mlp(6, 8, 3), VECTORS, within_capacity),
    Problem("a metric of the batch", mlp(6, 8, 3), VECTORS, metrics=area_under_curve),
    Problem("a queue of the batch before", Remembering, VECTORS),
    Problem("LSTM with rows for steps", lambda: Recurrent(nn.LSTM, rows_first=False), SEQUENCES),
    Problem("attention over examples", Attending, VECTORS),
    Problem(
        "neighbours in the batch", mlp(6, 8, 3), (*VECTORS, NEIGHBOURS), cross_entropy, adjacent
    ),
    Problem(
        "neighbours, few",
        mlp(6, 8, 3),
        tuple(tensor[:40] for tensor in (*VECTORS, NEIGHBOURS[:, :40])),
        cross_entropy,
        adjacent,
    ),
    Problem("a threshold that few exceed", mlp(6, 8, 3), MANY, outliers_by_half, scaled=3.0),
    Problem(
        "one row of a hundred",
        mlp(6, 8, 3),
        (*MANY, (torch.arange(1200) % 100 == 0).float()),
        flagged_by_size,
    ),
    *(
        Problem(f"the hardest of {n}", mlp(6, 8, 3), (X[:n], LABELS[:n]), hardest_counts_twice)
        for n in (20, 40, 60)
    ),
    Problem("visible padding", two_layers, RAGGED, of_y, pooled(masked=False), collate=padded),
    Problem("a collate that centres", mlp(6, 8, 3), FIXED_ROWS, collate=with_centre),
]

NOT_ROWWISE = [
    Problem("graphs by offsets", two_layers, RAGGED, of_y, graph_network, collate=nodes_joined),
    Problem("lists of tensors", two_layers, RAGGED, cross_entropy, of_lists, collate=as_lists),
    Problem("a list of dicts", two_layers, RAGGED, loss_of_dicts, of_dicts, collate=as_dicts),
    Problem("masked padding", two_layers, RAGGED, of_y, pooled(masked=True), collate=padded),
    Problem(
        "shared leaves", mlp(6, 8, 3), FIXED_ROWS, shared_loss, first_input, collate=with_shared
    ),
    Problem(
        "steps first",
        lambda: Inside(lambda n, x: n["b"](n["a"](x)[0][-1]), a=nn.GRU(6, 5), b=nn.Linear(5, 3)),
        [(SEQUENCES[0][i], int(LABELS[i])) for i in range(COUNT)],
        collate=time_first,
    ),
    Problem(
        "an object of a class",
        mlp(6, 8, 3),
        FIXED_ROWS,
        lambda outputs, batch: cross_entropy(outputs, (None, batch.y)),
        lambda model, batch: model(batch.x),
        collate=lambda rows: Bag(*default_collate(rows)),
    ),
]


def ignoring(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    targets = batch[1]
    losses = functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")
    return losses.sum(1), (targets != -100).sum(1).to(losses)


def ignoring_at_once(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    total = functional.cross_entropy(outputs.transpose(1, 2), batch[1], reduction="sum")
    return total, (batch[1] != -100).sum().to(total)


def honest_pair(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    total = functional.cross_entropy(outputs, batch[1], reduction="sum")
    return total, torch.tensor(float(len(outputs)))


def mean_times_count(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    return functional.mse_loss(outputs.squeeze(1), batch[1]) * len(outputs), torch.tensor(
        float(len(outputs))
    )


def some_without_weight(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    weights = (batch[1] > 0).to(outputs)
    return weights * cross_entropy(outputs, batch), weights


def two_heads(outputs: Any, batch: Any) -> Tensor:
    scores, number = outputs
    return cross_entropy(scores, batch) + 0.1 * (number.squeeze(1) - batch[2]).square()


def weighed_by_row(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    return batch["w"] * of_y(outputs, batch), batch["w"]


def signed(outputs: Tensor, batch: Any) -> Tensor:
    return outputs[:, 0] - outputs[:, 1] * batch[0][:, 0]


def language_model(kind: str) -> Callable[[], nn.Module]:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)
            if kind == "transformer":
                self.net: nn.Module = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
            else:
                self.net = nn.LSTM(8, 8, batch_first=True)

        def forward(self, words: Tensor) -> Tensor:
            hidden = self.embed(words)
            if kind == "lstm":
                return self.head(self.net(hidden)[0])
            size = words.shape[1]
            mask = torch.ones(size, size).triu(1).bool()
            return self.head(self.net(hidden, src_mask=mask))

    return Model


def masked_encoder(model: nn.Module, batch: Any) -> Tensor:
    x, length = batch["x"], batch["length"]
    outside = torch.arange(x.shape[1]) >= length[:, None]
    hidden = model.layers["net"](x, src_key_padding_mask=outside)
    return model.layers["head"](hidden.masked_fill(outside[..., None], 0).sum(1) / length[:, None])


def packed(model: nn.Module, batch: Any) -> Tensor:
    together = nn.utils.rnn.pack_padded_sequence(
        batch["x"], batch["length"], batch_first=True, enforce_sorted=False
    )
    return model.layers["head"](model.layers["net"](together)[1][-1])


def normed_convolutions() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def with_norm(norm: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), norm(), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


def deep(depth: int, act: type[nn.Module]) -> Callable[[], nn.Module]:
    return mlp(6, *[16] * depth, 3, act=act)


class InFloat32(nn.Module):
    """A model whose forward pass leaves float64."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float())


def in_bfloat16(model: nn.Module, batch: Any) -> Tensor:
    weights = [p.bfloat16() for p in model.parameters()]
    hidden = torch.tanh(batch[0].bfloat16() @ weights[0].T + weights[1])
    return (hidden @ weights[2].T + weights[3]).to(batch[0])


def dicts(*, weights: bool = False) -> list[dict[str, Any]]:
    rows = []
    for i in range(COUNT):
        own = {"w": float(i % 3)} if weights else {"name": f"row {i}"}
        rows.append({"x": X[i], "y": int(LABELS[i]), **own})
    return rows


def few(count: int) -> tuple[Tensor, Tensor]:
    return X[:count], LABELS[:count]


def tokens(*, ignored: bool) -> tuple[Tensor, Tensor]:
    words, targets = TOKENS[:, :-1], TOKENS[:, 1:].clone()
    if ignored:
        targets[torch.arange(COUNT)[:, None] % 7 > torch.arange(6)] = -100
    return words, targets


_PLAIN = mlp(6, 8, 3)
_WORDS = {"transformer": language_model("transformer"), "lstm": language_model("lstm")}

ORDINARY = [
    *(
        Problem(f"MLP, {dtype}", _PLAIN, VECTORS, dtype=dtype)
        for dtype in ("float32", "float64", "bfloat16")
    ),
    *(Problem(f"MLP, {n} examples", _PLAIN, few(n)) for n in (1, 2, 3, 4, 5)),
    *(Problem(f"MLP trained {n} steps", _PLAIN, VECTORS, steps=n) for n in (20, 300)),
    *(
        Problem(f"losses near 0, times {k}", _PLAIN, few(20), steps=300, scaled=k)
        for k in (2.0, 5.0, 20.0)
    ),
    Problem("losses near 0, bfloat16", _PLAIN, few(20), steps=300, scaled=3.0, dtype="bfloat16"),
    Problem("all weights 0", _PLAIN, VECTORS, scaled=0.0),
    Problem("accuracy as a metric", _PLAIN, VECTORS, metrics=defaults.metrics, steps=20),
    Problem(
        "accuracy where all weights are 0", _PLAIN, VECTORS, metrics=defaults.metrics, scaled=0.0
    ),
    *(
        Problem(f"deep, {act.__name__}", deep(10, act), VECTORS)
        for act in (nn.ReLU, nn.GELU, nn.SiLU)
    ),
    Problem("deep and steep", deep(12, nn.Tanh), VECTORS, scaled=6.0),
    Problem("no hidden layer", mlp(6, 3), VECTORS),
    Problem("regression", mlp(6, 8, 1), REGRESSION, squared),
    Problem("regression, fitted", mlp(6, 32, 1), (X[:12], REAL[:12]), squared, steps=500),
    Problem("regression, large inputs", mlp(6, 8, 1), (1e4 * X, 1e3 * REAL), squared),
    Problem("regression, one pair a batch", mlp(6, 8, 1), REGRESSION, mean_times_count),
    Problem("one honest pair a batch", _PLAIN, VECTORS, honest_pair),
    Problem("an honest pair, float64", _PLAIN, VECTORS, honest_pair, dtype="float64"),
    Problem("an honest pair, bfloat16", _PLAIN, VECTORS, honest_pair, dtype="bfloat16"),
    Problem("losses of both signs", _PLAIN, VECTORS, signed),
    Problem("examples without weight", _PLAIN, VECTORS, some_without_weight),
    Problem("weights in the data", _PLAIN, dicts(weights=True), weighed_by_row, first_input),
    Problem("dicts with strings", _PLAIN, dicts(), of_y, first_input),
    Problem("named tuples", _PLAIN, [Pair(X[i], int(LABELS[i])) for i in range(COUNT)]),
    Problem(
        "nested rows",
        _PLAIN,
        [(X[i], (int(LABELS[i]), {"deep": REAL[i]})) for i in range(COUNT)],
        lambda outputs, batch: cross_entropy(outputs, (None, batch[1][0])),
    ),
    Problem(
        "two tasks",
        lambda: Inside(lambda n, x: (n["a"](x), n["b"](x)), a=nn.Linear(6, 3), b=nn.Linear(6, 1)),
        (*VECTORS, REAL),
        two_heads,
    ),
    Problem("an own collate that stacks", _PLAIN, FIXED_ROWS, collate=default_collate),
    Problem("CNN", with_norm(nn.Identity), IMAGES),
    Problem("CNN, bfloat16", with_norm(nn.Identity), IMAGES, dtype="bfloat16"),
    Problem("CNN with batch norm", normed_convolutions, IMAGES),
    Problem("CNN with batch norm, float64", normed_convolutions, IMAGES, dtype="float64"),
    Problem("CNN with group norm", with_norm(lambda: nn.GroupNorm(2, 4)), IMAGES),
    Problem("CNN with instance norm", with_norm(lambda: nn.InstanceNorm2d(4)), IMAGES),
    Problem(
        "layer norm",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)),
        VECTORS,
    ),
    Problem(
        "dropout in eval mode",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3)),
        VECTORS,
    ),
    *(
        Problem(f"{kind.__name__}", lambda kind=kind: Recurrent(kind, rows_first=True), SEQUENCES)
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
    ),
    *(
        Problem(f"{name} language model", made, tokens(ignored=False), ignoring)
        for name, made in _WORDS.items()
    ),
    *(
        Problem(f"{name}, ignored tokens", made, tokens(ignored=True), ignoring)
        for name, made in _WORDS.items()
    ),
    *(
        Problem(f"{name}, one pair a batch", made, tokens(ignored=True), ignoring_at_once)
        for name, made in _WORDS.items()
    ),
    Problem(
        "transformer, bfloat16",
        _WORDS["transformer"],
        tokens(ignored=True),
        ignoring,
        dtype="bfloat16",
    ),
    Problem(
        "padded transformer",
        lambda: Inside(
            lambda n, x: n["head"](n["net"](x)),
            net=nn.TransformerEncoderLayer(6, 2, 12, 0.0, batch_first=True),
            head=nn.Linear(6, 3),
        ),
        RAGGED,
        of_y,
        masked_encoder,
        collate=padded,
    ),
    Problem(
        "packed sequences",
        lambda: Inside(lambda n, x: x, net=nn.GRU(6, 5, batch_first=True), head=nn.Linear(5, 3)),
        RAGGED,
        of_y,
        packed,
        collate=padded,
    ),
    Problem(
        "a bag of embeddings",
        lambda: nn.Sequential(nn.EmbeddingBag(9, 5), nn.Linear(5, 3)),
        (TOKENS, LABELS),
    ),
    Problem("a forward pass in float32", InFloat32, VECTORS, narrow=True),
    Problem("a forward pass in bfloat16", _PLAIN, VECTORS, predict=in_bfloat16),
    Problem("the same, steep", _PLAIN, VECTORS, predict=in_bfloat16, scaled=4.0),
    Problem(
        "binary targets",
        mlp(6, 8, 1),
        (X, (REAL > 0).float()),
        lambda o, b: functional.binary_cross_entropy_with_logits(o[:, 0], b[1], reduction="none"),
    ),
    Problem(
        "several labels",
        mlp(6, 8, 4),
        (X, (draw(COUNT, 4, seed=8) > 0).float()),
        lambda o, b: functional.binary_cross_entropy_with_logits(o, b[1], reduction="none").mean(1),
    ),
    Problem("an autoencoder", mlp(6, 3, 6), VECTORS, lambda o, b: (o - b[0]).square().mean(1)),
    Problem(
        "Huber",
        mlp(6, 8, 1),
        REGRESSION,
        lambda o, b: functional.huber_loss(o[:, 0], b[1], reduction="none"),
    ),
    Problem(
        "hinge",
        mlp(6, 8, 3),
        VECTORS,
        lambda o, b: functional.multi_margin_loss(o, b[1], reduction="none"),
    ),
    Problem(
        "label smoothing",
        _PLAIN,
        VECTORS,
        lambda o, b: functional.cross_entropy(o, b[1], label_smoothing=0.1, reduction="none"),
    ),
    Problem(
        "a variance as output",
        mlp(6, 8, 2),
        REGRESSION,
        lambda o, b: o[:, 1] + (o[:, 0] - b[1]).square() * (-2 * o[:, 1]).exp(),
    ),
    Problem(
        "negatives in the row",
        mlp(6, 8, 4),
        (draw(COUNT, 5, 6, seed=9), LABELS * 0),
        lambda o, b: functional.cross_entropy((o[:, :1] * o[:, 1:]).sum(2), b[1], reduction="none"),
    ),
]
