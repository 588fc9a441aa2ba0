"""Parameter subsets and layers against blocks of dense Hessians."""

import json
import math
from pathlib import Path

import jsonschema
import pytest
import torch
from networks import CASES, dense_gradient, dense_hessian, mlp, relative, task, vectors
from torch import nn

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.results import to_document, unconverged
from sharpcli.documents.scalars import flat_scalars
from sharpcli.errors import UsageError
from sharpcli.measures.context import Context
from sharpcli.objective.parameter_names import layers_of, matching
from sharpcli.runs.exploration import Beside
from sharpcli.runs.interpolate import interpolate_checkpoints
from sharpcli.runs.landscape import landscape_checkpoint
from sharpcli.runs.measure import measure_checkpoints, measure_model
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.exploring import DirectionSettings, GridSettings, LandscapeSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text("utf-8"))
CPU = torch.device("cpu")
CURVATURE = MeasureSettings(
    measures=("gradient", "hessian", "trace"), top=1, tol=1e-8, relative_error=1e-6
)
PINNED = CurvatureSettings(hvp="double-backward")  # the fastest mode may change between runs
CASES_WITH_BLOCKS = (
    *("tanh", "conv", "batch_norm", "layer_norm", "attention", "encoder", "tied"),
    *("ignored_tokens", "mapping", "unused", "frozen"),
)


@pytest.fixture
def written(tmp_path):
    """Writes a task's own starting weights to a file."""

    def write(of, name="model.safetensors"):
        save_checkpoint(tmp_path / name, of.model().state_dict(), {})
        return tmp_path / name

    return write


def measured(path, of, settings, begin=None, **run):
    paths = path if isinstance(path, list) else [path]
    run = RunSettings(device="cpu", **{"dtype": "float64", **run})
    more = {"begin": begin} if begin else {}
    report = measure_checkpoints(paths, of, run=run, settings=settings, **more)
    document = to_document(report)
    jsonschema.validate(document, SCHEMA)
    return document


def values(measures):
    """Every number of `measures` by its flat key."""
    return {key: scalar["value"] for key, scalar in flat_scalars(measures).items()}


def indices(of, names):
    """Where the parameters `names` lie in the θ of all."""
    places, start = {}, 0
    for name, tensor in of.model().named_parameters():
        if tensor.requires_grad:
            places[name] = torch.arange(start, start + tensor.numel())
            start += tensor.numel()
    return torch.cat([places[name] for name in names])


def check_block(of, name, names, found):
    """A block's numbers against those of the dense Hessian and gradient."""
    where = indices(of, names)
    block, gradient = dense_hessian(name)[where][:, where], dense_gradient(name)[where]
    scale = float(dense_hessian(name).abs().max())
    true = torch.linalg.eigvalsh(block)
    assert abs(found["hessian.eigenvalues[0]"] - float(true[-1])) <= 1e-6 * scale
    assert abs(found["hessian.smallest"] - float(true[0])) <= 1e-6 * scale
    assert abs(found["trace"] - float(block.trace())) <= 1e-5 * scale * len(block)
    assert found["gradient.norm"] == pytest.approx(float(gradient.norm()), rel=1e-9, abs=1e-14)
    assert found["gradient.max"] == pytest.approx(float(gradient.abs().max()), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("name", CASES_WITH_BLOCKS)
def test_each_layer_is_its_block_of_the_dense_hessian(name, written):
    of = CASES[name]
    by_layer = MeasureSettings(**{**CURVATURE.__dict__, "by": "layer"})
    (result,) = measured(written(of), of, by_layer)["results"]
    assert result["status"] == "ok"
    model = of.model()
    trained = [key for key, tensor in model.named_parameters() if tensor.requires_grad]
    layers = layers_of(model, trained)
    assert [layer["layer"] for layer in result["layers"]] == list(layers)
    assert sum(layer["parameters"] for layer in result["layers"]) == len(dense_hessian(name))
    for layer in result["layers"]:
        assert "error" not in layer
        check_block(of, name, layers[layer["layer"]], values(layer["measures"]))
    whole = values(result["measures"])
    each = [values(layer["measures"]) for layer in result["layers"]]
    traces = [part["measures"]["trace"] for part in (result, *result["layers"])]
    error = 4 * math.hypot(*(trace["error"] for trace in traces))
    total = math.fsum(x["trace"] for x in each)
    assert total == pytest.approx(whole["trace"], abs=error + 1e-9)
    assert total == pytest.approx(float(dense_hessian(name).trace()), abs=error + 1e-9)
    assert math.hypot(*(x["gradient.norm"] for x in each)) == pytest.approx(whole["gradient.norm"])
    assert max(x["hessian.eigenvalues[0]"] for x in each) <= whole["hessian.eigenvalues[0]"] * (
        1 + 1e-6
    )


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("tanh", ("2.*",)),
        ("tanh", ("*.bias",)),
        ("tanh", ("4.weight", "0.b*")),
        ("conv", ("[02].weight",)),
        ("batch_norm", ("1.*",)),
        ("tied", ("head.weight",)),
        ("tied", ("embed.*",)),
        ("encoder", ("layer.self_attn.*",)),
    ],
)
def test_a_subset_is_its_block_of_the_dense_hessian(name, patterns, written):
    of = CASES[name]
    document = measured(written(of), of, CURVATURE, parameters=patterns)
    assert document["settings"]["run"]["parameters"] == list(patterns)
    (result,) = document["results"]
    names = matching(of.model(), patterns)
    check_block(of, name, names, values(result["measures"]))
    about = result["checkpoint"]
    assert about["parameters"] == len(indices(of, names)) < about["parameters_in_all"]
    assert about["parameters_in_all"] == len(dense_hessian(name))


