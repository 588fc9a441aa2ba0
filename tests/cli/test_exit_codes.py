"""Which exit code a result or an error ends a run with, and how an interrupted one is known."""

from __future__ import annotations

import pytest

from sharpcli.cli.exit_codes import ExitCode, exit_code, of_error
from sharpcli.documents.results import Failure, Report, is_interrupted, to_document
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs.failures import INTERRUPTED
from sharpcli.runtime import interruption


def document(**result):
    return to_document(Report("measure", {}, {}, {}, [{"checkpoint": {"path": "a"}, **result}]))


def failed(**error):
    return document(status="failed", error={"message": "gone", "hint": None, **error})


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (document(status="ok", measures={}), ExitCode.DONE),
        (failed(), ExitCode.FAILED),
        (document(status="failed", error=INTERRUPTED), interruption.exit_code()),
        (document(status="interrupted"), interruption.exit_code()),
        (document(status="ok", measures={}, layers=[{"layer": "1", "error": {}}]), 1),
        (document(status="ok", measures={"x": {"value": 1.0, "status": "precision"}}), 3),
        (document(status="ok", measures={"x": {"value": 1.0, "status": "lower_bound"}}), 0),
    ],
)
def test_a_result_ends_its_run_with_its_code(made, code):
    assert exit_code(made, strict=True) == code
    if code != ExitCode.UNCONVERGED:
        assert exit_code(made) == code


def test_without_strict_what_did_not_converge_is_done():
    made = document(status="ok", measures={"x": {"value": 1.0, "status": "suspect"}})
    assert exit_code(made) == ExitCode.DONE


def test_misuse_has_a_code_of_its_own():
    assert of_error(UsageError("no")) == 2
    assert of_error(SharpError("no")) == 1


def test_an_interrupted_run_is_known_by_its_kind():
    made = document(status="failed", error=INTERRUPTED)
    assert made["results"][0]["error"]["kind"] == "interrupted"
    assert is_interrupted(made)
    assert not is_interrupted(failed(message="interrupts are off: the task failed"))
    assert "kind" not in to_document(Report("m", {}, {}, {}, [Failure("gone")]))["results"][0]


def test_an_interrupted_run_of_an_earlier_release_is_known_by_its_message():
    assert is_interrupted(failed(message="interrupted before it was measured"))
