"""Sharpness during a training with transformers' Trainer."""

from __future__ import annotations

from typing import Any

try:
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "TransformersCallback needs transformers: python -m pip install 'sharpcli[hf]'"
    ) from error

from sharpcli.runs.callbacks.monitor import Monitor

__all__ = ["TransformersCallback"]


class TransformersCallback(TrainerCallback):  # type: ignore[misc]  # a class without types
    """Logs measures every so many steps to where the Trainer logs: wandb, TensorBoard, its history.

        trainer = Trainer(model, args, train_dataset=data)
        trainer.add_callback(TransformersCallback(trainer, every=200))

    The training is the same with and without it, bit for bit. By default it logs λ1 of the
    training loss, to 10 %, with its errors, and takes at most a tenth of the training's time.

    Args:
        trainer: whose `log` gets the numbers.
        **settings: those of `Monitor`: `measures`, `every`, `share`, `seconds`, `samples`, ….
    """

    def __init__(self, trainer: Trainer, **settings: Any) -> None:
        self._trainer, self.monitor = trainer, Monitor(**settings)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any, train_dataloader: Any, **_: Any
    ) -> None:
        """Draw the sample."""
        del args, control
        last = state.max_steps if state.max_steps > state.global_step else None
        self.monitor.begin(model, train_dataloader, state.global_step, last)

    def on_step_end(
        self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any
    ) -> None:
        """Measure and log, where it is due."""
        del args
        if not self.monitor.due(state.global_step):
            return
        found = self.monitor.measure(state.global_step, model, optimizer)
        if found:
            wanted = control.should_log
            self._trainer.log(found)
            control.should_log = wanted  # which logging resets: the Trainer's own log comes next
