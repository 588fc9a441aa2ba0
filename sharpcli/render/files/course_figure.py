"""The course of a training for a paper and for other programs: panels over one axis of steps."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from sharpcli.render.course import Course, Line, Panel
from sharpcli.render.scene import drawable, on_scale
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = ["course_figure", "course_file"]

_WIDTH, _TALL, _LOW = 4.6, 0.44, 0.26  # inches; the heights of panels as shares of it
_DASHES = (0, (3.5, 1.5))
_MOST_DOTS = 60  # points of a line; with more, only the line is drawn


def course_file(course: Course, suffix: str, settings: FigureSettings) -> bytes:
    """The bytes of a ".png", ".svg", ".pdf" or ".npz" file of a training's course."""
    if suffix == ".npz":
        return _arrays(course)
    from sharpcli.render.files.figure import written

    return written(lambda: course_figure(course, settings), suffix, inline=settings.inline)


def course_figure(course: Course, settings: FigureSettings) -> Any:
    """The panels, one above the other."""
    from matplotlib.figure import Figure

    width = settings.width or _WIDTH
    heights = [_LOW if panel.minor else _TALL for panel in course.panels]
    figure = Figure((width, width * (0.12 + sum(heights))), layout="constrained")
    axes = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for panel, own in zip(course.panels, axes, strict=True):
        _draw_panel(own, panel, settings.scale)
    axes[-1].set_xlabel("step")
    figure.align_ylabels(list(axes))
    _settle(figure)
    return figure


def _settle(figure: Any) -> None:
    """Keep the layout, rounded: its solver's last digits differ from one run to the next."""
    figure.draw_without_rendering()
    places = [[round(each, 5) for each in axes.get_position().bounds] for axes in figure.axes]
    figure.set_layout_engine("none")
    for axes, place in zip(figure.axes, places, strict=True):
        axes.set_position(place)


def _draw_panel(axes: Any, panel: Panel, scale: str) -> None:
    from sharpcli.render.files.figure import COLORS

    colors = iter(COLORS)
    for line in panel.lines:
        _draw_line(axes, line, "0.25" if line.dashed else next(colors), panel.extent)
    log = scale == "log" or (scale == "auto" and panel.wide)
    if log:
        axes.set_yscale("log", nonpositive="clip")
    # Without a legend the label says which loss it is.
    title = panel.lines[0].name if len(panel.lines) == 1 else panel.title
    axes.set_ylabel(on_scale(figure_text(title), logarithmic=log))
    axes.margins(x=0.02)
    if len(panel.lines) > 1:
        axes.legend(loc="best")


def _draw_line(axes: Any, line: Line, color: str, extent: tuple[float, float] | None) -> None:
    steps = drawable(np.array(line.steps, dtype=np.float64))
    values = drawable(np.array(line.values, dtype=np.float64))
    dots = len(steps) <= _MOST_DOTS and not (line.dashed or line.stepped)
    axes.plot(
        steps,
        values,
        color=color,
        linestyle=_DASHES if line.dashed else "-",
        linewidth=0.9,
        marker="o" if dots else None,
        markersize=1.8,
        # Each value is that of the update before it.
        drawstyle="steps-pre" if line.stepped else None,
        label=figure_text(line.name),
    )
    if line.errors:
        errors = drawable(np.array(line.errors, dtype=np.float64))
        low, high = np.clip([values - errors, values + errors], *(extent or (None, None)))
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    if line.doubtful:
        places = list(line.doubtful)
        axes.plot(
            steps[places],
            values[places],
            "o",
            markersize=4,
            markerfacecolor="none",
            color=color,
            label="not converged",
        )


def _arrays(course: Course) -> bytes:
    """Each line's lists, under `0_step` and `0_value`, and their titles under `names`."""
    lines = [(panel, line) for panel in course.panels for line in panel.lines]
    arrays: dict[str, Any] = {
        "names": np.array([f"{panel.title}: {line.name}" for panel, line in lines], dtype=np.str_)
    }
    for index, (_, line) in enumerate(lines):
        arrays[f"{index}_step"] = np.array(line.steps, dtype=np.float64)
        arrays[f"{index}_value"] = np.array(line.values, dtype=np.float64)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
