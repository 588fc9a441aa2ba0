from __future__ import annotations

import pytest

from sharpcli.render.terminal.axes import Scale, scale_of, x_axis
from sharpcli.render.terminal.chart import Chart, Dash, Rise, Series, chart_lines, sparkline

X = [i / 4 for i in range(-4, 9)]


def drawn(chart: Chart, width: int = 80, height: int = 13) -> list[str]:
    lines = chart_lines(chart, width, height)
    assert all(line.cell_len <= width for line in lines)
    return [line.plain.rstrip() for line in lines]


def braille(text: str) -> list[int]:
    return [i for i, c in enumerate(text) if "\u2801" <= c <= "\u28ff"]


def test_a_falling_line_falls_from_the_first_cell_to_the_last() -> None:
    lines = drawn(Chart("loss", [Series("train", [0, 1], [1, 0])]), width=40, height=8)
    rows = [braille(line) for line in lines[1:9]]
    assert all(rows)
    assert [min(row) for row in rows] == sorted(min(row) for row in rows)
    assert lines[1].startswith("1.00 ┤")
    assert lines[8].startswith("0.00 ┤")
    assert max(rows[-1]) == 39


def test_train_is_solid_and_test_dashed_without_any_colour() -> None:
    series = [
        Series("train", X, [1.0] * len(X)),
        Series("test", X, [2.0] * len(X), dash="dashed"),
    ]
    lines = drawn(Chart("loss", series))
    assert lines[0] == "loss   ⠒⠒⠒ train   ⠒ ⠒ test"
    dashed, solid = (line for line in lines[1:-3] if braille(line))
    assert len(braille(solid)) == len(solid) - solid.index("┤") - 1
    assert len(braille(solid)) / 3 < len(braille(dashed)) < 3 * len(braille(solid)) / 4


def test_four_kinds_of_line_differ_in_the_chart_and_in_its_legend() -> None:
    kinds: list[Dash] = ["solid", "dashed", "dotted", "dash-dotted"]
    series = [Series(kind, X, [float(i)] * len(X), dash=kind) for i, kind in enumerate(kinds)]
    lines = drawn(Chart("loss", series))
    assert lines[0] == "loss   ⠒⠒⠒ solid   ⠒ ⠒ dashed   ⠂⠂⠂ dotted   ⠒⠒ ⠂ dash-dotted"
    curves = [line.partition("┤")[2] for line in lines[1:-3] if braille(line)]
    patterns = [[sum(map(int, f"{max(0, ord(c) - 0x2800):b}")) for c in line] for line in curves]
    assert len(patterns) == 4
    assert len({tuple(pattern[:18]) for pattern in patterns}) == 4
    dots = [sum(pattern) for pattern in patterns]
    assert sorted(dots, reverse=True)[0] == dots[-1]  # the solid one is at the bottom


def test_zero_and_one_are_on_the_axis_with_their_names() -> None:
    ends = [(0.0, "A"), (1.0, "B")]
    for width in (40, 80, 160):
        lines = drawn(Chart("loss", [Series("train", X, X)], marks=ends), width)
        rule, numbers, names = lines[-3:]
        for number, name in (("0", "A"), ("1", "B")):
            cell = names.index(name)
            assert numbers[cell] == number
            assert rule[cell] == "┴"
        assert names.endswith("α")
        assert lines[-4][names.index("A")] == "┊"


def test_names_too_near_each_other_stand_beside_their_places() -> None:
    names = x_axis([], [(20, "A"), (19, "M1"), (21, "M2"), (20, "M3")], "α", 40)[2]
    assert names.split() == ["M1", "A,M3", "M2", "α"]
    crowded = x_axis([], [(20, "A"), *((20 + i, f"M{i}") for i in range(1, 9))], "α", 40)[2]
    assert len(crowded) == 40


def test_the_axis_name_makes_way_for_a_mark() -> None:
    assert x_axis([], [(9, "B")], "t", 10)[2] == "       t B"


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.01, 30.0], True),
        ([0.5, 30.0], False),
        ([0.0, 30.0], False),
        ([-1.0, 30.0], False),
        ([1e-12, 1e30], True),
    ],
)
def test_a_log_scale_is_chosen_where_two_decades_are_spanned(
    values: list[float], log: bool
) -> None:
    lines = drawn(Chart("loss", [Series("train", [0, 1], values)]))
    assert ("log scale" in lines[0]) == log
    assert "log scale" not in drawn(Chart("loss", [Series("train", [0, 1], values)], log=False))[0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.1, 0.96], ("0.00", "0.25", "0.50", "0.75", "1.00")),
        ([0.012, 2.4], ("0.0", "0.5", "1.0", "1.5", "2.0", "2.5")),
        ([1.2e-7, 8.7e-7], ("0", "2.5e-07", "5.0e-07", "7.5e-07", "1.00e-06")),
        ([-3.0, 1e9], ("-2.5e+08", "0", "2.5e+08", "5.0e+08", "7.5e+08", "1.00e+09")),
        ([0.3, 0.3 + 1e-9], ("0.3000",)),
        ([0.0, 0.0], ("0",)),
    ],
)
def test_ticks_are_round_numbers(values: list[float], labels: tuple[str, ...]) -> None:
    scale = scale_of(values, 6)
    assert scale is not None
    assert [float(text) for text in scale.labels] == [float(text) for text in labels]
    assert len({len(text.partition("e")[0]) for text in scale.labels if text != "0"}) <= 2


