"""Work through checkpoints: a failure ends only its checkpoint, Ctrl-C keeps finished results."""

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
    done: Callable[[T], None] = lambda _: None,
) -> list[T]:
    """Apply `work` to each checkpoint, in order.

    Errors pass as in `own_failure`, and if every checkpoint fails with a `UsageError`.

    Args:
        paths: the checkpoints.
        work: gets a path, and a mapping with facts about the checkpoint, to which it adds.
        failed: makes the result of a checkpoint that failed, from the facts and the failure.
        is_last: whether to stop after a result. The rest then counts as interrupted, as after
            Ctrl-C.
        done: gets each result of `work` but such a last one, while signals wait.
    """
    results: list[T] = []
    misuses: list[UsageError] = []
    for path in paths:
        sound = False
        about: dict[str, Any] = {"path": str(path)}
        try:
            with interruption.interruptible():
                result = work(Path(path), about)
                interruption.hold()  # so that the result is kept everywhere, or nowhere
            results.append(result)
            sound = True
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
        if sound:
            done(results[-1])
    if misuses and len(misuses) == len(paths):
        raise misuses[0]
    rest = paths[len(results) :]
    return results + [failed({"path": str(path)}, INTERRUPTED) for path in rest]


def own_failure(error: SharpError | RuntimeError) -> Failure:
    """The failure of one checkpoint or layer; raises the error again if the run has to end."""
    if isinstance(error, SharpError):
        if size() > 1:  # under torchrun other processes may wait for this one
            raise error
        return Failure(error.message, error.hint)
    said = said_by_torch(error)
    if said is None:  # a bug
        raise error
    return said


def said_by_torch(error: RuntimeError) -> Failure | None:
    """The failure of the task or the machine behind an exception of torch, None for a bug."""
    text = str(error).splitlines()[0] if str(error) else ""
    if is_out_of_memory(error):
        return Failure(f"out of memory: {text}", f"use {setting('samples')}")
    if "modified by an inplace operation" in text:  # a plain RuntimeError of torch's
        return Failure(
            f"the loss cannot be differentiated: {text.partition(':')[0]}",
            "replace the model's in-place operations (x += y, inplace=True) by others",
        )
    return None
