"""TOML files that people write: what is none is named."""

import pytest

from sharpcli.errors import UsageError
from sharpcli.runtime.toml import read_toml


def test_the_content(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('task = "digits"\n[grid]\nlr = [0.1, 1]\n', "utf-8")
    assert read_toml(path) == {"task": "digits", "grid": {"lr": [0.1, 1]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"task = ", "a.toml: is not TOML: "),
        (b"a = " + b"[" * 100_000, "a.toml: its lists or tables are nested too deeply"),
        (b"a = '\xff'", "a.toml: cannot be read: "),
        (None, "a.toml: cannot be read: No such file"),
    ],
)
def test_what_is_none(tmp_path, content, message):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    assert message in caught.value.message
    assert caught.value.hint
