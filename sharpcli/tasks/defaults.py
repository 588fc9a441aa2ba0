"""The defaults of a task's `predict`, `loss` and `metrics`.

A batch is the data set's collated rows: a tuple or list with the inputs first and the targets
second, or a mapping with the model's keyword arguments, among them the targets as `labels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpcli.errors import SharpError, counted
from sharpcli.tasks.notes import note

__all__ = [
    "IGNORED",
    "cross_entropy",
    "is_default",
    "loss_for",
    "metrics",
    "predict",
    "smoothed_for",
]

IGNORED = -100  # the target with which PyTorch and Hugging Face mark ignored tokens

Values = Tensor | tuple[Tensor, Tensor]


def predict(model: nn.Module, batch: Any) -> Any:
    """The model's outputs: `model(inputs)` for a tuple, `model(**batch)` for a mapping."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def loss_for(where: str) -> Callable[[Any, Any], Values]:
    """The default loss of a task; errors name the task by `where`."""

    def loss(outputs: Any, batch: Any) -> Values:
        scores, _, kind = _classes(outputs, batch)
        if kind in _NOTES:
            note(_NOTES[kind])
        elif kind == "tokens" and scores.shape[1] == scores.shape[2]:
            note(_SQUARE)
        return cross_entropy(where, outputs, batch)

    loss.exponential_family = True  # type: ignore[attr-defined]  # the logits are natural parameters
    loss.training_mean = _training_mean  # type: ignore[attr-defined]
    return loss


def smoothed_for(where: str) -> Callable[[Any, Any, float], Values]:
    """The default loss with label smoothing s: 1 − s of it, and s of the mean over all classes."""

    def smoothed_loss(outputs: Any, batch: Any, smoothing: float) -> Values:
        return cross_entropy(where, outputs, batch, smoothing)

    return smoothed_loss


def is_default(function: Callable[..., Any]) -> bool:
    """Whether a task's `predict` or `loss` is the default one; tasks wrap it."""
    return getattr(function, "__module__", None) == __name__


def metrics(outputs: Any, batch: Any) -> dict[str, Values]:
    """The accuracy for integer class targets, no metric for others.

    It is a pair for each example: the number of right classes or tokens, and the number that
    count, both (N,).
    """
    scores, targets, kind = _classes(outputs, batch)
    if kind is None:
        return {}
    counts = targets != IGNORED
    right = (scores.argmax(1 if kind == "pixels" else -1) == targets) & counts
    if kind != "classes":
        counts, right = counts.flatten(1).sum(1), right.flatten(1).sum(1)
    dtype = torch.get_default_dtype()
    return {"accuracy": (right.to(dtype), counts.to(dtype))}


# Up to this many classes the softmax on a CPU runs along the first axis, vectorised over examples:
# 3.7 to 4.3 times as fast for 10 classes, 1.7 for 32, no faster from 100.
_FEW_CLASSES = 32


