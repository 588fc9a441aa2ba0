"""Reading data whole: every shape of row, subsets by seed, and what must not be random."""

import math
from collections import namedtuple

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, TensorDataset, default_collate

from sharpcli.errors import SharpError
from sharpcli.objective.decoding import PROBE
from sharpcli.objective.reading import read_rows, seen_rows

Pair = namedtuple("Pair", "x y")


class Rows(Dataset):
    """A data set whose row i is `row(i)`."""

    def __init__(self, count, row):
        self.count, self.row = count, row

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.row(index)


def values(rows):
    return rows.batch[0].tolist()


def test_a_tuple_of_tensors_is_taken_as_it_is():
    inputs, targets = torch.arange(10.0), torch.arange(10)
    rows = read_rows((inputs, targets), name="train data")
    assert (rows.count, rows.total, rows.sampled) == (10, 10, False)
    assert rows.batch[0].data_ptr() == inputs.data_ptr()


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2500])
def test_a_data_set_is_read_whole_and_in_order(count):
    rows = read_rows(Rows(count, lambda i: (torch.tensor(float(i)), i)), name="train data")
    assert rows.count == count
    assert values(rows) == list(range(count))
    assert torch.equal(rows.batch[1], torch.arange(count))


@pytest.mark.parametrize(
    ("row", "leaf"),
    [
        (lambda i: torch.tensor([i, 1.0]), lambda b: b[:, 0]),
        (lambda i: {"x": {"deep": torch.tensor(i)}, "name": f"n{i}"}, lambda b: b["x"]["deep"]),
        (lambda i: Pair(torch.tensor(i), i), lambda b: b.x),
        (lambda i: [torch.tensor(i), (torch.tensor(i), i)], lambda b: b[1][0]),
        (lambda i: (i, str(i)), lambda b: b[0]),
    ],
)
def test_rows_nest_as_they_come(row, leaf):
    rows = read_rows(Rows(1030, row), name="train data")  # joins two chunks
    assert leaf(rows.batch).tolist() == list(range(1030))
    assert leaf(rows.slice(3, 7)).tolist() == [3, 4, 5, 6]
    assert leaf(rows.take(torch.tensor([9, 2])).batch).tolist() == [9, 2]
    assert leaf(rows.head(2).batch).tolist() == [0, 1]


def test_strings_are_sliced_with_the_tensors():
    rows = read_rows(Rows(1030, lambda i: (i, f"n{i}")), name="train data")
    assert list(rows.slice(1028, 1030)[1]) == ["n1028", "n1029"]
    assert list(rows.take(torch.tensor([5, 3])).batch[1]) == ["n5", "n3"]


def test_collate_is_the_tasks_own():
    rows = read_rows(
        Rows(5, lambda i: [1] * (i + 1)),
        name="train data",
        collate=lambda items: {
            "x": torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in items], True)
        },
    )
    assert rows.batch["x"].sum(1).tolist() == [1, 2, 3, 4, 5]


