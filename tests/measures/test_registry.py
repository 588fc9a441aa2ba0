"""Which measures there are, how they are chosen, and what a package may add."""

from types import SimpleNamespace

import pytest
from networks import CASES, context

from sharpcli import measures
from sharpcli.cli.commands.measure import measure as command
from sharpcli.documents.results import Scalar
from sharpcli.errors import SharpError, UsageError
from sharpcli.measures import Measure, choose, compute, known_measures, readers

NAMES = ["loss", "epsilon-sharpness", "gradient", "hessian", "trace"]


def made_up(name="mine", function=lambda context: {"mine": {"value": 1.0}}):
    return Measure(name, "m", "f", "c", "i", "s", "w", function)


@pytest.fixture
def installed(monkeypatch):
    def install(**found):
        entries = [
            SimpleNamespace(name=name, value=f"package:{name}", load=lambda it=it: it)
            for name, it in found.items()
        ]
        monkeypatch.setattr(measures, "entry_points", lambda group: entries)

    return install


def names(chosen):
    return [measure.name for measure in chosen]


def test_every_measure_describes_itself():
    for name, measure in known_measures().items():
        assert name == measure.name
        for part in ("meaning", "formula", "cost", "invariances", "source", "warns"):
            assert getattr(measure, part), (name, part)
        assert measure.compute.__doc__


def test_the_default_set_and_all():
    assert names(choose(())) == NAMES
    assert set(NAMES) <= set(names(choose(("all",))))


def test_the_order_is_the_registrys_and_nothing_comes_twice():
    assert names(choose(("trace", "loss", "trace"))) == ["loss", "trace"]


def test_an_unknown_measure_is_misuse_with_the_nearest_name():
    with pytest.raises(UsageError, match='measure="hesian": there is no such measure') as caught:
        choose(("loss", "hesian"))
    assert caught.value.hint == "did you mean 'hessian'?"
    with pytest.raises(UsageError) as caught:
        choose(("zzz",))
    assert "epsilon-sharpness" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        choose(("loss,trace",))
    assert caught.value.hint == "give each its own option: measures=['loss', 'trace']"


def test_a_package_adds_its_own_by_entry_point(installed):
    installed(mine=made_up())
    assert names(choose(("mine",))) == ["mine"]
    assert names(choose(())) == NAMES  # not in the default set unless it says so


def test_a_package_cannot_replace_a_built_in_measure(installed):
    installed(loss=made_up("loss"))
    assert known_measures()["loss"].meaning != "m"


def test_what_no_chosen_measure_reads_is_known_by_its_readers(installed):
    assert readers(choose(("all",))) == {}
    found = readers(choose(("loss", "trace")))
    assert found["top"] == ["hessian"]
    assert found["epsilons"] == ["epsilon-sharpness"]
    assert "operator" not in found
    assert readers(choose(("gradient",)))["operator"] == ["hessian", "trace"]
    options = {option.name for option in command.params}
    assert {name for known in known_measures().values() for name in known.reads} <= options
    installed(mine=made_up())
    assert readers(choose(("mine",))) == {}  # it may read anything


def test_an_entry_point_that_is_no_measure_is_named(installed):
    installed(mine=lambda context: {})
    with pytest.raises(SharpError, match="the entry point 'mine' of sharpcli") as caught:
        known_measures()
    assert "mend or uninstall" in caught.value.hint


def test_computing_gives_each_key_with_its_seconds_and_tells_what_begins():
    begun = []

    def begin(name):
        begun.append(name)
        return lambda done, total: None

    shared = context(CASES["tanh"], top=2, epsilons=(1e-3,))
    shared.begin = begin
    found = compute(choose(()), shared)
    assert begun == NAMES
    assert list(found) == [
        "loss",
        "accuracy",
        "epsilon_sharpness",
        "gradient",
        "hessian",
        "trace",
    ]
    for key in ("loss", "gradient", "hessian", "trace"):
        assert found[key]["seconds"] >= 0
    assert found["epsilon_sharpness"][0]["seconds"] >= 0
    assert isinstance(found["loss"]["train"], Scalar)
