"""Which measures there are, how they are chosen, and what a package may add."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from networks import CASES, context

from sharpcli import measures
from sharpcli.cli.commands.measure import measure as command
from sharpcli.cli.options.measures import MeasureCommand, own_options
from sharpcli.documents.scalars import Scalar
from sharpcli.errors import SharpError, UsageError
from sharpcli.measures import (
    BUILT_IN,
    Column,
    Measure,
    Option,
    choose,
    compute,
    known_measures,
    options_of,
    readers,
)
from sharpcli.measures.columns import column_titles, in_tables, leading_names
from sharpcli.settings.measuring import MeasureSettings

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
        own_options.cache_clear()

    yield install
    own_options.cache_clear()


def names(chosen):
    return [measure.name for measure in chosen]


def test_every_measure_describes_itself():
    for name, measure in known_measures().items():
        assert name == measure.name
        for part in ("meaning", "formula", "cost", "invariances", "source", "warns"):
            assert getattr(measure, part), (name, part)
        where = measure.compute.__doc__.split("`")[1]
        module, _, function = where.rpartition(".")
        assert getattr(importlib.import_module(module), function).__doc__


def test_the_default_set_and_all():
    assert names(choose(())) == NAMES
    assert set(NAMES) <= set(names(choose(("all",))))


def test_the_order_is_the_registrys_and_nothing_comes_twice():
    assert names(choose(("trace", "loss", "trace"))) == ["loss", "trace"]


def test_an_unknown_measure_is_misuse_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"measures=\['hesian'\]: there is no such") as caught:
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
    curved = ["hessian", "trace", "largest-eigenvalue", "noise-scale", "effective-rank"]
    assert readers(choose(("gradient",)))["operator"] == curved
    options = {option.name for option in command.params}
    assert {name for known in known_measures().values() for name in known.reads} <= options
    installed(mine=made_up())
    assert readers(choose(("mine",))) == {}  # it may read anything


def test_an_entry_point_that_is_no_measure_is_named(installed):
    installed(mine=lambda context: {})
    with pytest.raises(SharpError, match="the entry point 'mine' of sharpcli") as caught:
        known_measures()
    assert "fix or uninstall" in caught.value.hint


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


def test_the_registry_and_its_columns_load_no_torch():
    code = "import sys, sharpcli.measures.columns as c; c.in_tables(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy"} & set(done.stdout.split())


def described(name="mine", **fields):
    return Measure(name, "m", "f", "c", "i", "s", "w", lambda context: {}, **fields)


def test_a_package_s_measure_heads_its_columns_and_says_its_place(installed):
    rise = Column(r"mine\.rise\[(\d+)\]", "rise {0}", leading="the rise {0}")
    installed(mine=described(columns=(rise, Column(r"mine\.raw", None)), place=5))
    keys = ["accuracy.test", "mine.raw", "mine.rise[2]", "mine.other", "loss.train", "trace"]
    assert column_titles(keys) == {
        "loss.train": "loss train",
        "mine.rise[2]": "rise 2",
        "mine.other": "mine.other",
        "accuracy.test": "accuracy test",
        "trace": "trace",
    }
    assert leading_names(keys) == {
        "mine.rise[2]": "the rise 2",
        "loss.train": "the loss",
        "trace": "trace",
    }


def test_a_table_loads_only_the_packages_that_brought_its_numbers(installed):
    installed(mine=described(), broken="no measure")
    shown = in_tables(["loss.train"])
    assert {measure.name for measure in shown} == set(BUILT_IN)
    assert [measure.name for measure in shown if measure.default] == [
        *("loss", "epsilon-sharpness", "hessian", "trace", "gradient")
    ]
    assert "mine" in [measure.name for measure in in_tables(["mine"])]


def built_in_options():
    return {option.name: option.default for m in BUILT_IN.values() for option in m.options}


def test_options_of_measures_have_their_defaults_and_no_other_names(installed):
    assert options_of(choose(("all",)), {}) == built_in_options()
    installed(mine=described(options=(Option("rho", 0.05, "the radius"),), reads=()))
    assert options_of(choose(("mine",)), {}) == {"rho": 0.05}
    assert options_of(choose(("mine",)), {"rho": 1.0}) == {"rho": 1.0}
    assert options_of(choose(("loss",)), {"rho": 1.0}) == {}
    assert readers(choose(("loss",)))["rho"] == ["mine"]
    with pytest.raises(UsageError, match="rhoo: no measure has this option") as caught:
        options_of(choose(("mine",)), {"rhoo": 1.0})
    assert caught.value.hint == "did you mean 'rho'?"


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        (Option("rho", 0.05, "the radius", low=0), -1.0, "at least 0"),
        (Option("rho", 0.05, "the radius", low=0, open_=True), 0.0, "above 0"),
        (Option("rho", 0.05, "the radius", high=2), 2.5, "at most 2"),
        (Option("norm", "l2", "the norm", choices=("l2", "max")), "l1", "one of l2, max"),
    ],
)
def test_values_of_options_are_in_their_range(installed, option, value, wanted):
    installed(mine=described(options=(option,), reads=()))
    with pytest.raises(UsageError, match="is out of range") as caught:
        options_of(choose(("mine",)), {option.name: value})
    assert caught.value.hint == f"it is {wanted}"
    assert options_of(choose(("mine",)), {option.name: option.default}) == {
        option.name: option.default
    }


def test_too_few_parameters_for_what_is_asked_are_the_measure_s_to_refuse():
    check = known_measures()["hessian"].check
    check(3, MeasureSettings())
    with pytest.raises(UsageError, match="top=4: the model has only 3 parameters"):
        check(3, MeasureSettings(top=4))
    with pytest.raises(UsageError, match="max_products=4: too few for 3 eigenvalues"):
        check(3, MeasureSettings(max_products=4))


def test_options_of_measures_are_options_of_the_command(installed):
    brought = (
        Option("step_size", 0.05, "the radius", low=0, open_=True),
        Option("steps", 3, "how many", low=1),
        Option("both", False, "two ways"),
        Option("norm", "l2", "the norm", choices=("l1", "l2")),
    )
    installed(mine=described(options=brought))

    @click.command(cls=MeasureCommand)
    def asked(options):
        click.echo(json.dumps(options))

    def given(*words):
        done = CliRunner().invoke(asked, words)
        return done.exit_code, done.output

    defaults = {"step_size": 0.05, "steps": 3, "both": False, "norm": "l2"}
    assert json.loads(given()[1]) == {**built_in_options(), **defaults}
    code, said = given("--step-size", "1", "--steps", "2", "--both", "--norm", "l1")
    assert (code, json.loads(said)) == (
        0,
        {**built_in_options(), "step_size": 1.0, "steps": 2, "both": True, "norm": "l1"},
    )
    for words in (("--step-size", "0"), ("--steps", "0"), ("--norm", "l3")):
        assert given(*words)[0] == 2
    assert "mine: the radius" in given("--help")[1]


def test_numbers_of_a_loss_at_the_end_of_float64_are_marked_by_their_measure():
    known = known_measures()
    two = {"train": Scalar(0.0), "test": Scalar(1.0)}
    marked = known["loss"].vanished(two, "train", "too small")
    assert [marked[split].status for split in two] == ["precision", "converged"]
    norm = known["gradient"].vanished({"norm": Scalar(1.0), "evaluations": 1}, "train", "too small")
    assert (norm["norm"].advice, norm["evaluations"]) == ("too small", 1)
    boxes = [{"value": 1.0, "status": "lower_bound", "loss_at_maximum": x} for x in (1e-14, 1e-3)]
    small, large = known["epsilon-sharpness"].vanished(boxes, "train", "too small")
    assert small["status"] == "precision"
    assert small["advice"] == "too small, or take larger epsilons"
    assert large == boxes[1]


def test_a_measure_that_does_not_apply_is_left_out_of_all_and_refused_by_name():
    def missing(_):
        raise SharpError("no optimizer's state", "save it")

    known, of = known_measures(), context(CASES["tanh"])
    both = [known["gradient"], replace(known["trace"], name="unready", applies=missing)]
    with pytest.raises(SharpError, match="no optimizer's state"):
        compute(both, of)
    assert not of.known("value_and_gradient")  # refused before anything was computed
    of.settings = replace(of.settings, measures=("all",))
    assert list(compute(both, of)) == ["gradient"]
    assert of.warnings[-1] == "unready is left out: no optimizer's state (save it)"
