"""Schedules listed, evaluated and rewritten at the same noise scale: `sharp schedule`."""

from __future__ import annotations

import itertools
from dataclasses import asdict

from sharpcli.documents.environment import environment
from sharpcli.documents.results import Report
from sharpcli.documents.schedules import ListedPolicy, Scheduled
from sharpcli.errors import UsageError, setting
from sharpcli.settings.schedule import ScheduleSettings
from sharpcli.training.noise_scale import (
    Plan,
    as_batch_size,
    as_linear_scaling,
    as_momentum,
    default_max_batch,
)
from sharpcli.training.plateaus import PLATEAUS
from sharpcli.training.policies import POLICIES
from sharpcli.training.schedules import Schedule, constant_parts, parse_schedule

__all__ = ["list_policies", "schedule_values"]


def list_policies() -> Report:
    """All policies with their formulas, a result each; last those that look at the loss."""
    results = [
        ListedPolicy(
            name=policy.name,
            usage=policy.usage,
            formula=policy.formula,
            parameters=[parameter.name for parameter in policy.parameters],
        )
        for policy in (*POLICIES.values(), *PLATEAUS.values())
    ]
    return Report("policies", {}, environment(), {}, results)


def schedule_values(settings: ScheduleSettings) -> Report:
    """The rate, batch size and noise scale at each step, and of the rewritten schedule.

    A schedule that cannot be read or that looks at losses, a batch larger than the data, and a
    rewriting without room for its batches are `UsageError`s.
    """
    rates = _known_before(settings.schedule)
    lr = [rates.at(step) for step in range(settings.steps)]
    batches = _batch_sizes(settings)
    plan = Plan(lr, batches or [1] * len(lr), settings.momentum)
    asked = _result(
        name="schedule",
        plan=plan,
        schedule=rates.spec,
        batch_schedule=_batch_text(settings),
        examples=settings.examples,
    )
    if settings.rewrite is None:
        return Report("schedule", asdict(settings), environment(), {}, [asked])
    most = _max_batch(plan, settings)
    new = _rewritten(plan, settings, most)
    rewritten = _result(
        name=settings.rewrite,
        plan=new,
        schedule=constant_parts(new.lr),
        batch_schedule=constant_parts(new.batch_size),
        examples=settings.examples,
    )
    notes = _notes(plan, new, settings, most)
    both = [asked, rewritten]
    return Report("schedule", asdict(settings), environment(), {}, both, notes=notes)


def _known_before(spec: str) -> Schedule:
    """A schedule that depends on nothing but the step; raises `UsageError` for any other."""
    schedule = parse_schedule(spec)
    if schedule.observes:
        raise UsageError(
            f"schedule '{schedule.spec}': depends on the losses of a training, so its rates are "
            "not known before",
            "a training keeps them in its curves; draw a policy that is a formula",
        )
    return schedule


def _batch_text(settings: ScheduleSettings) -> str | None:
    if settings.batch_schedule is None and settings.batch_size is not None:
        return str(settings.batch_size)
    return settings.batch_schedule


def _batch_sizes(settings: ScheduleSettings) -> list[int] | None:
    """The batch size of each step; None where none is given."""
    if settings.batch_schedule is not None:
        schedule = _known_before(settings.batch_schedule)
        sizes = [schedule.batch_size_at(step) for step in range(settings.steps)]
        written = setting("batch_schedule", settings.batch_schedule)
    elif settings.batch_size is not None:
        sizes = [settings.batch_size] * settings.steps
        written = setting("batch_size", settings.batch_size)
    else:
        return None
    most = settings.examples
    if most is not None and max(sizes) > most:
        raise UsageError(
            f"{written}: a batch of {max(sizes):,} at step {sizes.index(max(sizes))} is more than "
            f"the {most:,} examples",
            "a batch takes at most all of the data",
        )
    return sizes


def _max_batch(plan: Plan, settings: ScheduleSettings) -> int:
    """The largest batch that a rewriting may take."""
    examples = settings.examples
    if examples is None:
        return max(plan.batch_size)
    most = settings.max_batch or default_max_batch(plan, examples)
    if not max(plan.batch_size) <= most < examples:
        raise UsageError(
            f"a batch of {max(plan.batch_size):,} leaves no room to grow to {most:,} of "
            f"{examples:,} examples",
            f"give a smaller batch size, or another {setting('max_batch')}",
        )
    return most


def _rewritten(plan: Plan, settings: ScheduleSettings, most: int) -> Plan:
    """The plan as asked for; `ScheduleSettings` has checked that what it needs is there."""
    examples, to_batch, to_momentum = (
        settings.examples,
        settings.to_batch_size,
        settings.to_momentum,
    )
    if settings.rewrite == "linear-scaling" and to_batch is not None:
        return as_linear_scaling(plan, to_batch, examples)
    if settings.rewrite == "momentum" and to_momentum is not None and examples is not None:
        return as_momentum(plan, to_momentum, examples, most)
    if settings.rewrite == "batch-size" and examples is not None:
        return as_batch_size(plan, examples, most)
    raise ValueError(f"{settings} lacks what {settings.rewrite} needs")


def _notes(plan: Plan, new: Plan, settings: ScheduleSettings, most: int) -> list[str]:
    """Where the batch may grow no more, and the rate goes on in its place."""
    if settings.rewrite == "linear-scaling" or most not in new.batch_size:
        return []
    # the rate without a limit: as high as ever before, or with another momentum the plan's own
    grows = settings.rewrite == "batch-size"
    free = itertools.accumulate(new.lr, max) if grows else [max(plan.lr)] * len(new.lr)
    lowered = grows or max(new.lr) < max(plan.lr)
    limited = [
        update
        for update, (lr, batch, kept) in enumerate(zip(new.lr, new.batch_size, free, strict=True))
        if lowered and batch == most and lr < kept
    ]
    if not limited:
        return []
    return [
        f"the batch is at most {most:,}: from update {limited[0]:,} on the rate makes up for it\n"
        f"  hint: {setting('max_batch')} sets the largest batch"
    ]


def _result(
    *, name: str, plan: Plan, schedule: str, batch_schedule: str | None, examples: int | None
) -> Scheduled:
    known = batch_schedule is not None
    return Scheduled(
        name=name,
        schedule=schedule,
        batch_schedule=batch_schedule,
        momentum=plan.momentum,
        updates=len(plan.lr),
        examples_seen=sum(plan.batch_size) if known else None,
        steps=range(len(plan.lr)),
        lr=plan.lr,
        batch_size=plan.batch_size if known else None,
        noise_scale=plan.noise_scales(examples) if known and examples is not None else None,
    )
