"""Figures: what is on them, that they are the same bytes again, and that odd grids draw."""

import io
import math
import re

import matplotlib as mpl
import numpy as np
import pytest
import scenes
from matplotlib.text import Text
from PIL import Image
from sharpcli.settings.output import FigureSettings

from sharpcli.errors import SharpError
from sharpcli.render.files.contours import contour_levels, plane_figure
from sharpcli.render.files.figure import figure
from sharpcli.render.kinds import read_drawing
from sharpcli.render.scene import is_log, read_scene

DEFAULT = FigureSettings()


def draw(document, kind="svg", settings=DEFAULT):
    return figure(read_scene(document), kind, settings)


def texts(document, settings=DEFAULT):
    """The texts of a figure; an SVG file holds a line's in comments beside the glyphs."""
    scene = read_scene(document)
    if scene.is_plane:
        return [text.get_text() for text in plane_figure(scene, settings).findobj(Text)]
    found = re.findall(r"<!-- (.*?) -->", draw(document, "svg", settings).decode(), re.DOTALL)
    return [text.replace("$\\mathdefault{", "").replace("}$", "") for text in found]


def size(document, settings=DEFAULT):
    return Image.open(io.BytesIO(draw(document, "png", settings))).size


def test_a_line_has_both_axes_the_checkpoints_and_the_barrier():
    said = texts(scenes.line())
    names = ("loss (log scale)", "accuracy", "A", "B", "α, from A (0) to B (1)", "accuracy, test")
    for text in names:
        assert text in said
    assert "barrier ≥2.08" in said
    assert "loss, train: barrier ≥2.08" in said
    assert "loss, test: barrier ≥2.29" in said
    assert "10^{-2}" in said, "a loss from 0.003 to 30 is on a log scale"


def test_a_narrow_figure_of_very_unequal_values_has_ticks():
    document = scenes.line()
    document["results"][0]["curves"]["train"]["loss"][3] = 1e250
    assert len(draw(document, "png", FigureSettings(width=2.0))) > 1000


def test_the_scale_can_be_chosen():
    assert "10^{-2}" not in texts(scenes.line(), FigureSettings("linear"))


@pytest.mark.parametrize(
    ("metric", "values", "scale", "log"),
    [
        ("loss", [0.01, 1.0], "auto", True),
        ("loss", [0.1, 1.0], "auto", False),
        ("loss", [0.0, 1e-4, 1.0], "auto", True),
        ("loss", [-0.1, 1e-4, 1.0], "auto", False),
        ("loss", [math.nan], "log", False),
        ("loss", [0.1, 1.0], "log", True),
        ("accuracy", [0.01, 1.0], "auto", False),
        ("perplexity", [2.0, 900.0], "auto", True),
        ("loss", [0.01, 1.0], "linear", False),
    ],
)
def test_when_a_scale_is_logarithmic(metric, values, scale, log):
    assert is_log(metric, np.array(values), scale) is log


def test_aligned_and_curved_paths_are_named_with_their_barriers():
    said = texts(scenes.line(aligned=scenes.aligned(), path=scenes.bezier()))
    for text in (
        "straight line, train: barrier ≥2.08",
        "aligned, train: barrier ≥0.317",
        "Bézier path, test: barrier ≥0.0439",
        "α, from A (0) to B (1); t along the Bézier path",
    ):
        assert text in said


def test_a_plane_has_a_panel_a_split_levels_and_the_checkpoints():
    said = texts(scenes.plane())
    names = ("training loss", "test loss", "loss (log scale)", "A", "B", "C", "0.5", "1.2", "2.5")
    for text in names:
        assert text in said
    assert said.count("A") == 2
    assert "β: away from that line, towards C\n(in weight distance)" in said


def test_axes_say_their_share_of_the_variance_their_eigenvalue_their_normalisation():
    assert "α: principal axis 1 of the path\n(83.1 % of variance)" in texts(scenes.path_plane())
    assert "α: eigenvector 1 of the Hessian (λ = 12.31(4))" in texts(scenes.random_line())
    assert "β: a random direction, normalised by filter" in texts(scenes.random_plane(9, 9))


def test_a_checkpoint_off_the_plane_says_how_far():
    mark = scenes.checkpoint("sgd", "marked", {}, unseen=0.31, alpha=3.0, beta=3.0)
    said = texts(scenes.plane(9, 9, checkpoints=[mark]))
    assert "sgd (31 % off the plane)" in said


@pytest.mark.parametrize("unseen", [0.0, 0.999])
@pytest.mark.parametrize("name", ["M1", "a rather long name"])
def test_names_stay_inside_the_axes(name, unseen):
    document = scenes.plane(9, 9)
    alpha, beta = (axis["values"] for axis in document["results"][0]["axes"])
    document["results"][0]["checkpoints"] = [
        scenes.checkpoint(name, "marked", {}, unseen=unseen, alpha=a, beta=b)
        for a in (alpha[0], alpha[3], alpha[-1])
        for b in (beta[0], beta[4], beta[-1])
    ]
    drawn = plane_figure(read_scene(document), DEFAULT)
    panels = [axes for axes in drawn.axes if axes.get_title()]
    names = [t for axes in panels for t in axes.texts if t.get_text().startswith(name)]
    assert len(names) == 18
    for text in names:
        place, frame = text.get_window_extent(), text.axes.bbox
        assert frame.x0 - 0.5 <= place.x0 < place.x1 <= frame.x1 + 0.5
        assert frame.y0 - 0.5 <= place.y0 < place.y1 <= frame.y1 + 0.5


def test_checkpoints_outside_of_the_drawing_are_left_out():
    far = scenes.checkpoint("far", "marked", {}, alpha=5e4, beta=0.0)
    assert "far" not in texts(scenes.plane(9, 9, checkpoints=[far]))
    on_line = scenes.checkpoint("far", "marked", {}, alpha=5e4)
    assert "far" not in texts(scenes.line(9, checkpoints=[on_line]))


