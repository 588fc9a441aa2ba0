"""Contour plots of a plane with matplotlib, as in Li et al. 2018 and Garipov et al. 2018."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from sharpcli.render.scene import (
    Array,
    Mark,
    Scene,
    drawable,
    is_log,
    is_true_to_scale,
    named_metric,
    on_scale,
    shown_marks,
)
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = ["RUNS", "contour_levels", "plane_figure"]

_COLORS = "viridis"
_WIDTHS = (4.2, 7.0)  # inches, for one panel and for two
_ROUND = (  # mantissas of levels, coarse to fine
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
)
_FEWEST, _MOST = 13, 20  # levels
_HALO = [withStroke(linewidth=1.8, foreground="white")]  # makes text readable on any colour
RUNS = ("white", "#E69F00", "#56B4E9", "#CC79A7")  # Okabe and Ito's, bright on viridis
_LEVEL = "level"  # marks the texts that label a line
_AROUND, _LABELS, _TITLE = 1.3, 0.5, 0.2  # inches: left and right of panels, below, above each
_NARROW = 1.9  # inches: panels no wider than this stand one below the other
_LETTERS, _LONG_LABEL = 16.0, 48  # letters of a label in an inch; the longest in one line
_ARROWS = 5  # of a path, on its longest segments
_LEAST_ARROW = 11.0  # points: shorter segments have no room for one
_FLAT = 1e-6  # relative to the value: a smaller range is rounding
_HEAD = {
    "arrowstyle": "-|>,head_width=0.3,head_length=0.6",
    "edgecolor": "k",
    "linewidth": 0.6,
    "shrinkA": 0,
    "shrinkB": 0,
}
_UNSEEN = 0.01  # fraction of a checkpoint's distance from which its label shows it


def plane_figure(scene: Scene, settings: FigureSettings) -> Figure:
    """A panel for each split, on one colour scale: side by side, or in one narrow column."""
    metric = settings.metric or scene.metrics[0]
    splits = scene.splits
    surfaces = [drawable(scene.grid.values[split][metric]) for split in splits]
    together = np.concatenate([surface.ravel() for surface in surfaces])
    logarithmic = is_log(metric, together, settings.scale, plane=True)
    columns = _columns(settings, len(splits))
    drawn = _sized(scene, settings, len(splits), columns)
    rows, room = -(-len(splits) // columns), _panel_width(settings, columns)
    panels = [drawn.add_subplot(rows, columns, 1 + i) for i in range(len(splits))]
    levels = contour_levels(together, logarithmic=logarithmic)
    for index, (axes, split, surface) in enumerate(zip(panels, splits, surfaces, strict=True)):
        _draw_surface(axes, scene, surface, levels, logarithmic=logarithmic)
        _draw_what_lies_there(axes, scene)
        axes.locator_params(nbins=6 if room > _NARROW else 4)
        if index + columns >= len(splits):  # the lowest of its column
            axes.set_xlabel(_in_lines(figure_text(scene.axes[0].label), room), wrap=True)
        else:
            axes.tick_params(labelbottom=False)
        if rows > 1:
            drawn.supylabel(figure_text(scene.axes[1].label), fontsize=8)
        elif index == 0:
            axes.set_ylabel(_in_lines(figure_text(scene.axes[1].label), room), wrap=True)
        if index % columns > 0:
            axes.tick_params(labelleft=False)
        axes.set_title(figure_text(named_metric(metric, split)))
    _draw_colors(drawn, panels, levels, figure_text(metric), logarithmic=logarithmic)
    _name_runs(drawn, panels[0], scene)
    drawn.draw_without_rendering()  # lays out the figure
    for axes in panels:
        for name in _names(axes):
            _turn_inwards(name, axes)
        _thin_out(axes, scene)
        for run, color in zip(scene.trajectories, cycle(RUNS), strict=False):
            _draw_direction(axes, run.at, color)
    return drawn


def _draw_direction(axes: Axes, places: Array, color: str) -> None:
    """Draw arrowheads in the middle of a path's longest segments; the axes must be laid out."""
    assert axes.figure is not None
    pixels = axes.transData.transform(places)
    lengths = np.hypot(*np.diff(pixels, axis=0).T) * 72 / axes.figure.dpi
    lengths = np.where(np.isfinite(lengths), lengths, 0.0)
    longest = np.argsort(-lengths, kind="stable")[:_ARROWS]
    for index in longest[lengths[longest] >= min(_LEAST_ARROW, lengths.max(initial=0.0))]:
        start, stop = places[index], places[index + 1]
        head = axes.annotate(
            "",
            tuple(start + 0.62 * (stop - start)),
            tuple(start + 0.45 * (stop - start)),
            arrowprops=_HEAD | {"facecolor": color},
            zorder=4,
        )
        head.set_in_layout(False)


