"""A sweep over a model's sizes in one call: each checkpoint has its own model, by its metadata."""

import json

import pytest
import torch
from safetensors.torch import save_file
from sharpcli.settings.exploring import DirectionSettings, GridSettings, LandscapeSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.comparison import compare
from sharpcli.documents.results import to_document
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs import studies, study
from sharpcli.runs.interpolate import interpolate_checkpoints
from sharpcli.runs.landscape import landscape_checkpoint
from sharpcli.runs.measure import measure_checkpoints
from sharpcli.runs.spectrum import spectra_of_checkpoints
from sharpcli.tasks import load_task

TASK = """
import torch
from torch import nn

def model(width: int{default}, depth: int = 1, act: str = "tanh"):
    rates = [rate.item() for rate in torch.linspace(0, 1, depth)]  # not on the meta device
    layers = [nn.Linear(3, width), nn.Tanh() if act == "tanh" else nn.Softplus()]
    for _ in rates[1:]:
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 2))

def data(split, n: int = 20):
    generator = torch.Generator().manual_seed(len(split))
    inputs = torch.randn(n, 3, generator=generator)
    return inputs, (inputs.sum(1) > 0).long()
"""
RUN = RunSettings(device="cpu", dtype="float64")
LOSS = MeasureSettings(measures=("loss",))


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(TASK.format(default=""))
    return path


@pytest.fixture
def written(tmp_path, task):
    """Writes the weights of the task's model and says something about it."""

    def write(name, about=None, **options):
        torch.manual_seed(options.get("width", 0))
        given = {key: str(value) for key, value in options.items()}
        model = load_task(task, given).model()
        path = tmp_path / f"{name}.pt"
        torch.save({"model": model.state_dict(), "args": options if about is None else about}, path)
        return path

    return write


def measured(paths, task, settings=LOSS, **options):
    given = {key: str(value) for key, value in options.items()}
    return measure_checkpoints(paths, task, given, RUN, settings)


def errors(report):
    return [each.error for each in report.results if each.error]


def test_each_checkpoint_has_its_own_model_and_its_numbers_are_those_of_the_option_given(
    task, written
):
    sizes = ({"width": 3}, {"width": 5, "depth": 2}, {"width": 4, "act": "softplus"})
    paths = [written(f"w{i}", **each) for i, each in enumerate(sizes)]
    settings = MeasureSettings(measures=("loss", "hessian"), top=1)
    together = measured(paths, task, settings)
    for path, options, result in zip(paths, sizes, together.results, strict=True):
        alone = measured([path], task, settings, **options).results[0]
        for key in ("loss", "hessian"):
            got, wanted = result.measures[key], alone.measures[key]
            value = got["train"].value if key == "loss" else got["eigenvalues"][0].value
            other = wanted["train"].value if key == "loss" else wanted["eigenvalues"][0].value
            assert value == pytest.approx(other, rel=1e-9)
        assert result.checkpoint["options"] == options
        said = ", ".join(f"{key}={value}" for key, value in options.items())
        assert f"{said} from its metadata" in result.checkpoint["notes"]
        assert "options" not in alone.checkpoint
    document = to_document(together)
    assert document["task"]["options"] == {"n": 20}
    assert document["task"]["fingerprint"] is None
    assert document["task"]["examples"] == {"train": 20, "test": 20}


def test_data_are_read_once_for_all_sizes(task, written, monkeypatch):
    read = []
    rows_of = study.read_rows
    monkeypatch.setattr(
        study, "read_rows", lambda *a, **k: read.append(k["name"]) or rows_of(*a, **k)
    )
    measured([written(f"w{width}", width=width) for width in (2, 3, 4)], task)
    assert read == ["train data of " + str(task), "test data of " + str(task)]


def test_more_sizes_than_are_kept(task, written, monkeypatch):
    monkeypatch.setattr(studies, "_MOST_STUDIES", 2)
    paths = [written(f"w{width}", width=width) for width in (2, 3, 4)]
    report = measured([*paths, *paths], task)
    losses = [each.measures["loss"]["train"].value for each in report.results]
    assert losses[:3] == losses[3:]
    assert len(set(losses)) == 3


def test_values_with_which_the_model_does_not_fit_are_passed_over(task, written):
    path = written("a", {"width": 4, "depth": 224}, width=4)
    (result,) = measured([path], task).results
    assert result.checkpoint["options"] == {"width": 4}
    assert any("depth=224 in its metadata is passed over" in n for n in result.checkpoint["notes"])


def test_without_a_fit_the_error_names_what_came_from_the_metadata(task, written):
    path = written("a", {"width": 5}, width=4)
    (error,) = errors(measured([path], task))
    assert "'0.weight' is (4, 3) in the file and (5, 3) in the model" in error.message
    assert "the model has width=5 from its metadata" in error.message


