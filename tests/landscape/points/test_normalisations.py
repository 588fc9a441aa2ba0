import torch
from networks import objective, task, vectors
from normalised import NETS
from torch import nn

from sharpcli.landscape.points.normalisations import Call, Normalisations, look


def test_a_look_sees_calls_in_their_order():
    function, theta = objective(NETS["twice"])
    call = Call("norm.running_mean", "norm.running_var", instances=False)
    found = look(function, theta)
    assert found == Normalisations((call, call))
    assert found.moving == found.several == [call]
    found = look(*objective(NETS["residual"]))
    assert [call.layer for call in found.calls] == ["norms.1", "norms.0"]
    assert found.unseen == ()  # of the third, which nothing reads
    assert [c.instances for c in look(*objective(NETS["instances"])).calls] == [True, False]


class ByHand(nn.Module):
    """Statistics that are read by no function that normalises."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("moving_variance", torch.ones(3))

    def forward(self, inputs):
        hidden = self.linear(inputs)
        return (hidden - self.running_mean) / (self.moving_variance + 1e-5).sqrt()


def test_statistics_that_no_function_reads_are_named():
    found = look(*objective(task(ByHand, vectors(5, 3))))
    assert found == Normalisations(unseen=("running_mean", "moving_variance"))


def test_layers_without_running_statistics_do_not_count():
    of = task(
        lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        vectors(5, 3),
    )
    function, theta = objective(of)
    assert look(function, theta) == Normalisations()
