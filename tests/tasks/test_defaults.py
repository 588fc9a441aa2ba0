"""What a task that does not say does: predict, loss and metrics."""

import math
import types

import pytest
import torch
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.tasks.defaults import loss_for, metrics, predict

loss = loss_for("task.py")
SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
CLASSES = torch.tensor([0, 1])
TOKEN_SCORES = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, -100, -100], [0, 4, 3, -100]])


def test_predict():
    model = nn.Linear(3, 2)
    inputs = torch.ones(4, 3)
    expected = model(inputs)
    for batch in [(inputs, CLASSES), [inputs, CLASSES], (inputs,), {"input": inputs}, inputs]:
        assert torch.equal(predict(model, batch), expected)


def by_hand(scores, target):
    return scores.exp().sum().log() - scores[target]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"logits": s}, None])
def test_classes(wrap):
    outputs = wrap(SCORES) if wrap else types.SimpleNamespace(logits=SCORES)
    expected = torch.stack([by_hand(SCORES[0], 0), by_hand(SCORES[1], 1)])
    for batch in [(torch.zeros(2), CLASSES), {"labels": CLASSES}, (None, CLASSES.to(torch.int32))]:
        losses, weights = loss(outputs, batch)
        assert torch.allclose(losses, expected.double())
        assert weights.tolist() == [1.0, 1.0]
        right, counts = metrics(outputs, batch)["accuracy"]
        assert right.tolist() == [1.0, 0.0]
        assert counts.tolist() == [1.0, 1.0]


def test_tokens_that_are_ignored_do_not_count():
    total, weight = loss(TOKEN_SCORES, (None, TOKENS))
    assert weight.tolist() == [2.0, 3.0]
    expected = sum(by_hand(TOKEN_SCORES[1, t], TOKENS[1, t]) for t in range(3))
    assert torch.allclose(total[1], expected.double())
    changed = TOKEN_SCORES.clone()
    changed[0, 2:] += 7 * torch.rand(2, 5)
    assert torch.equal(loss(changed, (None, TOKENS))[0], total)


def test_accuracy_of_tokens():
    right, weight = metrics(TOKEN_SCORES, (None, TOKEN_SCORES.argmax(-1)))["accuracy"]
    assert right.tolist() == weight.tolist() == [4.0, 4.0]
    right, weight = metrics(TOKEN_SCORES, (None, TOKENS))["accuracy"]
    assert weight.tolist() == [2.0, 3.0]
    assert (right <= weight).all()


@pytest.mark.parametrize(
    ("outputs", "batch", "said"),
    [
        (SCORES, (None, torch.zeros(2)), "outputs (2, 3) float32 and targets (2,) float32"),
        (SCORES, (None, CLASSES > 0), "targets (2,) bool"),
        (SCORES, (None, torch.zeros(3, dtype=torch.long)), "targets (3,) int64"),
        (SCORES[:, 0], (None, CLASSES), "outputs (2,) float32"),
        (SCORES, (None, CLASSES, CLASSES), "outputs (2, 3) float32 and a batch of 3 items"),
        (SCORES, SCORES, "a batch of one tensor"),
        ((SCORES,), (None, CLASSES), "outputs of type tuple and targets (2,) int64"),
        (SCORES, {"x": SCORES, "y": CLASSES}, "a batch of x, y, without labels"),
        (
            {"logits": TOKEN_SCORES},
            {"labels": TOKENS},
            "(2, 4, 5) float32 and targets (2, 4) int64",
        ),
        (SCORES, (None, [0, 1]), "targets of type list"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(outputs, batch, said):
    with pytest.raises(SharpError) as caught:
        loss(outputs, batch)
    assert "task.py: has no `loss`, and none can be guessed for " in str(caught.value)
    assert said in str(caught.value)
    assert "def loss(outputs, batch)" in caught.value.hint
    assert metrics(outputs, batch) == {}


def test_a_class_of_minus_100_does_not_count():
    batch = (None, torch.tensor([0, -100]))
    losses, weights = loss(SCORES, batch)
    assert weights.tolist() == metrics(SCORES, batch)["accuracy"][1].tolist() == [1.0, 0.0]
    assert losses[1] == 0


def test_the_loss_of_an_almost_certain_answer_is_not_rounded_away():
    scores = torch.tensor([[20.0, 0.0]], requires_grad=True)
    losses, _ = loss(scores, (None, torch.tensor([0])))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert losses.item() == pytest.approx(math.exp(-20), rel=1e-6, abs=0)
    assert gradient[0, 1].item() == pytest.approx(math.exp(-20), rel=1e-6, abs=0)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [(SCORES, CLASSES), (SCORES, torch.tensor([1, -100])), (TOKEN_SCORES, TOKENS)],
)
def test_the_mean_for_training_is_that_of_the_loss_in_the_outputs_dtype(scores, targets):
    sums, weights = loss(scores, (None, targets))
    mean = loss.training_mean(scores, (None, targets))
    assert mean.dtype == scores.dtype
    assert float(mean) == pytest.approx(float(sums.sum() / weights.sum()), rel=1e-6)
    assert loss.training_mean(scores, (None, targets.float())) is None
