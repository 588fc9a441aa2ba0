from __future__ import annotations

import copy
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharpcli.documents.scalars import Scalar

from sharpcli.documents.comparison import compare, training_loss_warning
from sharpcli.documents.results import CheckpointResult, Document, to_document
from sharpcli.errors import SharpError, UsageError
from sharpcli.render.files.spreadsheet import group_rows
from sharpcli.render.pages.comparison import compare_page

Make = Callable[..., Any]


def compared(*documents: Document, **options: Any) -> Document:
    named = [(f"{letter}.json", d) for letter, d in zip("abcdef", documents, strict=False)]
    return to_document(compare(named, **options))


def rows(document: Document) -> list[str]:
    return [result["label"] for result in document["results"]]


def test_without_by_every_checkpoint_is_a_row_sorted_by_its_metadata(sweep: Document) -> None:
    document = compared(sweep)
    assert rows(document)[:4] == ["adam-32-0", "adam-32-1", "adam-32-2", "adam-400-0"]
    first = document["results"][0]
    assert first["group"] == {"optimizer": "adam", "batch_size": 32, "seed": 0}
    assert first["n"] == 1
    assert first["measures"]["hessian.eigenvalues[0]"]["standard_deviation"] is None
    assert first["measures"]["hessian.eigenvalues[0]"]["error_kind"] == "residual"
    assert document["notes"][0] == '`by="optimizer,batch_size"` would group these 12 rows into 4'


def test_groups_have_mean_and_standard_deviation(sweep: Document) -> None:
    document = compared(sweep, by=["optimizer", "batch_size"])
    assert rows(document) == [
        "optimizer=adam, batch_size=32",
        "optimizer=adam, batch_size=400",
        "optimizer=sgd, batch_size=32",
        "optimizer=sgd, batch_size=400",
    ]
    group = document["results"][2]
    assert group["members"] == [f"runs/sgd-32-{seed}/model.safetensors" for seed in range(3)]
    values = [12.31, 12.31 * 1.1, 12.31 * 1.2]
    largest = group["measures"]["hessian.eigenvalues[0]"]
    assert largest["mean"] == pytest.approx(statistics.fmean(values))
    assert largest["standard_deviation"] == pytest.approx(statistics.stdev(values))
    assert largest["n"] == group["n"] == 3
    assert largest["error"] == pytest.approx(0.003 * statistics.fmean(values))


def test_numbers_sort_by_size(result: Make, document: Make) -> None:
    results = [result(f"b{n}.pt", {"batch_size": n}) for n in (1000, 32, 256)]
    assert rows(compared(document(results), by=["batch_size"])) == [
        "batch_size=32",
        "batch_size=256",
        "batch_size=1000",
    ]


def test_differences_between_groups_are_welchs(sweep: Document) -> None:
    from scipy.stats import ttest_ind

    document = compared(
        sweep, by=["optimizer", "batch_size"], baseline="optimizer=sgd,batch_size=32"
    )
    large, base = document["results"][3], document["results"][2]
    difference = large["measures"]["trace"]["difference"]
    seeds = (1.0, 1.1, 1.2)
    theirs = ttest_ind([153 * 9 * s for s in seeds], [153 * s for s in seeds], equal_var=False)
    assert difference["ratio"] == pytest.approx(9.0)
    assert difference["value"] == pytest.approx(153 * 8 * 1.1)
    assert difference["value"] / difference["error"] == pytest.approx(theirs.statistic)
    assert difference["degrees_of_freedom"] == pytest.approx(theirs.df)
    assert difference["error_kind"] == "standard_error"
    assert base["measures"]["trace"]["difference"] is None


def test_between_single_checkpoints_the_measurement_errors_add_up(
    result: Make, document: Make
) -> None:
    measured = document([result("a.pt"), result("b.pt", scale=2.0)])
    found = compared(measured, baseline="a")["results"][1]["measures"]
    difference = found["hessian.eigenvalues[0]"]["difference"]
    assert difference["error"] == pytest.approx(12.31 * 0.003 * 3)
    assert difference["error_kind"] == "measurement"
    assert found["epsilon_sharpness[1e-3]"]["difference"]["error"] is None
    assert found["epsilon_sharpness[1e-3]"]["difference"]["ratio"] == pytest.approx(2.0)


