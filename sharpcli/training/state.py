"""A training's state on disk, so that a training that is killed goes on where it stopped.

The file has tensors and JSON (safetensors): reading it runs no code.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sharpcli.checkpoint.plain_values import decoded, encoded
from sharpcli.checkpoint.safetensors_file import read_safetensors
from sharpcli.errors import SharpError, setting
from sharpcli.runtime.files import write_whole
from sharpcli.runtime.version import __version__
from sharpcli.training.catalogue import BASE

__all__ = ["StateFile", "decoded", "encoded", "optimizer_state", "restore_optimizer", "understood"]

_FORMAT = "sharpcli-training/2"
SECONDS = 5.0  # between two writes, at least
_SHARE = 50  # times what the last write took: writing takes at most 2 % of the time
_SHOWN = 3  # differences that a message names
_KEY = "training"


class StateFile:
    """The file of one training, `FILE.state` beside its checkpoint.

    `resume` False starts over, whatever the file holds. `about` is what its watchers depend on.
    `problem` is why nothing can be kept.
    """

    def __init__(
        self, output: Path, *, resume: bool = True, about: Mapping[str, Any] | None = None
    ) -> None:
        self.path = output.with_name(f"{output.name}.state")
        self._about = dict(about or {})
        self._resume = resume
        self._run: Any = {}
        self._next = time.monotonic() + SECONDS
        self.problem: str | None = None

    def begin(self, run: Mapping[str, Any], device: torch.device | None = None) -> Any:
        """The state to go on from, None where there is none; `run` describes this training.

        Tensors that were not on the CPU come back on `device`.

        Raises:
            SharpError: for a file of another training (naming what differs), and for one that
                cannot be read.
        """
        self._run = json.loads(json.dumps({"format": _FORMAT, **run, **self._about}))
        if not self._resume or not self.path.exists():
            return None
        try:
            file = read_safetensors(self.path)
        except SharpError as error:
            raise SharpError(error.message, _again()) from error
        with self.understood():
            header = json.loads(str(file.metadata[_KEY]))
            found = header["run"]
            differences = _differences(found, self._run)
            if not differences:
                return decoded(header["state"], file.tensors, device)
        shown = differences[:_SHOWN]
        shown += [f"and {len(differences) - _SHOWN} more"] if len(differences) > _SHOWN else []
        raise SharpError(
            f"{self.path}: holds the state of another training: {'; '.join(shown)}",
            f"repeat that training's command to finish it, write to another {setting('output')}, "
            f"or {_again()}",
        )

    def understood(self) -> contextlib.AbstractContextManager[None]:
        """While active, a file that makes no sense is one message."""
        return understood(self.path, "a training's state", _again())

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self._next

    def write(self, state: Any) -> None:
        """Replace the file by this state.

        Where the state has something that is neither a tensor nor a plain value, nothing is
        written, now or later, and `problem` says what.

        Raises:
            SharpError: It cannot be written.
        """
        begun = time.monotonic()
        tensors: dict[str, Tensor] = {}
        try:
            header = {"run": self._run, "state": encoded(state, tensors)}
        except TypeError as error:
            self.problem, self._next = str(error), math.inf
            return
        try:
            write_whole(self.path, save(tensors, metadata={_KEY: json.dumps(header)}))
        except SharpError as error:
            raise SharpError(
                error.message, "make room and repeat the command: it goes on from its last state"
            ) from error
        self._next = time.monotonic() + max(SECONDS, _SHARE * (time.monotonic() - begun))

    def remove(self) -> None:
        """Remove the file: the checkpoint is where it belongs."""
        self.path.unlink(missing_ok=True)


def _again() -> str:
    return f"start over with {setting('resume', False)}"


@contextlib.contextmanager
def understood(path: Path, what: str, hint: str) -> Iterator[None]:
    """While active, content of a file that makes no sense, whatever it is, is one message.

    Args:
        path: the file.
        what: what it should hold.
        hint: what to do where it does not.

    Raises:
        SharpError: The content makes no sense.
        OutOfMemoryError: The device has no room for it.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise SharpError(f"{path}: does not hold {what}", hint) from e


def optimizer_state(optimizer: torch.optim.Optimizer) -> Any:
    """All that an optimizer remembers, with parameters by their number."""
    groups = optimizer.param_groups
    parameters = [each for group in groups for each in group["params"]]
    return {
        "state": [dict(optimizer.state.get(each, {})) for each in parameters],
        "groups": [
            {k: v for k, v in group.items() if k != "params" and _is_plain(v)} for group in groups
        ],
        "shared": {k: v for k, v in optimizer.state.items() if isinstance(k, str)},
        "own": [
            {k: v for k, v in vars(each).items() if _is_own(k, v)} for each in _stepping(optimizer)
        ],
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, found: Any) -> None:
    """Let an optimizer go on from `optimizer_state`."""
    groups = optimizer.param_groups
    parameters = [each for group in groups for each in group["params"]]
    for parameter, state in zip(parameters, found["state"], strict=True):
        if state:
            optimizer.state[parameter] = {k: _moved(v, parameter) for k, v in state.items()}
    for group, state in zip(groups, found["groups"], strict=True):
        group.update(state)
    for name, value in found["shared"].items():
        optimizer.state[name] = value
    for each, own in zip(_stepping(optimizer), found["own"], strict=True):
        for name, value in own.items():
            setattr(each, name, value)


def _stepping(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The optimizer, and the one that takes its steps where it is SAM or one of its kin."""
    base = getattr(optimizer, BASE, None)
    return [optimizer, *([base] if isinstance(base, torch.optim.Optimizer) else [])]


def _moved(value: Any, parameter: Tensor) -> Any:
    """A tensor of the state where the parameter is; counters of steps stay on the CPU."""
    if isinstance(value, Tensor) and value.ndim:
        return value.to(parameter.device)
    if isinstance(value, list):
        return [_moved(each, parameter) for each in value]
    return value


def _is_own(name: str, value: Any) -> bool:
    """Whether it is an attribute in which an optimizer counts or remembers."""
    private = name.startswith("_") or name in ("state", "param_groups", "defaults")
    return not private and _is_plain(value)


def _is_plain(value: Any) -> bool:
    try:
        encoded(value, {})
    except TypeError:
        return False
    return True


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In what two trainings differ, a clause each."""
    said = []
    for key in dict.fromkeys([*wanted, *found]):
        was, now = found.get(key), wanted.get(key)
        if key in ("settings", "options") and isinstance(was, dict) and isinstance(now, dict):
            prefix = "options." if key == "options" else ""
            said += [
                f"{setting(prefix + name)} was {_short(was.get(name))} and is "
                f"{_short(now.get(name))}"
                for name in dict.fromkeys([*now, *was])
                if was.get(name) != now.get(name)
            ]
        elif was != now:
            said.append(f"{_NAMES.get(key, key)} was {_short(was)} and is {_short(now)}")
    return said


_NAMES = {
    "data": "the data's digest",
    "fingerprint": "the task's fingerprint",
    "init": "the digest of the initial weights",
    "init_optimizer": "the digest of the optimizer's initial state",
    "torch": "PyTorch",
    "packages": "the code of tracked measures",
}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def description(task: Any, settings: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """What makes two trainings the same one: all that their weights depend on.

    The device is added as this machine has it, because `auto` is not the same everywhere.
    """
    settings = {name: value for name, value in settings.items() if name != "device"}
    return {
        "task": task.name,
        "options": task.options,
        "fingerprint": task.fingerprint,
        "settings": settings,
        "data": digest,
        "torch": torch.__version__,
        "sharpcli": __version__,
    }
