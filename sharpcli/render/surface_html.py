"""An interactive page by plotly: a plane as a surface to turn, a line as a chart to zoom into.

The script is inlined and the page forbids itself every address, so that it opens from disk and
tells nobody what was measured.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from ..settings import FigureSettings
from .scene import Array, Scene, drawable, is_log, named_curve, shown_marks

__all__ = ["page"]

_COLORS = ("#0072B2", "#D55E00", "#009E73")  # as in a figure: told apart without red or green
_DASHES = {"train": "solid", "test": "dash"}
_FONT = {"family": "sans-serif", "size": 13, "color": "#222"}
_HEIGHT = 0.7  # of a surface, to its longer side
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'unsafe-inline' 'unsafe-eval' data: blob:">
<title>{title}</title>
<style>html, body {{ height: 100%; margin: 0; }}</style>
</head>
<body>
{figure}
</body>
</html>
"""


def page(scene: Scene, settings: FigureSettings) -> str:
    """The whole page, about 5 MB: plotly's script and the numbers."""
    traces, layout = _plane(scene, settings) if scene.is_plane else _line(scene, settings)
    names = " – ".join(mark.name for mark in scene.marks)
    title = f"{scene.metrics[0]}: {scene.kind} {names}".strip()
    layout |= {
        "font": _FONT,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 70, "r": 70, "t": 60, "b": 60},
    }
    layout |= {"width": round(96 * settings.width)} if settings.width else {}
    drawn = go.Figure({"data": traces, "layout": layout}, skip_invalid=False)
    drawn.update_layout(template="none")
    figure = pio.to_html(
        drawn,
        config={"displaylogo": False, "responsive": True},
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        div_id="sharp",
        default_width="100%",
        default_height="100%",
    )
    return _PAGE.format(title=escape(title), figure=figure)


def _plane(scene: Scene, settings: FigureSettings) -> tuple[list[Any], dict[str, Any]]:
    """A surface for each split with what lies on it, and a button to show each."""
    metric = settings.metric or scene.metrics[0]
    surfaces = {split: drawable(scene.grid.values[split][metric]) for split in scene.splits}
    together = np.concatenate([surface.ravel() for surface in surfaces.values()])
    log = is_log(metric, together, settings.scale, plane=True)
    traces: list[Any] = []
    owners: list[str] = []
    for split, surface in surfaces.items():
        on_split = _on_surface(scene, metric, split, surface, together, log=log)
        for trace in on_split:
            traces.append(trace | {"visible": split == scene.splits[0]})
            owners.append(split)
    buttons = [
        {"label": split, "method": "restyle", "args": [{"visible": [o == split for o in owners]}]}
        for split in surfaces
    ]
    sides = [float(np.ptp(axis.values)) for axis in scene.axes]
    unequal = max(sides) > 4 * min(sides)
    wide = [1.0, 1.0] if unequal else [side / max(sides) for side in sides]
    layout: dict[str, Any] = {
        "showlegend": False,
        "scene": {
            "xaxis": {"title": {"text": _text(scene.axes[0].label)}},
            "yaxis": {"title": {"text": _text(scene.axes[1].label)}},
            "zaxis": {"title": {"text": _text(metric)}, **_log_axis(log)},
            "aspectmode": "manual",
            "aspectratio": {"x": wide[0], "y": wide[1], "z": _HEIGHT},
            "camera": {"eye": {"x": -1.1, "y": -1.5, "z": 1.0}},
        },
    }
    if len(buttons) > 1:
        layout["updatemenus"] = [
            {
                "type": "buttons",
                "direction": "right",
                "x": 0,
                "xanchor": "left",
                "y": 1.0,
                "yanchor": "bottom",
                "buttons": buttons,
            }
        ]
    return traces, layout


def _on_surface(
    scene: Scene, metric: str, split: str, surface: Array, together: Array, *, log: bool
) -> list[dict[str, Any]]:
    """The surface of one split, the runs that were projected on it, and its checkpoints."""
    alpha, beta = (axis.values for axis in scene.axes)
    least = together[together > 0].min() if log else -np.inf
    height = np.where(np.isfinite(surface), np.maximum(surface, least), np.nan)
    color, ticks = (np.log10(height), _decades(together)) if log else (height, {})
    ends = np.log10([least, np.nanmax(together)]) if log else (None, None)
    name = _text(f"{metric}, {split}")
    shown: list[dict[str, Any]] = [
        {
            "type": "surface",
            "name": name,
            "x": alpha.tolist(),
            "y": beta.tolist(),
            "z": _listed(height),
            "surfacecolor": _listed(color),
            "cmin": ends[0],
            "cmax": ends[1],
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": name}, "len": 0.7, **ticks},
            "hovertemplate": f"α %{{x:.4g}}<br>β %{{y:.4g}}<br>{name} %{{z:.4g}}<extra></extra>",
        }
    ]
    for run in scene.trajectories:
        shown.append(
            _scatter(scene, run.at, height, log=log)
            | {"mode": "lines+markers", "name": _text(run.name)}
            | {"line": {"color": "#222", "width": 5}, "marker": {"color": "white", "size": 3}}
        )
    marks = shown_marks(scene)
    if marks:
        shown.append(
            _scatter(scene, np.array([mark.at for mark in marks]), height, log=log)
            | {"mode": "markers+text", "text": [_text(mark.name) for mark in marks]}
            | {
                "name": "checkpoints",
                "textposition": "top center",
                "textfont": {"size": 16},
                "marker": {"color": "#D55E00", "size": 6, "line": {"color": "white", "width": 1}},
            }
        )
    return shown


