from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.comparison import compare
from sharpcli.documents.results import SCHEMA, to_document
from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.schema import problem_of
from sharpcli.landscape.points.walk import Watch
from sharpcli.runs.exploration import Beside
from sharpcli.runs.interpolate import interpolate_checkpoints
from sharpcli.runs.landscape import landscape_checkpoint
from sharpcli.runs.spectrum import spectra_of_checkpoints
from sharpcli.runtime.progress import silent
from sharpcli.settings.curvature import SpectrumSettings
from sharpcli.settings.exploring import (
    BatchNormSettings,
    DirectionSettings,
    GridSettings,
    InterpolateSettings,
    LandscapeSettings,
    PathSettings,
)
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import Task, load_task

DOCS = Path(__file__).parents[2] / "docs"
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


def test_spectra_fit() -> None:
    from spectra import document as of_spectra
    from spectra import failed as failed_spectrum
    from spectra import made_up

    document = of_spectra(made_up("a.pt"), failed_spectrum("b.pt"))
    validator.validate(document)
    for key in ("moments", "grid", "outliers", "products"):
        broken = of_spectra({k: v for k, v in made_up("a.pt").items() if k != key})
        assert not validator.is_valid(broken), key


def test_schedules_fit() -> None:
    from schedule_documents import policies, rewritten, scheduled

    for document in (policies(), rewritten(), scheduled(), scheduled(batch_size=3)):
        validator.validate(document)
        assert problem_of(document) is None


def test_a_spectrum_of_a_task_fits(dense: tuple[Task, Paths]) -> None:
    task, (a, *_) = dense
    settings = SpectrumSettings(probes=2, steps=5)
    run = RunSettings(samples=20)
    validator.validate(to_document(spectra_of_checkpoints([a], task, None, run, settings)))


SMALL = GridSettings((3,))
PATH = PathSettings("chain", steps=2, batch_size=16)
BOTH = RunSettings(split="both", batch_size=1000)
SAMPLED = RunSettings(split="both", samples=60)
Paths = list[Path]


def untrained(folder: Path, options: dict[str, str], count: int) -> tuple[Task, Paths]:
    """A digits task and checkpoints of its model as it comes."""
    task = load_task("digits", options)
    paths = [folder / f"{seed}.safetensors" for seed in range(count)]
    for seed, path in enumerate(paths):
        tensors = dict(task.model().state_dict())
        save_checkpoint(path, tensors, {"seed": seed, "lr": 0.1})
    return task, paths


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Paths]:
    return untrained(tmp_path_factory.mktemp("dense"), {"width": "6"}, 5)


@pytest.fixture(scope="module")
def normalised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Paths]:
    options = {"model": "cnn", "batch_norm": "true", "width": "3", "depth": "1"}
    return untrained(tmp_path_factory.mktemp("normalised"), options, 3)


def checked(report: Any) -> dict[str, Any]:
    """The one result of a document that fits."""
    document = to_document(report)
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(document)] == []
    (result,) = document["results"]
    return dict(result)


@pytest.mark.parametrize("run", [BOTH, SAMPLED, RunSettings(split="test")])
@pytest.mark.parametrize("mode", ["recalibrate", "interpolate", "batch"])
def test_lines_fit(normalised: tuple[Task, Paths], run: RunSettings, mode: Any) -> None:
    task, (a, b, c) = normalised
    batch_norm = BatchNormSettings(mode, 50 if mode == "recalibrate" else None)
    settings = InterpolateSettings(SMALL, batch_norm)
    beside = Beside([c], [[a, c], [b]])
    found = checked(interpolate_checkpoints([a, b], task, None, run, settings, beside=beside))
    assert len(found["trajectories"]) == 2
    assert ("sampling_errors" in found) == (run.samples is not None)
    assert ("batch_norm_examples" in found) == (mode == "recalibrate")


@pytest.mark.parametrize("kind", ["bezier", "chain"])
def test_aligned_lines_and_curved_paths_fit(dense: tuple[Task, Paths], kind: Any) -> None:
    task, (a, b, *_) = dense
    path = PathSettings(kind, steps=2, batch_size=16)
    settings = InterpolateSettings(SMALL, align=True, path=path)
    found = checked(interpolate_checkpoints([a, b], task, None, SAMPLED, settings))
    assert found["aligned"]["moved"] > 0
    assert found["path"]["barrier"]["train"]["sampling_error"] >= 0


