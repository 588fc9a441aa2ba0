"""Runs that are trained together, against each by itself."""

import math
import time

import pytest
import torch
from torch.nn import functional

from sharpcli.tasks import load_task
from sharpcli.training import curves, stacked_notes
from sharpcli.training import together as module
from sharpcli.training.loop import train
from sharpcli.training.outcome import DivergedError, Trained
from sharpcli.training.stacked_layers import mean_losses
from sharpcli.training.state import StateFile
from sharpcli.training.together import Keeping, alike, train_together
from sharpcli.training.train_settings import TrainSettings

MODEL = """
import torch
from torch import nn
def model():
    return nn.Sequential({layers})
def data(split):
    x = torch.randn(43, 16, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 1).long()
"""
MLP = "nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 3)"
EPOCHS = {"epochs": 10, "batch_size": 16}  # the last batch of an epoch has 11 examples


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Neither the number of steps nor a timing decides."""
    monkeypatch.setattr(module, "_FEWEST", 1)
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def task_of(tmp_path):
    def make(layers=MLP, more=""):
        file = tmp_path / "task.py"
        file.write_text(MODEL.replace("{layers}", layers) + more, "utf-8")
        return load_task(str(file), {})

    return make


def trained_together(task, settings, **arguments):
    """The outcomes by number, and the numbers that are left."""
    outcomes = {}
    left = train_together(task, settings, outcomes.__setitem__, **arguments)
    assert sorted([*outcomes, *left]) == [*range(len(settings))]
    return outcomes, left


def assert_same(found, wanted, rel=0.0):
    assert (found.steps, found.epochs, found.reached) == (wanted.steps, wanted.epochs, True)
    assert [*found.tensors] == [*wanted.tensors]
    for name, tensor in wanted.tensors.items():
        if rel and tensor.is_floating_point():
            assert (found.tensors[name] - tensor).norm() <= rel * tensor.norm()
        else:
            assert torch.equal(found.tensors[name], tensor)
    close = {"rel": max(rel, 1e-6), "abs": 1e-9, "nan_ok": True}
    assert found.train_loss == pytest.approx(wanted.train_loss, **close)
    for name in ("step", "loss", "lr", "batch_size", "gradient_norm"):
        one, other = (getattr(each.curves, name) for each in (found, wanted))
        assert one == pytest.approx(other, **close)


VARIED = {
    "sgd": [{}, {"lr": 0.3, "weight_decay": 0.01}, {"lr": 0.02}],
    "momentum": [{"momentum": 0.9, "lr": 0.05}, {"momentum": 0.5}, {"momentum": 0.0}],
    "dampening": [
        {"momentum": 0.9, "optimizer_options": {"dampening": 0.5}},
        {"momentum": 0.8, "weight_decay": 0.1},
    ],
    "nesterov": [
        {"momentum": m, "optimizer_options": {"nesterov": True}, "lr": 0.05} for m in (0.9, 0.5)
    ],
    "adam": [
        {"optimizer": "adam", "lr": 0.01},
        {"optimizer": "adam", "betas": (0.8, 0.99), "weight_decay": 0.1},
        {"optimizer": "adam", "optimizer_options": {"eps": 1e-3}},
    ],
    "adamw": [
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
        {"optimizer": "adamw", "betas": (0.8, 0.99)},
    ],
    "schedules": [
        {"schedule": "cosine(0.1, steps=30, warmup=5)"},
        {"schedule": "0.1:10, 0.01"},
        {"lr": 0.05},
    ],
    "clipping": [{"clip_norm": 0.5}, {"clip_norm": 2.0, "lr": 0.2}],
    "average": [{"ema": 0.9}, {"ema": 0.5, "lr": 0.2}],
}


@pytest.mark.parametrize("kind", VARIED)
def test_each_run_gets_the_bits_that_it_gets_by_itself(task_of, kind):
    task = task_of()
    settings = [
        TrainSettings(**EPOCHS, **each, seed=seed) for seed, each in enumerate(VARIED[kind])
    ]
    assert len({alike(each) for each in settings}) == 1
    assert alike(settings[0]) is not None
    outcomes, left = trained_together(task, settings, exact=True)
    assert left == []
    for number, each in enumerate(settings):
        assert_same(outcomes[number], train(task, each))


ACTIVATIONS = {
    "LeakyReLU": "nn.LeakyReLU(0.2)",
    "Tanh": "nn.Tanh()",
    "Sigmoid": "nn.Sigmoid()",
    "GELU": "nn.GELU()",
    "GELU tanh": "nn.GELU(approximate='tanh')",
    "SiLU": "nn.SiLU()",
    "ELU": "nn.ELU(0.7)",
    "Softplus": "nn.Softplus(2.0)",
    "two": "nn.Tanh(), nn.ReLU(), nn.ReLU()",
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_round_as_by_themselves(task_of, name):
    each = ACTIVATIONS[name]
    layers = f"nn.ReLU(), nn.Linear(16, 24), {each}, nn.Linear(24, 9), {each}, nn.Linear(9, 3)"
    task = task_of(layers)
    settings = [TrainSettings(epochs=3, batch_size=16, lr=0.2, seed=seed) for seed in (0, 1)]
    outcomes, left = trained_together(task, settings, exact=True)
    assert left == []
    for number, each in enumerate(settings):
        assert_same(outcomes[number], train(task, each))


@pytest.mark.parametrize("settings", [{"batch_size": 99}, {"batch_size": 16, "fixed_batch": 16}])
def test_full_and_fixed_batches(task_of, settings):
    task = task_of()
    both = [TrainSettings(epochs=6, seed=seed, **settings) for seed in (0, 1)]
    outcomes, left = trained_together(task, both, exact=True)
    assert left == []
    for number, each in enumerate(both):
        assert_same(outcomes[number], train(task, each))


def test_all_that_is_noted_has_the_same_bits(task_of, monkeypatch):
    monkeypatch.setattr(curves, "MOST", 64)  # so that steps are dropped again
    monkeypatch.setattr(stacked_notes, "MOST", 64)
    task = task_of()
    settings = [TrainSettings(epochs=40, batch_size=16, seed=seed) for seed in (0, 1)]
    outcomes, _ = trained_together(task, settings, exact=True)
    for number, each in enumerate(settings):
        wanted = train(task, each).curves
        assert any(math.isnan(norm) for norm in wanted.gradient_norm)
        assert str(outcomes[number].curves) == str(wanted)


def test_means_are_added_as_torch_adds_them():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 16, 17, 32, 100, 257, 5000):
        scores = torch.randn(3, size, 7, generator=generator).log_softmax(-1)
        targets = torch.randint(0, 7, (3, size), generator=generator)
        wanted = [functional.nll_loss(*pair) for pair in zip(scores, targets, strict=True)]
        losses = -scores.gather(2, targets.unsqueeze(2)).squeeze(2)
        assert mean_losses(losses).tolist() == [float(each) for each in wanted]


def test_roots_of_zeros_change_no_bit(task_of):
    black = "\ndef data(split):\n    x, y = data_(split)\n    x[:, 5:9] = 0\n    return x, y\n"
    task = task_of(more="\ndata_ = data\n" + black)
    for eps in (1e-8, 1e-20):
        settings = [
            TrainSettings(**EPOCHS, optimizer="adam", optimizer_options={"eps": eps}, seed=seed)
            for seed in (0, 1)
        ]
        outcomes, left = trained_together(task, settings, exact=True)
        assert left == []
        assert_same(outcomes[1], train(task, settings[1]))


def test_a_run_does_not_depend_on_the_others(task_of):
    task = task_of()
    settings = [TrainSettings(**EPOCHS, lr=0.1 * (1 + seed), seed=seed) for seed in range(5)]
    all_of_them, _ = trained_together(task, settings)
    two, _ = trained_together(task, settings[3:])
    assert_same(two[0], all_of_them[3])


def test_a_last_batch_of_one_example(task_of):
    task = task_of()
    settings = [TrainSettings(steps=20, batch_size=6, epochs=99, seed=seed) for seed in (0, 1)]
    outcomes, left = trained_together(task, settings, exact=True)
    assert left == []
    assert_same(outcomes[1], train(task, settings[1]))


def test_batches_that_grow(task_of):
    task = task_of()
    settings = [TrainSettings(steps=20, batch_schedule="4:8, 16", seed=seed) for seed in (0, 1)]
    outcomes, left = trained_together(task, settings)
    assert left == []
    assert_same(outcomes[1], train(task, settings[1]), rel=1e-5)
    assert trained_together(task, settings, exact=True)[1] == [0, 1]


BATCH_NORM = "nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)"


def test_batch_norm_keeps_the_statistics_of_each_run(task_of):
    task = task_of(BATCH_NORM)
    settings = [TrainSettings(**EPOCHS, lr=lr, seed=seed) for seed, lr in enumerate((0.1, 0.02))]
    outcomes, left = trained_together(task, settings)
    assert left == []
    for number, each in enumerate(settings):
        wanted = train(task, each)
        assert wanted.tensors["1.num_batches_tracked"] == 30
        assert_same(outcomes[number], wanted, rel=1e-5)


def test_batch_norm_of_averages(task_of):
    task = task_of(BATCH_NORM)
    settings = [TrainSettings(**EPOCHS, ema=0.9, lr=0.05, seed=seed) for seed in (0, 1)]
    outcomes, left = trained_together(task, settings)
    assert left == []
    for number, each in enumerate(settings):
        assert_same(outcomes[number], train(task, each), rel=1e-5)


def test_a_loss_of_the_task_and_tied_and_frozen_weights(task_of):
    more = (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)\n"
        "        self.c = nn.Linear(16, 3)\n"
        "        self.b.weight = self.a.weight; self.a.bias.requires_grad_(False)\n"
        "    def forward(self, x): return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))\n"
        "def model(): return Net()\n"
        "def loss(outputs, batch):\n"
        "    wanted = nn.functional.one_hot(batch[1], 3)\n"
        "    return (outputs - wanted).square().sum(1)\n"
    )
    task = task_of(more=more)
    settings = [TrainSettings(**EPOCHS, lr=0.02, seed=seed) for seed in (3, 4)]
    outcomes, left = trained_together(task, settings)
    assert left == []
    for number, each in enumerate(settings):
        assert_same(outcomes[number], train(task, each), rel=1e-5)


DRAWN = """
def data(split):
    x = torch.randn(43, 16)
    return x, (x[:, 0] > 0).long()
