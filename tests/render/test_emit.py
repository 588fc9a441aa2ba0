from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharpcli.documents.results import CheckpointResult, Failure
from sharpcli.errors import SharpError, UsageError
from sharpcli.render import emit
from sharpcli.settings.output import OutputSettings

Make = Callable[..., Any]


@pytest.fixture
def measured(result: Make, document: Make, failed: Make) -> Any:
    noted = result("runs/a.pt", {"lr": 0.1})
    noted.checkpoint["notes"].append("prefix 'module.' removed")
    warned = CheckpointResult(
        **{**vars(result("runs/c.pt", {"lr": 0.2})), "warnings": ["the maximisers disagree"]}
    )
    return document([noted, failed("runs/b.pt"), warned])


def test_json_is_one_document_and_nothing_else(
    measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(measured, OutputSettings("json"))
    assert json.loads(capsys.readouterr().out) == measured


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_the_width_and_problems_go_to_stderr(
    measured: Any, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    emit(measured, OutputSettings())
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= width
    assert out.count("12.31(4)") == 2 + 1  # two rows and the legend
    assert "\x1b" not in out + err
    assert err.splitlines() == [
        "failed: runs/b.pt: tensor 'fc.weight' is missing",
        "  hint: name the right task",
        "warning: c: the maximisers disagree",
        "note: a: prefix 'module.' removed",
    ]


def test_checkpoints_that_fail_alike_are_named_in_one_line(
    document: Make, failed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(document([failed(f"runs/run-{index}/a.pt") for index in range(200)]), OutputSettings())
    assert capsys.readouterr().err.splitlines() == [
        "failed: run-0, run-1, run-2 and 197 more: tensor 'fc.weight' is missing",
        "  hint: name the right task",
    ]


def test_quiet_keeps_failures_and_warnings(
    measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(measured, OutputSettings("json", quiet=True))
    err = capsys.readouterr().err
    assert "failed:" in err
    assert "warning:" in err
    assert "note:" not in err


def test_colour_only_where_it_is_wanted(
    measured: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    emit(measured, OutputSettings())
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    emit(measured, OutputSettings())
    assert "\x1b[31m" not in capsys.readouterr().out


def test_markup_in_names_is_text(
    result: Make, document: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(document([result("[bold]x[", {"a": "[red]"}), result("b")]), OutputSettings())
    out = capsys.readouterr().out
    assert "[bold]x[" in out
    assert "[red]" in out


def test_a_message_cannot_steer_the_terminal(
    document: Make, failed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(document([failed("a\x1b[2J.pt")]), OutputSettings("json"))
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "failed: a\\x1b[2J.pt: tensor 'fc.weight' is missing" in err


def test_csv_has_flat_keys_full_precision_and_the_same_columns_for_all(
    measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    measured["results"][0]["measures"]["loss"]["train"]["value"] = 0.1 + 0.2
    emit(measured, OutputSettings("csv"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["message"] == "runs/b.pt: tensor 'fc.weight' is missing"
    assert rows[0]["metadata.lr"] == "0.1"
    assert float(rows[0]["loss.train"]) == 0.1 + 0.2
    assert rows[0]["epsilon_sharpness[1e-3]"] == "28.19"
    assert rows[0]["epsilon_sharpness[1e-3].status"] == "lower_bound"
    assert rows[0]["hessian.eigenvalues[0].error"] == rows[2]["hessian.eigenvalues[0].error"] != ""
    assert rows[0]["trace.products"] == "10"


def test_markdown_has_the_terminals_content(
    measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(measured, OutputSettings("markdown"))
    out = capsys.readouterr().out
    assert "| checkpoint | lr | loss train |" in out
    assert "| a | 0.1 | 0.01000 |" in out
    assert "| b | failed: tensor 'fc.weight' is missing |" in out


def test_output_goes_to_the_file_alone(
    measured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    emit(measured, OutputSettings("json", path))
    assert capsys.readouterr().out == ""
    assert json.loads(path.read_text("utf-8")) == measured
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_in_a_file_is_plain(
    measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    emit(measured, OutputSettings(output=tmp_path / "out.txt"))
    text = (tmp_path / "out.txt").read_text("utf-8")
    assert "12.31(4)" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("name", ["nowhere/out.json", "folder"])
def test_a_file_that_cannot_be_written_is_named_and_its_content_kept(
    measured: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(SharpError) as error:
        emit(measured, OutputSettings("json", tmp_path / name))
    assert f"{name}: cannot be written" in error.value.message
    (kept,) = (tmp_path / "cache").rglob(f"{Path(name).name}")
    assert str(kept) in str(error.value)
    assert json.loads(kept.read_text("utf-8")) == measured
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "folder"]


def test_a_device_is_written_to_not_replaced(measured: Any) -> None:
    emit(measured, OutputSettings("json", Path("/dev/null")))
    assert Path("/dev/null").is_char_device()


def test_an_encoding_without_greek_gets_escapes(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured["results"][0]["checkpoint"]["path"] = "é-λ.pt"
    for form in ("json", "table"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
        emit(measured, OutputSettings(form))  # type: ignore[arg-type]
        sys.stdout.flush()
        if form == "json":
            assert json.loads(raw.getvalue()) == measured
        else:
            assert b"\\u03bb1" in raw.getvalue()


def test_an_inspection_is_a_list_of_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    tensor = {"name": "fc.weight", "shape": [3, 2], "dtype": "float32", "norm": 1.5}
    checkpoint = {"path": "a.pt", "elements": 6, "bytes": 24, "metadata": {}, "notes": []}
    result = {"checkpoint": checkpoint, "status": "ok", "tensors": [tensor], "optimizer": None}
    failure = {"checkpoint": {"path": "b.pt"}, "status": "failed", "error": vars(Failure("gone"))}
    document = {"kind": "inspect", "results": [result, failure]}
    emit(document, OutputSettings("csv"))
    assert capsys.readouterr().out.splitlines() == [
        "checkpoint,status,message,name,shape,dtype,norm",
        "a.pt,ok,,fc.weight,3x2,float32,1.5",
        "b.pt,failed,gone,,,,",
    ]
    emit(document, OutputSettings())
    assert "fc.weight" in capsys.readouterr().out
    emit(document, OutputSettings("markdown"))
    assert "| fc.weight | 3×2 | float32 |" in capsys.readouterr().out


def test_a_kind_without_a_table_says_what_to_do() -> None:
    with pytest.raises(UsageError, match='a result of kind "weather" has no table'):
        emit({"kind": "weather", "results": []}, OutputSettings())
