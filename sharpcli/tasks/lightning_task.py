"""A task from a LightningModule and its data loaders, by class or object.

Lightning itself is not imported: a class is recognised by the names of its bases.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from sharpcli.errors import SharpError
from sharpcli.tasks import defaults
from sharpcli.tasks.float_losses import binary_cross_entropy, squared_error
from sharpcli.tasks.loaders import drawn
from sharpcli.tasks.notes import note

__all__ = ["is_lightning_module", "lightning_functions"]

_PACKAGES = ("lightning", "pytorch_lightning")
# Rows on which the loss of training_step is compared with the default loss.
_COMPARED = 8
# Losses agree to this, relatively; one of the two may be in float32.
_AGREE = 1e-4


def is_lightning_module(it: Any) -> bool:
    """Whether `it` is a LightningModule, or a class of them."""
    return _is(it, "LightningModule")


def lightning_functions(
    model: Any,
    datamodule: Any,
    where: str,
    module: ModuleType | None,
    *,
    own_predict: bool = False,
) -> dict[str, Callable[..., Any]]:
    """The functions of a task: `model`, `data` and `collate`, with their options.

    Args:
        model: a LightningModule or its class; None if only the data come from Lightning.
        datamodule: a LightningDataModule or its class; None for the model's own loaders, or else
            those of the only data module in `module`.
        where: the task's name in messages.
        module: where the model was found.
        own_predict: the task has a `predict`, which may change a batch as the Trainer does.

    A `SharpError` says that no data module is found, or several, or that a hook changes batches.
    """
    chosen = ""
    if datamodule is None and not _own(model, "train_dataloader"):
        chosen, datamodule = _only_datamodule(where, module)
    source = model if datamodule is None else datamodule
    loaders = _Loaders(where, source)
    found: dict[str, Callable[..., Any]] = {}
    options = _options(source)

    def built(**given: Any) -> Any:
        made = model(**given) if isinstance(model, type) else copy.deepcopy(model)
        if _own(made, "configure_model"):  # where large models make their layers
            made.configure_model()
        return made

    def data(split: str, **given: Any) -> Any:
        if chosen:
            note(f"the data are those of the data module {chosen}")
        loader = loaders.of(split, given)
        if loader is not None and split == "train" and model is not None:
            wanted = {name: given[name] for name in given if name in _options(model)}
            needed = [o for o in _options(model).values() if o.default is o.empty]
            if all(each.name in wanted for each in needed):
                _compare(where, functools.partial(built, **wanted), loader)
        if loader is None:
            return None
        if not own_predict:
            _check_hooks(where, source if datamodule is not None else None, model)
        notes: list[str] = []
        rows = drawn(loader.dataset, loader, f"{split} data", notes)
        if split == "test" and _differ(loader, loaders.of("train", given)):
            notes.append("the collate_fn of train_dataloader() makes the batches of the test data")
        for each in notes:
            note(each)
        return rows

    def collate(rows: list[Any], **given: Any) -> Any:
        loader = loaders.of("train", given)
        return (loader.collate_fn or default_collate)(rows) if loader else default_collate(rows)

    _sign(data, "split", options)
    _sign(collate, "rows", options)
    found |= {"data": data, "collate": collate}
    if model is not None:
        _sign(built, None, _options(model))
        found["model"] = built
    return found


def _check_hooks(where: str, *sources: Any) -> None:
    """Raise `SharpError` where a hook of the user's changes batches before the model sees them."""
    for source in sources:
        for hook in _BATCH_HOOKS:
            if source is not None and _own(source, hook):
                kind = source if isinstance(source, type) else type(source)
                raise SharpError(
                    f"{where}: {hook}() of {kind.__name__} changes the batches that the Trainer "
                    "gives to the model, and sharp does not call it",
                    "write a task file with predict(model, batch) that does what is not random of "
                    "it: from my_project import MyModel as model, MyData as datamodule",
                )


_BATCH_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")


def _differ(one: DataLoader[Any], other: DataLoader[Any] | None) -> bool:
    """Whether two loaders make batches by two functions."""
    return other is not None and one.collate_fn != other.collate_fn


def _sign(
    function: Callable[..., Any], first: str | None, options: Mapping[str, inspect.Parameter]
) -> None:
    """Give a function the signature by which its options are found."""
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    before = [] if first is None else [inspect.Parameter(first, positional)]
    named: Any = function
    named.__signature__ = inspect.Signature([*before, *options.values()])


def _is(it: Any, name: str) -> bool:
    kind = it if isinstance(it, type) else type(it)
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] in _PACKAGES
        for base in kind.__mro__
    )


def _own(it: Any, hook: str) -> bool:
    """Whether a hook is written by the user, and not that of Lightning's base."""
    kind = it if isinstance(it, type) else type(it)
    found = getattr(it, hook, None) or getattr(kind, hook, None)
    return found is not None and found.__module__.partition(".")[0] not in _PACKAGES