def test_layers_are_the_runs_of_their_parameters_and_the_whole_is_unchanged(written):
    of, path = CASES["tanh"], written(CASES["tanh"])
    quick = MeasureSettings(epsilons=(1e-3,), subspaces=(None, 20), top=2, curvature=PINNED)
    alone = measured(path, of, quick, dtype="float32")["results"][0]
    both = MeasureSettings(**{**quick.__dict__, "by": "layer"})
    (result,) = measured(path, of, both, dtype="float32")["results"]
    assert values(result["measures"]) == values(alone["measures"])
    assert [layer["layer"] for layer in result["layers"]] == ["0", "2", "4"]
    for layer in result["layers"]:
        run = measured(path, of, quick, dtype="float32", parameters=(f"{layer['layer']}.*",))
        one = values(run["results"][0]["measures"])
        found = values(layer["measures"])
        # Parameters that are fixed lie elsewhere in memory, and sums may take another order.
        assert found == pytest.approx({key: one[key] for key in found}, rel=1e-5)
        assert set(one) - set(found) == {
            *("loss.train", "loss.test", "loss.gap"),
            *("accuracy.train", "accuracy.test", "accuracy.gap"),
        }


def test_all_parameters_by_pattern_are_the_run_without_one(written):
    of, path = CASES["conv"], written(CASES["conv"])
    quick = MeasureSettings(epsilons=(1e-3,), top=2, curvature=PINNED)
    runs = [
        measured(path, of, quick, dtype="float32", parameters=patterns)["results"][0]
        for patterns in ((), ("*",))
    ]
    assert values(runs[0]["measures"]) == values(runs[1]["measures"])


def test_the_box_of_a_subset_moves_nothing_else(written):
    """The bias of the last layer alone: φ against the best of the box's corners."""
    of = CASES["tanh"]
    settings = MeasureSettings(measures=("epsilon-sharpness",), epsilons=(1e-2,))
    document = measured(written(of), of, settings, parameters=("4.bias",))
    (entry,) = document["results"][0]["measures"]["epsilon_sharpness"]
    model = of.model().double()
    inputs, targets = of.data("train")
    best, bias = -math.inf, model[4].bias.detach().clone()
    with torch.no_grad():
        at_theta = float(nn.functional.cross_entropy(model(inputs.double()), targets))
        for corner in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3):
            model[4].bias.copy_(bias + 1e-2 * (bias.abs() + 1) * corner)
            loss = float(nn.functional.cross_entropy(model(inputs.double()), targets))
            best = max(best, loss)
    assert entry["value"] == pytest.approx(100 * (best - at_theta) / (1 + at_theta), rel=1e-6)


def test_more_than_a_small_layer_has_is_not_asked_of_it(written):
    of = CASES["batch_norm"]
    settings = MeasureSettings(
        measures=("epsilon-sharpness", "hessian"),
        epsilons=(1e-3,),
        subspaces=(20,),
        top=10,
        by="layer",
    )
    (result,) = measured(written(of), of, settings)["results"]
    norm = next(layer for layer in result["layers"] if layer["layer"] == "1")
    assert norm["parameters"] == 8
    assert len(norm["measures"]["hessian"]["eigenvalues"]) == 8
    assert norm["measures"]["epsilon_sharpness"] == []


def test_ctrl_c_keeps_the_layers_that_are_finished(written):
    of = CASES["tanh"]
    begun = []

    def begin(name):
        begun.append(name)
        if "layer 2 of 3" in name:
            raise KeyboardInterrupt
        return lambda done, total: None

    paths = [written(of, "a.safetensors"), written(of, "b.safetensors")]
    settings = MeasureSettings(measures=("gradient",), by="layer")
    first, second = measured(paths, of, settings, begin)["results"]
    assert first["status"] == "ok"
    done, *stopped = first["layers"]
    assert done["measures"]["gradient"]["norm"]["value"] > 0
    assert [layer["error"]["message"] for layer in stopped] == [
        "interrupted before it was measured"
    ] * 2
    assert second["status"] == "failed"
    assert begun[-1].startswith("a, 1 of 2: layer 2 of 3, about ")
    assert begun[-1].endswith("s left, 2: gradient")


