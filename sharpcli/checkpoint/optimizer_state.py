"""What an optimizer remembers of each parameter, in terms of a network's parameters.

State dicts know parameters by number only, in the order of the parameter groups. Nothing is guessed
here: an assignment of numbers to parameters that names or shapes do not determine is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import Checkpoint, Metadata, listed, quoted
from sharpcli.checkpoint.nesting import optimizers_in
from sharpcli.checkpoint.optimizer import is_optimizer
from sharpcli.checkpoint.plain_values import decoded
from sharpcli.checkpoint.renaming import best_names
from sharpcli.checkpoint.safetensors_file import looks_like_safetensors, read_safetensors
from sharpcli.checkpoint.torch_file import read_torch
from sharpcli.errors import SharpError, counted, setting

__all__ = [
    "FORMAT",
    "KEY",
    "NoOptimizerState",
    "OptimizerState",
    "find_optimizer_state",
    "optimizer_file",
    "state_file",
]

FORMAT = "sharpcli-optimizer/1"
KEY = "optimizer"
_BESIDE = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")  # in the weights' folder
# Weights beside which an `optimizer.pt` is theirs: the names of Hugging Face.
_OF_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_PREFIXES = ("optimizer.", "optim.", "")
# Places in all groups that a search for an order looks at: real optimizers need one a parameter.
_MOST_PLACES = 200_000
_MOST_BETAS = 9
_OWN_ORDER = (
    "save the optimizer with its parameters' names: give it model.named_parameters() "
    "(PyTorch 2.6 or later)"
)
_ABSENT = (
    "train with {0}, keep the optimizer's state dict in the checkpoint or as 'optimizer.pt' beside "
    "it, or name its file with {1}"
)


class NoOptimizerState(SharpError):  # noqa: N818 (its name is what it says)
    """There is no state, in the checkpoint or beside it."""


@dataclass(frozen=True)
class OptimizerState:
    """The memory of an optimizer by parameter, each with its group's settings.

    Attributes:
        path: the file that it was read from.
        name: `adam`, `adamw`, `rmsprop`, `adagrad` or `sgd`; None for any other optimizer.
        slots: by parameter, such as `exp_avg`, in the parameter's shape; empty if no step has
            moved it.
        groups: by parameter, the settings of its group, such as `lr` and `betas`.
    """

    path: Path
    name: str | None
    slots: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, Mapping[str, Any]]

    def steps(self, parameter: str) -> float:
        """How many steps moved a parameter.

        Raises:
            SharpError: the state does not have the count.
        """
        slots, group = self.slots[parameter], self.groups[parameter]
        count = slots.get("step", group.get("step"))
        if isinstance(count, Tensor) and count.numel() == 1:
            count = float(count)
        if not isinstance(count, int | float) or count < 1:
            raise SharpError(
                f"{self.path}: has no number of steps for {quoted(parameter)}",
                "save the optimizer's whole state dict",
            )
        return float(count)

    def common(self, name: str) -> Any:
        """A setting that all groups share; None if they differ or lack it."""
        values = [group.get(name) for group in self.groups.values()]
        plain = [_comparable(each) for each in values]
        return values[0] if values and all(each == plain[0] for each in plain) else None


def _comparable(value: Any) -> Any:
    """A setting as scalars; of anything else, which may never end to compare, the object's id."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    parts = list(value) if isinstance(value, list | tuple) and len(value) <= _MOST_BETAS else [[]]
    scalars = all(isinstance(each, bool | int | float | str) for each in parts)
    return parts if scalars else ("object", id(value))


def optimizer_file(checkpoint: Path) -> Path:
    """Where `sharp train` keeps the optimizer's state of a checkpoint.

    It is no `.safetensors` by name, so that a pattern of a shell does not take it for a checkpoint.
    Of a folder, such as a run of a sweep, it is that of the `model.safetensors` in it.
    """
    if checkpoint.is_dir():
        checkpoint = checkpoint / "model.safetensors"
    return checkpoint.with_name(f"{checkpoint.name}.optimizer")


