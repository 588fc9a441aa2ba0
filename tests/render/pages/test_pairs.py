"""The sheets that compare checkpoints two by two."""

from sharpcli.render.pages.measurements import measure_page
from sharpcli.render.pages.pairs import pair_notes

KEY = "hessian.eigenvalues[0]"


def _pair(a: str, b: str) -> dict[str, object]:
    return {
        "a": a,
        "b": b,
        "measure": KEY,
        "ratio": {"value": 1.0, "interval": [0.9, 1.1]},
        "difference": {"value": 0.0},
        "verdict": "undecided",
    }


def test_a_checkpoint_given_twice_is_compared_under_its_name() -> None:
    number = {"value": 2.0, "error": 0.1, "error_kind": "residual", "status": "converged"}
    result = {
        "checkpoint": {"path": "a.pt", "parameters": 3},
        "status": "ok",
        "measures": {"hessian": {"eigenvalues": [number]}},
    }
    page = measure_page(
        {"kind": "measure", "results": [result, result], "pairs": [_pair("a.pt", "a.pt")]}
    )
    titles = [sheet.title for sheet in page.sheets]
    assert titles[-1] == "a.pt against a.pt"


def test_the_intervals_of_a_decision_are_wider_and_the_legend_says_so() -> None:
    pairs, titles = [_pair("a.pt", "b.pt")], {KEY: "λ1"}
    assert len(pair_notes(pairs, titles)) == 1
    note = pair_notes(pairs, titles, decided=KEY)[1]
    assert note.startswith("λ1: an interval is of the sample on which the pair was decided")
    assert len(pair_notes(pairs, titles, decided="trace")) == 1