def _only_datamodule(where: str, module: ModuleType | None) -> tuple[str, Any]:
    """The only LightningDataModule that a module defines or imports, and its name.

    Raises:
        SharpError: there is none, or there are several.
    """
    every = {} if module is None else vars(module)
    found = {
        name: each
        for name, each in every.items()
        if _is(each, "LightningDataModule") and _own(each, "train_dataloader")
    }
    kinds = {id(each): name for name, each in found.items()}
    if len(kinds) != 1:
        what = (
            f"has {len(kinds)} data modules: {', '.join(kinds.values())}"
            if kinds
            else "has no train_dataloader, and no LightningDataModule is beside it"
        )
        raise SharpError(
            f"{where}: {what}",
            "name both in a task file: from my_project import MyModel as model, MyData as "
            "datamodule",
        )
    name = next(iter(kinds.values()))
    return name, found[name]


def _options(it: Any) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a class; an object has none."""
    if not isinstance(it, type):
        return {}
    try:
        signature = inspect.signature(it, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError):
        signature = inspect.signature(it)
    return {
        each.name: each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in signature.parameters.values()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }


class _Loaders:
    """The data loaders of a data module or a LightningModule, each made once."""

    def __init__(self, where: str, source: Any) -> None:
        self._where, self._source = where, source
        self._made: dict[str, DataLoader[Any] | None] = {}

    def of(self, split: str, options: Mapping[str, Any]) -> DataLoader[Any] | None:
        """The loader of a split; None if there are no test data."""
        key = f"{split} {sorted(options.items(), key=lambda item: item[0])}"
        if key not in self._made:
            self._made[key] = self._make(split, options)
        return self._made[key]

    def _make(self, split: str, options: Mapping[str, Any]) -> DataLoader[Any] | None:
        it = self._source(**options) if isinstance(self._source, type) else self._source
        hook, stage = "train_dataloader", "fit"
        if split == "test":
            hook, stage = "test_dataloader", "test"
            if not _own(it, hook):
                hook, stage = "val_dataloader", "fit"
            if not _own(it, hook):
                return None
            note(f"test data: those of {hook}()")
        it.prepare_data()  # as the Trainer does, which prepares data that are there in no time
        it.setup(stage)
        return self._single(getattr(it, hook)(), hook)

    def _single(self, found: Any, hook: str) -> DataLoader[Any]:
        while isinstance(found, list | tuple) and len(found) == 1:
            found = found[0]
        if isinstance(found, DataLoader):
            return found
        raise SharpError(
            f"{self._where}: {hook}() returned {type(found).__name__}, not one DataLoader",
            "write a task file whose data(split) returns the data set to measure on",
        )


def _compare(where: str, build: Callable[[], Any], loader: DataLoader[Any]) -> None:
    """Note where training_step's loss is not the default one, on a few rows and random weights."""
    data: Any = loader.dataset
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or len(data) == 0:
        return  # refused later, with its own message
    rows = [data[index] for index in range(min(_COMPARED, len(data)))]
    batch = (loader.collate_fn or default_collate)(rows)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # self.log without a Trainer warns
        own = build().eval()
        with torch.no_grad():
            outputs = defaults.predict(own, batch)
        try:
            step = own.training_step(batch, 0)
        except Exception as error:  # the user's code, which may need a Trainer for anything
            note(
                "the loss of training_step was not compared with the default loss: without a "
                f"Trainer it raises {type(error).__name__}"
            )
            return
    step = step.get("loss") if isinstance(step, Mapping) else step
    if not isinstance(step, Tensor):
        return
    measured = float(step.detach())
    losses = [float(each) for each in _defaults(where, outputs, batch)]
    if any(abs(measured - each) <= _AGREE * max(abs(each), 1e-6) for each in losses):
        return
    if losses:
        note(
            f"training_step has another loss than sharp takes: {measured:.6g} instead of "
            f"{losses[0]:.6g} on {len(rows)} rows (label smoothing, weights or a penalty?); define "
            "loss(outputs, batch) in a task file to measure it"
        )


def _defaults(where: str, outputs: Any, batch: Any) -> list[Tensor]:
    """The mean losses that the targets may have by default; none if no default fits."""
    scores, targets = defaults.scores_of(outputs), defaults.targets_of(batch)
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
        return []
    if targets.is_floating_point():
        if scores.shape != targets.shape:
            return []
        return [squared_error(scores, targets).mean(), binary_cross_entropy(scores, targets).mean()]
    try:
        found = defaults.cross_entropy(where, outputs, batch)
    except SharpError:
        return []
    return [found[0].sum() / found[1].sum()]
