"""One name for each setting of a training, whichever tool wrote the checkpoint.

`learning_rate` of Hugging Face, `lr` of PyTorch's optimizers and `base_lr` of a script are one
column of a table. The names here are those of `sharp train`. What the file called them stays in the
metadata of the JSON document; what is no choice of a training stays out of tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "FROM_ARGUMENTS",
    "FROM_CONFIG",
    "OUTCOMES",
    "add_names",
    "epoch_of",
    "is_choice",
    "is_common",
    "named_settings",
    "shown_name",
    "step_of",
]

# Before the name of a setting of transformers' TrainingArguments, and of a config.json.
FROM_ARGUMENTS, FROM_CONFIG = "training_args.", "config."

# What other tools call a setting; the first one that a file has is taken.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("optim", "optimizer_name"),
    "lr": ("learning_rate", "base_lr", "init_lr"),
    "schedule": ("lr_scheduler_type", "lr_scheduler", "lr_schedule", "sched"),
    "weight_decay": ("wd",),
    "momentum": ("sgd_momentum",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "eps": ("adam_epsilon", "adam_eps", "opt_eps"),
    "clip_norm": ("max_grad_norm", "gradient_clip_val", "clip_grad"),
    "label_smoothing": ("label_smoothing_factor",),
    "warmup_steps": ("num_warmup_steps", "warmup_iters"),
    "warmup_ratio": (),
    "max_steps": ("max_train_steps", "num_training_steps", "max_iters"),
    "max_epochs": ("num_train_epochs", "num_epochs", "n_epochs"),
    "seed": (),
    "steps": ("global_step", "iter_num"),
}
# Of these a value that is not positive says that the setting is not used.
_POSITIVE = {"max_steps", "max_epochs", "clip_norm", "label_smoothing", "warmup_ratio"}
# transformers' names for one optimizer, by how they begin
_ADAMW = ("adamw_torch", "adamw_hf", "adamw_apex_fused", "adamw_torch_xla")

# A batch of one step: given whole; of one device; of a name that is of one device in the reference
# scripts of torchvision, timm and nanoGPT, which multiply it by what they accumulate.
_WHOLE = ("global_batch_size", "effective_batch_size", "total_batch_size")
_OF_DEVICE = (
    *("per_device_train_batch_size", "per_gpu_train_batch_size", "micro_batch_size"),
    *("train_micro_batch_size_per_gpu", "batch_size_per_gpu", "batch_size_per_device"),
)
_PLAIN = ("batch_size",)
_ACCUMULATED = (
    *("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum_steps"),
    *("accum_iter", "accumulation_steps"),
)
_PROCESSES = ("world_size", "num_processes", "distributed_state.num_processes")
_OF_A_NODE = ("num_devices", "devices", "n_gpu", "_n_gpu")

# How far a training went and what came of it.
OUTCOMES = frozenset(
    {
        *("steps", "epochs", "epoch", "step", "global_step", "iter_num", "iteration"),
        *("train_loss", "loss", "val_loss", "best", "lr_now", "total_flos"),
        *("num_input_tokens_seen", "num_tokens_seen", "best_metric", "best_global_step"),
        *("best_model_checkpoint", "init_sha256"),
    }
)
# Keys of files that no training depends on, or on which only its speed and its records depend.
_NO_CHOICES = re.compile(
    r"""(
    task_options | train_loss | init_sha256 | batch_size_from
    | .*(_dir|_path|_file|_folder|_url|_commit|_version|_name_or_path|_token_id|_hash) | .*-version
    | (dir|path|file|root|output|out|outdir|logdir|log|logs|run_name|exp_name|experiment|name
       |project|entity|group|tags|notes|comment|host|hostname|user|date|timestamp|version|commit
       |git.*|wandb.*|tensorboard.*|mlflow.*|comet.*|hparams_name|config|config_file|resume|resume_.*)
    | (logging|log|save|hub|dataloader|ddp|fsdp|push_to|deepspeed|tokenizer|report|tb|torch_compile
       |trackio|gradient_checkpointing|activation_checkpointing|include|load_best)(_.*)?
    | (eval|evaluation)_(steps|strategy|delay|batch_size|on_start|accumulation_steps|do_.*|use_.*)
    | per_(device|gpu)_eval_batch_size | batch_eval_metrics | prediction_loss_only
    | trial_(name|params)
    | is_(hyper_param_search|local_process_zero|world_process_zero) | metric_for_best_model
    | total_flos | num_input_tokens_seen | num_tokens_seen
    | best_(metric|global_step|model_checkpoint)
    | use_(cache|cpu|legacy_prediction_loop|mps_device) | no_cuda | .*hash_?seed | pythonhashseed
    | transformers_version | model_type | auto_map.* | architectures | (torch_)?dtype | id2label.*
    | label2id.* | (do_(train|eval|predict)) | local_rank | rank | _?n_gpu | world_size
    | num_(processes|devices|workers|nodes) | workers | devices | device | gpu | gpus | accelerator
    | pin_(mem|memory) | verbose | debug | disable_tqdm | progress_bar | print_.* | .*_every(_.*)?
    | skip_memory_metrics | ignore_data_skip | restore_callback.* | enable_jit_checkpoint
    | full_determinism | label_names | length_column_name | remove_unused_columns
    | greater_is_better | _.*
    | auto_find_batch_size | distributed_state.* | accelerator_config.* | torch_empty_cache_steps
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_PLACE = re.compile(r"(/|~|\./|\.\./|[A-Za-z]:\\)")  # how the path of a file begins


def named_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A training's settings under the names of `sharp train`, where the file has others.

    `batch_size` is that of one update: what is accumulated and the devices are multiplied in, and
    `batch_size_from` says how.

    >>> named_settings({"learning_rate": 0.1, "per_device_train_batch_size": 8,
    ...                 "gradient_accumulation_steps": 4})
    {'lr': 0.1, 'batch_size': 32, 'batch_size_from': 'per_device_train_batch_size 8 × \
gradient_accumulation_steps 4'}
    """
    if "sharpcli" in metadata:  # `sharp train` wrote it
        return {}
    found: dict[str, Any] = {}
    for name, others in _NAMES.items():
        _, value = _first(metadata, (name, *others))
        unused = name in _POSITIVE and isinstance(value, int | float) and value <= 0
        if value is not None and name not in metadata and not unused:
            found[name] = _optimizer(value) if name == "optimizer" else value
    betas = [found.get(each, metadata.get(each)) for each in ("beta1", "beta2")]
    if "betas" not in metadata and None not in betas:
        found["betas"] = ",".join(str(beta) for beta in betas)
    return found | _batch_size(metadata)


def add_names(metadata: dict[str, Any]) -> list[str]:
    """Add `named_settings` to a checkpoint's metadata.

    Returns:
        A note if it is not sure that the batch size in the file is that of one device or pass.
    """
    if "batch_size_from" in metadata:
        return []
    found = named_settings(metadata)
    plain = "batch_size" in metadata and "batch_size" in found
    for name, value in found.items():
        if name == "batch_size":
            metadata[name] = value
        metadata.setdefault(name, value)
    if not plain or metadata["batch_size_from"].startswith(_WHOLE + _OF_DEVICE):
        return []
    return [f"batch_size={metadata['batch_size']} is of one update: {metadata['batch_size_from']}"]


def step_of(metadata: Mapping[str, Any]) -> int | float | None:
    """How many updates a training had made; None if the metadata do not say."""
    return _number(metadata, ("steps", "global_step", "step", "iter_num", "iteration", "iter"))


def epoch_of(metadata: Mapping[str, Any]) -> int | float | None:
    """Which epoch a training was in; None if the metadata do not say."""
    return _number(metadata, ("epochs", "epoch"))


def _number(metadata: Mapping[str, Any], names: Iterable[str]) -> int | float | None:
    values = (metadata.get(name) for name in names)
    numbers = (each for each in values if isinstance(each, int | float) and each is not True)
    return next(numbers, None)


def is_choice(key: str, row: Mapping[str, Any]) -> bool:
    """Whether a key of a checkpoint's metadata belongs into a table.

    What has another name in the same row does not, nor do paths, versions and what is logged. Of
    files that `sharp train` wrote, all does.
    """
    if "sharpcli" in row:
        return True
    name = shown_name(key)
    if _NO_CHOICES.fullmatch(name):
        return False
    value = row.get(key)
    if isinstance(value, str) and _PLACE.match(value):
        return False
    if key != name and name in row:
        return False
    if name == "betas" and "beta1" in row:
        return False
    return not (name in _RENAMED and _RENAMED[name] in row)


def is_common(key: str) -> bool:
    """Whether a key is shown above a table if all rows agree: no prefix, it is a training's own."""
    return key == shown_name(key)


def shown_name(key: str) -> str:
    """A key without the name of the file that it came from."""
    return key.removeprefix(FROM_ARGUMENTS).removeprefix(FROM_CONFIG)


# Raw names, and the name of their own that a row has in their place.
_RENAMED = {
    **{other: name for name, others in _NAMES.items() for other in others},
    **dict.fromkeys((*_WHOLE, *_OF_DEVICE, *_ACCUMULATED, "train_batch_size"), "batch_size"),
    "epoch": "epochs",
    "initial_lr": "lr",
}


def _first(metadata: Mapping[str, Any], names: Iterable[str]) -> tuple[str, Any]:
    """The first of these names that the metadata have, alone or of TrainingArguments; its value."""
    for name in names:
        for key in (name, f"{FROM_ARGUMENTS}{name}"):
            if metadata.get(key) is not None:
                return name, metadata[key]
    return "", None


def _optimizer(value: Any) -> Any:
    return "adamw" if isinstance(value, str) and value.startswith(_ADAMW) else value


def _batch_size(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`batch_size`, with how it was computed where it is not as the file has it."""
    name, value = _first(metadata, (*_WHOLE, *_OF_DEVICE, *_PLAIN))
    if type(value) is not int or value < 1:
        return {}
    parts = [(name, value)]
    if name not in _WHOLE:
        every, _ = _first(metadata, _PROCESSES)
        devices = (_PROCESSES,) if every else (_OF_A_NODE, ("num_nodes",))
        for names in (_ACCUMULATED, *devices):
            factor, times = _first(metadata, names)
            if type(times) is int and times > 1:
                parts.append((factor, times))
    if parts == [("batch_size", value)]:
        return {}
    said = " × ".join(f"{part} {number}" for part, number in parts)
    return {"batch_size": math.prod(number for _, number in parts), "batch_size_from": said}
