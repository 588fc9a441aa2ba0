"""Models whose forward pass reaches weights by unusual ways, each with its plain float64 reference.

`ZOO` has a builder by name and what is right for it: the numbers of plain PyTorch, or a refusal.
All take rows of six numbers and give three logits.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import RunSettings
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from sharpcli.curvature import make_operator
from sharpcli.errors import SharpError
from sharpcli.runs.preflight import ready
from sharpcli.runs.studies import Studies, load
from sharpcli.tasks import Task, defaults

ROWS = 24


@dataclass(frozen=True)
class Case:
    """How the model is built; `plain` is the same network without the unusual way.

    `refused` is a word that the refusal has to have, None where the numbers have to be right. With
    `double` it is built in float64, as constants of its own ask for.
    """

    build: Callable[[], nn.Module]
    plain: Callable[[], nn.Module] | None = None
    refused: str | None = None
    tokens: bool = False
    double: bool = False


@dataclass(frozen=True)
class Verdict:
    """`kind` is right, refused or wrong; `error` the largest relative one of the numbers."""

    kind: str
    said: str = ""
    error: float = 0.0


def _numbers(*shape: int) -> Tensor:
    """The same numbers in every dtype, neither zero nor equal."""
    count = torch.Size(shape).numel()
    return (
        torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * 1.7)
        .reshape(shape)
        .to(torch.get_default_dtype())
    )


class _Net(nn.Module):
    """Two linear layers and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.g = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.g)


class _Closure(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda hidden: hidden * self.g

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.scale(self.a(x).tanh()))


class _ClosureOfLayers(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.body = lambda x: self.b(self.a(x).tanh() * self.g)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _ClosureOfDropout(_Net):
    """The closure holds a module of the model that was built, which is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.body = lambda x: self.drop(self.a(x).tanh()) * self.g

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.body(x))


def _scaled(weight: Tensor, hidden: Tensor) -> Tensor:
    return hidden * weight


class _Partial(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = functools.partial(_scaled, self.g)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.scale(self.a(x).tanh()))


class _BoundMethod(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.run = self.body

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.g)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class _Holder(_Net):
    """The scale and a weight are read from something that holds them beside the module."""

    def __init__(self, hold: Callable[[Tensor, Tensor], Any], read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.held, self.read = hold(self.g, self.a.weight), read

    def forward(self, x: Tensor) -> Tensor:
        scale, weight = self.read(self.held)
        return self.b(functional.linear(x, weight, self.a.bias).tanh() * scale)


@dataclass
class _Record:
    scale: Tensor
    weight: Tensor


class _Slots:
    __slots__ = ("scale", "weight")

    def __init__(self, scale: Tensor, weight: Tensor) -> None:
        self.scale, self.weight = scale, weight


def _by_pre_hook() -> nn.Module:
    net = _Net()
    net.b.register_forward_pre_hook(lambda module, inputs: (inputs[0] * net.a.bias,))
    return net


def _by_hook() -> nn.Module:
    net = _Net()
    net.a.register_forward_hook(lambda module, inputs, output: output * net.g)
    return net


class _Hooked(_Net):
    """What `_by_hook` computes, written out."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.a(x) * self.g).tanh() * self.g)


class _PreHooked(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.g * self.a.bias)


_GLOBAL: dict[str, Any] = {}


class _Global(_Net):
    def __init__(self) -> None:
        super().__init__()
        _GLOBAL["scale"] = self.g

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * _GLOBAL["scale"])


class _GlobalModule(_Net):
    def __init__(self) -> None:
        super().__init__()
        _GLOBAL["layer"] = self.b

    def forward(self, x: Tensor) -> Tensor:
        return _GLOBAL["layer"](self.a(x).tanh() * self.g)


class _ListOfRegistered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(6, 5), nn.Linear(5, 3)]
        for index, layer in enumerate(self.layers):
            self.add_module(f"layer{index}", layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](x).tanh())


class _PlainList(_Net):
    """A list hides its layers from the state dict."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.hidden = [nn.Linear(5, 5, bias=False)]
        self.hidden[0].weight.data = _numbers(5, 5)
        self.hidden[0].requires_grad_(trained)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.hidden[0](self.a(x)).tanh() * self.g)


class _Unregistered(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.free = _numbers(5).requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.g * self.free)


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        self.again = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.again(self.a(x).tanh()).tanh())


class _TiedInList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.head = nn.Linear(6, 3)
        self.tied = [self.b.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).tanh()) @ self.tied[0].T)


class _ViewAtConstruction(_Net):
    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.turned = self.a.weight.data.t() if detached else self.a.weight.t()

    def forward(self, x: Tensor) -> Tensor:
        return self.b((x @ self.turned + self.a.bias).tanh() * self.g)


class _BufferFromWeight(_Net):
    """A constant that was made of the first weights, and is in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", self.g.detach() * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * (self.g + self.start))


