"""What a person sees of scores: tables and curves, in a terminal and in files."""

import io

import numpy as np
import pytest
from scored_runs import run, scored
from sharpcli.settings.output import FigureSettings

from sharpcli.documents.results import to_document
from sharpcli.errors import SharpError
from sharpcli.render.files.score_figure import score_file
from sharpcli.render.files.spreadsheet import group_rows
from sharpcli.render.pages.scores import comparison_lines, comparison_page, read_bands


def document(**asked):
    finals = {0.1: (0.5, 0.6, 0.9), 0.5: (0.91, 0.92, 0.95)}
    runs = [
        run([0.1, each - 0.05, each], seed=seed, lr=lr)
        for lr, values in finals.items()
        for seed, each in enumerate(values)
    ]
    return scored([*runs, run(seed=3, lr=0.5, status="diverged")], **asked)


def cells(sheet):
    return {column.header: list(column.cells) for column in sheet.columns}


def test_tables():
    utility, cost, rates = comparison_page(document()).sheets
    assert [row.label for row in utility.rows] == ["0.1", "0.5"]
    assert utility.caption == "lr"
    assert cells(utility)["runs"] == ["3", "3 of 4"]
    assert cells(utility)["final"] == ["0.67±0.21", "0.927±0.021"]
    assert cells(utility)["worst"] == ["0.5000", "0.9100"]
    assert cost.title == "cost of reaching 0.6000, the median over the runs"
    assert cells(cost)["reached"] == ["2 of 3", "3 of 4"]
    assert cells(cost)["steps"] == ["20 [10, –]", "10 [10, –]"]
    assert cells(rates)["near"] == ["1 of 2"]
    assert cells(rates)["worst"] == ["0.6000"]


@pytest.mark.parametrize("width", [80, 160])
def test_no_line_is_wider_than_the_terminal(width):
    lines = [line.plain for line in comparison_lines(document(), width)]
    assert max(map(len, lines)) <= width
    assert any("the median of each group" in line for line in lines)


def test_the_chart_shows_the_best_groups():
    runs = [run([0.1, 0.1 * rate], lr=rate) for rate in (1.0, 2.0, 3.0, 4.0, 5.0)]
    text = "\n".join(line.plain for line in comparison_lines(scored(runs), 100))
    chart = text.partition("t\n\n")[0]
    assert "(the best 4 of 5)" in chart
    assert "lr=5" in chart.partition("┤")[0]
    assert "lr=1" not in chart.partition("┤")[0]


def test_the_legend_states_the_confidence():
    legend = "\n".join(comparison_page(document()).legend)
    assert "75 % with 3 runs" in legend
    assert "87.5 % with 4 runs" in legend
    assert "median run of every group" in legend
    assert "median run of every group" not in "\n".join(
        comparison_page(document(target=0.5)).legend
    )


def test_rows_of_a_spreadsheet():
    first, _ = group_rows(document())
    assert first["metadata.lr"] == 0.1
    assert first["final.mean"] == pytest.approx(2 / 3)
    assert first["to_target.steps.median"] == 20
    assert not any("curve" in key or "values" in key for key in first)


def test_bands():
    drawn = read_bands(document(over="epochs"))
    assert drawn.quantity == "accuracy (test)"
    assert drawn.target == pytest.approx(0.6)
    assert [(each.name, each.runs) for each in drawn.bands] == [("lr=0.1", 3), ("lr=0.5", 3)]
    assert drawn.bands[0].x == [0, 0.5, 1.0]
    assert drawn.bands[0].upper == pytest.approx([0.1, 0.7, 0.75])


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figures_are_the_same_every_time(suffix):
    pytest.importorskip("matplotlib")
    drawn = read_bands(document())
    first = score_file(drawn, suffix, FigureSettings())
    assert first == score_file(drawn, suffix, FigureSettings())
    assert len(first) > 1000


def test_arrays():
    content = score_file(read_bands(document()), ".npz", FigureSettings())
    arrays = np.load(io.BytesIO(content))
    assert arrays["names"].tolist() == ["lr=0.1", "lr=0.5"]
    assert arrays["0_steps"].tolist() == [0, 10, 20]
    assert arrays["1_median"] == pytest.approx([0.1, 0.87, 0.92])


def test_a_comparison_without_scores_has_no_figure(sweep):
    from sharpcli.documents import comparison

    compared = to_document(comparison.compare([("sweep.json", sweep)]))
    with pytest.raises(SharpError, match="without scores"):
        read_bands(compared)
