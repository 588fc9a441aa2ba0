from __future__ import annotations

import builtins
import dataclasses
import itertools

import pytest
import torch
from networks import CASES, CPU, mlp, task, vectors
from permutable import ARCHITECTURES, architecture, case, drawn_tensors
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.landscape.alignment import weight_matching as alignment
from sharpcli.landscape.alignment.permutations import apply_permutations
from sharpcli.landscape.alignment.weight_matching import align, match_weights
from sharpcli.objective.network import Network
from sharpcli.objective.reading import read_rows
from sharpcli.tasks import load_task
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_permuted_network_is_brought_back_to_the_last_bit(name):
    found = architecture(name)
    permuted, _ = found.permuted(found.tensors)
    aligned = align(found.network, found.batch, found.tensors, permuted)
    assert equal(aligned.tensors, found.tensors)
    assert aligned.function_difference <= 1e-12
    assert aligned.groups == len(found.structure.groups)
    theta = found.network.flatten(found.tensors)
    assert aligned.objective_after == pytest.approx(float(theta @ theta), rel=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_and_any_permutation_of_it_give_the_same_aligned_network(name):
    of, _ = ARCHITECTURES[name]
    found, other = architecture(name), drawn_tensors(of, seed=7)
    aligned = align(found.network, found.batch, found.tensors, other)
    assert aligned.objective_after > aligned.objective_before
    assert aligned.function_difference <= 1e-12
    for seed in range(2):
        permuted, _ = found.permuted(other, seed)
        matched = match_weights(found.structure, found.tensors, permuted)
        assert equal(apply_permutations(found.structure, permuted, matched), aligned.tensors)


def test_units_without_a_bias_are_told_apart():
    """Biases of zero, as layers begin with: a group that only its inputs and outputs describe."""
    found = architecture("gpt")
    tensors = {k: torch.zeros_like(t) if "bias" in k else t for k, t in found.tensors.items()}
    permuted, _ = found.permuted(tensors)
    assert equal(align(found.network, found.batch, tensors, permuted).tensors, tensors)


def test_one_layer_is_matched_by_the_best_of_all_permutations():
    found = case(task(lambda: mlp(5, 6, 3), vectors(5, 3)))
    other = drawn_tensors(task(lambda: mlp(5, 6, 3), vectors(5, 3)), seed=1)
    aligned = align(found.network, found.batch, found.tensors, other)
    theta = found.network.flatten(found.tensors)
    every = [
        float(
            theta
            @ found.network.flatten(
                apply_permutations(found.structure, other, [torch.tensor(order)])
            )
        )
        for order in itertools.permutations(range(6))
    ]
    assert aligned.objective_after == pytest.approx(max(every), rel=1e-12)
    assert aligned.objective_before == pytest.approx(every[0], rel=1e-12)


def test_no_single_exchange_of_two_units_is_better():
    of, _ = ARCHITECTURES["vgg"]
    found, other = case(of), drawn_tensors(of, seed=3)
    aligned = align(found.network, found.batch, found.tensors, other)
    theta = found.network.flatten(found.tensors)
    units = [torch.arange(group.size) for group in found.structure.groups]
    for number, group in enumerate(found.structure.groups):
        for unit in range(1, group.size):
            exchanged = [order.clone() for order in units]
            exchanged[number][[0, unit]] = exchanged[number][[unit, 0]]
            moved = apply_permutations(found.structure, aligned.tensors, exchanged)
            assert float(theta @ found.network.flatten(moved)) <= aligned.objective_after + 1e-9


def test_units_that_are_alike_are_no_trouble():
    """Dead units: exact ties."""
    found = case(task(lambda: mlp(5, 6, 4, 3, activation=nn.ReLU), vectors(5, 3)))
    tensors = {name: tensor.clone() for name, tensor in found.tensors.items()}
    for name in ("0.weight", "0.bias"):
        tensors[name][2:] = 0
    tensors["2.weight"][:, 2:] = 0
    permuted, _ = found.permuted(tensors)
    aligned = align(found.network, found.batch, tensors, permuted)
    assert equal(aligned.tensors, tensors)
    same = align(found.network, found.batch, tensors, tensors)
    assert same.moved == 0


def test_tensors_come_back_as_they_were_given():
    of, _ = ARCHITECTURES["batch_norm_mlp"]
    found = case(of)
    other = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in drawn_tensors(of, seed=2).items()
    }
    other = {**other, "not in the model": torch.ones(2)}
    before = {name: tensor.clone() for name, tensor in other.items()}
    aligned = align(found.network, found.batch, found.tensors, other)
    assert equal(other, before)
    assert {k: t.dtype for k, t in aligned.tensors.items()} == {
        k: t.dtype for k, t in other.items()
    }
    assert aligned.tensors["not in the model"] is other["not in the model"]
    assert aligned.moved > 0


def test_the_same_seed_gives_the_same_answer():
    of, _ = ARCHITECTURES["resnet"]
    found, other = case(of), drawn_tensors(of, seed=5)
    first, second = (
        align(found.network, found.batch, found.tensors, other, seed=11) for _ in range(2)
    )
    assert equal(first.tensors, second.tensors)


