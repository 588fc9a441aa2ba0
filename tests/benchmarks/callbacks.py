"""What the callbacks for transformers and Lightning cost, how far λ1 is off, and equal weights."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from problem import Setting, mnist
from report import Bar, Section
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sharpcli import MeasureSettings, measure_model
from sharpcli.tasks import load_task

NAME = "callbacks"
_EVERY, _STEPS, _REPEATS = 200, 1000, 3
_COST, _OFF = 0.10, 0.10
_KEY = "sharpness/hessian.eigenvalues[0]"
_WINDOW, _VOCABULARY = 64, 256


@dataclass
class Trained:
    """A training: seconds of processor and wall time, weights, λ1 by step, and the true ones."""

    seconds: float
    weights: Mapping[str, torch.Tensor]
    found: dict[int, float]
    true: dict[int, float]
    examples: int = 0


def run(setting: Setting) -> Section:
    every, steps = (5, 20) if setting.quick else (_EVERY, _STEPS)
    section = Section(
        NAME,
        "Sharpness during a training with transformers and Lightning",
        f"λ1 every {every} of {steps} steps at the callbacks' defaults: processor time against the "
        "same training without, in turns; its weights; and λ1 of the callback's sample against "
        "that of all training data (of 1,024 windows of text). GPT-2 with 2 layers of width 64 on "
        f"windows of {_WINDOW} bytes of text, 16 in a batch; a convolutional network on 4,000 "
        "images, 64 in a batch.",
    )
    kinds = {"transformers": _with_transformers, "lightning": _with_lightning}
    rows = []
    for name, train in kinds.items():
        if importlib.util.find_spec(name) is None:
            section.notes.append(f"{name} is not installed")
            continue
        ratios, same, measured = [], [], steps
        for _ in range(1 if setting.quick else _REPEATS):
            plain, watched = (train(steps, every, watch) for watch in (False, True))
            ratios.append(watched.seconds / plain.seconds - 1)
            measured = min(measured, len(watched.found))
            same.append(
                all(torch.equal(plain.weights[key], watched.weights[key]) for key in plain.weights)
            )
        checked = train(steps, every, True, true=True)
        off = {step: checked.found[step] / true - 1 for step, true in checked.true.items()}
        rows.append(
            (
                name,
                ", ".join(f"{each:+.0%}" for each in ratios),
                f"{checked.examples:,}",
                ", ".join(f"{step}: {each:+.1%}" for step, each in off.items()),
            )
        )
        more = statistics.median(ratios)
        typical = statistics.median(map(abs, off.values())) if off else float("inf")
        section.bars += [
            Bar(f"{name}: more time", f"{more:.0%}", f"≤ {_COST:.0%}", more <= _COST),
            Bar(f"{name}: λ1 off, median", f"{typical:.1%}", f"≤ {_OFF:.0%}", typical <= _OFF),
            Bar(
                f"{name}: measured where due",
                f"{measured} of {steps // every}",
                "all but one",
                measured >= steps // every - 1,
            ),
            Bar(
                f"{name}: weights are the same",
                f"{sum(same)} of {len(same)}",
                "all",
                all(same),
            ),
        ]
    header = ("trainer", "more time, each", "examples", "λ1 off, by step")
    section.tables.append(("With the callback", header, rows))
    return section


def _text() -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = load_task("text", {"context": str(_WINDOW)}).data("train")
    return inputs, targets


def _with_transformers(steps: int, every: int, watch: bool, *, true: bool = False) -> Trained:
    import transformers

    from sharpcli import TransformersCallback

    logging.getLogger("sharpcli").setLevel(logging.ERROR)
    inputs, _ = _text()
    limits = _limits(steps)

    class Windows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(inputs)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": inputs[index], "labels": inputs[index]}

    class Truth(transformers.TrainerCallback):  # type: ignore[misc]
        """λ1 of many windows, right after the callback has measured."""

        def __init__(self) -> None:
            self.found: dict[int, float] = {}

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any, model: Any, **_: Any
        ) -> None:
            if _KEY in logs:
                some = inputs[torch.randperm(len(inputs), generator=_generator())[:1024]]
                self.found[state.global_step] = _true(
                    model,
                    (some, some),
                    loss=lambda scores, batch: (
                        nn.functional.cross_entropy(
                            scores[:, :-1].flatten(0, 1),
                            batch[1][:, 1:].flatten(),
                            reduction="none",
                        )
                        .view(len(scores), -1)
                        .mean(1)
                    ),
                    predict=lambda model, batch: model(input_ids=batch[0]).logits,
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
        truth = Truth()
        if watch:
            trainer.add_callback(TransformersCallback(trainer, every=every, **limits))
        if true:
            trainer.add_callback(truth)
        seconds = _seconds(trainer.train)
    rows = [row for row in trainer.state.log_history if _KEY in row]
    return Trained(
        seconds,
        dict(trainer.model.state_dict()),
        {row["step"]: row[_KEY] for row in rows},
        truth.found,
        int(rows[0]["sharpness/examples"]) if rows else 0,
    )


def _with_lightning(steps: int, every: int, watch: bool, *, true: bool = False) -> Trained:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers.logger import DummyLogger

    from sharpcli import LightningCallback

    for name in ("sharpcli", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    images, classes = mnist(4000)
    images = images.reshape(-1, 1, 28, 28)
    limits = _limits(steps)

    class Kept(DummyLogger):  # type: ignore[misc]
        """Keeps what is logged, and λ1 of all images at the same place."""

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[dict[str, float]] = []
            self.true: dict[int, float] = {}

        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            if _KEY in metrics:
                self.rows.append({**metrics, "step": step})
                if true:
                    self.true[step] = _true(model, (images, classes))

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
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=logger,
        callbacks=[LightningCallback(every=every, **limits)] if watch else [],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(images, classes), batch_size=64, shuffle=True)
    seconds = _seconds(lambda: trainer.fit(model, loader))
    return Trained(
        seconds,
        dict(model.state_dict()),
        {int(row["step"]): row[_KEY] for row in logger.rows},
        logger.true,
        int(logger.rows[0]["sharpness/examples"]) if logger.rows else 0,
    )


def _limits(steps: int) -> dict[str, Any]:
    """The defaults; no limit where a few steps only show that all of it runs."""
    return {} if steps >= _STEPS else {"share": None, "samples": 64}


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _true(model: nn.Module, data: Any, **functions: Any) -> float:
    """λ1 of all the data."""
    settings = MeasureSettings(measures=("hessian",), top=1, tol=0.01)
    report = measure_model(model, data, settings=settings, **functions)
    return report.scalars()["hessian.eigenvalues[0]"]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)
