"""Data in temporary and mapped files, and batches by length: the numbers are those of memory."""

import math
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sharpcli.settings.measuring import RunSettings
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from sharpcli.errors import SharpError
from sharpcli.objective import decoding
from sharpcli.objective.lengths import ranges
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import memory_for_data, read_rows
from sharpcli.objective.shards import shards
from sharpcli.runs.study import prepare
from sharpcli.tasks import Task, defaults

CPU = torch.device("cpu")


class Images(Dataset):
    """uint8 images with classes, or as dictionaries of half-precision numbers."""

    def __init__(self, count=700, *, half=False, read=None):
        self.pixels = torch.randint(
            0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
        self.half, self.read = half, [] if read is None else read

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        self.read.append(index)
        if self.half:
            return {"x": self.pixels[index].half() / 256, "y": index % 5}
        return self.pixels[index], index % 5


def pixels_task(data, **more):
    def predict(model, batch):
        inputs = batch["x"] if isinstance(batch, dict) else batch[0]
        return model(inputs.to(model[1].weight.dtype) / 255)

    def loss(outputs, batch):
        targets = batch["y"] if isinstance(batch, dict) else batch[1]
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))

    return Task("pixels", {}, "", model, data, predict, loss, **more)


def objective_of(task, rows, dtype=torch.float64, **settings):
    model = task.model()
    network = Network(model, task, device=CPU, dtype=dtype)
    tensors = model.state_dict()
    return Objective(network, rows, network.fixed(tensors), **settings), network.flatten(tensors)


@pytest.mark.parametrize("half", [False, True])
def test_rows_in_a_file_give_the_numbers_of_rows_in_memory(half):
    data = Images(half=half)
    task = pixels_task(lambda _: data)
    both = [read_rows(data, name="train data", room=room) for room in (math.inf, 1000)]
    assert [rows.mapped for rows in both] == [False, True]
    assert [len(rows.notes) for rows in both] == [0, 1]
    assert "temporary file" in both[1].notes[0]
    kept = both[1].columns
    column = kept["x"] if half else kept[0]
    assert column.dtype == (torch.float16 if half else torch.uint8)
    found = []
    for rows in both:
        objective, theta = objective_of(task, rows, batch_size=64)
        value, gradient = objective.gradient(theta)
        per_example, _ = objective.per_example_losses(theta)
        parts = torch.stack([part.gradient(theta)[1] for part in shards(objective, 0)])
        used = objective.rows
        assert used.mapped == rows.mapped
        some = used.take(torch.tensor([699, 3, 3]))
        found.append((value, gradient, per_example, parts, used.digest(), some.digest()))
        assert used.not_finite() is None
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_a_batch_is_converted_when_it_is_used():
    rows = read_rows(Images(half=True), name="train data", room=1000).to(CPU, torch.float64)
    batch = rows.slice(3, 9)
    assert batch["x"].dtype == torch.float64
    assert batch["y"].dtype == torch.int64
    assert rows.columns["x"].dtype == torch.float16
    assert rows.batch_of(torch.tensor([5]))["x"].dtype == torch.float64
    images = read_rows(Images(), name="train data", room=1000).to(CPU, torch.float64)
    assert images.slice(0, 2)[0].dtype == torch.uint8


def test_every_row_is_decoded_once_but_for_those_that_are_tried_twice():
    read = []
    read_rows(Images(700, read=read), name="train data", room=1000)
    twice = sorted(read)
    for index in range(700):
        twice.remove(index)
    assert twice[: decoding.PROBE] == [0, *range(decoding.PROBE - 1)]
    assert (len(twice), twice[-1]) == (decoding.PROBE + 32, 699)


def test_a_mapped_tensor_is_taken_as_it_is(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3e6, dtype=np.float32).reshape(-1, 3))
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="r+"))
    rows = read_rows((mapped,), name="train data", room=1000)
    assert rows.columns[0].data_ptr() == mapped.data_ptr()
    assert rows.bytes == 0 or not rows.mapped  # only Linux says what is mapped
    some = rows.to(CPU, torch.float64).take(torch.tensor([10, 999_999]))
    assert some.batch[0][:, 0].tolist() == [30, 2_999_997]


def test_integers_followed_by_floats_become_floats_in_a_file_too():
    class Mixed(Images):
        def __getitem__(self, index):
            return index if index < decoding.CHUNK else index + 0.5

    for room in (math.inf, 1000):
        rows = read_rows(Mixed(1500), name="train data", room=room)
        found = rows.slice(0, 1500)
        assert found.dtype == torch.float64
        assert found[[0, 1023, 1024, 1499]].tolist() == [0, 1023, 1024.5, 1499.5]


class Slow(Images):
    def __getitem__(self, index):
        time.sleep(1e-4)
        return super().__getitem__(index)[0], index % 5, os.getpid()


def by_workers(monkeypatch):
    monkeypatch.setattr(decoding, "_WORTH_WORKERS", 0.0)
    monkeypatch.setattr(decoding, "_workers", lambda _: 2)
    monkeypatch.setattr(decoding, "CHUNK", 100)


