"""Train a task's model and save it with its settings, for `sharp train`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sharpcli.checkpoint import checkpoint_content, load_checkpoint
from sharpcli.documents.checkpoints import TrainedResult
from sharpcli.documents.environment import environment
from sharpcli.documents.results import MeasuredCheckpoint, Report, dumps, to_document
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.stability import PRECONDITIONED_NAME
from sharpcli.errors import counted, setting
from sharpcli.measures.packages import code_of
from sharpcli.runs.saved_path import SavedPath, saved_steps
from sharpcli.runs.tracking import Tracker
from sharpcli.runs.training_files import TrainingFiles
from sharpcli.runtime import interruption
from sharpcli.runtime.files import save
from sharpcli.runtime.progress import UNSAID, Latest, Notes, Progress, silent
from sharpcli.runtime.version import __version__
from sharpcli.tasks import Task
from sharpcli.tasks.arguments import as_text
from sharpcli.tasks.notes import collected
from sharpcli.training.evaluations import EvaluationWatcher
from sharpcli.training.loop import train
from sharpcli.training.outcome import Trained
from sharpcli.training.state import StateFile
from sharpcli.training.train_settings import TrainSettings
from sharpcli.training.warm_start import Init, OptimizerKeeper, read_init
from sharpcli.training.watchers import Watcher

__all__ = ["notes", "report", "save_trained", "summary", "train_and_save"]


def train_and_save(
    task: Task,
    settings: TrainSettings,
    output: Path,
    progress: Progress = silent,
    *,
    resume: bool = True,
    own_folder: bool = False,
    inits: Path | None = None,
    notes: Notes = UNSAID,
    latest: Latest | None = None,
    watchers: Sequence[Watcher] = (),
    beside: Callable[[], Mapping[str, Any]] = dict,
    done: Callable[[Trained], None] = lambda _: None,
) -> Trained:
    """Train, and write the tensors to `output` with all settings as metadata.

    The curves go to `OUTPUT.curves.json`, and with `save_every` the weights along the way to
    `OUTPUT.path/`. In a folder of the training's own these are `curves.json` and `path/`. While it
    trains, `OUTPUT.state` holds the training's state; where one is there, the training goes on from
    it, unless `resume` is False. With `save_optimizer`, `OUTPUT.optimizer` gets the optimizer's
    state. A relative path of `init` begins in the folder `inits`. `watchers` look at the training;
    `beside` gives more metadata at its end. `done` is called once the files are there, and before
    a signal can end the program, so that whoever keeps a record of trainings has this one in it.
    """
    init = read_init(settings, inits)
    files = TrainingFiles.in_folder(output) if own_folder else TrainingFiles.beside(output)
    packages = code_of(settings.track)
    state = StateFile(output, resume=resume, about={"packages": packages} if packages else {})
    looking = [*watchers]
    if settings.save_every is not None:
        facts = functools.partial(metadata, task, settings, init=init)
        looking.append(SavedPath(files.path, settings.save_every, facts, notes.note))
    elif saved_steps(files.path):
        notes.note(f"{files.path}: holds checkpoints of an earlier training, not of this one")
    keeper = OptimizerKeeper(settings)
    looking += [keeper] if settings.save_optimizer else []
    evaluating = None
    if settings.evaluate_every is not None:
        evaluating = EvaluationWatcher(task, settings.evaluate_every)
        looking.append(evaluating)
    tracker = Tracker(settings) if settings.track else None
    looking += [] if tracker is None else [tracker]
    said: list[str] = []
    with collected(said):
        trained = train(task, settings, progress, state, looking, init, latest)
    for each in said:
        notes.note(each)
    if evaluating is not None:
        trained = replace(trained, evaluations=evaluating.evaluations())
    if tracker is not None:
        trained = replace(trained, tracked=tracker.tracked())
    with interruption.deferred():  # the training may have taken hours
        about = {**metadata(task, settings, trained, init), **beside()}
        memory = keeper if settings.save_optimizer else None
        trained = save_trained(task, settings, files, trained, about, memory)
        try:
            done(trained)  # after a kill in between, the training goes on from its state
        finally:
            state.remove()
    return trained


def save_trained(
    task: Task,
    settings: TrainSettings,
    files: TrainingFiles,
    trained: Trained,
    about: Mapping[str, Any],
    memory: OptimizerKeeper | None = None,
) -> Trained:
    """Write a trained model's curves, its optimizer's memory, and its checkpoint with `about`."""
    saved, content = checkpoint_content(files.checkpoint, trained.tensors, about)
    trained = replace(trained, saved=saved)
    with contextlib.ExitStack() as last:
        # The checkpoint is written last: who has it has all files. It is, whatever else fails.
        last.callback(save, files.checkpoint, content)
        curves = to_document(report(task, settings, files.checkpoint, trained))
        save(files.curves, dumps(curves) + "\n")
        if memory is not None:
            memory.write(saved)
    return trained


def metadata(
    task: Task, settings: TrainSettings, trained: Trained, init: Init | None = None
) -> Mapping[str, Any]:
    """A checkpoint's metadata: the settings and the outcome of the training."""
    return {
        "optimizer": settings.optimizer,
        "lr": settings.step_size,
        "batch_size": settings.first_batch,
        "fixed_batch": settings.fixed_batch,
        **settings.kind.metadata(settings),
        **settings.extras,
        "init": settings.init,
        "init_sha256": None if init is None else init.checkpoint.sha256,
        "init_optimizer": settings.init_optimizer or None,
        "init_weights": settings.init_weights,
        "init_partial": settings.init_partial or None,
        "epochs": trained.epochs,
        "steps": trained.steps,
        "seed": settings.seed,
        "task": task.name,
        "task_options": ",".join(f"{k}={as_text(v)}" for k, v in task.options.items()),
        "train_loss": repr(float(trained.train_loss)),  # all digits: it may be all that is left
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
    saved = trained.saved or load_checkpoint(output)
    result = TrainedResult(
        checkpoint=MeasuredCheckpoint(str(output), saved.sha256, saved.metadata),
        epochs=trained.epochs,
        steps=trained.steps,
        loss={"train": Scalar(trained.train_loss)},
        seconds=seconds,
        curves=trained.curves,
        evaluations=trained.evaluations,
        **_tracked(trained),
    )
    about = {"name": task.name, "options": task.options, "fingerprint": task.fingerprint}
    asked = {"train": asdict(settings)}
    said = notes(settings, trained)
    return Report("train", asked, environment(), about, [result], notes=said)


def _tracked(trained: Trained) -> dict[str, Any]:
    """The fields of a result that hold what was measured on the way."""
    found = trained.tracked
    if found is None:
        return {}
    some = found.examples < found.examples_in_all
    return {
        "tracked": found.steps,
        "tracked_examples": found.examples,
        "tracked_examples_in_all": found.examples_in_all if some else None,
    }


def notes(settings: TrainSettings, trained: Trained) -> list[str]:
    """Notes on a training that did not reach its loss, or could not have gone on if killed."""
    said = []
    if not trained.reached:
        said.append(
            f"the loss did not reach {settings.until_loss:g} in "
            f"{counted(trained.epochs, 'epoch')}\n"
            "  hint: train for longer, or with another learning rate"
        )
    taken = max(trained.curves.batch_size, default=0) if trained.curves else 0
    if taken and settings.batch_schedule is None and taken < settings.batch_size:
        said.append(
            f"{setting('batch_size', settings.batch_size)}: there are fewer training examples, so "
            f"each step took {counted(taken, 'example')} at most"
        )
    if settings.swa is not None and not settings.averages_after(trained.epochs, trained.steps):
        said.append(
            f"{setting('swa', settings.swa)}: no average was begun in "
            f"{counted(trained.steps, 'step')}, so the weights are those after the last one"
        )
    if trained.problem is not None:
        said.append(
            f"a killed training would have begun anew: the state of {settings.optimizer} cannot be "
            f"kept ({trained.problem})"
        )
    tracked = [] if trained.tracked is None else trained.tracked.steps
    if "hessian" in settings.track and not any(each.threshold for each in tracked):
        whose = settings.optimizer if settings.ema is None else "an average of weights"
        said.append(f"no stability threshold is known for {whose}")
    if settings.track == ("hessian",) and settings.preconditions:
        asked = setting("track", f"hessian,{PRECONDITIONED_NAME}")
        said.append(
            f"{settings.optimizer}'s stability threshold is one of the preconditioned Hessian\n"
            f"  hint: {asked}"
        )
    failed = {name: each for step in tracked for name, each in (step.failures or {}).items()}
    said += [f"{name} was not measured at some steps: {it.message}" for name, it in failed.items()]
    return said


def summary(trained: Trained) -> str:
    """One line on the outcome of a training."""
    return (
        f"train loss {trained.train_loss:.4g} after {counted(trained.epochs, 'epoch')}, "
        f"{counted(trained.steps, 'step')}"
    )
