"""Temporary files of tensors: what they hold, what they leave, and what a full disk says."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpcli.errors import SharpError
from sharpcli.runtime.spool import Spool, is_mapped, release_mapped_pages

linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux")


def test_tensors_of_every_dtype_keep_their_numbers_after_their_pages_are_given_back():
    spool, generator = Spool(), torch.Generator().manual_seed(0)
    made = []
    for dtype in (torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.bool):
        numbers = torch.randint(0, 2, (257, 3), generator=generator).to(dtype)
        made.append((numbers, spool.copy(numbers)))
    large = spool.empty((3, 2**23), torch.float32)
    large.copy_(torch.arange(3.0)[:, None].expand(3, 2**23))
    release_mapped_pages()
    assert all(torch.equal(numbers, kept) for numbers, kept in made)
    assert large.sum(1, dtype=torch.float64).tolist() == [0, 2**23, 2**24]
    assert spool.empty((0, 3), torch.float32).shape == (0, 3)


@linux
def test_pages_of_mapped_files_are_given_back_and_changes_stay(tmp_path):
    def resident():
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    size = 2**25
    written = np.lib.format.open_memmap(tmp_path / "shared.npy", "w+", np.uint8, (size,))
    written[:] = 7
    private = np.load(tmp_path / "shared.npy", mmap_mode="c")
    private[:] = 9  # kept in memory only
    before = resident()
    release_mapped_pages()
    assert before - resident() > 0.8 * size
    assert set(np.unique(written)) == {7}
    assert set(np.unique(private)) == {9}
    assert is_mapped(torch.from_numpy(written))
    assert not is_mapped(torch.zeros(3))


def test_nothing_is_left_in_the_folder_of_a_process_that_is_killed(tmp_path):
    code = """
        import os, sys
        from sharpcli.runtime.spool import Spool
        import torch
        kept = Spool().copy(torch.ones(1000))
        print("ready", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_which_and_what_to_do(monkeypatch, tmp_path, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(SharpError, match="the disk has no room for 40 GB more") as caught:
        Spool().empty((10**10,), torch.float32)
    assert str(tmp_path) in caught.value.message
    assert "TMPDIR" in caught.value.hint
