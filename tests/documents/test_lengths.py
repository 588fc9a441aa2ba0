import pytest
import scenes
from schedule_documents import rewritten

from sharpcli.documents.lengths import lengths


def problem(document):
    return str(next(lengths(document), None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["coordinates"].pop(), "results[0].coordinates: expected 5 entries, as shape"),
        (lambda r: r["shape"].append(2), "results[0].shape: expected 1 entries"),
        (
            lambda r: r["curves"]["test"]["accuracy"].pop(),
            "results[0].curves.test.accuracy: expected 5 entries, as coordinates says, found 4",
        ),
        (lambda r: r["barrier"]["train"].pop("alpha"), "results[0].barrier.train: lacks"),
        (
            lambda r: r["checkpoints"][0]["coordinates"].clear(),
            'results[0].checkpoints[0].coordinates: lacks "alpha"',
        ),
        (lambda r: r["axes"][0]["values"].reverse(), "values: expected increasing numbers"),
        (lambda r: r["axes"][0].update(values=[0.0] * 5), "values: expected increasing numbers"),
    ],
)
def test_the_lists_of_a_line_fit_together(change, said):
    document = scenes.line(5)
    assert problem(document) == "None"
    change(document["results"][0])
    assert said in problem(document)


def test_a_schedule_has_a_rate_for_each_step():
    document = rewritten()
    assert problem(document) == "None"
    del document["results"][1]["lr"][-1]
    assert problem(document) == "results[1].lr: expected 26 entries, as steps says, found 25"
