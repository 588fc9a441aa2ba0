from __future__ import annotations

import torch

from sharpcli.landscape.alignment.symbolic_axes import (
    Axis,
    Dimension,
    concatenated,
    cut,
    expand,
    fresh,
    leaves,
    pin,
    pinned,
    size,
    unify,
)


def one(size: int) -> Dimension:
    return fresh([size])[0]


def free(dimension: Dimension) -> list[int]:
    return [axis.size for axis, _ in leaves(dimension)]


def test_two_axes_become_one():
    left, right = one(6), one(6)
    unify(left, right)
    assert expand(left) == expand(right)
    assert free(left) == [6]


def test_pinning_reaches_what_was_unified_before_and_after():
    left, middle, right = one(6), one(6), one(6)
    unify(left, middle)
    assert pin(left)
    unify(middle, right)
    assert free(right) == []
    assert not pin(right)


def test_a_product_splits_an_axis_outermost_first():
    flat, (channels, places) = one(12), fresh([3, 4])
    unify(flat, (*channels, *places))
    found = dict(leaves(flat))
    (channel,), (place,) = expand(channels), expand(places)
    assert found[channel].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert found[place].tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_pinned_places_leave_the_channels_free():
    flat = one(12)
    unify(flat, (*one(3), *pinned([4])[0]))
    ((channel, positions),) = leaves(flat)
    assert channel.size == 3
    assert positions.shape == (3, 4)


def test_products_meet_at_their_common_cuts():
    left = (*one(4), *one(6))
    right = (*one(2), *one(12))
    unify(left, right)
    assert free(left) == free(right) == [2, 2, 6]


def test_products_without_common_cuts_are_pinned():
    left, right = (*one(3), *one(4)), (*one(4), *one(3))
    unify(left, right)
    assert free(left) == free(right) == []


def test_axes_of_one_place_do_not_count():
    left, right = (*one(1), *one(5), *one(1)), one(5)
    unify(left, right)
    assert free(left) == [5]


def test_a_cut_makes_pieces_that_stay_in_their_place():
    whole = one(10)
    first, second = cut(whole, [4, 6])
    pin(first)
    ((axis, positions),) = leaves(whole)
    assert (axis,) == expand(second)
    assert positions.flatten().tolist() == list(range(4, 10))


def test_concatenations_are_cut_where_either_is():
    left = concatenated([one(4), one(6)])
    right = concatenated([one(7), one(3)])
    unify(left, right)
    assert free(left) == free(right) == [4, 3, 3]


def test_a_concatenation_that_is_turned_on_itself_leaves_equal_parts():
    first, second = one(2), one(4)
    unify(concatenated([first, second]), concatenated([second, first]))
    # x1 x2 | y1 y2 y3 y4 meets y1 y2 y3 y4 | x1 x2: three pairs of one kind.
    assert free(first) == [2]
    assert {axis for axis, _ in leaves(second)} == set(expand(first))


def test_a_flattened_concatenation_keeps_its_parts():
    channels = concatenated([one(2), one(3)])
    flat = one(20)
    unify(flat, (*channels, *pinned([4])[0]))
    found = [(axis.size, positions[0].tolist()) for axis, positions in leaves(flat)]
    assert found == [(2, [0, 1, 2, 3]), (3, [8, 9, 10, 11])]


def test_a_concatenation_that_would_have_to_be_a_product_is_pinned():
    parts = one(2), one(4)
    unify(concatenated(parts), (*one(2), *one(3)))
    assert [free(part) for part in parts] == [[], []]


def test_an_axis_that_occurs_twice_is_split_alike():
    axis: Dimension = (Axis(4),)
    whole = one(16)
    unify((*axis, *axis), whole)
    unify(whole, (*one(2), *one(8)))
    assert size(whole) == 16
    assert free(axis) == [2, 2]
    covered = torch.cat([positions.flatten() for _, positions in leaves(whole)])
    assert sorted(set(covered.tolist())) == list(range(16))
