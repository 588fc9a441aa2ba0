from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sharpcli.documents.scalars import Scalar, flat_scalars, scalar_fields

from sharpcli.documents.results import CheckpointResult, Report, to_document
from sharpcli.render.pages.measurements import column_titles, measure_page, train_page
from sharpcli.render.terminal.table import Page

Make = Callable[..., Any]


def cells(page: Page) -> dict[str, list[str]]:
    return {column.header: list(column.cells) for column in page.sheets[0].columns}


def test_every_measure_has_a_column_in_a_fixed_order(result: Make, document: Make) -> None:
    page = measure_page(document([result("a.pt", {"lr": 0.1}), result("b.pt", {"lr": 0.2})]))
    assert list(cells(page)) == [
        "lr",
        "loss train",
        "loss test",
        "gap",
        "accuracy test",
        "φ 1e-3",
        "φ 5e-4 p=100",
        "λ1",
        "λ1/λ5",
        "λmin",
        "trace",
        "‖∇L‖",
    ]
    assert cells(page)["λ1"] == ["12.31(4)", "12.31(4)"]
    assert cells(page)["φ 1e-3"] == ["≥28.1", "≥28.1"]
    assert cells(page)["trace"] == ["153.0(2.3)", "153.0(2.3)"]


def test_common_metadata_stand_above_differing_ones_in_columns(
    result: Make, document: Make, failed: Make
) -> None:
    results = [
        result("a.pt", {"optimizer": "sgd", "seed": 0, "train_loss": 1.0}),
        failed("b.pt"),
        result("c.pt", {"optimizer": "sgd", "seed": 1, "train_loss": 2.0}),
    ]
    page = measure_page(document(results))
    assert page.context == [
        "digits · 1437 train examples · float32 on cpu",
        "all rows: optimizer=sgd",
    ]
    assert cells(page)["seed"] == ["0", "–", "1"]
    assert "optimizer" not in cells(page)
    assert "train_loss" not in cells(page)
    assert page.sheets[0].rows[1].failure == "failed: tensor 'fc.weight' is missing"


def test_what_did_not_converge_has_a_footnote_with_the_advice(result: Make, document: Make) -> None:
    page = measure_page(document([result("a.pt"), result("b.pt", converged=False)]))
    assert cells(page)["λ1"] == ["12.31(4)", "12.31(4)!"]
    assert page.footnotes == ["! λ1, λmin of b: raise --max-products"]


def test_a_sample_of_the_data_is_said_and_its_error_shown(result: Make, document: Make) -> None:
    sampled = document([result("a.pt", sampling=0.7)], samples=256)
    sampled["task"]["examples"]["train"] = 256
    page = measure_page(sampled)
    assert page.context[0].startswith("digits · a sample of 256 train examples")
    assert cells(page)["λ1"] == ["12.3±0.7"]
    assert any(line.startswith("15.2±0.7:") for line in page.legend)


def test_unreliable_sampling_errors_are_marked_and_explained_once(
    result: Make, document: Make
) -> None:
    sampled = document([result("a.pt", sampling=0.7)], samples=256)
    assert not any("unreliable" in line for line in measure_page(sampled).legend)
    sampled["results"][0]["measures"]["hessian"]["eigenvalues"][0]["sampling_status"] = "unreliable"
    page = measure_page(sampled)
    assert cells(page)["λ1"] == ["12.3±0.7?"]
    assert sum("unreliable" in line for line in page.legend) == 1


def test_a_sample_larger_than_the_data_is_all_of_them(result: Make, document: Make) -> None:
    page = measure_page(document([result("a.pt")], samples=5000))
    assert page.context == ["digits · 1437 train examples · float32 on cpu"]


def test_samples_that_grew_differ_from_what_was_asked(result: Make, document: Make) -> None:
    grown = document([result("a.pt"), result("b.pt")], samples=100)
    for each, count in zip(grown["results"], (400, 800), strict=True):
        each["checkpoint"] |= {"examples": count, "examples_in_all": 1437}
    assert "a sample of 400 to 800 train examples" in measure_page(grown).context[0]


def test_without_a_task_nothing_is_said_of_its_data(failed: Make, document: Make) -> None:
    nothing = document([failed("a.pt")], samples=100)
    nothing["task"] = {"name": None, "options": {}, "fingerprint": None, "examples": {}}
    assert measure_page(nothing).context == ["float32 on cpu"]


def test_an_upper_bound_is_explained_where_there_is_one(result: Make, document: Make) -> None:
    bounded = document([result("a.pt")])
    said = "≤0.1: the smallest value found; the true minimum is this or less"
    assert said not in measure_page(bounded).legend
    smallest = bounded["results"][0]["measures"]["hessian"]["smallest"]
    smallest |= {"value": 0.0001, "error": None} | dict.fromkeys(
        ("status", "error_kind"), "upper_bound"
    )
    page = measure_page(bounded)
    assert said in page.legend
    assert cells(page)["λmin"] == ["≤1.00e-04"]
    assert page.footnotes == []


def test_the_legend_explains_only_what_is_shown(document: Make) -> None:
    measures = {"loss": {"train": Scalar(0.1)}}
    page = measure_page(document([CheckpointResult({"path": "a"}, measures=measures)]))
    assert page.legend == []


def test_a_plug_ins_measure_gets_its_columns(result: Make, document: Make) -> None:
    more = {"sam_sharpness": scalar_fields(Scalar(0.5), rho=0.05), "odd": {"a": [Scalar(2.0)]}}
    shown = cells(measure_page(document([result("a.pt", **more)])))
    assert shown["sam sharpness"] == ["0.5000"]
    assert shown["odd.a[0]"] == ["2.000"]


def test_the_training_metric_stands_in_where_there_is_no_test() -> None:
    measures = {"accuracy": {"train": Scalar(0.9)}, "f1": {"test": Scalar(1.0)}}
    keys = flat_scalars(to_document(Report("measure", {}, {}, {}, [measures]))["results"][0])
    assert column_titles(keys) == {"accuracy.train": "accuracy train", "f1.test": "f1 test"}


def test_a_hundred_rows_name_three_in_a_footnote(result: Make, document: Make) -> None:
    results = [result(f"r{i}.pt", {"seed": i}, converged=False) for i in range(100)]
    page = measure_page(document(results))
    assert len(page.sheets[0].rows) == 100
    assert page.footnotes[0].startswith("! λ1, λmin of r0, r1, r2 and 97 more: ")


def test_a_training_is_a_row() -> None:
    trained = {
        "checkpoint": {"path": "sgd.safetensors", "metadata": {"optimizer": "sgd"}},
        "status": "ok",
        "epochs": 20,
        "steps": 900,
        "loss": {"train": Scalar(0.01), "test": Scalar(0.2)},
        "accuracy": {"train": Scalar(1.0), "test": Scalar(0.97)},
        "seconds": 1.23456,
    }
    page = train_page(to_document(Report("train", {}, {}, {}, [trained])))
    assert cells(page) == {
        "epochs": ["20"],
        "steps": ["900"],
        "seconds": ["1.23"],
        "loss train": ["0.01000"],
        "loss test": ["0.2000"],
        "accuracy test": ["0.9700"],
    }