def test_ctrl_c_between_two_layers_keeps_the_first(written, monkeypatch):
    release = Context.release

    def pressed(context):
        release(context)
        if context.part:
            raise KeyboardInterrupt

    monkeypatch.setattr(Context, "release", pressed)
    settings = MeasureSettings(measures=("gradient",), by="layer")
    (result,) = measured(written(CASES["tanh"]), CASES["tanh"], settings)["results"]
    assert result["status"] == "ok"
    assert result["measures"]["gradient"]["norm"]["value"] > 0
    assert len(result["layers"]) == 3


def test_one_layers_failure_is_its_own(written):
    class Crooked(nn.Module):
        """The first layer's gradient is not finite, by a root at 0."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 1), nn.Linear(5, 3)
            nn.init.zeros_(self.first.weight)
            nn.init.zeros_(self.first.bias)

        def forward(self, inputs):
            return self.last(inputs) + 0 * self.first(inputs)

    of = task(Crooked, vectors(5, 3))
    settings = MeasureSettings(measures=("gradient", "hessian"), top=1, by="layer")

    def begin(name):
        if "layer 1 of 2" in name and name.endswith("hessian"):
            raise torch.OutOfMemoryError("tried to allocate 9.00 GiB")
        return lambda done, total: None

    (result,) = measured(written(of), of, settings, begin)["results"]
    assert result["status"] == "ok"
    first, last = result["layers"]
    assert (first["layer"], first["measures"]) == ("first", {})
    assert "out of memory" in first["error"]["message"]
    assert "error" not in last


def test_what_did_not_converge_in_a_layer_names_it(written):
    of = CASES["tanh"]
    settings = MeasureSettings(measures=("hessian",), top=3, max_products=5, tol=1e-12, by="layer")
    document = measured(written(of), of, settings)
    assert any("model.safetensors: 4: hessian.eigenvalues[0]" in x for x in unconverged(document))


def test_the_loss_alone_by_layer_is_misuse(written):
    settings = MeasureSettings(measures=("loss",), by="layer")
    with pytest.raises(
        UsageError, match=r"""by="layer": measures=\['loss'\] is the same for every layer"""
    ):
        measured(written(CASES["tanh"]), CASES["tanh"], settings)


def test_a_subset_without_influence_is_refused_and_a_layer_is_flat(written):
    of = CASES["unused"]
    document = measured(written(of), of, CURVATURE, parameters=("unused.*",))
    assert "the loss has no gradient" in document["results"][0]["error"]["message"]
    by_layer = MeasureSettings(epsilons=(1e-3,), top=1, by="layer")
    (result,) = measured(written(of), of, by_layer)["results"]
    flat = values(next(x for x in result["layers"] if x["layer"] == "unused")["measures"])
    assert {key: value for key, value in flat.items() if key != "gradient.l1"} == {
        "epsilon_sharpness[1e-3]": 0,
        "gradient.norm": 0,
        "gradient.max": 0,
        "hessian.eigenvalues[0]": 0,
        "hessian.smallest": 0,
        "trace": 0,
    }


def test_a_model_in_memory_by_layer():
    model = mlp(5, 4, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train = vectors(5, 3)(12, torch.Generator().manual_seed(0))
    settings = MeasureSettings(measures=("gradient",), by="layer")
    report = measure_model(model, train, run=RunSettings(device="cpu"), settings=settings)
    assert [layer.layer for layer in report.results[0].layers] == ["0", "2"]
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_landscape_of_a_subset_moves_nothing_else(written):
    of, path = CASES["tanh"], written(CASES["tanh"])
    run = RunSettings(split="both", device="cpu", dtype="float64", parameters=("4.bias",))
    settings = LandscapeSettings(GridSettings((3,)), directions=DirectionSettings("hessian", 1))
    document = to_document(landscape_checkpoint(path, of, run=run, settings=settings))
    jsonschema.validate(document, SCHEMA)
    (result,) = document["results"]
    about = result["checkpoints"][0]
    assert (about["parameters"], about["parameters_in_all"]) == (3, len(dense_hessian("tanh")))
    where = indices(of, ["4.bias"])
    block = dense_hessian("tanh")[where][:, where]
    assert (
        relative(result["axes"][0]["eigenvalue"]["value"], torch.linalg.eigvalsh(block)[-1]) < 1e-3
    )


def test_other_checkpoints_are_no_points_of_a_subset(written):
    of, path = CASES["tanh"], written(CASES["tanh"])
    run = RunSettings(split="both", device="cpu", parameters=("4.*",))
    with pytest.raises(UsageError, match="parameters and marks exclude each other"):
        landscape_checkpoint(path, of, run=run, beside=Beside(marks=[path]))
    with pytest.raises(UsageError, match="parameters and trajectories exclude each other"):
        landscape_checkpoint(path, of, run=run, beside=Beside(trajectories=[[path]]))
    with pytest.raises(UsageError, match="between checkpoints all parameters move"):
        interpolate_checkpoints([path, path], of, run=run)