def _names(axes: Axes) -> list[Annotation]:
    """The annotations with checkpoints' names, without the lines' labels."""
    return [text for text in axes.texts if isinstance(text, Annotation)]


def _turn_inwards(name: Annotation, axes: Axes) -> None:
    """Move a name that leaves its axes to the best side of its checkpoint, then inside.

    The figure must be laid out.
    """

    def put(side: tuple[float, float]) -> tuple[float, float]:
        """Try a side; return the remaining shift in pixels."""
        x, y = side
        name.set(ha="left" if x > 0 else "right", va="bottom" if y > 0 else "top")
        name.xyann = side
        place, frame = name.get_window_extent(), axes.bbox
        return (
            max(0.0, frame.x0 - place.x0) - max(0.0, place.x1 - frame.x1),
            max(0.0, frame.y0 - place.y0) - max(0.0, place.y1 - frame.y1),
        )

    x, y = name.xyann
    sides = [(x, y), (-x, y), (x, -y), (-x, -y)]
    x, y = min(sides, key=lambda side: sum(map(abs, put(side))))
    across, up = (72 * pixels / axes.figure.dpi for pixels in put((x, y)))
    name.xyann = (x + across, y + up)


def _in_lines(label: str, room: float) -> str:
    """A label longer than `room` in inches, with the part after a bracket or comma below."""
    if len(label) <= min(_LETTERS * room, _LONG_LABEL):
        return label
    return label.replace(" (", "\n(").replace(", normalised", ",\nnormalised")


def _name_runs(drawn: Figure, axes: Axes, scene: Scene) -> None:
    """A legend of several runs below the panels, because runs often start at the same place."""
    if len(scene.trajectories) > 1:
        handles = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
        drawn.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=1.6)


