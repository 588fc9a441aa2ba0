"""Which code computes a package's measure."""

import importlib
from importlib.metadata import EntryPoint

import pytest

from sharpcli import measures
from sharpcli.measures.packages import code_of


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a measure and a helper module."""
    folder = tmp_path / "mine_of_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "given.py").write_text("from mine_of_tests import helper\nMEASURE = helper.two()\n")
    (folder / "helper.py").write_text("def two():\n    return 2\n")
    (folder / "other.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("mine_of_tests.given")
    entry = EntryPoint("scaled", "mine_of_tests.given:MEASURE", "sharpcli.measures")
    monkeypatch.setattr(measures, "entry_points", lambda group: [entry])
    return folder


def test_a_change_of_the_module_or_of_what_it_imports_is_another_code(package):
    first = code_of(["loss", "scaled"])
    assert list(first) == ["scaled"]
    assert first["scaled"].startswith("mine_of_tests.given:MEASURE, code ")
    (package / "other.py").write_text("changed = True\n")
    assert code_of(["scaled"]) == first
    (package / "helper.py").write_text("def two():\n    return 3\n")
    second = code_of(["scaled"])
    assert second != first
    (package / "given.py").write_text("MEASURE = 2\n")
    assert code_of(["scaled"]) not in (first, second)


def test_the_version_of_the_package_counts(package, monkeypatch):
    def installed(version):
        class Installed:
            name = "scaled"
            value = "mine_of_tests.given:MEASURE"

            class dist:  # noqa: N801
                name = "mine"

        Installed.dist.version = version
        return Installed

    found = []
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(measures, "entry_points", lambda group, v=version: [installed(v)])
        found.append(code_of(["scaled"])["scaled"])
    assert "mine 1.0" in found[0]
    assert "mine 1.1" in found[1]


def test_built_in_measures_are_of_this_package():
    assert code_of(["loss", "hessian"]) == {}
