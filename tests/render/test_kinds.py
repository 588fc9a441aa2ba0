"""Each kind of result and each format has all its parts; an unknown one gets a message."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sharpcli.errors import SharpError, UsageError
from sharpcli.render.formats import FORMATS, format_of
from sharpcli.render.kinds import FIGURES, KINDS, kind_of, load, read_drawing

DOCS = Path(__file__).parents[2] / "docs"
UNKNOWN = {"kind": "weather", "results": []}


@pytest.mark.parametrize("name", KINDS)
def test_all_parts_of_a_kind_are_there(name):
    kind = KINDS[name]
    parts = [kind.page, kind.rows, kind.lines, kind.drawing, *kind.figures.values()]
    assert all(callable(load(part)) for part in parts if part)
    assert bool(kind.drawing) == bool(kind.figures)
    assert set(kind.figures) <= set(FIGURES)


def test_every_kind_of_the_contract_is_known():
    schema = json.loads((DOCS / "schema.json").read_text("utf-8"))
    assert set(KINDS) == set(schema["properties"]["kind"]["enum"])


def test_every_kind_of_figure_is_drawn_of_something():
    assert {suffix for kind in KINDS.values() for suffix in kind.figures} == set(FIGURES)


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_an_unknown_kind_is_never_shown_as_another(form):
    with pytest.raises(UsageError, match='a result of kind "weather" has no table'):
        format_of(form).text(UNKNOWN, None, True)
    assert json.loads(format_of("json").text(UNKNOWN, None, True)) == UNKNOWN


def test_an_unknown_kind_and_one_without_figures_are_not_drawn():
    for kind in ("weather", "inspect"):
        with pytest.raises(SharpError, match=f'"{kind}" has no figure') as error:
            read_drawing({"kind": kind, "results": []})
        drawn = "measure, train, compare, interpolate, landscape, spectrum, schedule, reproduce"
        assert error.value.hint == f"kinds with a figure: {drawn}"
    with pytest.raises(UsageError):
        kind_of(UNKNOWN)


def test_an_unknown_format_gets_the_nearest():
    with pytest.raises(UsageError, match="there is no format 'markdwn'") as error:
        format_of("markdwn")
    assert error.value.hint == "did you mean 'markdown'?"
    assert len({form.suffix for form in FORMATS.values()}) == len(FORMATS)


def test_the_registry_loads_nothing_that_draws():
    code = "import sys, sharpcli.render.kinds, sharpcli.render.formats; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "matplotlib", "plotly", "rich"} & set(done.stdout.split())
