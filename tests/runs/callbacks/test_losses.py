"""A model's own loss is recognised by its value, and given example by example."""

import types

import pytest
import torch
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.runs.callbacks.losses import own_loss, predict

SCORES = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """Gives the scores, and a mean loss of them where there are labels."""

    config = types.SimpleNamespace(is_encoder_decoder=False)

    def __init__(self, scores, loss):
        super().__init__()
        self._scores, self._loss = scores, loss

    def forward(self, labels=None):
        loss = None if labels is None else self._loss(self._scores, labels)
        return types.SimpleNamespace(logits=self._scores, loss=loss)


def shifted(scores, labels):
    return nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def unshifted(scores, labels):
    return nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten())


TOKENS = torch.randint(0, 3, (4, 5), generator=torch.Generator().manual_seed(1))
TOKENS[0, 2:] = -100


@pytest.mark.parametrize(
    ("scores", "loss", "labels"),
    [
        (SCORES, shifted, TOKENS),
        (SCORES, unshifted, TOKENS),
        (SCORES[:, 0], nn.functional.cross_entropy, TOKENS[:, 0]),
        (SCORES[:, 0, :1], lambda s, t: (s.squeeze() - t).square().mean(), SCORES[:, 1, 1]),
        (
            SCORES[:, 0],
            nn.functional.binary_cross_entropy_with_logits,
            (SCORES[:, 1] > 0).float(),
        ),
    ],
)
def test_its_mean_over_examples_is_the_model_s_own(scores, loss, labels):
    model = Model(scores, loss)
    found = own_loss(model, {"labels": labels}, "Model")
    total, weight = found(predict(model, {"labels": labels}), {"labels": labels})
    assert total.shape == weight.shape == (4,)
    assert float(total.sum() / weight.sum()) == pytest.approx(float(loss(scores, labels)), rel=1e-6)


def test_another_loss_is_refused():
    model = Model(SCORES, lambda scores, labels: 3 * shifted(scores, labels))
    with pytest.raises(SharpError, match="Model: its own loss is"):
        own_loss(model, {"labels": TOKENS}, "Model")


def test_a_model_without_a_loss_of_its_own_has_the_usual_one():
    found = own_loss(nn.Identity(), (SCORES[:, 0], TOKENS[:, 0]), "Identity")
    total, _ = found(SCORES[:, 0], (None, TOKENS[:, 0].clamp(min=0)))
    assert total.shape == (4,)