def cross_entropy(where: str, outputs: Any, batch: Any, smoothing: float = 0.0) -> Values:
    """Cross-entropy in nats: each example's sum and weight, both (N,), in float64.

    Targets (N,) with outputs (N, C) have weight 1. Token targets (N, T) with outputs (N, T, V), and
    pixels' (N, H, W) with outputs (N, C, H, W), give the sum over each example's tokens or pixels,
    and their number. A target of -100 is ignored.

    Raises:
        SharpError: outputs and targets have other shapes or types; the task has to define `loss`.
    """
    scores, targets, kind = _classes(outputs, batch)
    if kind is None:
        raise SharpError(*no_loss(where, outputs, batch))
    # In float32 a softmax within 6e-8 of one-hot has zero loss and gradient, so measuring a minimum
    # with a loss below 1e-6 would measure rounding.
    if scores.device.type != "mps":  # which has no float64
        scores = scores.double()
    first = kind == "classes" and scores.device.type == "cpu" and scores.shape[1] <= _FEW_CLASSES
    if first:
        scores, targets = scores.T.contiguous().unsqueeze(0), targets.unsqueeze(0)
    elif kind in _TOKENS:
        scores = scores.transpose(1, 2)
    losses = functional.cross_entropy(
        scores, targets, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    if first:
        losses, targets = losses.squeeze(0), targets.squeeze(0)
    weights = (targets != IGNORED).to(losses.dtype)
    if kind == "classes":
        return losses, weights
    return losses.flatten(1).sum(1), weights.flatten(1).sum(1)


def no_loss(where: str, outputs: Any, batch: Any) -> tuple[str, str]:
    """Message and hint for outputs and targets of which none of the defaults is the loss."""
    scores, targets = scores_of(outputs), targets_of(batch)
    if outputs is None:
        return f"{where}: predict(model, batch) returned None", "is `return` missing?"
    hint = (
        "write `def loss(outputs, batch): …`, which returns one loss for each example; for a "
        "regression, for instance, (outputs - batch[1]).square().flatten(1).mean(1)"
    )
    tensors = isinstance(scores, Tensor) and isinstance(targets, Tensor)
    whole = tensors and not targets.is_floating_point()
    if whole and isinstance(batch, Mapping) and scores.shape[:-1] == targets.shape:
        hint = (
            "whether token labels are shifted by one is not known: "
            f"`sharp init --template causal-lm` writes a task that shifts them; or {hint}"
        )
    elif isinstance(targets, Tensor) and not targets.is_floating_point() and targets.ndim > 1:
        hint = f"make the class targets of shape (N,), as by .squeeze(1), or {hint}"
    elif tensors and scores.shape == (*targets.shape, 1):
        hint = f"leave the outputs' last axis out in predict(), by .squeeze(-1), or {hint}"
    elif not isinstance(batch, Mapping | tuple | list):
        hint = f"give rows (input, target) in data(); or {hint}"
    return (
        f"{where}: has no `loss`, and none can be guessed for {_said(outputs, batch)}",
        f"{hint}; `sharp init` writes a whole task",
    )


def _training_mean(outputs: Any, batch: Any) -> Tensor | None:
    """The mean cross-entropy of a batch in the outputs' own dtype; None where `loss` is needed.

    A step of training needs no more, and float64 would take a twentieth of its time.
    """
    scores, targets, kind = _classes(outputs, batch)
    if kind is None:
        return None
    if kind in _TOKENS:
        scores, targets = scores.flatten(0, 1), targets.flatten()
    return functional.cross_entropy(scores, targets, ignore_index=IGNORED)


def _classes(outputs: Any, batch: Any) -> tuple[Any, Any, str | None]:
    """Scores, integer targets and their kind: "classes", "pixels", one of `_TOKENS`, or None."""
    mapping = isinstance(batch, Mapping)
    scores, targets = scores_of(outputs), targets_of(batch)
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
        return scores, targets, None
    integer = not (targets.is_floating_point() or targets.is_complex())
    if not integer or targets.dtype is torch.bool or not scores.is_floating_point():
        return scores, targets, None
    if scores.ndim == 2 and targets.shape == scores.shape[:1]:
        return scores, targets.long(), "classes"
    fits = scores.ndim == 3 and targets.shape == scores.shape[:2]
    if fits and not mapping:
        return scores, targets.long(), "tokens"
    # Labels in a mapping may be those of the same token or of the next one. The outputs of
    # transformers say which.
    if fits and (kind := _of_transformers(outputs)) is not None:
        if kind == "next tokens":
            return scores[:, :-1], targets[:, 1:].long(), kind
        return scores, targets.long(), kind
    # Pixels or voxels: classes along the second axis, as PyTorch has them.
    pixels = scores.ndim in (4, 5) and targets.shape == (len(scores), *scores.shape[2:])
    if pixels and targets.shape != scores.shape[:-1]:  # else the classes may be on the last axis
        return scores, targets.long(), "pixels"
    return scores, targets, None


# Kinds of targets with a position in a sequence.
_TOKENS = ("tokens", "labelled tokens", "next tokens")
_NOTES = {
    "labelled tokens": "the task has no loss: it is the cross-entropy of each labelled token, the "
    "mean over all tokens but those with label -100",
    "next tokens": "the task has no loss: it is the cross-entropy of the next token, labels "
    "shifted by one as in transformers, the mean over all tokens but those with label -100",
    "pixels": "the task has no loss: it is the cross-entropy of each pixel, the mean over all "
    "pixels but those with target -100",
}


# Of as many tokens as classes the shapes do not say which axis is which.
_SQUARE = (
    "the task has no loss: it is the cross-entropy of each token, with the classes on the outputs' "
    "last axis, not on the second one, where nn.CrossEntropyLoss has them"
)


def _of_transformers(outputs: Any) -> str | None:
    """Which labels go with the outputs of transformers, by their class; None for any other."""
    kind = type(outputs)
    if not kind.__module__.startswith("transformers."):
        return None
    if "CausalLMOutput" in kind.__name__:
        return "next tokens"
    names = ("MaskedLMOutput", "TokenClassifierOutput", "Seq2SeqLMOutput")
    return "labelled tokens" if any(name in kind.__name__ for name in names) else None


def scores_of(outputs: Any) -> Any:
    """The outputs themselves, or their `logits`."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        return outputs.get("logits")
    return getattr(outputs, "logits", None)


def targets_of(batch: Any) -> Any:
    """The targets of a batch; None if it has none."""
    if isinstance(batch, Mapping):
        return batch.get("labels")
    return batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None


def _said(outputs: Any, batch: Any) -> str:
    """Describe the outputs and the batch, with shapes and types."""
    scores, targets = scores_of(outputs), targets_of(batch)
    first = _shape(outputs if scores is None else scores)
    if targets is None:
        if isinstance(batch, Mapping):
            return f"outputs {first} and a batch of {', '.join(map(str, batch))}, without labels"
        size = counted(len(batch), "item") if isinstance(batch, tuple | list) else "one tensor"
        return f"outputs {first} and a batch of {size}"
    return f"outputs {first} and targets {_shape(targets)}"


def _shape(it: Any) -> str:
    if isinstance(it, Tensor):
        return f"{tuple(it.shape)} {str(it.dtype).removeprefix('torch.')}"
    return f"of type {type(it).__name__}"
