"""The statuses are those of the contract, and a document holds them as plain texts."""

import json
from pathlib import Path

import pytest
from sharpcli.documents.scalars import Scalar

from sharpcli.documents.results import Report, dumps, to_document
from sharpcli.documents.statuses import NOT_CONVERGED, SOUND, Outcome, SamplingStatus, Status

PARTS = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text())["$defs"]
SCALAR = PARTS["scalar_fields"]["properties"]


def test_they_are_those_of_the_contract():
    assert {*SCALAR["status"]["enum"]} == {*Status}
    assert SCALAR["sampling_status"].get("const", *SCALAR["sampling_status"].get("enum", [])) == (
        SamplingStatus.UNRELIABLE
    )
    assert {*PARTS["checkpoint_result"]["properties"]["status"]["enum"]} == {
        Outcome.OK,
        Outcome.FAILED,
    }
    assert {*PARTS["explored"]["properties"]["status"]["enum"]} == {
        Outcome.OK,
        Outcome.INTERRUPTED,
    }
    assert {*PARTS["failure"]["properties"]["kind"]["enum"]} == {
        Outcome.INTERRUPTED,
        Outcome.DIVERGED,
    }


def test_each_is_sound_or_did_not_converge():
    assert {*SOUND} | {*NOT_CONVERGED} == {*Status}
    assert not {*SOUND} & {*NOT_CONVERGED}


@pytest.mark.parametrize("value", [1.0, None, float("nan")])
@pytest.mark.parametrize("status", Status)
def test_a_document_holds_plain_texts(status, value):
    made = Scalar(value, status=status, sampling_status=SamplingStatus.UNRELIABLE)
    document = to_document(Report("measure", {}, {}, {}, [{"status": Outcome.OK, "x": made}]))
    (result,) = document["results"]
    texts = [result["status"], result["x"]["status"], result["x"]["sampling_status"]]
    assert {type(text) for text in texts} == {str}
    assert json.loads(dumps(document)) == document
