"""The interactive page's chart of a line: every curve of the first two metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharpcli.render.scene import Array, Scene, is_log, line_label, named_curve, shown_marks
from sharpcli.runtime.text import plotly_text
from sharpcli.settings.output import FigureSettings

__all__ = ["FRAME", "line_traces", "listed"]

_COLORS = ("#0072B2", "#D55E00", "#009E73")  # as in `figure`, for colour-blind readers too
FRAME = {"showline": True, "linecolor": "#222", "mirror": False, "ticks": "outside"}
_DASHES = {"train": "solid", "test": "dash"}


def line_traces(scene: Scene, settings: FigureSettings) -> tuple[list[Any], dict[str, Any]]:
    """The curves of the first two metrics, each on its own axis: (traces, layout).

    The second axis is on the right for one curve, and below for several.
    """
    metrics = scene.metrics[:2]
    stacked = bool(scene.others) and len(metrics) > 1
    marks = shown_marks(scene)
    layout: dict[str, Any] = {
        "margin": {"l": 75, "r": 30 if stacked or len(metrics) == 1 else 75, "t": 20, "b": 50},
        "xaxis": {"title": {"text": plotly_text(line_label(scene))}, "zeroline": False, **FRAME},
        "legend": {"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
        "modebar": {"orientation": "v"},
        "hovermode": "x unified",
        "shapes": [
            {
                "type": "line",
                "x0": mark.at[scene.along],
                "x1": mark.at[scene.along],
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "layer": "above",
                "line": {"color": "rgba(90,90,90,0.5)", "width": 1},
            }
            for mark in marks
        ],
        "annotations": [
            {
                "text": f"<b>{plotly_text(mark.name)}</b>",
                "x": mark.at[scene.along],
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 14},
            }
            for mark in marks
        ],
    }
    traces: list[dict[str, Any]] = []
    for rank, metric in enumerate(metrics):
        drawn = _curves(scene, metric, rank, named=not (stacked and rank))
        traces += drawn
        values = np.concatenate([_floats(trace["y"]) for trace in drawn])
        scale = settings.scale if rank == 0 else "auto"
        vertical = {"title": {"text": plotly_text(metric)}, "zeroline": False, **FRAME}
        # Explicit ticks; plotly would place a second axis's ticks next to the first one's.
        vertical |= _log_axis(values) if is_log(metric, values, scale) else {"tickmode": "auto"}
        if stacked:
            vertical["domain"] = [0.0, 0.34] if rank else [0.4, 1.0]
        elif rank:
            vertical |= {"overlaying": "y", "side": "right", "showgrid": False}
        layout["yaxis2" if rank else "yaxis"] = vertical
    if stacked:
        layout["xaxis"]["anchor"] = "y2"
    return traces, layout


def _curves(scene: Scene, metric: str, rank: int, *, named: bool) -> list[dict[str, Any]]:
    """Every curve of one metric; if not `named`, the legend only has the names of the loss."""
    traces: list[dict[str, Any]] = []
    for number, curve in enumerate((scene.grid, *scene.others)):
        color = _COLORS[number % len(_COLORS)] if scene.others else _COLORS[rank]
        at = curve.at if curve.bent else scene.axes[scene.along].values
        for split in scene.splits:
            values = curve.values.get(split, {}).get(metric)
            if values is None:
                continue
            name = curve.name if scene.others else metric
            name = named_curve(name, curve, split) if metric == "loss" else f"{name}, {split}"
            error = curve.errors.get(split, {}).get(metric)
            bars = {} if error is None else {"error_y": {"array": listed(error.ravel())}}
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": plotly_text(name),
                    "legendgroup": f"{number} {split} {'' if scene.others else rank}",
                    "showlegend": named,
                    "x": at.tolist(),
                    "y": listed(values.ravel()),
                    "yaxis": "y2" if rank else "y",
                    "line": {"color": color, "dash": _DASHES.get(split, "dot")},
                    "marker": {"size": 5},
                    "hovertemplate": f"{plotly_text(metric)} %{{y:.4g}}",
                    **bars,
                }
            )
    return traces


def _log_axis(values: Array) -> dict[str, Any]:
    """An axis with ticks at powers of ten: with 2 and 5 if there are few, fewer if many."""
    known = np.log10(values[np.isfinite(values) & (values > 0)])
    decades = float(np.ptp(known))
    if decades < 3:
        return {"type": "log", "dtick": "D2", "tickformat": "~g"}
    return {"type": "log", "dtick": max(1, round(decades / 8)), "exponentformat": "power"}


def _floats(values: list[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def listed(values: Array) -> list[Any]:
    """Nested lists, with None, which leaves a gap, for values that are not finite."""
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    rows: list[Any] = found.tolist()
    return rows
