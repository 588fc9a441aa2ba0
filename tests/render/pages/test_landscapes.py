from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from typing import Any

import landscape_documents as made
import pytest
from scenes import scalar, spread
from sharpcli.settings.output import OutputSettings

from sharpcli.documents.results import Document
from sharpcli.render import emit
from sharpcli.render.pages.landscapes import landscape_lines, landscape_page
from sharpcli.render.terminal.plain import plainer

X = made.LINE

DOCUMENTS: dict[str, Callable[[], Document]] = {
    "line": made.line,
    "aligned and path": made.line_with_all,
    "plane": made.plane,
    "random": made.random_plane,
    "trajectory": made.trajectory,
    "long trajectory": lambda: made.trajectory(75),
    "one point": lambda: made.line([0.0], [0.3], [0.5]),
    "constant": lambda: made.line(X, [0.3] * 25, [0.3] * 25),
    "not finite": lambda: made.line(X, [None] * 25, [None] * 25),
    "one finite": lambda: made.line(X, [*[None] * 8, 0.4, *[None] * 16], [None] * 25),
    "huge": lambda: made.line(X, [10.0 ** (2 * i - 12) for i in range(25)], [1e30] * 25),
    "zero": lambda: made.line(X, [0.0] * 25, [max(0.0, a) for a in X]),
    "negative": lambda: made.line(X, [100 * a for a in X], [-a for a in X]),
    "no test data": lambda: made.line(X, [made.keskar(a) for a in X]),
    "1 × 1": lambda: bowl(1, 1),
    "1 × 9": lambda: bowl(1, 9),
    "9 × 1": lambda: bowl(9, 1),
    "map not finite": lambda: bowl(9, 3, None),
}


def bowl(across: int, up: int, scale: float | None = 1.0) -> Document:
    def height(a: float, b: float) -> float | None:
        return None if scale is None else scale * (a * a + b * b)

    center = made.checkpoint("A", "runs/a.pt", (0.0, 0.0), role="center")
    return made.surface(spread(-1, 1, across), spread(-1, 1, up), height, [center])


def text(document: Document, width: int = 80, *, colour: bool = False) -> str:
    return "\n".join(line.plain for line in landscape_lines(document, width, colour=colour))


@pytest.mark.parametrize("width", [48, 80, 109, 110, 160, 300])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_fits_every_width(name: str, width: int) -> None:
    for colour in (True, False):
        for line in landscape_lines(DOCUMENTS[name](), width, colour=colour):
            assert line.cell_len <= width, line.plain


def test_a_line_says_what_it_is() -> None:
    out = text(made.line())
    lines = out.splitlines()
    assert lines[:3] == [
        "digits (width=128) · 1437 train and 360 test examples · float32 on cpu",
        "line from A to B · 25 points",
        "α: from A (0) to B (1), one unit is a weight distance of 12.34",
    ]
    assert "loss, log scale   ⠒⠒⠒ train   ⠒ ⠒ test   ┃ barrier ≥0.599 at α = 0.75" in lines
    assert "A sgd-32    0   0.01230  0.2941    0.9400" in lines
    assert "train  ≥0.599  α = 0.75  ≥0.596  ▃▄▅▇▇██▇▁" in lines
    assert "Entezari et al. 2022" in out
    assert "Frankle et al. 2020" in " ".join(out.split())


def test_accuracy_stands_beside_the_loss_where_there_is_room() -> None:
    def together(width: int) -> bool:
        return any("loss," in x and "accuracy " in x for x in text(made.line(), width).splitlines())

    assert together(160)
    assert together(110)
    assert not together(109)
    assert "accuracy   ⠒⠒⠒ train" in text(made.line(), 80)


def test_aligned_line_and_path_are_drawn_on_the_same_scale() -> None:
    out = text(made.line_with_all(), 160)
    heads = ["loss, line", "loss, aligned", "loss, Bézier path"]
    blocks = [out[out.index(head) :].splitlines() for head in heads]
    ticks = [[line.split()[0] for line in block[1:14] if " ┤" in line[:8]] for block in blocks]
    assert ticks[0] == ticks[1] == ticks[2]
    for row in (
        "line, train          ≥0.599  α = 0.75",
        "aligned, train       ≥0.209  α = 0.75",
        "Bézier path, test   ≥0.0125   t = 0.5",
    ):
        assert row in out
    assert "aligned: 1,022 units of B permuted, in 4 groups, to match A" in out
    assert "bend is trained in 400 steps" in out
    assert "batch norm statistics re-estimated at each point" in out


def test_a_plane_shows_where_its_checkpoints_are() -> None:
    out = text(made.plane())
    assert "plane through A, B, C · 25 × 21 points · cosine of the axes 1.2e-09" in out
    assert "B sgd-2     12.3    0     0 %" in out
    assert "D swa        6.1  3.2  41.2 %" in out
    assert "unseen: the share of the distance from the origin that is off the plane" in out
    body = [line for line in out.splitlines() if "│" in line or "┤" in line]
    marked = [name for line in body for name in "ABCD" if name in line]
    assert marked == ["C", "D", "A", "B"] * 2


