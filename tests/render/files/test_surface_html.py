"""The interactive page: it stands alone, and shows what the document holds."""

import json
import re

import numpy as np
import pytest
import scenes
from sharpcli.settings.output import FigureSettings

from sharpcli.render.files.surface_html import page
from sharpcli.render.scene import read_scene


def drawn(document, settings=None):
    """The page and the traces and layout that its last script hands to plotly."""
    text = page(read_scene(document), ".html", settings or FigureSettings())
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
    assert "default-src 'unsafe-inline' data: blob:;" in head
    assert "form-action 'none'" in head
    assert "http" not in head.replace("http-equiv", "")
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text[: text.index("plotly.js v")])
    assert all("src" not in tag and "href" not in tag for tag in tags), tags
    call = text[text.rindex("Plotly.newPlot(") :]
    assert "http" not in call
    assert '"showSendToCloud": false' in call, "no button sends the numbers anywhere"


def test_a_line_has_a_curve_for_each_number(line):
    _, traces, layout = line
    assert len(traces) == 8
    train = traces[0]
    assert train["name"] == "straight line, train: barrier ≥2.08"
    assert train["y"][0] == pytest.approx(scenes.line_loss(-1.0))
    assert train["line"]["dash"] == "solid"
    last = traces[-1]
    assert (last["name"], last["line"]["dash"], last["yaxis"]) == ("aligned, test", "dash", "y2")
    assert not last["showlegend"], "the loss's name stands for both"
    assert last["legendgroup"] == traces[3]["legendgroup"]
    assert layout["yaxis"]["type"] == "log"
    assert layout["yaxis2"]["domain"][1] < layout["yaxis"]["domain"][0]
    assert layout["yaxis2"]["tickmode"] == "auto"
    assert layout["xaxis"]["title"]["text"] == "α, from A (0) to B (1)"
    assert [note["text"] for note in layout["annotations"]] == ["<b>A</b>", "<b>B</b>"]


def test_a_surface_has_its_run_and_its_checkpoint_on_it(surface):
    text, traces, layout = surface
    first = by_name([trace for trace in traces if trace["visible"]])
    assert set(first) == {"loss, train", "run", "points of run", "checkpoints"}
    plane = first["loss, train"]
    assert np.shape(plane["z"]) == (5, 9)
    assert len(first["points of run"]["x"]) == 30
    assert first["checkpoints"]["text"] == ["A"]
    z = first["checkpoints"]["z"][0]
    assert min(map(min, plane["z"])) <= z <= max(map(max, plane["z"]))
    assert layout["scene"]["zaxis"]["type"] == "log"
    assert layout["scene"]["xaxis"]["title"]["text"] == "α (83.1 % of variance)"
    assert "<p>α: principal axis 1 of the path (83.1 % of variance)</p>" in text
    buttons = layout["updatemenus"][0]["buttons"]
    assert [button["label"] for button in buttons] == ["train", "test"]
    assert buttons[1]["args"][0]["visible"] == [False] * 4 + [True] * 4
    assert buttons[1]["args"][1]["scene.annotations"][0]["text"] == "<b>A</b>"


def test_a_way_follows_the_surface_a_little_above_it_and_ends_where_the_run_does(surface):
    document, traces = scenes.path_plane(9, 5), by_name(surface[1][:4])
    way, plane = traces["run"], traces["loss, train"]
    last = document["results"][0]["trajectories"][0]["points"][-1]
    assert (way["x"][-1], way["y"][-1]) == tuple(last["coordinates"].values())
    assert len(way["x"]) > 31, "more than the points of the run"
    lifts = {
        round(np.log10(high / low), 6)
        for high, low in zip(way["z"], way["customdata"], strict=True)
        if high is not None
    }
    (lift,) = lifts
    assert 0 < lift < 0.05 * np.log10(np.max(plane["z"]) / np.min(plane["z"]))
    runs = document["results"][0]["trajectories"] * 2
    several = drawn(scenes.path_plane(9, 5, trajectories=runs))[1]
    assert [several[1][axis][-1] for axis in "xy"] != [0, 0], "whose end the centre is: not known"


def test_both_splits_are_on_one_scale_with_round_ticks(surface):
    _, traces, layout = surface
    plains = [trace for trace in traces if trace["type"] == "surface"]
    assert len({(plain["cmin"], plain["cmax"]) for plain in plains}) == 1
    ticks = layout["scene"]["zaxis"]["tickvals"]
    assert 4 <= len(ticks) <= 8
    assert ticks == pytest.approx(10 ** np.array(plains[0]["colorbar"]["tickvals"]))
    low, high = layout["scene"]["zaxis"]["range"]
    assert all(low <= np.log10(tick) <= high for tick in ticks)


def test_units_of_one_length_are_as_long_on_both_axes():
    aspect = drawn(scenes.plane(5, 4))[2]["scene"]["aspectratio"]
    assert aspect["y"] / aspect["x"] == pytest.approx(20 / 22.5)
    aspect = drawn(scenes.path_plane(5, 4))[2]["scene"]["aspectratio"]
    assert aspect["y"] == aspect["x"], "a long one is stretched"


def test_a_checkpoint_that_is_not_finite_is_nowhere():
    lost = scenes.checkpoint("lost", "marked", {})
    lost["coordinates"] = {"alpha": None, "beta": None}
    traces = drawn(scenes.plane(5, 4, checkpoints=[lost]))[1]
    assert {trace["name"] for trace in traces} == {"loss, train", "loss, test"}


def test_a_checkpoint_at_a_point_of_the_grid_lies_at_its_height():
    document = scenes.random_plane(5, 5)
    _, traces, _ = drawn(document)
    middle = document["results"][0]["curves"]["train"]["loss"][12]
    marks = by_name(traces[:2])["checkpoints"]
    assert marks["customdata"] == [pytest.approx(middle)]
    assert marks["z"][0] > middle, "lifted"


def test_scale_width_and_metric_can_be_chosen():
    _, traces, layout = drawn(scenes.plane(5, 4), FigureSettings("linear", 6.0, "accuracy"))
    assert layout["scene"]["zaxis"]["type"] == "linear"
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
    text, traces, layout = drawn(document)
    assert traces[0]["z"] == [[value] * 4] * 3
    low, high = layout["scene"]["zaxis"]["range"]
    assert low < (value or 0.1) < high
    assert traces[0]["visible"] is (value is not None), "plotly fails at holes alone"
    assert ("<p>loss, test: finite nowhere on this plane</p>" in text) is (value is None)


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
