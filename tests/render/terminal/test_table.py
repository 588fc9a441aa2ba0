from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sharpcli.render.terminal.table import Column, Page, Row, Sheet, markdown, page_lines

numbers = st.sampled_from(["12.31(4)", "≥17.2", "1.523(31)e-05", "–", "(1.50±0.20)e-05", "0"])


def lines(page: Page, width: int) -> list[str]:
    return [line.plain for line in page_lines(page, width)]


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    rows = draw(st.lists(st.text("ab-λ/_", min_size=1, max_size=60), min_size=1, max_size=4))
    headers = draw(st.lists(st.sampled_from(["φ 1e-3 p=100", "λ1", "loss train"]), max_size=12))
    columns = [
        Column(header, draw(st.lists(numbers, min_size=len(rows), max_size=len(rows))))
        for header in headers
    ]
    return Sheet([Row(row) for row in rows], columns)


@given(sheets(), st.integers(60, 200))
def test_no_line_is_wider_than_asked_and_no_number_is_cut(sheet: Sheet, width: int) -> None:
    shown = lines(Page([], [sheet]), width)
    assert max(map(cell_len, shown)) <= width
    text = " ".join(shown).split()
    for column in sheet.columns:
        for cell in column.cells:
            assert text.count(cell) >= sum(c.cells.count(cell) for c in sheet.columns)


def test_too_many_columns_become_stacked_tables_with_their_labels() -> None:
    columns = [Column(f"c{i}", [f"{i}.00000001"]) for i in range(12)]
    shown = lines(Page([], [Sheet([Row("only-row")], columns)]), 60)
    labelled = [line for line in shown if line.startswith("only-row")]
    assert len(labelled) == 3
    assert [cell for line in labelled for cell in line.split()[1:]] == [
        column.cells[0] for column in columns
    ]


def test_a_failure_stands_in_its_place_and_is_said_once() -> None:
    columns = [Column(f"c{i}", ["1.00000001", "2.00000001"]) for i in range(8)]
    rows = [Row("good"), Row("bad", "failed: tensor 'fc.weight' is missing")]
    shown = lines(Page([], [Sheet(rows, columns)]), 60)
    assert [line for line in shown if line.startswith("bad")] == [
        "bad         failed: tensor 'fc.weight' is missing",
        "bad         failed",
    ]


def test_a_long_failure_is_shortened_to_its_line() -> None:
    sheet = Sheet([Row("bad", "failed: " + "x" * 200)], [Column("λ1", [""])])
    (line,) = [line for line in lines(Page([], [sheet]), 60) if line.startswith("bad")]
    assert cell_len(line) == 60
    assert line.endswith("…")


def test_a_long_label_is_folded_not_cut() -> None:
    label = "run-" + "0123456789" * 6
    shown = lines(Page([], [Sheet([Row(label)], [Column("λ1", ["12.31(4)"])])]), 50)
    assert label in "".join(line.split()[0] for line in shown[3:])


def test_control_characters_do_not_reach_the_terminal() -> None:
    sheet = Sheet([Row("a\x1b[2J")], [Column("x\x07", ["1\x1b[0m"], numeric=False)], "t\x1b")
    page = Page(["c\x1b"], [sheet], ["f\x1b"], ["l\x1b"])
    assert not any("\x1b" in line or "\x07" in line for line in lines(page, 80))
    assert "\x1b" not in markdown(page)


def test_markdown_is_a_github_table() -> None:
    sheet = Sheet(
        [Row("a|b"), Row("bad", "failed: gone")],
        [Column("optimizer", ["sgd", ""], numeric=False), Column("λ1", ["12.31(4)", ""])],
        "Title",
    )
    assert markdown(Page(["digits"], [sheet], legend=["λ1: largest"])).splitlines() == [
        "digits",
        "",
        "**Title**",
        "",
        "| checkpoint | optimizer | λ1 |",
        "| --- | --- | ---: |",
        "| a\\|b | sgd | 12.31(4) |",
        "| bad | failed: gone |  |",
        "",
        "- λ1: largest",
    ]