def find_optimizer_state(
    checkpoint: Checkpoint,
    parameters: Mapping[str, Tensor],
    given: str | Path | None = None,
) -> OptimizerState:
    """The state of the optimizer that trained a checkpoint.

    It is read from the file `given`, else from the checkpoint itself, else from a file beside it:
    `FILE.optimizer` of `sharp train`, or `optimizer.pt` in the weights' folder.

    Args:
        checkpoint: the weights.
        parameters: all of the model's by name, in `named_parameters()` order; only shapes and
            `requires_grad` are used.
        given: a file, or a folder that holds it.

    Raises:
        SharpError: there is none, or it does not fit the parameters in exactly one way.

    Cost: one pass over the file; torch files are mapped from disk.
    """
    raw = _read(checkpoint, Path(given)) if given else _beside(checkpoint)
    found = raw.named(parameters)
    for name, slots in found.slots.items():
        for slot, value in slots.items():
            shaped = isinstance(value, Tensor) and value.ndim
            if shaped and value.shape != parameters[name].shape:
                raise SharpError(
                    f"{raw.path}: '{slot}' of {quoted(name)} has the shape {tuple(value.shape)}, "
                    f"the parameter {tuple(parameters[name].shape)}",
                    "name the state that belongs to this checkpoint",
                )
    return found


@dataclass(frozen=True)
class _Raw:
    """A state as a file has it: entries by number or name, listed by each of the groups."""

    path: Path
    name: str | None
    slots: Mapping[Any, Mapping[str, Any]]
    groups: Sequence[Mapping[str, Any]]
    order: Sequence[Sequence[Any]]  # the numbers or names of each group
    names: Sequence[str] | None = None  # of all entries in that order, if the file has them

    def named(self, parameters: Mapping[str, Tensor]) -> OptimizerState:
        """The same by the names of the model's parameters."""
        entries = [entry for group in self.order for entry in group]
        names = self._by_name(entries, parameters) or self._by_order(parameters)
        slots, groups = {}, {}
        for group, members in zip(self.groups, self.order, strict=True):
            for entry in members:
                slots[names[entry]] = self.slots.get(entry, {})
                groups[names[entry]] = group
        return OptimizerState(self.path, self.name, slots, groups)

    def _by_name(self, entries: Sequence[Any], parameters: Mapping[str, Tensor]) -> dict[Any, str]:
        """The parameter of each entry by the names in the file; empty if it has none."""
        stored = self.names or [each for each in entries if isinstance(each, str)]
        if len(stored) != len(entries) or not entries:
            return {}
        found, _ = best_names(stored, parameters)
        back = {old: new for new, old in found.items()}
        unknown = [each for each in stored if back.get(each) not in parameters]
        if unknown:
            raise SharpError(
                f"{self.path}: is of other parameters: the model has no {listed(unknown)}",
                "name the state that belongs to this checkpoint",
            )
        return {entry: back[name] for entry, name in zip(entries, stored, strict=True)}

    def _by_order(self, parameters: Mapping[str, Tensor]) -> dict[Any, str]:
        """The parameter of each number by order and shape.

        Within each group the parameters are in the model's order.

        Raises:
            SharpError: they fit in no way, or in more than one.
        """
        shapes = {entry: _shape(slots) for entry, slots in self.slots.items()}
        count = sum(map(len, self.order))
        trained = {name: each for name, each in parameters.items() if each.requires_grad}
        candidates = [trained] if len(trained) == len(parameters) else [trained, parameters]
        sized = [each for each in candidates if len(each) == count]
        for candidate in sized:
            order = _interleaved(self.order, shapes, list(candidate.items()))
            if order is _AMBIGUOUS:
                raise SharpError(
                    f"{self.path}: its {counted(len(self.order), 'parameter group')} fit the "
                    "model's parameters in more than one way",
                    _OWN_ORDER,
                )
            if order is not None:
                return {entry: name for name, entry in order.items()}
        model = " or ".join(str(len(each)) for each in candidates)
        what = (
            "shapes that do not fit the model's in their order"
            if sized
            else f"{counted(count, 'entry', 'entries')}, and the model {model} parameters"
        )
        raise SharpError(
            f"{self.path}: is of other parameters: it has {what}",
            f"name the state that belongs to this checkpoint, or {_OWN_ORDER}",
        )


_AMBIGUOUS: dict[str, Any] = {}


