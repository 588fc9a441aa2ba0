"""What the callbacks for transformers and Lightning cost, how far λ1 is off, and equal weights."""

from __future__ import annotations

import importlib.util
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from problem import Setting, mnist
from report import Bar, Section
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sharpcli import MeasureSettings, measure_model
from sharpcli.runs.callbacks.monitor import Monitor
from sharpcli.tasks import load_task

NAME = "callbacks"
_EVERY, _STEPS, _REPEATS, _SHORT = 200, 1000, 5, 20
_SEEDS = 3  # samples of the same weights that are measured
_COST, _OFF, _COVERED = 0.10, 0.10, 0.90
_KEY = "sharpness/hessian.eigenvalues[0]"
_EXACTLY = 0.03  # of λ1 of all data
_QUICK = 48  # rows of the data of a quick run
_WINDOW, _VOCABULARY = 64, 256


@dataclass(frozen=True)
class Case:
    """λ1 of a sample as the callback gives it, of the same sample in float64, and of all data."""

    step: int
    printed: float
    error: float
    sampling_error: float
    sample: float
    data: float

    @property
    def holds(self) -> bool:
        """Whether λ1 of all data is within two standard errors, and the error of computing it."""
        return abs(self.printed - self.data) <= 2 * self.sampling_error + self.error


@dataclass
class Trained:
    """A training: seconds of processor and wall time, weights, λ1 by step, and its references."""

    seconds: float
    wall: float
    weights: Mapping[str, torch.Tensor]
    found: Sequence[int]
    cases: Sequence[Case]
    examples: int = 0


