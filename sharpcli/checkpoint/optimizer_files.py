"""The files that hold an optimizer's state: where they are, and what each format has in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpcli.checkpoint.contents import Checkpoint, Metadata, quoted
from sharpcli.checkpoint.optimizer import is_optimizer
from sharpcli.checkpoint.optimizer_entries import OWN_ORDER, Entries
from sharpcli.checkpoint.plain_values import decoded
from sharpcli.checkpoint.safetensors_file import looks_like_safetensors, read_safetensors
from sharpcli.checkpoint.torch_file import read_torch
from sharpcli.checkpoint.training_facts import optimizers_in
from sharpcli.errors import SharpError, setting

__all__ = [
    "FORMAT",
    "KEY",
    "NoOptimizerState",
    "entries_beside",
    "optimizer_file",
    "read_entries",
    "state_file",
]

FORMAT = "sharpcli-optimizer/1"
KEY = "optimizer"
_BESIDE = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")  # in the weights' folder
# Weights beside which an `optimizer.pt` is theirs: the names of Hugging Face.
_OF_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_PREFIXES = ("optimizer.", "optim.", "")
_ABSENT = (
    "train with {0}, keep the optimizer's state dict in the checkpoint or as 'optimizer.pt' beside "
    "it, or name its file with {1}"
)


class NoOptimizerState(SharpError):  # noqa: N818 (its name is what it says)
    """There is no state, in the checkpoint or beside it."""


def optimizer_file(checkpoint: Path) -> Path:
    """Where `sharp train` keeps the optimizer's state of a checkpoint.

    It is no `.safetensors` by name, so that a pattern of a shell does not take it for a checkpoint.
    Of a folder, such as a run of a sweep, it is that of the `model.safetensors` in it.
    """
    if checkpoint.is_dir():
        checkpoint = checkpoint / "model.safetensors"
    return checkpoint.with_name(f"{checkpoint.name}.optimizer")


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


def entries_beside(checkpoint: Checkpoint) -> Entries:
    """The state in the checkpoint, or in a file beside it.

    Raises:
        NoOptimizerState: there is none.
    """
    if checkpoint.optimizer is not None:
        return _of_state_dict(checkpoint.path, checkpoint.optimizer)
    path = checkpoint.path
    file = state_file(path)
    if file is not None:
        return read_entries(checkpoint, file)
    raise NoOptimizerState(
        f"{path}: has no optimizer state, in it or beside it",
        _ABSENT.format(setting("save_optimizer", True), setting("optimizer_state")),
    )


def read_entries(checkpoint: Checkpoint, path: Path) -> Entries:
    """The state in a file, or in the usual file of a folder.

    Raises:
        SharpError: there is none, or it is of other weights.
    """
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


def _in_folder(path: Path) -> Path:
    """A file, or the state's file in a folder."""
    if not path.is_dir():
        return path
    inside = [path / name for name in ("model.safetensors.optimizer", *_BESIDE)]
    return next((each for each in inside if each.is_file()), path / _BESIDE[0])


def _of_state_dict(path: Path, state: Mapping[str, Any]) -> Entries:
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
    return Entries(path, _kind(slots, bare), slots, bare, order, full)


def _of_sharp(file: Checkpoint, checkpoint: Checkpoint) -> Entries:
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
    return Entries(file.path, name, by_name, groups, [names])


def _of_tensors(file: Checkpoint) -> Entries:
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
        raise SharpError(f"{file.path}: some parameters have names, some numbers", OWN_ORDER)
    group = _with_betas(file.metadata)
    order = [sorted(slots)] if all(isinstance(each, int) for each in slots) else [list(slots)]
    named = group.get("optimizer")
    kind = _kind(slots, [{"amsgrad": False, **group} if named in ("adam", "adamw") else group])
    return Entries(file.path, kind and (str(named) if named else kind), slots, [group], order)


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
