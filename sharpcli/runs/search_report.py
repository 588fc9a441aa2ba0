"""The document of a search, from what its study keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sharpcli.documents.environment import environment
from sharpcli.documents.results import (
    Document,
    Failure,
    MeasuredCheckpoint,
    Report,
    to_document,
)
from sharpcli.documents.searches import Trial
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import UsageError
from sharpcli.runs.search_study import SearchStudy
from sharpcli.tasks import Task

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["search_document", "trial_of"]

_FEWEST = 10  # finished trials from which an importance says something


def search_document(study: SearchStudy, task: Task) -> Document:
    """The document of kind `search`: a result for each trial that was begun."""
    from optuna.trial import TrialState

    search = study.search
    results = [trial_of(study, t) for t in study.trials if t.state != TrialState.WAITING]
    about = {"name": task.name, "options": task.options, "fingerprint": task.fingerprint}
    asked = {**asdict(search.settings), "direction": _direction(study)}
    importance = _importance(study)
    return to_document(
        Report("search", asked, environment(), about, results, importance=importance)
    )


def trial_of(study: SearchStudy, trial: FrozenTrial) -> Trial:
    """What is known of a trial."""
    from optuna.trial import TrialState

    known = trial.user_attrs
    name = study.name(trial)
    chosen = study.values(trial)
    try:
        run = study.search.trial(name, chosen)
        made: dict[str, Any] = {"settings": asdict(run.settings), "options": run.options}
    except (UsageError, KeyError):  # they do not go together, or its process died at once
        made = {}
    error = known.get("error")
    status: Any = {
        TrialState.COMPLETE: Outcome.OK,
        TrialState.PRUNED: Outcome.PRUNED,
        TrialState.FAIL: Outcome.FAILED,
    }.get(trial.state, Outcome.WAITING)
    values = trial.intermediate_values
    trained = trial.state == TrialState.COMPLETE
    return Trial(
        trial=name,
        checkpoint=MeasuredCheckpoint(str(study.checkpoint(name))) if trained else None,
        status=Outcome.FAILED if error else status,
        objective=trial.value if trial.value is not None else _last(values),
        chosen=chosen,
        points=sorted(values),
        objectives=[values[at] for at in sorted(values)],
        **made,
        **{key: known.get(key) for key in ("epochs", "steps", "train_loss", "seconds")},
        error=Failure(error[0], error[1], known.get("kind")) if error else None,
    )


def _last(values: Mapping[int, float]) -> float | None:
    return values[max(values)] if values else None


def _direction(study: SearchStudy) -> str:
    return "maximize" if study.search.settings.highest else "minimize"


def _importance(study: SearchStudy) -> Mapping[str, float] | None:
    """The share of each chosen value in what made the best trials differ; None: too few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    finished = study.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _FEWEST or len(study.search.space) < 2:
        return None
    if len({trial.value for trial in finished}) == 1:
        return None
    return get_param_importances(study.study, evaluator=PedAnovaImportanceEvaluator())
