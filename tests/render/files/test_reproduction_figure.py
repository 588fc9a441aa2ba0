"""The figures of an experiment."""

import pytest

from sharpcli.render.files.reproduction_figure import reproduction_figure
from sharpcli.settings.output import FigureSettings

pytest.importorskip("matplotlib")


def test_rows_are_named_from_the_top():
    panel = {
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
    (axes,) = reproduction_figure([panel], FigureSettings()).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    places = list(axes.get_yticks())
    assert dict(zip(names, places, strict=True)) == {"φ": 1, "λ1": 0}
    (bars,) = axes.containers
    assert [*bars[0].get_xdata()] == [0.5, -0.2]