def run(setting: Setting) -> Section:
    every, steps = (2, 4) if setting.quick else (_EVERY, _STEPS)
    section = Section(
        NAME,
        "Sharpness during a training with transformers and Lightning",
        f"λ1 every {every} of {steps} steps at the callbacks' defaults: processor and wall time "
        "against the same training without, in turns (the bar takes the fastest of each), and its "
        "weights. λ1 of the callback's "
        f"sample, and of {_SEEDS - 1} others of that size, against λ1 of the same examples and "
        "weights in float64, and against that of all training data: within means within twice the "
        "sampling error that the callback prints, and its error. GPT-2 with 2 layers of width 64 "
        f"on 1,024 windows of {_WINDOW} bytes of text, 16 in a batch; a convolutional network on "
        f"4,000 images, 64 in a batch. A training of {_SHORT} steps asks for λ1 every "
        f"{_SHORT // 4}.",
    )
    kinds = {"transformers": _with_transformers, "lightning": _with_lightning}
    costs, errors = [], []
    for name, train in kinds.items():
        if importlib.util.find_spec(name) is None:
            section.notes.append(f"{name} is not installed")
            continue
        limits = {"share": None, "samples": 24} if setting.quick else {}
        repeats = 1 if setting.quick else _REPEATS
        train(2, 2, limits or {"share": None, "samples": 32})  # imports what both need
        more, measured = _more(train, steps, every, limits, repeats)
        checked = train(steps, every, limits, check=2 if setting.quick else _SEEDS)
        short, in_short = _more(train, _SHORT, _SHORT // 4, {}, 1 if setting.quick else 2 * repeats)
        for what, each in ((f"{steps} steps", more), (f"{_SHORT} steps", short)):
            costs.append((name, what, _listed(each.processor), _listed(each.wall), each.same))
        off = [case.printed / case.sample - 1 for case in checked.cases]
        away = [case.printed / case.data - 1 for case in checked.cases]
        holds = [case.holds for case in checked.cases]
        claimed = [case.sampling_error / case.printed for case in checked.cases]
        for step in dict.fromkeys(case.step for case in checked.cases):
            at = [index for index, case in enumerate(checked.cases) if case.step == step]
            errors.append(
                (
                    name,
                    f"{step}",
                    f"{checked.examples:,}",
                    ", ".join(f"{off[index]:+.1%}" for index in at),
                    ", ".join(f"{away[index]:+.0%}" for index in at),
                    ", ".join(f"{claimed[index]:.0%}" for index in at),
                    f"{sum(holds[index] for index in at)} of {len(at)}",
                )
            )
        cost, typical = more.cost, statistics.median(map(abs, off or [math.inf]))
        covered = sum(holds) / max(len(holds), 1)
        brief = short.cost
        section.bars += [
            Bar(f"{name}: more processor time", f"{cost:.1%}", f"≤ {_COST:.0%}", cost <= _COST),
            Bar(
                f"{name}: more processor time, {_SHORT} steps, {in_short} measurements",
                f"{brief:.1%}",
                f"≤ {_COST:.0%}",
                brief <= _COST,
            ),
            Bar(
                f"{name}: λ1 off, median",
                f"{typical:.1%}" if off else "none measured",
                f"≤ {_OFF:.0%}",
                typical <= _OFF,
            ),
            Bar(
                f"{name}: λ1 of the data within",
                f"{sum(holds)} of {len(holds)}",
                f"≥ {_COVERED:.0%}",
                covered >= _COVERED,
            ),
            Bar(
                f"{name}: measured where due",
                f"{measured} of {steps // every}",
                "all but one",
                measured >= steps // every - 1,
            ),
            Bar(
                f"{name}: weights are the same",
                f"{more.equal + short.equal} of {more.count + short.count}",
                "all",
                more.equal + short.equal == more.count + short.count,
            ),
        ]
    header = ("trainer", "training", "more processor time", "more wall time", "equal weights")
    section.tables.append(("With the callback", header, costs))
    header = ("trainer", "step", "examples", "λ1 off", "from λ1 of the data", "± printed", "within")
    section.tables.append(("λ1", header, errors))
    return section


@dataclass
class _Compared:
    """Trainings with and without the callback, in turns, and how much longer the former take."""

    processor: list[float]
    wall: list[float]
    seconds: list[tuple[float, float]]  # of processor time, with and without
    equal: int = 0

    @property
    def cost(self) -> float:
        """How much longer the fastest with it takes than the fastest without: one varies by 5 %."""
        watched, plain = (min(each) for each in zip(*self.seconds, strict=True))
        return watched / plain - 1

    @property
    def count(self) -> int:
        return len(self.wall)

    @property
    def same(self) -> str:
        return f"{self.equal} of {self.count}"


def _more(
    train: Callable[..., Trained], steps: int, every: int, limits: Mapping[str, Any], repeats: int
) -> tuple[_Compared, int]:
    """How much longer it takes with the callback; the fewest measurements of a training."""
    compared, fewest = _Compared([], [], []), steps
    for turn in range(repeats):
        order = (None, limits) if turn % 2 else (limits, None)
        pair = [train(steps, every, each) for each in order]
        plain, watched = pair if turn % 2 else pair[::-1]
        compared.seconds.append((watched.seconds, plain.seconds))
        compared.processor.append(watched.seconds / plain.seconds - 1)
        compared.wall.append(watched.wall / plain.wall - 1)
        fewest = min(fewest, len(watched.found))
        compared.equal += all(
            torch.equal(plain.weights[key], watched.weights[key]) for key in plain.weights
        )
    return compared, fewest


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{each:+.1%}" for each in ratios)


def _text() -> torch.Tensor:
    inputs: torch.Tensor = load_task("text", {"context": str(_WINDOW)}).data("train")[0]
    return inputs


def _with_transformers(
    steps: int, every: int, limits: Mapping[str, Any] | None, *, check: int = 0
) -> Trained:
    import transformers

    from sharpcli import TransformersCallback

    logging.getLogger("sharpcli").setLevel(logging.ERROR)
    inputs = _text()[: _QUICK if steps < _STEPS and check else None]

    class Windows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(inputs)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": inputs[index], "labels": inputs[index]}

    def loss(scores: torch.Tensor, batch: Any) -> torch.Tensor:
        each = nn.functional.cross_entropy(
            scores[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten(), reduction="none"
        )
        return each.view(len(scores), -1).mean(1)

    def predict(model: nn.Module, batch: Any) -> torch.Tensor:
        found: torch.Tensor = model(input_ids=batch[0]).logits
        return found

    class Check(transformers.TrainerCallback):  # type: ignore[misc]
        """References, right after the callback has measured."""

        def __init__(self) -> None:
            self.cases: list[Case] = []

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any, model: Any, **_: Any
        ) -> None:
            if _KEY in logs:
                self.cases += _cases(
                    *(watch.monitor, logs, state.global_step, check, model),
                    loader=trainer.get_train_dataloader(),
                    of_rows=lambda batch: (batch["input_ids"], batch["labels"]),
                    loss=loss,
                    predict=predict,
                )

    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=_VOCABULARY, n_positions=_WINDOW, n_embd=64, n_layer=2, n_head=4,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            transformers.GPT2LMHeadModel(config),
            transformers.TrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=16, learning_rate=3e-3,
                report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=Windows(),
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        references = Check()
        if limits is not None:
            watch = TransformersCallback(trainer, every=every, **limits)
            trainer.add_callback(watch)
        if check:
            trainer.add_callback(references)
        seconds, wall = _seconds(trainer.train)
    rows = [row for row in trainer.state.log_history if _KEY in row]
    return Trained(
        seconds,
        wall,
        dict(trainer.model.state_dict()),
        [row["step"] for row in rows],
        references.cases,
        int(rows[0]["sharpness/examples"]) if rows else 0,
    )


def _with_lightning(
    steps: int, every: int, limits: Mapping[str, Any] | None, *, check: int = 0
) -> Trained:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers.logger import DummyLogger

    from sharpcli import LightningCallback

    for name in ("sharpcli", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    images, classes = mnist(_QUICK if steps < _STEPS and check else 4000)
    images = images.reshape(-1, 1, 28, 28)

    class Kept(DummyLogger):  # type: ignore[misc]
        """Keeps what is logged, and references of the same weights."""

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[dict[str, float]] = []
            self.cases: list[Case] = []

        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            if _KEY in metrics:
                self.rows.append({**metrics, "step": step})
                if check:
                    self.cases += _cases(
                        *(watch.monitor, metrics, step, check, model),
                        loader=loader,
                        of_rows=tuple,
                    )

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 8, 3, stride=2), nn.GELU(), nn.Conv2d(8, 16, 3, stride=2), nn.GELU(),
                nn.Flatten(), nn.Linear(16 * 36, 10),
            )  # fmt: skip

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.net(batch)
            return found

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    pl.seed_everything(0, verbose=False)
    model, logger = Module(), Kept()
    watch = LightningCallback(every=every, **(limits or {}))
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=logger,
        callbacks=[] if limits is None else [watch],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(images, classes), batch_size=64, shuffle=True)
    seconds, wall = _seconds(lambda: trainer.fit(model, loader))
    return Trained(
        seconds,
        wall,
        dict(model.state_dict()),
        [int(row["step"]) for row in logger.rows],
        logger.cases,
        int(logger.rows[0]["sharpness/examples"]) if logger.rows else 0,
    )


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of processor and wall time."""
    started, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - started, time.perf_counter() - wall


def _cases(
    monitor: Monitor,
    logged: Mapping[str, float],
    step: int,
    count: int,
    model: nn.Module,
    *,
    loader: Any,
    of_rows: Callable[[Any], Any],
    **functions: Any,
) -> list[Case]:
    """What a callback has logged, and what those of other seeds log of the same weights."""
    size = int(logged["sharpness/examples"])
    found: list[tuple[Monitor, Mapping[str, float]]] = [(monitor, logged)]
    for seed in range(1, count):
        other = Monitor(every=1, share=None, samples=size, seed=seed)
        other.begin(model, loader)
        if other.due(1):
            found.append((other, other.measure(1, model)))
    all_of_it = Monitor(every=1, share=None, samples=len(loader.dataset), tolerance=_EXACTLY)
    all_of_it.begin(model, loader)
    of_data = all_of_it.measure(1, model)[_KEY] if all_of_it.due(1) else math.nan
    return [
        Case(
            step,
            numbers[_KEY],
            numbers[f"{_KEY}.error"],
            numbers[f"{_KEY}.sampling_error"],
            _reference(model, of_rows(each.rows.batch), **functions),
            of_data,
        )
        for each, numbers in found
        if each.rows is not None
    ]


def _reference(model: nn.Module, data: Any, **functions: Any) -> float:
    """λ1 in float64, to a residual of 1 %: the value's own error is about its square."""
    settings = MeasureSettings(measures=("largest-eigenvalue",), tol=0.01)
    report = measure_model(model, data, settings=settings, dtype="float64", **functions)
    return report.scalars()["largest_eigenvalue"]
