"""The measured parameters on a page: a subset's size, and a sheet with one row per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sharpcli.documents.scalars import flat_scalars
from sharpcli.errors import counted
from sharpcli.render.numbers import format_cells
from sharpcli.render.terminal.table import Column, Row, Sheet

__all__ = ["layer_rows", "layer_sheets", "measured_parameters"]

_ALL = "all together"

Titles = Callable[[Iterable[str]], Mapping[str, str]]


def layer_sheets(
    results: Sequence[Mapping[str, Any]], labels: Sequence[str], titles_of: Titles
) -> list[Sheet]:
    """A sheet for each result with layers; `titles_of` gives column headers by flat key.

    The last row is for all parameters together.
    """
    return [
        _sheet(result, label, titles_of)
        for result, label in zip(results, labels, strict=True)
        if result.get("layers")
    ]


def layer_rows(
    results: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> list[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    """Each layer's name, with its checkpoint's label if there are several, and its scalars."""
    return [
        (
            layer["layer"] if len(results) == 1 else f"{label} {layer['layer']}",
            flat_scalars(layer["measures"]),
        )
        for result, label in zip(results, labels, strict=True)
        for layer in result.get("layers", ())
    ]


def measured_parameters(
    checkpoints: Sequence[Mapping[str, Any]], run: Mapping[str, Any]
) -> str | None:
    """`layer4.* (40 of 67 parameters)`, without the numbers if checkpoints differ in them.

    None if the run measured all parameters.
    """
    patterns = run.get("parameters")
    if not patterns:
        return None
    counts = {
        (about["parameters"], about["parameters_in_all"])
        for about in checkpoints
        if "parameters_in_all" in about
    }
    of = [f"{measured:,} of {counted(count, 'parameter')}" for measured, count in counts]
    return f"{', '.join(patterns)} ({of[0] if len(of) == 1 else 'these parameters only'})"


def _sheet(result: Mapping[str, Any], label: str, titles_of: Titles) -> Sheet:
    layers = result["layers"]
    scalars = [flat_scalars(layer["measures"]) for layer in layers]
    titles = titles_of(key for row in scalars for key in row)
    scalars.append(flat_scalars(result["measures"]))
    counts = [*(layer["parameters"] for layer in layers), result["checkpoint"]["parameters"]]
    columns = [
        Column("parameters", [f"{count:,}" for count in counts]),
        *(Column(title, format_cells(scalars, key)) for key, title in titles.items()),
    ]
    rows = [_row(layer) for layer in layers]
    return Sheet([*rows, Row(_ALL)], columns, f"{label}, layer by layer", "layer")


def _row(layer: Mapping[str, Any]) -> Row:
    if "error" not in layer:
        return Row(layer["layer"])
    return Row(layer["layer"], "failed: " + " ".join(str(layer["error"]["message"]).split()))