def test_between_one_and_a_group_the_error_is_not_known(result: Make, document: Make) -> None:
    measured = document([result(f"{x}.pt", {"x": x[0]}) for x in ("a", "b1", "b2")])
    found = compared(measured, by=["x"], baseline="x=a")["results"][1]["measures"]["trace"]
    assert found["difference"]["error"] is None


@pytest.mark.parametrize(
    "baseline",
    ["sgd-32-0", "runs/sgd-32-0/model.safetensors", "optimizer=sgd,batch_size=32.0,seed=0"],
)
def test_a_baseline_is_a_label_a_path_or_metadata(sweep: Document, baseline: str) -> None:
    assert compared(sweep, baseline=baseline)["settings"]["baseline"] == "sgd-32-0"


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (
            "optimizer=sgd",
            'baseline="optimizer=sgd": matches 6 rows: sgd-32-0, sgd-32-1, sgd-32-2 and',
        ),
        ("optimizer=lion", 'baseline="optimizer=lion": matches no row'),
        ("momentum=0.9", 'baseline="momentum=0.9": matches no row'),
        ("nothing", 'baseline="nothing": matches no row'),
    ],
)
def test_a_baseline_must_be_one_row(sweep: Document, baseline: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        compared(sweep, baseline=baseline)
    assert error.value.message.startswith(message)
    assert "name one of the rows: adam-32-0;" in str(error.value.hint)


def test_an_unknown_key_lists_those_there_are(sweep: Document) -> None:
    with pytest.raises(UsageError) as error:
        compared(sweep, by=["optimiser"])
    assert error.value.message == 'by="optimiser": no checkpoint has metadata of that name'
    assert error.value.hint == (
        "did you mean 'optimizer'? the metadata keys are: batch_size, epochs, optimizer, seed"
    )


def test_checkpoints_without_the_key_are_a_group_and_a_note(result: Make, document: Make) -> None:
    found = compared(document([result("a.pt", {"x": 1}), result("b.pt")]), by=["x"])
    assert rows(found) == ["x=1", "x=–"]
    assert "b: no x in the metadata; grouped under –" in found["notes"]


def test_a_failed_checkpoint_is_left_out_with_a_note(
    result: Make, document: Make, failed: Make
) -> None:
    found = compared(document([failed("a.pt"), result("b.pt")]))
    assert rows(found) == ["b.pt"]
    assert "a.json: a.pt failed and is left out" in found["notes"]


def test_nothing_measured_is_an_error(document: Make, failed: Make) -> None:
    with pytest.raises(SharpError, match=r"a\.json: no measured checkpoint"):
        compared(document([failed("a.pt")]))


def test_other_kinds_are_refused(sweep: Document) -> None:
    with pytest.raises(SharpError) as error:
        compared(sweep, compared(sweep))
    assert error.value.message == 'b.json: holds a result of kind "compare", not a measurement'


def test_training_losses_that_differ_are_warned_of(result: Make, document: Make) -> None:
    far = document([result("sgd.pt", train=6.5e-4), result("adam.pt", train=1.5e-5)])
    (warning,) = compared(far)["warnings"]
    assert warning.startswith(
        "training losses differ 43.3×: 1.5e-05 (adam) to 0.00065 (sgd); as a cross-entropy goes "
        "to 0 the Hessian goes to 0 with it"
    )
    near = document([result("sgd.pt", train=0.01), result("adam.pt", train=0.02)])
    assert "warnings" not in compared(near)


def test_the_loss_warning_knows_zero_and_one() -> None:
    assert training_loss_warning({"a": 0.1}) is None
    assert training_loss_warning({}) is None
    assert training_loss_warning({"a": 0.1, "b": None, "c": float("nan")}) is None
    assert training_loss_warning({"a": 0.0, "b": 0.0}) is None
    assert "without bound" in str(training_loss_warning({"a": 0.0, "b": 0.1}))


def test_a_lone_member_is_warned_of_only_in_groups(result: Make, document: Make) -> None:
    measured = document([result(f"{x}.pt", {"x": x[0]}) for x in ("a", "b1", "b2")])
    (warning,) = compared(measured, by=["x"])["warnings"]
    assert warning == "only one member, so no standard deviation: x=a"
    assert "warnings" not in compared(measured)


def test_documents_that_were_not_measured_alike_say_in_what(result: Make, document: Make) -> None:
    one = document([result("a.pt")], dtype="float32", device="cpu", batch_size=7)
    other = document([result("b.pt")], dtype="float64", samples=100)
    other["task"] = {**other["task"], "fingerprint": "cd34"}
    found = compared(one, other)
    assert found["warnings"] == [
        "settings differ: task.fingerprint is ab12 in a.json; cd34 in b.json",
        "settings differ: settings.run.samples is not set in a.json; 100 in b.json",
        "settings differ: settings.run.dtype is float32 in a.json; float64 in b.json",
    ]
    assert found["task"] == {}


def test_the_same_checkpoint_twice_is_warned_of(result: Make, document: Make) -> None:
    measured = document([result("a.pt")])
    found = compared(measured, copy.deepcopy(measured))
    assert found["warnings"] == ["the same checkpoint 2 times: a.pt (a.json), a.pt (b.json)"]
    assert rows(found) == ["a.pt (1)", "a.pt (2)"]


def test_unconverged_numbers_are_taken_in_and_named(result: Make, document: Make) -> None:
    measured = document([result("a.pt", {"x": 1}), result("b.pt", {"x": 1}, converged=False)])
    found = compared(measured, by=["x"])
    assert found["warnings"] == [
        "did not converge: included as computed: hessian.eigenvalues[0], hessian.eigenvalues[1], "
        "hessian.eigenvalues[2] and 3 more of b"
    ]
    assert found["results"][0]["measures"]["hessian.eigenvalues[0]"]["status"] == "max_products"


def test_a_value_that_is_not_finite_enters_no_mean(result: Make, document: Make) -> None:
    measured = document([result("a.pt", {"x": 1}), result("b.pt", {"x": 1})])
    broken = measured["results"][1]["measures"]["trace"]
    broken |= {"value": None, "status": "not_finite"}
    found = compared(measured, by=["x"])
    trace = found["results"][0]["measures"]["trace"]
    assert (trace["mean"], trace["n"], trace["status"]) == (153.0, 1, "not_finite")
    assert found["warnings"] == ["not finite: left out of means and correlations: trace of b"]


def test_enormous_values_do_not_overflow(result: Make, document: Make) -> None:
    measured = document([result(f"{i}.pt", {"x": 1}, scale=1e306 * (i + 1)) for i in range(3)])
    found = compared(measured, by=["x"], baseline="x=1")
    assert math.isfinite(found["results"][0]["measures"]["hessian.eigenvalues[0]"]["mean"])


def test_rank_correlation_with_the_gap(sweep: Document) -> None:
    found = compared(sweep)
    by_measure = {entry["measure"]: entry for entry in found["correlations"]}
    largest = by_measure["hessian.eigenvalues[0]"]
    expected = {
        "measure": "hessian.eigenvalues[0]",
        "with": "loss.gap",
        "tau": 1.0,
        "p_value": pytest.approx(2 / math.factorial(12)),
        "n": 12,
        "method": "exact",
        "status": "converged",
    }
    assert {key: largest[key] for key in expected} == expected
    assert by_measure["hessian.smallest"]["tau"] == -1.0
    assert by_measure["gradient.norm"]["tau"] is None
    assert not {"loss.test", "loss.gap", "accuracy.test"} & set(by_measure)
    assert any(
        note.startswith("rank correlations are over 12 checkpoints") for note in found["notes"]
    )


def test_three_checkpoints_are_too_few_to_correlate(result: Make, document: Make) -> None:
    found = compared(document([result(f"{i}.pt") for i in range(3)]))
    assert "correlations" not in found
    assert (
        "they need 4 checkpoints with a gap, but 3 of these 3 checkpoints have one"
        in (found["notes"][-1])
    )


def test_the_table_shows_groups_differences_and_correlations(sweep: Document) -> None:
    found = compared(sweep, by=["optimizer", "batch_size"], baseline="optimizer=sgd,batch_size=32")
    groups, differences, correlations, _agreement = compare_page(found).sheets
    assert groups.caption == "optimizer, batch_size"
    assert [row.label for row in groups.rows] == ["adam, 32", "adam, 400", "sgd, 32", "sgd, 400"]
    shown = {column.header: column.cells for column in groups.columns}
    assert shown["n"] == ["3", "3", "3", "3"]
    assert shown["λ1"][2] == "13.5±1.2"
    assert shown["φ 1e-3"][2] == "≥31.0±2.8"
    assert [row.label for row in differences.rows] == ["adam, 32", "adam, 400", "sgd, 400"]
    assert differences.title == "difference to optimizer=sgd, batch_size=32 (and ratio)"
    changed = {column.header: column.cells for column in differences.columns}
    assert changed["λ1"][2] == "+108±6 ×9.0±0.7"
    assert correlations.rows[0].label == "loss train"
    legend = compare_page(found).legend
    assert any(line.startswith("12.3±0.4: mean ± standard deviation") for line in legend)


def test_the_order_of_the_documents_does_not_matter(result: Make, document: Make) -> None:
    results = [result(f"{i}.pt", {"x": i % 3, "seed": i}, scale=1.0 + i) for i in range(9)]
    expected = compared(document(results), by=["x"])
    random.Random(0).shuffle(results)
    found = compared(document(results), by=["x"])
    for one, other in zip(expected["results"], found["results"], strict=True):
        for key, summary in one["measures"].items():
            assert other["measures"][key]["mean"] == pytest.approx(summary["mean"])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6))