class _AliasBuffer(_Net):
    """A buffer in the memory of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alias", self.g.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.alias)


class _CachedInForward(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = self.a.weight.t() * 2
        return self.b((x @ self.cache + self.a.bias).tanh() * self.g)


class _CachedByLoad(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.turned = self.g.detach().clone()
        self.register_load_state_dict_post_hook(_keep_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.turned)


def _keep_scale(module: Any, _: Any) -> None:
    module.turned = module.g.detach().clone()


class _Checkpointed(_Net):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda inputs: self.a(inputs).tanh() * self.g, x, **self.how)
        return checkpoint(self.b, hidden, **self.how)


class _Sequence(nn.Module):
    def __init__(self, segments: int, **how: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)
        )
        self.segments, self.how = segments, how

    def forward(self, x: Tensor) -> Tensor:
        if not self.segments:
            return self.layers(x)
        return checkpoint_sequential(self.layers, self.segments, x, **self.how)


class _Recomputed(torch.autograd.Function):
    """A layer that is run again in the backward pass, as memory-saving code of one's own does."""

    @staticmethod
    def forward(ctx: Any, layer: Any, inputs: Tensor, *weights: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(inputs)
        with torch.no_grad():
            return layer(inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        inputs = ctx.saved_tensors[0].detach().requires_grad_()
        weights = list(ctx.layer.parameters())
        with torch.enable_grad():
            outputs = ctx.layer(inputs)
        return None, *torch.autograd.grad(outputs, [inputs, *weights], slope)


class _OwnRecomputation(_Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x).tanh() * self.g
        return _Recomputed.apply(self.b, hidden, *self.b.parameters())


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, scale)
        return hidden * scale

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        hidden, scale = ctx.saved_tensors
        return slope * scale, (slope * hidden).sum(0)


class _FunctionOfStray(_Net):
    """A function of one's own is handed a parameter that a list holds."""

    def __init__(self) -> None:
        super().__init__()
        self.held = [self.g]

    def forward(self, x: Tensor) -> Tensor:
        return self.b(_Scale.apply(self.a(x).tanh(), self.held[0]))


class _GradientHook(_Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x).tanh()
        if hidden.requires_grad:
            hidden.register_hook(lambda slope: 2 * slope)
        return self.b(hidden * self.g)


def _clipped() -> nn.Module:
    """Hooks on parameters change what an optimizer sees, not the loss's gradient."""
    net = _Net()
    for parameter in net.parameters():
        parameter.register_hook(lambda slope: slope.clamp(-1e-3, 1e-3))
    return net


class _Rounded(_Net):
    """Rounding with a straight-through gradient."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.b.weight
        rounded = weight + ((weight * 8).round() / 8 - weight).detach()
        return functional.linear(self.a(x).tanh() * self.g, rounded, self.b.bias)


class _Detached(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.g.detach())


class _Twice(_Net):
    """A function that is compiled, as a decorator would."""

    def __init__(self) -> None:
        super().__init__()
        self.act = torch.compile(lambda hidden: hidden.tanh() * self.g, backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


class _CompiledMethod(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.run = torch.compile(self.body, backend="aot_eager")

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh() * self.g)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def _compiled_part() -> nn.Module:
    net = _Net()
    net.a = torch.compile(net.a, backend="aot_eager")  # type: ignore[assignment]
    return net


def _compiled_part_plain() -> nn.Module:
    net = _Net()
    net.a = nn.ModuleDict({"_orig_mod": net.a})  # type: ignore[assignment]
    net.a.forward = net.a["_orig_mod"].forward  # type: ignore[index,operator,method-assign]
    return net


def _compiled_in_place() -> nn.Module:
    net = _Net()
    net.compile(backend="aot_eager")
    return net


class _Wrapped(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, _Net())

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


def _scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))


class _TracedPart(_Net):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.ones(2, 5)
            self.traced = torch.jit.trace(lambda hidden: hidden * self.g.data, example)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.traced(self.a(x).tanh()))


class _FunctionalCall(_Net):
    """The module is called on a dictionary of its parameters, taken at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.own = {"weight": self.b.weight, "bias": self.b.bias}

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.b, self.own, (self.a(x).tanh() * self.g,))