def test_workers_decode_slow_rows_in_order(monkeypatch):
    by_workers(monkeypatch)
    data = Slow(650)

    class Rows(Slow):
        def __getitem__(self, index):
            return super().__getitem__(index)[:2]

    rows = read_rows(Rows(650), name="train data")
    assert torch.equal(rows.batch[0], data.pixels)
    assert torch.equal(rows.batch[1], torch.arange(650) % 5)


def test_a_worker_that_gives_other_rows_is_found_out(monkeypatch):
    by_workers(monkeypatch)
    with pytest.raises(SharpError, match="give another row when the same row is read twice"):
        read_rows(Slow(650), name="train data")  # rows hold the number of their process


def test_an_error_in_a_worker_is_the_data_sets_own(monkeypatch):
    by_workers(monkeypatch)

    class Broken(Slow):
        def __getitem__(self, index):
            if index == 430:
                raise LookupError("image 430 is broken")
            return super().__getitem__(index)[:2]

    with pytest.raises(LookupError, match=r"^image 430 is broken$"):
        read_rows(Broken(650), name="train data")


def test_a_share_of_memory_is_for_data():
    assert memory_for_data(10**9) <= 10**9 / 2
    assert memory_for_data() > 0


def texts(lengths):
    generator = torch.Generator().manual_seed(2)
    return [(torch.randint(1, 50, (n,), generator=generator), i % 2) for i, n in enumerate(lengths)]


def collate(rows):
    return pad_sequence([row for row, _ in rows], True), torch.tensor([y for _, y in rows])


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 2)

    def forward(self, tokens):
        real = (tokens > 0).unsqueeze(-1)
        return self.head((self.table(tokens) * real).sum(1) / real.sum(1))


LENGTHS = [int(n) for n in 3 + 20 * torch.rand(150, generator=torch.Generator().manual_seed(3))]
LENGTHS[70] = 90


def texts_task(data, model=Mean):
    return Task(
        "texts",
        {},
        "",
        model,
        {"train": data, "test": None}.__getitem__,
        defaults.predict,
        lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1], reduction="none"),
        collate=collate,
    )


@pytest.mark.parametrize("room", [math.inf, 2000])
def test_batches_by_length_change_neither_numbers_nor_their_order(room):
    data = texts(LENGTHS)
    task = texts_task(data)
    plain = read_rows(data, name="train data", collate=collate)
    sorted_ = read_rows(data, name="train data", collate=collate, by_length=True, room=room)
    assert plain.sliceable
    assert not sorted_.sliceable
    found = []
    for rows in (plain, sorted_):
        for size in (7, 40, 150):
            objective, theta = objective_of(task, rows, batch_size=size)
            sums, _ = objective.per_example_losses(theta)
            value, gradient = objective.gradient(theta)
            parts = torch.stack([part.gradient(theta)[1] for part in shards(objective, 0)])
            found.append((torch.tensor(value), gradient, sums, parts))
            assert sum(objective.counts) == 150
            assert max(objective.counts) <= size
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.allclose(one, two, rtol=1e-12, atol=1e-14)


def test_one_long_row_does_not_pad_the_others():
    rows = read_rows(texts([20] * 256 + [64]), name="x", collate=collate, by_length=True)
    widths = [rows.visit(*each)[0].shape for each in rows.visits(0, 257, 257)]
    assert widths == [(1, 64), (256, 20)]


def test_batches_cost_more_than_a_little_padding():
    assert ranges([12, 11, 10, 10], 4, 12) == [(0, 4)]
    assert ranges([400, 10, 10, 10], 4, 12) == [(0, 1), (1, 4)]
    assert ranges([50] * 7, 3, 50) == [(0, 3), (3, 6), (6, 7)]
    lengths = sorted((n for n in LENGTHS), reverse=True)
    found = ranges(lengths, 10, 12)
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
    assert (found[0][0], found[-1][1]) == (0, 150)
    for start, stop in found:
        assert stop - start <= max(1, 10 * 12 / lengths[start], 0) or lengths[start] <= 12


def test_a_model_of_one_width_still_gets_it():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(90, 2)

        def forward(self, tokens):
            return self.head(tokens.to(self.head.weight.dtype))

    run = RunSettings(device="cpu", batch_size=32)
    assert prepare(texts_task(texts(LENGTHS), Fixed), run, CPU).rows["train"].sliceable
    assert not prepare(texts_task(texts(LENGTHS)), run, CPU).rows["train"].sliceable


def test_a_split_that_is_not_measured_is_not_read():
    asked = []
    task = pixels_task(lambda split: asked.append(split) or Images(64))
    study = prepare(task, RunSettings(device="cpu", split="test"), CPU, splits=("test",))
    assert asked == ["test"]
    assert list(study.rows) == ["test"]


def test_data_are_counted_in_the_limit_and_what_data_holds_is_said():
    from sharpcli.runs.preflight import memory_beside

    study, warnings = SimpleNamespace(data_bytes=3 * 10**8), []
    assert memory_beside(study, None, warnings) is None
    assert memory_beside(study, 10**9, warnings) == 7 * 10**8
    assert warnings == []
    assert memory_beside(study, 4 * 10**8, warnings) == 2 * 10**8
    assert "data() itself holds 300 MB in memory" in warnings[0]
    assert "mmap_mode" in warnings[0]
