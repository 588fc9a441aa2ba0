"""Checkpoint files in, a report out: the call behind `sharp measure`."""

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from networks import (
    CASES,
    UNEVEN,
    Attention,
    WrongSecond,
    dense_eigenvalues,
    dense_loss,
    mlp,
    task,
    tokens,
    vectors,
)
from sharpcli.documents.scalars import flat_scalars
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn
from torch.nn import functional

from sharpcli import measures
from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.results import to_document
from sharpcli.errors import SharpError, UsageError
from sharpcli.measures import Measure, Option
from sharpcli.runs.measure import measure_checkpoints, measure_model
from sharpcli.runs.study import prepare
from sharpcli.runtime.devices import resolve_device
from sharpcli.tasks import defaults

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text("utf-8"))
QUICK = MeasureSettings(epsilons=(1e-3,), top=2)
ONLY_LOSS = MeasureSettings(measures=("loss",))


@pytest.fixture
def written(tmp_path):
    """Writes a task's own starting weights, changed by a function, to a file."""

    def write(of, name="model.safetensors", change=lambda tensors: tensors, **metadata):
        tensors = {k: v.clone() for k, v in of.model().state_dict().items()}
        path = tmp_path / name
        save_checkpoint(path, change(tensors), metadata)
        return path

    return write


def measured(paths, of, settings=QUICK, **run):
    paths = paths if isinstance(paths, list) else [paths]
    return measure_checkpoints(paths, of, run=RunSettings(device="cpu", **run), settings=settings)


def failure(report, index=0):
    result = report.results[index]
    assert result.status == "failed"
    assert result.measures == {}
    return result.error


def numbers(report):
    """Every scalar of the first result by its flat key."""
    document = to_document(report)
    assert document["results"][0]["status"] == "ok", document["results"][0]
    return {k: v["value"] for k, v in flat_scalars(document["results"][0]["measures"]).items()}


@pytest.mark.parametrize("name", ["tanh", "encoder", "ignored_tokens", "mapping", "tied"])
def test_a_report_is_whole_and_follows_the_schema(name, written):
    path = written(CASES[name], optimizer="adam", lr=0.1)
    settings = MeasureSettings(epsilons=(1e-3,), subspaces=(None, 4))
    report = measured(path, CASES[name], settings)
    document = to_document(report)
    jsonschema.validate(document, SCHEMA)
    result = document["results"][0]
    assert result["status"] == "ok"
    assert result["checkpoint"]["metadata"]["optimizer"] == "adam"
    assert len(result["checkpoint"]["sha256"]) == 64
    assert result["measures"]["loss"]["train"]["value"] == pytest.approx(dense_loss(name), rel=1e-6)
    found = result["measures"]["hessian"]["eigenvalues"]
    truth = dense_eigenvalues(name).tolist()
    for scalar, true in zip(found, truth, strict=False):
        assert abs(scalar["value"] - true) <= scalar["error"]
    assert [entry["subspace"] for entry in result["measures"]["epsilon_sharpness"]] == [None, 4]
    assert document["task"]["examples"] == {"train": 23, "test": 11}
    assert document["settings"]["measure"]["top"] == 5
    assert not [warning for warning in result.get("warnings", []) if "second deriv" in warning]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["tanh", "batch_norm", "ignored_tokens", "mapping"])
def test_the_batch_size_changes_no_number(name, dtype, written):
    path = written(CASES[name])
    settings = MeasureSettings(
        epsilons=(1e-3,), subspaces=(None, 5), tol=1e-7, top=3, relative_error=0.2
    )
    whole = numbers(measured(path, CASES[name], settings, dtype=dtype, batch_size=UNEVEN[0]))
    limit = {"float64": 1e-12, "float32": 1e-5}[dtype]
    for size in UNEVEN[1:]:
        split = numbers(measured(path, CASES[name], settings, dtype=dtype, batch_size=size))
        assert split.keys() == whole.keys()
        for key, value in whole.items():
            # Eigenvalues are known relative to λ1, a gap relative to the losses it is between.
            scale = abs(value)
            if key.startswith("hessian"):
                scale = max(scale, abs(whole["hessian.eigenvalues[0]"]))
            elif key.startswith("loss"):
                scale = max(scale, abs(whole["loss.train"]))
            assert abs(split[key] - value) <= limit * scale, key


# What a run leaves as it was


def state_of(model):
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "pointers": {k: v.data_ptr() for k, v in model.state_dict().items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "grads": {k: None if p.grad is None else p.grad.clone() for k, p in named(model)},
        "requires": {k: p.requires_grad for k, p in named(model)},
        "hooks": [len(module._forward_hooks) for module in model.modules()],
    }


