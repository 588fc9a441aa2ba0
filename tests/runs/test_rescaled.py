"""`--rescale-check`: which numbers move though the function does not."""

from __future__ import annotations

import pytest
import torch
from networks import CASES, mlp, task, vectors
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli.documents.results import to_document
from sharpcli.errors import UsageError
from sharpcli.render.pages.measurements import measure_page
from sharpcli.render.pages.rescaling import change
from sharpcli.runs.measure import measure_model
from sharpcli.runs.rescaled import verdict

RELU = task(lambda: mlp(6, 24, 20, 4, activation=nn.ReLU), vectors(6, 4))
NAMES = ("loss", "hessian", "parameter-norms", "spectral-norms", "path-norm", "margin")


def measured(of, by="unit", names=NAMES, dtype="float64", **run):
    settings = MeasureSettings(measures=names, rescale_check=True, rescale_by=by, top=1)
    return measure_model(
        of.model(),
        of.data("train"),
        loss=of.loss,
        run=RunSettings(device="cpu", dtype=dtype, **run),
        settings=settings,
    )


def scalar(value, error=None, status="converged", **others):
    return {"value": value, "error": error, "status": status, **others}


@pytest.mark.parametrize(
    ("by", "still"),
    [("unit", ()), ("layer", ("spectral_norms.product", "margin.over_spectral_norms"))],
)
def test_numbers_that_move_are_told_from_those_that_do_not(by, still):
    result = measured(RELU, by).results[0]
    verdicts = {number.measure: number.verdict for number in result.rescaled}
    invariant = {
        "loss.train",
        "accuracy.train",
        "path_norm.norm",
        "margin.output",
        "margin.over_path_norm",
        *still,
    }
    moving = {"hessian.eigenvalues[0]", "parameter_norms.norm"}
    if not still:
        moving |= {"spectral_norms.product", "margin.over_spectral_norms"}
    assert {key for key in verdicts if verdicts[key] == "unchanged"} >= invariant
    assert {key for key in verdicts if verdicts[key] == "moved"} >= moving
    assert result.rescaling.units == 44
    assert result.rescaling.output_difference <= 1e-12


def test_the_numbers_before_are_those_of_the_checkpoint():
    result = measured(RELU, dtype="float32").results[0]
    before = {number.measure: number.before for number in result.rescaled}
    assert before["path_norm.norm"] == result.measures["path_norm"]["norm"].value
    assert result.rescaling.output_difference_in_run <= 1e-5
    assert not any("rescaled" in said for said in result.warnings)


def test_the_model_stays_as_it_is():
    model = RELU.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = MeasureSettings(measures=("path-norm",), rescale_check=True)
    measure_model(model, RELU.data("train"), settings=settings, run=RunSettings(device="cpu"))
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_where_nothing_can_be_rescaled_a_warning_says_so():
    result = measured(CASES["gelu"], names=("loss",)).results[0]
    assert result.rescaled == () and result.rescaling is None
    (said,) = [each for each in result.warnings if "rescale_check" in each]
    assert "no hidden units that could be rescaled" in said


def test_training_mode_is_refused():
    with pytest.raises(UsageError, match="in training mode a batch norm"):
        measured(CASES["batch_norm"], names=("loss",), mode="train")


def test_verdicts():
    def said(*pair):
        return verdict("x", *pair).verdict

    assert said(scalar(1.0), scalar(1.019)) == "unchanged"
    assert said(scalar(1.0), scalar(1.03)) == "moved"
    assert said(scalar(1.0, 0.02), scalar(1.03, 0.02)) == "undecided"
    # Both numbers are of one sample, so its error does not hide a change.
    drawn = {"sampling_error": 0.5}
    assert said(scalar(1.0, 0.5, **drawn), scalar(1.03, 0.5, **drawn)) == "moved"
    bound = {"status": "lower_bound"}
    assert said(scalar(1.0, **bound), scalar(1.05, **bound)) == "undecided"
    assert said(scalar(1.0, **bound), scalar(1.2, **bound)) == "moved"
    assert said(scalar(None), scalar(1.0)) == "moved"
    assert said(scalar(0.0), scalar(0.0)) == "unchanged"


def test_changes_in_words():
    def words(before, after, verdict):
        share = None if not before else after / before - 1
        number = {"before": before, "after": after, "relative_change": share, "verdict": verdict}
        return change(number)

    assert words(1.0, 8.7, "moved") == "moved ×8.7"
    assert words(8.7, 1.0, "moved") == "moved ÷8.7"
    assert words(1.0, 1.31, "moved") == "moved (31 %)"
    assert words(1.0, 1.003, "unchanged") == "unchanged (0.30 %)"
    assert words(1.0, 1.0, "unchanged") == "unchanged"
    assert words(1.0, 1.05, "undecided") == "within its errors (5.0 %)"
    assert words(-1.0, 1.0, "moved") == "moved"


def test_a_table_for_each_checkpoint():
    document = to_document(measured(RELU))
    *_, sheet = measure_page(document).sheets
    assert sheet.caption == "measure"
    assert "44 units rescaled each by its own factor between 1/4 and 4" in sheet.title
    cells = dict(zip([row.label for row in sheet.rows], sheet.columns[2].cells, strict=True))
    assert cells["path norm"] == "unchanged"
    assert cells["λ1"].startswith("moved")