def contour_levels(values: Array, *, logarithmic: bool) -> Array:
    """Round levels between the smallest and the largest value, 13 to 20 if possible.

    Empty if nothing is finite; a single level if all values are equal.
    """
    finite = values[np.isfinite(values)]
    if logarithmic:
        finite = finite[finite > 0]
    if not finite.size:
        return finite
    low, high = float(finite.min()), float(finite.max())
    if high - low <= _FLAT * max(abs(low), abs(high)):
        return np.array([low])
    if not logarithmic:
        levels = np.asarray(MaxNLocator(14).tick_values(low, high))
        return levels[(levels > low) & (levels < high)]
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    levels = np.zeros(0)
    for factors in _ROUND:
        candidates = np.array([factor * 10.0**decade for decade in decades for factor in factors])
        levels = candidates[(candidates > low) & (candidates < high)]
        if len(levels) >= _FEWEST:
            break
    if len(levels) < 4:
        return np.geomspace(low, high, 12)[1:-1]
    return levels[:: 1 + (len(levels) - 1) // _MOST]


def _panel_width(settings: FigureSettings, columns: int) -> float:
    width = settings.width or _WIDTHS[min(columns, 2) - 1]
    return (width - _AROUND) / columns


def _columns(settings: FigureSettings, panels: int) -> int:
    """How many panels stand side by side; one where they would be too narrow to read."""
    return panels if panels == 1 or _panel_width(settings, panels) > _NARROW else 1


def _sized(scene: Scene, settings: FigureSettings, panels: int, columns: int) -> Figure:
    """A figure with the height that its panels need at that width, and room for the colour bar."""
    width = settings.width or _WIDTHS[min(columns, 2) - 1]
    sides = [float(np.ptp(axis.values)) for axis in scene.axes]
    shape = sides[1] / sides[0] if is_true_to_scale(scene) else 0.85
    rows = -(-panels // columns)
    height = rows * (_panel_width(settings, columns) * shape + _TITLE) + _LABELS
    return Figure((width, height), layout="compressed")


def _draw_surface(
    axes: Axes, scene: Scene, surface: Array, levels: Array, *, logarithmic: bool
) -> None:
    """Draw filled bands with labelled lines between them; hatched where there is no value."""
    alpha, beta = (axis.values for axis in scene.axes)
    corner, size = (alpha[0], beta[0]), (np.ptp(alpha), np.ptp(beta))
    axes.add_patch(
        Rectangle(corner, *size, facecolor="0.92", edgecolor="0.6", hatch="////", linewidth=0)
    )
    if len(levels) > 1:
        shown, steps = _scaled(surface, levels, logarithmic=logarithmic)
        axes.contourf(alpha, beta, shown, steps, cmap=_COLORS, norm=_norm(steps), extend="both")
        if steps[0] < np.nanmax(shown) and steps[-1] > np.nanmin(shown):
            lines = axes.contour(
                alpha, beta, shown, steps, colors="k", linewidths=0.4, linestyles="-", alpha=0.7
            )
            _label_lines(axes, lines, logarithmic=logarithmic)
    elif len(levels):
        same = np.where(np.isfinite(surface), 0.5, np.nan)
        axes.pcolormesh(alpha, beta, same, cmap=_COLORS, vmin=0, vmax=1, shading="nearest")
    axes.set_xlim(alpha[0], alpha[-1])
    axes.set_ylim(beta[0], beta[-1])
    axes.set_aspect("equal" if is_true_to_scale(scene) else "auto")


def _scaled(surface: Array, levels: Array, *, logarithmic: bool) -> tuple[Array, Array]:
    """Masked values and levels, or their logarithms; a zero loss counts as the smallest."""
    shown = np.ma.masked_invalid(surface)
    if not logarithmic:
        return shown, levels
    positive = surface[np.isfinite(surface) & (surface > 0)]
    least = min(positive.min(initial=np.inf), levels[0] / 2)
    return np.ma.log10(np.ma.maximum(shown, least)), np.log10(levels)


def _norm(steps: Array) -> Normalize:
    half = (steps[-1] - steps[0]) / (len(steps) - 1) / 2
    return Normalize(steps[0] - half, steps[-1] + half)


def _label_lines(axes: Axes, lines: QuadContourSet, *, logarithmic: bool) -> None:
    texts = {level: _written(level, logarithmic=logarithmic) for level in lines.levels}
    for text in axes.clabel(lines, fmt=texts, fontsize=6, inline=False):
        text.set(
            gid=_LEVEL,
            color="k",
            alpha=1.0,
            path_effects=[withStroke(linewidth=1.4, foreground="white")],
        )


def _thin_out(axes: Axes, scene: Scene) -> None:
    """Remove lines' labels that would cover a name, a checkpoint or another label.

    The figure must be laid out, because this compares positions on the page.
    """
    taken = [name.get_window_extent() for name in _names(axes)]
    spots = axes.transData.transform(
        np.array([mark.at for mark in shown_marks(scene)]).reshape(-1, 2)
    )
    taken += [Bbox([spot - 4, spot + 4]) for spot in spots]
    for run in scene.trajectories:
        taken += [Bbox([spot - 4, spot + 4]) for spot in _along(axes.transData.transform(run.at))]
    for text in [text for text in axes.texts if text.get_gid() == _LEVEL]:
        place = text.get_window_extent()
        inside = axes.bbox.x0 <= place.x0 and place.x1 <= axes.bbox.x1
        inside = inside and axes.bbox.y0 <= place.y0 and place.y1 <= axes.bbox.y1
        if inside and not place.count_overlaps(taken):
            taken.append(place)
        else:
            text.remove()


def _along(pixels: Array) -> Array:
    """Points of a path no farther apart than a label is high, within what a page can have."""
    pieces = [pixels[-1:]]
    for start, stop in pairwise(pixels):
        length = float(np.hypot(*(stop - start)))
        steps = 1 + int(min(length / 8, 1000)) if np.isfinite(length) else 1
        pieces.append(start + (stop - start) * np.arange(steps)[:, None] / steps)
    return np.vstack(pieces)


def _written(level: float, *, logarithmic: bool) -> str:
    value = 10.0**level if logarithmic else float(level)
    return f"{value:.3g}"


def _draw_what_lies_there(axes: Axes, scene: Scene) -> None:
    """Draw runs as paths with points, then checkpoints with names."""
    for run, color in zip(scene.trajectories, cycle(RUNS), strict=False):
        outline = [withStroke(linewidth=2.0, foreground="k")]
        axes.plot(*run.at.T, "-", color=color, linewidth=1.0, path_effects=outline)
        axes.plot(*run.at.T, "o", color=color, mec="k", mew=0.5, ms=3, label=figure_text(run.name))
        axes.plot(*run.at[:1].T, "s", color=color, mec="k", mew=0.8, ms=4.5)  # where it starts
    marks = shown_marks(scene)
    center = _middle(marks)
    reach = [float(np.ptp(axis.values)) for axis in scene.axes]
    for mark in marks:
        axes.plot(
            *mark.at,
            "D" if mark.role == "marked" else "o",
            color="white",
            markeredgecolor="k",
            markeredgewidth=0.8,
            markersize=4 if mark.role == "marked" else 5,
            clip_on=False,
        )
        right = mark.at[0] >= center[0] and mark.at[0] < scene.axes[0].values[0] + 0.85 * reach[0]
        above = mark.at[1] >= center[1] and mark.at[1] < scene.axes[1].values[0] + 0.92 * reach[1]
        axes.annotate(
            figure_text(_label(mark)),
            tuple(mark.at),
            xytext=(4 if right else -4, 4 if above else -4),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if above else "top",
            fontsize=8,
            fontweight="bold",
            path_effects=_HALO,
            zorder=5,
            in_layout=False,  # names are moved inside, so the axes need no extra room
        )


def _middle(marks: Sequence[Mark]) -> Array:
    return np.mean([mark.at for mark in marks], axis=0) if marks else np.zeros(2)


def _label(mark: Mark) -> str:
    """The name, with the fraction of the checkpoint's distance that is off the plane."""
    off = f" ({100 * mark.unseen:.0f} % off the plane)" if mark.unseen >= _UNSEEN else ""
    return mark.name + off


def _draw_colors(
    drawn: Figure, panels: Sequence[Axes], levels: Array, name: str, *, logarithmic: bool
) -> None:
    """Draw the colour bar, with the same bands as the panels."""
    if len(levels) < 2:
        text = f"{name} {levels[0]:.4g} everywhere" if len(levels) else f"no finite {name}"
        drawn.suptitle(text, fontsize=8)
        return
    steps = np.log10(levels) if logarithmic else levels
    for surface in panels[0].collections:
        if isinstance(surface, ScalarMappable) and isinstance(surface, QuadContourSet):
            bar = drawn.colorbar(
                surface, ax=list(panels), pad=0.02, aspect=25, extendfrac=0.03, ticks=steps
            )
            bar.ax.set_yticklabels([_written(step, logarithmic=logarithmic) for step in steps])
            bar.ax.tick_params(labelsize=6.5, length=2)
            bar.set_label(on_scale(name, logarithmic=logarithmic))
            return
