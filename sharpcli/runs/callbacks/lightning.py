"""Sharpness during a training with Lightning's Trainer."""

from __future__ import annotations

from typing import Any

from sharpcli.runs.callbacks.monitor import Monitor

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    try:  # the older package of the same library
        from pytorch_lightning import Callback
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "LightningCallback needs Lightning: python -m pip install lightning"
        ) from error

__all__ = ["LightningCallback"]


class LightningCallback(Callback):  # type: ignore[misc]  # a class without types
    """Logs measures every so many steps to the Trainer's loggers.

        trainer = Trainer(callbacks=[LightningCallback(every=200)])

    The training is the same with and without it, bit for bit. By default it logs λ1 of the
    training loss, to 10 %, with its errors, and takes at most a tenth of the training's time. The
    loss of each example is cross-entropy, unless `loss(outputs, batch)` is given; outputs are those
    of the module's `forward`, unless `predict(module, batch)` is.

    Args:
        **settings: those of `Monitor`: `measures`, `every`, `share`, `seconds`, `samples`, ….
    """

    def __init__(self, **settings: Any) -> None:
        self.monitor = Monitor(**settings)
        self._last = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Draw the sample."""
        self._last = trainer.global_step
        last = trainer.estimated_stepping_batches
        known = isinstance(last, int) and last > trainer.global_step
        self.monitor.begin(
            pl_module, trainer.train_dataloader, trainer.global_step, last if known else None
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Measure and log, where it is due."""
        step = trainer.global_step
        if step == self._last or not self.monitor.due(step):
            return
        self._last = step
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        found = self.monitor.measure(step, pl_module, optimizer)
        for logger in trainer.loggers:
            logger.log_metrics(found, step=step)
