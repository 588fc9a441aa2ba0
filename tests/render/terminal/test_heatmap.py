from __future__ import annotations

import pytest
from rich.color import Color
from rich.text import Text
from scenes import spread

from sharpcli.render.terminal.heatmap import HeatMap, heat_map_lines


def shaded(heat: HeatMap, width: int = 80, rows: int = 25) -> list[str]:
    lines = heat_map_lines(heat, width, rows, colour=False)
    assert all(line.cell_len <= width for line in lines)
    return [line.plain.rstrip() for line in lines]


def picture(lines: list[str]) -> list[str]:
    """The part of each line between the axis and the legend."""
    end = next(line for line in lines if "└" in line)
    body = [line for line in lines if "│" in line or "┤" in line]
    start = end.index("└") + 1
    return [line.ljust(len(end))[start : len(end)] for line in body]


def styles(line: Text) -> list[tuple[str, Color | None, Color | None]]:
    found = []
    for span in line.spans:
        style = span.style
        if not isinstance(style, str):
            found.append((line.plain[span.start : span.end], style.color, style.bgcolor))
    return found


def bowl(alphas: list[float], betas: list[float]) -> list[float | None]:
    return [a * a + b * b for b in betas for a in alphas]


def test_beta_runs_up_and_alpha_to_the_right() -> None:
    rows = picture(shaded(HeatMap("loss", [0, 1], [0, 1], [0.0, 0.3, 0.6, 1.0])))
    assert rows[0][0] == "▓"
    assert rows[0][-1] == "█"
    assert rows[-1][0] == " "
    assert rows[-1][-1] == "░"


def test_two_pixels_share_a_character_in_colour() -> None:
    heat = HeatMap("loss", [0], [0, 1], [0.0, 1.0])
    lines = heat_map_lines(heat, 80, 25)
    cells = [cell for line in lines[2:] for cell in styles(line) if cell[0] == "▀"]
    first, last = cells[0], cells[-1]
    yellow, violet = Color.from_rgb(253, 231, 37), Color.from_rgb(68, 1, 84)
    assert first == ("▀", yellow, yellow)
    assert last == ("▀", violet, violet)


def test_marks_stand_at_their_coordinates() -> None:
    grid = spread(-1, 1, 21)
    marks = [((0.0, 0.0), "A"), ((1.0, 1.0), "B"), ((-1.0, -1.0), "C"), ((9.0, 0.0), "D")]
    rows = picture(shaded(HeatMap("loss", grid, grid, bowl(grid, grid), marks)))
    assert rows[0].rstrip()[-1] == "B" or rows[0][-2] == "B"
    assert "C" in rows[-1][:2]
    middle = next(i for i, row in enumerate(rows) if "A" in row)
    assert abs(middle - len(rows) / 2) <= 1
    assert abs(rows[middle].index("A") - len(rows[0]) / 2) <= 1
    assert not any("D" in row for row in rows)


def test_a_path_is_dots_below_the_marks() -> None:
    grid = spread(-1, 1, 21)
    path = [(0.9, -0.9), (0.5, -0.5), (0.0, 0.0)]
    heat = HeatMap("loss", grid, grid, bowl(grid, grid), [((0.0, 0.0), "A")], path)
    text = "\n".join(picture(shaded(heat)))
    assert text.count("•") == 2
    assert text.count("A") == 1
    dots = [c for line in heat_map_lines(heat, 80, 25) for c in styles(line) if c[0] == "•"]
    assert len(dots) == 2
    assert all(ground is not None for _, _, ground in dots)


def test_names_of_one_place_stand_side_by_side() -> None:
    grid = spread(-1, 1, 21)
    marks = [((0.0, 0.0), "A"), ((0.01, 0.0), "M1"), ((1.0, 0.0), "M2")]
    rows = picture(shaded(HeatMap("loss", grid, grid, [None, *[1.0] * 440], marks)))
    named = next(row for row in rows if "A" in row)
    assert "A" in named
    assert "M1" in named
    assert "AM1" not in named
    assert named.rstrip().endswith("M2")


def test_what_is_not_finite_is_hatched_and_named() -> None:
    values: list[float | None] = [None, 1.0, 2.0, float("inf")]
    heat = HeatMap("loss", [0, 1], [0, 1], values)
    lines = shaded(heat)
    assert any("╱╱ not finite" in line for line in lines)
    rows = picture(lines)
    assert rows[-1][0] == rows[0][-1] == "╱"
    assert rows[0][0] != "╱"
    coloured = heat_map_lines(heat, 80, 25)
    assert any("not finite" in line.plain for line in coloured)
    assert shaded(HeatMap("loss", [0, 1], [0], [None, None])) == ["loss", "not finite at any point"]


def test_colours_go_by_logarithms_where_the_range_is_large() -> None:
    narrow = HeatMap("loss", [0, 1, 2], [0], [1.0, 2.0, 3.0])
    wide = HeatMap("loss", [0, 1, 2], [0], [0.01, 1.0, 100.0])
    assert shaded(narrow)[0] == "loss"
    assert shaded(wide)[0] == "loss, log scale"
    assert {row[len(row) // 2] for row in picture(shaded(wide))} == {"▒"}


def test_the_legend_has_the_ends_of_the_range() -> None:
    grid = spread(-1, 1, 21)
    lines = shaded(
        HeatMap("loss", grid, grid, [0.5 + y for y in bowl(grid, grid) if y is not None])
    )
    assert lines[2].endswith("██ 2.50")
    assert lines[-4].endswith(" 0.500")
    flat = shaded(HeatMap("loss", grid, grid, [0.5] * 441))
    assert sum("0.5000" in line for line in flat) == 1


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (9, 1), (2, 2), (25, 25), (31, 31), (37, 13), (101, 101), (7, 200)]
)
def test_any_grid_fits_and_keeps_its_shape(size: tuple[int, int], width: int) -> None:
    alphas, betas = spread(-1, 1, size[0]), spread(-1, 1, size[1])
    heat = HeatMap("loss", alphas, betas, bowl(alphas, betas), [((alphas[0], betas[0]), "A")])
    lines = shaded(heat, width)
    rows = picture(lines)
    assert 1 <= len(rows) <= 32
    assert sum("A" in row for row in rows) == 1
    if min(size) > 1:
        assert 0.6 < 2 * len(rows) / len(rows[0]) < 1.7
    coloured = heat_map_lines(heat, width, 25)
    assert all(line.cell_len <= width for line in coloured)
    assert len(coloured) == len(lines)


def test_points_of_a_grid_are_equal_blocks() -> None:
    grid = spread(0, 4, 5)
    values: list[float | None] = [float(a % 2) for _ in range(5) for a in range(5)]
    row = picture(shaded(HeatMap("loss", grid, grid, values)))[0]
    block = len(row) // 5
    assert row == (" " * block + "█" * block) * 2 + " " * block


def test_an_uneven_grid_is_drawn_to_scale() -> None:
    alphas = [0.0, 1.0, 2.0, 10.0]
    row = picture(shaded(HeatMap("loss", alphas, [0.0], [0.0, 0.0, 0.0, 1.0])))[0]
    assert row.count("█") > row.count(" ")


def test_huge_values() -> None:
    heat = HeatMap("loss", [0, 1], [0, 1], [1e-300, 1.0, 1e30, 1e308])
    assert shaded(heat)[0] == "loss, log scale"
    assert shaded(HeatMap("loss", [0, 1], [0], [-1e308, 1e308]))[0] == "loss"
