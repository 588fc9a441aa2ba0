"""The course of a training: what is drawn of a document, and what is refused."""

import io

import numpy as np
import pytest
from sharpcli.settings.output import FigureSettings

from sharpcli.errors import SharpError
from sharpcli.render.course import read_course, read_measured_course
from sharpcli.render.files.course_figure import course_file
from sharpcli.render.pages.courses import course_lines


def scalar(value, error=0.1, status="converged"):
    return {"value": value, "error": error, "error_kind": "residual", "status": status}


def trained():
    steps = list(range(1, 101))
    tracked = [
        {
            "step": step,
            "lr": 0.1,
            "threshold": {"value": 20.0, "rule": "2/η", "of": "hessian"},
            "measures": {"hessian": {"eigenvalues": [scalar(value, status=status)]}},
        }
        for step, value, status in ((0, 5.0, "converged"), (50, 21.0, "max_products"))
    ]
    return {
        "schema": "sharpcli/1",
        "kind": "train",
        "settings": {},
        "environment": {},
        "task": {"name": "digits", "options": {}},
        "results": [
            {
                "checkpoint": {"path": "m.safetensors", "metadata": {}},
                "status": "ok",
                "epochs": 1,
                "steps": 100,
                "loss": {"train": scalar(0.1)},
                "tracked": tracked,
                "curves": {
                    "step": steps,
                    "loss": [10.0 ** (-each / 30) for each in steps],
                    "lr": [0.1] * 100,
                    "batch_size": [32] * 50 + [64] * 50,
                    "gradient_norm": [None, *([1.0] * 98), 2.0],
                },
            }
        ],
    }


def measured(**changes):
    """Checkpoints of one training after 20 and after 10 steps; `changes` are the second's."""
    base = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "steps": 20, "train_loss": 1.0}
    return {
        "kind": "measure",
        "settings": {},
        "results": [
            {
                "checkpoint": {"path": f"{i}.safetensors", "metadata": metadata},
                "status": "ok",
                "measures": {
                    "loss": {"train": scalar(1.0 / (i + 1))},
                    "hessian": {"eigenvalues": [scalar(10.0 + i)]},
                },
            }
            for i, metadata in enumerate((base, {**base, "steps": 10, **changes}))
        ],
    }


def test_eigenvalues_are_above_with_their_threshold_and_the_loss_below():
    panels = read_course(trained()).panels
    assert [panel.title for panel in panels] == ["λ1", "loss", "batch size", "gradient norm"]
    line, limit = panels[0].lines
    assert list(line.values) == [5.0, 21.0]
    assert list(line.doubtful) == [1]
    assert (limit.name, list(limit.values), limit.dashed) == ("2/η", [20.0, 20.0], True)
    assert panels[1].wide  # three decades
    assert [panel.minor for panel in panels] == [False, False, True, True]


def test_what_does_not_vary_is_not_drawn():
    assert "learning rate" not in [panel.title for panel in read_course(trained()).panels]


def panels_of(document):
    return {panel.title: panel for panel in read_course(document).panels}


def test_lines_go_through_the_gaps_between_steps_that_were_noted():
    document = trained()
    noted = [1.0 + i if i < 64 or i % 16 == 0 else None for i in range(100)]
    document["results"][0]["curves"]["gradient_norm"] = noted
    (line,) = panels_of(document)["gradient norm"].lines
    assert None not in line.values
    assert list(line.steps) == [*range(1, 66), 81, 97]


@pytest.mark.parametrize("left", [10, 31])
def test_the_last_short_batch_of_an_epoch_is_no_change_of_the_batch_size(left):
    document = trained()
    curves = document["results"][0]["curves"]
    curves["batch_size"] = ([32] * 9 + [left]) * 10
    assert "batch size" not in panels_of(document)
    curves["batch_size"] = ([32] * 9 + [left]) * 5 + ([64] * 4 + [left]) * 10
    (line,) = panels_of(document)["batch size"].lines
    assert set(line.values) == {32, 64}


def test_evaluations_are_drawn_on_the_loss_and_in_a_panel_of_their_own():
    document = trained()
    by_split = {"loss": [2.0, 1.0, 0.5], "accuracy": [0.1, 0.5, 0.9]}
    document["results"][0]["evaluations"] = {
        "step": [0, 50, 100],
        "epochs": [0, 0.5, 1],
        "seconds": [0, 1, 2],
        "train": by_split,
        "test": {**by_split, "accuracy": [0.1, 0.4, None]},
    }
    panels = panels_of(document)
    names = ["loss of the batch", "train data", "test data"]
    assert [line.name for line in panels["loss"].lines] == names
    assert list(panels["accuracy"].lines[1].values) == [0.1, 0.4, None]
    text = "\n".join(line.plain for line in course_lines(document, 80))
    assert all(name in text for name in (*names, "accuracy"))


def test_errors_do_not_stretch_the_axis():
    document = trained()
    for each in document["results"][0]["tracked"]:
        each["measures"]["hessian"]["eigenvalues"][0]["error"] = 300.0
    low, high = panels_of(document)["λ1"].extent
    assert low > 0
    assert high < 25


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_document_gives_the_same_figure(suffix):
    first, again = (course_file(read_course(trained()), suffix, FigureSettings()) for _ in "ab")
    assert first == again


def test_arrays_hold_every_line():
    arrays = np.load(io.BytesIO(course_file(read_course(trained()), ".npz", FigureSettings())))
    assert list(arrays["names"])[:2] == ["λ1: λ1", "λ1: 2/η"]
    assert list(arrays["0_value"]) == [5.0, 21.0]


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_charts_of_its_width(width):
    lines = list(course_lines(trained(), width))
    assert max(line.cell_len for line in lines) <= width
    text = "\n".join(line.plain for line in lines)
    assert "2/η" in text
    assert "tracked" not in text


def test_checkpoints_of_one_training_are_drawn_over_steps():
    panels = read_measured_course(measured()).panels
    line, limit = panels[0].lines
    assert (list(line.steps), list(line.values)) == ([10, 20], [11.0, 10.0])
    assert list(limit.values) == [20.0, 20.0]
    assert panels[1].title == "loss"


def test_the_threshold_follows_the_schedule():
    document = measured(schedule="FIX(k0=0.1):10, FIX(k0=0.2)")
    for result in document["results"]:
        result["checkpoint"]["metadata"]["schedule"] = "FIX(k0=0.1):10, FIX(k0=0.2)"
    limit = read_measured_course(document).panels[0].lines[1]
    assert list(limit.values) == [pytest.approx(20), pytest.approx(10)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.2}, "differ in lr"),
        ({"steps": 20}, "same number"),
        ({"steps": None}, "do not say"),
    ],
)
def test_other_checkpoints_are_not_drawn_as_one_training(changes, said):
    with pytest.raises(SharpError, match=said):
        read_measured_course(measured(**changes))


def test_a_document_without_curves_says_where_they_are():
    document = trained()
    del document["results"][0]["curves"]
    with pytest.raises(SharpError, match="no curves"):
        read_course(document)


def test_the_interactive_page_holds_every_line():
    pytest.importorskip("plotly")
    from sharpcli.render.files.course_html import course_page

    page = course_page(read_course(trained()), ".html", FigureSettings())
    assert page.startswith("<!doctype html>")
    assert "gradient norm" in page