def test_mean_and_deviation_agree_with_the_library(
    result: Make, document: Make, values: list[float]
) -> None:
    results = [result(f"{i}.pt", {"x": 1}, gap=value) for i, value in enumerate(values)]
    found = compared(document(results), by=["x"])["results"][0]["measures"]["loss.gap"]
    assert found["mean"] == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert found["standard_deviation"] == pytest.approx(statistics.stdev(values), abs=1e-6)


def number(path: str, scalar: Scalar, group: int = 1, *, sampled: bool = False, **more: Any) -> Any:
    """A checkpoint with a trace, and what else is given, alone."""
    about = {"examples": 64, "examples_in_all": 1500} if sampled else {}
    checkpoint = {"path": path, "metadata": {"x": group}, **about}
    return CheckpointResult(checkpoint, measures={"trace": scalar, **more})


def difference(document: Make, a: Scalar, b: Scalar, *, sampled: bool = False) -> Document:
    """What `compare` gives for b − a."""
    pair = document([number("a.pt", a, sampled=sampled), number("b.pt", b, sampled=sampled)])
    found: Document = compared(pair, baseline="a")["results"][1]["measures"]["trace"]["difference"]
    return found


def shown(found: Document, column: str = "trace", sheet: int = 1) -> list[str]:
    (cells,) = (c.cells for c in compare_page(found).sheets[sheet].columns if c.header == column)
    return list(cells)