def named(model):
    return list(model.named_parameters())


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return left == right


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["batch_norm", "encoder", "frozen"])
def test_the_model_that_the_task_hands_out_is_left_bit_identical(name, dtype, written):
    path = written(CASES[name])
    live = CASES[name].model()
    live.train()
    next(live.children()).eval()
    parameters = [p for p in live.parameters() if p.requires_grad]
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[-1].requires_grad_(False)
    before = state_of(live)
    of = replace(CASES[name], model=lambda: live)
    report = measured([path, path], of, replace(QUICK, subspaces=(None, 3)), dtype=dtype)
    assert [result.status for result in report.results] == ["ok", "ok"]
    assert same(state_of(live), before)


def test_the_global_random_states_are_left_as_they_were(written):
    def seeds_everything(which):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        torch.rand(3)
        return CASES["tanh"].data(which)

    of = replace(CASES["tanh"], data=seeds_everything)
    path = written(of)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    measured(path, of)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_nothing_depends_on_the_global_random_states(written):
    path = written(CASES["tanh"])
    torch.manual_seed(1)
    first = numbers(measured(path, CASES["tanh"]))
    torch.manual_seed(2)
    assert numbers(measured(path, CASES["tanh"])) == first


def test_switches_of_torch_are_left_as_they_were(written):
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    fast = torch.backends.mha.get_fastpath_enabled()
    measured(written(CASES["encoder"]), CASES["encoder"])
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == before
    assert torch.backends.mha.get_fastpath_enabled() == fast


# Checkpoints


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_measured_in_float32(half, written):
    of = CASES["batch_norm"]

    def narrowed(tensors):
        return {k: v.to(half) if v.is_floating_point() else v for k, v in tensors.items()}

    def rounded(tensors):
        return {k: v.float() if v.is_floating_point() else v for k, v in narrowed(tensors).items()}

    half_path = written(of, "half.safetensors", narrowed)
    single_path = written(of, "single.safetensors", rounded)
    assert numbers(measured(half_path, of)) == numbers(measured(single_path, of))


