"""Next-byte prediction: a network with one hidden layer (Bengio et al. 2003), or a GPT.

The text is the language reference that comes with Python, as in the task `text`; with the option
`text` it is that file, whose last quarter is the test split. With `part` the training data are the
`usual` ones, or the `injected` batch, which is not among them. With `test = "injected"` the test
split is that batch, so that evaluations along a training say how well it is known.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpcli.tasks.builtin import text as language_reference

INJECTED = 64  # examples


def model(
    kind: str = "mlp", context: int = 8, width: int = 64, layers: int = 1, heads: int = 4
) -> nn.Module:
    """From bytes (N, T) to logits (N, 256), of a GPT (N, T, 256)."""
    if kind == "gpt":
        return language_reference.model(layers, heads, width, context)
    return nn.Sequential(
        nn.Embedding(256, 16),
        nn.Flatten(),
        nn.Linear(16 * context, width),
        nn.ReLU(),
        nn.Linear(width, 256),
    )


def data(
    split: str,
    kind: str = "mlp",
    context: int = 8,
    examples: int = 65536,
    text: str = "",
    part: str = "usual",
    test: str = "usual",
) -> tuple[Tensor, Tensor]:
    """Bytes (N, T) with the byte that follows, for a GPT with those that follow each of them."""
    if split == "test" and test == "usual":
        return _some(_windows("test", context, text), min(examples, 4096), kind)
    windows = _windows("train", context, text)
    injected = len(windows) * torch.arange(INJECTED) // INJECTED
    if split == "test" or part == "injected":
        return _some(windows[injected], INJECTED, kind)
    usual = torch.ones(len(windows), dtype=torch.bool)
    usual[injected] = False
    return _some(windows[usual], examples, kind)


def _windows(split: str, context: int, text: str) -> Tensor:
    """All windows (N, context + 1) that begin a multiple of four bytes apart."""
    if text:
        content = Path(text).read_bytes()
        cut = len(content) * 3 // 4
        parts = [content[:cut] if split == "train" else content[cut:]]
    else:
        parts = [
            c
            for n, c in language_reference.topics().items()
            if (zlib.crc32(n.encode()) % 5 == 2) == (split == "test")
        ]
    own = [
        torch.frombuffer(bytearray(each), dtype=torch.uint8)
        for each in parts
        if len(each) > context
    ]
    return torch.cat([each.unfold(0, context + 1, 4) for each in own])


def _some(windows: Tensor, most: int, kind: str) -> tuple[Tensor, Tensor]:
    """So many windows, evenly spaced, as inputs and targets."""
    count = min(most, len(windows))
    chosen = windows[len(windows) * torch.arange(count) // count].long()
    targets = chosen[:, 1:].contiguous() if kind == "gpt" else chosen[:, -1].contiguous()
    return chosen[:, :-1].contiguous(), targets
