"""The loss of floating-point targets: taken where one alone can be meant, otherwise asked for."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional

from sharpcli.cli.main import sharp
from sharpcli.errors import SharpError, UsageError
from sharpcli.tasks import load_task
from sharpcli.tasks.float_losses import float_targets, with_float_loss
from sharpcli.tasks.notes import collected

SCORES = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 1, 0]]).float()


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(
        "from torch import nn\ndef model(): return nn.Linear(2, 3)\ndef data(split): return []\n",
        "utf-8",
    )
    return load_task(path, {})


def settled(task, *targets):
    notes = []
    with collected(notes):
        found = with_float_loss(task, float_targets(task, [(None, each) for each in targets]))
    return found, notes


def mean(task, scores, targets):
    return float(task.loss(scores, (None, targets)).mean())


def test_numbers_are_a_regression(task):
    targets = 3 * SCORES + 1
    found, notes = settled(task, targets)
    expected = functional.mse_loss(SCORES.double(), targets.double())
    assert mean(found, SCORES, targets) == pytest.approx(float(expected), rel=1e-12)
    assert "squared error" in notes[0]
    assert "nn.MSELoss" in notes[0]
    single, _ = settled(task, targets[:, 0])
    expected = functional.mse_loss(SCORES[:, 0].double(), targets[:, 0].double())
    assert mean(single, SCORES[:, 0], targets[:, 0]) == pytest.approx(float(expected), rel=1e-12)


def test_zeros_and_ones_in_columns_are_labels(task):
    found, notes = settled(task, LABELS)
    expected = functional.binary_cross_entropy_with_logits(SCORES.double(), LABELS.double())
    assert mean(found, SCORES, LABELS) == pytest.approx(float(expected), rel=1e-12)
    assert "nn.BCEWithLogitsLoss" in notes[0]


def test_all_batches_decide_together(task):
    """The first batch of a regression may hold zeros and ones alone."""
    found, notes = settled(task, LABELS, LABELS + 2)
    assert "nn.MSELoss" in notes[0]
    expected = functional.mse_loss(SCORES.double(), LABELS.double())
    assert mean(found, SCORES, LABELS) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (SCORES.sigmoid(), "are all in [0, 1]"),  # an autoencoder's pixels, or scaled numbers
        (SCORES.softmax(1), "each sum to 1 in a row"),  # probabilities of classes
        (functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 2])).float(), "each sum to 1 in a row"),
        (LABELS[:, :1], "are all in [0, 1]"),  # one label, or a number
        (LABELS[:, 0], "are all in [0, 1]"),
    ],
)
def test_where_two_losses_fit_the_loss_is_asked_for(task, targets, said):
    found, notes = settled(task, targets)
    assert notes == []
    with pytest.raises(SharpError) as caught:
        found.loss(SCORES, (None, targets))
    assert "has no `loss`, and more than one fits the targets" in caught.value.message
    assert said in caught.value.message
    assert "squared errors" in caught.value.hint
    assert "cross-entropy" in caught.value.hint


def test_outputs_of_another_shape_are_refused(task):
    found, _ = settled(task, 3 * SCORES[:, 0])
    with pytest.raises(SharpError, match="none can be guessed for outputs"):
        found.loss(SCORES[:, :1], (None, 3 * SCORES[:, 0]))  # would broadcast to (6, 6)


def test_outputs_that_may_be_probabilities_are_refused(task):
    found, _ = settled(task, LABELS)
    with pytest.raises(SharpError, match="are logits or probabilities is not known"):
        found.loss(SCORES.sigmoid(), (None, LABELS))


def test_a_task_with_a_loss_or_with_classes_stays_as_it_is(task):
    assert settled(task, torch.zeros(6, dtype=torch.long))[0] is task
    own = replace(task, loss=lambda outputs, batch: outputs[:, 0])
    assert settled(own, LABELS)[0] is own


REGRESSION = """
import torch
def model(): return torch.nn.Linear(2, 1)
def data(split):
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(len(split)))
    return x, 2 * x[:, :1] - 1
"""


def test_a_plain_checkpoint_is_measured_with_six_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(REGRESSION.strip().splitlines()) <= 6
    (tmp_path / "task.py").write_text(REGRESSION, "utf-8")
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    torch.save(model.state_dict(), "plain.pt")
    given = ["measure", "plain.pt", "-t", "task.py", "-m", "loss", "-m", "hessian"]
    done = CliRunner().invoke(sharp, [*given, "--operator", "fisher", "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    inputs, targets = load_task("task.py", {}).data("train")
    expected = functional.mse_loss(model(inputs), targets).item()
    assert result["measures"]["loss"]["train"]["value"] == pytest.approx(expected, rel=1e-6)
    rows = torch.cat([inputs, torch.ones(40, 1)], 1).double()
    largest = torch.linalg.eigvalsh(2 * rows.T @ rows / 40)[-1].item()
    assert result["measures"]["hessian"]["eigenvalues"][0]["value"] == pytest.approx(largest, 1e-5)
    assert any("nn.MSELoss" in note for note in result["checkpoint"]["notes"])


RARE = """
import torch
from torch.utils.data import Dataset
class Labels(Dataset):
    def __len__(self): return {count}
    def __getitem__(self, i):
        target = torch.tensor([i % 2, 1 - i % 3 // 2]).float()
        return torch.randn(2, generator=torch.Generator().manual_seed(i)), target + 2 * (i == 0)
def model(): return torch.nn.Linear(2, 2)
def data(split):
    labels = Labels()
    if "{kind}" == "tensors":
        return tuple(torch.stack(each) for each in zip(*map(labels.__getitem__, range({count}))))
    return labels if split == "train" else None
"""


@pytest.mark.parametrize("kind", ["tensors", "rows"])
def test_a_sample_has_the_loss_of_the_whole_split(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(RARE.format(count=3000, kind=kind), "utf-8")
    torch.save(nn.Linear(2, 2).state_dict(), "plain.pt")
    for samples in ("4", "5", "3000"):
        given = ["measure", "plain.pt", "-t", "task.py", "-m", "loss", "--samples", samples]
        done = CliRunner().invoke(sharp, [*given, "--json"])
        assert done.exit_code == 0, done.output
        (note,) = json.loads(done.stdout)["results"][0]["checkpoint"]["notes"]
        assert "nn.MSELoss" in note
        partly = kind == "rows" and samples != "3000"
        assert ("(by 2,048 of the 3,000 rows of the train data" in note) == partly


def test_a_training_takes_the_same_loss_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(REGRESSION, "utf-8")
    done = CliRunner().invoke(sharp, ["train", "task.py", "--epochs", "2", "--evaluate-every", "1"])
    assert done.exit_code == 0, done.output
    assert "nn.MSELoss" in done.output
    smoothed = ["train", "task.py", "--epochs", "1", "--label-smoothing", "0.1"]
    done = CliRunner().invoke(sharp, smoothed)
    assert isinstance(done.exception, SystemExit | UsageError)
    assert "only the default cross-entropy can be smoothed" in " ".join(done.output.split())
