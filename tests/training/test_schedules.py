"""Schedules: every policy against its published formula and torch's schedulers; the grammar."""

from __future__ import annotations

import pickle

import pytest
import torch
from published_policies import PUBLISHED
from torch.optim import SGD, lr_scheduler

from sharpcli.errors import UsageError
from sharpcli.training.policies import POLICIES
from sharpcli.training.schedules import constant_parts, parse_schedule

STEPS = 1000


@pytest.mark.parametrize("spec", PUBLISHED)
def test_each_policy_is_its_published_formula(spec):
    schedule, published = parse_schedule(spec), PUBLISHED[spec]
    assert max(abs(schedule.at(t) - published(t)) for t in range(STEPS)) <= 1e-12


def test_every_policy_is_compared_with_its_formula():
    compared = {parse_schedule(spec).parts[0].policy for spec in PUBLISHED}
    assert compared == set(POLICIES)
    assert sum(name.isupper() for name in POLICIES) == 34


def of_torch(make, steps=STEPS):
    """The rates of a scheduler of torch's over an optimizer whose rate is 0.1."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def cyclic(mode, gamma=1.0):
    return lambda o: lr_scheduler.CyclicLR(
        o, 0.001, 0.1, step_size_up=130, mode=mode, gamma=gamma, cycle_momentum=False
    )


TORCH = {
    "STEP(0.1, gamma=0.5, l=130)": lambda o: lr_scheduler.StepLR(o, 130, 0.5),
    "NSTEP(0.1, gamma=0.5, l=[100, 700])": lambda o: lr_scheduler.MultiStepLR(o, [100, 700], 0.5),
    "EXP(0.1, gamma=0.99)": lambda o: lr_scheduler.ExponentialLR(o, 0.99),
    "POLY(k0=0, k1=0.1, p=2, l=900)": lambda o: lr_scheduler.PolynomialLR(o, 900, 2.0),
    "COS(k0=0.01, k1=0.1, l=130)": lambda o: lr_scheduler.CosineAnnealingLR(o, 130, 0.01),
    "TRI(k0=0.001, k1=0.1, l=130)": cyclic("triangular"),
    "TRI2(k0=0.001, k1=0.1, l=130)": cyclic("triangular2"),
    "TRIEXP(k0=0.001, k1=0.1, gamma=0.999, l=130)": cyclic("exp_range", 0.999),
    "warmup(0.1, steps=300, start=0.01)": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 300),
    "one-cycle(0.1, steps=1001)": lambda o: lr_scheduler.OneCycleLR(
        o, 0.1, 1001, cycle_momentum=False
    ),
    "FIX(0.01):100, STEP(0.1, gamma=0.5, l=70)": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.ConstantLR(o, 0.1, 100), lr_scheduler.StepLR(o, 70, 0.5)],
        milestones=[100],
    ),
}


@pytest.mark.parametrize("spec", TORCH)
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
def test_schedules_that_torch_has_are_torchs(spec):
    schedule = parse_schedule(spec)
    # torch multiplies its rates up from step to step, and its cosine loses digits at each restart
    assert [schedule.at(t) for t in range(STEPS)] == pytest.approx(of_torch(TORCH[spec]), abs=1e-9)


def test_names_are_taken_in_any_case_with_or_without_hyphens():
    for spec in ("TRI-2(k0=0,k1=1,l=4)", "tri2(0, 1, 4)", "Tri_2( K0 = 0, K1 = 1, L = 4 )"):
        assert [parse_schedule(spec).at(t) for t in (2, 4, 12)] == [0.5, 1, 0.5]
    assert parse_schedule("TRI-EXP(0, 1, 0.5, 4)").parts == parse_schedule("triexp(0,1,.5,4)").parts
    assert parse_schedule("OneCycle(1, 100)").parts[0].policy == "one-cycle"


def test_parameters_have_plain_words_beside_the_published_letters():
    plain = parse_schedule("step(0.1, every=100, factor=0.1)")
    assert plain.parts == parse_schedule("STEP(k0=0.1, gamma=0.1, l=100)").parts


def test_each_part_counts_from_its_own_start():
    schedule = parse_schedule("warmup(1, steps=4):4, EXP(1, 0.5):2, 0.25")
    assert [schedule.at(t) for t in range(8)] == [0, 0.25, 0.5, 0.75, 1, 0.5, 0.25, 0.25]


def test_after_the_last_length_the_value_stays():
    schedule = parse_schedule("EXP(1, 0.5):3")
    assert [schedule.at(t) for t in (2, 3, 100)] == [0.25, 0.25, 0.25]


def test_a_schedule_keeps_its_text_and_is_a_value():
    schedule = parse_schedule(" cosine(0.1, steps=500, warmup=50) ")
    assert schedule.spec == "cosine(0.1, steps=500, warmup=50)"
    assert schedule == parse_schedule(schedule.spec)
    assert pickle.loads(pickle.dumps(schedule)).at(275) == schedule.at(275)
    assert hash(schedule) == hash(parse_schedule(schedule.spec))


def test_constant_parts_give_the_values_again():
    values = [0.1] * 3 + [1 / 3] * 2 + [1e-7]
    spec = constant_parts(values)
    assert spec == "0.1:3, 0.3333333333333333:2, 1e-07"
    assert [parse_schedule(spec).at(t) for t in range(6)] == values
    assert constant_parts([128, 128, 1251]) == "128:2, 1251"


def test_far_steps_neither_overflow_nor_lose_their_phase():
    assert parse_schedule("SIG(k0=0.1, gamma=-1, l=10)").at(10**6) == 0.0
    assert parse_schedule("SIG(k0=0.1, gamma=1, l=2000)").at(0) == 0.0
    assert parse_schedule("TRI2(0, 1, l=3)").at(10**6) == 0.0
    assert parse_schedule("POLY(0.001, 0.1, p=0.5, l=10)").at(11) == 0.001
    assert parse_schedule("COS(0, 1, l=3)").at(6 * 10**9) == 1.0


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("cosin(0.1)", "there is no policy 'cosin'", "did you mean 'cosine'?"),
        ("COSRSV(0, 1, 2)", "there is no policy 'COSRSV'", "did you mean 'cosrsw'?"),
        ("TRI(k0=0.1)", "TRI lacks k1 and l", "TRI(k0, k1, l) = k0 + (k1−k0)·"),
        ("FIX", "FIX lacks k0", "FIX(k0) = k0"),
        ("EXP(0.1, gama=2)", "EXP has no parameter 'gama'", "EXP(k0, gamma) = k0·γᵗ"),
        ("EXP(0.1, 0.2, 0.3)", "EXP takes no 3 values", "EXP(k0, gamma)"),
        ("EXP(gamma=0.1, 0.3)", "'0.3' follows a parameter with a name", "EXP(k0, gamma)"),
        ("EXP(0.1, k0=0.3)", "k0 is given twice", "EXP(k0, gamma)"),
        ("EXP(0.1, gamma=x)", "gamma=x: is not a number", "EXP(k0, gamma)"),
        ("FIX(nan)", "k0=nan: is not a number", "FIX(k0)"),
        ("FIX(-0.1)", "k0=-0.1: k0 is at least 0", "FIX(k0)"),
        ("EXP(0.1, -0.5)", "gamma=-0.5: gamma is at least 0", "EXP(k0, gamma)"),
        ("TRI(0, 1, l=0)", "l=0: l is above 0", "TRI(k0, k1, l)"),
        ("NSTEP(1, 0.1, l=[3, 2])", "l=[3, 2]: l is a list of increasing steps", "NSTEP("),
        ("NSTEP(1, 0.1, l=[])", "l=[]: is not a number", "NSTEP("),
        ("SINEXP(1, 0, 2, 3)", "gamma above 1 and k1 below k0 become negative", "SINEXP("),
        ("cosine(0.1, steps=5, warmup=6)", "warmup is more than steps (5)", "cosine(rate, steps"),
        ("wsd(1, 10, 6, 6)", "warmup and decay are more than steps (10)", "wsd(rate, steps"),
        ("-0.1", "-0.1 is negative", "at least 0"),
        ("FIX(1), FIX(2)", "'FIX(1)' has no length, and another part follows", "FIX(1):100"),
        ("FIX(1):0, FIX(2)", "'0' is not a length", "FIX(k0=0.1):100"),
        ("FIX(1):1.5, FIX(2)", "'1.5' is not a length", "FIX(k0=0.1):100"),
        ("FIX(1", "a bracket is not closed", "NAME("),
        ("FIX 1)", "a ')' closes nothing", "NAME("),
        ("FIX(1]", "'FIX(1]' is no policy", "NAME("),
        ("", "a part is empty", "NAME("),
        ("0.1:5,", "a part is empty", "NAME("),
    ],
)
def test_a_spec_that_is_wrong_gets_one_message(spec, message, hint):
    with pytest.raises(UsageError) as error:
        parse_schedule(spec)
    assert error.value.message.startswith(f"schedule '{spec}': ")
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_value_beyond_the_largest_number_is_refused_at_its_step():
    schedule = parse_schedule("EXP(0.1, gamma=2)")
    assert schedule.at(1000) == 0.1 * 2.0**1000
    with pytest.raises(UsageError, match=r"schedule 'EXP\(0.1, gamma=2\)': is inf at step 2000"):
        schedule.at(2000)


def test_a_long_spec_is_shortened_in_a_message():
    spec = "0.1:1, " * 100 + "FIXX(1)"
    with pytest.raises(UsageError) as error:
        parse_schedule(spec)
    assert len(error.value.message) < 200
    assert "there is no policy 'FIXX'" in error.value.message