def _interleaved(
    groups: Sequence[Sequence[Any]],
    shapes: Mapping[Any, Any],
    parameters: Sequence[tuple[str, Tensor]],
) -> dict[str, Any] | None:
    """The only way to merge the groups, each in order, so that all shapes fit.

    None if there is no way, `_AMBIGUOUS` if there are more. An entry without a state fits all.
    """
    layers: list[dict[tuple[int, ...], tuple[int, tuple[int, ...], Any]]]
    layers = [{(0,) * len(groups): (1, (), None)}]
    places = 0
    for _, parameter in parameters:
        found: dict[tuple[int, ...], tuple[int, tuple[int, ...], Any]] = {}
        for place, (ways, *_) in layers[-1].items():
            for which, group in enumerate(groups):
                at = place[which]
                if at == len(group):
                    continue
                shape = shapes.get(group[at])
                if shape is not None and shape != parameter.shape:
                    continue
                after = (*place[:which], at + 1, *place[which + 1 :])
                known = found[after][0] if after in found else 0
                found[after] = (min(known + ways, 2), place, group[at])
        places += len(found)
        if places > _MOST_PLACES:
            return _AMBIGUOUS
        layers.append(found)
    ends = list(layers[-1].items())
    if not ends:
        return None
    ((place, (ways, *_)),) = ends
    if ways > 1:
        return _AMBIGUOUS
    order: dict[str, Any] = {}
    for (name, _), layer in zip(reversed(parameters), reversed(layers[1:]), strict=True):
        _, before, entry = layer[place]
        order[name], place = entry, before
    return order


def _shape(slots: Mapping[str, Any]) -> Any:
    """The shape of a parameter by its slots; None if they do not show it."""
    shaped = (each.shape for each in slots.values() if isinstance(each, Tensor) and each.ndim)
    return next(shaped, None)


def _beside(checkpoint: Checkpoint) -> _Raw:
    """The state in the checkpoint, or in a file beside it."""
    if checkpoint.optimizer is not None:
        return _of_state_dict(checkpoint.path, checkpoint.optimizer)
    path = checkpoint.path
    file = state_file(path)
    if file is not None:
        return _read(checkpoint, file)
    raise NoOptimizerState(
        f"{path}: has no optimizer state, in it or beside it",
        _ABSENT.format(setting("save_optimizer", True), setting("optimizer_state")),
    )


def state_file(checkpoint: Path, given: str | Path | None = None) -> Path | None:
    """The file with the optimizer's state: the `given` one, else one beside the checkpoint."""
    if given:
        return _in_folder(Path(given))
    files = [optimizer_file(checkpoint)]
    if checkpoint.is_dir():
        files += [checkpoint / name for name in _BESIDE]
    elif checkpoint.name.removesuffix(".index.json") in _OF_FOLDERS:
        files += [checkpoint.with_name(name) for name in _BESIDE]
    return next((file for file in files if file.is_file()), None)


def _in_folder(path: Path) -> Path:
    """A file, or the state's file in a folder."""
    if not path.is_dir():
        return path
    inside = [path / name for name in ("model.safetensors.optimizer", *_BESIDE)]
    return next((each for each in inside if each.is_file()), path / _BESIDE[0])


def _read(checkpoint: Checkpoint, path: Path) -> _Raw:
    path = _in_folder(path)
    if not path.is_file():
        raise SharpError(f"{path}: there is no such file", f"check {setting('optimizer_state')}")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}", "check the path") from error
    if looks_like_safetensors(head, path.stat().st_size):
        read = read_safetensors(path)
        if FORMAT in str(read.metadata.get(KEY)):
            return _of_sharp(read, checkpoint)
        return _of_tensors(read)
    loaded = read_torch(path, mapped=True)
    found = loaded if is_optimizer(loaded) else next(optimizers_in(loaded), None)
    if found is None:
        raise SharpError(
            f"{path}: holds no optimizer state",
            "save optimizer.state_dict() in it, alone or under the key 'optimizer'",
        )
    return _of_state_dict(path, found)


def _of_state_dict(path: Path, state: Mapping[str, Any]) -> _Raw:
    """Of `torch.optim.Optimizer.state_dict()`, by number or by name."""
    groups = [each for each in state["param_groups"] if isinstance(each, Mapping)]
    order = [list(group.get("params", ())) for group in groups]
    names = [name for group in groups for name in group.get("param_names") or ()]
    entries = {entry for group in order for entry in group if isinstance(entry, int | str)}
    whole = len(entries) == sum(map(len, order)) and len(groups) == len(state["param_groups"])
    # Lazy or damaged files may have slots that are no mappings.
    slots = {k: v for k, v in state["state"].items() if isinstance(v, Mapping)}
    if not whole or not set(slots) <= entries:
        raise SharpError(
            f"{path}: its optimizer state does not say which entry is of which parameter",
            "save optimizer.state_dict() as it is",
        )
    bare = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in groups]
    full = [str(name) for name in names] if len(names) == len(entries) else None
    return _Raw(path, _kind(slots, bare), slots, bare, order, full)


