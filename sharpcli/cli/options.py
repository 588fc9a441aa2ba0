"""Options that several commands share; a command gets each group as one value.

`@task_options` passes `task` and `task_options`, `@run_options` passes `run: RunSettings`,
whose `parameters` `@parameters_option` fills, `@curvature_options` passes
`curvature: CurvatureSettings`, `@output_options` passes `output: OutputSettings`, whose `plot`
`@plot_option` fills.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from sharpcli.cli import completion
from sharpcli.cli.parameter_types import DEVICE, NAME_VALUE, POSITIVE, SEED, SIZE
from sharpcli.documents.labels import CHECKPOINT_SUFFIXES
from sharpcli.errors import UsageError
from sharpcli.render.formats import FORMATS
from sharpcli.render.kinds import FIGURES
from sharpcli.runtime.destinations import is_special
from sharpcli.runtime.files import reserved
from sharpcli.settings.curvature import CurvatureSettings, Operator, ProductMode
from sharpcli.settings.measuring import RunSettings
from sharpcli.settings.output import OutputSettings

__all__ = [
    "curvature_options",
    "each_once",
    "exploring_run_options",
    "given",
    "output_options",
    "parameters_option",
    "plot_option",
    "refuse_overwriting",
    "refuse_unread",
    "resume_option",
    "run_options",
    "task_argument",
    "task_options",
    "weights_option",
]

Command = Callable[..., Any]


def task_options(command: Command) -> Command:
    """Add --task and -O; the command gets `task: str | None, task_options: dict[str, str]`."""

    @functools.wraps(command)
    def with_task(*args: Any, **kwargs: Any) -> Any:
        context = click.get_current_context()
        named = kwargs.pop("task_argument", None)
        task = kwargs.pop("task")
        if named is not None:
            if given(["task"]):
                raise UsageError(
                    f"the task is named twice: '{named}' and --task {task}", "name it once"
                )
            task = named
        bound = _as_dict(kwargs.pop("option_pairs"), context, task)
        with _naming_the_source(context):
            return command(*args, task=task, task_options=bound, **kwargs)

    return _decorate(
        with_task,
        click.option(
            "--task",
            "-t",
            metavar="TASK",
            shell_complete=completion.tasks,
            envvar="SHARP_TASK",
            show_envvar=True,
            help="The model and data: a file (task.py), an object (package.module:name) or a "
            "built-in task's name (see `sharp tasks`).",
        ),
        click.option(
            "--option",
            "-O",
            "option_pairs",
            multiple=True,
            type=NAME_VALUE,
            metavar="NAME=VALUE",
            shell_complete=completion.task_options,
            help="An option of the task, such as -O width=128. Repeatable.",
        ),
    )


def task_argument(command: Command) -> Command:
    """`task_options` for commands whose first argument may name the task."""
    return _decorate(
        task_options(command),
        click.argument(
            "task_argument", metavar="[TASK]", required=False, shell_complete=completion.tasks
        ),
    )


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
    return _decorate(
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
    return _decorate(
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
    return _decorate(
        command,
        click.option(
            "--parameters",
            multiple=True,
            metavar="PATTERN",
            help="Only the parameters whose names match, such as 'layer4.*' (quote it); the others "
            "stay fixed. Repeatable. Default: all.",
        ),
    )


def output_options(command: Command) -> Command:
    """Add the options of the result's file and format; the command gets `output`."""

    @functools.wraps(command)
    def with_output(*args: Any, **kwargs: Any) -> Any:
        output = OutputSettings(
            format=_chosen_format(
                kwargs.pop("output_format"), kwargs.pop("as_json"), kwargs["output_file"]
            ),
            output=kwargs.pop("output_file"),
            quiet=kwargs.pop("quiet"),
            strict=kwargs.pop("strict"),
            verbose=kwargs.pop("verbose"),
            plot=tuple(dict.fromkeys(kwargs.pop("plot_files", ()))),
        )
        for path in output.plot:
            from sharpcli.render.files.plotting import check_plot

            check_plot(path)
        if output.quiet and output.verbose:
            raise UsageError("--quiet and --verbose exclude each other", "give one of them")
        outputs = [("--output", output.output), *(("--plot", path) for path in output.plot)]
        refuse_overwriting(*outputs)
        _refuse_replacing_a_checkpoint(*outputs)
        with reserved(output.output, *output.plot):
            return command(*args, output=output, **kwargs)

    return _decorate(
        with_output,
        click.option(
            "--format",
            "output_format",
            type=click.Choice(list(FORMATS)),
            default=OutputSettings().format,
            show_default=True,
            help="The form of the result. With --output, by default as its suffix says.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Short for --format json."),
        click.option(
            "--output",
            "output_file",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write the result to FILE instead of to the screen, completely or not at all.",
        ),
        click.option("--quiet", is_flag=True, help="No progress and no notes on stderr."),
        click.option(
            "--strict", is_flag=True, help="Exit with code 3 if some number did not converge."
        ),
        click.option("--verbose", is_flag=True, help="Print more details on stderr."),
    )


def plot_option(command: Command) -> Command:
    """Add --plot; `output_options` passes its files on as `output.plot`.

    Suffix, folder and drawing library are checked before the command's body runs.
    """
    drawn = ", ".join(suffix for suffix, needed in FIGURES.items() if needed)
    drawn = drawn.replace(".html", ".html (interactive)")
    exported = ", ".join(suffix for suffix, needed in FIGURES.items() if not needed)
    return _decorate(
        command,
        click.option(
            "--plot",
            "plot_files",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"Draw the result to FILE too: {drawn}, or {exported} to "
            "draw it elsewhere. Repeatable.",
        ),
    )


