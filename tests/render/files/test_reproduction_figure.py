"""Figures of an experiment, looked at through matplotlib's own objects."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sharpcli.render.files.reproduction_figure import reproduction_figure
from sharpcli.settings.output import FigureSettings


def panel(*series, style="points", **more):
    about = {"title": "t", "x_name": "x", "y_name": "y", "x_log": False, "y_log": False}
    return {**about, "style": style, "series": series, **more}


def series(name, x, y):
    return {"name": name, "x": x, "y": y, "low": [0.9 * each for each in y], "high": y}


def axes_of(*panels):
    figure = reproduction_figure(list(panels), FigureSettings())
    FigureCanvasAgg(figure).draw()
    return figure, figure.axes


def test_a_setting_of_0_has_a_place_on_a_logarithmic_axis():
    _, (axes,) = axes_of(panel(series("a", [0, 1, 4], [1, 2, 3]), x_log=True))
    assert axes.get_xscale() == "symlog"
    places = axes.transData.transform([(0, 1), (1, 2), (4, 3)])[:, 0]
    assert np.isfinite(places).all()
    assert (np.diff(places) > 0).all()


@pytest.mark.parametrize("style", ["points", "curves", "scatter"])
def test_values_that_are_negative_are_shown(style):
    _, (axes,) = axes_of(panel(series("a", [1, 2], [-1.0, 2.0]), style=style, y_log=True))
    assert axes.get_yscale() == "linear"
    assert axes.get_ylabel() == "y"
    low, high = axes.get_ylim()
    assert low < -1
    assert high > 2


def test_a_long_legend_is_below_the_panel_and_hides_nothing():
    many = [series(f"optimizer adamw, lr {k}", [1, 2], [k + 1.0, k + 2.0]) for k in range(12)]
    figure, (axes,) = axes_of(panel(*many))
    legend, data = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.y1 < data.y0
    assert legend.y0 >= 0
    assert data.height > 0.5 * data.width
    assert figure.bbox.height > legend.height + data.height


def test_a_long_title_stays_in_its_panel():
    one = panel(series("a", [1, 2], [1.0, 2.0]), title="a title that is long " * 5)
    figure, axes = axes_of(one, one)
    for each in axes:
        extent = each.title.get_window_extent()
        assert extent.width < figure.bbox.width / 2


def test_rows_are_named_from_the_top():
    drawn = {
        "title": "measures",
        "x_name": "coefficient",
        "y_name": "",
        "style": "rows",
        "x_log": False,
        "y_log": False,
        "level": 0,
        "series": [
            {"name": name, "x": [0.0], "y": [y], "low": [y - 0.1], "high": [y + 0.1]}
            for name, y in (("φ", 0.5), ("λ1", -0.2))
        ],
    }
    (axes,) = reproduction_figure([drawn], FigureSettings()).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    places = list(axes.get_yticks())
    assert dict(zip(names, places, strict=True)) == {"φ": 1, "λ1": 0}
    (bars,) = axes.containers
    assert [*bars[0].get_xdata()] == [0.5, -0.2]


def test_intervals_of_single_points_at_one_place_lie_side_by_side():
    alone = [series(name, [x], [1.0]) for name, x in (("a", 10), ("b", 50), ("c", 50))]
    for x_log in (False, True):
        _, (axes,) = axes_of(panel(*alone, x_log=x_log))
        places = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
        assert places[0] == pytest.approx(10), "it is alone there"
        assert places[1] < places[2]
        assert places == pytest.approx([10, 50, 50], rel=0.1)


def test_a_single_point_is_drawn_where_it_is():
    _, (axes,) = axes_of(panel(series("a", [3], [1.0])))
    (bars,) = axes.containers
    assert [*bars.lines[0].get_xdata()] == [3]