def test_a_checkpoints_own_buffers_are_used(written):
    of = CASES["batch_norm"]
    moved = written(
        of,
        "moved.safetensors",
        lambda t: {k: v + 1 if "running" in k else v for k, v in t.items()},
    )
    both = measured([written(of), moved], of, ONLY_LOSS)
    losses = [result.measures["loss"]["train"].value for result in both.results]
    assert losses[0] == pytest.approx(dense_loss("batch_norm"), rel=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_stops_that_checkpoint_alone(bad, written):
    def broken(tensors):
        tensors["2.weight"][0, 0] = bad
        return tensors

    of = CASES["tanh"]
    paths = [written(of, "a.safetensors", broken), written(of, "b.safetensors")]
    report = measured(paths, of)
    said = failure(report)
    assert f"{paths[0]}: the tensor '2.weight' holds NaN or Inf" in said.message
    assert "before the run diverged" in said.hint
    assert report.results[1].status == "ok"


@pytest.mark.parametrize("chosen", [(), ("hessian",), ("trace",), ("gradient",), ("loss",)])
def test_a_nan_loss_names_the_module_whatever_is_measured(chosen, written):
    def huge(tensors):
        tensors["0.weight"] *= 1e38
        tensors["2.weight"] *= 1e38
        return tensors

    of = task(lambda: mlp(5, 9, 8, 3, activation=nn.SiLU), vectors(5, 3))
    report = measured(written(of, change=huge), of, replace(QUICK, measures=chosen))
    said = failure(report)
    assert "the loss is" in said.message
    assert "the output of '2' is not finite" in said.message


def test_a_nan_gradient_names_the_parameter(written):
    def root(outputs, batch):
        return (outputs - outputs.detach()).square().sum(1).sqrt()

    of = task(lambda: mlp(5, 3), vectors(5, 3), loss=root)
    said = failure(measured(written(of), of, MeasureSettings(measures=("hessian",))))
    assert "the gradient is not finite, first in '0.weight'" in said.message


def test_missing_files_and_tensors_fail_in_their_place(written, tmp_path):
    of = CASES["tanh"]

    def lacking(tensors):
        del tensors["4.bias"]
        return tensors

    paths = [
        tmp_path / "nowhere.safetensors",
        written(of, "lacks.safetensors", lacking),
        written(of, "fine.safetensors"),
    ]
    report = measured(paths, of)
    assert "nowhere.safetensors" in failure(report, 0).message
    assert "4.bias" in failure(report, 1).message
    assert report.results[2].status == "ok"
    jsonschema.validate(to_document(report), SCHEMA)


# Tasks that are not one fixed function


def dropping(model, batch):
    return functional.dropout(model(batch[0]), 0.5, training=True)


def training(model, batch):
    return model.train()(batch[0])


@pytest.mark.parametrize(
    ("name", "parts", "said"),
    [
        ("tanh", {"predict": dropping}, "two evaluations of the same batch differ"),
        ("batch_norm", {"predict": training}, "changes the buffer '1."),
        ("encoder", {"predict": training}, "active dropout in layer.dropout"),
        (
            "tanh",
            {"loss": lambda o, b: functional.cross_entropy(o, b[1])},
            "loss gave a single number for a batch of",
        ),
        ("tanh", {"loss": lambda o, b: o.detach().sum(1)}, "the loss has no gradient"),
    ],
)
def test_what_is_not_a_fixed_differentiable_mean_is_refused(name, parts, said, written):
    of = replace(CASES[name], **parts)
    error = failure(measured(written(of), of))
    assert said in error.message
    assert error.hint


def test_random_data_are_refused_before_anything_is_measured(written):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            return torch.randn(5), index % 3

    of = replace(CASES["tanh"], data=lambda which: Noisy())
    with pytest.raises(SharpError, match="another row when the same row is read twice"):
        measured(written(of), of)


def test_all_tokens_ignored_is_said(written):
    def ignored(count, generator):
        words, targets = tokens(count, generator)
        return words, torch.full_like(targets, defaults.IGNORED)

    of = task(Attention, ignored)
    said = failure(measured(written(of), of))
    assert "every target of the data is ignored" in said.message


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.last(WrongSecond.apply(self.first(inputs)))


def test_wrong_second_derivatives_are_suspect_and_the_rest_is_not(written):
    of = task(Squares, vectors(5, 3))
    found = measured(written(of), of).results[0]
    assert found.status == "ok"
    assert {scalar.status for scalar in found.measures["hessian"]["eigenvalues"]} == {"suspect"}
    assert "wrong or no second derivative" in found.measures["hessian"]["eigenvalues"][0].advice
    assert found.measures["trace"]["status"] == "suspect"
    assert found.measures["gradient"]["norm"].status == "converged"


@pytest.mark.parametrize("name", CASES)
def test_right_second_derivatives_are_never_suspect(name, written):
    of = CASES[name]
    found = measured(written(of), of, replace(QUICK, measures=("hessian",))).results[0]
    assert {scalar.status for scalar in found.measures["hessian"]["eigenvalues"]} == {"converged"}
    assert not found.warnings


# Settings


def test_each_dtype_says_how_exact_it_is(written):
    path = written(CASES["gelu"])
    errors = {}
    for dtype in ("float64", "float32", "bfloat16"):
        settings = replace(QUICK, measures=("hessian",), tol=1e-8)
        found = measured(path, CASES["gelu"], settings, dtype=dtype).results[0].measures["hessian"]
        errors[dtype] = found["eigenvalues"][0].error
        assert found["eigenvalues"][0].value == pytest.approx(
            float(dense_eigenvalues("gelu")[0]), rel=0.05
        )
    assert 10 * errors["float64"] < errors["float32"] < errors["bfloat16"] / 10


def test_the_test_split_can_be_measured(written):
    path = written(CASES["tanh"])
    train, test = (
        numbers(measured(path, CASES["tanh"], split=split)) for split in ("train", "test")
    )
    assert train["loss.train"] == test["loss.train"]
    assert train["hessian.eigenvalues[0]"] != test["hessian.eigenvalues[0]"]


def test_samples_carry_their_sampling_error(written):
    of = replace(CASES["tanh"], data=lambda w: vectors(5, 3)(64, torch.Generator().manual_seed(0)))
    report = measured(written(of), of, samples=40)
    document = to_document(report)
    assert document["task"]["examples"]["train"] == 40
    found = document["results"][0]["measures"]
    for scalar in (
        found["loss"]["train"],
        found["hessian"]["eigenvalues"][0],
        found["epsilon_sharpness"][0],
    ):
        assert scalar["sampling_error"] > 0


def test_two_minima_at_different_losses_are_warned_of(written):
    of = CASES["tanh"]

    def sharper(tensors):
        tensors["4.bias"][0] += 9
        return tensors

    report = measured([written(of), written(of, "worse.safetensors", sharper)], of, ONLY_LOSS)
    assert len(report.warnings) == 1
    assert "training losses" in report.warnings[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (replace(QUICK, top=162), "top=162: the model has only 161 parameters"),
        (replace(QUICK, measures=("hesian",)), r"measures=\['hesian'\]: there is no such"),
        (replace(QUICK, subspaces=(162,)), "subspaces=162: the model has only 161 parameters"),
    ],
)
def test_what_cannot_be_asked_of_this_model_is_misuse(settings, said, written):
    with pytest.raises(UsageError, match=said) as caught:
        measured(written(CASES["tanh"]), CASES["tanh"], settings)
    assert caught.value.hint


