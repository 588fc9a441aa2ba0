"""What a task that does not say does: predict, loss and metrics."""

import math
import types

import pytest
import torch
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.tasks.defaults import loss_for, metrics, predict
from sharpcli.tasks.notes import collected

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


PIXEL_SCORES = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
PIXELS = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(2))


def test_pixels():
    targets = PIXELS.clone()
    targets[0, 1] = -100
    for batch in [(None, targets), {"labels": targets}]:
        sums, weights = loss(PIXEL_SCORES, batch)
        assert weights.tolist() == [8.0, 12.0]
        expected = nn.functional.cross_entropy(PIXEL_SCORES.double(), targets)
        assert float(sums.sum() / weights.sum()) == pytest.approx(float(expected), rel=1e-12)
        mean = loss.training_mean(PIXEL_SCORES, batch)
        assert float(mean) == pytest.approx(float(expected), rel=1e-6)
    right, counts = metrics(PIXEL_SCORES, (None, targets))["accuracy"]
    assert counts.tolist() == [8.0, 12.0]
    guesses = PIXEL_SCORES.argmax(1)
    assert right.tolist() == [int((guesses[i] == targets[i]).sum()) for i in range(2)]


def test_voxels():
    scores = torch.randn(2, 3, 2, 2, 2)
    targets = scores.argmax(1)
    assert loss(scores, (None, targets))[1].tolist() == [8.0, 8.0]
    assert metrics(scores, (None, targets))["accuracy"][0].tolist() == [8.0, 8.0]


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, dtype=torch.long)),  # classes last
        (torch.zeros(2, 3, 3, 3), torch.zeros(2, 3, 3, dtype=torch.long)),  # first or last
        (torch.zeros(2, 5, 2, 2), torch.zeros(2, 4, 4, dtype=torch.long)),  # another resolution
    ],
)
def test_pixels_of_other_shapes_are_asked_for(scores, targets):
    with pytest.raises(SharpError, match="none can be guessed"):
        loss(scores, (None, targets))


def of_transformers(kind, logits):
    """An output with the class name and module that transformers has."""
    made = type(kind, (), {"__module__": "transformers.modeling_outputs"})()
    made.logits = logits
    return made


@pytest.mark.parametrize(
    ("kind", "shift"),
    [
        ("CausalLMOutputWithCrossAttentions", 1),
        ("MoeCausalLMOutputWithPast", 1),
        ("MaskedLMOutput", 0),
        ("TokenClassifierOutput", 0),
    ],
)
def test_outputs_of_transformers_say_whether_labels_are_shifted(kind, shift):
    notes = []
    with collected(notes):
        sums, weights = loss(of_transformers(kind, TOKEN_SCORES), {"labels": TOKENS})
    scores, targets = (TOKEN_SCORES[:, :-1], TOKENS[:, 1:]) if shift else (TOKEN_SCORES, TOKENS)
    expected = nn.functional.cross_entropy(scores.double().transpose(1, 2), targets)
    assert float(sums.sum() / weights.sum()) == pytest.approx(float(expected), rel=1e-12)
    assert weights.tolist() == (targets != -100).sum(1).tolist()
    assert ("labels shifted by one" in notes[0]) == bool(shift)
    with pytest.raises(SharpError) as caught:
        loss(of_transformers("BaseModelOutput", TOKEN_SCORES), {"labels": TOKENS})
    assert "`sharp init --template causal-lm`" in caught.value.hint


def test_the_message_names_a_template():
    with pytest.raises(SharpError) as caught:
        loss(SCORES, (None, torch.zeros(2)))
    assert "`sharp init` writes a whole task" in caught.value.hint
    with pytest.raises(SharpError) as caught:
        loss(SCORES[:, :1], (None, torch.zeros(2)))
    assert ".squeeze(-1)" in caught.value.hint
    with pytest.raises(SharpError) as caught:
        loss(SCORES[:, :1], {"labels": torch.zeros(2)})
    assert ".squeeze(-1)" in caught.value.hint
    assert "token" not in caught.value.hint


def test_as_many_tokens_as_classes_are_noted():
    notes = []
    with collected(notes):
        loss(TOKEN_SCORES, (None, TOKENS))
        assert notes == []
        losses, _ = loss(TOKEN_SCORES[:, :, :4], (None, TOKENS.clamp(max=3)))
    assert "with the classes on the outputs' last axis" in notes[0]
    expected = by_hand(TOKEN_SCORES[0, 0, :4], 1) + by_hand(TOKEN_SCORES[0, 1, :4], 2)
    assert torch.allclose(losses[0], expected.double())
