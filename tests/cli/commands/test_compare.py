from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sharpcli.cli.main import sharp
from sharpcli.documents.results import Document, dumps

Make = Callable[..., Any]


@pytest.fixture
def saved(sweep: Document, tmp_path: Path) -> str:
    path = tmp_path / "sweep.json"
    path.write_text(dumps(sweep), "utf-8")
    return str(path)


def run(*arguments: str, piped: str | bytes | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(sharp, ["compare", *arguments], input=piped)


def test_a_table_of_groups(saved: str) -> None:
    found = run(saved, "--by", "optimizer,batch_size", "--baseline", "optimizer=sgd,batch_size=32")
    assert found.exit_code == 0
    assert "sgd, 400" in found.stdout
    assert "difference to optimizer=sgd, batch_size=32" in found.stdout
    assert "rank correlation with the generalization gap" in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 100
    assert "note: rank correlations are over 12 checkpoints" in found.stderr


def test_a_pipe_is_read(saved: str) -> None:
    found = run("-", "--json", piped=Path(saved).read_text("utf-8"))
    assert found.exit_code == 0
    document = json.loads(found.stdout)
    assert document["kind"] == "compare"
    assert document["settings"]["files"] == ["standard input"]


def test_csv_is_a_row_a_group(saved: str) -> None:
    found = run(saved, "--by", "optimizer", "--baseline", "optimizer=sgd", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [row["metadata.optimizer"] for row in rows] == ["adam", "sgd"]
    assert rows[0]["n"] == "6"
    assert float(rows[0]["trace.difference.ratio"]) > 1
    assert rows[1]["trace.difference.ratio"] == ""


def test_strict_is_3_where_something_did_not_converge(
    result: Make, document: Make, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text(dumps(document([result("a.pt", converged=False)])), "utf-8")
    assert run(str(path)).exit_code == 0
    assert run(str(path), "--strict").exit_code == 3


def test_a_hundred_checkpoints_fit_eighty_columns(
    result: Make, document: Make, tmp_path: Path
) -> None:
    results = [
        result(f"runs/{i:03}/model.pt", {"lr": 0.1, "seed": i}, scale=1 + i, gap=1 + i)
        for i in range(100)
    ]
    path = tmp_path / "many.json"
    path.write_text(dumps(document(results)), "utf-8")
    found = CliRunner(env={"COLUMNS": "80"}).invoke(sharp, ["compare", str(path)])
    assert found.exit_code == 0
    assert max(map(len, found.stdout.splitlines())) <= 80
    assert (
        len(found.stdout.splitlines()) < 100 * 4 + 70
    )  # a row of each sheet, and what stands around them
    assert len(found.stderr) < 1000


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.json"], 1, "nowhere.json: cannot be read: No such file or directory"),
        (["--by", "nothing"], 2, "--by nothing: no checkpoint has metadata of that name"),
        (["--baseline", "nothing"], 2, "--baseline nothing: matches no row"),
        (["--output", "/nowhere/out.json"], 1, "/nowhere/out.json: cannot be written"),
        (["--by", "a,,b"], 2, "'a,,b' is not a list"),
    ],
)
def test_bad_input_is_a_message(saved: str, arguments: list[str], code: int, message: str) -> None:
    files = [] if arguments[0].endswith(".json") else [saved]
    found = run(*files, *arguments, "--quiet")
    assert found.exit_code == code
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("piped", ["", "{", "[]", b"\xff\xfe\x00", '{"schema": "sharpcli/1"}'])
def test_a_pipe_without_a_result_is_named(piped: str | bytes) -> None:
    found = run("-", piped=piped)
    assert found.exit_code == 1
    assert "standard input: " in found.stderr


def test_no_file_is_misuse() -> None:
    assert run().exit_code == 2


def test_neither_torch_nor_numpy_is_imported(saved: str) -> None:
    code = (
        "import sys; from sharpcli.cli.main import sharp\n"
        f"sharp(['compare', {saved!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stderr.splitlines()[-1] == "[]"


def test_what_is_not_compared_of_a_result_is_said(
    result: Make, document: Make, tmp_path: Path
) -> None:
    saved = document([result("a.pt"), result("b.pt")])
    saved["settings"]["run"]["parameters"] = ["layer4.*"]
    saved["results"][0]["layers"] = [{"layer": "fc", "parameters": 4, "measures": {}}]
    path = tmp_path / "part.json"
    path.write_text(dumps(saved), "utf-8")
    found = run(str(path))
    assert found.exit_code == 0
    assert f"note: {path}: only of the parameters layer4.*" in found.stderr
    assert f"note: {path}: layers are not compared, only all parameters together" in found.stderr
