"""The course of a training as an interactive page: panels over one axis of steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sharpcli.render.course import Course, Line
from sharpcli.render.files.line_html import FRAME, listed
from sharpcli.render.files.surface_html import complete_page
from sharpcli.render.scene import drawable
from sharpcli.runtime.text import plotly_text
from sharpcli.settings.output import FigureSettings

__all__ = ["course_page"]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # as in `figure`
_GREY = "#444"
_GAP = 0.25  # between two panels, as a share of a low one


def course_page(course: Course, _suffix: str, settings: FigureSettings) -> str:
    """The complete page: each panel has its own vertical axis."""
    heights = [1.0 if panel.minor else 2.0 for panel in course.panels]
    unit = 1.0 / (sum(heights) + _GAP * (len(heights) - 1))
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "margin": {"l": 85, "r": 30, "t": 20, "b": 50},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "x unified",
    }
    top = 1.0
    for number, (panel, height) in enumerate(zip(course.panels, heights, strict=True), start=1):
        suffix = "" if number == 1 else str(number)
        bottom = max(0.0, top - height * unit)
        scale = panel.wide if settings.scale == "auto" else settings.scale == "log"
        layout[f"yaxis{suffix}"] = {
            "title": {"text": plotly_text(panel.title)},
            "domain": [bottom, top],
            "type": "log" if scale else "linear",
            "zeroline": False,
            **FRAME,
        }
        if panel.extent is not None and scale == panel.wide:
            ends = [math.log10(end) if scale else end for end in panel.extent]
            layout[f"yaxis{suffix}"]["range"] = ends
        colors = iter(_COLORS * len(panel.lines))
        traces += [
            _trace(line, f"y{suffix}", _GREY if line.dashed else next(colors), panel.title)
            for line in panel.lines
        ]
        top = bottom - _GAP * unit
    layout["xaxis"] = {
        "title": {"text": "step"},
        "zeroline": False,
        "anchor": "y" if len(heights) == 1 else f"y{len(heights)}",
        **FRAME,
    }
    return complete_page(f"Training of {course.name}", (), traces, layout, settings)


def _trace(line: Line, axis: str, color: str, title: str) -> dict[str, Any]:
    values = drawable(np.array(line.values, dtype=np.float64))
    bars = {"error_y": {"array": list(line.errors)}} if line.errors else {}
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plotly_text(line.name),
        "x": list(line.steps),
        "y": listed(values),
        "yaxis": axis,
        "line": {
            "color": color,
            "dash": "dash" if line.dashed else "solid",
            "shape": "vh" if line.stepped else "linear",
        },
        "hovertemplate": f"{plotly_text(title)} %{{y:.4g}}",
        **bars,
    }
