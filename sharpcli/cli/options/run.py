"""The options of data, arithmetic and curvature; each group is one frozen dataclass of settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args

import click

from sharpcli.cli.options.given import Command, decorate
from sharpcli.cli.parameter_types import DEVICE, POSITIVE, SEED, SIZE
from sharpcli.settings.curvature import CurvatureSettings, Operator, ProductMode
from sharpcli.settings.measuring import RunSettings

__all__ = [
    "curvature_options",
    "exploring_run_options",
    "parameters_option",
    "run_options",
    "weights_option",
]


def run_options(command: Command) -> Command:
    """Add the options of data, arithmetic and device; the command gets `run: RunSettings`."""
    return _run_options(
        command,
        click.option(
            "--split",
            type=click.Choice(["train", "test"]),
            default=RunSettings().split,
            show_default=True,
            help="The data on which the loss is measured.",
        ),
    )


def exploring_run_options(command: Command) -> Command:
    """`run_options` for commands that draw both splits by default."""
    return _run_options(
        command,
        click.option(
            "--split",
            type=click.Choice(["train", "test", "both"]),
            default="both",
            show_default=True,
            help="The data on which the loss is drawn.",
        ),
    )


def _run_options(command: Command, split: Callable[[Command], Command]) -> Command:
    @functools.wraps(command)
    def with_run(*args: Any, **kwargs: Any) -> Any:
        names = ("split", "samples", "batch_size", "fixed_batch", "device", "dtype", "tf32")
        more = ("mode", "seed", "weights", "partial")
        given = {name: kwargs.pop(name) for name in (*names, *more)}
        run = RunSettings(**given, parameters=tuple(dict.fromkeys(kwargs.pop("parameters", ()))))
        return command(*args, run=run, **kwargs)

    default = RunSettings()
    return decorate(
        with_run,
        split,
        click.option(
            "--samples",
            type=POSITIVE,
            metavar="N",
            help="Measure on N random examples, chosen by the seed; the result then includes its "
            "sampling error. Default: all.",
        ),
        click.option(
            "--batch-size",
            type=POSITIVE,
            metavar="N",
            help="Examples in memory at once; never changes the answer. Default: automatic.",
        ),
        click.option(
            "--fixed-batch",
            type=POSITIVE,
            metavar="N",
            help="For a loss that couples the examples of a batch: define it on consecutive "
            "batches of N, which the result states. Default: a mean over independent examples.",
        ),
        click.option(
            "--device",
            type=DEVICE,
            metavar="NAME",
            default=default.device,
            show_default=True,
            help="auto, cpu, cuda, cuda:1 or mps.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float64", "bfloat16"]),
            default=default.dtype,
            show_default=True,
            help="The arithmetic.",
        ),
        click.option(
            "--tf32",
            is_flag=True,
            help="On a GPU, allow TF32 for float32 products: faster, about three significant "
            "digits. Default: off, regardless of PyTorch's setting.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["eval", "train"]),
            default=default.mode,
            show_default=True,
            help="The mode of the model's layers; train uses batch statistics and dropout.",
        ),
        click.option(
            "--seed",
            type=SEED,
            metavar="N",
            default=default.seed,
            show_default=True,
            help="The seed of everything random.",
        ),
        weights_option(),
        click.option(
            "--partial",
            is_flag=True,
            help="The checkpoint holds a part of the model, such as an adapter or a head: measure "
            "it, with the rest as the task's model() makes it.",
        ),
    )


def weights_option() -> Callable[[Command], Command]:
    """The option --weights, which names a part of a checkpoint."""
    return click.option(
        "--weights",
        metavar="KEY",
        help="Which weights in the checkpoint: a key such as ema, or a prefix of names such as "
        "backbone. Default: those that fit the model.",
    )


def curvature_options(command: Command) -> Command:
    """Add the options of curvature; the command gets `curvature: CurvatureSettings`."""

    @functools.wraps(command)
    def with_curvature(*args: Any, **kwargs: Any) -> Any:
        names = ("operator", "hvp", "memory")
        curvature = CurvatureSettings(**{name: kwargs.pop(name) for name in names})
        return command(*args, curvature=curvature, **kwargs)

    default = CurvatureSettings()
    return decorate(
        with_curvature,
        click.option(
            "--operator",
            type=click.Choice(get_args(Operator)),
            default=default.operator,
            show_default=True,
            help="The curvature matrix: the Hessian, the generalized Gauss-Newton matrix, the "
            "model's Fisher, or the empirical Fisher (from the gradients of the data).",
        ),
        click.option(
            "--hvp",
            type=click.Choice(get_args(ProductMode)),
            metavar="MODE",
            default=default.hvp,
            show_default=True,
            help="How a Hessian-vector product is differentiated: "
            f"{', '.join(get_args(ProductMode))}. auto takes the fastest for the model; "
            "finite-difference is for models without second derivatives.",
        ),
        click.option(
            "--memory",
            type=SIZE,
            metavar="SIZE",
            help="Memory to use in addition to the model, such as 500MB or 2GB: data, kept graphs, "
            "eigenvectors and batches are sized to fit. Default: what is free.",
        ),
    )


def parameters_option(command: Command) -> Command:
    """Add --parameters; `run_options` passes it on as `run.parameters`."""
    return decorate(
        command,
        click.option(
            "--parameters",
            multiple=True,
            metavar="PATTERN",
            help="Only the parameters whose names match, such as 'layer4.*' (quote it); the others "
            "stay fixed. Repeatable. Default: all.",
        ),
    )
