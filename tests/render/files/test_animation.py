"""Moving pictures: their frames, and what cannot move."""

import io
import shutil

import pytest
import scenes
from PIL import Image
from sharpcli.settings.output import FigureSettings

from sharpcli.errors import SharpError
from sharpcli.render.files.animation import animated
from sharpcli.render.files.plotting import check_plot
from sharpcli.render.scene import read_scene

SMALL = FigureSettings(width=2.5)


def test_a_path_grows_over_its_plane():
    places = ((8.0, 2.0), (4.0, 1.0), (1.0, 0.5))
    points = [{"coordinates": {"alpha": a, "beta": b}} for a, b in places]
    runs = [{"name": "sgd", "points": points}]
    scene = read_scene(scenes.path_plane(5, 5, trajectories=runs))
    content = animated(scene, ".gif", SMALL)
    picture = Image.open(io.BytesIO(content))
    assert picture.n_frames == 3
    frames = []
    for index in (0, picture.n_frames - 1):
        picture.seek(index)
        frames.append(picture.convert("RGB").tobytes())
    assert frames[0] != frames[1]
    assert picture.width % 2 == picture.height % 2 == 0


def test_a_line_has_a_frame_for_each_point():
    content = animated(read_scene(scenes.line(5)), ".gif", SMALL)
    assert Image.open(io.BytesIO(content)).n_frames == 5


def test_a_plane_without_a_path_does_not_move():
    with pytest.raises(SharpError, match="nothing moves on a plane without a path"):
        animated(read_scene(scenes.plane(4, 4)), ".gif", SMALL)


def test_without_ffmpeg_an_mp4_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SharpError, match="ffmpeg is not installed"):
        check_plot(tmp_path / "path.mp4", "landscape")
    check_plot(tmp_path / "path.gif", "landscape")
