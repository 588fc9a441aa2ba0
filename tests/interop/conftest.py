"""Warnings of other tools' own code are theirs: here only those of this package are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

_FOREIGN = (
    *("accelerate", "lightning", "lightning_fabric", "lightning_utilities", "peft", "timm"),
    *("pytorch_lightning", "torch", "torchmetrics", "transformers", "huggingface_hub"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for name in _FOREIGN:
                item.add_marker(pytest.mark.filterwarnings(rf"ignore:::{name}(\.|$)"))
