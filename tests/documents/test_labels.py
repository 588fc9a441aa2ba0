from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpcli.documents.labels import (
    clean,
    common_metadata,
    differing_metadata,
    natural_order,
    path_labels,
    short_labels,
)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["runs/sgd/model.safetensors"], ["model.safetensors"]),
        (["runs/sgd/model.safetensors", "runs/adam/model.safetensors"], ["sgd", "adam"]),
        (["a.pt", "b.pt"], ["a", "b"]),
        (["a.pt", "a.safetensors"], ["a.pt", "a.safetensors"]),
        (["x/1/a.pt", "x/2/b.pt"], ["a", "b"]),
        (
            ["sgd/lr1/s0/m.pt", "sgd/lr1/s1/m.pt", "adam/lr1/s0/m.pt"],
            ["sgd/s0", "sgd/s1", "adam/s0"],
        ),
        (["a/m.pt", "a/m.pt", "b/m.pt"], ["a (1)", "a (2)", "b"]),
        (["m.pt", "old/m.pt"], ["m", "old/m"]),
        (["/m.pt", "/x/m.pt"], ["/", "x"]),
        (["a", "a"], ["a (1)", "a (2)"]),
        ([], []),
        (["evil\x1b[2J.pt", "b.pt"], ["evil\\x1b[2J", "b"]),
    ],
)
def test_labels_are_the_shortest_parts_that_differ(paths: list[str], labels: list[str]) -> None:
    assert short_labels(paths) == labels


parts = st.lists(st.sampled_from(["runs", "a", "b", "model.pt", "model"]), min_size=1, max_size=4)


def test_paths_and_names_of_any_length() -> None:
    begun = time.process_time()
    long = "/a" * 50_000
    assert short_labels([f"a{long}", f"b{long}"]) == ["a", "b"]
    assert short_labels([f"a{long}/1", f"b{long}/2", f"b{long}"]) == ["1", "2", "a"]
    digits = ["2" * 5000, "1" * 5000, "x" + "1" * 100_000]
    assert sorted(digits, key=natural_order) == [digits[1], digits[0], digits[2]]
    assert time.process_time() - begun < 1


@given(st.lists(parts.map("/".join), max_size=8))
def test_different_paths_get_different_labels(paths: list[str]) -> None:
    labels = short_labels(paths)
    assert len(set(labels)) == len(paths)
    assert all(labels)


def test_metadata_splits_into_what_differs_and_what_is_common() -> None:
    rows = [{"lr": 0.1, "seed": 0, "x": 1}, {"lr": 0.1, "seed": 1}]
    assert differing_metadata(rows) == ["seed", "x"]
    assert common_metadata(rows) == {"lr": 0.1}


def test_a_value_from_a_file_is_one_short_plain_line() -> None:
    assert clean("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert len(clean("x" * 1000)) == 40
    assert clean(1e-3) == "0.001"
    assert clean(None) == "–"


def test_rows_sort_as_people_expect() -> None:
    values = [None, "run-10", "run-9", 400, 32, "adam"]
    assert sorted(values, key=natural_order) == [32, 400, "adam", "run-9", "run-10", None]


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        ([["a-1.pt", "a-2.pt"]], ["path"]),
        ([["adam-01.pt", "adam-02.pt"], ["sgd-01.pt", "sgd-12.pt"]], ["adam", "sgd"]),
        ([["r/adam/s-1.pt", "r/adam/s-10.pt"], ["r/sgd/s-1.pt", "r/sgd/s-9.pt"]], ["adam", "sgd"]),
        ([["seed1/1.pt", "seed1/2.pt"], ["seed2/1.pt", "seed2/2.pt"]], ["seed1", "seed2"]),
        ([["r/seed1-e1", "r/seed1-e2"], ["r/seed2-e1", "r/seed2-e2"]], ["seed1-e", "seed2-e"]),
        ([["a.pt", "b.pt"], ["c.pt", "d.pt"]], ["path 1", "path 2"]),
        ([["a-1.pt", "a-2.pt"], ["a-3.pt", "a-4.pt"]], ["path 1", "path 2"]),
        ([["1.pt", "2.pt"], ["a-3.pt", "a-4.pt"]], ["path 1", "path 2"]),
    ],
)
def test_paths_are_called_by_what_their_names_begin_with(
    paths: list[list[str]], labels: list[str]
) -> None:
    assert path_labels(paths) == labels
