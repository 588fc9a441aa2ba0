"""Interactive pages with plotly: a plane as a rotatable surface, a line as a zoomable chart.

The script is inlined and the page's security policy blocks all requests, so the page opens from
disk and sends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from sharpcli.render.files.line_html import line_traces, listed
from sharpcli.render.scene import (
    Array,
    Scene,
    Trajectory,
    drawable,
    is_log,
    is_true_to_scale,
    named_metric,
    on_scale,
    shown_marks,
)
from sharpcli.render.terminal.axes import scale_of
from sharpcli.runtime.text import html_text, plotly_text
from sharpcli.settings.output import FigureSettings

__all__ = ["complete_page", "page"]

_FONT = {"family": "sans-serif", "size": 13, "color": "#222"}
_RUNS = ("#222", "#E69F00", "#56B4E9", "#CC79A7")  # Okabe and Ito's, bright on viridis
_HEIGHT = 0.75  # of a surface, relative to its longer side
_LIFT = 0.02  # of the height, by which points are drawn above the surface; large dots twice that
_MOST_TICKS = 8
_STEPS = 4  # points of a path in each cell that it crosses
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # This button would send the numbers to plotly's service.
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["sendChartToCloud", "sendDataToCloud"],
}
# In a narrow window the camera steps back, so that the surface is whole, and the colour bar lies
# below it. Plotly scales a scene by its height alone.
_FIT = """
const graph = document.getElementById('{plot_id}');
const eye = {x: graph.layout.scene.camera.eye.x, y: graph.layout.scene.camera.eye.y,
  z: graph.layout.scene.camera.eye.z};
const bars = graph.data.map((trace, index) => trace.colorbar ? index : -1).filter(i => i >= 0);
let last = 0;
function fit() {
  const narrow = graph.clientWidth < 640, far = Math.max(1, 1.15 * graph.clientHeight /
    graph.clientWidth);
  if (far === last) return;
  last = far;
  Plotly.relayout(graph, {
    'scene.camera.eye': {x: far * eye.x, y: far * eye.y, z: far * eye.z},
    'scene.domain.y': narrow ? [0.16, 1] : [0, 1]
  });
  Plotly.restyle(graph, narrow
    ? {'colorbar.orientation': 'h', 'colorbar.x': 0.5, 'colorbar.y': 0.02, 'colorbar.len': 0.9,
       'colorbar.thickness': 12, 'colorbar.title.side': 'top'}
    : {'colorbar.orientation': 'v', 'colorbar.x': 1, 'colorbar.y': 0.5, 'colorbar.len': 0.7,
       'colorbar.thickness': 20}, bars);
}
fit();
window.addEventListener('resize', fit);
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'unsafe-inline' data: blob:;
 base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>