def test_a_network_in_float32_is_checked_in_float64():
    of, _ = ARCHITECTURES["vgg"]
    network = Network(of.model(), of, device=CPU)
    rows = read_rows(of.data("train"), name="train data")
    aligned = align(network, rows.head(5).batch, of.model().state_dict(), drawn_tensors(of, 1))
    assert aligned.function_difference <= 1e-12


def test_nothing_to_permute_is_said():
    found = case(CASES["triples"])
    with pytest.raises(SharpError, match=r"no hidden units that could be permuted\n") as caught:
        align(found.network, found.batch, found.tensors, found.tensors)
    assert "leave align out" in (caught.value.hint or "")


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(inputs).sort(1).values)


def test_the_operation_that_is_in_the_way_is_named():
    found = case(task(Sorted, vectors(5, 3)))
    with pytest.raises(SharpError, match=r"unknown operations: aten\.sort\.default"):
        align(found.network, found.batch, found.tensors, found.tensors)


def test_a_structure_that_is_wrong_is_found_out(monkeypatch):
    found = case(task(lambda: mlp(5, 9, 8, 3), vectors(5, 3)))
    other = drawn_tensors(found.network.task, seed=1)
    group = found.structure.groups[0]
    wrong = dataclasses.replace(
        found.structure, groups=(dataclasses.replace(group, places=group.places[:1]),)
    )
    monkeypatch.setattr(alignment, "trace_permutations", lambda *_: wrong)
    with pytest.raises(SharpError, match="does not compute what B computes"):
        align(found.network, found.batch, found.tensors, other)


def test_scipy_that_is_missing_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    found = case(CASES["tanh"])
    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(SharpError) as caught:
        match_weights(found.structure, found.tensors, found.tensors)
    assert caught.value.hint == "pip install 'sharpcli[align]'"


@pytest.fixture(scope="module")
def digits():
    """Two seeds of a wide MLP, trained for a few epochs on real digits."""
    of = load_task("digits", {"width": "512"})
    trained = [
        train(of, TrainSettings(optimizer="adam", epochs=4, seed=seed)).tensors for seed in (0, 1)
    ]
    network = Network(of.model(), of, device=CPU)
    return network, read_rows(of.data("train"), name="train data"), *trained


def barrier(network, rows, a, b):
    """The highest loss on the line above the straight one between its ends, of eleven points."""
    start, end = network.flatten(a), network.flatten(b)
    losses = []
    for step in range(11):
        theta = torch.lerp(start, end, step / 10)
        with torch.no_grad():
            outputs = network.outputs(network.unflatten(theta), network.fixed(a), rows.batch)
            total, weight = network.losses(outputs, rows.batch, rows.count)
        losses.append(float(total.sum() / weight.sum()))
    straight = [losses[0] + (losses[-1] - losses[0]) * step / 10 for step in range(11)]
    return max(loss - line for loss, line in zip(losses, straight, strict=True))


def test_two_seeds_of_a_wide_network_on_real_digits_lie_nearly_in_one_basin(digits):
    network, rows, a, b = digits
    aligned = align(network, rows.head(64).batch, a, b)
    naive = barrier(network, rows, a, b)
    assert naive > 0.2
    assert barrier(network, rows, a, aligned.tensors) <= naive / 5
    assert (aligned.groups, aligned.function_difference <= 1e-6) == (2, True)
    assert aligned.objective_after > aligned.objective_before
    structure = alignment.trace_permutations(network, rows.head(2).batch, a)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(group.size, generator=generator) for group in structure.groups]
    permuted = apply_permutations(structure, b, drawn)
    assert equal(align(network, rows.head(64).batch, a, permuted).tensors, aligned.tensors)


@pytest.mark.gpu
def test_networks_are_aligned_on_a_gpu_as_on_the_cpu():
    of, _ = ARCHITECTURES["resnet"]
    found, other = architecture("resnet"), drawn_tensors(of, seed=5)
    gpu = torch.device("cuda")
    network = Network(of.model(), of, device=gpu, dtype=torch.float64)
    batch = read_rows(of.data("train"), name="train data").to(gpu, torch.float64).head(10).batch
    there = align(network, batch, found.tensors, other)
    assert equal(there.tensors, align(found.network, found.batch, found.tensors, other).tensors)
    assert there.function_difference <= 1e-12


def test_a_permuted_trained_network_has_no_barrier(digits):
    network, rows, a, _ = digits
    generator = torch.Generator().manual_seed(0)
    structure = alignment.trace_permutations(network, rows.head(2).batch, a)
    drawn = [torch.randperm(group.size, generator=generator) for group in structure.groups]
    permuted = apply_permutations(structure, a, drawn)
    assert barrier(network, rows, a, permuted) > 0.2
    aligned = align(network, rows.head(64).batch, a, permuted)
    assert equal(aligned.tensors, a)
    assert barrier(network, rows, a, aligned.tensors) <= 1e-6
