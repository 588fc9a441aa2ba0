"""How the command line writes the settings that messages name: as options."""

from __future__ import annotations

from typing import Any

__all__ = ["as_option"]

# Settings whose option is not their own name.
_OPTIONS = {
    "batch_norm.mode": "--batch-norm",
    "directions.kind": "--directions",
    "epsilons": "--epsilon",
    "marks": "--mark",
    "measures": "-m",
    "optimizer_options": "-P",
    "path.kind": "--path",
    "path.seed": "--seed",
    "ranges": "--range",
    "rewrite": "--as",
    "subspaces": "--subspace",
    "task.name": "--task",
    "trajectories": "--trajectory",
}


def as_option(name: str, value: Any = ...) -> str:
    """What `sharpcli.errors.setting` gives on the command line: `--max-products`, `-O width=64`."""
    for group, short in (("optimizer_options.", "-P"), ("options.", "-O")):
        _, of_it, own = name.partition(group)
        if of_it:
            return f"{short} {own}" if value is ... else f"{short} {own}={value}"
    group, _, own = name.rpartition(".")
    if (name, value) == ("format", "json"):
        return "--json"
    if group in ("path", "batch_norm"):  # these options keep the group's name
        own = f"{group}.{own}"
    option = _OPTIONS.get(name) or _OPTIONS.get(own) or "--" + own.translate(_DASHES)
    if value is ... or value is True:
        return option
    if value is False:
        return option.replace("--", "--no-", 1)
    if isinstance(value, list):
        return " ".join(f"{option} {each}" for each in value)
    # The shell would expand a pattern.
    return f"{option} '{value}'" if name == "parameters" else f"{option} {value}"


_DASHES = str.maketrans("._", "--")
