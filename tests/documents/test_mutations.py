"""Saved results that were changed at random: answers or messages, never a traceback.

`python tests/benchmarks/run.py --only documents` does the same to 5,000 real ones.
"""

import random
import time

import pytest
import scenes
import schedule_documents
import spectra
from mutations import mutated, runs

from sharpcli.documents.schema import problem_of

_SECONDS = 2.5  # of a kind's documents; the seed makes the first ones the same everywhere


def explored():
    return [scenes.line(5), scenes.plane(4, 3), scenes.random_line(4), scenes.path_plane(4, 3)]


def spectral():
    return [spectra.document(spectra.made_up("a.pt"))]


def schedules():
    return [schedule_documents.scheduled(), schedule_documents.rewritten()]


@pytest.mark.parametrize("kind", ["explored", "measured", "schedules"])
def test_no_change_of_a_document_ends_in_a_traceback(kind, result, document, tmp_path):
    measured = [document([result("a.pt", {"lr": 0.1}), result("b.pt", {"lr": 0.2})])]
    documents = {"explored": explored, "schedules": schedules}.get(kind, list)()
    documents = documents or measured + spectral()
    chance, started = random.Random(7), time.perf_counter()
    path, tried = tmp_path / "changed.json", 0
    while tried <= 3 or time.perf_counter() - started < _SECONDS:
        text = mutated(chance.choice(documents), chance)
        path.write_bytes(text)
        for what, problem in runs(path, tmp_path, plots=(".npz", ".vts")):
            assert problem is None, f"{what}: {problem}\n{text!r:.2000}"
        tried += 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda r: r["curves"]["train"].update(loss=[1e308, None, [], 1, 2]),
            "results[0].curves.train.loss[2]: expected a number or null, found a list",
        ),
        (
            lambda r: r["curves"]["train"]["loss"].__setitem__(1, float("inf")),
            "results[0].curves.train.loss[1]: expected a number that float64 can hold",
        ),
        (lambda r: r["curves"].update(val={}), "results[0].curves.val: expected one of"),
        (lambda r: r.update(extra={"of": ["a", "later", "release"]}), None),
        (lambda r: r["checkpoints"][0].update(extra=None, metadata={"lr": None}), None),
        (lambda r: r["checkpoints"][0].update(coordinates={"alpha": None}, unseen=None), None),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change, said):
    document = scenes.line(5)
    change(document["results"][0])
    problem = problem_of(document)
    assert problem is None if said is None else said in str(problem)


def test_what_was_added_later_is_not_asked_of_earlier_documents(sweep):
    from sharpcli.documents.comparison import compare
    from sharpcli.documents.results import to_document

    document = to_document(compare([("a.json", sweep)], baseline="sgd-32-0"))
    assert problem_of(document) is None
    for row in document["results"]:
        for summary in row["measures"].values():
            (summary["difference"] or {}).pop("ratio_interval", None)
    assert problem_of(document) is None
    document["results"][0]["measures"]["trace"].pop("mean")
    assert problem_of(document) == 'results[0].measures.trace: lacks "mean"'


def test_lists_in_lists_are_counted():
    document = scenes.line(5)
    deep = []
    for _ in range(100):
        deep = [deep]
    document["task"]["options"]["deep"] = deep
    assert "is more than 64 levels deep" in str(problem_of(document))
