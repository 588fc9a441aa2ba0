"""Compare a model with the configuration that its tools wrote beside the weights.

Some numbers of a network are in no tensor and change no shape: the number of heads, an activation,
the scale of an adapter. If the task's model has others, the weights fit it all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sharpcli.checkpoint.contents import quoted, read_json
from sharpcli.errors import SharpError

__all__ = ["configuration_notes"]

# What scales or bends an adapter, in the configurations of peft: each makes another network.
_OF_ADAPTERS = (
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern"),
    *("fan_in_fan_out", "alpha", "scaling", "layer_replication"),
)
# What no output in evaluation mode depends on, in those of transformers.
_INDIFFERENT = {
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("initializer_range", "id2label", "label2id", "return_dict", "output_attentions"),
    *("output_hidden_states", "bos_token_id", "eos_token_id", "task_specific_params"),
    *("model_type", "problem_type", "finetuning_task", "gradient_checkpointing"),
}
_MOST = 4  # differences that a message lists


def configuration_notes(path: Path, model: nn.Module) -> list[str]:
    """Notes on what a `config.json` beside a checkpoint says otherwise than the model's own.

    Raises:
        SharpError: an adapter's configuration makes another network than the task's model().

    Cost: two small files are read.
    """
    folder = path if path.is_dir() else path.parent
    notes: list[str] = []
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, Mapping) and adapters:
        active = getattr(model, "active_adapter", None)
        own = adapters.get(active) if isinstance(active, str) else next(iter(adapters.values()))
        table = _table(folder / "adapter_config.json", notes)
        if unlike := _unlike(table, own, set(table) - {*_OF_ADAPTERS}):
            raise SharpError(
                f"{path}: adapter_config.json describes another adapter than the task's model(): "
                f"{_said(unlike)}",
                "let model() take its configuration from the adapter's folder: "
                "peft.PeftConfig.from_pretrained(folder)",
            )
    table = _table(folder / "config.json", notes)
    kind = table.get("model_type")
    configs = (getattr(module, "config", None) for module in model.modules())
    own = next((c for c in configs if kind and getattr(c, "model_type", None) == kind), None)
    if own is not None and (unlike := _unlike(table, own, _INDIFFERENT)):
        notes.append(f"config.json describes another model than the task's: {_said(unlike)}")
    return notes


def _table(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except SharpError as error:
        notes.append(f"not read: {error.message}")
        return {}


def _unlike(
    table: Mapping[str, Any], config: Any, indifferent: Iterable[str]
) -> list[tuple[str, Any, Any]]:
    """The entries that a file and a configuration have both, with other values; both values."""
    own = config.to_dict() if hasattr(config, "to_dict") else {}
    return [
        (name, value, own[name])
        for name, value in table.items()
        if name in own
        and name not in {*indifferent}
        and not name.startswith("_")
        and "drop" not in name
        and _plain(value) != _plain(own[name])
    ]


def _plain(value: Any) -> Any:
    """A value as JSON would have it: a member of an enum as its value, a tuple or set as a list."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return getattr(value, "value", value)


def _said(unlike: list[tuple[str, Any, Any]]) -> str:
    parts = [
        f"{quoted(name)} is {_short(there)} in it and {_short(own)} in the model"
        for name, there, own in unlike
    ]
    more = f" and {len(parts) - _MOST} more" if len(parts) > _MOST else ""
    return "; ".join(parts[:_MOST]) + more


def _short(value: Any) -> str:
    return quoted(str(_plain(value)))
