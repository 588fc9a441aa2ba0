"""The networks of the built-in tasks: their shapes, sizes and what they depend on."""

import pytest
import torch
from torch import nn

from sharpcli.tasks.networks import gpt, resnet


def size(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_resnet_has_6n_plus_2_layers(depth, batch_norm):
    network = resnet(3, 7, 8, depth, "relu", batch_norm)
    assert network(torch.zeros(2, 3, 9, 12)).shape == (2, 7)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    of_shortcuts = [m for m in convolutions if m.kernel_size == (1, 1)]
    assert len(convolutions) - len(of_shortcuts) + 1 == 6 * depth + 2
    assert len(of_shortcuts) == 2
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (len(convolutions) if batch_norm else 0)
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 6 * depth + 1


def test_a_residual_block_adds_its_input():
    network = resnet(1, 2, 4, 1, "tanh", batch_norm=False)
    block = network[2]
    for parameter in block.branch.parameters():
        nn.init.zeros_(parameter)
    images = torch.randn(2, 1, 5, 5)
    assert torch.equal(block(images), torch.tanh(images))


def test_a_gpt_sees_only_what_is_before():
    torch.manual_seed(0)
    network = gpt(11, 6, layers=2, heads=2, width=8, dropout=0.0).double()
    tokens = torch.randint(11, (3, 6))
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    before, after = network(tokens), network(changed)
    assert before.shape == (3, 6, 11)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    assert torch.allclose(network(tokens[:, :4]), before[:, :4])  # and takes shorter ones


def test_a_gpt_knows_places():
    torch.manual_seed(0)
    network = gpt(5, 4, layers=1, heads=1, width=4, dropout=0.0)
    one = network(torch.zeros(1, 4, dtype=torch.int64))
    assert not torch.allclose(one[0, 1], one[0, 2])


def test_a_gpts_attention_is_the_formula():
    torch.manual_seed(0)
    width, heads, length = 6, 2, 5
    block = gpt(3, length, layers=1, heads=heads, width=width, dropout=0.0).double().blocks[0]
    inputs = torch.randn(1, length, width, dtype=torch.float64)
    expected = torch.zeros(length, width, dtype=torch.float64)
    q, k, v = block.queries_keys_values(inputs[0]).split(width, dim=1)
    each = width // heads
    for head in range(heads):
        own = slice(head * each, (head + 1) * each)
        for i in range(length):
            scores = k[: i + 1, own] @ q[i, own] / each**0.5
            expected[i, own] = scores.softmax(0) @ v[: i + 1, own]
    assert torch.allclose(block._attention(inputs)[0], expected)


def test_a_gpts_output_layer_is_its_embedding():
    vocabulary, context, layers, width = 11, 6, 3, 8
    network = gpt(vocabulary, context, layers=layers, heads=2, width=width, dropout=0.0)
    in_block = 12 * width**2 + 9 * width + 4 * width  # weights, biases, two layer norms
    assert size(network) == (vocabulary + context + 2) * width + layers * in_block
    assert len({name for name in network.state_dict() if "embedding" in name}) == 1


def test_dropout_is_for_training():
    torch.manual_seed(0)
    network = gpt(5, 4, layers=1, heads=1, width=4, dropout=0.5)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert not torch.equal(network(tokens), network(tokens))
    network.eval()
    assert torch.equal(network(tokens), network(tokens))


def test_blocks_without_normalisation_begin_with_their_input_alone():
    network = resnet(1, 2, 8, 2, "relu", batch_norm=False)
    branches = [module.branch for module in network.modules() if hasattr(module, "branch")]
    assert len(branches) == 6
    assert not any(branch[-1].weight.any() for branch in branches)
    assert all(branch[0].weight.any() for branch in branches)
