"""A few hundred forged checkpoints; ten thousand: `tests/benchmarks/run.py --only forged`."""

from trying import tried


def test_forged_checkpoints_are_refused_or_read_and_nothing_else():
    found = tried("tests", 0, 280)
    assert found.wrong == []
    read, refused = found.read.total(), found.refused.total()
    assert read + refused == 280
    assert read > 30
    assert refused > 150
