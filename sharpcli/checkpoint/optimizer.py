"""Read from an optimizer's state dict how the weights were trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import Metadata, is_text, plain_scalar
from sharpcli.settings.training_names import named_settings

__all__ = ["add_optimizer", "is_optimizer", "optimizer_settings", "summarize_optimizer"]

_SETTINGS = ("lr", "weight_decay", "momentum", "eps", "nesterov", "amsgrad")
_MOST_BETAS = 9


def is_optimizer(value: object) -> bool:
    """Whether `value` has the layout of `torch.optim.Optimizer.state_dict()`."""
    if not isinstance(value, Mapping):
        return False
    groups = value.get("param_groups")
    return (
        isinstance(groups, list)
        and bool(groups)
        and isinstance(groups[0], Mapping)  # only this group is read
        and isinstance(value.get("state"), Mapping)
    )


def optimizer_settings(optimizer: Mapping[str, Any]) -> Metadata:
    """Group 0's settings: `optimizer` (if known), `lr`, `betas` as text, `beta1` and so on.

    `lr` is the rate that a schedule began with, or OneCycleLR's largest; `lr_now` the last one, if
    it differs.
    """
    group = optimizer["param_groups"][0]
    settings: Metadata = {}
    kind = _kind(optimizer)
    if kind is not None:
        settings["optimizer"] = kind
    for name in _SETTINGS:
        value = plain_scalar(group.get(name))
        if value is not None:
            settings[name] = value
    asked = plain_scalar(group.get("max_lr" if "min_lr" in group else "initial_lr"))
    if isinstance(asked, int | float) and "lr" in settings and asked != settings["lr"]:
        settings = {**settings, "lr": asked, "lr_now": settings["lr"]}
    betas = group.get("betas")
    if isinstance(betas, list | tuple) and len(betas) <= _MOST_BETAS:
        plain = [beta for beta in map(plain_scalar, betas) if isinstance(beta, int | float)]
        if len(plain) == len(betas):
            settings["betas"] = ",".join(str(beta) for beta in plain)
            settings.update({f"beta{i}": float(beta) for i, beta in enumerate(plain, start=1)})
    return settings


def add_optimizer(metadata: Metadata, optimizer: Mapping[str, Any]) -> None:
    """Add an optimizer's settings to the metadata beside it, which say what was asked for.

    An `lr` there stays; the optimizer's last one is then `lr_now`.
    """
    for name, value in named_settings(metadata).items():
        if not name.startswith("batch_size"):
            metadata.setdefault(name, value)
    settings = optimizer_settings(optimizer)
    now = settings.get("lr_now", settings.get("lr"))
    for name, value in settings.items():
        metadata.setdefault(name, value)
    if now is not None and metadata["lr"] != now:
        metadata["lr_now"] = now


def summarize_optimizer(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and the number of parameter groups, tensors and bytes in the state."""
    tensors = list(_tensors(optimizer["state"]))
    return {
        **optimizer_settings(optimizer),
        "groups": len(optimizer["param_groups"]),
        "state": sorted({name for name, _ in tensors if is_text(name)}),
        "tensors": len(tensors),
        "bytes": sum(tensor.numel() * tensor.element_size() for _, tensor in tensors),
    }


def _kind(optimizer: Mapping[str, Any]) -> str | None:
    group = optimizer["param_groups"][0]
    names = {name for name, _ in _tensors(optimizer["state"])}
    if {"exp_avg", "exp_avg_sq"} <= names and not names - {
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "step",
    }:
        decoupled = group.get("decoupled_weight_decay")
        if decoupled is not None:
            return "adamw" if decoupled else "adam"
        # Without weight decay the two are the same; with it, older files do not say which it is.
        return "adam" if not group.get("weight_decay") else None
    if "square_avg" in names and "alpha" in group:
        return "rmsprop"
    if "sum" in names and "lr_decay" in group:
        return "adagrad"
    if "momentum" in group and "nesterov" in group and "betas" not in group:
        return "sgd"
    return None


def _tensors(state: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for slots in state.values():
        if isinstance(slots, Mapping) and id(slots) not in seen:
            seen.add(id(slots))
            for name, value in slots.items():
                if isinstance(value, Tensor):
                    yield str(name), value