def test_collate_pads_all_rows_to_one_width():
    rows = read_rows(
        Rows(3000, lambda i: torch.ones(1 + i // 1000)),
        name="train data",
        collate=lambda items: torch.nn.utils.rnn.pad_sequence(items, True),
    )
    assert rows.batch.shape == (3000, 3)
    assert rows.batch.sum() == 6000


def test_batches_are_views():
    rows = read_rows((torch.arange(10.0),), name="train data")
    batches = list(rows.split(4))
    assert [len(batch[0]) for batch in batches] == [4, 4, 2]
    assert batches[1][0].data_ptr() == rows.batch[0][4:].data_ptr()


def test_only_floats_change_their_dtype():
    rows = read_rows((torch.zeros(3), torch.arange(3), torch.zeros(3, dtype=torch.bool)), name="x")
    moved = rows.to(torch.device("cpu"), torch.float64)
    assert [leaf.dtype for leaf in moved.batch] == [torch.float64, torch.int64, torch.bool]


def test_samples_are_a_seeded_subset_in_the_datas_order():
    tensors = (torch.arange(100.0),)
    dataset = Rows(100, lambda i: (torch.tensor(float(i)),))
    first = read_rows(tensors, name="train data", samples=20, seed=3)
    assert values(first) == values(read_rows(dataset, name="train data", samples=20, seed=3))
    assert values(first) == sorted(set(values(first)))
    assert (first.count, first.total, first.sampled) == (20, 100, True)
    assert values(first) != values(read_rows(tensors, name="train data", samples=20, seed=4))


@pytest.mark.parametrize("samples", [None, 100, 1000])
def test_as_many_samples_as_there_are_is_all_of_them(samples):
    rows = read_rows((torch.arange(100.0),), name="train data", samples=samples)
    assert values(rows) == list(range(100))
    assert not rows.sampled


@pytest.mark.parametrize("data", [Rows(0, None), (torch.zeros(0, 3), torch.zeros(0))])
def test_no_rows_is_said(data):
    with pytest.raises(SharpError, match="the train data are empty") as caught:
        read_rows(data, name="train data")
    assert "at least one example" in caught.value.hint


def test_random_augmentation_is_refused():
    noisy = Rows(50, lambda i: (torch.tensor(float(i)) + torch.rand(()), i))
    with pytest.raises(SharpError, match="the train data give another row") as caught:
        read_rows(noisy, name="train data")
    assert "random augmentation and shuffling" in caught.value.hint


def test_random_augmentation_of_later_rows_alone_is_refused():
    noisy = Rows(400, lambda i: (torch.tensor(float(i)) + (i >= 100) * torch.rand(()), i))
    with pytest.raises(SharpError, match="the train data give another row"):
        read_rows(noisy, name="train data")


@pytest.mark.parametrize("room", [math.inf, 100])
def test_random_augmentation_of_later_rows_is_refused_where_collate_pads_too(room):
    def row(i):
        return torch.full((1 + i % 7,), float(i)) + (i >= 390) * torch.rand(())

    def collate(rows):
        return pad_sequence(rows, batch_first=True)

    with pytest.raises(SharpError, match="the train data give another row"):
        read_rows(Rows(400, row), name="train data", collate=collate, room=room)


def test_rows_that_collate_pads_are_read_once_but_for_those_that_are_tried_twice():
    read = []

    def row(i):
        read.append(i)
        return torch.full((1 + i % 7,), float(i))

    def collate(rows):
        return pad_sequence(rows, batch_first=True)

    read_rows(Rows(400, row), name="train data", collate=collate)
    twice = sorted(read)
    for index in range(400):
        twice.remove(index)
    assert (len(twice), twice[-1]) == (PROBE + 32, 399)


def seen(dataset, collate=None, samples=5):
    rows = read_rows(dataset, name="train data", samples=samples, collate=collate)
    batches, partly = seen_rows(dataset, rows, collate)
    return torch.cat([batch[1] for batch in batches]), partly


@pytest.mark.parametrize("collate", [None, default_collate])
def test_a_choice_for_a_split_is_made_by_all_tensors_at_hand(collate):
    inputs, targets = torch.arange(2000.0), torch.arange(2000)
    for data in ((inputs, targets), TensorDataset(inputs, targets)):
        found, partly = seen(data, collate)
        assert set(found.tolist()) == set(range(2000))
        assert len(found) == 2005
        assert partly == ""
    found, partly = seen((inputs, targets), collate, samples=None)
    assert (len(found), partly) == (2000, "")


def test_a_choice_for_a_split_of_many_rows_is_made_by_the_same_ones_for_every_sample():
    data = Rows(5000, lambda i: (torch.tensor(float(i)), i))
    found, partly = seen(data)
    other, _ = seen(data, samples=7)
    assert torch.equal(found[5:], other[7:])
    assert (len(found), found[5], found[-1]) == (2053, 0, 4999)
    assert partly == "by 2,048 of the 5,000 rows of the train data, and the sample"
    few, partly = seen(Rows(90, lambda i: (torch.tensor(float(i)), i)))
    assert (few[5:].tolist(), partly) == (list(range(90)), "")


def test_a_random_flip_is_found_although_it_leaves_half_of_the_rows_alone():
    generator = torch.Generator().manual_seed(0)

    def flipped(i):
        row = torch.tensor([1.0, 2.0])
        return (row.flip(0) if torch.rand((), generator=generator) < 0.5 else row, i)

    for _ in range(50):
        with pytest.raises(SharpError, match="give another row"):
            read_rows(Rows(50, flipped), name="train data")


def test_a_data_set_that_shuffles_is_refused():
    class Shuffling(Rows):
        def __getitem__(self, index):
            return super().__getitem__(int(torch.randint(0, self.count, ())))

    with pytest.raises(SharpError, match="give another row when the same row is read twice"):
        read_rows(Shuffling(500, lambda i: (torch.tensor(i), i)), name="train data")


def test_nan_in_a_row_is_not_taken_for_randomness():
    rows = read_rows(Rows(5, lambda i: (torch.tensor(float("nan")), i)), name="train data")
    assert rows.count == 5


def test_rows_of_unequal_shape_say_which_and_what_to_do():
    with pytest.raises(SharpError, match="rows 0 to 4 of the train data do not make") as caught:
        read_rows(Rows(5, lambda i: torch.zeros(i + 1)), name="train data")
    assert "define collate(rows)" in caught.value.hint


@pytest.mark.parametrize(
    "row",
    [
        lambda i: torch.zeros(3 + i // 1024),  # each chunk alone would fit
        lambda i: {"x": 1} if i % 2 == 0 else {"y": 1},
    ],
)
def test_rows_that_do_not_fit_each_other_are_no_traceback(row):
    with pytest.raises(SharpError, match="of the train data do not make a batch"):
        read_rows(Rows(2000, row), name="train data")


def test_progress_counts_rows():
    seen = []
    read_rows(
        TensorDataset(torch.zeros(2100)),
        name="train data",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1024, 2100), (2048, 2100), (2100, 2100)]


def test_tensors_of_unequal_length_are_refused():
    with pytest.raises(SharpError, match=r"\(5, 2\), \(2, 8\)") as caught:
        read_rows((torch.zeros(5, 2), torch.zeros(2, 8)), name="train data")
    assert "one length" in caught.value.hint


COLLATES = {
    "edges": lambda rows: {
        "x": torch.stack(rows),
        "edges": torch.arange(2 * len(rows)).view(2, -1),
    },
    "shared": lambda rows: {"x": torch.stack(rows), "weights": torch.arange(3.0)},
    "as long as the data": lambda rows: {"x": torch.stack(rows), "shared": torch.arange(40.0)},
    "a number": lambda rows: {"x": torch.stack(rows), "scale": 2.0},
    "a name": lambda rows: {"x": torch.stack(rows), "name": "all"},
    "dicts": lambda rows: [{"x": row} for row in rows],
    "ragged": lambda rows: [row[: 1 + int(row[0]) % 3] for row in rows],
    "rows second": lambda rows: torch.stack(rows, 1),
    "centred": lambda rows: torch.stack(rows) - torch.stack(rows).mean(0),
    "sorted": lambda rows: torch.stack(rows).sort(0, descending=True).values,
}


@pytest.mark.parametrize("name", COLLATES)
def test_every_batch_is_collated_where_no_slice_is_one(name):
    collate = COLLATES[name]
    items = [torch.tensor([float(i), 1.0, 2.0]) for i in range(40)]
    rows = read_rows(Rows(40, items.__getitem__), name="train data", collate=collate)
    rows = rows.to(torch.device("cpu"), torch.float64)
    assert not rows.sliceable
    for start, stop in [(0, 40), (3, 20), (20, 40), (39, 40)]:
        assert same(rows.slice(start, stop), collate(items[start:stop]))
    chosen = rows.take(torch.tensor([7, 3]))
    assert same(chosen.batch, collate([items[7], items[3]]))
    leaves = torch.utils._pytree.tree_leaves(rows.batch)
    assert all(leaf.dtype != torch.float32 for leaf in leaves if isinstance(leaf, torch.Tensor))
    assert same(rows.head(5).batch, collate(items[:5]))
    assert rows.digest() == rows.head(40).digest() != rows.head(39).digest()


def test_a_collate_that_stacks_is_sliced_and_one_that_pads_too():
    stacked = read_rows(Rows(40, torch.tensor), name="train data", collate=torch.stack)
    assert stacked.sliceable
    assert stacked.padded is None
    for left in (False, True):
        rows = read_rows(
            Rows(40, lambda i: torch.ones(1 + i % 3)),
            name="train data",
            collate=lambda items, left=left: torch.nn.utils.rnn.pad_sequence(
                items, True, padding_side="left" if left else "right"
            ),
        )
        assert rows.sliceable
        assert rows.slice(0, 1).shape == (1, 3)
        assert rows.padded.take(torch.tensor([0])).batch.shape[1] <= 3


def test_the_few_long_rows_of_a_collate_that_pads_are_seen():
    rows = read_rows(
        Rows(500, lambda i: torch.ones(9 if i == 250 else 2)),
        name="train data",
        collate=lambda items: torch.nn.utils.rnn.pad_sequence(items, True),
    )
    assert rows.padded is not None


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left.double(), right.double())
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def rare_rows(dataset):
    """How many rows of a rare class are expected in 100 of 1,000."""
    return read_rows(dataset, name="train data", samples=100).carriers


def test_what_is_rare_in_all_rows_is_known_without_reading_them():
    inputs, labels = torch.rand(1000, 3), (torch.arange(1000) < 20).long()
    read = []

    class Images(Rows):
        def __init__(self, **columns):
            super().__init__(1000, lambda i: read.append(i) or (inputs[i], labels[i]))
            vars(self).update(columns)

    expected = rare_rows((inputs, labels))
    assert expected == pytest.approx(2, rel=0.1)
    assert rare_rows(torch.utils.data.TensorDataset(inputs, labels)) == expected
    for targets in (labels, labels.tolist()):
        assert rare_rows(Images(targets=targets)) == expected
    assert len(set(read)) == 100
    # Of other data sets the sample's own rows say what it has few of.
    own = read_rows(Images(targets=["a"] * 1000), name="train data", samples=100)
    assert own.carriers == pytest.approx(float(own.batch[1].sum()), rel=0.15)
    assert own.take(torch.arange(5)).to(torch.device("cpu"), torch.float64).carriers == own.carriers
    assert read_rows((inputs, labels), name="train data").carriers == math.inf


def test_a_collate_that_changes_rows_holds_for_a_tuple_of_tensors_too():
    inputs, classes = torch.arange(12.0).reshape(6, 2), torch.arange(6)

    def five_times(rows):
        return torch.stack([5 * row[0] for row in rows]), torch.stack([row[1] for row in rows])

    rows = read_rows((inputs, classes), name="data", collate=five_times)
    assert torch.equal(rows.batch[0], 5 * inputs)
    assert torch.equal(rows.batch[1], classes)
    same = read_rows((inputs, classes), name="data", collate=default_collate)
    assert same.batch[0] is inputs


def test_a_list_of_tensors_with_a_collate_is_one_of_rows():
    for lengths in ([3, 1, 2], [2, 2, 2]):
        items = [torch.arange(length) + 1 for length in lengths]
        rows = read_rows(items, name="data", collate=lambda given: pad_sequence(given, True))
        assert torch.equal(rows.batch, pad_sequence(items, True))
    many = [torch.zeros(length) for length in range(1, 40)]
    with pytest.raises(SharpError) as caught:
        read_rows(many, name="data")
    assert "(5,), …, which" in str(caught.value)
    assert "needs collate(rows)" in caught.value.hint
