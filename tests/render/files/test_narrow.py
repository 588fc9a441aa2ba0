"""At the width of a column of a paper no text of a figure lies over another one."""

from __future__ import annotations

import pytest
import scenes
import schedule_documents
from overlaps import overlapping
from sharpcli.settings.output import FigureSettings

from sharpcli.render.kinds import KINDS, load, read_drawing

_COLUMN = 3.3  # inches, of most conferences' two columns
_RUNS = [
    {"name": name, "points": [{"coordinates": {"alpha": a, "beta": 1.0}} for a in (1.0, 4.0)]}
    for name in ("sgd", "adam")
]
DOCUMENTS = {
    "line": lambda: scenes.line(),
    "aligned": lambda: scenes.line(aligned=scenes.aligned(), path=scenes.bezier()),
    "eigenvector": lambda: scenes.random_line(),
    "plane": lambda: scenes.plane(),
    "random": lambda: scenes.random_plane(9, 9),
    "path": lambda: scenes.path_plane(trajectories=_RUNS),
    "schedule": lambda: schedule_documents.rewritten(),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_text_lies_over_another(name):
    document = DOCUMENTS[name]()
    drawing = read_drawing(document)
    write = load(KINDS[document["kind"]].figures[".svg"])
    settings = FigureSettings(width=_COLUMN)
    assert overlapping(lambda: write(drawing, ".svg", settings)) == []


def test_an_overlap_is_found():
    from matplotlib.figure import Figure

    from sharpcli.render.files import figure

    def crowded() -> Figure:
        drawn = Figure((2, 2))
        drawn.text(0.5, 0.5, "one")
        drawn.text(0.52, 0.5, "other")
        return drawn

    assert overlapping(lambda: figure.written(crowded, ".svg")) == [("one", "other")]
