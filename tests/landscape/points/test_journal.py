"""The file of finished points: what is kept, what is refused, and what a killed run leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sharpcli.cli.option_names import as_option
from sharpcli.errors import SharpError, settings_written_by
from sharpcli.landscape.points import journal as module
from sharpcli.landscape.points.journal import Journal

RUN = {"kind": "interpolate", "settings": {"grid": {"points": [25]}}}
RUN["checkpoints"] = {"A": "ab", "B": "cd"}
RUN |= {"task": {"options": {}}, "trajectories": {}, "data": {}}


OPEN = []


@pytest.fixture(autouse=True)
def closed():
    """A file that is still open would keep the next test's writer off."""
    yield
    for journal in OPEN:
        journal.close()
    OPEN.clear()


def begun(path, run=RUN, **options):
    journal = Journal(path, **options)
    OPEN.append(journal)
    journal.begin(run)
    return journal


def test_points_are_found_again(tmp_path):
    output = tmp_path / "line.json"
    journal = begun(output)
    assert journal.path == tmp_path / "line.json.partial"
    journal.add("line", 0, [{"train": {"loss": [0.1, None]}}])
    journal.add("path", 0, [1.5])
    journal.add("line", 1, [float("nan")])
    journal.close()
    again = begun(output)
    assert again.finished("line")[0] == [{"train": {"loss": [0.1, None]}}]
    assert again.finished("path") == {0: [1.5]}
    assert again.finished("line")[1][0] != again.finished("line")[1][0]  # NaN
    again.discard()
    assert not journal.path.exists()


def test_each_line_is_on_disk_at_once(tmp_path):
    journal = begun(tmp_path / "r")
    journal.add("line", 0, [1])
    lines = journal.path.read_text().splitlines()
    assert json.loads(lines[-1]) == {"part": "line", "first": 0, "values": [1]}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_an_unfinished_line_is_cut_off(tmp_path, cut):
    journal = begun(tmp_path / "r")
    journal.add("line", 0, [0.25])
    whole = journal.path.read_bytes()
    journal.add("line", 1, [0.123456789012345678])
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes()[: len(whole) + cut])
    again = begun(tmp_path / "r")
    assert again.finished("line") == {0: [0.25]}
    again.add("line", 1, [0.5])
    again.close()
    assert begun(tmp_path / "r").finished("line") == {0: [0.25], 1: [0.5]}


def test_a_header_that_was_cut_off_is_written_anew(tmp_path):
    journal = begun(tmp_path / "r")
    journal.add("line", 0, [0])
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes()[:10])
    journal = begun(tmp_path / "r")
    journal.add("line", 0, [1])
    journal.close()
    assert begun(tmp_path / "r").finished("line") == {0: [1]}


def test_a_file_without_points_is_not_left_behind(tmp_path):
    journal = begun(tmp_path / "r")
    journal.add("together", 0, 1)
    journal.close()
    assert list(tmp_path.iterdir()) == []


OTHER = f"""
import sys
from pathlib import Path
from sharpcli.errors import SharpError
from sharpcli.landscape.points.journal import Journal

journal = Journal(Path(sys.argv[1]))
try:
    journal.begin({RUN!r})
except SharpError as error:
    print(error.message, flush=True)
else:
    print("begun", flush=True)
    journal.add("line", 7, [1])
    if sys.stdin.readline() == "discard\\n":
        journal.discard()
    journal.close()
    print("ended", flush=True)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that begins, adds a point, and ends when it is told; what it says first."""
    processes = []

    def start():
        words = [sys.executable, "-c", OTHER, str(tmp_path / "r")]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True))
        return processes[-1], processes[-1].stdout.readline()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("points", [0, 1])
def test_a_run_that_begins_while_another_removes_the_file_keeps_its_own(
    tmp_path, monkeypatch, other, points
):
    journal, said = begun(tmp_path / "r"), []
    for number in range(points):
        journal.add("line", number, [0])
    unlink = Path.unlink

    def begins_first(path, **how):
        said.append(other()[1])
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", begins_first)
    journal.discard()
    assert ("begun" in said[0]) == journal.path.exists()