def _of_sharp(file: Checkpoint, checkpoint: Checkpoint) -> _Raw:
    """Of `FILE.optimizer`, which `sharp train` writes."""
    wrong = SharpError(f"{file.path}: does not hold an optimizer's state", "train again")
    try:
        header = json.loads(str(file.metadata[KEY]))
        kept, of = decoded(header[FORMAT], file.tensors), header["checkpoint"]
        names = [name for name, *_ in kept["parameters"]]
        slots, groups = kept["state"]["state"], kept["state"]["groups"]
        optimizer = kept["name"]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise wrong from error
    if checkpoint.sha256 and of != checkpoint.sha256:
        raise SharpError(
            f"{file.path}: belongs to other weights (SHA-256 {str(of)[:12]}…) than "
            f"{checkpoint.path} holds",
            "train that checkpoint again, or name its own state",
        )
    if len(groups) != 1 or len(slots) != len(names):
        raise SharpError(
            f"{file.path}: is the state of {optimizer}, whose parameters are in groups of its own",
            "only optimizers with one group of parameters can be read",
        )
    by_name = dict(zip(names, slots, strict=True))
    kind = _kind(by_name, groups)
    name = optimizer if kind in ("adam", "adamw") and optimizer in ("adam", "adamw") else kind
    return _Raw(file.path, name, by_name, groups, [names])


def _of_tensors(file: Checkpoint) -> _Raw:
    """Of tensors named `state.PARAMETER.SLOT`, with the settings in the file's metadata."""
    slots: dict[Any, dict[str, Any]] = {}
    for name, tensor in file.tensors.items():
        bare = next(name.removeprefix(each) for each in _PREFIXES if name.startswith(each))
        parameter, _, slot = bare.removeprefix("state.").rpartition(".")
        if not parameter or not bare.startswith("state."):
            raise SharpError(
                f"{file.path}: the tensor {quoted(name)} is not named state.PARAMETER.SLOT",
                "name tensors as in state.layer.weight.exp_avg, with the optimizer's settings "
                "(optimizer, lr, beta1, beta2, eps) in the file's metadata",
            )
        slots.setdefault(int(parameter) if parameter.isdecimal() else parameter, {})[slot] = tensor
    if len({type(entry) for entry in slots}) > 1:
        raise SharpError(f"{file.path}: some parameters have names, some numbers", _OWN_ORDER)
    group = _with_betas(file.metadata)
    order = [sorted(slots)] if all(isinstance(each, int) for each in slots) else [list(slots)]
    named = group.get("optimizer")
    kind = _kind(slots, [{"amsgrad": False, **group} if named in ("adam", "adamw") else group])
    return _Raw(file.path, kind and (str(named) if named else kind), slots, [group], order)


def _with_betas(metadata: Metadata) -> dict[str, Any]:
    """The settings of a group from text and numbers: `betas` as a pair."""
    group: dict[str, Any] = dict(metadata)
    text = str(group.pop("betas", "")).strip("()[] ")
    try:
        betas = [float(each) for each in text.split(",")] if text else []
    except ValueError:
        betas = []
    betas = betas or [group[key] for key in ("beta1", "beta2") if key in group]
    return {**group, **({"betas": tuple(betas)} if len(betas) == 2 else {})}


def _kind(
    slots: Mapping[Any, Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> str | None:
    """Which optimizer it is, by what it remembers and its settings; None for an unknown one.

    RAdam, LAMB and others remember what Adam does; `amsgrad` and `bias_correction` are settings of
    PyTorch's Adam and of its fused variant alone.
    """
    names = {name for each in slots.values() for name in each}
    group = groups[0] if groups else {}
    if {"exp_avg", "exp_avg_sq"} <= names:
        of_adam = "amsgrad" in group or group.get("bias_correction") in (True, 1)
        extra = names - {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}
        if extra or not of_adam or "momentum_decay" in group:
            return None
        decoupled = group.get("decoupled_weight_decay")
        return "adamw" if decoupled else "adam"
    if "square_avg" in names and not names - {"square_avg", "grad_avg", "momentum_buffer", "step"}:
        return "rmsprop" if "alpha" in group or group.get("optimizer") == "rmsprop" else None
    if "sum" in names and not names - {"sum", "step"}:
        return "adagrad"
    # Muon and others have a momentum too, and do other things with it.
    plain = "dampening" in group or group.get("optimizer") == "sgd"
    return "sgd" if plain and not names - {"momentum_buffer"} else None
