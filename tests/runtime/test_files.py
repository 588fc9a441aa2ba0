"""The one writer of files: whole or not at all, by one run at a time, and never in vain."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sharpcli.errors import SharpError
from sharpcli.runtime import reservations
from sharpcli.runtime.files import (
    beside,
    cache_folder,
    reserved,
    reserved_within,
    save,
    write_whole,
)

PART = ".out.json.sharp.part"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def holder(path):
    """Another process that has reserved `path`."""
    code = (
        "import sys, pathlib; from sharpcli.runtime.files import reserved\n"
        "with reserved(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == b"held\n"
    return process


AT_WORK = """
import pathlib, sys
from sharpcli.runtime.files import reserved, write_whole

path = pathlib.Path("out.json")
with reserved(path):
    print("held", flush=True)
    sys.stdin.readline()
    write_whole(path, "result")
    print("written", flush=True)
    sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    with reserved(path):
        print("held again", flush=True)
        sys.stdin.readline()
"""


class Other:
    """Another process, which reserves out.json, writes it, and may reserve it again."""

    def __init__(self, again=0):
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_WORK, str(again)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        self.said()

    def said(self):
        return self.process.stdout.readline()

    def go_on(self):
        """Let it take its next step, and wait until it is done; gives what it says then."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.said()


@pytest.fixture
def before_lock(monkeypatch):
    """Let something happen once, after this process has opened a part and before it locks it."""
    lock = reservations.lock

    def set_(work, *, must):
        waiting = [work]

        def locked(handle, **how):
            if waiting and bool(how.get("must")) == must:
                waiting.pop()()
            lock(handle, **how)

        monkeypatch.setattr(reservations, "lock", locked)

    return set_


def assert_held(path):
    with pytest.raises(SharpError, match="another run is writing to it"), reserved(path):
        pytest.fail("both of them hold it")


def stopped(process, number=signal.SIGKILL):
    process.send_signal(number)
    process.communicate()


# Writing.


def test_a_file_is_replaced_whole_and_nothing_else_stays(folder):
    for content in ("old", "new", b"bytes", [b"in ", memoryview(b"pieces")]):
        write_whole(Path("out.json"), content)
    assert Path("out.json").read_text() == "in pieces"
    assert names(folder) == ["out.json"]


def test_a_failed_write_leaves_the_old_file_and_keeps_the_content(folder, monkeypatch):
    Path("out.json").write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SharpError, match=r"out\.json: cannot be written: No space left") as error:
        save(Path("out.json"), "new")
    kept = folder / "cache" / "sharpcli" / "rescued" / "out.json"
    assert error.value.hint == f"nothing is lost: the result is in {kept}"
    assert kept.read_text() == "new"
    assert Path("out.json").read_text() == "old"
    assert names(folder) == ["cache", "out.json"]
    with pytest.raises(SharpError, match=r"rescued/out-2\.json"):
        save(Path("out.json"), "newer")
    assert kept.read_text() == "new"


def test_text_is_printed_where_no_folder_takes_it(folder, monkeypatch, capsys):
    Path("cache").write_text("a file where the cache folder would be")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder / "cache" / "tmp"))
    with pytest.raises(SharpError, match="the result is on standard output"):
        save(Path("none/out.json"), "result\n")
    assert capsys.readouterr().out == "result\n"
    with pytest.raises(SharpError, match="name a file in a folder"):
        save(Path("none/out.safetensors"), b"\0")


def test_a_link_is_followed_and_permissions_are_kept(folder):
    Path("real").write_text("old")
    Path("real").chmod(0o640)
    Path("link").symlink_to("real")
    write_whole(Path("link"), "new")
    assert Path("link").is_symlink()
    assert Path("real").read_text() == "new"
    assert Path("real").stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_permissions_of_any_new_file():
    write_whole(Path("ours"), "")
    Path("plain").write_text("")
    assert Path("ours").stat().st_mode == Path("plain").stat().st_mode


def test_the_longest_name_there_can_be(folder):
    name = "x" * 255
    write_whole(Path(name), "new")
    assert names(folder) == [name]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "stdout"])
def test_a_stream_is_written_where_it_stands(folder, name):
    """Standard output goes on behind what is in the file already."""
    Path("stdout").symlink_to("/dev/stdout")
    code = (
        "import pathlib; from sharpcli.runtime.files import reserved, write_whole\n"
        f"path = pathlib.Path({name!r})\n"
        "with reserved(path): print('before'); write_whole(path, 'result\\n')"
    )
    with Path("log").open("ab") as log:
        log.write(b"earlier\n")
        log.flush()
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert Path("log").read_text() == "earlier\nbefore\nresult\n"


def test_a_pipe_that_nobody_reads_does_not_hold_the_run(folder):
    os.mkfifo("pipe")
    with reserved(Path("pipe")), pytest.raises(SharpError, match=r"the result is in .*/pipe"):
        save(Path("pipe"), "result")
    assert Path("pipe").is_fifo()


def test_an_incomplete_result_has_a_name_of_its_own(folder):
    assert beside(Path("out.json")) == Path("out.interrupted.json")
    Path("out.interrupted.json").write_text("")
    assert beside(Path("out.json")) == Path("out.interrupted-2.json")


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder().name == "sharpcli"


