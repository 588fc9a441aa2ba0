"""`sharp schedule`: learning-rate policies listed, drawn, and rewritten at one noise scale."""

from __future__ import annotations

from typing import Any, get_args

import click

from sharpcli.cli import completion
from sharpcli.cli.exit_codes import exit_code
from sharpcli.cli.options.given import given, refuse_unread
from sharpcli.cli.options.output import output_options, plot_option
from sharpcli.cli.parameter_types import POSITIVE, NumberType, WholeType
from sharpcli.documents.results import to_document
from sharpcli.errors import UsageError
from sharpcli.settings.output import OutputSettings
from sharpcli.settings.schedule import Rewriting, ScheduleSettings

__all__ = ["schedule"]

_MOST_STEPS = 10_000_000  # as long as any run; the lists still fit into memory
_OF_REWRITINGS = {
    "to_batch_size": "linear-scaling",
    "to_momentum": "momentum",
    "max_batch": "batch-size",
}
_OF_A_SCHEDULE = (
    *("steps", "batch_size", "batch_schedule", "examples", "momentum", "rewrite"),
    *(*_OF_REWRITINGS, "plot_files"),
)
_MOMENTUM = NumberType(0, 1)


@click.command(
    "schedule",
    epilog="""\b
Examples:
  sharp schedule
  sharp schedule 'TRI(k0=0.001, k1=0.1, l=200)' --steps 1000
  sharp schedule 'cosine(0.1, steps=900):900, 0.001' --plot rate.svg
  sharp schedule 'EXP(1, 0.99)' --as batch-size --batch-size 9 --examples 900""",
)
@click.argument("spec", required=False, metavar="[SPEC]", shell_complete=completion.policies)
@click.option(
    "--steps",
    type=WholeType(1, _MOST_STEPS),
    default=ScheduleSettings("").steps,
    show_default=True,
    metavar="N",
    help="How many updates to draw.",
)
@click.option("--batch-size", type=POSITIVE, metavar="N", help="Examples an update.")
@click.option(
    "--batch-schedule",
    metavar="SPEC",
    shell_complete=completion.policies,
    help="The batch size by step, written as a schedule too.",
)
@click.option(
    "--examples",
    type=POSITIVE,
    metavar="N",
    help="Examples of the training data; with the batch size it gives the noise scale.",
)
@click.option(
    "--momentum",
    type=_MOMENTUM,
    default=ScheduleSettings("").momentum,
    show_default=True,
    metavar="M",
    help="The optimizer's momentum.",
)
@click.option(
    "--as",
    "rewrite",
    type=click.Choice(get_args(Rewriting)),
    help="Rewrite it at the same noise scale: a decaying rate as a growing batch, or for another "
    "batch size or momentum.",
)
@click.option(
    "--to-batch-size", type=POSITIVE, metavar="N", help="With --as linear-scaling: the batch size."
)
@click.option(
    "--to-momentum", type=_MOMENTUM, metavar="M", help="With --as momentum: the momentum."
)
@click.option(
    "--max-batch",
    type=POSITIVE,
    metavar="N",
    help="With --as batch-size or momentum: the largest batch; where it is reached, the rate "
    "decays. Default: a tenth of the examples.",
)
@output_options
@plot_option("schedule")
def schedule(spec: str | None, output: OutputSettings, **asked: Any) -> int:
    """List learning-rate policies, draw one, or rewrite it.

    Without SPEC it lists all policies with their formulas. SPEC is one of them with its parameters,
    such as 'TRI(k0=0.001, k1=0.1, l=200)', or several with lengths in steps:
    'warmup(0.1, steps=50):50, EXP(k0=0.1, gamma=0.99)'. Draws the rate, the batch size and the
    noise scale g = η(N/B−1), with momentum ηN/(B(1−m)). With --as it says how many updates the
    rewritten schedule takes for the same examples. Needs no torch, no task and no checkpoint.
    """
    from sharpcli.render import emit
    from sharpcli.runs.schedule import list_policies, schedule_values

    if spec is None:
        refuse_unread(_OF_A_SCHEDULE, "without a schedule", "name one, such as 'FIX(k0=0.1)'")
        document = to_document(list_policies())
    else:
        _refuse_unread(asked["rewrite"])
        document = to_document(schedule_values(ScheduleSettings(schedule=spec, **asked)))
    emit(document, output)
    return exit_code(document)


def _refuse_unread(rewrite: str | None) -> None:
    """Refuse options of rewritings that are not asked for."""
    for name, of in _OF_REWRITINGS.items():
        read = rewrite == of or (name == "max_batch" and rewrite == "momentum")
        if not read and given([name]):
            raise UsageError(f"{given([name])[0]}: has no effect without --as {of}", "add it")