def test_sizes_that_would_fill_the_memory_are_refused(task, written):
    for width in (50_000, 10**12):
        path = written("a", {"width": width}, width=4)
        (error,) = errors(measured([path, written("b", width=3)], task))
        assert "needs the option 'width'" in error.message
        assert f"width={width} in its metadata is passed over: with it the model is far larger" in (
            error.message
        )


def test_a_value_of_another_type_is_named_where_the_option_is_needed(task, written):
    with pytest.raises(UsageError, match=r"needs the option 'width'.*width=wide in its metadata"):
        measured([written("a", {"width": "wide"}, width=4)], task)


def test_the_default_stays_where_nothing_is_said(task, tmp_path, written):
    path = written("a", {}, width=4)
    task.write_text(TASK.format(default=" = 4"))
    (result,) = measured([path], task).results
    assert "options" not in result.checkpoint
    assert result.measures["loss"]["train"].value > 0


def test_a_meaning_of_its_own_does_not_break_a_default_that_fits(task, written):
    path = written("a", {"width": 224}, width=4)
    task.write_text(TASK.format(default=" = 4"))
    (result,) = measured([path], task).results
    assert "options" not in result.checkpoint
    assert any("width=224 in its metadata is passed over" in n for n in result.checkpoint["notes"])


def test_files_of_sharp_train_say_their_options_in_task_options(task, tmp_path, written):
    model = load_task(task, {"width": "6"}).model()
    path = tmp_path / "a.safetensors"
    save_checkpoint(
        path, model.state_dict(), {"task": "x.py", "task_options": "width=6", "depth": 3}
    )
    (result,) = measured([path], task).results
    assert result.checkpoint["options"] == {"width": 6}


def test_a_config_beside_the_weights(task, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    model = load_task(task, {"width": "6"}).model()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"width": 6, "auto_map": {"AutoModel": "evil"}}))
    for path in (folder, folder / "model.safetensors"):
        (result,) = measured([path], task).results
        assert result.checkpoint["options"] == {"width": 6}
        assert "width=6 from its config.json" in result.checkpoint["notes"]


def test_numbers_of_different_data_are_not_compared(task, written):
    paths = [written("a", width=4), written("b", width=5), written("c", width=6, n=30)]
    report = measured(paths, task)
    assert {(pair.a, pair.b) for pair in report.pairs} == {(str(paths[0]), str(paths[1]))}
    assert report.results[2].checkpoint["data"] == "n=30"
    (said,) = [each for each in report.warnings if "different data" in each]
    assert said == (
        "measured on different data, as their metadata say: the default (a, b); n=30 (c): not "
        "compared with each other"
    )
    assert "n=30 from its metadata: this chooses its data" in report.results[2].checkpoint["notes"]
    document = to_document(report)
    assert document["task"]["examples"] == {}
    compared = to_document(compare([("r.json", document)], (), "a"))
    by_label = {
        row["label"]: row["measures"]["loss.train"]["difference"] for row in compared["results"]
    }
    assert by_label["b"] is not None
    assert by_label["c"] is None
    assert any("measured on different data" in each for each in compared["warnings"])


def test_no_order_is_decided_on_different_data(task, written):
    paths = [written("a", width=4), written("b", width=5, n=30)]
    with pytest.raises(SharpError, match="different data"):
        measured(paths, task, MeasureSettings(measures=(), decide="loss.train"))


def test_compare_groups_by_an_option(task, written):
    paths = [written(f"w{width}", width=width) for width in (3, 4)]
    document = to_document(measured(paths, task))
    compared = compare([("r.json", document)], ("width",))
    assert [each["group"] for each in compared.results] == [{"width": 3}, {"width": 4}]


def test_spectra_have_their_own_models_too(task, written):
    report = spectra_of_checkpoints([written("a", width=2), written("b", width=3)], task, run=RUN)
    assert [each.size for each in report.results] == [14, 20]


def test_points_of_different_models_span_no_line(task, written):
    a, b = written("a", width=3), written("b", width=4, depth=2)
    with pytest.raises(UsageError) as caught:
        interpolate_checkpoints([a, b], task, run=RUN)
    said = "task.py width=3, depth=1; "
    assert f"{a} and {b} belong to different tasks (" in caught.value.message
    assert said in caught.value.message
    assert "task.py width=4, depth=2)" in caught.value.message
    assert "options.width" in caught.value.hint
    grid = LandscapeSettings(GridSettings((3,)), directions=DirectionSettings(dimensions=1))
    report = landscape_checkpoint(a, task, run=RUN, settings=grid)
    assert "A: width=3 from its metadata" in report.notes


def test_numbers_of_different_losses_are_not_compared(task, written):
    task.write_text(
        task.read_text()
        + """

def loss(outputs, batch, width: int = 4):
    return torch.nn.functional.cross_entropy(outputs / width, batch[1], reduction="none")
"""
    )
    report = measured([written("a", width=4), written("b", width=5)], task)
    assert report.results[1].checkpoint["data"] == "the loss with width=5"
    assert not report.pairs
