"""Random generators of our own, and a guard that leaves the global random states unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from collections.abc import Callable, Iterator

import torch

__all__ = ["global_random_state_kept", "own_generator", "random_states"]


def own_generator(purpose: str, seed: int) -> torch.Generator:
    """A generator whose numbers no data set or network weights share, even with the same seed.

    If a task and a start vector both seed PyTorch with 0, they draw the same numbers. On one
    network the start was so close to the data that its mean curvature was 7.98 instead of 2.1.
    """
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@contextlib.contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Restore the global random states of torch (all devices), Python and NumPy on exit."""
    restore = random_states()
    try:
        yield
    finally:
        restore()


def random_states() -> Callable[[], None]:
    """Note the global random states of torch (all devices), Python and NumPy.

    NumPy's legacy global state, which user code seeds, is noted only if NumPy is already loaded.

    Returns:
        A function that puts them back; it may be called more than once.
    """
    numpy = sys.modules.get("numpy")
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    numpy_state = numpy.random.get_state() if numpy else None

    def restore() -> None:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if numpy:
            numpy.random.set_state(numpy_state)

    return restore