def test_a_file_that_another_run_removes_meanwhile_is_made_again(tmp_path, monkeypatch, other):
    process, said = other()
    assert said == "begun\n"
    lock = module.lock

    def locked(handle):
        monkeypatch.setattr(module, "lock", lock)
        assert process.communicate("discard\n")[0] == "ended\n"
        lock(handle)

    monkeypatch.setattr(module, "lock", locked)
    journal = begun(tmp_path / "r")
    journal.add("line", 0, [0])
    journal.close()
    assert journal.path.exists()


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b'{"a":1}\n', b"\xff\x00"])
def test_a_file_of_something_else_is_never_written_over(tmp_path, content):
    (tmp_path / "r.partial").write_bytes(content)
    with pytest.raises(
        SharpError, match=r"r\.partial: does not hold the finished points"
    ) as caught:
        begun(tmp_path / "r")
    assert "remove it, or start over with resume=False" in caught.value.hint
    assert (tmp_path / "r.partial").read_bytes() == content


def test_a_device_has_nothing_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    journal = begun(Path("/dev/null"))
    assert journal.path.parent == tmp_path / "sharpcli"
    journal.close()


def test_another_runs_points_are_refused_with_the_difference(tmp_path):
    journal = begun(tmp_path / "r")
    journal.add("line", 0, [1])
    journal.close()
    other = {**RUN, "settings": {"grid": {"points": [31]}}}
    with pytest.raises(SharpError) as caught:
        begun(tmp_path / "r", other)
    assert caught.value.message.endswith("another run: grid.points was 25 and is 31")
    assert "resume=False" in caught.value.hint
    assert begun(tmp_path / "r").finished("line") == {0: [1]}, "nothing is lost"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"checkpoints": {"A": "ab", "B": "ee"}}, 'checkpoint B was "cd" and is "ee"'),
        ({"checkpoints": {"A": "ab"}}, 'checkpoint B was "cd" and is absent'),
        ({"checkpoints": {**RUN["checkpoints"], "M1": "e"}}, 'checkpoint M1 was absent and is "e"'),
        ({"data": {"train": "x"}}, 'data.train was absent and is "x"'),
        ({"task": {"options": {"in_width": "9"}}}, "-O in_width was not given and is 9"),
        ({"trajectories": {"path 1": ["ab"]}}, '--trajectory path 1 was absent and is ["ab"]'),
        ({"kind": "landscape"}, "the command was sharp interpolate and is sharp landscape"),
    ],
)
def test_differences_of_any_depth_are_named(tmp_path, other, said):
    assert refusal(tmp_path, RUN, {**RUN, **other}) == said


def refusal(folder, was, now):
    """What the command line says of a file of one run where another wants it."""
    journal = begun(folder / "r", was)
    journal.add("line", 0, [1])
    journal.close()
    with settings_written_by(as_option), pytest.raises(SharpError) as caught:
        begun(folder / "r", now)
    before, said = caught.value.message.split(" holds the finished points of another run: ")
    assert before == f"{folder / 'r.partial'}:"
    return said


SETTINGS = {
    "run": {"split": "both", "samples": None, "batch_size": None, "seed": 0, "parameters": []},
    "grid": {"points": [25], "ranges": []},
    "batch_norm": {"mode": "recalibrate", "examples": None},
    "align": False,
    "path": None,
    "directions": {"kind": "random", "max_products": None, "tol": 0.001},
}
PATH = {"kind": "bezier", "steps": 1000, "batch_size": 128, "lr": 0.1, "seed": 0}


@pytest.mark.parametrize(
    ("group", "name", "value", "said"),
    [
        ("run", "split", "train", "--split was both and is train"),
        ("run", "samples", 9, "--samples was not given and is 9"),
        ("run", "batch_size", 64, "--batch-size was not given and is 64"),
        ("run", "parameters", ["0.*", "*.bias"], "--parameters was not given and is 0.*, *.bias"),
        ("grid", "points", [21, 31], "--points was 25 and is 21x31"),
        ("grid", "ranges", [[-1.0, 2.5]], "--range was not given and is -1:2.5"),
        ("grid", "ranges", [[0.0, 1.0], [0.0, 3.0]], "--range was not given and is 0:1,0:3"),
        ("batch_norm", "mode", "batch", "--batch-norm was recalibrate and is batch"),
        ("batch_norm", "examples", 50, "--batch-norm-examples was not given and is 50"),
        ("directions", "kind", "hessian", "--directions was random and is hessian"),
        ("directions", "max_products", 9, "--max-products was not given and is 9"),
        (None, "align", True, "--align was not given and is given"),
        (None, "path", PATH, "--path was not given and is bezier"),
    ],
)
def test_options_are_named_as_they_are_written(tmp_path, group, name, value, said):
    changed = {name: value} if group is None else {group: {**SETTINGS[group], name: value}}
    now = {**RUN, "settings": {**SETTINGS, **changed}}
    assert refusal(tmp_path, {**RUN, "settings": SETTINGS}, now) == said