def test_a_difference_of_samples_has_their_sampling_errors(document: Make) -> None:
    a = Scalar(4.0, 0.001, "residual", sampling_error=0.3)
    b = Scalar(5.0, 0.002, "residual", sampling_error=0.4)
    found = difference(document, a, b, sampled=True)
    assert found["sampling_error"] == pytest.approx(0.5)
    assert found["error"] == pytest.approx(0.503)
    assert found["interval"] == pytest.approx([1 - 0.983, 1 + 0.983])
    assert found["ratio_error"] == pytest.approx(math.hypot(0.4, 1.25 * 0.3) / 4, rel=0.01)
    pair = document([number("a.pt", a, sampled=True), number("b.pt", b, sampled=True)])
    assert shown(compared(pair, baseline="a")) == ["+1.0±0.5 ×1.25±0.14"]


def test_standard_errors_add_in_quadrature_and_residuals_add_up(document: Make) -> None:
    a, b = Scalar(4.0, 3.0, "standard_error"), Scalar(9.0, 4.0, "standard_error")
    assert difference(document, a, b)["error"] == pytest.approx(5.0)
    a, b = Scalar(4.0, 3.0, "residual"), Scalar(9.0, 4.0, "residual")
    assert difference(document, a, b)["error"] == pytest.approx(7.0)
    assert difference(document, a, b)["interval"] == pytest.approx([-2.0, 12.0])