def _scatter(scene: Scene, places: Array, height: Array, *, log: bool) -> dict[str, Any]:
    """Points on the surface; those outside it are left out."""
    values = _interpolated(scene, np.log(height) if log else height, places)
    return {
        "type": "scatter3d",
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "z": _listed(np.exp(values) if log else values),
        "hovertemplate": "α %{x:.4g}<br>β %{y:.4g}<extra>%{text}</extra>",
        "text": "",
    }


def _interpolated(scene: Scene, surface: Array, places: Array) -> Array:
    """The surface at places (n, 2), between its four nearest points; NaN outside."""
    cells, shares, inside = [], [], np.ones(len(places), dtype=bool)
    for axis, at in zip(scene.axes, places.T, strict=True):
        cell = np.clip(np.searchsorted(axis.values, at, side="right") - 1, 0, axis.values.size - 2)
        cells.append(cell)
        shares.append((at - axis.values[cell]) / (axis.values[cell + 1] - axis.values[cell]))
        inside &= (at >= axis.values[0]) & (at <= axis.values[-1])
    (i, j), (a, b) = cells, shares
    # A corner of no weight may be a hole in the surface.
    corners = [
        ((1 - b) * (1 - a), j, i),
        ((1 - b) * a, j, i + 1),
        (b * (1 - a), j + 1, i),
        (b * a, j + 1, i + 1),
    ]
    total = sum(np.where(weight > 0, weight * surface[r, c], 0.0) for weight, r, c in corners)
    return np.where(inside, total, np.nan)


def _line(scene: Scene, settings: FigureSettings) -> tuple[list[Any], dict[str, Any]]:
    """Every curve of the first metric on the left axis, of the second on the right."""
    axis = scene.axes[scene.along]
    first = scene.metrics[0]
    traces: list[dict[str, Any]] = []
    for rank, metric in enumerate(scene.metrics[:2]):
        for number, curve in enumerate((scene.grid, *scene.others)):
            color = _COLORS[number % len(_COLORS)] if scene.others else _COLORS[rank]
            at = curve.at if curve.bent else axis.values
            for split in scene.splits:
                values = curve.values.get(split, {}).get(metric)
                if values is None:
                    continue
                name = f"{curve.name}, {metric}" if scene.others else metric
                name = named_curve(name, curve, split) if metric == "loss" else f"{name}, {split}"
                error = curve.errors.get(split, {}).get(metric)
                bars = {} if error is None else {"error_y": {"array": _listed(error.ravel())}}
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "name": _text(name),
                        "x": at.tolist(),
                        "y": _listed(values.ravel()),
                        "yaxis": "y2" if rank else "y",
                        "line": {"color": color, "dash": _DASHES.get(split, "dot")},
                        "marker": {"size": 5},
                        "opacity": 0.55 if rank and scene.others else 1.0,
                        **bars,
                    }
                )
    together = np.concatenate([v[first].ravel() for v in scene.grid.values.values()])
    log = is_log(first, together, settings.scale)
    frame = {"showline": True, "linecolor": "#222", "mirror": False, "ticks": "outside"}
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": _text(axis.label)}, "zeroline": False, **frame},
        "yaxis": {"title": {"text": _text(first)}, **frame, **_log_axis(log)},
        "legend": {"orientation": "h", "y": -0.15},
        "hovermode": "x unified",
        "shapes": [
            {
                "type": "line",
                "x0": mark.at[scene.along],
                "x1": mark.at[scene.along],
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "layer": "below",
                "line": {"color": "#888", "width": 1},
            }
            for mark in shown_marks(scene)
        ],
        "annotations": [
            {
                "text": _text(mark.name),
                "x": mark.at[scene.along],
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
            for mark in shown_marks(scene)
        ],
    }
    if len(scene.metrics) > 1:
        title = {"title": {"text": _text(scene.metrics[1])}}
        layout["yaxis2"] = {**title, **frame, "overlaying": "y", "side": "right"}
        layout["yaxis2"] |= {"showgrid": False, "zeroline": False}
    return traces, layout


def _log_axis(log: bool) -> dict[str, Any]:
    return {"type": "log", "exponentformat": "power", "dtick": 1} if log else {"zeroline": False}


def _decades(values: Array) -> dict[str, Any]:
    """Ticks of a scale of logarithms, with the values themselves for labels."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = np.log10(positive.min()), np.log10(positive.max())
    factors = (1.0, 2.0, 5.0) if high - low < 3 else (1.0,)
    every = max(1, int((high - low) // 8))
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1, every)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    shown = [tick for tick in ticks if low <= np.log10(tick) <= high]
    return {"tickvals": np.log10(shown).tolist(), "ticktext": [f"{tick:g}" for tick in shown]}


def _listed(values: Array) -> list[Any]:
    """Nested lists; None, which leaves a gap, for what is not finite."""
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    listed: list[Any] = found.tolist()
    return listed


def _text(text: str) -> str:
    """Text from a document, which plotly would otherwise read for tags."""
    return escape(text, quote=False)