@pytest.mark.parametrize(("low", "high"), [(0.003, 34.0), (1e-9, 1e3), (1.0, 1e30), (2e-5, 0.9)])
def test_log_ticks_are_few_and_even(low: float, high: float) -> None:
    scale = scale_of([low, high], 7, log_from=2)
    assert scale is not None
    assert scale.log
    assert 3 <= len(scale.ticks) <= 7
    assert scale.low <= low <= high <= scale.high
    assert scale.place(scale.low) == 0
    assert scale.place(scale.high) == 1


def test_the_largest_numbers_have_a_scale() -> None:
    scale = scale_of([-1.7e308, 1.7e308], 6)
    assert scale is not None
    assert 0 <= scale.place(-1.7e308) < 0.5 < scale.place(1.7e308) <= 1


def test_a_barrier_is_a_bar_up_to_the_curve() -> None:
    values = [1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 3.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    rise = Rise(0.5, 1.0, 3.0, "barrier 2 at α = 0.5")
    lines = drawn(Chart("loss", [Series("train", X, values)], rise=rise))
    assert lines[0].endswith("┃ barrier 2 at α = 0.5")
    cells = {line.index("┃") for line in lines[1:] if "┃" in line}
    assert cells == {lines[-2].index(" 0.5") + 2}
    assert sum("┃" in line for line in lines[1:]) >= 8


def test_a_barrier_too_low_for_a_bar_is_pointed_at() -> None:
    values = [9.0, 1.0, 1.01, 1.0, 9.0]
    chart = Chart("loss", [Series("train", X[4:9], values)], rise=Rise(0.5, 1, 1.01, "barrier"))
    lines = drawn(chart)
    assert lines[0].endswith("▼ barrier")
    assert sum("▼" in line for line in lines[1:]) == 1


def test_what_is_not_finite_leaves_a_gap_and_a_cross() -> None:
    values = [*X[:4], None, float("nan"), *X[6:]]
    lines = drawn(Chart("loss", [Series("train", X, values)]))
    assert "× not finite" in lines[0]
    assert lines[1].count("×") == 2


def test_a_lone_point_is_a_dot_and_none_at_all_is_said() -> None:
    lines = drawn(Chart("loss", [Series("train", [0.0], [0.4])]))
    assert sum("•" in line for line in lines) == 1
    assert any(line.startswith("0.4000 ┤") for line in lines)
    nothing = drawn(Chart("loss", [Series("train", [0.0, 1.0], [None, None])]))
    assert nothing == ["loss", "not finite at any point"]


def test_the_first_curve_lies_above_the_others() -> None:
    series = [Series("train", X, X, "cyan"), Series("test", X, X, "magenta", "dashed")]
    line = chart_lines(Chart("loss", series), 60, 9)[5]
    assert "cyan" in {str(span.style) for span in line.spans}
    assert "magenta" not in {str(span.style) for span in line.spans}


def test_a_legend_too_long_is_wrapped() -> None:
    series = [Series(f"curve number {i}", X, X) for i in range(4)]
    lines = drawn(Chart("loss", series), width=40)
    assert sum("curve number" in line for line in lines) == 4


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, 2], among=[8]) == "▁▂"
    assert sparkline([1.0, None, 8.0]) == "▁×█"
    assert sparkline([0.001, 0.03, 1.0]) == "▁▄█"
    assert sparkline([1e-30, 1e30]) == "▁█"
    assert sparkline([2.0, 2.0]) == "▅▅"
    assert sparkline([None, None]) == "××"
    assert sparkline([]) == ""
    assert len(sparkline([float(i) for i in range(100)], most=30)) == 25


def test_a_flat_scale_says_so() -> None:
    assert scale_of([], 5) is None
    assert scale_of([None, float("inf")], 5) is None
    assert scale_of([0.3], 5) == Scale(0.15, 0.44999999999999996, False, (0.3,), ("0.3000",), True)
