"""Models and data in memory: every form of data gives the same numbers, or a message."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from sharpcli import (
    GridSettings,
    InterpolateSettings,
    LandscapeSettings,
    MeasureSettings,
    RunSettings,
    SpectrumSettings,
    compare_results,
    interpolate_checkpoints,
    interpolate_models,
    landscape_model,
    measure_model,
    spectrum_model,
)
from sharpcli.checkpoint import save_checkpoint
from sharpcli.errors import SharpError, UsageError
from sharpcli.tasks import Task, defaults

GENERATOR = torch.Generator().manual_seed(0)
INPUTS, CLASSES = torch.randn(30, 4, generator=GENERATOR), torch.arange(30) % 3


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def loss_of(train, **settings):
    report = measure_model(network(), train, measures="loss", **settings)
    return report.scalars()["loss.train"], report


LOSS = nn.functional.cross_entropy(network()(INPUTS), CLASSES).item()


class Rows(torch.utils.data.Dataset):
    """Rows that need a collate of their own."""

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        return {"x": INPUTS[index].tolist(), "y": int(CLASSES[index])}


def collate(rows):
    return torch.tensor([row["x"] for row in rows]), torch.tensor([row["y"] for row in rows])


@pytest.mark.parametrize(
    ("train", "settings"),
    [
        ((INPUTS, CLASSES), {}),
        ((INPUTS.numpy(), CLASSES.numpy()), {}),
        ([INPUTS, CLASSES], {}),
        (TensorDataset(INPUTS, CLASSES), {}),
        (list(zip(INPUTS, CLASSES, strict=True)), {}),
        (DataLoader(TensorDataset(INPUTS, CLASSES), 7, shuffle=True, drop_last=True), {}),
        (DataLoader(Rows(), 4, shuffle=True, collate_fn=collate), {}),
        (Rows(), {"collate": collate}),
        (DataLoader(Rows(), 4), {"collate": collate}),
    ],
)
def test_every_form_of_data_has_the_same_loss(train, settings):
    network()  # which seeds, as loss_of does once more
    state = torch.get_rng_state()
    found, report = loss_of(train, **settings)
    assert found == pytest.approx(LOSS, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    assert not report.notes


@pytest.mark.parametrize(
    "loader",
    [
        {"batch_size": 2, "sampler": SubsetRandomSampler([3, 20, 7, 11])},
        {"batch_size": 2, "sampler": [3, 20, 7, 11]},
        {"batch_sampler": [[3, 20, 7], [11]]},
    ],
)
def test_a_loader_over_a_subset_measures_the_subset_and_says_so(loader):
    data, chosen = TensorDataset(INPUTS, CLASSES), [3, 20, 7, 11]
    found, report = loss_of(DataLoader(data, **loader))
    true = nn.functional.cross_entropy(network()(INPUTS[chosen]), CLASSES[chosen])
    assert found == pytest.approx(true.item(), rel=1e-6)
    assert report.notes == ["train: the 4 of 30 rows that the loader draws from"]
    assert "the 4 of 30 rows" in str(report)


def test_a_sampler_that_weighs_rows_is_left_aside_with_a_note():
    sampler = WeightedRandomSampler([1.0] * 30, 60)
    found, report = loss_of(DataLoader(TensorDataset(INPUTS, CLASSES), 2, sampler=sampler))
    assert found == pytest.approx(LOSS, rel=1e-6)
    (note,) = report.notes
    assert "WeightedRandomSampler is left aside" in note


def test_a_file_mapped_for_reading_gives_no_warning_of_pytorchs(tmp_path):
    np.save(tmp_path / "inputs.npy", INPUTS.numpy())
    torch.set_warn_always(True)  # else PyTorch warns once in a process
    try:
        found, _ = loss_of((np.load(tmp_path / "inputs.npy", mmap_mode="r"), CLASSES.numpy()))
    finally:
        torch.set_warn_always(False)
    assert found == pytest.approx(LOSS, rel=1e-6)


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(INPUTS, CLASSES, strict=True)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (DataLoader(Stream(), batch_size=2), r"train: the loader's data set \(Stream\) gives"),
        ({"x": torch.zeros(3)}, r"train \(a dict\) has keys and no rows"),
        (Stream(), r"train \(Stream\) gives its rows one after the other"),
        (iter([1, 2]), r"train \(list_iterator\) gives its rows one after the other"),
        (DataLoader(Rows(), batch_size=None), "the loader has batch_size=None"),
    ],
)
def test_data_without_rows_of_a_number_are_refused(train, said):
    with pytest.raises(UsageError, match=said) as caught:
        loss_of(train)
    assert "--" not in str(caught.value)


def test_two_loaders_with_two_collates_are_refused_until_one_is_named():
    def other(rows):
        return collate(rows)

    train, test = (DataLoader(Rows(), 4, collate_fn=each) for each in (collate, other))
    with pytest.raises(UsageError, match="two collate_fn") as caught:
        measure_model(network(), train, test, measures="loss")
    assert "collate=train_loader.collate_fn" in str(caught.value)
    report = measure_model(network(), train, test, measures="loss", collate=collate)
    assert report.scalars()["loss.gap"] == 0


def test_settings_have_names_of_their_own():
    report = measure_model(
        network(), (INPUTS, CLASSES), measures=("hessian",), samples=20, dtype="float64", seed=4,
        device="cpu", settings=MeasureSettings(top=2),
    )  # fmt: skip
    assert report.settings["run"] == {
        **report.settings["run"],
        "samples": 20,
        "dtype": "float64",
        "seed": 4,
        "device": "cpu",
    }
    assert report.settings["measure"]["measures"] == ("hessian",)
    assert {"hessian.eigenvalues[0]", "hessian.eigenvalues[1]"} <= {*report.scalars()}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 5, "run": RunSettings(samples=6)}, "samples=5 is given, and samples=6 in run"),
        (
            {"measures": "hessian", "settings": MeasureSettings(measures=("loss",))},
            r"measures=\('hessian',\) are given, and \('loss',\) in settings",
        ),
        ({"measures": "hesian"}, "hesian"),
        ({"samples": 0}, "samples=0: is out of range"),
    ],
)
def test_what_is_given_twice_or_unknown_is_refused_in_words_of_python(settings, said):
    with pytest.raises(UsageError, match=said) as caught:
        measure_model(network(), (INPUTS, CLASSES), **settings)
    assert "--" not in str(caught.value)
    assert " -m " not in str(caught.value)


def test_a_line_between_models_is_that_between_their_checkpoints(tmp_path):
    a, b = network(0), network(1)
    before = copy.deepcopy(a.state_dict())
    settings = InterpolateSettings(GridSettings((4,)))
    line = interpolate_models(a, b, (INPUTS, CLASSES), settings=settings)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for model, path in zip((a, b), paths, strict=True):
        save_checkpoint(path, model.state_dict(), {})
    task = Task(
        name="Sequential",
        options={},
        fingerprint="",
        model=network,
        data={"train": (INPUTS, CLASSES), "test": None}.__getitem__,
        predict=defaults.predict,
        loss=defaults.loss_for("Sequential"),
        metrics=defaults.metrics,
    )
    saved = interpolate_checkpoints(paths, task, settings=settings)
    assert line.results[0].curves == saved.results[0].curves
    assert a.training
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state_dict().items())
    numbers = line.scalars()
    assert numbers["barrier.train"] == line.results[0].barrier["train"].value


def test_three_models_span_a_plane_and_two_kinds_of_model_none():
    plane = interpolate_models(
        network(0), network(1), (INPUTS, CLASSES), c=network(2),
        settings=InterpolateSettings(GridSettings((3,))),
    )  # fmt: skip
    assert plane.results[0].dimensions == 2
    with pytest.raises(SharpError, match="a is a Sequential and b a Linear"):
        interpolate_models(network(0), nn.Linear(4, 3), (INPUTS, CLASSES))


def test_a_landscape_and_a_spectrum_of_a_model():
    around = landscape_model(
        network(), DataLoader(TensorDataset(INPUTS, CLASSES), 8), seed=1,
        settings=LandscapeSettings(GridSettings((3,))),
    )  # fmt: skip
    middle = around.results[0].curves["train"]["loss"][4]
    assert middle == pytest.approx(LOSS, rel=1e-6)
    spectrum = spectrum_model(
        network(), (INPUTS, CLASSES), dtype="float64", settings=SpectrumSettings(steps=5)
    )
    largest = measure_model(
        network(), (INPUTS, CLASSES), measures="hessian", dtype="float64"
    ).scalars()["hessian.eigenvalues[0]"]
    assert spectrum.scalars()["largest"] == pytest.approx(largest, rel=1e-3)


def test_reports_are_compared_without_files():
    reports = [
        measure_model(network(seed), (INPUTS, CLASSES), measures=("loss",)) for seed in (0, 1)
    ]
    compared = compare_results(reports)
    assert compared.kind == "compare"
    assert len(compared.results) == 2
    found = compared.scalars()
    assert sum("loss.train.mean" in key for key in found) == 2
    assert "loss" in str(compared)
    with pytest.raises(UsageError, match="result 1 is a dict"):
        compare_results([{}])


def test_arrays_of_unequal_lengths_are_refused():
    with pytest.raises(SharpError, match="do not have one row for each example"):
        loss_of((np.zeros((4, 4)), np.zeros(3, dtype=int)))


class _OnGraph(nn.Module):
    """A linear model whose features pass through a fixed matrix, in one of several forms."""

    def __init__(self, matrix):
        super().__init__()
        self.out = nn.Linear(6, 3)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, batch):
        if self.matrix.is_sparse:
            return self.out(torch.sparse.mm(self.matrix, batch.T).T)
        return self.out(batch @ self.matrix.T)


@pytest.mark.parametrize(
    "form",
    [lambda _: torch.full((1, 1), 0.5).expand(6, 6), torch.Tensor.to_sparse],
    ids=["expanded", "sparse"],
)
def test_a_fixed_matrix_may_be_sparse_or_expanded(form):
    dense = torch.full((6, 6), 0.5)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(40, 6, generator=generator), torch.arange(40) % 3
    found = []
    for matrix in (dense, form(dense)):
        torch.manual_seed(0)
        report = measure_model(
            _OnGraph(matrix), data, measures=("loss", "largest-eigenvalue"), device="cpu"
        )
        found.append(report.scalars()["largest_eigenvalue"])
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_line_between_models_with_a_sparse_matrix_is_that_with_a_dense_one():
    dense = torch.eye(6)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(40, 6, generator=generator), torch.arange(40) % 3
    settings = InterpolateSettings(GridSettings((3,)))
    found = []
    for matrix in (dense, dense.to_sparse()):
        torch.manual_seed(0)
        a, b = _OnGraph(matrix), _OnGraph(matrix)
        report = interpolate_models(a, b, data, settings=settings, device="cpu")
        found.append(report.results[0].curves["train"]["loss"])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