def test_three_differences_are_named_and_the_others_counted(tmp_path):
    was = {**RUN, "settings": {**SETTINGS, "path": PATH}, "data": {"train": "0" * 64}}
    run = {**SETTINGS["run"], "seed": 3}
    path = {**PATH, "seed": 3, "steps": 7, "kind": "chain"}
    now = {**was, "settings": {**SETTINGS, "run": run, "path": path}}
    assert refusal(tmp_path, was, now) == (
        "--seed was 0 and is 3; --path was bezier and is chain; --path-steps was 1000 and is 7"
    )
    now["checkpoints"] = {}
    assert refusal(tmp_path, was, now).endswith("--path-steps was 1000 and is 7; and 2 more")


def test_what_follows_from_an_option_is_named_where_none_differs(tmp_path):
    was = {**RUN, "settings": SETTINGS, "data": {"train": "0" * 64}}
    now = {**was, "data": {"train": "1f" * 32}}
    assert refusal(tmp_path, was, now) == 'data.train was "00000000…" and is "1f1f1f1f…"'
    now["settings"] = {**SETTINGS, "run": {**SETTINGS["run"], "samples": 9}}
    assert refusal(tmp_path, was, now) == "--samples was not given and is 9"


def test_options_that_are_written_alike_are_told_apart(tmp_path):
    near = {**SETTINGS, "grid": {"points": [25], "ranges": [[-1.0, 1.0000001]]}}
    far = {**SETTINGS, "grid": {"points": [25], "ranges": [[-1.0, 1.0]]}}
    said = refusal(tmp_path, {**RUN, "settings": near}, {**RUN, "settings": far})
    assert said == "--range was [[-1.0, 1.0000001]] and is [[-1.0, 1.0]]"


def test_another_runs_file_without_points_gives_way(tmp_path):
    begun(tmp_path / "r").close()
    journal = begun(tmp_path / "r", {**RUN, "kind": "landscape"})
    journal.add("line", 0, [1])
    journal.close()
    assert begun(tmp_path / "r", {**RUN, "kind": "landscape"}).finished("line") == {0: [1]}


def test_starting_over_drops_what_there_is(tmp_path):
    journal = begun(tmp_path / "r")
    journal.add("line", 0, [1])
    journal.close()
    other = begun(tmp_path / "r", {**RUN, "kind": "landscape"}, resume=False)
    assert other.finished("line") == {}


@pytest.mark.parametrize(
    "content", [b"no json\n", b"[1, 2]\n", b'{"a": 1}\n{"b": 2}\n', b"\xff\xfe\n"]
)
def test_a_file_that_is_none_of_ours_is_not_overwritten(tmp_path, content):
    path = tmp_path / "r.partial"
    path.write_bytes(content)
    with pytest.raises(SharpError, match="does not hold the finished points of a run"):
        begun(tmp_path / "r")
    assert path.read_bytes() == content


def test_a_second_run_on_the_same_file_is_kept_off(tmp_path):
    journal = begun(tmp_path / "r")
    code = (
        "import sys, pathlib; from sharpcli.landscape.points.journal import Journal\n"
        "from sharpcli.errors import SharpError\n"
        "try: Journal(pathlib.Path(sys.argv[1])).begin({})\n"
        "except SharpError as error: print(error.message)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "another run is writing to it" in found.stdout
    journal.add("line", 0, [1])


def test_a_missing_folder_is_said_before_anything_is_computed(tmp_path):
    with pytest.raises(SharpError, match="cannot be written: No such file or directory"):
        begun(tmp_path / "missing" / "r.json")


def test_without_an_output_points_are_kept_in_the_cache_by_what_the_run_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    journal = begun(None)
    assert journal.path.parent == tmp_path / "cache" / "sharpcli"
    journal.add("line", 0, [1])
    journal.close()
    assert begun(None, {**RUN, "kind": "landscape"}).finished("line") == {}
    assert begun(None).finished("line") == {0: [1]}


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    journal = begun(None)
    assert "Not a directory" in journal.problem
    journal.add("line", 0, [1])
    journal.discard()


def test_a_full_disk_is_said_and_finished_points_stay(tmp_path):
    code = (
        "import resource, signal, sys, pathlib\n"
        "from sharpcli.landscape.points.journal import Journal\n"
        "from sharpcli.errors import SharpError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "journal = Journal(pathlib.Path(sys.argv[1])); journal.begin({})\n"
        "try:\n    for i in range(100): journal.add('line', i, [0.5])\n"
        "except SharpError as error: print(error.message)\n"
        "journal.close()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "r.partial: cannot be written: File too large" in found.stdout
    assert len(begun(tmp_path / "r", {}).finished("line")) > 3
