"""Minima that are trained once for all tests of the exploring commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from explorations import CNN, MLP, train


@pytest.fixture(scope="session")
def mlps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three minima of an MLP."""
    folder = tmp_path_factory.mktemp("mlps")
    train(folder, MLP)
    return folder


@pytest.fixture(scope="session")
def cnns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three minima of a convolutional network with batch normalisation."""
    folder = tmp_path_factory.mktemp("cnns")
    train(folder, CNN)
    return folder
