"""Records of CSV and TSV files."""

import pytest

from sharpcli.tasks.records import read_records


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x85", "\u2028"])
def test_only_ends_of_lines_end_a_record(tmp_path, character):
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\nup{character}down,0\n"two\nlines",1\n', "utf-8")
    found = read_records("task", str(path), "options.data")
    assert [each["text"] for each in found] == [f"up{character}down", "two\nlines"]