def test_one_error_stated_twice_is_counted_once(document: Make) -> None:
    twice = Scalar(4.0, 3.0, "standard_error", sampling_error=3.0)
    assert difference(document, twice, Scalar(0.0, 4.0, "residual"))["error"] == 7.0


@pytest.mark.parametrize(
    "unknown",
    [
        Scalar(5.0),
        Scalar(5.0, 0.01, "residual"),
        Scalar(5.0, 0.01, "residual", sampling_error=0.0),
    ],
    ids=["none stated", "a sample without its error", "a sampling error of 0"],
)
def test_an_error_that_is_not_known_is_blank(document: Make, unknown: Scalar) -> None:
    known = Scalar(4.0, 0.01, "residual", sampling_error=0.3)
    for first, second in ((unknown, known), (known, unknown), (unknown, unknown)):
        found = difference(document, first, second, sampled=True)
        empty = ("error", "measurement_error", "interval", "ratio_error", "ratio_interval")
        assert {name: found[name] for name in empty} == dict.fromkeys(empty)
    pair = document([number("a.pt", known, sampled=True), number("b.pt", unknown, sampled=True)])
    both = compared(pair, baseline="a")
    assert shown(both) == ["+1.000 ×1.25"]
    assert shown(both, sheet=0)[1] == "5.000"


def test_a_loss_that_was_read_whole_is_exact_beside_one_that_was_sampled(document: Make) -> None:
    def with_loss(path: str, train: Scalar, *, sampled: bool) -> Any:
        return number(path, Scalar(1.0, 0.1, "residual"), loss={"train": train}, sampled=sampled)

    whole = with_loss("a.pt", Scalar(0.5), sampled=False)
    part = with_loss("b.pt", Scalar(0.7, sampling_error=0.1), sampled=True)
    found = compared(document([whole, part]), baseline="a")["results"][1]["measures"]
    assert found["loss.train"]["difference"]["error"] == pytest.approx(0.1)


def test_the_bias_of_a_sample_moves_the_interval_and_not_the_value(document: Make) -> None:
    a = Scalar(20.0, 0.0, "residual", sampling_error=0.3, sampling_bias=2.0)
    b = Scalar(10.0, 0.0, "residual", sampling_error=0.4, sampling_bias=0.5)
    found = difference(document, b, a, sampled=True)
    assert (found["value"], found["sampling_bias"]) == (10.0, 1.5)
    assert found["interval"] == pytest.approx([8.5 - 0.98, 8.5 + 0.98])
    low, high = found["ratio_interval"]
    assert low < 18 / 9.5 < high


LOW, HIGH = "lower_bound", "upper_bound"


@pytest.mark.parametrize(
    ("a", "b", "sign", "ratio_sign"),
    [
        (Scalar(4.0, 0.1, "residual"), Scalar(6.0, None, LOW, LOW), "≥", "≥"),
        (Scalar(4.0, None, LOW, LOW), Scalar(6.0, 0.1, "residual"), "≤", "≤"),
        (Scalar(4.0, None, LOW, LOW), Scalar(6.0, None, LOW, LOW), "≷", "≷"),
        (Scalar(4.0, None, LOW, LOW), Scalar(6.0, None, HIGH, HIGH), "≤", "≤"),
        (Scalar(-4.0, None, HIGH, HIGH), Scalar(6.0, 0.1, "residual"), "≥", "≥"),
        (Scalar(4.0, None, HIGH, HIGH), Scalar(6.0, 0.1, "residual"), "≥", "≷"),
        (Scalar(-4.0, 0.1, "residual"), Scalar(6.0, None, LOW, LOW), "≥", "≤"),
    ],
)
def test_bounds_stay_bounds(
    document: Make, a: Scalar, b: Scalar, sign: str, ratio_sign: str
) -> None:
    names = {"≥": LOW, "≤": HIGH, "≷": "two_bounds"}
    found = difference(document, a, b)
    assert (found["bound"], found["ratio_bound"]) == (names[sign], names[ratio_sign])
    assert found["interval"] is None
    (cell,) = shown(compared(document([number("a.pt", a), number("b.pt", b)]), baseline="a"))
    assert cell.startswith(sign)
    assert f"×{ratio_sign}" in cell