def test_the_default_number_of_eigenvalues_fits_every_model():
    inputs = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    report = measure_model(
        nn.Linear(1, 1),
        (inputs, 2 * inputs),
        loss=lambda outputs, batch: (outputs - batch[1]).square().sum(1),
        settings=MeasureSettings(measures=("hessian",)),
    )
    assert len(report.results[0].measures["hessian"]["eigenvalues"]) == 2


def test_a_device_that_there_is_not_is_misuse():
    with pytest.raises(UsageError, match='device="cuda:99": this PyTorch'):
        resolve_device("cuda:99")
    with pytest.raises(UsageError, match='device="cuda:99999999999": '):
        resolve_device("cuda:99999999999")
    assert resolve_device("cpu").type == "cpu"


def test_no_task_at_all_says_where_one_comes_from(written):
    with pytest.raises(UsageError, match="no task: a checkpoint has tensors only") as caught:
        measure_checkpoints([written(CASES["tanh"])], run=RunSettings(device="cpu"))
    assert "name one with task" in caught.value.hint


def test_metadata_can_name_no_file_as_a_task(written, tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('ran')", "utf-8")
    path = written(CASES["tanh"], task=str(trap))
    said = failure(measure_checkpoints([path], run=RunSettings(device="cpu")))
    assert "a checkpoint cannot choose code to run" in said.message


def test_ctrl_c_keeps_what_is_finished(written):
    of = CASES["tanh"]
    paths = [written(of, f"{i}.safetensors") for i in range(3)]
    begun = []

    def begin(name):
        begun.append(name)
        if name.startswith("1, 2 of 3:"):
            raise KeyboardInterrupt
        return lambda done, total: None

    report = measure_checkpoints(
        paths, of, run=RunSettings(device="cpu"), settings=ONLY_LOSS, begin=begin
    )
    assert [result.status for result in report.results] == ["ok", "failed", "failed"]
    assert "interrupted" in failure(report, 2).message


def test_what_does_not_fit_into_memory_stops_that_checkpoint_alone(written):
    def predict(model, batch):
        if float(model[4].bias[0].detach()) > 5:
            raise torch.OutOfMemoryError("tried to allocate 9.00 GiB")
        return model(batch[0])

    def marked(tensors):
        tensors["4.bias"][0] = 9
        return tensors

    of = replace(CASES["tanh"], predict=predict)
    report = measured([written(of, "a.safetensors", marked), written(of)], of, ONLY_LOSS)
    assert "out of memory" in failure(report).message
    assert report.results[1].status == "ok"


def test_the_data_are_read_once_for_all_checkpoints(written):
    reads = []

    def data(which):
        reads.append(which)
        return CASES["tanh"].data(which)

    of = replace(CASES["tanh"], data=data)
    measured([written(of, f"{i}.safetensors") for i in range(3)], of, ONLY_LOSS)
    assert reads == ["train", "test"]


def test_a_prepared_study_holds_both_splits():
    study = prepare(CASES["tanh"], RunSettings(device="cpu"), torch.device("cpu"))
    assert {name: rows.count for name, rows in study.rows.items()} == {"train": 23, "test": 11}


def test_options_that_a_measure_brings_reach_it_and_the_document(monkeypatch):
    doubled = Measure(
        *("doubled", "m", "f", "c", "i", "s", "w"),
        compute=lambda context: {"doubled": {"value": 2 * context.settings.options["rho"]}},
        options=(Option("rho", 0.5, "the radius"),),
        reads=(),
    )
    entry = SimpleNamespace(name="doubled", value="a:b", load=lambda: doubled)
    monkeypatch.setattr(measures, "entry_points", lambda group: [entry])
    model, data = nn.Linear(3, 2), (torch.randn(8, 3), torch.randint(2, (8,)))
    for options, expected in (({}, 0.5), ({"rho": 2.0}, 2.0)):
        asked = MeasureSettings(measures=("doubled",), options=options)
        report = measure_model(model, data, settings=asked)
        assert report.settings["measure"]["options"] == {"rho": expected}
        assert report.results[0].measures["doubled"]["value"] == 2 * expected
    assert "options" not in measure_model(model, data, settings=ONLY_LOSS).settings["measure"]
    with pytest.raises(UsageError, match="raduis: no measure has this option"):
        measure_model(model, data, settings=replace(ONLY_LOSS, options={"raduis": 1}))
