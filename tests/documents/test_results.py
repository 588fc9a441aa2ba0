from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sharpcli.documents.scalars import Scalar, flat_scalars, leaves, scalar_fields, short_power

from sharpcli.documents.reading import load_document, parse_document
from sharpcli.documents.results import CheckpointResult, Report, dumps, to_document, unconverged
from sharpcli.errors import SharpError


def report(*results: object, **more: object) -> Report:
    return Report("measure", {}, {}, {}, results, **more)  # type: ignore[arg-type]


def test_what_is_not_finite_is_null_and_never_claims_to_have_converged() -> None:
    scalars = [Scalar(float("nan")), Scalar(float("inf"), None, "lower_bound", "lower_bound")]
    listed = [scalar_fields(scalar, epsilon=1e-3) for scalar in scalars]
    document = to_document(report({"as fields": scalars, "as entries": listed}))
    for entries in document["results"][0].values():
        assert [entry["value"] for entry in entries] == [None, None]
        assert [entry["status"] for entry in entries] == ["not_finite", "not_finite"]
    assert "NaN" not in dumps(document)
    assert "Infinity" not in dumps(document)


def test_a_scalar_out_of_steps_keeps_its_status() -> None:
    document = to_document(report({"x": Scalar(None, status="max_products", advice="go on")}))
    assert document["results"][0]["x"]["status"] == "max_products"
    assert document["results"][0]["x"]["advice"] == "go on"


def test_optional_keys_are_absent_where_there_is_nothing_to_say() -> None:
    document = to_document(report(CheckpointResult({"path": Path("a")}, measures={"x": Scalar(1)})))
    assert set(document["results"][0]["measures"]["x"]) == {
        "value",
        "error",
        "error_kind",
        "status",
    }
    assert set(document["results"][0]) == {"checkpoint", "status", "measures"}
    assert not {"warnings", "notes", "correlations"} & set(document)


def test_a_document_survives_the_file(tmp_path: Path, result: Any, document: Any) -> None:
    document = document([result("a", λ=Scalar(0.1 + 0.2))])
    path = tmp_path / "result.json"
    path.write_text(dumps(document), "utf-8")
    assert load_document(path) == document


def test_flat_keys_name_epsilons_and_positions(result: object) -> None:
    measures = to_document(report(result("a")))["results"][0]["measures"]  # type: ignore[operator]
    scalars = flat_scalars(measures)
    assert scalars["epsilon_sharpness[1e-3]"]["value"] == 28.19
    assert scalars["epsilon_sharpness[5e-4,p=100]"]["status"] == "lower_bound"
    assert scalars["hessian.eigenvalues[0]"]["value"] == 12.31
    assert scalars["trace"]["error"] == 2.3
    flat = dict(leaves(measures))
    assert flat["epsilon_sharpness[1e-3].by_maximizer.corner"] == 28.19
    assert flat["hessian.products"] == 27
    assert "epsilon" not in scalars["epsilon_sharpness[1e-3]"]


def test_unconverged_lists_what_strict_refuses(result: object) -> None:
    document = to_document(report(result("a"), result("b", converged=False)))  # type: ignore[operator]
    found = unconverged(document)
    assert found[0] == "b: hessian.eigenvalues[0]"
    assert all(line.startswith("b: hessian.") for line in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-3, "1e-3"), (5e-4, "5e-4"), (1.25e-5, "1.25e-5"), (0.05, "0.05"), (2.0, "2"), (0, "0")],
)
def test_epsilon_is_written_as_people_write_it(value: float, text: str) -> None:
    assert short_power(value) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.json: is empty"),
        (b"\n", "x.json: is empty"),
        ('{"schema": ', "x.json: is not JSON"),
        ("[1]", 'x.json: is not a sharpcli/1 document ("schema" is null)'),
        ('{"schema": "other/2"}', '"schema" is "other/2"'),
        ('{"schema": "sharpcli/1", "kind": "measure"}', 'x.json: the document: lacks "settings"'),
        ('{"schema": NaN}', "NaN is not a JSON number"),
        ('{"schema": 1, "schema": 2}', 'x.json: is not JSON (the key "schema" appears twice)'),
        (b"\xff\xfe\xff", "x.json: is not JSON"),
        ("[" * 100_000, "x.json: is not a result: lists nested too deeply"),
    ],
)
def test_what_is_no_result_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(SharpError) as error:
        parse_document(text, "x.json")
    assert message in error.value.message
    assert error.value.hint


def test_a_document_of_a_later_sharp_says_so() -> None:
    with pytest.raises(SharpError, match='"schema" is "sharpcli/2"') as error:
        parse_document('{"schema": "sharpcli/2"}', "x")
    assert "a later sharp wrote it" in str(error.value.hint)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"nowhere\.json: cannot be read: No such file"):
        load_document(tmp_path / "nowhere.json")


def test_a_path_that_is_no_text_is_escaped() -> None:
    document = to_document(report({"path": "run-\udcff"}))
    assert "\\udcff" in dumps(document)
    dumps(document).encode("utf-8")


def test_a_negative_error_is_named_with_its_place(result: Any, document: Any) -> None:
    saved = document([result("a.pt")])
    saved["results"][0]["measures"]["trace"]["sampling_error"] = -1
    where = r"x: results\[0\]\.measures\.trace\.sampling_error: expected a number of at least 0"
    with pytest.raises(SharpError, match=where):
        parse_document(json.dumps(saved), "x")
