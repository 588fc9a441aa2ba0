"""The order of the examples in a training."""

from sharpcli.training.order import Order


def test_a_batch_of_all_in_the_middle_of_an_epoch_takes_what_is_left():
    order = Order(10, seed=0)
    first, rest = order.take(4), order.take(10)
    assert sorted([*first.tolist(), *rest.tolist()]) == list(range(10))
    assert order.take(10).tolist() == list(range(10))