def test_the_maps_of_a_plane_stand_side_by_side_where_there_is_room() -> None:
    def heads(width: int) -> list[str]:
        lines = text(made.plane(), width).splitlines()
        return [line for line in lines if line.startswith("loss t")]

    for width in (80, 109):
        assert [head.split(",")[0] for head in heads(width)] == ["loss train", "loss test"]
    for width in (110, 160, 300):
        (head,) = heads(width)
        assert "loss train" in head
        assert "loss test" in head
        assert head.index("loss test") <= width // 2 + 2


def test_wide_screens_have_wide_maps() -> None:
    def map_width(width: int) -> int:
        lines = text(bowl(15, 15), width).splitlines()
        return next(line for line in lines if "└" in line).count("─")

    assert map_width(80) == map_width(100)
    assert map_width(110) > map_width(100)


def test_a_plane_shows_the_metric_that_is_named() -> None:
    lines = landscape_lines(made.random_plane(9), 80, colour=False, metric="accuracy")
    out = "\n".join(line.plain for line in lines)
    assert "accuracy train" in out
    assert "accuracy test" in out
    assert "loss train, log scale" not in out
    assert "accuracy  lowest" in out


def test_a_landscape_says_its_directions_and_its_extremes() -> None:
    out = text(made.random_plane())
    assert "around A, random directions, filter-normalised · 31 × 31 points" in out
    assert "train  0.01000  0, 0    25.04  1, 0.933  10 of 961" in out
    assert "not finite" in out


def test_a_trajectory_has_a_row_a_point_and_its_variances() -> None:
    out = text(made.trajectory())
    assert "principal axes of the trajectory" in out
    assert "not normalised" not in out
    assert "83.1 % of the path's variance" in out
    assert out.count("•") >= 8
    assert "epoch-3      5.69   1.223     6 %" in out
    title = "runs/adam on these axes (20 of 75 points; the JSON has all)"
    assert title in text(made.trajectory(75))


def test_hessian_axes_have_their_eigenvalues() -> None:
    document = bowl(5, 5)
    result = document["results"][0]
    result["directions"] = "hessian"
    result["axes"][0]["eigenvalue"] = scalar(12.31, error=0.04, error_kind="residual")
    out = text(document)
    assert "eigenvectors of the Hessian" in out
    assert "eigenvalue 12.31(4)" in out


def test_a_number_that_is_missing_says_why() -> None:
    document = made.line()
    measures = document["results"][0]["checkpoints"][1]["measures"]
    measures["loss"]["test"] = scalar(None, status="not_finite", advice="use --dtype float64")
    assert "! loss.test of B: use --dtype float64" in text(document)
    document = made.line(X, [None] * 25, [None] * 25)
    assert "! barrier.train, barrier.train.above_mean, " in text(document)


def test_a_checkpoint_outside_the_picture_is_named() -> None:
    document = made.line()
    far = made.checkpoint("C", "runs/c/model.safetensors", [7.5], role="marked")
    document["results"][0]["checkpoints"].append(far)
    assert "outside the range of α: C" in text(document)


def test_a_checkpoint_whose_place_is_not_finite_is_nowhere() -> None:
    lost = made.checkpoint("M1", "runs/c.pt", (0.0, 0.0), role="marked", unseen=0.5)
    for document in (made.line(), made.plane()):
        lost["coordinates"] = dict.fromkeys(("alpha", "beta"))
        document["results"][0]["checkpoints"].append(lost)
        out = text(document)
        assert out.count("M1") == 1
        assert any("M1" in line and "–" in line for line in out.splitlines())


def test_a_sample_of_the_data_is_called_one() -> None:
    document = made.line()
    examples = document["task"]["examples"]
    for samples, train, test, said in (
        (256, 256, 256, "a sample of 256 train and test examples"),
        (256, 256, 360, "a sample of 256 train and all 360 test examples"),
        (1000, 1000, 360, "a sample of 1000 train and all 360 test examples"),
        (5000, 1437, 360, "1437 train and 360 test examples"),
    ):
        document["settings"]["run"]["samples"] = samples
        examples |= {"train": train, "test": test}
        assert f" · {said} · " in text(document)


def test_names_cannot_steer_the_terminal() -> None:
    document = made.line()
    for checkpoint in document["results"][0]["checkpoints"]:
        checkpoint["path"] = "runs/\x1b[2J" + checkpoint["name"]
    document["results"][0]["axes"][0]["meaning"] = "\x1b[31mred"
    assert "\x1b" not in text(document)


def test_markdown_has_the_tables_alone(capsys: pytest.CaptureFixture[str]) -> None:
    emit(made.line(), OutputSettings("markdown"))
    out = capsys.readouterr().out
    assert "| train | ≥0.599 | α = 0.75 | ≥0.596 | ▃▄▅▇▇██▇▁ |" in out
    assert "┤" not in out
    assert landscape_page(made.plane()).sheets[0].columns[2].header == "unseen"


