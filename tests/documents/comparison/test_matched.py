from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sharpcli.documents.comparison import compare
from sharpcli.documents.comparison.matched import student_interval
from sharpcli.documents.results import Document, to_document
from sharpcli.errors import UsageError

Make = Callable[..., Any]
SEEDS = (1.0, 1.6, 2.3, 3.1)  # move both groups
OWN = (0.50, 0.61, 0.48, 0.57)


def measured(result: Make, document: Make, shift: int = 0) -> Document:
    rows = []
    for seed, (both, own) in enumerate(zip(SEEDS, OWN, strict=True)):
        rows.append(result(f"a{seed}.pt", {"x": 1, "seed": seed}, scale=both))
        rows.append(result(f"b{seed}.pt", {"x": 2, "seed": seed + shift}, scale=both + own))
    return document(rows)


def found(document: Document, **options: Any) -> Document:
    return to_document(compare([("a.json", document)], **options))


def test_matched_differences_are_those_of_a_paired_test(result: Make, document: Make) -> None:
    made = found(measured(result, document), by=["x"], within=["seed"], baseline="x=1")
    ours = made["results"][1]["measures"]["trace"]["difference"]
    a = 153 * np.array(SEEDS)
    b = 153 * (np.array(SEEDS) + OWN)
    theirs = stats.ttest_rel(b, a)
    assert ours["value"] / ours["error"] == pytest.approx(theirs.statistic)
    assert ours["group_interval"] == pytest.approx(list(theirs.confidence_interval()), rel=1e-9)
    assert (ours["matched"], ours["degrees_of_freedom"]) == (4, 3)
    assert made["settings"]["within"] == ["seed"]
    loose = found(measured(result, document), by=["x"], baseline="x=1")
    welch = loose["results"][1]["measures"]["trace"]["difference"]
    assert ours["error"] < 0.1 * welch["error"]
    assert "matched" not in welch
    theirs = stats.ttest_ind(b, a, equal_var=False)
    assert welch["group_interval"] == pytest.approx(list(theirs.confidence_interval()), rel=1e-3)
    assert any("the 4 values of seed" in note for note in made["notes"])


def test_without_common_seeds_the_difference_stays_welchs(result: Make, document: Make) -> None:
    unmatched = measured(result, document, shift=10)
    made = found(unmatched, by=["x"], within=["seed"], baseline="x=1")
    loose = found(unmatched, by=["x"], baseline="x=1")
    assert made["results"][1]["measures"] == loose["results"][1]["measures"]
    assert any(note.startswith("not matched") for note in made["notes"])


def test_an_unknown_or_repeated_key_is_refused(result: Make, document: Make) -> None:
    with pytest.raises(UsageError, match="no checkpoint has metadata"):
        found(measured(result, document), by=["x"], within=["sed"])
    with pytest.raises(UsageError, match="is also in"):
        found(measured(result, document), by=["x"], within=["x"])


@pytest.mark.parametrize("degrees", [1.0, 2.5, 7.3, 40.0])
def test_students_interval_at_fractional_degrees(degrees: float) -> None:
    low, high = student_interval(1.0, 2.0, degrees)
    assert high - 1.0 == pytest.approx(2.0 * stats.t.ppf(0.975, degrees), rel=0.03)
    assert low + high == pytest.approx(2.0)
