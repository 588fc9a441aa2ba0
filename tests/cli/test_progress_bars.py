"""What is said while work goes on: how long it takes, and to whom it concerns."""

import io

import pytest
from rich.console import Console

from sharpcli.cli import progress_bars
from sharpcli.runtime import progress
from sharpcli.runtime.progress import Latest, Notes, foretelling, readable_time, silent


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3.2, "3.2 s"),
        (61, "61 s"),
        (300, "5 min"),
        (9000, "2.5 h"),
        (4e5, "4.6 days"),
        (5e7, "579 days"),
        (1e12, "31,688 years"),
    ],
)
def test_times_are_said_as_people_say_them(seconds, said):
    assert readable_time(seconds) == said


@pytest.mark.parametrize(("pace", "to_all"), [(0.5, False), (10.0, True)])
def test_the_pace_is_that_after_the_first_products_which_set_things_up(monkeypatch, pace, to_all):
    clock, notes, details = [0.0], [], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    step = foretelling(silent, Notes(notes.append, details.append), "1 GB of memory at most")
    for done, seconds in ((0, 0.0), (2, 100.0), (4, 2 * pace), (6, 2 * pace)):
        clock[0] += seconds
        step(done, 40)
    said = f"about {readable_time(36 * pace)} more: 40 products in all, 1 GB of memory at most"
    assert (notes, details) == (([said], []) if to_all else ([], [said]))


def test_it_is_foretold_again_where_it_turns_out_to_be_much_more(monkeypatch):
    clock, details = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    step = foretelling(silent, Notes(detail=details.append), "1 GB")
    for done, total in ((2, 10), (4, 10), (6, 10), (8, 12), (10, 15), (12, 30), (14, 30)):
        clock[0] += 2.0
        step(done, total)
    assert details == [
        "about 6 s more: 10 products in all, 1 GB",
        "about 18 s more: 30 products in all, 1 GB",
    ]


def test_nothing_is_foretold_where_the_end_is_not_known():
    details = []
    step = foretelling(silent, Notes(detail=details.append), "")
    for done in (1, 2, 3):
        step(done, None)
    assert details == []


def test_it_is_foretold_again_where_each_product_takes_longer_than_the_last(monkeypatch):
    clock, details, times = [0.0], [], {}
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    step = foretelling(silent, Notes(detail=details.append), "1 GB")
    for done in range(2, 1001, 2):
        clock[0] += 0.002 + 0.0001 * done
        times[done] = clock[0]
        step(done, 1000)
    assert len(details) == 2
    foretold = float(details[1].split()[1])
    at = next(done for done in times if done >= 1000 / 8)
    assert times[1000] - times[at] == pytest.approx(foretold, rel=0.1)


def test_a_bar_shows_the_latest_numbers_of_its_work(monkeypatch):
    monkeypatch.setattr(progress_bars, "_PATIENCE", -1.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress_bars, "error_console", lambda: console)
    latest = Latest()
    with progress_bars.progress_bars() as begin:
        latest.text = lambda: "loss 0.12 · lr 0.05"
        begin("training digits", latest)(1234, 5000)
    shown = console.file.getvalue()
    assert "training digits" in shown
    assert "1234/5000" in shown
    assert "loss 0.12 · lr 0.05" in shown
    with progress_bars.progress_bars() as begin:
        begin("a.safetensors: hessian")(3, 5)
    assert "a.safetensors: hessian" in console.file.getvalue()


def test_a_log_file_gets_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: now[0])
    with progress_bars.progress_bars() as begin:
        for number in range(1, 8):
            begin(f"run-{number}, {number} of 7: loss")
            now[0] += 25
    assert capsys.readouterr().err.splitlines() == [
        "run-4, 4 of 7: loss",
        "run-7, 7 of 7: loss",
    ]
    with progress_bars.progress_bars(quiet=True) as begin:
        now[0] += 100
        begin("run-1, 1 of 7: loss")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["run-7", "a-long-name-of-a-run-with-its-settings-3"])
def test_a_long_name_leaves_room_for_the_count_and_the_time_left(monkeypatch, name):
    monkeypatch.setattr(progress_bars, "_PATIENCE", -1.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress_bars, "error_console", lambda: console)
    with progress_bars.progress_bars() as begin:
        step = begin(f"{name}, 38 of 200, 4 min left: hessian")
        step(0, 1234)
        step(25, 1234)
    written = console.file.getvalue()
    for shown in (f"{name[-5:]}, 38 of 200, 4 min left: hessian", "25/1234", "-:--:--"):
        assert shown in written