def test_csv_has_a_row_a_grid_point(capsys: pytest.CaptureFixture[str]) -> None:
    document = made.random_plane(5)
    result = document["results"][0]
    result["sampling_errors"] = {"train": {"loss": [0.01] * 25}}
    emit(document, OutputSettings("csv"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 25
    assert list(rows[0]) == [
        "alpha",
        "beta",
        "train.loss",
        "train.accuracy",
        "test.loss",
        "test.accuracy",
        "train.loss.sampling_error",
    ]
    assert (rows[1]["alpha"], rows[1]["beta"]) == ("-0.5", "-1.0")
    assert float(rows[7]["train.loss"]) == result["curves"]["train"]["loss"][7]
    assert rows[20]["train.loss"] == ""


def test_csv_of_a_line_has_the_aligned_values_and_the_path(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = made.line_with_all()
    emit(document, OutputSettings("csv"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    aligned = document["results"][0]["aligned"]["curves"]["test"]["accuracy"]
    assert float(rows[3]["aligned.test.accuracy"]) == aligned[3]
    assert [row["t"] for row in rows[:25]] == [""] * 25
    assert len(rows) == 50
    assert rows[25]["alpha"] == ""
    assert float(rows[49]["t"]) == 1.0


def test_colours_make_half_blocks_and_their_absence_shades(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(**environment: str) -> str:
        with monkeypatch.context() as patch:
            for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
                patch.delenv(name, raising=False)
            for name, value in {"COLUMNS": "80", **environment}.items():
                patch.setenv(name, value)
            emit(made.plane(), OutputSettings())
        return capsys.readouterr().out

    truecolour = printed(FORCE_COLOR="1", TERM="xterm-256color", COLORTERM="truecolor")
    assert "▀" in truecolour
    assert "\x1b[38;2;68;1;84" in truecolour
    assert "▀" in printed(FORCE_COLOR="1", TERM="xterm-256color")
    sixteen = printed(FORCE_COLOR="1", TERM="xterm")
    assert "▒" in sixteen
    assert "▀" not in sixteen
    without = printed(FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1")
    assert "▒" in without
    assert "▀" not in without
    assert "\x1b" not in printed()


def test_an_encoding_without_braille_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (made.line, made.random_plane):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
        monkeypatch.setenv("COLUMNS", "80")
        emit(make(), OutputSettings())
        sys.stdout.flush()
        assert b"\\u" not in raw.getvalue()
        assert b"+-----" in raw.getvalue()
        assert max(map(len, raw.getvalue().splitlines())) <= 80


def test_strokes_keep_their_height_and_slope() -> None:
    assert plainer("⠉⠒⠤⣀⡇⢸⠡⡐", "ascii") == "'--_||\\/"
    assert plainer("⠀x", "ascii") == " x"
    assert plainer("⠂⠂⠂ ≤", "ascii") == "... <="
    assert plainer("─λ", "ascii") == "-\\u03bb"
    assert plainer("▒⠒", "cp437") == "▒-"


def test_warnings_and_notes_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    document: dict[str, Any] = made.line()
    document["warnings"] = ["the curve is coarse"]
    document["notes"] = ["A: prefix 'module.' removed"]
    emit(document, OutputSettings("json"))
    assert capsys.readouterr().err.splitlines() == [
        "warning: the curve is coarse",
        "note: A: prefix 'module.' removed",
    ]
    emit(document, OutputSettings("json", quiet=True))
    assert capsys.readouterr().err == "warning: the curve is coarse\n"


def test_the_loss_on_the_plane_is_shown_where_it_is_another() -> None:
    document = made.plane()
    checkpoints = document["results"][0]["checkpoints"]
    for checkpoint in checkpoints:
        checkpoint["on_surface"] = checkpoint["measures"]
    assert "on plane" not in text(document)
    checkpoints[3]["on_surface"] = {
        "loss": {"train": scalar(1.234), "test": scalar(0.31)},
    }
    assert "on plane: the loss as drawn, at the checkpoint's place on the plane" in text(document)
    columns = landscape_page(document).sheets[0].columns
    assert [column.header for column in columns][-1] == "train on plane"
    assert columns[-1].cells[3] == "1.234"


def test_a_run_that_was_interrupted_shows_what_it_has() -> None:
    document = made.line(X, [None if a > 0.5 else made.keskar(a) for a in X])
    result = document["results"][0] | {"status": "interrupted", "barrier": {}}
    for checkpoint in result["checkpoints"]:
        del checkpoint["measures"]
    document["results"] = [result]
    out = text(document)
    assert "× not reached" in out
    assert "12 of 25" in out
    result["curves"] = {}
    assert text(document).splitlines()[0] == "digits (width=128) · float32 on cpu"
    assert "┤" not in text(document)


def test_what_a_plane_shows_of_a_path_together() -> None:
    document = made.trajectory()
    document["results"][0]["explained_variance"] = 0.9416
    assert "together 94.2 % of the path's variance" in text(document)