"""


def reason_of(task, settings, **arguments):
    """Why runs are left; none of them has ended."""
    reasons = []
    found = trained_together(task, settings, refused=reasons.append, **arguments)
    assert found == ({}, [*range(len(settings))])
    (reason,) = reasons
    return reason


@pytest.mark.parametrize(
    ("layers", "more", "reason"),
    [
        ("nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3)", "", "draws random numbers"),
        (MLP, DRAWN, "the data depend on the seed"),
        (
            BATCH_NORM.replace("(8), nn.R", "(8, momentum=None), nn.R"),
            "",
            "torch cannot stack the network",
        ),
    ],
    ids=["dropout", "data by the seed", "no vmap"],
)
def test_what_cannot_be_stacked_is_left(task_of, layers, more, reason):
    settings = [TrainSettings(**EPOCHS, seed=seed) for seed in (0, 1)]
    assert reason in reason_of(task_of(layers, more), settings)


def test_what_needs_vmap_is_left_before_the_data_are_read(task_of):
    task = task_of(BATCH_NORM, "\ndef data(split):\n    raise AssertionError\n")
    settings = [TrainSettings(**EPOCHS, seed=seed) for seed in (0, 1)]
    assert reason_of(task, settings, exact=True) == module.OTHER_BITS


def test_a_task_that_cannot_be_trained_is_left(task_of):
    task = task_of(more="\ndef data(split):\n    return torch.full((9, 16), float('nan')), None\n")
    settings = [TrainSettings(**EPOCHS, seed=seed) for seed in (0, 1)]
    assert reason_of(task, settings) == "one of them cannot be trained"


def test_a_bug_is_seen(task_of, monkeypatch):
    def broken(stack):
        raise KeyError("a bug")

    monkeypatch.setattr(module.Stack, "step", broken)
    with pytest.raises(KeyError, match="a bug"):
        trained_together(task_of(), [TrainSettings(**EPOCHS, seed=seed) for seed in (0, 1)])


def test_where_one_by_one_is_faster_all_are_left(task_of, monkeypatch):
    ticks = iter(range(1000))
    # Reading the clock takes 1: a step of the stack lasts as long as one of a run, so 1 < 2 runs.
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks))
    settings = [TrainSettings(**EPOCHS, seed=seed) for seed in (0, 1)]
    assert trained_together(task_of(), settings)[1] == []
    moments = iter(n + 5 * (n % 4 == 3) for n in range(1000))
    monkeypatch.setattr(time, "thread_time", lambda: next(moments))
    assert reason_of(task_of(), settings) == "that is faster"


def test_few_steps_are_not_worth_it(task_of, monkeypatch):
    monkeypatch.setattr(module, "_FEWEST", 31)
    for limit in (EPOCHS, {"steps": 30, "batch_size": 16}):
        settings = [TrainSettings(**limit, seed=seed) for seed in (0, 1)]
        assert reason_of(task_of(), settings) == "30 steps each are too few to try"


def test_a_diverged_run_ends_at_its_step_and_the_others_go_on(task_of):
    task = task_of("nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)")
    rates = (0.1, 1e30, 0.2, 1e25)
    settings = [TrainSettings(**EPOCHS, lr=lr, momentum=0.5, seed=i) for i, lr in enumerate(rates)]
    outcomes, left = trained_together(task, settings, exact=True)
    assert left == []
    assert [*outcomes][:2] in ([1, 3], [3, 1])  # as soon as they diverge
    for number in (1, 3):
        with pytest.raises(DivergedError) as caught:
            train(task, settings[number])
        assert isinstance(outcomes[number], DivergedError)
        assert str(outcomes[number]) == str(caught.value)
    for number in (0, 2):
        assert_same(outcomes[number], train(task, settings[number]))


@pytest.mark.parametrize(
    "other",
    [
        {"optimizer": "adam"},
        {"batch_size": 8},
        {"epochs": 6},
        {"steps": 9},
        {"clip_norm": 1.0},
        {"momentum": 0.9, "optimizer_options": {"nesterov": True}},
    ],
)
def test_runs_that_differ_in_more_than_numbers_are_not_alike(other):
    assert alike(TrainSettings(**EPOCHS)) != alike(TrainSettings(**(EPOCHS | other)))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "RMSprop"},
        {"accumulate": 2},
        {"optimizer": "adam", "optimizer_options": {"amsgrad": True}},
        {"optimizer_options": {"foreach": True}},
        {"schedule": "plateau(FIX(k0=0.1), factor=0.5)"},
        {"swa": 0.5},
        {"label_smoothing": 0.1},
        {"augment": True},
        {"evaluate_every": 5},
        {"save_every": 5},
        {"save_optimizer": True},
        {"track": ("hessian",)},
        {"noise_scale": True},
        {"dtype": "float64"},
        {"device": "cuda"},
        {"init": "a.safetensors"},
    ],
)
def test_what_a_stack_does_not_know_is_alone(settings):
    assert alike(TrainSettings(**settings)) is None


class Killed(BaseException):
    pass


def test_too_little_memory_leaves_all(task_of, monkeypatch):
    def greedy(stack):
        return torch.empty(1 << 60)

    monkeypatch.setattr(module.Stack, "step", greedy)
    settings = [TrainSettings(**EPOCHS, seed=seed) for seed in (0, 1)]
    assert "memory is too small" in reason_of(task_of(), settings)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_killed_stack_goes_on_with_the_runs_that_are_left(task_of, tmp_path, monkeypatch, gone):
    task, names = task_of(), ["a", "b", "c"]
    all_of_them = [
        TrainSettings(**EPOCHS, optimizer="adam", lr=0.01 * (1 + i), ema=0.5, seed=i)
        for i in range(3)
    ]
    wanted, _ = trained_together(task, all_of_them)
    step = module.Stack.step
    monkeypatch.setattr(StateFile, "due", True)

    def killed(stack):
        if stack.steps == 21:
            raise Killed
        step(stack)

    monkeypatch.setattr(module.Stack, "step", killed)
    runs = dict(zip(names, all_of_them, strict=True))
    with pytest.raises(Killed):
        keeping = Keeping(StateFile(tmp_path / "stack"), runs, names)
        trained_together(task, all_of_them, keeping=keeping)
    taken = []
    monkeypatch.setattr(module.Stack, "step", lambda stack: (taken.append(1), step(stack)))
    left = [name for i, name in enumerate(names) if i != gone]
    keeping = Keeping(StateFile(tmp_path / "stack"), runs, left)
    outcomes, _ = trained_together(task, [runs[name] for name in left], keeping=keeping)
    assert len(taken) == 30 - 21
    for number, name in enumerate(left):
        assert isinstance(outcomes[number], Trained)
        assert_same(outcomes[number], wanted[names.index(name)])
    assert not keeping.file.path.exists()


def test_runs_end_where_each_reaches_its_loss(task_of):
    goal = {"batch_size": 16, "epochs": 12, "until_loss": 0.6}
    settings = [TrainSettings("adam", lr=lr, seed=s, **goal) for lr in (0.01, 0.03) for s in (0, 1)]
    settings.append(TrainSettings("adam", lr=1e-5, **goal))  # it does not
    outcomes, left = trained_together(task_of(), settings, exact=True)
    assert not left
    alone = [train(task_of(), each) for each in settings]
    assert len({each.epochs for each in alone}) > 2
    assert [each.reached for each in alone] == [True] * 4 + [False]
    for number, wanted in enumerate(alone):
        found = outcomes[number]
        assert (found.steps, found.epochs, found.reached) == (
            wanted.steps,
            wanted.epochs,
            wanted.reached,
        )
        assert found.train_loss == wanted.train_loss
        assert all(torch.equal(found.tensors[name], each) for name, each in wanted.tensors.items())
        assert found.curves.loss == pytest.approx(wanted.curves.loss, rel=1e-6)
