from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sharpcli.comparison import compare
from sharpcli.results import SCHEMA, Scalar, scalar_fields, to_document

DOCS = Path(__file__).parents[1] / "docs"
schema: dict[str, Any] = json.loads((DOCS / "schema.json").read_text("utf-8"))
validator = Draft202012Validator(schema)
Make = Callable[..., Any]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == schema["properties"]["schema"]["const"] == SCHEMA


def test_every_key_of_a_scalar_is_described() -> None:
    described = schema["$defs"]["scalar_fields"]["properties"]
    assert set(described) == {field.name for field in fields(Scalar)}
    assert all(entry["description"] for entry in described.values())


def test_every_property_has_a_description() -> None:
    def undescribed(node: Any, place: str) -> Iterator[str]:
        if isinstance(node, dict):
            in_condition = place.rpartition("/")[2] in ("if", "then", "else", "not")
            for name, entry in node.get("properties", {}).items():
                told = not isinstance(entry, dict) or {"description", "$ref"} & set(entry)
                if not in_condition and not told:
                    yield f"{place}/{name}"
            for key, value in node.items():
                yield from undescribed(value, f"{place}/{key}")

    assert list(undescribed({**schema, "allOf": []}, "")) == []


def test_measurements_fit(result: Make, document: Make, failed: Make) -> None:
    sampled = result("a.pt", {"lr": 0.1, "nesterov": True}, sampling=0.1, converged=False)
    more = {"sam": scalar_fields(Scalar(0.5), rho=0.05), "custom": [{"x": Scalar(1.0), "n": 3}]}
    results = [sampled, failed("b.pt"), result("c.pt", **more)]
    validator.validate(document(results, samples=100))


def test_a_scalar_that_is_not_finite_fits(result: Make, document: Make) -> None:
    validator.validate(document([result("a.pt", trace=Scalar(float("nan")))]))


@pytest.mark.parametrize(
    "options",
    [{}, {"by": ["optimizer"]}, {"by": ["optimizer"], "baseline": "optimizer=sgd"}],
)
def test_comparisons_fit(sweep: Any, options: dict[str, Any]) -> None:
    validator.validate(to_document(compare([("a.json", sweep)], **options)))


def test_single_rows_compared_with_a_baseline_fit(sweep: Any) -> None:
    validator.validate(to_document(compare([("a.json", sweep)], baseline="sgd-32-0")))


def test_inspections_fit() -> None:
    tensor = {"name": "w", "shape": [3], "dtype": "float32", "norm": None, "min": 0, "max": 1.5}
    checkpoint = {
        "path": "a.pt",
        "sha256": "0" * 64,
        "elements": 3,
        "bytes": 12,
        "metadata": {"lr": 0.1},
        "notes": [],
    }
    failure = {"message": "gone", "hint": None}
    document = {
        "schema": SCHEMA,
        "kind": "inspect",
        "settings": {},
        "environment": {"sharpcli": "0.1.0", "python": "3.12"},
        "task": {},
        "results": [
            {"checkpoint": checkpoint, "status": "ok", "tensors": [tensor], "optimizer": None},
            {"checkpoint": {"path": "b.pt"}, "status": "failed", "error": failure},
        ],
    }
    validator.validate(document)


def change(document: Any, path: str, value: Any) -> Any:
    *parents, last = path.split(".")
    node = document
    for key in parents:
        node = node[int(key) if key.isdecimal() else key]
    node[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "sharpcli/2"),
        ("kind", "measurement"),
        ("extra", 1),
        ("correlations", [{}]),
        ("warnings", []),
        ("settings.run.batchsize", 3),
        ("task.fingerprint", 7),
        ("results.0.status", "failed"),
        ("results.0.extra", 1),
        ("results.0.checkpoint.sha256", "abc"),
        ("results.0.checkpoint.metadata.nested", {}),
        ("results.0.measures.loss.train.value", "0.1"),
        ("results.0.measures.loss.train.status", "fine"),
        ("results.0.measures.loss.train.err", 0.1),
        ("results.0.measures.loss.train.value", None),
        ("results.0.measures.loss.train", 0.1),
        ("results.0.measures.hessian.eigenvalues", [1.0]),
        ("results.0.measures.hessian.lambda", 1.0),
        ("results.0.measures.trace.error", -1.0),
        ("results.0.measures.epsilon_sharpness.0.epsilon", 0),
        ("results.0.measures.sam", {"value": 1.0}),
        ("results.0.measures.sam", 1.0),
    ],
)
def test_what_breaks_the_contract_does_not_fit(
    result: Make, document: Make, path: str, value: Any
) -> None:
    broken = change(document([result("a.pt")]), path, value)
    assert not validator.is_valid(broken)
