"""Made-up measurements, Ctrl-C within a test, and what is skipped without a GPU."""

from __future__ import annotations

import hashlib
import inspect
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import hypothesis
import pytest
from click.testing import CliRunner, Result

from sharpcli.documents.results import CheckpointResult, Document, Failure, Report, to_document
from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.runtime import interruption

# Several processes of pytest, each with the threads of the whole machine, slow each other down.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("sharp", deadline=None)
hypothesis.settings.load_profile("sharp")

# Before Click 8.2 the runner mixed the two streams unless it was asked not to.
if "mix_stderr" in inspect.signature(CliRunner).parameters:
    _made = CliRunner.__init__

    def _apart(self: CliRunner, *args: Any, **kwargs: Any) -> None:
        _made(self, *args, **{"mix_stderr": False, **kwargs})

    CliRunner.__init__ = _apart
    Result.output = property(lambda self: self.stdout + self.stderr)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def made_up_result(
    path: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    scale: float = 1.0,
    train: float = 0.01,
    gap: float = 0.3,
    converged: bool = True,
    sampling: float | None = None,
    **more: Any,
) -> CheckpointResult:
    """A measured checkpoint whose sharpness goes with `scale`: λ1 is 12.31·scale."""
    status, advice = ("converged", None) if converged else ("max_products", "raise --max-products")

    def eigenvalue(value: float) -> Scalar:
        return Scalar(value, abs(value) * 0.003, "residual", status, advice, sampling)

    measures = {
        "loss": {
            "train": Scalar(train),
            "test": Scalar(train + gap),
            "gap": Scalar(gap),
            "seconds": 0.1,
            "evaluations": 2,
        },
        "accuracy": {"train": Scalar(1.0), "test": Scalar(0.94), "gap": Scalar(-0.06)},
        "epsilon_sharpness": [
            scalar_fields(
                Scalar(28.19 * scale, None, "lower_bound", "lower_bound"),
                epsilon=epsilon,
                subspace=subspace,
                by_maximizer={"lbfgsb": 28.0, "corner": 28.19},
                evaluations=30,
                loss_at_maximum=0.7,
                loss=train,
                seconds=1.2,
            )
            for epsilon, subspace in ((1e-3, None), (5e-4, 100))
        ],
        "hessian": {
            "eigenvalues": [eigenvalue(x * scale) for x in (12.31, 8.2, 5.1, 4.2, 3.9)],
            "smallest": eigenvalue(-0.12 * scale),
            "ratio_1_5": Scalar(12.31 / 3.9, 0.02, "residual"),
            "products": 27,
            "size": 669706,
            "operator": "hessian",
            "seconds": 3.1,
        },
        "trace": scalar_fields(
            Scalar(153.0 * scale, 2.3, "standard_error"), products=10, seconds=1.0
        ),
        "gradient": {
            "norm": Scalar(1.2e-3),
            "l1": Scalar(0.3),
            "max": Scalar(1e-4),
            "evaluations": 1,
            "seconds": 0.1,
        },
    }
    checkpoint = {
        "path": path,
        "sha256": hashlib.sha256(path.encode()).hexdigest(),
        "parameters": 669706,
        "metadata": dict(metadata or {}),
        "notes": [],
    }
    return CheckpointResult(checkpoint, measures={**measures, **more})


def made_up_document(results: Sequence[CheckpointResult], **run: Any) -> Document:
    """A `measure` document of these results; keywords change its run settings."""
    settings = {
        "split": "train",
        "samples": None,
        "batch_size": None,
        "device": "auto",
        "dtype": "float32",
        "mode": "eval",
        "seed": 0,
        **run,
    }
    environment = {"sharpcli": "0.1.0", "python": "3.12", "torch": "2.6", "device": "cpu"}
    examples = {"train": 1437, "test": 360}
    task = {"name": "digits", "options": {}, "fingerprint": "ab12", "examples": examples}
    return to_document(Report("measure", {"run": settings}, environment, task, results))


@pytest.fixture(scope="session")
def result() -> Callable[..., CheckpointResult]:
    return made_up_result


@pytest.fixture(scope="session")
def document() -> Callable[..., Document]:
    return made_up_document


@pytest.fixture(scope="session")
def failed() -> Callable[[str], CheckpointResult]:
    def make(path: str) -> CheckpointResult:
        failure = Failure(f"{path}: tensor 'fc.weight' is missing", "name the right task")
        return CheckpointResult({"path": path}, "failed", error=failure)

    return make


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process handle Ctrl-C as the command line's does."""
    handler = signal.getsignal(signal.SIGINT)
    state: dict[str, object] = {"_installed": True, "_process": os.getpid(), "_begun": True}
    # A command that ended in this process before has left its marks.
    state |= dict.fromkeys(("_deferring", "_holding", "_waiting", "_finished"), False)
    state["_received"] = None
    for name, value in state.items():
        monkeypatch.setattr(interruption, name, value)
    signal.signal(signal.SIGINT, interruption._on_signal)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def sweep() -> Document:
    """Two optimizers, two batch sizes, three seeds; the gap goes with the sharpness."""
    results = [
        made_up_result(
            f"runs/{optimizer}-{batch}-{seed}/model.safetensors",
            {"optimizer": optimizer, "batch_size": batch, "seed": seed, "epochs": 20},
            scale=scale * (1 + 0.1 * seed),
            gap=0.1 * scale * (1 + 0.1 * seed),
        )
        for optimizer, batch, scale in (
            ("sgd", 32, 1.0),
            ("sgd", 400, 9.0),
            ("adam", 32, 1.5),
            ("adam", 400, 11.0),
        )
        for seed in (0, 1, 2)
    ]
    return made_up_document(results)
