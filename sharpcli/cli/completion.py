"""What a shell completes: files, measures, tasks, their options, optimizers and policies.

Nothing here imports torch, and nothing raises: a failure would print into the line that is typed.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

__all__ = [
    "files",
    "measures",
    "measures_in_a_list",
    "names",
    "optimizers",
    "policies",
    "task_options",
    "tasks",
]

Items = list[CompletionItem]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 (Click's signature)
    """Files, by the shell itself."""
    return [CompletionItem(incomplete, type="file")]


def names(known: Iterable[str], incomplete: str) -> Items:
    """Those of the names that begin so."""
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


def measures(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 (Click's signature)
    """The measures with what each one means, and `all`."""
    from sharpcli.measures import known_measures

    known = {"all": "every measure"}
    known |= {name: known.meaning for name, known in known_measures(strict=False).items()}
    return [
        CompletionItem(name, help=meaning)
        for name, meaning in known.items()
        if name.startswith(incomplete)
    ]


def measures_in_a_list(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The measures, after those that a list such as `hessian,loss` already has."""
    before, comma, last = incomplete.rpartition(",")
    given = set(before.split(","))
    return [
        CompletionItem(before + comma + item.value, help=item.help)
        for item in measures(ctx, param, last)
        if item.value not in {*given, "all"}
    ]


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The built-in tasks and the Python files here; any file where none of both begins so."""
    from sharpcli.tasks import builtin_tasks

    found = [
        CompletionItem(task.name, help=task.summary)
        for task in builtin_tasks().values()
        if task.name.startswith(incomplete)
    ]
    found += names(sorted(glob.glob(f"{glob.escape(incomplete)}*.py")), "")  # noqa: PTH207 (no **)
    return found or files(ctx, param, incomplete)


def task_options(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 (Click's signature)
    """The options of a built-in task, as `width=`; no other task's code is run."""
    from sharpcli.tasks import builtin_tasks

    # Click gives up on arguments where an option has no value yet, and leaves them in `args`.
    given = [ctx.params.get("task_argument"), ctx.params.get("task"), *ctx.args]
    for task in (builtin_tasks().get(str(name)) for name in given):
        if task is not None:
            return names((f"{option.name}=" for option in task.options()), incomplete)
    return []


def optimizers(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 (Click's signature)
    """The optimizers with defaults of sharp's own; other names are too many to list."""
    from sharpcli.training.optimizers import OPTIMIZERS

    return names(OPTIMIZERS, incomplete)


def policies(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 (Click's signature)
    """The policies of a schedule, up to their parenthesis."""
    from sharpcli.training.policies import POLICIES

    return [
        CompletionItem(f"{policy.usage.partition('(')[0]}(", help=policy.formula)
        for policy in POLICIES.values()
        if policy.usage.startswith(incomplete)
    ]