def test_a_line_that_shows_no_barrier_fits(dense: tuple[Task, Paths]) -> None:
    task, (a, b, *_) = dense
    settings = InterpolateSettings(GridSettings((1,), ((0.0, 0.0),)))
    report = interpolate_checkpoints([a, b], task, None, BOTH, settings)
    assert checked(report)["barrier"] == {}
    assert report.notes == ["no barrier: 0 or 1 is not on the line (ranges)"]


def test_points_that_are_not_finite_fit(dense: tuple[Task, Paths]) -> None:
    task, (a, b, *_) = dense
    settings = InterpolateSettings(GridSettings((3,), ((0.0, 1e38),)))
    found = checked(interpolate_checkpoints([a, b], task, None, BOTH, settings))
    assert found["curves"]["train"]["loss"][-1] is None


def test_planes_fit(dense: tuple[Task, Paths]) -> None:
    task, (a, b, c, d, e) = dense
    settings = InterpolateSettings(GridSettings((2, 3), ((-1.0, 1.0), (0.0, 2.0))))
    beside = Beside([d], [[d, e]])
    found = checked(interpolate_checkpoints([a, b, c], task, None, BOTH, settings, beside=beside))
    assert found["shape"] == [2, 3] and len(found["curves"]["test"]["loss"]) == 6


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("kind", ["random", "hessian", "trajectory"])
def test_landscapes_fit(dense: tuple[Task, Paths], kind: Any, dimensions: Any) -> None:
    task, (a, b, c, d, e) = dense
    beside = Beside([b], [[c, d], [e, a]])
    settings = LandscapeSettings(SMALL, directions=DirectionSettings(kind, dimensions, "layer"))
    found = checked(landscape_checkpoint(a, task, None, BOTH, settings, beside=beside))
    assert found["directions"] == kind
    assert ("eigenvalue" in found["axes"][0]) == (kind == "hessian")


def test_what_an_interruption_leaves_fits(normalised: tuple[Task, Paths]) -> None:
    def interrupting(_: str) -> Any:
        def progress(done: float, _: float) -> None:
            if done >= reached:
                raise KeyboardInterrupt

        return progress if reached else silent

    task, (a, b, _) = normalised
    settings = InterpolateSettings(SMALL, align=True, path=PATH)
    for reached in (1, 2):
        watch = Watch(interrupting)
        found = checked(interpolate_checkpoints([a, b], task, None, BOTH, settings, watch=watch))
        assert found["status"] == "interrupted"
        assert found["curves"]["train"]["loss"][reached:] == [None] * (3 - reached)


def change(document: Any, path: str, value: Any) -> Any:
    *parents, last = path.split(".")
    node = document
    for key in parents:
        node = node[int(key) if key.isdecimal() else key]
    node[int(last) if last.isdecimal() else last] = value
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


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("kind", "landscape"),
        ("results", []),
        ("settings.align", "yes"),
        ("settings.run.split", "all"),
        ("settings.path", {"kind": "bezier"}),
        ("results.0.status", "failed"),
        ("results.0.extra", 1),
        ("results.0.dimensions", 2),
        ("results.0.cosine", 0.0),
        ("results.0.shape", [0]),
        ("results.0.axes.0.norm", -1),
        ("results.0.checkpoints.0.role", "end"),
        ("results.0.checkpoints.0.coordinates", {"beta": 1}),
        ("results.0.checkpoints.0.measures.loss.train.status", "fine"),
        ("results.0.curves.train.loss.0", "0.1"),
        ("results.0.curves.valid", {"loss": []}),
        ("results.0.barrier.train.t", 0.5),
        ("results.0.barrier.train.above_mean", 0.1),
        ("results.0.coordinates.0", {"t": 0.5}),
        ("results.0.batch_norm", "running"),
    ],
)
def test_lines_that_break_the_contract_do_not_fit(
    dense: tuple[Task, Paths], path: str, value: Any
) -> None:
    task, (a, b, *_) = dense
    settings = InterpolateSettings(GridSettings((2,)))
    report = interpolate_checkpoints([a, b], task, None, RunSettings(samples=20), settings)
    document = to_document(report)
    assert validator.is_valid(document)
    assert not validator.is_valid(change(document, path, value))
