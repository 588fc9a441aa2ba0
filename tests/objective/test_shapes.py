import pytest
import torch
from networks import CASES
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.objective.reading import read_rows
from sharpcli.objective.shapes import give_shapes

TASK = CASES["tanh"]
ROWS = read_rows(TASK.data("train"), name="train data")
INPUTS = TASK.data("train")[0].shape[1]


def test_a_lazy_layer_gets_its_shape_from_the_data():
    model = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    give_shapes(model, TASK, ROWS)
    assert model[0].weight.shape == torch.Size([5, INPUTS])
    assert sum(each.numel() for each in model.parameters()) == 5 * INPUTS + 5 + 10 + 18
    assert all(module.training for module in model.modules())
    assert int(model[2].num_batches_tracked) == 0


def test_a_lazy_layer_that_no_pass_uses_is_refused_by_name():
    model = nn.Sequential(nn.Linear(INPUTS, 3))
    model[0].unused = nn.LazyLinear(3)
    with pytest.raises(SharpError, match=r"'0\.unused\.weight' is lazy"):
        give_shapes(model, TASK, ROWS)
