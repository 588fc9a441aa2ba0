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

from sharpcli.errors import SharpError
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
        return _some(_windows("test", kind, context, text), min(examples, 4096), kind)
    windows = _windows("train", kind, context, text)
    injected = len(windows) * torch.arange(INJECTED) // INJECTED
    if split == "test" or part == "injected":
        return _some(windows[injected], INJECTED, kind)
    usual = torch.ones(len(windows), dtype=torch.bool)
    usual[injected] = False
    return _some(windows[usual], examples, kind)


def _windows(split: str, kind: str, context: int, text: str) -> Tensor:
    """All windows (N, context + 1), four bytes apart, of a GPT one after the other."""
    stride = context if kind == "gpt" else 4
    parts = [
        torch.frombuffer(bytearray(each), dtype=torch.uint8)
        for each in _parts(split, text, context)
    ]
    return torch.cat([each.unfold(0, context + 1, stride) for each in parts])


def _parts(split: str, text: str, longer_than: int) -> list[bytes]:
    if not text:
        return [
            content
            for name, content in language_reference.topics().items()
            if _is_test(name) == (split == "test") and len(content) > longer_than
        ]
    if not Path(text).is_file():
        raise SharpError(f"text: there is no file {text}", "put a text there, such as WikiText")
    content = Path(text).read_bytes()
    cut = len(content) * 3 // 4
    return [content[:cut] if split == "train" else content[cut:]]


def _is_test(topic: str) -> bool:
    part = zlib.crc32(topic.encode()) % language_reference.PARTS
    return part == language_reference.TEST_PART


def _some(windows: Tensor, most: int, kind: str) -> tuple[Tensor, Tensor]:
    """So many windows, evenly spaced, as inputs and targets."""
    count = min(most, len(windows))
    chosen = windows[len(windows) * torch.arange(count) // count].long()
    targets = chosen[:, 1:].contiguous() if kind == "gpt" else chosen[:, -1].contiguous()
    return chosen[:, :-1].contiguous(), targets