html, body {{ height: 100%; margin: 0; background: white; }}
body {{ display: flex; flex-direction: column; color: #222; font: 14px/1.45 sans-serif; }}
header {{ padding: 14px 20px 0; }}
h1 {{ margin: 0; font-size: 18px; }}
p {{ margin: 0; overflow-wrap: anywhere; }}
body > div {{ flex: 1; min-height: 380px; }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
{said}
</header>
{figure}
</body>
</html>
"""


def page(scene: Scene, _suffix: str, settings: FigureSettings) -> str:
    """The complete page, about 5 MB: plotly's script and the numbers."""
    traces, layout = (_plane if scene.is_plane else line_traces)(scene, settings)
    return complete_page(_title(scene, settings), _said(scene), traces, layout, settings)


def complete_page(
    title: str,
    lines: Sequence[str],
    traces: list[Any],
    layout: dict[str, Any],
    settings: FigureSettings,
) -> str:
    """A page with plotly's script, a title, a few lines of text and one figure."""
    layout |= {"font": _FONT, "paper_bgcolor": "white", "plot_bgcolor": "rgba(0,0,0,0)"}
    layout |= {"width": round(96 * settings.width)} if settings.width else {}
    drawn = go.Figure({"data": traces, "layout": layout}, skip_invalid=False)
    drawn.update_layout(template="none")
    figure = pio.to_html(
        drawn,
        config=_CONFIG,
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        div_id="sharp",
        default_width="100%",
        default_height="100%",
        post_script=_FIT if "scene" in layout else None,
    )
    said = "\n".join(f"<p>{html_text(text)}</p>" for text in lines)
    return _PAGE.format(title=html_text(title), said=said, figure=figure)


def _title(scene: Scene, settings: FigureSettings) -> str:
    named = [mark.name for mark in scene.marks if mark.role != "marked"]
    metrics = [settings.metric or scene.metrics[0]] if scene.is_plane else scene.metrics[:2]
    what = " and ".join(metrics)
    if scene.kind == "landscape" or not named:
        return f"{what} around {' and '.join(named)}" if named else what
    if len(scene.axes) == 1:
        return f"{what} from {' to '.join(named)}"
    return f"{what} on the plane through {', '.join(named)}"


def _said(scene: Scene) -> list[str]:
    """Lines about a plane's axes and checkpoints, and about metrics without a finite value."""
    where = "plane" if len(scene.axes) == 2 else "line"
    marks = [
        " ".join(filter(None, [mark.name, mark.path]))
        + (f" ({mark.unseen:.0%} of its distance is off the {where})" if mark.unseen > 0.01 else "")
        for mark in scene.marks
    ]
    said = [axis.label for axis in scene.axes] if scene.is_plane else []
    said += [" · ".join(marks)] if marks else []
    for split, metrics in scene.grid.values.items():
        for metric, values in metrics.items():
            if not np.isfinite(values).any():
                said.append(f"{metric}, {split}: finite nowhere on this {where}")
    return said


def _plane(scene: Scene, settings: FigureSettings) -> tuple[list[Any], dict[str, Any]]:
    """A surface for each split with its runs and checkpoints, and a button to show each.

    All surfaces share one scale of heights and colours.
    """
    metric = settings.metric or scene.metrics[0]
    surfaces = {split: drawable(scene.grid.values[split][metric]) for split in scene.splits}
    together = np.concatenate([surface.ravel() for surface in surfaces.values()])
    log = is_log(metric, together, settings.scale, plane=True)
    heights = _heights(together, log=log)
    traces: list[Any] = []
    owners: list[str | None] = []
    labels: dict[str, list[Any]] = {}
    for split, surface in surfaces.items():
        shown, labels[split] = _on_surface(scene, metric, split, surface, heights, log=log)
        # Plotly fails on a surface without a finite value, so it is never shown.
        owner = split if np.isfinite(surface).any() else None
        for trace in shown:
            traces.append(trace | {"visible": owner == scene.splits[0]})
            owners.append(owner)
    buttons = [
        {
            "label": split,
            "method": "update",
            "args": [
                {"visible": [owner == split for owner in owners]},
                {"scene.annotations": labels[split]},
            ],
        }
        for split in surfaces
    ]
    sides = [float(np.ptp(axis.values)) for axis in scene.axes]
    wide = [side / max(sides) for side in sides] if is_true_to_scale(scene) else [1.0, 1.0]
    low, high = heights
    ends = [low - _LIFT * (high - low), high + 5 * _LIFT * (high - low)]
    scale = {"type": "log" if log else "linear", "range": ends, **_ticks(heights, log=log)}
    across = [
        {
            "title": {"text": plotly_text(axis.short)},
            "range": [axis.values[0].item(), axis.values[-1].item()],
            "zeroline": False,
        }
        for axis in scene.axes
    ]
    layout: dict[str, Any] = {
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "showlegend": len(scene.trajectories) > 1,
        "legend": {"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0},
        "scene": {
            "xaxis": across[0],
            "yaxis": across[1],
            "zaxis": {"title": {"text": plotly_text(metric)}, "zeroline": False, **scale},
            "aspectmode": "manual",
            "aspectratio": {"x": wide[0], "y": wide[1], "z": _HEIGHT},
            "camera": {"eye": {"x": -1.05, "y": -1.45, "z": 1.15}, "center": {"z": -0.12}},
            "annotations": labels[scene.splits[0]],
        },
    }
    if len(buttons) > 1:
        place = {"x": 0.02, "xanchor": "left", "y": 0.98, "yanchor": "top"}
        look = {"type": "buttons", "direction": "right", "bgcolor": "white"}
        layout["updatemenus"] = [{**look, **place, "buttons": buttons}]
    return traces, layout


def _heights(values: Array, *, log: bool) -> tuple[float, float]:
    """The smallest and the largest value, or their logarithms with `log`.

    Equal values get a margin on each side; without a finite value the range is 0 to 1.
    """
    known = values[np.isfinite(values)]
    known = np.log10(known[known > 0]) if log else known
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if high - low > 1e-6 * max(abs(low), abs(high)):
        return low, high
    around = 0.3 if log else abs(low) / 2 or 0.5
    return low - around, high + around


def _on_surface(
    scene: Scene,
    metric: str,
    split: str,
    surface: Array,
    heights: tuple[float, float],
    *,
    log: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The surface of one split with runs and checkpoints, and the checkpoints' names."""
    low, high = heights
    least = 10.0**low if log else -np.inf
    # A zero loss has no logarithm, so it counts as the smallest positive one.
    height = np.where(np.isfinite(surface), np.maximum(surface, least), np.nan)
    name = plotly_text(f"{metric}, {split}")
    lift = _LIFT * (high - low)
    drawn = on_scale(plotly_text(named_metric(metric, split)), logarithmic=log)
    bar: dict[str, Any] = {"title": {"text": drawn}, "len": 0.7, "thickness": 20, "x": 1}
    bar |= _ticks(heights, log=log, bar=True)
    shown: list[dict[str, Any]] = [
        {
            "type": "surface",
            "name": name,
            "x": scene.axes[0].values.tolist(),
            "y": scene.axes[1].values.tolist(),
            "z": listed(height),
            "surfacecolor": listed(np.log10(height) if log else height),
            "cmin": low,
            "cmax": high,
            "colorscale": "Viridis",
            "colorbar": bar,
            "hovertemplate": f"α %{{x:.4g}}<br>β %{{y:.4g}}<br>{name} %{{z:.4g}}<extra></extra>",
        }
    ]

    def points(places: Array, lift: float) -> dict[str, Any]:
        """Points slightly above the surface; those outside it are left out."""
        values = _interpolated(scene, np.log10(height) if log else height, places)
        return {
            "type": "scatter3d",
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "z": listed(10 ** (values + lift) if log else values + lift),
            "customdata": listed(10**values if log else values),
            "hovertemplate": f"α %{{x:.4g}}<br>β %{{y:.4g}}<br>{name} %{{customdata:.4g}}"
            "<extra>%{text}</extra>",
        }

    for run, color in zip(scene.trajectories, cycle(_RUNS), strict=False):
        way: dict[str, Any] = {"mode": "lines", "name": plotly_text(run.name), "hoverinfo": "skip"}
        way |= {"line": {"color": color, "width": 6}, "hovertemplate": None}
        dots: dict[str, Any] = {
            "mode": "markers",
            "name": f"points of {plotly_text(run.name)}",
            "showlegend": False,
        }
        dots |= {"text": plotly_text(run.name)}
        symbols = ["square", *["circle"] * (len(run.at) - 1)]  # a square where the run starts
        dots |= {
            "marker": {
                "color": "white",
                "size": 4,
                "symbol": symbols,
                "line": {"color": color, "width": 1.5},
            }
        }
        shown += [points(_fine(scene, run), lift) | way, points(run.at, lift) | dots]
    marks = shown_marks(scene)
    if not marks:
        return shown, []
    spots = points(np.array([mark.at for mark in marks]), 2 * lift)
    style = {"color": "#D55E00", "size": 7, "line": {"color": "white", "width": 1.5}}
    spots |= {"mode": "markers", "name": "checkpoints", "showlegend": False, "marker": style}
    shown.append(spots | {"text": [plotly_text(mark.name) for mark in marks]})
    # Labels are drawn over the picture, because text inside it may be dark on dark or hidden.
    label = {"showarrow": False, "yshift": 24, "bgcolor": "rgba(255,255,255,0.85)", "borderpad": 2}
    labels = [
        {
            **label,
            "text": f"<b>{plotly_text(mark.name)}</b>",
            "font": {"size": 15},
            "x": x,
            "y": y,
            "z": np.log10(z).item() if log else z,
        }
        for mark, x, y, z in zip(marks, spots["x"], spots["y"], spots["z"], strict=True)
        if z is not None
    ]
    return shown, labels


def _fine(scene: Scene, run: Trajectory) -> Array:
    """A run's path with enough points to follow the surface without cutting through it."""
    cells = [np.ptp(axis.values) / (axis.values.size - 1) for axis in scene.axes]
    pieces = []
    for start, stop in zip(run.at[:-1], run.at[1:], strict=True):
        crossed = np.abs(stop - start) / cells
        steps = 1 + int(_STEPS * min(crossed.max(), 200)) if np.isfinite(crossed).all() else 1
        pieces.append(start + (stop - start) * np.arange(steps)[:, None] / steps)
    return np.vstack([*pieces, run.at[-1:]])


def _interpolated(scene: Scene, surface: Array, places: Array) -> Array:
    """The surface at places (n, 2), interpolated between four grid points; NaN outside."""
    cells, shares, inside = [], [], np.ones(len(places), dtype=bool)
    for axis, at in zip(scene.axes, places.T, strict=True):
        cell = np.clip(np.searchsorted(axis.values, at, side="right") - 1, 0, axis.values.size - 2)
        cells.append(cell)
        shares.append((at - axis.values[cell]) / (axis.values[cell + 1] - axis.values[cell]))
        inside &= (at >= axis.values[0]) & (at <= axis.values[-1])
    (i, j), (a, b) = cells, shares
    # A corner with zero weight may be a hole in the surface.
    corners = [
        ((1 - b) * (1 - a), j, i),
        ((1 - b) * a, j, i + 1),
        (b * (1 - a), j + 1, i),
        (b * a, j + 1, i + 1),
    ]
    total = sum(np.where(weight > 0, weight * surface[r, c], 0.0) for weight, r, c in corners)
    return np.where(inside, total, np.nan)


def _ticks(heights: tuple[float, float], *, log: bool, bar: bool = False) -> dict[str, Any]:
    """Round ticks of a height axis or of the colour `bar`, which has logarithms with `log`."""
    if not log:
        return {}
    ends = [10.0**height for height in heights]
    scale = scale_of(ends, _MOST_TICKS, log_from=0.0, extend=False)
    if scale is None or len(scale.ticks) < 4:
        scale = scale_of(ends, 5, extend=False)
    if scale is None:
        return {}
    places = np.log10(scale.ticks).tolist() if bar else list(scale.ticks)
    return {"tickmode": "array", "tickvals": places, "ticktext": list(scale.labels)}
