"""Paths on planes: principal axes against a dense SVD, and points that must fall where they are."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpcli.errors import SharpError
from sharpcli.landscape import trajectory
from sharpcli.landscape.frame import around, line, plane_through
from sharpcli.landscape.trajectory import principal_axes, project


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def path(count=9, size=300, seed=0, dtype=torch.float64):
    """A path that bends: a random walk that settles at its last point."""
    steps = draw(count, size, seed=seed) * torch.linspace(1, 0.1, count)[:, None].double()
    points = (draw(size, seed=seed + 1) + steps.cumsum(0)).to(dtype)
    return list(points[:-1]), points[-1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [7, 300, 2**14, 3 * 2**14 + 5])
def test_axes_and_variances_are_those_of_a_dense_svd(size, dtype):
    points, final = path(size=size, dtype=dtype)
    found = principal_axes(points, final)
    matrix = torch.stack(points).double() - final.double()
    _, singular, rows = torch.linalg.svd(matrix, full_matrices=False)
    shares = singular.square() / singular.square().sum()
    assert found.explained_variance == pytest.approx(shares[:2].tolist(), rel=1e-9)
    for axis, row in zip(found.directions, rows, strict=False):
        assert axis.dtype == dtype
        along = matrix @ row
        row = row * along[along.abs().argmax()].sign()
        assert float((axis.double() - row).norm()) < 1e-6
    shown = project(points, around(final, found.directions))
    assert shown.explained_together == pytest.approx(sum(found.explained_variance), rel=1e-6)
    assert shown.explained_variance == pytest.approx(found.explained_variance, rel=1e-6)
    rest = (matrix - matrix @ rows[:2].T @ rows[:2]).norm(dim=1) / matrix.norm(dim=1)
    assert shown.unseen == pytest.approx(rest.tolist(), abs=1e-6)
    for axis in range(2):
        along = [coordinates[axis] for coordinates in shown.coordinates]
        assert max(along, key=abs) > 0


def test_one_axis_is_the_first_of_two_and_nothing_is_centred():
    points, final = path()
    one, two = principal_axes(points, final, 1), principal_axes(points, final, 2)
    assert torch.equal(one.directions[0], two.directions[0])
    assert one.explained_variance == two.explained_variance[:1]
    offset = 100 * draw(300, seed=9)  # all points far to one side of the final one
    moved = principal_axes([point + offset for point in points], final, 1).directions[0]
    assert abs(float(moved @ offset) / float(offset.norm())) > 0.99


def test_axes_of_very_different_length_stay_orthonormal():
    first, second = torch.linalg.qr(draw(500, 2)).Q.T
    final = torch.zeros(500, dtype=torch.float64)
    points = [first, 0.7 * first + 1e-5 * second, 0.2 * first - 1e-5 * second]
    found = principal_axes(points, final)
    assert abs(float(found.directions[0] @ found.directions[1])) < 1e-14
    assert abs(abs(float(found.directions[1] @ second)) - 1) < 1e-6
    assert found.explained_variance[1] == pytest.approx(1.3e-10, rel=0.5)


def test_a_path_that_passes_the_final_point_again_and_twice_is_fine():
    points, final = path(4)
    found = principal_axes([*points, final, points[0]], final)
    shown = project([*points, final, points[0]], around(final, found.directions))
    assert shown.coordinates[3] == (0.0, 0.0)
    assert shown.unseen[3] == 0.0
    assert shown.coordinates[4] == pytest.approx(shown.coordinates[0], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_paths_without_a_plane_are_refused_and_say_what_to_do(dtype):
    final, step = draw(400, dtype=dtype), draw(400, seed=1, dtype=dtype)
    on_a_line = [final + t * step for t in (3.0, 1.7, 0.4)]
    for points, said in (
        ([final + step], "one other checkpoint and the final one lie on a line"),
        (on_a_line, "3 other checkpoints and the final one lie on a line"),
        ([final + step] * 5, "5 other checkpoints"),
        ([final + step, final], "one other checkpoint and the final one lie on a line"),
        ([final, *on_a_line, final], "3 other checkpoints and the final one lie on a line"),
    ):
        with pytest.raises(SharpError, match=said) as caught:
            principal_axes(points, final)
        assert "name more checkpoints of the run, draw a line" in caught.value.hint
        (axis,) = principal_axes(points, final, 1).directions
        assert abs(float(axis @ step) / float(step.norm())) == pytest.approx(1, abs=1e-6)
    for count in (1, 2):
        with pytest.raises(SharpError, match="every checkpoint of the path equals the final one"):
            principal_axes([final, final.clone()], final, count)
        with pytest.raises(SharpError, match="at least one checkpoint beside the final one"):
            principal_axes([], final, count)


def test_what_storing_in_float32_does_to_a_line_is_no_plane():
    final, step = draw(2, 4000)
    for scale in (1e-4, 1e-2, 1.0):  # a short path far from zero is the more rounded one
        points = [(final + scale * t * step).float() for t in (3.0, 1.7, 0.4)]
        with pytest.raises(SharpError, match="lie on a line"):
            principal_axes(points, final.float())
        bent = [*points, (final + scale * draw(4000, seed=3)).float()]
        assert min(principal_axes(bent, final.float()).explained_variance) > 1e-2


def test_numbers_that_are_none_are_told_by_the_checkpoint_that_holds_them():
    points, final = path(5)
    points[2][17] = math.nan
    with pytest.raises(SharpError, match="checkpoint 3 of the path holds NaN or Inf"):
        principal_axes(points, final)
    final[0] = math.inf
    with pytest.raises(SharpError, match="the final checkpoint of the path holds NaN or Inf"):
        principal_axes(points, final)


# A point that is nearer to the centre than rounding has no direction that could be told.
PLACES = st.just(0.0) | st.floats(1e-3, 3) | st.floats(-3, -1e-3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    alpha=PLACES,
    beta=PLACES,
    skew=st.floats(-0.99, 0.99),
    lengths=st.tuples(st.sampled_from([1e-2, 1.0, 30.0]), st.sampled_from([1e-2, 1.0, 30.0])),
    single=st.booleans(),
)
def test_a_point_of_the_plane_falls_on_its_own_coordinates(alpha, beta, skew, lengths, single):
    dtype = torch.float32 if single else torch.float64
    first, other = torch.linalg.qr(draw(2000, 2)).Q.T
    second = skew * first + (1 - skew**2) ** 0.5 * other
    center = (0.01 * draw(2000, seed=2)).to(dtype)
    directions = [(lengths[0] * first).to(dtype), (lengths[1] * second).to(dtype)]
    frame = around(center, directions)
    exact = center.double() + alpha * directions[0].double() + beta * directions[1].double()
    shown = project([exact], frame)
    limit = 1e-6 * max(1, abs(alpha), abs(beta))
    assert shown.coordinates[0] == pytest.approx((alpha, beta), abs=limit)
    assert shown.unseen[0] < 1e-6
    assert shown.explained_together == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stored_point_of_the_plane_falls_on_its_own_coordinates(dtype):
    center, first, second = draw(3, 50_000, dtype=dtype)
    frame = around(center, [first, second + 0.8 * first])
    for coordinates in ((0.0, 0.0), (1.0, 0.0), (-0.4, 0.7), (0.05, -1.0)):
        shown = project([frame.point(coordinates)], frame)
        assert shown.coordinates[0] == pytest.approx(coordinates, abs=1e-6)
        assert shown.unseen[0] < (1e-6 if dtype == torch.float32 else 1e-14)


def test_skewed_axes_have_shares_of_their_own_and_one_together():
    points, final = path()
    directions = [draw(300, seed=4) + (points[0] - final), 40 * (points[3] - final)]
    frame = around(final, directions)
    shown = project(points, frame)
    matrix, axes = torch.stack(points) - final, torch.stack(directions)
    best = torch.linalg.lstsq(axes.T, matrix.T).solution.T
    rest = (matrix - best @ axes).square().sum(1)
    squares = matrix.square().sum(1)
    found = torch.tensor(shown.coordinates, dtype=torch.float64)
    assert torch.allclose(found, best, rtol=1e-9, atol=1e-12)
    assert shown.unseen == pytest.approx((rest / squares).sqrt().tolist(), abs=1e-7)
    assert shown.explained_together == pytest.approx(float(1 - rest.sum() / squares.sum()))
    for share, axis in zip(shown.explained_variance, directions, strict=True):
        along = (matrix @ axis).square() / axis.square().sum()
        assert share == pytest.approx(float(along.sum() / squares.sum()))
    assert max(shown.explained_variance) < shown.explained_together


def test_checkpoints_of_lines_and_planes_fall_where_they_are_put():
    (a, b, c, *others), _ = path(8)
    on_line = project([a, b, (a + b) / 2], line(a, b))
    assert on_line.coordinates == (
        pytest.approx((0.0,), abs=1e-12),
        pytest.approx((1.0,)),
        pytest.approx((0.5,)),
    )
    assert max(on_line.unseen) < 1e-12
    frame = plane_through(a, b, c)
    shown = project([a, b, c, *others], frame)
    distance = float((b - a).norm())
    assert shown.coordinates[:2] == (
        pytest.approx((0.0, 0.0), abs=1e-9),
        pytest.approx((distance, 0.0), abs=1e-9),
    )
    assert math.dist(*shown.coordinates[::2][:2]) == pytest.approx(float((c - a).norm()))
    assert max(shown.unseen[:3]) < 1e-12
    for point, coordinates, unseen in zip(
        others, shown.coordinates[3:], shown.unseen[3:], strict=True
    ):
        rest = point - frame.point(coordinates)
        assert unseen == pytest.approx(float(rest.norm() / (point - a).norm()))
        for axis in range(2):  # the rest stands at right angles to the plane
            assert abs(float(rest @ frame.direction(axis))) < 1e-9


def test_axes_that_are_one_or_none_still_give_numbers():
    points, final = path(5)
    axis = draw(300, seed=4)
    both = project(points, around(final, [axis, -2 * axis]))
    alone = project(points, around(final, [axis]))
    assert both.unseen == pytest.approx(alone.unseen)
    rounded = project(points, around(final, [axis, 1.7 * axis + 1e-7 * draw(300, seed=5)]))
    assert max(abs(c) for coordinates in rounded.coordinates for c in coordinates) < 10
    nothing = project(points, around(final, [torch.zeros_like(axis)]))
    assert nothing.coordinates == ((0.0,),) * 4
    assert nothing.unseen == pytest.approx((1.0,) * 4)
    assert nothing.explained_variance == (0.0,)
    assert nothing.explained_together == pytest.approx(0, abs=1e-12)
    home = project([final], around(final, [axis]))
    assert home.coordinates == ((0.0,),)
    assert home.unseen == (0.0,)
    assert (home.explained_variance, home.explained_together) == ((1.0,), 1.0)


def test_no_more_than_a_slice_of_the_points_is_held_in_float64(monkeypatch):
    points, final = path(6, size=2**16, dtype=torch.float32)
    largest = 0
    original = trajectory._away

    def watched(*arguments):
        nonlocal largest
        found = original(*arguments)
        largest = max(largest, found.numel())
        return found

    monkeypatch.setattr(trajectory, "_away", watched)
    found = principal_axes(points, final)
    project(points, around(final, found.directions))
    assert largest <= 5 * 2**14


@pytest.mark.gpu
def test_a_path_kept_on_the_cpu_is_shown_on_a_gpu():
    points, final = path(size=2**19 + 3, dtype=torch.float32)
    on_cpu, on_gpu = principal_axes(points, final), principal_axes(points, final.cuda())
    assert on_gpu.explained_variance == pytest.approx(on_cpu.explained_variance, rel=1e-9)
    for a, b in zip(on_cpu.directions, on_gpu.directions, strict=True):
        assert b.device.type == "cuda"
        assert torch.allclose(a, b.cpu(), rtol=1e-6, atol=1e-9)
    shown = project(points, around(final, on_cpu.directions))
    again = project(points, around(final.cuda(), on_gpu.directions))
    for a, b in zip(shown.coordinates, again.coordinates, strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    assert shown.unseen == pytest.approx(again.unseen, rel=1e-6)
