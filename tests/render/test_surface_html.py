"""The interactive page: it stands alone, and shows what the document holds."""

import json
import re

import numpy as np
import pytest
import scenes

from sharpcli.render.scene import read_scene
from sharpcli.render.surface_html import page
from sharpcli.settings import FigureSettings


def drawn(document, settings=None):
    """The page and the traces and layout that its last script hands to plotly."""
    text = page(read_scene(document), settings or FigureSettings())
    call = text[text.rindex("Plotly.newPlot(") :]
    decoder = json.JSONDecoder()
    traces, end = decoder.raw_decode(call, call.index("["))
    layout, _ = decoder.raw_decode(call, call.index("{", end))
    return text, traces, layout


def by_name(traces):
    return {trace["name"]: trace for trace in traces}


@pytest.fixture(scope="module")
def line():
    return drawn(scenes.line(aligned=scenes.aligned()))


@pytest.fixture(scope="module")
def surface():
    return drawn(scenes.path_plane(9, 5))


def test_the_page_needs_no_network_and_may_use_none(line):
    text = line[0]
    assert text.startswith("<!doctype html>")
    assert len(text) > 1e6, "the script is in the page"
    head = text[: text.index("</head>")]
    assert "default-src 'unsafe-inline' 'unsafe-eval' data: blob:" in head
    assert "http" not in head.replace("http-equiv", "")
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text[: text.index("plotly.js v")])
    assert all("src" not in tag and "href" not in tag for tag in tags), tags
    assert "http" not in text[text.rindex("Plotly.newPlot(") :]


def test_a_line_has_a_curve_for_each_number(line):
    _, traces, layout = line
    curves = by_name(traces)
    assert len(traces) == 8
    train = traces[0]
    assert train["name"] == "straight line, loss, train: barrier ≥2.08"
    assert train["y"][0] == pytest.approx(scenes.line_loss(-1.0))
    assert train["line"]["dash"] == "solid"
    assert curves["aligned, accuracy, test"]["line"]["dash"] == "dash"
    assert curves["aligned, accuracy, test"]["yaxis"] == "y2"
    assert layout["yaxis"]["type"] == "log"
    assert layout["xaxis"]["title"]["text"] == "α, from A (0) to B (1)"
    assert [note["text"] for note in layout["annotations"]] == ["A", "B"]


def test_a_surface_has_its_run_and_its_checkpoint_on_it(surface):
    _, traces, layout = surface
    first = by_name([trace for trace in traces if trace["visible"]])
    assert set(first) == {"loss, train", "run", "checkpoints"}
    plane = first["loss, train"]
    assert np.shape(plane["z"]) == (5, 9)
    assert first["run"]["mode"] == "lines+markers"
    assert first["checkpoints"]["text"] == ["A"]
    z = first["checkpoints"]["z"][0]
    assert min(map(min, plane["z"])) <= z <= max(map(max, plane["z"]))
    assert layout["scene"]["zaxis"]["type"] == "log"
    assert "83.1 % of variance" in layout["scene"]["xaxis"]["title"]["text"]
    buttons = layout["updatemenus"][0]["buttons"]
    assert [button["label"] for button in buttons] == ["train", "test"]
    assert buttons[1]["args"][0]["visible"] == [False] * 3 + [True] * 3


def test_a_checkpoint_at_a_point_of_the_grid_lies_at_its_height():
    document = scenes.random_plane(5, 5)
    _, traces, _ = drawn(document)
    middle = document["results"][0]["curves"]["train"]["loss"][12]
    assert by_name(traces[:2])["checkpoints"]["z"] == [pytest.approx(middle)]


def test_scale_width_and_metric_can_be_chosen():
    _, traces, layout = drawn(scenes.plane(5, 4), FigureSettings("linear", 6.0, "accuracy"))
    assert "type" not in layout["scene"]["zaxis"]
    assert layout["width"] == 576
    assert traces[0]["name"] == "accuracy, train"


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 2)])
def test_grids_of_any_shape_draw(shape):
    traces = drawn(scenes.plane(*shape))[1]
    assert traces[0]["type"] == ("surface" if min(shape) > 1 else "scatter")


@pytest.mark.parametrize("value", [None, 0.0, 0.5])
def test_surfaces_of_one_value_and_of_none_draw(value):
    document = scenes.plane(4, 3)
    for curves in document["results"][0]["curves"].values():
        curves["loss"] = [value] * 12
    assert drawn(document)[1][0]["z"] == [[value] * 4] * 3


def test_what_is_not_finite_is_a_hole():
    document = scenes.plane(4, 3)
    document["results"][0]["curves"]["train"]["loss"][5] = None
    assert drawn(document)[1][0]["z"][1][1] is None


def test_the_same_document_gives_the_same_bytes(surface):
    assert drawn(scenes.path_plane(9, 5))[0] == surface[0]


def test_names_from_a_file_are_text():
    name = "</script><script>alert(1)</script>"
    mark = scenes.checkpoint(name, "marked", {}, alpha=0.5)
    document = scenes.line(4)
    document["results"][0]["checkpoints"].append(mark)
    text, _, layout = drawn(document)
    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;" in layout["annotations"][-1]["text"]
