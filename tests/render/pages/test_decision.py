"""The order of checkpoints in one sentence, and what it took."""

import pytest

from sharpcli.render.pages.decision import decision_lines

KEY = "hessian.eigenvalues[0]"


def document(verdicts, *, order=None, examples=256, key=KEY, looks=1, **decision):
    paths = list(dict.fromkeys(path for pair in verdicts for path in pair))
    return {
        "results": [{"checkpoint": {"path": path}} for path in paths],
        "pairs": [
            {"a": a, "b": b, "measure": key, "verdict": verdict}
            for (a, b), verdict in verdicts.items()
        ],
        "decision": {
            "measure": key,
            "level": 0.95,
            "order": order,
            "examples": examples,
            "examples_in_all": 10_000,
            "looks": [{"seconds": 1.5}] * looks,
            "seconds": 2.0 * looks,
            "full": {"examples": 10_000, "seconds": 40.0},
        }
        | decision,
    }


def test_two_checkpoints_and_what_it_took():
    found = document({("a.pt", "b.pt"): "flatter"}, order=["b.pt", "a.pt"], share=0.026)
    assert decision_lines(found) == [
        "b is sharper than a by λ1: decided on 256 of 10,000 examples, at 95 %",
        "this took 2 s, 0.026× the work of all data: all 10,000 examples would have taken up to "
        "40 s",
    ]
    assert decision_lines({"results": []}) == []


def test_more_checkpoints_are_listed_by_sharpness():
    pairs = {("a.pt", "b.pt"): "flatter", ("a.pt", "c.pt"): "sharper", ("b.pt", "c.pt"): "sharper"}
    found = document(pairs, order=["b.pt", "a.pt", "c.pt"], examples=10_000, looks=2)
    assert decision_lines(found) == [
        "by λ1, sharpest first: b, a, c: decided on all 10,000 examples, at 95 %",
        "this took 4 s, of which the last sample 1.5 s",
    ]


@pytest.mark.parametrize(
    ("examples", "why"), [(10_000, "all 10,000 examples (they may be equal)"),
                          (512, "512 of 10,000 examples (interrupted)")]
)  # fmt: skip
def test_what_is_undecided_says_why(examples, why):
    pairs = {
        ("a.pt", "b.pt"): "undecided",
        ("a.pt", "c.pt"): "sharper",
        ("b.pt", "c.pt"): "sharper",
    }
    first = decision_lines(document(pairs, examples=examples))[0]
    assert first == (
        f"a is sharper than c; b is sharper than c by λ1; undecided by λ1 on {why}: a and b"
    )


def test_a_number_that_is_no_sharpness_is_higher():
    found = document({("a.pt", "b.pt"): "lower"}, order=["b.pt", "a.pt"], key="loss.train")
    assert decision_lines(found)[0].startswith("b is higher than a by the loss: decided on 256")


def test_a_share_above_all_data_is_a_plain_number():
    found = document({("a.pt", "b.pt"): "flatter"}, order=["b.pt", "a.pt"], share=1.234)
    assert "this took 2 s, 1.2× the work of all data" in decision_lines(found)[1]


def test_on_all_data_a_reason_is_said_instead_of_equality():
    found = document({("a.pt", "b.pt"): "undecided"}, examples=10_000)
    found["pairs"][0]["reason"] = "one of them did not converge"
    assert decision_lines(found)[0] == (
        "undecided by λ1 on all 10,000 examples (one of them did not converge): a and b"
    )
