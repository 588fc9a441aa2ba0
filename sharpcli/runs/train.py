"""Train a task's model and save it with its settings, for `sharp train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharpcli import __version__
from sharpcli.checkpoint import load_checkpoint, save_checkpoint
from sharpcli.documents.checkpoints import TrainedResult
from sharpcli.documents.environment import environment
from sharpcli.documents.results import MeasuredCheckpoint, Report, Scalar, dumps, to_document
from sharpcli.errors import counted
from sharpcli.runtime import interruption
from sharpcli.runtime.files import save
from sharpcli.runtime.progress import Progress, silent
from sharpcli.tasks import Task
from sharpcli.tasks.arguments import as_text
from sharpcli.training.loop import Trained, train
from sharpcli.training.optimizers import TrainSettings
from sharpcli.training.state import StateFile

__all__ = ["notes", "report", "save_trained", "summary", "train_and_save"]


def train_and_save(
    task: Task,
    settings: TrainSettings,
    output: Path,
    progress: Progress = silent,
    *,
    resume: bool = True,
) -> Trained:
    """Train, and write the tensors to `output` with all settings as metadata.

    The curves go to `OUTPUT.curves.json`. While it trains, `OUTPUT.state` holds the training's
    state; where one is there, the training goes on from it, unless `resume` is False.
    """
    state = StateFile(output, resume=resume)
    trained = train(task, settings, progress, state)
    with interruption.deferred():  # the training may have taken hours
        save_trained(task, settings, output, trained)
        state.remove()
    return trained


def save_trained(task: Task, settings: TrainSettings, output: Path, trained: Trained) -> None:
    """Write a trained model's checkpoint and its curves."""
    save_checkpoint(output, trained.tensors, metadata(task, settings, trained))
    curves = to_document(report(task, settings, output, trained))
    save(output.with_name(f"{output.name}.curves.json"), dumps(curves) + "\n")


def metadata(task: Task, settings: TrainSettings, trained: Trained) -> Mapping[str, Any]:
    """A checkpoint's metadata: the settings and the outcome of the training."""
    return {
        "optimizer": settings.optimizer,
        "lr": settings.step_size,
        "batch_size": settings.first_batch,
        "fixed_batch": settings.fixed_batch,
        **settings.kind.metadata(settings),
        **settings.extras,
        "epochs": trained.epochs,
        "steps": trained.steps,
        "seed": settings.seed,
        "task": task.name,
        "task_options": ",".join(f"{k}={as_text(v)}" for k, v in task.options.items()),
        "train_loss": f"{trained.train_loss:.6g}",
        "sharpcli": __version__,
    }


def report(
    task: Task,
    settings: TrainSettings,
    output: Path,
    trained: Trained,
    seconds: float | None = None,
) -> Report:
    """A report of kind "train", with the metadata of the checkpoint at `output`."""
    saved = load_checkpoint(output)
    result = TrainedResult(
        checkpoint=MeasuredCheckpoint(str(output), saved.sha256, saved.metadata),
        epochs=trained.epochs,
        steps=trained.steps,
        loss={"train": Scalar(trained.train_loss)},
        seconds=seconds,
        curves=trained.curves,
    )
    about = {"name": task.name, "options": task.options, "fingerprint": task.fingerprint}
    asked = {"train": asdict(settings)}
    said = notes(settings, trained)
    return Report("train", asked, environment(), about, [result], notes=said)


def notes(settings: TrainSettings, trained: Trained) -> list[str]:
    """Notes on a training that did not reach its loss, or could not have gone on if killed."""
    said = []
    if not trained.reached:
        said.append(
            f"the loss did not reach {settings.until_loss:g} in "
            f"{counted(trained.epochs, 'epoch')}\n"
            "  hint: train for longer, or with another learning rate"
        )
    if trained.problem is not None:
        said.append(
            f"a killed training would have begun anew: the state of {settings.optimizer} cannot be "
            f"kept ({trained.problem})"
        )
    return said


def summary(trained: Trained) -> str:
    """One line on the outcome of a training."""
    return (
        f"train loss {trained.train_loss:.4g} after {counted(trained.epochs, 'epoch')}, "
        f"{counted(trained.steps, 'step')}"
    )