class _Ensemble(nn.Module):
    """Three members run as one by vmap."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))
        self.stacked = stacked

    def forward(self, x: Tensor) -> Tensor:
        if not self.stacked:
            return torch.stack([member(x).tanh() for member in self.members]).sum(0)
        names = ("weight", "bias")
        stacked = {k: torch.stack([getattr(m, k) for m in self.members]) for k in names}
        run = vmap(lambda own: functional_call(self.members[0], own, (x,)).tanh())
        return run(stacked).sum(0)


class _StackedAtConstruction(_Ensemble):
    def __init__(self) -> None:
        super().__init__(True)
        self.stack, _ = stack_module_state(list(self.members))

    def forward(self, x: Tensor) -> Tensor:
        run = vmap(lambda own: functional_call(self.members[0], own, (x,)).tanh())
        return run(self.stack).sum(0)


class _Words(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        more = {"sparse": {"sparse": True}, "max_norm": {"max_norm": 0.5}}.get(kind, {})
        self.words, self.head, self.kind = nn.Embedding(7, 4, **more), nn.Linear(4, 3), kind
        self.held = [self.words.weight]

    def forward(self, words: Tensor) -> Tensor:
        if self.kind == "function":
            found = functional.embedding(words, self.held[0], sparse=True)
        else:
            found = self.words(words)
        return self.head(found.mean(1).tanh())


class _Complex(nn.Module):
    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.odd = nn.Parameter(torch.ones(3))
        kind = torch.complex128 if torch.get_default_dtype() == torch.float64 else torch.complex64
        self.w = nn.Parameter(_numbers(6, 3, 2) if pairs else torch.zeros(6, 3, dtype=kind))

    def forward(self, x: Tensor) -> Tensor:
        w = self.w if self.w.is_complex() else torch.view_as_complex(self.w)
        return (x.to(w.dtype) @ w).abs().square() * self.odd


class _Locked(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class _Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([_numbers(6, 5), _numbers(5, 3)])
        self.rest = nn.ParameterDict({"bias": _numbers(3)})

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weights[0]).tanh() @ self.weights[1] + self.rest["bias"]


class _Hyper(nn.Module):
    """One layer's weights are another layer's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.inner = nn.Linear(4, 18), nn.Linear(6, 3)
        self.code = nn.Parameter(_numbers(4))

    def forward(self, x: Tensor) -> Tensor:
        weights = {"weight": self.make(self.code).view(3, 6).tanh(), "bias": self.inner.bias}
        return functional_call(self.inner, weights, (x,)) + self.inner(x)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.run, self.head = nn.LSTM(2, 3, num_layers=2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x.view(-1, 3, 2).transpose(0, 1))[0][-1])


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.TransformerEncoderLayer(2, 1, 3, dropout=0.1, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x.view(-1, 3, 2)).flatten(1))


