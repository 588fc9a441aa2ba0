"""What memory there is, and failed allocations told from other errors."""

import os

import pytest
import torch

from sharpcli.runtime import memory
from sharpcli.runtime.memory import (
    available_memory,
    bytes_saved,
    computed_sizes,
    is_out_of_memory,
    readable_size,
)

CPU = torch.device("cpu")
PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_there_is_some_and_not_more_than_the_machine_has():
    assert 0 < available_memory(CPU) <= PHYSICAL


@pytest.mark.parametrize(
    ("limit", "used", "free"), [("3000", "1000", 2000), ("1000", "3000", 0), ("max", "1", None)]
)
def test_a_containers_limit_counts(tmp_path, monkeypatch, limit, used, free):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    if free is None:
        assert available_memory(CPU) > 10_000
    else:
        assert available_memory(CPU) == free


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e12, "3 TB")],
)
def test_sizes_are_said_as_people_do(size, said):
    assert readable_size(size) == said


def test_a_failed_allocation_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_what_graphs_save_is_counted_without_what_is_there_anyhow():
    given = torch.randn(10, 10, dtype=torch.float64, requires_grad=True)
    assert bytes_saved(lambda: given.exp().sum(), set()) == 800  # exp keeps what it gives
    own = {given.untyped_storage().data_ptr()}
    assert bytes_saved(lambda: given.sin().sum(), own) == 0  # sin what it is given


def test_where_saved_tensors_cannot_be_looked_at_all_that_is_computed_counts():
    given = torch.randn(10, 10, dtype=torch.float64, requires_grad=True)
    slope = torch.func.grad(lambda tensor: tensor.exp().sum())
    assert 800 <= bytes_saved(lambda: slope(given).sum(), set()) <= 4000


def test_every_tensor_that_is_computed_counts_by_the_numbers_that_it_has():
    given = torch.randn(10, 10, dtype=torch.float64)
    assert max(computed_sizes(lambda: given[:, :5].exp())) == 400
    assert max(computed_sizes(lambda: given.sum().expand(100, 100))) == 8
    with pytest.raises(ZeroDivisionError):
        computed_sizes(lambda: 1 / 0)
