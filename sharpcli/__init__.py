"""Measure how sharp a trained network's minimum is, and the loss between two minima.

The command line is `sharp`. In Python, each name below is imported when it is first used:

    report = sharpcli.measure_model(model, train=(images, classes))
    document = sharpcli.to_document(report)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sharpcli.documents import showing as _showing
from sharpcli.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from sharpcli.checkpoint import load_checkpoint
    from sharpcli.documents.reading import load_result
    from sharpcli.documents.results import to_document
    from sharpcli.errors import SharpError
    from sharpcli.landscape.points.journal import Journal
    from sharpcli.landscape.points.walk import Watch
    from sharpcli.runs.callbacks.lightning import LightningCallback
    from sharpcli.runs.callbacks.transformers import TransformersCallback
    from sharpcli.runs.compare import compare_results
    from sharpcli.runs.exploration import Beside
    from sharpcli.runs.interpolate import interpolate_checkpoints, interpolate_models
    from sharpcli.runs.landscape import landscape_checkpoint, landscape_model
    from sharpcli.runs.measure import measure_checkpoints, measure_model
    from sharpcli.runs.spectrum import spectra_of_checkpoints, spectrum_model
    from sharpcli.settings.curvature import CurvatureSettings, SpectrumSettings
    from sharpcli.settings.exploring import (
        BatchNormSettings,
        DirectionSettings,
        GridSettings,
        InterpolateSettings,
        LandscapeSettings,
        PathSettings,
    )
    from sharpcli.settings.measuring import MeasureSettings, RunSettings
    from sharpcli.tasks import Task, load_task

__all__ = [
    "BatchNormSettings",
    "Beside",
    "CurvatureSettings",
    "DirectionSettings",
    "GridSettings",
    "InterpolateSettings",
    "Journal",
    "LandscapeSettings",
    "LightningCallback",
    "MeasureSettings",
    "PathSettings",
    "RunSettings",
    "SharpError",
    "SpectrumSettings",
    "Task",
    "TransformersCallback",
    "Watch",
    "compare_results",
    "interpolate_checkpoints",
    "interpolate_models",
    "landscape_checkpoint",
    "landscape_model",
    "load_checkpoint",
    "load_result",
    "load_task",
    "measure_checkpoints",
    "measure_model",
    "spectra_of_checkpoints",
    "spectrum_model",
    "to_document",
]

# Documents know nothing of drawing; only this face knows both.
_showing.shown_by("sharpcli.render.notebook")

_HOMES = {
    "BatchNormSettings": "settings",
    "Beside": "runs.exploration",
    "CurvatureSettings": "settings",
    "DirectionSettings": "settings",
    "GridSettings": "settings",
    "InterpolateSettings": "settings",
    "Journal": "landscape.points.journal",
    "LandscapeSettings": "settings",
    "LightningCallback": "runs.callbacks.lightning",
    "MeasureSettings": "settings",
    "PathSettings": "settings",
    "RunSettings": "settings",
    "SharpError": "errors",
    "SpectrumSettings": "settings",
    "Task": "tasks",
    "TransformersCallback": "runs.callbacks.transformers",
    "Watch": "landscape.points.walk",
    "compare_results": "runs.compare",
    "interpolate_checkpoints": "runs.interpolate",
    "interpolate_models": "runs.interpolate",
    "landscape_checkpoint": "runs.landscape",
    "landscape_model": "runs.landscape",
    "load_checkpoint": "checkpoint",
    "load_result": "documents.reading",
    "load_task": "tasks",
    "measure_checkpoints": "runs.measure",
    "measure_model": "runs.measure",
    "spectra_of_checkpoints": "runs.spectrum",
    "spectrum_model": "runs.spectrum",
    "to_document": "documents.results",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module at first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sharpcli' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
