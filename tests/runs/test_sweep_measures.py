"""What a sweep measures: each run once, also where the measuring is interrupted."""

import pytest
from tiny_sweeps import FOUR, write

from sharpcli.runs import measure as module
from sharpcli.runs.sweep import sweep
from sharpcli.runs.sweep_measures import measure_sweep

MEASURED = '\n[measure]\nmeasures = ["loss", "hessian"]\ntop = 1\n'
WIDTHS = """
task = "task.py"
[fixed]
epochs = 1
[grid]
options.width = [3, 4]
seed = [0, 1]
"""


@pytest.fixture
def measured(monkeypatch):
    """The runs that are measured, in order; the one of the number `stop[0]` is interrupted."""
    names, stop, measure_one = [], [None], module.measure_one

    def recorded(loaded, about, *rest, **more):
        if len(names) == stop[0]:
            raise KeyboardInterrupt
        names.append(about["path"])
        return measure_one(loaded, about, *rest, **more)

    monkeypatch.setattr(module, "measure_one", recorded)
    return names, stop


def without_seconds(node):
    if isinstance(node, dict):
        return {k: without_seconds(each) for k, each in node.items() if k != "seconds"}
    return [without_seconds(each) for each in node] if isinstance(node, list) else node


def measured_of(file, out):
    sweep(file, out)
    return without_seconds(measure_sweep(file, out))


@pytest.mark.parametrize(("content", "at"), [(FOUR, 2), (WIDTHS, 1), (WIDTHS, 3)])
def test_an_interrupted_measuring_goes_on_where_it_stopped(tmp_path, measured, content, at):
    names, stop = measured
    file, out = write(tmp_path, content + MEASURED), tmp_path / "out"
    sweep(file, out)
    stop[0] = at
    with pytest.raises(KeyboardInterrupt):
        measure_sweep(file, out)
    assert not (out / "measures.json").exists()
    assert (out / "measures.json.partial").exists()
    stop[0] = None
    found = measure_sweep(file, out)
    assert len({*names}) == len(names) == 4
    assert not (out / "measures.json.partial").exists()
    assert [each["status"] for each in found["results"]] == ["ok"] * 4
    expected = measured_of(file, tmp_path / "whole")
    for ours, theirs in zip(without_seconds(found)["results"], expected["results"], strict=True):
        assert ours["measures"] == theirs["measures"]