# Reserving.


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("none/out.json", "there is no folder none"),
        ("file/out.json", "Not a directory"),
        ("folder", "it is a folder"),
        ("loop", "Too many levels of symbolic links"),
        ("socket", "it is a socket"),
        ("x" * 256, "File name too long"),
        ("/proc/sys/out.json", ""),
        ("/dev/fd/77", "the stream is closed"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(folder, path, problem):
    Path("file").write_text("")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    before = names(folder)
    with pytest.raises(SharpError) as error, reserved(Path(path)):
        pytest.fail("the work began")
    server.close()
    assert error.value.message.startswith(f"{path}: cannot be written: {problem}")
    assert names(folder) == before


def test_a_file_that_may_not_be_written_is_kept(folder, monkeypatch):
    Path("out.json").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_dir())
    with pytest.raises(SharpError, match="it is read-only"), reserved(Path("out.json")):
        pytest.fail("the work began")


def test_a_reservation_goes_when_the_work_is_over(folder):
    with reserved(Path("out.json"), None, Path("/dev/null")):
        assert names(folder) == [PART]
        assert str(os.getpid()) in Path(PART).read_text()
    assert names(folder) == []
    with reserved(Path("out.json")):
        write_whole(Path("out.json"), "old")
        write_whole(Path("out.json"), "new")
        assert names(folder) == [PART, "out.json"]
    assert names(folder) == ["out.json"]
    assert Path("out.json").read_text() == "new"


def test_a_reservation_within_another_of_the_same_file_does_not_end_it(folder):
    with reserved(Path("out.json")):
        with reserved(Path("out.json")):
            pass
        write_whole(Path("out.json"), "new")
        assert names(folder) == [PART, "out.json"]


def test_a_stream_for_reading_is_no_output(folder):
    with open(os.devnull, "rb") as stream:  # noqa: PTH123
        path = Path(f"/dev/fd/{stream.fileno()}")
        with pytest.raises(SharpError, match="only for reading"), reserved(path):
            pytest.fail("the work has begun")


def test_a_full_disk_leaves_no_reservation(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reservations, "write_all", full)
    with pytest.raises(SharpError, match="No space left"), reserved(Path("out.json")):
        pytest.fail("the work has begun")
    assert names(folder) == []


def test_a_second_run_is_told_at_once_and_the_first_goes_on(folder):
    first = holder("out.json")
    with pytest.raises(SharpError) as error, reserved(Path("out.json")):
        pytest.fail("the work began")
    host = socket.gethostname()
    assert error.value.message == (
        f"out.json: another run is writing to it (process {first.pid} on {host})"
    )
    with pytest.raises(SharpError, match="another run is writing to it"):
        write_whole(Path("out.json"), "new")
    with reserved(Path("other.json")):
        assert PART in names(folder)  # a live run's part is not cleaned up
    first.communicate()
    assert names(folder) == []


def test_a_file_of_another_run_is_waited_for(folder):
    first = holder("out.json")
    with (
        pytest.raises(SharpError, match="another run is writing to it"),
        reserved_within(0.1, Path("out.json")),
    ):
        pytest.fail("the work began")
    ending = threading.Timer(0.5, first.communicate)  # reserved alone gives up before
    ending.start()
    with reserved_within(60, Path("out.json")):
        assert names(folder) == [PART]
    ending.join()
    assert names(folder) == []


def test_the_part_of_a_dead_run_goes_at_the_next_start(folder):
    stopped(holder("out.json"))
    assert names(folder) == [PART]
    with reserved(Path("other.json")):
        assert PART not in names(folder)
    stopped(holder("out.json"))
    with reserved(Path("out.json")):
        write_whole(Path("out.json"), "new")
    assert names(folder) == ["out.json"]


def test_a_result_that_is_written_meanwhile_is_not_taken_for_a_reservation(before_lock):
    other = Other()

    def ends():
        assert [other.go_on(), other.go_on()] == [b"written\n", b""]

    before_lock(ends, must=False)
    with reserved(Path("out.json")):
        assert Path("out.json").read_text() == "result"
        write_whole(Path("out.json"), "newer")
    assert Path("out.json").read_text() == "newer"
    other.process.communicate()


def test_who_looks_for_dead_runs_leaves_a_reservation_that_began_meanwhile(folder, before_lock):
    other = Other(again=1)

    def reserves_again():
        assert [other.go_on(), other.go_on()] == [b"written\n", b"held again\n"]

    before_lock(reserves_again, must=True)
    reservations.remove_dead(folder)
    assert_held(Path("out.json"))
    other.process.communicate()


LOOKS = """
import os, pathlib, sys
from sharpcli.runtime import reservations

unlink = pathlib.Path.unlink

def slowly(part, **how):
    print("looks", flush=True)
    sys.stdin.readline()
    unlink(part, **how)

pathlib.Path.unlink = slowly
reservations.remove_dead(pathlib.Path())
"""


def test_who_looks_for_dead_runs_for_long_is_not_taken_for_one_that_writes(folder, monkeypatch):
    stopped(holder("out.json"))
    process = subprocess.Popen(
        [sys.executable, "-c", LOOKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"looks\n"
    clock = iter(range(100))
    monkeypatch.setattr(reservations.time, "monotonic", lambda: next(clock))

    def waits(_):
        process.communicate(b"\n")

    monkeypatch.setattr(reservations.time, "sleep", waits)
    with reserved(Path("out.json")):
        assert PART in names(folder)


def test_a_file_is_held_after_it_is_written_as_long_as_the_work_goes_on(folder):
    other = Other()
    assert other.go_on() == b"written\n"
    assert Path("out.json").read_text() == "result"
    assert_held(Path("out.json"))
    other.process.communicate()
    assert names(folder) == ["out.json"]


def test_other_programs_parts_are_left_alone(folder):
    Path(".download.part").write_text("half")
    with reserved(Path("out.json")):
        pass
    assert names(folder) == [".download.part"]


def test_only_the_first_of_several_processes_reserves(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with reserved(Path("none/out.json")):
        assert names(folder) == []
