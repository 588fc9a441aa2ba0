"""What the measured checkpoints of a run say about each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sharpcli.documents.comparison import training_loss_warning
from sharpcli.documents.labels import short_labels
from sharpcli.documents.pairing import (
    MOST_WITH_FIRST,
    Pair,
    different_data,
    measured,
    pairs_of,
)
from sharpcli.documents.results import CheckpointResult
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted, setting
from sharpcli.measures.columns import in_tables, sharper_if_larger

__all__ = ["data_warning", "loss_warning", "not_compared", "pairs_among"]


def loss_warning(results: Sequence[CheckpointResult]) -> str | None:
    """A warning if the training losses differ too much for a fair comparison."""
    labels = short_labels([str(result.checkpoint["path"]) for result in results])
    losses = {
        label: flat_scalars({"loss": result.measures["loss"]})["loss.train"]["value"]
        for label, result in zip(labels, results, strict=True)
        if result.status == Outcome.OK and "loss" in result.measures
    }
    return training_loss_warning(losses)


def data_warning(results: Sequence[CheckpointResult]) -> str | None:
    """A warning if the checkpoints' metadata chose different data."""
    sound = [measured(vars(each)) for each in results if each.status == Outcome.OK]
    labels = short_labels([each.label for each in sound])
    found = different_data(
        [replace(each, label=label) for each, label in zip(sound, labels, strict=True)]
    )
    return f"{found}: not compared with each other" if found else None


def not_compared(
    results: Sequence[CheckpointResult], baseline: int | None, *, compared: bool
) -> list[str]:
    """A note where there are too many checkpoints to compare without a baseline."""
    if baseline is not None or compared or len(results) <= MOST_WITH_FIRST:
        return []
    return [
        f"{counted(len(results), 'checkpoint')} are not compared two by two (more than "
        f"{MOST_WITH_FIRST}): with {setting('baseline')} each is compared with that one"
    ]


def pairs_among(results: Sequence[CheckpointResult], baseline: int | None = None) -> list[Pair]:
    """The measured checkpoints, two by two, or each with the one at the index `baseline`."""
    first: dict[Any, int] = {}  # a file that is given twice is compared once
    for index, each in enumerate(results):
        first.setdefault(each.checkpoint["path"], index)
    numbered = [
        (index, measured(vars(each)))
        for index, each in enumerate(results)
        if each.status == Outcome.OK and first[each.checkpoint["path"]] == index
    ]
    places = [index for index, _ in numbered]
    if baseline is not None and baseline not in places:
        return []
    base = None if baseline is None else places.index(baseline)
    found = [each for _, each in numbered]
    keys = {key for each in found for key in each.scalars}
    exact = {measure.key: measure.of_data for measure in in_tables(keys) if measure.exact}
    return pairs_of(found, sharper_if_larger(keys), baseline=base, exact=exact)
