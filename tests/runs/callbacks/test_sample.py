"""The rows that are measured during a training: fixed, nested, and as many as fit."""

import torch
from torch.utils.data import Dataset, TensorDataset

from sharpcli.runs.callbacks.sample import Sizes, read_sample, searched_part, sizes_for, work_of


def read(data, samples, collate=None, notes=None):
    notes = [] if notes is None else notes
    return read_sample(data, collate, samples=samples, seed=3, notes=notes)


def test_a_larger_sample_holds_a_smaller_one():
    data = TensorDataset(torch.arange(50.0))
    few, more = (read(data, count).batch[0].tolist() for count in (5, 20))
    assert more[:5] == few
    assert len({*more}) == 20
    assert read(data, 80).count == 50


def test_half_of_a_sample_is_searched_and_all_of_all_data():
    data = TensorDataset(torch.arange(50.0))
    part = searched_part(read(data, 20), 0)
    assert len(part) == 10
    assert part.tolist() == sorted({*part.tolist()})
    assert len(searched_part(read(data, 50), 0)) == 50


def test_augmented_rows_and_random_masks_are_drawn_once_and_noted():
    class Noisy(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return {"x": torch.randn(2), "label": index}

    def masked(rows):
        x = torch.stack([row["x"] for row in rows])
        return {"x": x * (torch.rand(len(rows), 1) > 0.5), "label": torch.ones(len(rows))}

    notes = []
    rows = read(Noisy(), 8, masked, notes)
    assert rows.sliceable
    assert torch.equal(rows.slice(0, 4)["x"], rows.batch["x"][:4])
    assert torch.equal(rows.batch["x"], read(Noisy(), 8, masked).batch["x"])
    (note,) = set(notes)
    assert "augmentation" in note


def test_what_has_no_row_for_each_example_is_collated_batch_by_batch():
    def ragged(rows):
        return {"x": torch.cat([row[0].reshape(1) for row in rows]), "offsets": torch.zeros(1)}

    rows = read(TensorDataset(torch.arange(9.0)), 4, ragged)
    assert (rows.count, rows.total) == (4, 9)
    assert not rows.sliceable


def test_sizes_follow_the_terms_of_the_loss():
    assert sizes_for(1.0, 10**6) == Sizes(384, 2048)
    assert sizes_for(32.0, 10**6) == Sizes(32, 192)
    assert sizes_for(32.0, 40) == Sizes(32, 40)


def test_the_largest_sample_that_fits_is_taken():
    sizes = Sizes(32, 2048)
    for seconds in (0.01, 1.0, 7.0, 1e9):
        count = sizes.fitting(seconds, gradient=1e-3, reading=1e-6)
        assert count in (32, 64, 128, 256, 512, 1024, 2048)
        assert count == 32 or work_of(count) * 1e-3 <= seconds
        assert count == 2048 or work_of(2 * count) * 1e-3 > seconds
    assert sizes.fitting(1.0, gradient=1e-9, reading=0.01) == 128  # 64 more take 0.64 s
