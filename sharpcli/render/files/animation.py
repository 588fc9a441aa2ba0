"""A line or a path as a moving picture: .gif with Pillow, .mp4 where ffmpeg is installed."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sharpcli.errors import SharpError, setting
from sharpcli.render.files.contours import RUNS, plane_figure
from sharpcli.render.files.figure import line_figure, styled
from sharpcli.render.scene import Array, Scene
from sharpcli.settings.output import FigureSettings

__all__ = ["animated"]

_DPI = 150
_WHOLE, _FEWEST, _MOST = 6000, 60, 500  # milliseconds: of all frames, and of one
_HOLD = 1500  # milliseconds of the last frame
_MOST_FRAMES = 120  # of a longer path every second, third, … point is a frame


def animated(scene: Scene, suffix: str, settings: FigureSettings) -> bytes:
    """The bytes of a ".gif" or ".mp4" file: a path that grows over its plane, or a walk on a line.

    Raises:
        SharpError: A plane has no path, so that nothing would move, or ffmpeg fails.
    """
    if scene.is_plane and not scene.trajectories:
        raise SharpError(
            f"{setting('plot', suffix)}: nothing moves on a plane without a path",
            f"name a path's checkpoints by {setting('trajectories')}, or draw .png or .svg",
        )
    with styled():
        frames = [*(_path_frames if scene.is_plane else _line_frames)(scene, settings)]
    each = int(np.clip(_WHOLE / len(frames), _FEWEST, _MOST))
    return _gif(frames, each) if suffix == ".gif" else _mp4(frames, each)


def _path_frames(scene: Scene, settings: FigureSettings) -> Iterator[Any]:
    """The plane with each run's path up to its first, second, … point."""
    drawn = plane_figure(replace(scene, trajectories=()), settings)
    count = max(len(run.at) for run in scene.trajectories)
    panels = [axes for axes in drawn.axes if axes.get_title()]
    moving: list[tuple[Array, Any, Any]] = []
    for axes in panels:
        for run, color in zip(scene.trajectories, cycle(RUNS), strict=False):
            way = axes.plot([], [], "-", color="k", linewidth=2.4, solid_capstyle="round")[0]
            own = axes.plot([], [], "-o", color=color, mec="k", mew=0.5, ms=3, linewidth=1.2)[0]
            head = axes.plot([], [], "o", color=color, mec="k", mew=1.0, ms=6)[0]
            moving += [(run.at, (way, own), head)]
    for index in _chosen(count):
        for places, ways, head in moving:
            for way in ways:
                way.set_data(*places[: index + 1].T)
            head.set_data(*places[min(index, len(places) - 1)][:, None])
        yield _picture(drawn)


def _line_frames(scene: Scene, settings: FigureSettings) -> Iterator[Any]:
    """The line with a dot on each curve at its first, second, … place."""
    drawn: Any = line_figure(scene, settings)
    curves = [
        (line, np.asarray(line.get_xydata(), dtype=np.float64))
        for axes in drawn.axes
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    ]
    dots = [
        line.axes.plot([], [], "o", ms=5, mec="k", mew=0.6, color=line.get_color(), zorder=6)[0]
        for line, _ in curves
    ]
    for index in _chosen(max(len(points) for _, points in curves)):
        for dot, (_, points) in zip(dots, curves, strict=True):
            dot.set_data(*points[min(index, len(points) - 1)][:, None])
        yield _picture(drawn)


def _chosen(count: int) -> list[int]:
    """The points that are frames, the last one among them."""
    step = -(-count // _MOST_FRAMES)
    return [*range(0, count - 1, step), count - 1]


def _picture(drawn: Figure) -> Any:
    """The figure as it is now, with even sides, as video codecs need them."""
    drawn.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(drawn)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))


def _gif(frames: list[Any], each: int) -> bytes:
    # One palette for all frames, so that what does not move does not flicker.
    palette = frames[-1].quantize(255)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    content = io.BytesIO()
    held = [each] * (len(flat) - 1) + [_HOLD]
    flat[0].save(
        content, "GIF", save_all=True, append_images=flat[1:], duration=held, loop=0, optimize=True
    )
    return content.getvalue()


def _mp4(frames: list[Any], each: int) -> bytes:
    width, height = frames[0].size
    held = [*frames, *[frames[-1]] * (_HOLD // each)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "path.mp4")
        command = [
            *("ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", f"{1000 / each:.4f}", "-i", "-"),
            *("-pix_fmt", "yuv420p", "-fflags", "+bitexact", "-y", str(path)),
        ]
        raw = b"".join(frame.tobytes() for frame in held)
        done = subprocess.run(command, input=raw, capture_output=True, check=False)
        if done.returncode or not path.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise SharpError(
                f"{setting('plot', '.mp4')}: ffmpeg failed: {said[-1] if said else 'no reason'}",
                "draw a .gif, which needs no ffmpeg",
            )
        return path.read_bytes()
