import pytest

from sharpcli.errors import UsageError
from sharpcli.training import TrainSettings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"track": ("hesian",)}, "no such measure"),
        ({"every": 3}, "nothing is tracked"),
        ({"track": ("hessian",), "every": 0}, "out of range"),
        ({"track": ("hessian",), "track_tol": 0.0}, "out of range"),
        ({"track": ("hessian",), "fixed_batch": 32, "track_samples": 8}, "out of range"),
        ({"track": ("preconditioned-hessian",)}, "no preconditioner"),
    ],
)
def test_what_cannot_be_tracked_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        TrainSettings(**given)