def test_equal_bounds_differ_by_a_bound(document: Make) -> None:
    bound = Scalar(4.0, None, LOW, LOW)
    found = compared(document([number("a.pt", bound), number("b.pt", bound)]), baseline="a")
    assert shown(found) == ["≷0"]


def test_the_mean_of_bounds_is_rounded_as_a_bound(document: Make) -> None:
    low, high = Scalar(3.0, None, LOW, LOW), Scalar(5.0, None, LOW, LOW)
    members = [number("a.pt", low), number("b.pt", low), number("c.pt", high)]
    exact = number("d.pt", Scalar(1.0, 0.0, "residual"), 2)
    found = compared(document([*members, exact]), by=["x"])
    assert shown(found, sheet=0)[0] == "≥3.6±1.2"  # of 3.667
    upper = [number(f"{v}.pt", Scalar(v, None, HIGH, HIGH)) for v in (3.0, 3.0, 5.0, 5.1)]
    found = compared(document(upper), by=["x"])
    assert shown(found, sheet=0) == ["≤4.1±1.2"]  # of 4.025


UNRELIABLE = Scalar(4.0, 0.001, "residual", sampling_error=0.3, sampling_status="unreliable")


def test_a_sampling_error_that_says_too_little_is_marked_wherever_it_enters(
    document: Make,
) -> None:
    sound = replace(UNRELIABLE, value=6.0, sampling_status=None)
    for pair in ([UNRELIABLE, sound], [sound, UNRELIABLE]):
        members = [number(f"{name}.pt", s) for name, s in zip("ab", pair, strict=True)]
        found = compared(document(members), baseline="a")
        own = [result["measures"]["trace"] for result in found["results"]]
        assert [each.get("sampling_status") for each in own] == [s.sampling_status for s in pair]
        assert own[1]["difference"]["sampling_status"] == "unreliable"
        assert own[1]["difference"]["status"] == "converged"
        assert all("?" in cell.split("×")[0] for cell in shown(found))
        row = group_rows(found)[1]
        assert row["trace.difference.sampling_status"] == "unreliable"
        assert row.get("trace.sampling_status") == pair[1].sampling_status
        (warning,) = [line for line in found["warnings"] if "unreliable" in line]
        assert f"sampling errors of {'ab'[pair.index(UNRELIABLE)]} are" in warning
        assert any(line.startswith("15.2±0.7?") for line in compare_page(found).legend)


def test_a_group_with_an_unreliable_sampling_error_is_marked(document: Make) -> None:
    members = [number(f"{x}.pt", replace(UNRELIABLE, value=x)) for x in (4.0, 5.0)]
    found = compared(document(members), by=["x"])
    assert shown(found, sheet=0) == ["4.5(4)±0.7?"]
    assert "?: includes an unreliable sampling error" in compare_page(found).legend


def test_an_unreliable_number_without_a_sampling_error_has_no_known_error(document: Make) -> None:
    unknown = replace(UNRELIABLE, sampling_error=None)
    found = difference(document, Scalar(5.0, 0.001, "residual"), unknown)
    assert (found["error"], found["interval"], found["sampling_status"]) == (
        None,
        None,
        "unreliable",
    )


def test_a_ratio_that_says_nothing_brings_no_other_legend(document: Make) -> None:
    a, b = (Scalar(x, 0.001, "residual", sampling_error=3.0) for x in (4.0, 5.0))
    found = compared(document([number("a.pt", a), number("b.pt", b)]), baseline="a")
    assert shown(found) == ["+1±4 ×?"]
    assert not any("unreliable" in line for line in compare_page(found).legend)


def test_the_meaning_of_an_error_is_told_whichever_column_has_one(document: Make) -> None:
    loss = {"loss": {"train": Scalar(0.5)}}
    a, b = (Scalar(x, 0.001, "residual", sampling_error=0.3) for x in (4.0, 5.0))
    found = compared(document([number("a.pt", a, **loss), number("b.pt", b, **loss)]), baseline="a")
    assert any(line.startswith("in differences") for line in compare_page(found).legend)


