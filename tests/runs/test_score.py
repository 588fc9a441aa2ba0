"""Scores of a sweep that is really trained, read from its folder."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
from tiny_sweeps import write

from sharpcli.documents.results import dumps, to_document
from sharpcli.documents.scoring import Asked
from sharpcli.errors import SharpError
from sharpcli.runs.score import read_runs, score_files
from sharpcli.runs.sweep import sweep

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text("utf-8"))
SWEEP = """
task = "task.py"
[fixed]
steps = 6
evaluate_every = 2
[grid]
lr = [0.1, 1.0]
seed = [0, 1]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    output = folder / "runs"
    sweep(write(folder, SWEEP), output)
    return output


def test_a_sweeps_folder(trained):
    document = to_document(score_files([str(trained)], Asked()))
    assert [each["label"] for each in document["results"]] == ["lr=0.1", "lr=1"]
    for result in document["results"]:
        found = result["scores"]
        assert found["runs"]["trained"] == 2
        assert found["curve"]["steps"] == [0, 2, 4, 6]
        assert found["over_rates"]["tried"] == 2
    assert document["settings"]["score"]["metric"] == "accuracy"


def test_the_final_value_is_the_last_evaluation(trained):
    for run in read_runs(trained):
        own = trained / run.name / "curves.json"
        saved = json.loads(own.read_text("utf-8"))["results"][0]["evaluations"]
        assert run.final("test", "accuracy") == saved["test"]["accuracy"][-1]


def test_files_of_single_trainings(trained):
    files = sorted(map(str, trained.glob("lr=0.1*/curves.json")))
    together = to_document(score_files([str(trained)], Asked(by=("lr",))))["results"][0]
    alone = to_document(score_files(files, Asked()))["results"][0]
    assert alone["n"] == 2
    assert alone["scores"]["final"] == together["scores"]["final"]


def test_a_folder_twice_counts_once(trained):
    document = to_document(score_files([str(trained), str(trained / "sweep.json")], Asked()))
    assert [each["n"] for each in document["results"]] == [2, 2]


def test_curves_of_another_checkpoint_are_not_used(trained, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(trained, copy)
    file = next(copy.glob("*/curves.json"))
    document = json.loads(file.read_text("utf-8"))
    document["results"][0]["checkpoint"]["sha256"] = "0" * 64
    file.write_text(dumps(document), "utf-8")
    without = [run.name for run in read_runs(copy) if run.evaluations is None]
    assert without == [file.parent.name]


def test_what_is_no_training_is_refused(trained, tmp_path):
    with pytest.raises(SharpError, match=r"without sweep\.json"):
        score_files([str(tmp_path)], Asked())
    result = tmp_path / "scores.json"
    result.write_text(dumps(to_document(score_files([str(trained)], Asked()))), "utf-8")
    with pytest.raises(SharpError, match='kind "compare"'):
        score_files([str(result)], Asked())


def test_the_document_is_by_the_schema(trained):
    jsonschema.validate(to_document(score_files([str(trained)], Asked())), SCHEMA)
    for file in trained.glob("*/curves.json"):
        jsonschema.validate(json.loads(file.read_text("utf-8")), SCHEMA)
