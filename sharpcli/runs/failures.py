"""Checkpoint after checkpoint: one's failure is its own, and Ctrl-C keeps what is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sharpcli.documents.results import Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runtime import interruption
from sharpcli.runtime.memory import is_out_of_memory
from sharpcli.runtime.processes import size

__all__ = ["INTERRUPTED", "each_checkpoint", "own_failure", "said_by_torch"]

T = TypeVar("T")

INTERRUPTED = Failure(
    "interrupted before it was measured", "run the same command again", kind=Outcome.INTERRUPTED
)


def each_checkpoint(
    paths: Sequence[str | Path],
    work: Callable[[Path, dict[str, Any]], T],
    failed: Callable[[Mapping[str, Any], Failure], T],
    *,
    is_last: Callable[[T], bool] = lambda _: False,
) -> list[T]:
    """What `work` gives for each checkpoint, in their order, or `failed` in its place.

    `work` gets the path and what is known about the checkpoint, to which it adds as it goes;
    `failed` gets the same and why. After Ctrl-C, or a result that `is_last`, the rest is failed as
    interrupted. Raises `UsageError` where every checkpoint fails by misuse, and what
    `own_failure` does.
    """
    results: list[T] = []
    misuses: list[UsageError] = []
    for path in paths:
        about: dict[str, Any] = {"path": str(path)}
        try:
            with interruption.interruptible():
                results.append(work(Path(path), about))
        except UsageError as error:
            misuses.append(error)
            results.append(failed(about, Failure(error.message, error.hint)))
        except (SharpError, RuntimeError) as error:
            if interruption.caused(error):
                break
            results.append(failed(about, own_failure(error)))
        except KeyboardInterrupt:
            break
        interruption.hold()
        if is_last(results[-1]):
            break
    if misuses and len(misuses) == len(paths):
        raise misuses[0]
    rest = paths[len(results) :]
    return results + [failed({"path": str(path)}, INTERRUPTED) for path in rest]


def own_failure(error: SharpError | RuntimeError) -> Failure:
    """What is to be said of a failure that ends one checkpoint or layer alone.

    Raises the error again where it is no such: under torchrun, where other processes may be
    waiting for this one's share, and for a bug.
    """
    if isinstance(error, SharpError):
        if size() > 1:
            raise error
        return Failure(error.message, error.hint)
    said = said_by_torch(error)
    if said is None:
        raise error
    return said


def said_by_torch(error: RuntimeError) -> Failure | None:
    """What an exception of torch's says about the task or the machine, None where it is a bug."""
    text = str(error).splitlines()[0] if str(error) else ""
    if is_out_of_memory(error):
        return Failure(f"out of memory: {text}", f"use {setting('samples')}")
    if "modified by an inplace operation" in text:  # a plain RuntimeError of torch's
        return Failure(
            f"the loss cannot be differentiated: {text.partition(':')[0]}",
            "replace the model's in-place operations (x += y, inplace=True) by others",
        )
    return None
