"""Interactive pages of a comparison: a scatter with the gap, or a heat map over two factors."""

from __future__ import annotations

from typing import Any

from sharpcli.errors import UsageError, setting
from sharpcli.render.files.comparison_figure import GAP, is_wide
from sharpcli.render.files.line_html import FRAME
from sharpcli.render.files.surface_html import complete_page
from sharpcli.render.pages.scores import DrawnScores
from sharpcli.render.relations import DrawnHeat, DrawnScatter
from sharpcli.runtime.text import plotly_text
from sharpcli.settings.output import FigureSettings

__all__ = ["comparison_html"]

# as in `figure`
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def comparison_html(
    drawn: DrawnScores | DrawnScatter | DrawnHeat, _suffix: str, settings: FigureSettings
) -> str:
    """The complete page; scores raise `UsageError`."""
    if isinstance(drawn, DrawnScores):
        raise UsageError(
            f"{setting('plot', '.html')}: scores are not drawn as .html",
            "use .png, .svg, .pdf or .npz",
        )
    if isinstance(drawn, DrawnHeat):
        return _heat(drawn, settings)
    layout = {
        "margin": {"l": 85, "r": 30, "t": 20, "b": 60},
        "legend": {"title": {"text": plotly_text(drawn.factor)}},
        "showlegend": bool(drawn.factor),
        "xaxis": {
            "title": {"text": plotly_text(drawn.measure)},
            "type": "log"
            if is_wide([x for each in drawn.points for x in each.x], settings)
            else "linear",
            "zeroline": False,
            **FRAME,
        },
        "yaxis": {"title": {"text": GAP}, "zeroline": False, **FRAME},
    }
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": plotly_text(each.name),
            "x": list(each.x),
            "y": list(each.y),
            "text": [plotly_text(label) for label in each.labels],
            "marker": {"color": _COLORS[index % len(_COLORS)], "size": 9, "opacity": 0.8},
            "hovertemplate": "%{text}<br>%{x:.4g}, gap %{y:.4g}<extra></extra>",
        }
        for index, each in enumerate(drawn.points)
    ]
    about = [] if drawn.tau is None else [f"Kendall's τ = {drawn.tau:+.2f}"]
    title = f"{drawn.measure} and the {GAP}"
    return complete_page(title, about, traces, layout, settings)


def _heat(drawn: DrawnHeat, settings: FigureSettings) -> str:
    traces: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": [plotly_text(each) for each in drawn.columns],
            "y": [plotly_text(each) for each in drawn.rows],
            "z": [list(row) for row in drawn.values],
            "colorscale": "Viridis",
            "texttemplate": "%{z:.3g}",
            "hovertemplate": "%{y}, %{x}: %{z:.4g}<extra></extra>",
        }
    ]
    axis = {"type": "category", "ticks": ""}
    layout = {
        "margin": {"l": 85, "r": 30, "t": 20, "b": 60},
        "xaxis": {"title": {"text": plotly_text(drawn.across)}, **axis},
        "yaxis": {"title": {"text": plotly_text(drawn.down)}, "autorange": "reversed", **axis},
    }
    return complete_page(f"{drawn.measure}, mean of the group", (), traces, layout, settings)
