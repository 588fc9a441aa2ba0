"""Lines and planes: points against their definitions, and checkpoints that come out bit for bit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharpcli.errors import SharpError
from sharpcli.landscape.frame import around, line, plane_through, weighted_sum


def vectors(count, size=50, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)
    ]


@given(st.floats(-10, 10))
def test_a_line_is_the_weighted_mean_of_its_ends(alpha):
    a, b = vectors(2)
    assert torch.allclose(line(a, b).point((alpha,)), (1 - alpha) * a + alpha * b, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpoints_come_out_bit_for_bit(dtype):
    a, b, c = vectors(3, dtype=dtype)
    frame = line(a, b)
    assert torch.equal(frame.point((0.0,)), a)
    assert torch.equal(frame.point((1.0,)), b)
    assert torch.equal(around(c, [a, b]).point((0.0, 0.0)), c)
    assert torch.equal(plane_through(a, b, c).point((0.0, 0.0)), a)


def test_a_plane_is_in_true_weight_distance():
    a, b, c = vectors(3)
    frame = plane_through(a, b, c)
    to_b, to_c = b - a, c - a
    length = to_b.norm()
    along = to_c @ to_b / length
    height = (to_c - along * to_b / length).norm()
    assert frame.places == ((0.0, 0.0), (length, 0.0), (along, height))
    for place, theta in zip(frame.places, (a, b, c), strict=True):
        assert torch.allclose(frame.point(place), theta, rtol=1e-12, atol=1e-12)
    first, second = frame.direction(0), frame.direction(1)
    assert first.norm() == pytest.approx(1, abs=1e-12)
    assert second.norm() == pytest.approx(1, abs=1e-12)
    assert first @ second == pytest.approx(0, abs=1e-12)


def test_distances_on_the_plane_are_distances_of_weights():
    a, b, c = vectors(3)
    frame = plane_through(a, b, c)
    p, q = (0.3, -2.0), (1.7, 5.0)
    apart = (frame.point(p) - frame.point(q)).norm()
    assert apart == pytest.approx(math.dist(p, q), rel=1e-12)


@pytest.mark.parametrize(
    ("place", "said"), [(0.0, "the same point as A"), (1.0, "at α = 1"), (-2.5, "at α = -2.5")]
)
def test_three_points_on_a_line_span_no_plane(place, said):
    a, b = vectors(2)
    with pytest.raises(SharpError, match=r"C lies on the line through A and B") as caught:
        plane_through(a, b, line(a, b).point((place,)))
    assert said in caught.value.message
    assert "leave C out" in caught.value.hint


def test_two_equal_corners_span_no_plane():
    a, b = vectors(2)
    with pytest.raises(SharpError, match="A and B are the same point"):
        plane_through(a, a.clone(), b)


def test_around_moves_by_the_directions_as_they_are():
    center, d1, d2 = vectors(3)
    point = around(center, [d1, d2]).point((0.5, -3.0))
    assert torch.allclose(point, center + 0.5 * d1 - 3 * d2, rtol=1e-14)
    assert around(center, [d1]).dimensions == 1


def test_a_sum_of_nothing_is_zero_and_changes_no_anchor():
    anchors = torch.stack(vectors(2))
    before = anchors.clone()
    assert weighted_sum(anchors, torch.zeros(2)).eq(0).all()
    alone = weighted_sum(anchors, torch.tensor([0.0, 1.0]))
    alone.add_(1)
    assert torch.equal(anchors, before)
