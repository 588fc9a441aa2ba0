"""Walking a grid: resumed, interrupted, refused, and what is said on the way."""

import itertools
import signal

import pytest
from mixtures import ALPHAS, ends
from networks import CASES

from sharpcli.errors import UsageError
from sharpcli.landscape.points import walk as module
from sharpcli.landscape.points.evaluator import Surface
from sharpcli.landscape.points.journal import Journal
from sharpcli.landscape.points.walk import Walk, Watch

RUN = {"kind": "test"}


OPEN = []


@pytest.fixture(autouse=True)
def closed():
    yield
    for journal in OPEN:
        journal.close()
    OPEN.clear()


def walking(tmp_path=None, **watch):
    _, objectives, frame, anchors, _ = ends(CASES["tanh"])
    journal = None
    if tmp_path is not None:
        journal = Journal(tmp_path / "r.json")
        OPEN.append(journal)
        journal.begin(RUN)
    walk = Walk(Surface(objectives), Watch(journal=journal, **watch))
    return walk, objectives, ("line", anchors, ALPHAS, frame.weights)


def stop_after(count):
    """A `progress` that presses Ctrl-C once so many points are done."""

    def begin(_):
        def progress(done, total):
            if done == count:
                raise KeyboardInterrupt

        return progress

    return begin


def test_a_resumed_walk_is_the_uninterrupted_one_and_computes_nothing_twice(tmp_path):
    walk, _, line = walking()
    expected = walk.values(*line)
    first, _, line = walking(tmp_path, begin=stop_after(7))
    partly = first.values(*line)
    assert first.interrupted == "interrupted after 7 of 25 points of the line"
    assert partly[7:] == [None] * 18
    assert first.surface.evaluations == 7
    first.watch.journal.close()
    said = []
    again, _, line = walking(tmp_path, say=said.append)
    assert again.values(*line) == expected
    assert again.surface.evaluations == 18
    assert said == ["7 of 25 points were finished by a former run"]


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("when", ["before it is written", "after it is written"])
def test_ctrl_c_while_a_point_is_kept_finds_it_everywhere_or_nowhere(tmp_path, monkeypatch, when):
    walk, _, line = walking(tmp_path)
    add = walk.watch.journal.add

    def pressed(part, first, values):
        if when.startswith("before") and first == 7:
            signal.raise_signal(signal.SIGINT)
        add(part, first, values)
        if when.startswith("after") and first == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(walk.watch.journal, "add", pressed)
    found = walk.values(*line)
    assert [each is not None for each in found] == [True] * 8 + [False] * 17
    assert walk.interrupted == "interrupted after 8 of 25 points of the line"
    walk.watch.journal.close()
    said = []
    again, _, line = walking(tmp_path, say=said.append)
    again.values(*line)
    assert said == ["8 of 25 points were finished by a former run"]


def test_after_an_interruption_other_parts_are_left_out():
    walk, _, (_, *rest) = walking(begin=stop_after(3))
    walk.values("line", *rest)
    assert walk.values("path", *rest) == [None] * 25
    assert walk.surface.evaluations == 3


def test_how_many_go_at_once_is_kept(tmp_path):
    walk, _, line = walking(tmp_path)
    walk.surface.together = None
    walk.watch.journal.add("together", 0, 4)
    walk.watch.journal.add("another line", 0, [])
    walk.watch.journal.close()
    again, _, line = walking(tmp_path)
    again.values(*line)
    assert again.surface.together == 4
    assert sorted(Journal.finished(again.watch.journal, "together")) == [0]


def test_progress_counts_points():
    seen = []
    walk, _, line = walking(begin=lambda name: lambda done, total: seen.append((name, done, total)))
    walk.values(*line)
    assert seen == [("line: points", done, 25) for done in range(26)]


def test_a_long_walk_says_how_long_it_takes_and_where_points_are(tmp_path, monkeypatch):
    clock = itertools.count(0, 2)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    said = []
    walk, _, line = walking(tmp_path, say=said.append)
    walk.values(*line)
    assert said == [
        f"24 more points: about 48 s; finished ones are kept in {tmp_path / 'r.json.partial'}"
    ]


def test_a_grid_that_does_not_fit_is_refused_with_its_size_and_time():
    walk, _, (_, anchors, _, weights) = walking()
    with pytest.raises(UsageError) as caught:
        walk.check_size((31623, 31623), anchors, lambda _: weights((0.0,)))
    message = caught.value.message
    assert message.startswith('points="31623×31623": 1,000,014,129 points take about ')
    assert "2 TB of memory" in message
    assert caught.value.hint == "ask for fewer: 25x25 draws a surface, 101x101 a fine one"
    assert walk.surface.evaluations == 1


def test_of_a_line_other_numbers_are_enough():
    walk, _, (_, anchors, _, weights) = walking()
    with pytest.raises(UsageError) as caught:
        walk.check_size((10**9,), anchors, weights)
    assert caught.value.message.startswith('points="1000000000": 1,000,000,000 points take about ')
    assert caught.value.hint == "ask for fewer: 25 draw a line, 101 a fine one"


def test_a_grid_that_fits_costs_nothing_to_check():
    walk, _, (_, anchors, _, weights) = walking()
    walk.check_size((41, 41), anchors, lambda _: weights((0.0,)))
    assert walk.surface.evaluations == 0