def test_several_runs_are_named():
    runs = [
        {"name": name, "points": [{"coordinates": {"alpha": a, "beta": 1.0}} for a in (1.0, 4.0)]}
        for name in ("sgd", "adam")
    ]
    said = texts(scenes.path_plane(trajectories=runs))
    assert {"sgd", "adam"} <= set(said)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
@pytest.mark.parametrize("document", [scenes.line(4), scenes.plane(4, 3)], ids=["line", "plane"])
def test_the_same_document_gives_the_same_bytes(document, kind):
    before = dict(mpl.rcParams)
    first = draw(document, kind)
    assert first == draw(document, kind)
    assert dict(mpl.rcParams) == before
    assert b"20" + b"26-" not in first  # no date


def test_a_users_style_changes_nothing():
    plain = draw(scenes.line(9))
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.grid": True}):
        assert draw(scenes.line(9)) == plain
        assert mpl.rcParams["font.size"] == 20


def test_no_window_is_opened_and_pyplot_not_loaded():
    import subprocess
    import sys

    drawn = "sharpcli.render.files.figure, sharpcli.render.files.contours"
    code = f"import sys, {drawn}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib.pyplot", "torch"} & set(done.stdout.split())


@pytest.mark.parametrize("width", [2.5, 6.0])
def test_the_width_is_kept(width):
    assert size(scenes.line(9), FigureSettings(width=width))[0] == pytest.approx(
        300 * width, rel=0.04
    )
    assert size(scenes.plane(9, 9), FigureSettings(width=width))[0] == pytest.approx(
        300 * width, rel=0.12
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (2, 9), (3, 5)])
def test_grids_of_any_shape_draw(shape):
    document = scenes.plane(*shape)
    assert read_scene(document).is_plane is (min(shape) > 1)
    assert draw(document)
    if shape == (1, 7):
        assert "β: away from that line, towards C (in weight distance)" in texts(document)


@pytest.mark.parametrize("points", [1, 2, 3])
def test_short_lines_draw(points):
    assert "loss" in texts(scenes.line(points))
    assert draw(scenes.line(points, start=0.0, stop=1.0))


@pytest.mark.parametrize("value", [0.0, 0.25, 1e-30, 1e30])
def test_a_constant_surface_says_its_value(value):
    document = scenes.plane(5, 4)
    for curves in document["results"][0]["curves"].values():
        curves["loss"] = [value] * 20
    assert f"loss {value:.4g} everywhere" in texts(document)


def test_a_constant_line_draws():
    document = scenes.line(5)
    for curves in document["results"][0]["curves"].values():
        curves["loss"] = [0.0] * 5
    assert "loss" in texts(document)


def test_what_is_not_finite_is_left_hatched():
    document = scenes.plane(7, 9)
    whole = draw(document)
    document["results"][0]["curves"]["train"]["loss"][10:30] = [None] * 20
    assert draw(document) != whole
    for curves in document["results"][0]["curves"].values():
        curves["loss"] = [None] * 63
    assert "no finite loss" in texts(document)


def test_gaps_and_zeros_of_a_line_draw():
    document = scenes.line(25)
    document["results"][0]["curves"]["train"]["loss"][5:7] = [None, 0.0]
    assert "loss, test: barrier ≥2.29" in texts(document)
    for curves in document["results"][0]["curves"].values():
        curves["loss"] = [None] * 25
    assert "loss" in texts(document)


def test_sampling_errors_are_bands():
    plain = draw(scenes.line(9))
    errors = {"train": {"loss": [0.01] * 9, "accuracy": [0.02] * 9}}
    assert len(draw(scenes.line(9, sampling_errors=errors))) > len(plain)


def test_values_of_any_size_draw():
    document = scenes.plane(5, 5)
    loss = [10.0 ** (i - 12) for i in range(25)]
    for curves in document["results"][0]["curves"].values():
        curves["loss"] = loss
    assert "1e-09" in texts(document)
    document = scenes.line(25)
    document["results"][0]["curves"]["train"]["loss"] = [1e-300] * 12 + [1e300] * 13
    assert draw(document)


@pytest.mark.parametrize(
    ("low", "high"), [(0.003, 30), (0.9, 1.1), (2.31, 2.3100001), (1e-12, 1e12), (1, 1e9)]
)
@pytest.mark.parametrize("logarithmic", [True, False])
def test_levels_are_few_and_within(low, high, logarithmic):
    levels = contour_levels(np.geomspace(low, high, 50), logarithmic=logarithmic)
    assert 1 <= len(levels) <= 25
    assert (np.diff(levels) > 0).all()
    assert levels[0] >= low
    assert levels[-1] <= high


def test_levels_of_a_loss_are_round():
    levels = contour_levels(np.array([0.003, 30.0]), logarithmic=True)
    assert {0.01, 0.1, 1.0, 10.0} <= {float(f"{level:.6g}") for level in levels}


def test_names_from_a_file_are_text():
    mark = scenes.checkpoint("$\\frac{$ <b>\x1b[31m", "marked", {}, alpha=0.5)
    document = scenes.line(9)
    document["results"][0]["checkpoints"].append(mark)
    assert draw(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(kind="inspect"), 'a result of kind "inspect" has no figure'),
        (lambda d: d.update(results=[]), "has no point"),
        (lambda d: d["results"][0].update(curves={}), "has no point"),
    ],
)
def test_what_cannot_be_drawn_says_why(change, said):
    document = scenes.line(9)
    change(document)
    with pytest.raises(SharpError, match=said) as error:
        read_drawing(document)
    assert error.value.hint
