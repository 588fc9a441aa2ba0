"""Exports read back: numbers to the last bit, the order of points, NaN where there is none."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import scenes

from sharpcli.render.files.export import exported
from sharpcli.render.scene import read_scene

ARRAYS = ["train_loss", "train_log10_loss", "train_accuracy", "test_loss"]


@pytest.fixture
def plane():
    document = scenes.plane(5, 3)
    loss = document["results"][0]["curves"]["train"]["loss"]
    loss[7], loss[8] = None, 0.0
    return document


def read_npz(document):
    return np.load(io.BytesIO(exported(read_scene(document), ".npz")), allow_pickle=False)


def read_vts(content):
    root = ElementTree.fromstring(content)
    assert root.attrib["header_type"] == "UInt64"
    piece = root.find("StructuredGrid/Piece")
    extent = list(map(int, piece.attrib["Extent"].split()))
    dimensions = tuple(1 + high - low for low, high in zip(extent[::2], extent[1::2], strict=True))
    arrays = {}
    for array in piece.iter("DataArray"):
        data = base64.b64decode(array.text)
        assert int.from_bytes(data[:8], "little") == len(data) - 8
        arrays[array.attrib["Name"]] = np.frombuffer(data[8:], "<f8")
    return dimensions, arrays.pop("Points").reshape(-1, 3), arrays


READERS = {".vts": read_vts}


def test_npz_holds_a_plane_with_alpha_running_fastest(plane):
    arrays, result = read_npz(plane), plane["results"][0]
    assert arrays["alpha"].shape == (5,)
    assert arrays["beta"].shape == (3,)
    assert arrays["train_loss"].shape == (3, 5)
    for index, place in enumerate(result["coordinates"]):
        row, column = divmod(index, 5)
        assert arrays["alpha"][column] == place["alpha"]
        assert arrays["beta"][row] == place["beta"]
        assert arrays["test_accuracy"][row, column] == result["curves"]["test"]["accuracy"][index]
    assert np.isnan(arrays["train_loss"][1, 2])


def test_npz_holds_checkpoints_and_runs(plane):
    arrays = read_npz(plane)
    assert arrays["checkpoint_names"].tolist() == ["A", "B", "C"]
    assert arrays["checkpoint_paths"][0] == "runs/A/model.safetensors"
    assert np.array_equal(arrays["checkpoint_coordinates"], scenes.MINIMA)
    assert arrays["checkpoint_train_loss"][1] == scenes.plane_loss(*scenes.MINIMA[1])
    assert np.isnan(arrays["checkpoint_test_loss"]).all(), "it was not measured there"
    assert read_npz(scenes.path_plane(3, 3))["trajectory_0_coordinates"].shape == (30, 2)


def test_npz_holds_a_line_with_what_stands_beside_it():
    errors = {"train": {"loss": [0.01] * 13}}
    document = scenes.line(
        13, sampling_errors=errors, aligned=scenes.aligned(13), path=scenes.bezier(5)
    )
    arrays, result = read_npz(document), document["results"][0]
    assert arrays["train_loss"].tolist() == result["curves"]["train"]["loss"]
    assert arrays["train_loss_sampling_error"].tolist() == [0.01] * 13
    assert arrays["aligned_test_loss"].tolist() == result["aligned"]["curves"]["test"]["loss"]
    assert arrays["path_t"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert arrays["path_train_accuracy"].shape == (5,)
    assert arrays["barrier_train"] == result["barrier"]["train"]["value"]
    assert arrays["aligned_barrier_test"] == result["aligned"]["barrier"]["test"]["value"]


@pytest.mark.parametrize("suffix", READERS)
def test_a_plane_for_paraview(plane, suffix):
    dimensions, points, arrays = READERS[suffix](exported(read_scene(plane), suffix))
    result = plane["results"][0]
    assert dimensions == (5, 3, 1)
    places = [(place["alpha"], place["beta"], 0.0) for place in result["coordinates"]]
    assert np.array_equal(points, places)
    assert set(ARRAYS) <= set(arrays)
    expected = [np.nan if x is None else x for x in result["curves"]["train"]["loss"]]
    assert np.array_equal(arrays["train_loss"], expected, equal_nan=True)
    logarithm = arrays["train_log10_loss"]
    assert np.isnan(logarithm[7:9]).all(), "neither nothing nor zero has a logarithm"
    assert logarithm[0] == np.log10(expected[0])


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize(
    ("document", "expected"),
    [(scenes.line(4), (4, 1, 1)), (scenes.plane(1, 3), (1, 3, 1)), (scenes.plane(1, 1), (1, 1, 1))],
)
def test_lines_and_grids_of_one_row_for_paraview(suffix, document, expected):
    dimensions, points, _ = READERS[suffix](exported(read_scene(document), suffix))
    assert dimensions == expected
    assert len(points) == np.prod(expected)


@pytest.mark.parametrize("suffix", [".npz", *READERS])
def test_the_same_document_gives_the_same_bytes(plane, suffix):
    first = exported(read_scene(plane), suffix)
    assert exported(read_scene(plane), suffix) == first


@pytest.mark.parametrize("suffix", READERS)
def test_a_metric_of_any_name_becomes_one_a_program_takes(suffix):
    document = scenes.line(4)
    for curves in document["results"][0]["curves"].values():
        curves['top-5 "acc" <%>'] = [0.5] * 4
    arrays = READERS[suffix](exported(read_scene(document), suffix))[2]
    assert "train_top-5__acc_____" in arrays
