"""The order of a path's checkpoints: by steps, by the numbers in names, or as given."""

import pytest
import torch

from sharpcli.runs.path_order import PathPoint, in_order


def points(*paths, **metadata):
    values = metadata.pop("of", [{}] * len(paths))
    each = zip(paths, values, strict=True)
    return [PathPoint(path, about, torch.zeros(1), "") for path, about in each]


@pytest.mark.parametrize(
    ("paths", "of", "order", "said"),
    [
        (
            ["c/checkpoint-1000", "c/checkpoint-900"],
            [{"global_step": 1000}, {"global_step": 900}],
            [1, 0],
            "ordered by the steps in the metadata, 900 to 1000",
        ),
        (["b", "a"], [{"epoch": 1}, {"epoch": 0}], [1, 0], "ordered by the epochs in the metadata"),
        (["b", "a"], [{"step": 5, "epoch": 0}, {"step": 7, "epoch": 0}], [0, 1], "by the steps"),
        (
            ["c/checkpoint-1000", "c/checkpoint-900"],
            [{}, {}],
            [1, 0],
            "ordered by the numbers in the names, since not each checkpoint's metadata",
        ),
        (["c-1000", "c-900"], [{"step": 1}, {"step": 1}], [1, 0], "by the numbers in the names"),
        (["c-900", "c-1000"], [{"step": 1}, {}], [0, 1], "by the numbers in the names"),
        (["c-2", "c-1", "c-3"], [{}, {}, {}], [0, 1, 2], "in the order given, since"),
        (["a"], [{}], [0], "by the numbers in the names"),
        (["a", "a"], [{"step": 3}, {"step": 3}], [0, 1], "by the numbers in the names"),
    ],
)
def test_what_decides_the_order_is_said(paths, of, order, said):
    given = points(*paths, of=of)
    found, note = in_order(given)
    assert found == [given[index] for index in order]
    assert said in note
