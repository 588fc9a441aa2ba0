"""The part of the training data that no step sees."""

import plain_loops as plain
import pytest
import torch
from torch.utils.data import TensorDataset

from sharpcli.errors import SharpError
from sharpcli.training.held_out import with_validation


def rows(data):
    return sorted(float(data[i][1]) for i in range(len(data)))


def test_both_parts_have_each_example_once_and_follow_the_seed():
    task = plain.task()
    inputs, targets = task.data("train")
    parts = [with_validation(task, 0.25, seed).data("validation")[1] for seed in (0, 0, 1)]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])
    rest = with_validation(task, 0.25, 0).data("train")
    assert (len(parts[0]), len(rest[1])) == (6, 18)
    assert sorted([*parts[0].tolist(), *rest[1].tolist()]) == sorted(targets.tolist())
    assert torch.equal(with_validation(task, 0.25, 0).data("test")[0], inputs)


def test_a_data_set_is_parted_like_tensors():
    task = plain.task()
    tensors = task.data("train")
    as_set = with_validation(
        type(task)(**{**vars(task), "data": lambda _: TensorDataset(*tensors)}), 0.25, 0
    )
    for split in ("train", "validation"):
        assert rows(as_set.data(split)) == sorted(
            with_validation(task, 0.25, 0).data(split)[1].tolist()
        )


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_no_part_may_be_empty(share):
    with pytest.raises(SharpError, match="of 24 training examples leaves one part empty"):
        with_validation(plain.task(), share, 0).data("train")
