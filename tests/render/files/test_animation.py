"""Moving pictures: their frames, and what cannot move."""

import io
import re
import shutil

import pytest
import scenes
from PIL import Image

from sharpcli.errors import SharpError
from sharpcli.render.files.animation import animated
from sharpcli.render.files.plotting import check_plot
from sharpcli.render.scene import read_scene
from sharpcli.settings.output import FigureSettings

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
    with pytest.raises(SharpError, match="ffmpeg is not installed") as refused:
        check_plot(tmp_path / "path.mp4", "landscape")
    assert "install ffmpeg)" in refused.value.hint
    assert "draw a .gif, which needs no ffmpeg" in refused.value.hint
    check_plot(tmp_path / "path.gif", "landscape")


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Makes a program of this text the only one in the PATH, under the name ffmpeg."""

    def put(text):
        program = tmp_path / "ffmpeg"
        program.write_text(text, "utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_ffmpeg_gets_every_frame_and_the_last_one_stays(ffmpeg):
    ffmpeg('#!/bin/sh\nfor last; do :; done\n(echo "$@"; /bin/cat) > "$last"\n')
    content = animated(read_scene(scenes.line(5)), ".mp4", SMALL)
    words, _, raw = content.partition(b"\n")
    width, height = map(int, re.search(rb"-s (\d+)x(\d+)", words).groups())
    frame = 3 * width * height
    assert width % 2 == height % 2 == 0  # or yuv420p is refused
    assert len(raw) == 8 * frame  # half a second each, the last one 1.5 s longer
    assert raw[-frame:] == raw[4 * frame : 5 * frame] != raw[:frame]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho first >&2\necho Unknown encoder >&2\nexit 1\n", "Unknown encoder"),
        ("#!/bin/sh\n", "no reason"),
        ("\x7fELF of another machine", "Exec format error"),
    ],
)
def test_an_ffmpeg_that_fails_is_named_with_its_reason(ffmpeg, text, reason):
    ffmpeg(text)
    with pytest.raises(SharpError, match=f"ffmpeg failed: {reason}") as failed:
        animated(read_scene(scenes.line(3)), ".mp4", SMALL)
    assert "draw a .gif" in failed.value.hint


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_an_mp4_is_one():
    content = animated(read_scene(scenes.line(3)), ".mp4", SMALL)
    assert content[4:8] == b"ftyp"
    assert content.index(b"moov") < content.index(b"mdat")  # plays before all of it is loaded
