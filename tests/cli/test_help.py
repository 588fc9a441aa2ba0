"""The help of every command fits a terminal of 80 columns."""

import pytest
from click.testing import CliRunner

from sharpcli.cli.main import COMMANDS, sharp


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_no_line_of_help_is_wider_than_80_columns(words):
    runner = CliRunner(env={"COLUMNS": "80"})
    done = runner.invoke(sharp, [*words, "--help"], prog_name="sharp", terminal_width=80)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Usage: sharp")
    assert [line for line in lines if len(line) > 80] == []


def test_a_wide_terminal_is_used():
    done = CliRunner().invoke(sharp, ["measure", "--help"], terminal_width=100)
    assert 80 < max(map(len, done.stdout.splitlines())) <= 100
