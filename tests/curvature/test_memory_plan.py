"""How a bound on memory is shared out: kept graphs and rows of a basis follow from it."""

import re
import weakref

import pytest
import torch
from networks import CASES, objective
from sharpcli.settings.curvature import CurvatureSettings

from sharpcli.curvature import graph_bytes, make_operator
from sharpcli.curvature import memory_plan as budget
from sharpcli.curvature.gauss_newton import gauss_newton
from sharpcli.curvature.graphs import graph_cost
from sharpcli.curvature.memory_plan import share_memory, share_memory_of_probes
from sharpcli.errors import SharpError
from sharpcli.linalg.eigsh import least_rows

PINNED = CurvatureSettings(hvp="double-backward")


def shared(memory, name="conv"):
    function, theta = objective(CASES[name], batch_size=4)
    settings = CurvatureSettings(hvp="double-backward", memory=memory)
    return share_memory(function, theta, settings, 2, 1), function, theta


def test_with_room_for_all_everything_is_kept():
    found, function, _ = shared(10**9)
    assert found.graphs >= found.all_graphs > 0
    assert found.rows == min(function.size, 92)
    assert found.bytes <= found.total


def test_graphs_and_rows_follow_from_the_memory():
    whole = shared(10**9)[0]
    for memory in range(int(whole.bytes), 0, -int(whole.bytes) // 8):
        try:
            found, function, theta = shared(memory)
        except SharpError as error:
            assert "at the least" in error.message
            break
        assert least_rows(2, 1) <= found.rows <= whole.rows
        assert found.bytes <= memory
        operator = make_operator(function, theta, PINNED, graphs=found.graphs)
        operator @ theta
        kept, batches = operator.microbatches
        one, _ = graph_bytes(function, theta, PINNED)
        assert batches == -(-function.rows.count // function.batch_size)
        assert kept * one <= found.graphs + one
    else:
        pytest.fail("however little there is, it is enough")


def test_batches_are_halved_where_graphs_of_smaller_ones_can_be_kept():
    whole, function, theta = shared(10**9)
    one, _ = graph_bytes(function, theta, PINNED)
    rows = least_rows(2, 1)
    for part, kept in ((0.1, False), (0.7, True)):  # not even one example's fit in the first
        memory = int(whole.working + (rows + 2) * whole.copy + part * one)
        found, function, theta = shared(memory)
        assert (found.batch_size < whole.batch_size) is kept
        operator = make_operator(function, theta, PINNED, graphs=found.graphs)
        operator @ theta
        assert (operator.microbatches[0] > 0) is kept
        assert found.bytes <= memory


def test_too_little_memory_is_said_with_what_would_do():
    with pytest.raises(SharpError, match=r"1 kB of memory are too little for 3 eigenvalues") as no:
        shared(1000)
    assert "raise memory" in no.value.hint


def test_the_least_that_is_said_is_enough_and_less_is_not():
    with pytest.raises(SharpError) as no:
        shared(1000)
    said = re.search(r"take ([\d.]+) kB at the least", no.value.message)
    least = float(said[1]) * 1000
    found, function, _ = shared(int(1.01 * least))
    assert found.bytes <= 1.01 * least
    assert function.batch_size == 1 < shared(10**9)[1].batch_size  # halved until it fitted
    with pytest.raises(SharpError):
        shared(int(0.99 * least))


def test_a_bound_above_what_is_free_is_lowered_to_it(monkeypatch):
    monkeypatch.setattr(budget, "available_memory", lambda device: 10**7)
    assert shared(10**12)[0].total == 10**7


def for_probes(memory, probes=4, steps=10):
    function, theta = objective(CASES["conv"], batch_size=4)
    settings = CurvatureSettings(hvp="double-backward", memory=memory)
    return share_memory_of_probes(function, theta, settings, probes, steps)


def test_probes_go_in_step_where_graphs_have_room_beside_their_bases():
    found = for_probes(10**9)
    assert (found.block, found.known, found.rows) == (4, 10, 50)
    assert found.graphs >= found.all_graphs > 0
    assert found.bytes <= found.total
    assert "blocks of 4" in str(found)


def test_a_density_keeps_within_its_memory_down_to_one_basis():
    most, blocks = int(for_probes(10**9).bytes), []
    for memory in range(most, 0, -most // 12):
        try:
            found = for_probes(memory)
        except SharpError as error:
            assert "10 Lanczos steps of" in error.message
            assert "steps=" in error.hint or "more memory" in error.hint
            break
        assert found.bytes <= memory
        assert found.rows == 10 * found.block + found.known
        assert found.known in (5, 10)  # half as many as steps where memory is short
        blocks.append(found.block)
    else:
        pytest.fail("however little there is, it is enough")
    assert {1, 4} <= {*blocks}


def test_fewer_steps_that_are_said_to_fit_do():
    least = int(for_probes(10**9, steps=40).copy * 60)
    with pytest.raises(SharpError, match="40 Lanczos steps of") as no:
        for_probes(least, steps=40)
    fewer = int(re.search(r"steps=(\d+)", no.value.hint)[1])
    assert for_probes(least, steps=fewer).bytes <= least
    with pytest.raises(SharpError):
        for_probes(least, steps=fewer + 2)


def test_a_matrix_computed_whole_needs_no_basis():
    found = for_probes(10**9, probes=10, steps=1000)
    assert (found.rows, found.block) == (0, 1)


def test_batches_are_halved_where_a_density_does_not_fit_otherwise():
    whole = for_probes(10**9, probes=1)
    least = int(whole.working) + 11 * whole.copy
    assert for_probes(least, probes=1).batch_size == whole.batch_size
    found = for_probes(least - 1, probes=1)
    assert found.batch_size < whole.batch_size
    assert found.bytes < least
    with pytest.raises(SharpError, match="10 Lanczos steps of"):
        for_probes(least // 2, probes=1)


@pytest.mark.parametrize("share", [shared, for_probes])
def test_bases_lie_on_the_cpu_where_a_gpu_is_short_of_memory(monkeypatch, share):
    least = next(memory for memory in range(10**4, 10**7, 10**4) if _fits(share, memory))
    monkeypatch.setattr(budget, "_has_elsewhere", lambda device: True)
    found = share(least // 2)
    found = found[0] if share is shared else found
    assert found.rows * found.copy > found.total - found.working  # not in what is to be shared
    assert found.working + min(found.graphs, found.all_graphs) <= found.total
    monkeypatch.setattr(budget, "_rows_elsewhere", lambda copy: 2)
    with pytest.raises(SharpError, match="memory are"):
        share(least // 2)


def _fits(share, memory):
    try:
        share(memory)
    except SharpError:
        return False
    return True


def test_out_of_memory_drops_kept_graphs_before_batches_are_halved():
    function, theta = objective(CASES["conv"], batch_size=4)
    operator = make_operator(function, theta, PINNED)
    true = operator @ theta
    assert operator.microbatches == (6, 6)
    inner, failures = operator._apply, [torch.OutOfMemoryError("tried to allocate")]

    def apply(rows):
        if failures:
            raise failures.pop()
        return inner(rows)

    operator._apply = apply
    assert torch.allclose(operator @ theta, true, rtol=1e-12)
    assert operator.microbatches == (3, 6)
    assert function.batch_size == 4


def test_what_counts_saved_tensors_leaves_nothing_behind():
    function, theta = objective(CASES["tanh"])
    leaves = function.leaves(theta.clone())
    seen = weakref.ref(leaves[0])
    assert function.saved_bytes > 0
    graph_cost(function, leaves, gauss_newton)
    del leaves
    assert seen() is None