@pytest.mark.parametrize("status", ["max_products", "precision", "suspect", "unresolved", "later"])
def test_what_did_not_converge_is_marked_wherever_it_enters(document: Make, status: str) -> None:
    good = [number(f"{i}.pt", Scalar(4.0 + i, 0.1, "residual"), i % 2) for i in range(4)]
    bad = number("bad.pt", Scalar(5.0, 0.1, "residual", status), 1)
    measured = document([*good, bad])
    alone = compared(measured, baseline="bad")
    assert all(cell.endswith("!") or "! ×" in cell for cell in shown(alone))
    together = compared(measured, by=["x"], baseline="x=0")
    assert together["results"][1]["measures"]["trace"]["status"] == status
    assert together["results"][1]["measures"]["trace"]["difference"]["status"] == status
    assert shown(together, sheet=0)[1].endswith("!")
    assert "! ×" in shown(together)[0]
    assert any("included as computed: trace of bad" in text for text in together["warnings"])


def test_a_correlation_that_takes_in_what_did_not_converge_is_marked(
    result: Make, document: Make
) -> None:
    results = [result(f"{i}.pt", scale=1.0 + i, gap=1.0 + i, converged=i != 2) for i in range(5)]
    found = compared(document(results))
    largest = next(c for c in found["correlations"] if c["measure"] == "hessian.eigenvalues[0]")
    assert (largest["n"], largest["status"]) == (5, "max_products")
    sheet = compare_page(found).sheets[-2]
    place = [row.label for row in sheet.rows].index("λ1")
    assert sheet.columns[0].cells[place] == "+1.00!"
    assert sheet.columns[2].cells[place] == "5"


def test_a_correlation_leaves_out_what_failed_or_has_no_value(
    result: Make, document: Make, failed: Make
) -> None:
    results = [result(f"{i}.pt", scale=1.0 + i, gap=1.0 + i) for i in range(5)]
    measured = document([*results, failed("f.pt")])
    broken = measured["results"][1]["measures"]["trace"]
    broken |= {"value": None, "status": "not_finite"}
    found = {c["measure"]: c for c in compared(measured)["correlations"]}
    assert (found["trace"]["n"], found["loss.train"]["n"]) == (4, 5)


def test_the_table_says_where_a_column_has_fewer_than_its_group(document: Make) -> None:
    norm = {"gradient": {"norm": Scalar(1.0)}}
    results = [number(f"{i}.pt", Scalar(4.0 + i, 0.1, "residual"), i % 2) for i in range(6)]
    results += [number(f"more{i}.pt", Scalar(5.0, 0.1, "residual"), 1, **norm) for i in range(2)]
    found = compared(document(results), by=["x"])
    assert found["results"][1]["n"] == found["results"][1]["measures"]["trace"]["n"] == 5
    assert found["results"][1]["measures"]["gradient.norm"]["n"] == 2
    assert [cell.endswith(" n=2") for cell in shown(found, "‖∇L‖", 0)] == [False, True]
    assert not any("n=" in cell for cell in shown(found, sheet=0))
    assert "n=4: only 4 of the row's n checkpoints have the number" in (compare_page(found).legend)


def test_between_groups_the_measurement_error_stays_beside_welchs(document: Make) -> None:
    results = [
        number(
            f"{i}.pt", Scalar(4.0 + i, 0.01, "residual", sampling_error=3.0), i % 2, sampled=True
        )
        for i in range(4)
    ]
    found = compared(document(results), by=["x"], baseline="x=0")
    own = found["results"][1]["measures"]["trace"]["difference"]
    assert (own["value"], own["error_kind"]) == (1.0, "standard_error")
    assert own["error"] == pytest.approx(math.sqrt(2.0))
    assert own["sampling_error"] == pytest.approx(math.hypot(3.0, 3.0))
    assert own["measurement_error"] == pytest.approx(0.02 + math.hypot(3.0, 3.0))
    assert own["interval"] is None
    assert shown(found, sheet=0) == ["5.0(3.1)±1.4", "6.0(3.1)±1.4"]
    assert shown(found) == ["+1(5)±1 ×?"]
