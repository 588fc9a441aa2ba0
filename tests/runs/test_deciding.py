"""`measure_checkpoints` that grows one sample until the order of the checkpoints is decided."""

import re

import pytest
import torch
from sharpcli.documents.scalars import flat_scalars
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.results import to_document
from sharpcli.errors import UsageError
from sharpcli.runs.measure import measure_checkpoints
from sharpcli.runtime.progress import Notes
from sharpcli.tasks import Task, defaults

EXAMPLES = 2048
LEADING = "hessian.eigenvalues[0]"


def quadratic(count=EXAMPLES):
    """Losses ½ Σⱼ (θⱼ xᵢⱼ)²: the Hessian is the diagonal of the mean squares of the columns."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, generator=generator) * torch.tensor([2.0, 1.0, 0.5])

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, rows):
            return rows * self.weight.square()

    return Task(
        name="quadratic",
        options={},
        fingerprint="",
        model=Product,
        data={"train": (inputs, inputs), "test": None}.__getitem__,
        predict=defaults.predict,
        loss=lambda outputs, batch: outputs.square().sum(1) / 12,
        metrics=lambda outputs, batch: {},
    )


def largest(weight, inputs):
    """L = mean Σ x² w⁴/12, so that the Hessian is diag(w² · mean x²)."""
    return float((torch.tensor(weight).square() * inputs.square().mean(0)).max())


@pytest.fixture
def written(tmp_path):
    def write(**weights):
        paths = []
        for name, weight in weights.items():
            paths.append(tmp_path / f"{name}.safetensors")
            save_checkpoint(paths[-1], {"weight": torch.tensor(weight)}, {})
        return paths

    return write


def decided(paths, task=None, said=None, samples=None, seed=0, **settings):
    notes = Notes(said.append) if said is not None else Notes()
    return measure_checkpoints(
        paths,
        task or quadratic(),
        run=RunSettings(device="cpu", samples=samples, seed=seed),
        settings=MeasureSettings(**({"decide": "hessian"} | settings)),
        notes=notes,
    )


def test_a_large_difference_is_decided_on_the_first_sample(written):
    paths = written(a=[1.0, 1.0, 1.0], b=[3.0, 3.0, 3.0])
    report = decided(paths)
    decision = report.decision
    assert decision.order == [str(paths[1]), str(paths[0])]
    assert (decision.decided, decision.examples, decision.examples_in_all) == (True, 256, EXAMPLES)
    assert [pair.verdict for pair in report.pairs if pair.measure == LEADING] == ["flatter"]
    assert [each.checkpoint["examples"] for each in report.results] == [256, 256]
    assert list(report.results[0].measures) == ["hessian"]
    assert "smallest" not in report.results[0].measures["hessian"]
    assert decision.share == pytest.approx(256 / EXAMPLES)
    assert decision.full.products == decision.products


def test_a_small_difference_grows_one_shared_sample(written):
    # The largest curvature moves from the first column to the second, whose errors are independent.
    said = []
    paths = written(a=[1.0, 0.1, 0.1], b=[0.1, 2.2, 0.1])
    decision = decided(paths, said=said).decision
    assert decision.order == [str(paths[1]), str(paths[0])]
    assert 256 < decision.examples < EXAMPLES
    assert decision.looks[0].examples == 256
    assert re.fullmatch(
        r"256 of 2,048 examples: λ1 of a is [\d.]+ \[[\d.]+, [\d.]+\] × that of b; trying 512",
        said[0],
    )
    levels = [look.level for look in decision.looks]
    assert levels == sorted(levels, reverse=True)


def test_equal_checkpoints_are_undecided_on_all_data(written):
    paths = written(a=[1.0, 0.5, 0.2], b=[-1.0, 0.5, 0.2])
    report = decided(paths)
    assert (report.decision.decided, report.decision.order) == (False, None)
    assert report.decision.examples == EXAMPLES
    assert [look.examples for look in report.decision.looks] == [256, 512, 1024, 2048]
    assert [pair.verdict for pair in report.pairs] == ["undecided"]


def test_all_data_decide_what_no_sample_does(written):
    task = quadratic()
    inputs = task.data("train")[0]
    ratio = float(inputs[:, 0].square().mean() / inputs[:, 1].square().mean()) ** 0.5
    weights = {"a": [1.0, 0.1, 0.1], "b": [0.1, ratio * 1.004, 0.1]}
    report = decided(written(**weights), task)
    assert report.decision.examples == EXAMPLES
    assert report.decision.decided
    for result, weight in zip(report.results, weights.values(), strict=True):
        found = result.measures["hessian"]["eigenvalues"][0]
        assert abs(found.value - largest(weight, inputs)) <= found.error + 1e-6


def test_a_decided_checkpoint_is_not_measured_again(written):
    paths = written(a=[1.0, 0.5, 0.2], b=[3.0, 3.0, 3.0], c=[-1.0, 0.5, 0.2])
    report = decided(paths)
    assert [each.checkpoint["examples"] for each in report.results] == [EXAMPLES, 256, EXAMPLES]
    verdicts = {(p.a, p.b): p.verdict for p in report.pairs if p.measure == LEADING}
    assert list(verdicts.values()) == ["flatter", "undecided", "sharper"]


def test_other_measures_are_taken_on_the_sample_that_decided(written):
    paths = written(a=[1.0, 0.5, 0.2], b=[3.0, 3.0, 3.0], c=[-1.0, 0.5, 0.2])
    report = decided(paths, measures=("loss", "trace"))
    assert [each.checkpoint["examples"] for each in report.results] == [EXAMPLES] * 3
    for result in report.results:
        assert set(result.measures) == {"loss", "trace", "hessian"}
    decisive = [pair for pair in report.pairs if pair.measure == LEADING]
    assert len(decisive) == 3
    assert {pair.measure for pair in report.pairs} >= {"loss.train", "trace"}
    full = decided(paths, measures=("hessian",)).results[0].measures["hessian"]
    assert "smallest" in full


def test_any_number_decides_by_its_flat_key(written):
    paths = written(a=[1.0, 1.0, 1.0], b=[3.0, 3.0, 3.0])
    for key in ("trace", "loss", "hessian.eigenvalues[1]", "gradient.max", "hessian.smallest"):
        report = decided(paths, decide=key)
        expected = {"loss": "loss.train"}.get(key, key)
        assert report.decision.measure == expected
        assert report.decision.decided, key
        assert expected in flat_scalars(to_document(report)["results"][0]["measures"])


def test_a_baseline_is_compared_with_the_others(written):
    paths = written(a=[1.0, 1.0, 1.0], b=[3.0, 3.0, 3.0], c=[-3.0, 3.0, 3.0])
    report = decided(paths, baseline="a")
    assert (report.decision.decided, report.decision.order) == (True, None)
    assert report.decision.examples == 256
    base = str(paths[0])
    assert [(p.b, p.verdict) for p in report.pairs] == [(base, "sharper"), (base, "sharper")]
    with pytest.raises(UsageError, match='baseline="x": matches no checkpoint') as refused:
        decided(paths, baseline="x")
    assert refused.value.hint == "name one of them: a, b, c"


def test_a_checkpoint_that_cannot_be_measured_is_left_out(written, tmp_path):
    paths = written(a=[1.0, 1.0, 1.0], b=[3.0, 3.0, 3.0])
    missing = tmp_path / "missing.safetensors"
    report = decided([paths[0], missing, paths[1]])
    assert [each.status for each in report.results] == ["ok", "failed", "ok"]
    assert report.decision.order == [str(paths[1]), str(paths[0])]
    said = []
    alone = decided([paths[0], missing], said=said)
    assert alone.decision is None
    assert any("no order, because only 1 of 2 checkpoints could be measured" in x for x in said)
    said = []
    assert decided([missing, *paths], said=said, baseline="missing").decision is None
    assert any("no order, because the baseline could not be measured" in x for x in said)
    assert [each.status for each in alone.results] == ["ok", "failed"]


def test_samples_is_the_first_size(written):
    paths = written(a=[1.0, 1.0, 1.0], b=[9.0, 9.0, 9.0])
    assert decided(paths, samples=300).decision.examples == 300
    few = decided(paths, quadratic(100)).decision
    assert (few.examples, few.examples_in_all, len(few.looks)) == (100, 100, 1)


@pytest.mark.parametrize(
    ("settings", "run", "message"),
    [
        ({"decide": "hessan"}, {}, "there is no such measure or number"),
        ({"decide": "loss.foo"}, {}, "loss gives no such number"),
        ({"decide": "hessian"}, {"split": "both"}, "one split decides"),
        ({"decide": "hessian"}, {"fixed_batch": 8}, "couples the examples"),
    ],
)
def test_what_cannot_be_decided_is_refused(settings, run, message, written):
    paths = written(a=[1.0, 1.0, 1.0], b=[3.0, 3.0, 3.0])
    with pytest.raises(UsageError, match=message):
        measure_checkpoints(
            paths,
            quadratic(),
            run=RunSettings(device="cpu", **run),
            settings=MeasureSettings(**settings),
        )


def test_one_checkpoint_and_contradictions_are_refused(written):
    (path,) = written(a=[1.0, 1.0, 1.0])
    with pytest.raises(UsageError, match="there is one checkpoint only"):
        decided([path])
    with pytest.raises(UsageError, match="both determine the sample"):
        MeasureSettings(decide="hessian", sampling_error=0.1)
    with pytest.raises(UsageError, match="for all parameters together"):
        MeasureSettings(decide="hessian", by="layer")


def test_an_interrupt_keeps_the_last_finished_sample(written, monkeypatch):
    paths = written(a=[1.0, 0.5, 0.2], b=[-1.0, 0.5, 0.2])
    task = quadratic()
    calls = []
    whole = task.data

    def data(split):
        calls.append(split)
        if len(calls) > 2:  # the training data of the first two samples have been read
            raise KeyboardInterrupt
        return whole(split)

    object.__setattr__(task, "data", data)
    report = decided(paths, task)
    assert (report.decision.interrupted, report.decision.decided) == (True, False)
    assert [look.examples for look in report.decision.looks] == [256, 512]
    assert [each.checkpoint["examples"] for each in report.results] == [512, 512]


def test_a_number_of_the_weights_alone_is_decided_at_once(written):
    paths = written(a=[1.0, 1.0, 1.0], b=[1.0, 1.0, 1.01])
    report = decided(paths, decide="parameter-norms")
    assert (report.decision.decided, report.decision.examples) == (True, 256)
    assert [pair.verdict for pair in report.pairs] == ["lower"] * len(report.pairs)