def resume_option(command: Command) -> Command:
    """Add --resume; the command gets `resume: bool`."""
    return _decorate(
        command,
        click.option(
            "--resume/--no-resume",
            default=True,
            show_default=True,
            help="With --output: go on from the checkpoints that a killed run has finished, which "
            "FILE.partial holds, or start over.",
        ),
    )


def given(names: Collection[str]) -> list[str]:
    """The options of these parameters that the command line itself gives, as written there.

    Values in sharp.toml do not count, because they apply to other runs too.
    """
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.get_params(context)
        if option.name in names
        and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]


def refuse_unread(names: Collection[str], why: str, hint: str) -> None:
    """Raise `UsageError` if the command line gives one of these options, which have no effect here.

    `why` completes the sentence "has no effect".

    Raises:
        UsageError: One of the options is given.
    """
    for option in given(names):
        raise UsageError(f"{option}: has no effect {why}", hint)


def refuse_overwriting(*outputs: tuple[str, Path | None]) -> None:
    """Refuse to write a file that the command also reads, or that is named twice.

    Args:
        outputs: Pairs of an option that names a file to write, and its path.

    Raises:
        UsageError: A file would be overwritten.
    """
    context = click.get_current_context()
    taken = {
        os.path.realpath(path): f"{path}, which is read here"
        for name in _READ
        for path in _texts(context.params.get(name))
        if os.path.isfile(path)  # noqa: PTH113 (a task's name may not be a valid path)
    }
    for option, path in outputs:
        if path is None or is_special(path):
            continue
        target = os.path.realpath(path)
        if target in taken:
            raise UsageError(
                f"{option} {path}: would overwrite {taken[target]}",
                "name another file to write",
            )
        taken[target] = f"the file of {option}, which is also written"


def _refuse_replacing_a_checkpoint(*outputs: tuple[str, Path | None]) -> None:
    """Raise `UsageError` if a result would replace what looks like a checkpoint."""
    for option, path in outputs:
        if path is None or is_special(path) or not os.path.exists(path):  # noqa: PTH110 (never raises)
            continue
        # The index of a sharded checkpoint is JSON, as a result is.
        if path.suffix.lower() in CHECKPOINT_SUFFIXES or path.name.endswith(".index.json"):
            raise UsageError(
                f"{option} {path}: would overwrite a file that looks like a checkpoint",
                "name a file such as result.json",
            )


def _texts(value: Any) -> Iterator[str]:
    """The strings in a parameter's value: one, a tuple, or a tuple of tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _texts(each)


# The parameters that name files to read.
_READ = (
    *("checkpoints", "checkpoint", "results", "result"),
    *("mark", "trajectory", "task", "task_argument", "init"),
)


def _decorate(command: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):  # Click lists them in the order in which they were written
        command = option(command)
    return command


@contextlib.contextmanager
def _naming_the_source(context: click.Context) -> Iterator[None]:
    """Add to a missing task file's error where its name comes from, if not the command line."""
    by = {
        ParameterSource.ENVIRONMENT: "SHARP_TASK",
        ParameterSource.DEFAULT_MAP: "the configuration file",
    }
    try:
        yield
    except UsageError as error:
        from sharpcli.tasks.source import NoTaskFileError

        source = context.get_parameter_source("task")
        if source not in by or not isinstance(error, NoTaskFileError):
            raise
        raise UsageError(
            f"{by[source]} names the task {error.message}",
            "correct it there, or name another task with --task",
        ) from error


def _as_dict(
    pairs: tuple[tuple[str, str], ...], context: click.Context, task: str | None
) -> dict[str, str]:
    """The task's options from the configuration file, overridden by those given with -O.

    The file's options belong to the file's task; they are dropped if another task is named.

    An option that is given twice is a `UsageError`.
    """
    defaults = context.default_map or {}
    in_file = [NAME_VALUE.convert(text, None, None) for text in defaults.get("option_pairs", ())]
    if not given(["option_pairs"]):
        pairs = ()
    own = each_once("-O", pairs, "give each option of the task once")
    if "task" in defaults and task != defaults["task"]:
        in_file = []
    return {**dict(in_file), **own}


def each_once(option: str, pairs: Sequence[tuple[str, str]], hint: str) -> dict[str, str]:
    """The values by name that an option like -O gives.

    Raises:
        UsageError: A name is given twice.
    """
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"{option} {twice[0]} is given twice", hint)
    return dict(pairs)


def _chosen_format(chosen: Any, as_json: bool, output: Path | None) -> Any:
    """The output format; --json has the same priority as a --format given in the same place.

    Without either, the suffix of the file to write decides.

    Raises:
        UsageError: Both are given and differ.
    """
    context = click.get_current_context()
    if not as_json and context.get_parameter_source("output_format") is ParameterSource.DEFAULT:
        by_suffix = {form.suffix: name for name, form in FORMATS.items()}
        return by_suffix.get(output.suffix.lower(), chosen) if output else chosen
    if not as_json or chosen == "json":
        return chosen
    json_from = context.get_parameter_source("as_json")
    format_from = context.get_parameter_source("output_format")
    if format_from is ParameterSource.DEFAULT or json_from is ParameterSource.COMMANDLINE:
        if json_from is format_from:
            raise UsageError(f"--json and --format {chosen} exclude each other", "give one of them")
        return "json"
    return chosen
