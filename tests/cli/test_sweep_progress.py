"""What a sweep shows while it works."""

import io

import pytest
from rich.console import Console

from sharpcli.cli import sweep_progress as module
from sharpcli.cli.sweep_progress import Table

OK = {"status": "ok", "loss": {"train": {"value": 0.25}}}
DIVERGED = {"status": "failed", "error": {"message": "inf", "hint": None, "kind": "diverged"}}
FAILED = {"status": "failed", "error": {"message": "no data", "hint": None}}


@pytest.fixture
def terminal(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=8)
    monkeypatch.setattr(module, "error_console", lambda: console)
    return console


def shown(table):
    console = Console(file=io.StringIO(), width=60)
    console.print(table.table())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_table_of_what_runs_what_failed_and_what_ended_last(terminal):
    table = Table()
    table.planned(range(9), ["before"])
    try:
        for name, state in (("a", OK), ("b", DIVERGED), ("c", OK), ("d", FAILED)):
            table.began(name)
            table.ended(name, state)
        table.began("e")
        table.progress("e", 3, 12)
        lines = shown(table)
    finally:
        table.close()
    assert lines[1].split()[0] == "e"
    assert lines[1].endswith("3/12")
    assert [line.split() for line in lines[2:5]] == [
        ["d", "failed:", "no", "data"],
        ["b", "diverged"],
        ["c", "train", "loss", "0.25"],
    ]
    assert lines[5].startswith("5 of 9 runs ended, 1 running, 2 failed · about ")
    assert len(lines) == 6  # a terminal of 8 lines


def test_nothing_is_left_of_the_table(terminal):
    with module.sweep_progress() as watch:
        watch.planned([1], [])
        watch.began("a")
    assert "running" in terminal.file.getvalue()
    assert "\x1b[2K" in terminal.file.getvalue()  # the lines are erased
