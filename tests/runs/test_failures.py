"""Working through checkpoints: a signal at any moment leaves each result everywhere or nowhere."""

import signal
import sys

import pytest

from sharpcli.runs import failures
from sharpcli.runtime import interruption

FILES = (failures.__file__, interruption.__file__)


class Pressed:
    """Press Ctrl-C before one of the lines that are run in `FILES`, the one of a number."""

    def __init__(self, number):
        self.number, self.lines = number, 0

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES or frame.f_code.co_name == "_on_signal":
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                signal.raise_signal(signal.SIGINT)
        return self


def gone_through(pressed, begun, kept):
    def work(path, about):
        begun.append(path)
        return f"result of {path}"

    def failed(about, failure):
        return f"{about['path']}: {failure.message}"

    before = sys.gettrace()
    sys.settrace(pressed)
    try:
        return failures.each_checkpoint(["a", "b", "c"], work, failed, done=kept.append)
    finally:
        sys.settrace(before)


@pytest.mark.usefixtures("handled")
def test_ctrl_c_at_any_moment_finds_a_result_kept_everywhere_or_nowhere(monkeypatch):
    number, pressed = 0, None
    while pressed is None or pressed.lines >= number:
        number += 1
        for name in ("_deferring", "_waiting", "_holding"):
            monkeypatch.setattr(interruption, name, False)
        pressed, begun, kept = Pressed(number), [], []
        try:
            results = gone_through(pressed, begun, kept)
        except KeyboardInterrupt:
            assert begun == [], f"line {number}"
            continue
        assert [each for each in results if each.startswith("result")] == kept, f"line {number}"
    assert number > 60
