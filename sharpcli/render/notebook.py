"""What a result shows of itself in Python: text, HTML, a data frame, flat numbers, a figure."""

from __future__ import annotations

import base64
import functools
import importlib.util
import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sharpcli.documents.labels import short_labels
from sharpcli.documents.results import Document, dumps
from sharpcli.documents.scalars import flat_scalars
from sharpcli.errors import SharpError
from sharpcli.render.console import console
from sharpcli.render.emit import problems
from sharpcli.render.files.page_html import page_html, paragraphs
from sharpcli.render.files.plotting import narrowed
from sharpcli.render.formats import format_of, page_of
from sharpcli.render.kinds import KINDS, load, read_drawing
from sharpcli.runtime.text import folded, html_text, visible_lines
from sharpcli.settings.output import FigureSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["figure", "frame", "html", "scalars", "text"]

_PICTURED = ("interpolate", "landscape", "spectrum")  # kinds that are mostly a picture
_WIDTH = 560  # pixels of a picture in a notebook
_STYLES = {"failed": "color:#cf222e", "warning": "color:#9a6700", "note": "opacity:.7"}
# A comparison's columns beside its numbers.
_NO_NUMBERS = ("label", "n")


def text(document: Document) -> str:
    """The table that a terminal shows, without colours, and the document's problems and notes."""
    if document["kind"] not in KINDS:
        return dumps(document)
    width = console().width
    said = [folded(visible_lines(f"{kind}: {line}"), width) for kind, line in problems(document)]
    return "\n".join([format_of("table").text(document, None, True).rstrip("\n"), *said])


def html(document: Document) -> str:
    """The tables, and the figure of a line, plane or spectrum where matplotlib is installed."""
    if document["kind"] not in KINDS:
        return f"<pre>{html_text(document['kind'])}</pre>"
    parts = []
    if document["kind"] in _PICTURED and _is_installed("matplotlib") and _has_curves(document):
        picture = base64.b64encode(_png(figure(document))).decode()
        source = f"data:image/png;base64,{picture}"
        parts.append(f'<img alt="figure" style="max-width:{_WIDTH}px" src="{source}">')
    parts.append(page_html(page_of(document, None)))
    for kind, line in problems(document):
        parts.append(paragraphs([f"{kind}: {line}"], f"{_STYLES[kind]};margin:.2em 0"))
    return f'<div class="sharp">{"".join(parts)}</div>'


def frame(document: Document) -> DataFrame:
    """The rows of the CSV.

    Raises:
        SharpError: pandas is not installed, or the result has no table.
    """
    _check("pandas", "notebook")
    import pandas as pd

    if document["kind"] not in KINDS:
        raise SharpError(f'a result of kind "{document["kind"]}" has no table', "read it as JSON")
    return pd.DataFrame(load(KINDS[document["kind"]].rows)(document))


def scalars(document: Document, *, errors: bool = False) -> dict[str, float]:
    """The numbers by flat key, as `Shown.scalars` gives them."""
    own = [*_numbers(document, errors)]
    if len(own) == 1:
        return own[0][1]
    labels = short_labels([name for name, _ in own])
    return {
        f"{label}/{key}": value
        for label, (_, found) in zip(labels, own, strict=True)
        for key, value in found.items()
    }


def _numbers(document: Document, errors: bool) -> Iterator[tuple[str, dict[str, float]]]:
    """Each result's name and numbers."""
    for index, result in enumerate(document["results"]):
        if document["kind"] == "compare":
            row = load(KINDS["compare"].rows)({**document, "results": [result]})[0]
            yield str(row["label"]), {k: float(v) for k, v in row.items() if _is_number(k, v)}
        else:
            checkpoint = result.get("checkpoint") or {"path": result.get("run", index)}
            measures = result.get("measures")
            if measures is None:
                measures = {k: v for k, v in result.items() if k not in ("checkpoint", "curves")}
            yield str(checkpoint["path"]), _flat(measures, errors)


def _flat(measures: Mapping[str, Any], errors: bool) -> dict[str, float]:
    found = {}
    for key, scalar in flat_scalars(measures).items():
        found[key] = math.nan if scalar["value"] is None else float(scalar["value"])
        for name in ("error", "sampling_error") if errors else ():
            if scalar.get(name) is not None:
                found[f"{key}.{name}"] = float(scalar[name])
    return found


def _is_number(key: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and key not in _NO_NUMBERS and not key.startswith("metadata.")


def figure(
    document: Document, metric: str | None = None, settings: FigureSettings | None = None
) -> Figure:
    """The figure that files have, in their style; it shows itself in a notebook.

    A `SharpError` says that matplotlib is not installed, or that the result has no figure.
    """
    _check("matplotlib", "plot")
    if metric is not None and _has_curves(document):
        document = narrowed(document, None, metric)
    drawing = read_drawing(document)
    picture = load(KINDS[document["kind"]].picture)
    from sharpcli.render.files.figure import drawn_in_style

    drawn = drawn_in_style(lambda: picture(drawing, settings or FigureSettings(metric=metric)))
    # Without pyplot a notebook does not know how to show a figure.
    shown: Any = drawn
    shown._repr_png_ = functools.partial(_png, drawn)
    return drawn


def _png(drawn: Figure) -> bytes:
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=200, bbox_inches="tight", pad_inches=0.04)
    return content.getvalue()


def _has_curves(document: Document) -> bool:
    """Whether there is something to draw: a run that was interrupted at once has nothing."""
    if document["kind"] == "spectrum":
        return any("density" in result for result in document["results"])
    return any(result.get("curves") for result in document["results"])


def _check(library: str, extra: str) -> None:
    if not _is_installed(library):
        raise SharpError(f"{library} is not installed", f"pip install 'sharpcli[{extra}]'")


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None
