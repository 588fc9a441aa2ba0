from __future__ import annotations

import pytest
from sharpcli.settings.output import FigureSettings

from sharpcli.documents.comparison import compare
from sharpcli.documents.results import Document, to_document
from sharpcli.errors import SharpError
from sharpcli.render.files.comparison_figure import comparison_file
from sharpcli.render.files.comparison_html import comparison_html
from sharpcli.render.pages.comparison import compare_page
from sharpcli.render.relations import DrawnHeat, DrawnScatter, read_comparison

BY = ["optimizer", "batch_size"]


def compared(document: Document, **drawn: str) -> Document:
    return to_document(compare([("a.json", document)], BY, drawn=drawn))


def test_a_scatter_shows_lambda_1_by_the_first_factor(sweep: Document) -> None:
    drawn = read_comparison(compared(sweep))
    assert isinstance(drawn, DrawnScatter)
    assert (drawn.measure, drawn.factor, drawn.tau) == ("λ1", "optimizer", 1.0)
    assert [each.name for each in drawn.points] == ["adam", "sgd"]
    assert [len(each.x) for each in drawn.points] == [6, 6]
    assert drawn.points[1].x[0] == pytest.approx(12.31)
    assert comparison_file(drawn, ".png", FigureSettings()).startswith(b"\x89PNG")
    assert "λ1" in comparison_html(drawn, ".html", FigureSettings())


def test_a_heat_map_shows_the_means_in_table_and_figure(sweep: Document) -> None:
    document = compared(sweep, heat="trace")
    drawn = read_comparison(document)
    assert isinstance(drawn, DrawnHeat)
    assert (drawn.rows, drawn.columns) == (["adam", "sgd"], ["32", "400"])
    assert drawn.values[1] == pytest.approx([153 * 1.1, 153 * 9 * 1.1])
    sheet = next(s for s in compare_page(document).sheets if s.title == "trace")
    assert [column.header for column in sheet.columns] == ["batch_size=32", "batch_size=400"]
    assert comparison_file(drawn, ".svg", FigureSettings()).lstrip().startswith(b"<?xml")
    assert "trace" in comparison_html(drawn, ".html", FigureSettings())


def test_without_gaps_a_scatter_says_what_is_missing(sweep: Document) -> None:
    for result in sweep["results"]:
        del result["measures"]["loss"]["gap"]
    with pytest.raises(SharpError, match="no checkpoint has both"):
        read_comparison(compared(sweep))