class _Padded(nn.Module):
    """Tokens by the signs of the inputs; no mask keeps the loss from seeing the padding's row."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tokens, self.last = nn.Embedding(3, 5, padding_idx=0), nn.Linear(5, 3)
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tanh(self.tokens((x > 0).long() + (x > 1).long())).mean(1)
        return functional.linear(mean, self.tokens.weight) if self.tied else self.last(mean)


class _PaddedByFunction(_Padded):
    """The same row kept for padding, by the function's argument."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__(tied)
        self.tokens = nn.Embedding(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        places = (x > 0).long() + (x > 1).long()
        found = functional.embedding(places, self.tokens.weight, padding_idx=-3)
        mean = torch.tanh(found).mean(1)
        return functional.linear(mean, self.tokens.weight) if self.tied else self.last(mean)


class _Bag(nn.Module):
    """Bags of tokens by the signs of the inputs; `plain` takes the rows one by one."""

    def __init__(self, mode: str, plain: bool = False, **how: Any) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(9, 5, mode=mode, **how), nn.Linear(5, 3)
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        places = (x > 0).long() + (x > 1).long() + 3 * torch.arange(6).remainder(3)
        if not self.plain:
            return self.last(torch.tanh(self.bag(places)))
        rows = self.bag.weight[places]
        if self.bag.mode == "max":
            return self.last(torch.tanh(rows.max(1).values))
        total = rows.sum(1)
        return self.last(torch.tanh(total / 6 if self.bag.mode == "mean" else total))


class _Normed(nn.Module):
    """Weight norm as it is defined: PyTorch's own has a wrong second derivative."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return g * v / v.norm(dim=1, keepdim=True)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.norm(dim=1, keepdim=True), weight


class _InnerStep(nn.Module):
    """A step of gradient descent on a fixed set inside the forward pass, as in MAML."""

    def __init__(self, grad: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.grad = nn.Linear(6, 5), nn.Linear(5, 3), grad
        self.register_buffer("support", torch.linspace(-1, 1, 24).view(4, 6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.grad:
            with torch.enable_grad():
                return self._adapted(x)
        return self._adapted(x)

    def _adapted(self, x: Tensor) -> Tensor:
        inner = self.last(torch.tanh(self.first(self.support))).square().mean()
        (slope,) = torch.autograd.grad(inner, self.last.weight, create_graph=True)
        hidden = torch.tanh(self.first(x))
        return functional.linear(hidden, self.last.weight - 0.3 * slope, self.last.bias)


class _Force(nn.Module):
    """The slope of an energy in the inputs, which the model itself differentiates in."""

    def __init__(self, by_flag: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
        self.by_flag = by_flag

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().clone()
        if self.by_flag:
            x.requires_grad = True
        else:
            x.requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return slope[:, :3]


class _OwnSlope(nn.Module):
    """The slope of a network in its inputs, by `torch.func`, which forbids to look at graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.func.grad(lambda row: self.net(row).sum())
        return torch.vmap(slope)(x)[:, :3]


def _sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def _by(change: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    """Two layers, of which `change` is done to each linear one."""

    def build() -> nn.Module:
        net = _sequential()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            change(net[0])
            change(net[2])
        return net

    return build


def _normed(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", _Normed())


def _held(
    hold: Callable[[Tensor, Tensor], Any], read: Callable[[Any], Any]
) -> Callable[[], nn.Module]:
    return lambda: _Holder(hold, read)


_both = tuple[Tensor, Tensor]


def _slots(held: Any) -> _both:
    return held.scale, held.weight


ZOO: dict[str, Case] = {
    "closure": Case(_Closure),
    "slope by torch.func": Case(_OwnSlope, _OwnSlope),
    "step inside the forward pass": Case(_InnerStep, _InnerStep),
    "step inside with gradients on": Case(lambda: _InnerStep(True), _InnerStep),
    "force of an energy": Case(_Force, _Force),
    "force by the flag": Case(lambda: _Force(True), _Force),
    "padding that is seen": Case(_Padded, _Padded),
    "padding by a function": Case(_PaddedByFunction, _PaddedByFunction),
    "padding whose row is used elsewhere": Case(lambda: _Padded(True), refused="padding_idx"),
    "padding by a function, used elsewhere": Case(
        lambda: _PaddedByFunction(True), refused="row 0 of 'tokens.weight' is padding"
    ),
    "bag of means": Case(lambda: _Bag("mean"), lambda: _Bag("mean", True)),
    "bag of sums, sparse": Case(lambda: _Bag("sum", sparse=True), lambda: _Bag("sum", True)),
    "bag of maxima": Case(lambda: _Bag("max"), lambda: _Bag("max", True)),
    "closure of layers": Case(_ClosureOfLayers),
    "closure of a dropout layer": Case(_ClosureOfDropout, _Net),
    "partial": Case(_Partial),
    "bound method": Case(_BoundMethod),
    "list": Case(_held(lambda g, w: [g, w], tuple)),
    "tuple": Case(_held(lambda g, w: (g, w), tuple)),
    "dictionary": Case(_held(lambda g, w: {"g": g, "w": w}, lambda held: held.values())),
    "dictionary of lists": Case(_held(lambda g, w: {"all": [g, w]}, lambda held: held["all"])),
    "object": Case(_held(lambda g, w: SimpleNamespace(scale=g, weight=w), _slots)),
    "dataclass": Case(_held(_Record, _slots)),
    "object with slots": Case(_held(_Slots, _slots)),
    "frozen dataclass": Case(
        _held(dataclasses.make_dataclass("Frozen", ["scale", "weight"], frozen=True), _slots)
    ),
    "function": Case(_held(lambda g, w: lambda: (g, w), lambda held: held())),
    "forward hook": Case(_by_hook, _Hooked),
    "forward pre-hook": Case(_by_pre_hook, _PreHooked),
    "global parameter": Case(_Global),
    "global module": Case(_GlobalModule),
    "list of registered modules": Case(_ListOfRegistered),
    "list of modules": Case(lambda: _PlainList(True), refused="hidden[0].weight", double=True),
    "list of fixed modules": Case(lambda: _PlainList(False), double=True),
    "trainable tensor": Case(_Unregistered, refused="free"),
    "shared module": Case(_Shared),
    "tied weight in a list": Case(_TiedInList),
    "ParameterList and ParameterDict": Case(_Lists),
    "weights made by a network": Case(_Hyper),
    "LSTM": Case(_Recurrent),
    "transformer layer": Case(_Attention),
    "DataParallel": Case(lambda: nn.DataParallel(_Net())),
    "weight norm": Case(_by(parametrizations.weight_norm), _by(_normed)),
    "orthogonal": Case(_by(parametrizations.orthogonal)),
    "spectral norm": Case(_by(parametrizations.spectral_norm)),
    "weight norm by hooks": Case(_by(nn.utils.weight_norm), _by(_normed)),
    "spectral norm by hooks": Case(_by(nn.utils.spectral_norm)),
    "pruned": Case(_by(lambda layer: prune.l1_unstructured(layer, "weight", 0.4))),
    "transposed when built": Case(lambda: _ViewAtConstruction(False), refused="turned"),
    "transposed without a graph when built": Case(
        lambda: _ViewAtConstruction(True), refused="a.weight", double=True
    ),
    "buffer from a weight": Case(_BufferFromWeight),
    "buffer that is a weight": Case(_AliasBuffer, refused="'g'"),
    "kept from an earlier pass": Case(_CachedInForward, refused="a.weight"),
    "kept when loaded": Case(_CachedByLoad, refused="'g'"),
    "checkpointed": Case(lambda: _Checkpointed(use_reentrant=False), _Net),
    "checkpointed, reentrant": Case(lambda: _Checkpointed(use_reentrant=True), _Net),
    "checkpointed with a context": Case(
        lambda: _Checkpointed(
            use_reentrant=False,
            context_fn=lambda: (torch.enable_grad(), torch.enable_grad()),
            preserve_rng_state=False,
        ),
        _Net,
    ),
    "checkpoint_sequential": Case(lambda: _Sequence(2, use_reentrant=False), lambda: _Sequence(0)),
    "checkpoint_sequential, reentrant": Case(
        lambda: _Sequence(3, use_reentrant=True), lambda: _Sequence(0)
    ),
    "recomputed by its own function": Case(_OwnRecomputation, _Net, refused="'g'"),
    "own function of a list's parameter": Case(_FunctionOfStray, _Net, refused="'g'"),
    "gradient hook": Case(_GradientHook, refused="slope"),
    "clipped gradients": Case(_clipped, _Net),
    "straight-through rounding": Case(_Rounded, refused="b.weight"),
    "detached": Case(_Detached, refused="'g'"),
    "compiled": Case(
        lambda: torch.compile(_Net(), backend="aot_eager"),  # type: ignore[arg-type,return-value]
        lambda: _Wrapped("_orig_mod"),
    ),
    "compiled in place": Case(_compiled_in_place, _Net),
    "compiled function": Case(_Twice, _Net),
    "compiled method": Case(_CompiledMethod, _Net),
    "compiled layer": Case(_compiled_part, _compiled_part_plain),
    "scripted": Case(_scripted, _sequential),
    "traced part": Case(_TracedPart, refused="copied"),
    "graph module": Case(lambda: torch.fx.symbolic_trace(_Net()), _Net),
    "functional call on a dictionary": Case(_FunctionalCall),
    "ensemble by vmap": Case(lambda: _Ensemble(True), lambda: _Ensemble(False)),
    "ensemble stacked when built": Case(_StackedAtConstruction, refused="stack", double=True),
    "sparse embedding": Case(lambda: _Words("sparse"), lambda: _Words(""), tokens=True),
    "sparse embedding by a function": Case(
        lambda: _Words("function"), lambda: _Words(""), tokens=True
    ),
    "renormalised embedding": Case(lambda: _Words("max_norm"), refused="words.weight", tokens=True),
    "complex": Case(lambda: _Complex(False)),
    "pairs seen as complex": Case(lambda: _Complex(True)),
    "lock": Case(_Locked, refused="copied"),
}


def data(case: Case) -> tuple[Tensor, Tensor]:
    """Rows and classes."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, 3, (ROWS,), generator=generator)
    if case.tokens:
        return torch.randint(0, 7, (ROWS, 4), generator=generator), targets
    return torch.randn(ROWS, 6, generator=generator), targets


def task(name: str) -> Task:
    """The case as a task."""
    case = ZOO[name]
    return Task(
        name,
        {},
        name,
        lambda: _seeded(case.build, double=case.double),
        lambda split: data(case) if split == "train" else None,
        defaults.predict,
        defaults.loss_for(name),
        None,
    )


def _seeded(build: Callable[[], nn.Module], *, double: bool) -> nn.Module:
    """A model with the same first weights at every call, those of float64 where asked for."""
    kind = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64 if double else kind)
        try:
            return build()
        finally:
            torch.set_default_dtype(kind)


def state(name: str) -> dict[str, Tensor]:
    """A checkpoint whose numbers differ from the model's own, but for masks; ties stay ties."""
    generator = torch.Generator().manual_seed(2)
    found: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for key, tensor in _seeded(ZOO[name].build, double=True).state_dict().items():
        twin = first.setdefault(tensor.data_ptr(), key)
        moved = 0.4 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        changed = tensor if key.endswith("_mask") else tensor + moved
        found[key] = found[twin].clone() if twin != key else changed
    return found


@dataclass(frozen=True)
class Numbers:
    """Loss, gradient (n,), top eigenvalues of the Hessian and of the Gauss-Newton matrix."""

    loss: float
    gradient: Tensor
    hessian: float
    gauss_newton: float


def reference(name: str) -> Numbers:
    """Plain PyTorch in float64, built and loaded as its user would; dense matrices."""
    case, tensors = ZOO[name], state(name)
    model = _seeded(case.plain or case.build, double=True)
    model.load_state_dict(_renamed(tensors, model))
    model.eval()
    inputs, targets = data(case)
    inputs = inputs if case.tokens else inputs.double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        outputs = model(inputs)
    loss = functional.cross_entropy(outputs, targets)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    # Times one: a row of the Hessian must not start at an odd place where it is seen as complex.
    gradient = torch.cat([_reals(slope) * 1 for slope in slopes])
    hessian = torch.stack([_row(entry, parameters) for entry in gradient])
    jacobian = torch.stack([_row(entry, parameters) for entry in outputs.reshape(-1)])
    chances = outputs.detach().softmax(1)
    bends = torch.block_diag(*[torch.diag(p) - torch.outer(p, p) for p in chances]) / len(inputs)
    matrix = jacobian.T @ bends @ jacobian
    return Numbers(
        float(loss),
        gradient.detach(),
        float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]),
        float(torch.linalg.eigvalsh(matrix)[-1]),
    )


def _renamed(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors in the names of a plain twin, which has them in the same order."""
    wanted = model.state_dict()
    if set(wanted) == set(tensors):
        return tensors
    return dict(zip(wanted, tensors.values(), strict=True))


def _reals(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)


def _row(entry: Tensor, parameters: list[Tensor]) -> Tensor:
    if not entry.requires_grad:
        return torch.zeros(sum(_reals(p).numel() for p in parameters), dtype=torch.float64)
    parts = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([_reals(part) for part in parts])


def measured(name: str, folder: Path) -> Numbers:
    """The same numbers as `sharp measure --dtype float64` makes them; raises where it refuses."""
    path = folder / "checkpoint.pt"
    torch.save(state(name), path)
    run = RunSettings(dtype="float64", device="cpu")
    found = load(path, Studies(task(name), {}, run, torch.device("cpu")))
    notes: list[str] = []
    objective = ready(found, CurvatureSettings(), notes)["train"]
    if notes:
        raise AssertionError(notes)
    loss, gradient = objective.gradient(found.theta)
    tops = []
    for operator in ("hessian", "ggn"):
        settings = CurvatureSettings(operator=operator)  # type: ignore[arg-type]
        matrix = make_operator(objective, found.theta, settings) @ torch.eye(
            objective.size, dtype=torch.float64
        )
        tops.append(float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]))
    return Numbers(loss, gradient, *tops)


def judge(name: str, folder: Path) -> Verdict:
    """Whether what is measured is right, or refused for the right reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = measured(name, folder)
        except SharpError as error:
            said = f"{error.message} {error.hint}"
            wanted = ZOO[name].refused
            return Verdict("refused" if wanted and wanted in said else "falsely refused", said)
        true = reference(name)
    error = max(
        abs(found.loss - true.loss) / abs(true.loss),
        float((found.gradient - true.gradient).norm() / true.gradient.norm()),
        abs(found.hessian - true.hessian) / abs(true.hessian),
        abs(found.gauss_newton - true.gauss_newton) / abs(true.gauss_newton),
    )
    return Verdict("right" if error <= 1e-6 else "wrong", error=error)
