"""`sharp interpolate` and `landscape` on what cannot be done: one message, nothing lost."""

import os

import pytest
import torch
from explorations import run, spawn, strict
from minima import SGD, TASK, tensors, write_minima
from safetensors.torch import save_file

from sharpcli.checkpoint import save_checkpoint

A, B, C = "sgd.safetensors", "adam.safetensors", "third.safetensors"
T = ("-t", "task.py")
LINE = ("interpolate", A, B, *T)
SURFACE = ("landscape", A, *T)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    noise = torch.Generator().manual_seed(5)
    third = {k: t + 0.3 * torch.randn(t.shape, generator=noise) for k, t in tensors().items()}
    save_checkpoint(tmp_path / C, third, SGD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SHARP_TASK", raising=False)
    return tmp_path


def refused(*arguments, code=1):
    """The one message of a command that fails, with nothing on stdout and nothing left behind."""
    done = run(*arguments, width=1000)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert [line[:6] for line in done.stderr.splitlines()].count("Error:") == 1
    return done.stderr


def nothing_kept(folder):
    return [*folder.rglob("*.partial"), *folder.rglob("*.part")] == []


# Checkpoints.


def changed(name, value):
    return {**tensors(), name: value}


def with_nan():
    tensor = tensors()["0.weight"]
    tensor[1, 1] = float("nan")
    return changed("0.weight", tensor)


def written(tensors):
    return lambda path: save_file(tensors, path)


BAD = {
    "gone.safetensors": (lambda path: None, "gone.safetensors: there is no such file"),
    "cut.safetensors": (
        lambda path: path.write_bytes(path.with_name(A).read_bytes()[:-8]),
        "the file is damaged or incomplete: copy or download it again",
    ),
    "notes.safetensors": (
        lambda path: path.write_text("loss went down nicely", "utf-8"),
        "is a text file, not a checkpoint",
    ),
    "missing.safetensors": (
        written({k: v for k, v in tensors().items() if k != "2.bias"}),
        "does not fit the task's model (1 missing of 4): '2.bias' (3,) is missing",
    ),
    "extra.safetensors": (
        written(changed("3.bias", torch.zeros(2))),
        "(1 unexpected of 4): '3.bias' (2,) is unexpected",
    ),
    "shape.safetensors": (
        written(changed("0.weight", torch.zeros(8, 5))),
        "'0.weight' is (8, 5) in the file and (8, 4) in the model",
    ),
    "other.safetensors": (
        written({"conv.weight": torch.zeros(3, 3)}),
        "no name fits: check that the file and the task (--task) are of the same model",
    ),
    "nan.safetensors": (written(with_nan()), "the tensor '0.weight' holds NaN or Inf"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_is_named_before_anything_is_computed(folder, name):
    make, said = BAD[name]
    make(folder / name)
    for arguments in (
        ("interpolate", A, name, *T),
        ("interpolate", A, B, name, *T),
        ("landscape", name, *T),
        (*LINE, "--mark", C, name),
        (*SURFACE, "--trajectory", B, C, name),
    ):
        stderr = refused(*arguments, "--output", "out.json")
        assert stderr.startswith(f"Error: {name}: ")
        assert said in stderr
        assert "\n  hint: " in stderr
        assert nothing_kept(folder)
        assert not (folder / "out.json").exists()


def test_checkpoints_of_different_tasks(folder):
    for name, width in (("wide", "6"), ("narrow", "4")):
        given = ("-O", f"width={width}", "-O", "depth=1", "--epochs", "1", "--quiet")
        run("train", "digits", *given, "--output", f"{name}.safetensors")
    stderr = refused("interpolate", "wide.safetensors", "narrow.safetensors", code=2)
    assert "wide.safetensors and narrow.safetensors belong to different tasks (digits" in stderr
    assert "width=6" in stderr
    assert "width=4" in stderr
    assert "they are not points of one parameter space" in stderr
    stderr = refused("interpolate", "wide.safetensors", A, code=2)
    assert stderr.startswith(f"Error: {A}: no task: a checkpoint has tensors only")


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ((A, B, A), "C lies on the line through A and B (the same point as A)"),
        ((A, B, B), "C lies on the line through A and B (at α = 1)"),
        ((A, B, "between.safetensors"), "C lies on the line through A and B (at α = 0.25)"),
        ((A, A, B), "A and B are the same point\n  hint: name three different checkpoints"),
        ((A, A, A), "A and B are the same point"),
    ],
)
def test_three_that_span_no_plane(folder, paths, said):
    # Between A and B in float32, which is off the line by its rounding.
    save_checkpoint(folder / "between.safetensors", tensors(1.125), {})
    stderr = refused("interpolate", *paths, *T, "--output", "out.json")
    assert said in stderr
    assert "\n  hint: " in stderr
    assert nothing_kept(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("interpolate", *T), "0 checkpoints: a line leads through two, a plane through three"),
        (("interpolate", A, *T), "1 checkpoint: a line leads through two, a plane through three"),
        (("interpolate", A, B, C, A, *T), "4 checkpoints: a line leads through two"),
        (("interpolate", A, "", *T), "a checkpoint's path is empty\n  hint: is a variable of the"),
        (("landscape", "", *T), "a checkpoint's path is empty"),
        (("landscape", A, B, *T), "unexpected extra argument (adam.safetensors)"),
        (("landscape", *T), "Missing argument 'A'"),
        (("interpolate", A, B), "no task: a checkpoint has tensors only"),
        (
            ("interpolate", *T, "--trajectory", C, A, B),
            "0 checkpoints to explore, but it takes 2\n  hint: --mark and --trajectory "
            "take all files that follow them: name other checkpoints before them, or behind a --",
        ),
        (("interpolate", *T, A, "--mark", B), "1 checkpoint to explore, but it takes 2"),
        (("landscape", *T, "--mark", C, A), "there is no checkpoint A\n  hint: --mark and --traj"),
        ((*SURFACE, "--trajectory", "--json"), "--trajectory names no checkpoint"),
        ((*LINE, "--mark"), "--mark names no checkpoint"),
        ((*LINE, "--mark", ""), "a checkpoint's path is empty"),
        ((*LINE, "--points", "0"), "'0' is not a number of points such as 25 or 21x31"),
        ((*LINE, "--points", "5x5"), "--points names 2 axes, and there is one\n  hint: give one v"),
        ((*LINE, "--points", "2x2x2"), "'2x2x2' is not a number of points"),
        ((*LINE, "--points", "-3"), "'-3' is not a number of points"),
        ((*LINE, "--points", "1e3"), "'1e3' is not a number of points"),
        ((*LINE, "--range", "2:1"), "'2:1' does not go from a number to a larger one"),
        ((*LINE, "--range", "a:b"), "'a:b' is not a range such as -1:2 or -1:1,0:3"),
        ((*LINE, "--range", "1"), "'1' is not a range such as -1:2"),
        ((*LINE, "--range", "0:inf"), "'0:inf' does not go from a number to a larger one"),
        ((*LINE, "--range", "-1e308:1e308"), "'-1e308:1e308' goes farther than 1e+30"),
        ((*LINE, "--range", "nan:1"), "'nan:1' does not go from a number to a larger one"),
        ((*LINE, "--range", "0:1,0:1"), "--range names 2 axes, and there is one"),
        ((*SURFACE, "--range", "0:1,0:1,0:1"), "names 3 axes: there are two at most"),
        ((*LINE, "--normalize", "filter"), "No such option '--normalize'"),
        ((*SURFACE, "--normalize", "filtr"), "'filtr' is not one of 'filter', 'layer', 'none'"),
        ((*SURFACE, "--directions", "hesian"), "'hesian' is not one of 'random', 'hessian', 'tr"),
        ((*SURFACE, "--dimensions", "3"), "3 is not a whole number from 1 to 2"),
        ((*LINE, "--batch-norm", "train"), "'train' is not one of 'recalibrate', 'interpolate'"),
        ((*LINE, "--batch-norm-examples", "1"), "1 is not a whole number of 2 or more"),
        ((*LINE, "--path", "spline"), "'spline' is not one of 'bezier', 'chain'"),
        ((*LINE, "--path", "bezier", "--path-steps", "0"), "0 is not a whole number of 1 or more"),
        ((*LINE, "--path", "chain", "--path-lr", "1e60"), "--path-lr 1e+60: is out of range"),
        ((*LINE, "--path", "chain", "--path-lr", "0"), "0 is not a number above 0"),
        (("interpolate", A, B, C, *T, "--align"), "--align is for the line between two checkp"),
        (("interpolate", A, B, C, *T, "--path", "chain"), "--path is for the line between two"),
        (
            (*SURFACE, "--directions", "trajectory"),
            "--directions trajectory needs the path whose axes are to be drawn\n  hint: name its "
            "checkpoints by --trajectory, A as the last",
        ),
        (
            (*LINE, "--points", "3", "--range=-1:2"),
            "--points 3: a range of -1:2 that holds 0 and 1 takes 4 points at least\n  hint: ask "
            "for 4 or more, or for a --range with an end at 0 or 1, such as 0:1",
        ),
        ((*LINE, "--points", "1", "--range", "0:1"), "0:1 that holds 0 and 1 takes 2 points at"),
        (
            (*LINE, "--path-steps", "1000"),
            "--path-steps: has no effect without --path\n  hint: leave it out, or add --path bezi",
        ),
        ((*LINE, "--path-batch-size", "9"), "--path-batch-size: has no effect without --path\n"),
        ((*LINE, "--path-lr", "0.2", "--align"), "--path-lr: has no effect without --path\n"),
        (
            (*LINE, "--batch-norm", "batch", "--batch-norm-examples", "9"),
            "--batch-norm-examples: has no effect with --batch-norm batch\n  hint: leave it out, "
            "or use --batch-norm recalibrate",
        ),
        (
            (*SURFACE, "--batch-norm-examples", "9", "--batch-norm", "interpolate"),
            "--batch-norm-examples: has no effect with --batch-norm interpolate",
        ),
        (
            (*SURFACE, "--tol", "0.1"),
            "--tol: has no effect with --directions random\n  hint: leave it out, or use "
            "--directions hessian",
        ),
        (
            (*SURFACE, "--directions", "trajectory", "--trajectory", B, C, "--max-products", "9"),
            "--max-products: has no effect with --directions trajectory",
        ),
        ((*LINE, "--plot", "line.bmp"), "--plot line.bmp: '.bmp' is no kind of figure"),
    ],
)
def test_misuse(folder, arguments, said):
    assert said in refused(*arguments, code=2)
    assert nothing_kept(folder)


def test_what_sharp_toml_holds_for_other_runs_is_let_be(folder):
    (folder / "sharp.toml").write_text(
        "[interpolate]\npath-steps = 7\nbatch-norm-examples = 9\nbatch-norm = 'batch'\n"
        "[landscape]\ntol = 0.1\nmax-products = 99\n",
        "utf-8",
    )
    for command in (LINE, SURFACE):
        done = run(*command, "--points", "4", "--json")
        assert (done.exit_code, done.stderr) == (0, "")
    said = refused(*LINE, "--batch-norm-examples", "9", code=2)
    assert said.startswith("Error: --batch-norm-examples: has no effect with --batch-norm batch\n")


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ((A, A), "every checkpoint of the path equals the final one: there is no path to show"),
        ((B,), "the path's one other checkpoint and the final one lie on a line"),
        ((B, A), "the path's one other checkpoint and the final one lie on a line"),
    ],
)
def test_paths_without_axes(folder, paths, said):
    given = ("--directions", "trajectory", "--trajectory", *paths)
    assert said in refused(*SURFACE, *given)
    assert nothing_kept(folder)


# Sizes.


@pytest.mark.parametrize("arguments", [(*SURFACE,), ("interpolate", A, B, C, *T)])
def test_a_grid_of_a_thousand_million_points_is_refused_at_once(folder, arguments):
    stderr = refused(*arguments, "--points", "31623x31623", "--output", "out.json", code=2)
    assert "--points 31623×31623: 1,000,014,129 points take about " in stderr
    assert " days, 2 TB of memory (" in stderr
    assert "and 200 GB on disk (" in stderr
    assert "hint: ask for fewer: 25x25 draws a surface, 101x101 a fine one" in stderr
    assert nothing_kept(folder)


def test_a_line_of_too_many_points_is_refused_at_once(folder):
    stderr = refused(*LINE, "--points", "1000000000", "--output", "out.json", code=2)
    assert "--points 1000000000: 1,000,000,000 points take about " in stderr
    assert "hint: ask for fewer: 25 draw a line, 101 a fine one\n" in stderr
    assert nothing_kept(folder)


# Where results go.


@pytest.mark.parametrize("arguments", [LINE, SURFACE])
def test_an_output_folder_that_does_not_exist(folder, arguments):
    stderr = refused(*arguments, "--output", "none/out.json")
    assert stderr.startswith("Error: none/out.json: cannot be written: there is no folder none\n")
    assert "hint: name a file in a folder that exists, is writable and has free space" in stderr
    stderr = refused(*arguments, "--plot", "none/out.png")
    assert "--plot none/out.png: there is no folder " in stderr


def test_an_output_folder_that_may_not_be_written_to(folder, monkeypatch):
    (folder / "closed").mkdir()
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: "closed" not in str(path) and allowed(path, mode)
    )
    stderr = refused(*LINE, "--output", "closed/out.json")
    assert "closed/out.json: cannot be written: the folder closed is not writable" in stderr
    assert nothing_kept(folder)


def test_an_output_that_is_a_folder(folder):
    (folder / "out").mkdir()
    assert "File 'out' is a directory" in refused(*LINE, "--output", "out", code=2)


def test_a_partial_file_that_cannot_be_opened(folder):
    (folder / "out.json.partial").mkdir()
    stderr = refused(*LINE, "--output", "out.json")
    assert "out.json.partial: cannot be written: Is a directory" in stderr
    assert "hint: points are kept there as they come: name an --output that can be wr" in stderr


def test_a_full_device_loses_no_points(folder):
    stderr = refused(*LINE, "--points", "4", "--output", "/dev/full", "--json")
    assert stderr.startswith("Error: /dev/full: cannot be written: No space left on device")
    assert len(list((folder / "cache").rglob("*.partial"))) == 1
    done = run(*LINE, "--points", "4", "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert nothing_kept(folder)


def test_an_output_to_a_device(folder):
    done = run(*LINE, "--points", "4", "--output", "/dev/null", "--json")
    assert (done.exit_code, done.output) == (0, "")
    assert nothing_kept(folder)


def limited(folder, *arguments):
    """Run with files limited to 3 KiB, as on a disk that runs full."""
    process = spawn(*arguments, folder=folder, limit_bytes=3 * 1024)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def test_a_disk_that_runs_full_keeps_what_is_finished(folder):
    output = ("--output", "out.json", "--json")
    code, stdout, stderr = limited(folder, *LINE, *output)
    assert (code, stdout) == (1, "")
    assert stderr == (
        "Error: out.json.partial: cannot be written: File too large\n"
        "  hint: finished points are kept: make room, and the same command goes on from there\n"
    )
    process = spawn(*LINE, *output, folder=folder)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "of 25 points were finished by a former run" in stderr
    strict((folder / "out.json").read_text("utf-8"))
    assert nothing_kept(folder)


def test_a_cache_that_cannot_be_written_keeps_nothing_and_says_so(folder, monkeypatch):
    (folder / "cache").write_text("a file", "utf-8")
    done = run(*LINE, "--points", "3", "--json")
    assert done.exit_code == 0
    assert done.stderr.startswith("note: finished points are not kept: ")
    strict(done.stdout)


# Partial files.


def partial_of(folder, *arguments):
    """Leave the file of a run that was killed after two points."""
    from sharpcli.landscape.points import walk

    with pytest.MonkeyPatch.context() as patch:
        count = iter(range(2))
        add = walk.Journal.add

        def stop(journal, part, first, values):
            if part != "together" and next(count, None) is None:
                raise KeyboardInterrupt
            add(journal, part, first, values)

        patch.setattr(walk.Journal, "add", stop)
        done = run(*arguments, "--output", "out.json", "--json")
    assert done.exit_code == 130
    (folder / "out.json").unlink()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--points", "26"), "--points was 25 and is 26\n"),
        (("--range", "0:1"), "--range was not given and is 0:1\n"),
        (("--dtype", "float64"), "--dtype was float32 and is float64\n"),
        (("--split", "test"), "--split was both and is test\n"),
        (("--seed", "3"), "--seed was 0 and is 3\n"),
        (("--samples", "9"), "--samples was not given and is 9\n"),
        (("--align",), "--align was not given and is given\n"),
        (("--path", "chain", "--path-steps", "9"), "--path was not given and is chain\n"),
        (("--mark", C), "checkpoint M1 was absent and is "),
        (
            ("--split", "train", "--seed", "3", "--points", "9", "--range", "0:1", "--align"),
            "--split was both and is train; --seed was 0 and is 3; --points was 25 and is 9; and 2 "
            "more\n",
        ),
    ],
)
def test_points_of_other_settings_are_refused_with_the_difference(folder, more, said):
    partial_of(folder, *LINE)
    kept = (folder / "out.json.partial").read_bytes()
    stderr = refused(*LINE, *more, "--output", "out.json", "--json")
    assert f"Error: out.json.partial: holds the finished points of another run: {said}" in stderr
    assert "hint: repeat that run's command to finish it, write to another --output, or s" in stderr
    assert "--no-resume" in stderr
    assert (folder / "out.json.partial").read_bytes() == kept
    done = run(*LINE, *more, "--output", "out.json", "--json", "--no-resume")
    assert (done.exit_code, done.stderr) == (0, "wrote out.json\n")
    assert nothing_kept(folder)


def test_points_of_another_checkpoint_task_or_path_are_refused(folder):
    partial_of(folder, *LINE)
    save_checkpoint(folder / B, tensors(1.6), {})
    assert "another run: checkpoint B was " in refused(*LINE, "--output", "out.json", "--json")
    write_minima(folder)
    (folder / "task.py").write_text(TASK.replace("else 1", "else 2"), "utf-8")
    assert "another run: task.fingerprint was" in refused(*LINE, "--output", "out.json", "--json")
    (folder / "task.py").write_text(TASK, "utf-8")
    assert "2 of 25 points" in run(*LINE, "--output", "out.json", "--json").stderr
    path = ("--directions", "trajectory", "--trajectory", B, C)
    partial_of(folder, *SURFACE, *path)
    other = ("--directions", "trajectory", "--trajectory", C, B)
    assert "another run: --trajectory path 1[0] was " in refused(
        *SURFACE, *other, "--output", "out.json"
    )


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b'{"a":1}\n', b"\xff\n\x00"])
def test_a_partial_file_of_something_else_is_never_written_over(folder, content):
    (folder / "out.json.partial").write_bytes(content)
    stderr = refused(*LINE, "--output", "out.json")
    assert "out.json.partial: does not hold the finished points of a run\n" in stderr
    assert "hint: remove it, or start over with --no-resume, which replaces it" in stderr
    assert (folder / "out.json.partial").read_bytes() == content


def test_damage_in_the_middle_of_a_partial_file_is_said(folder):
    partial_of(folder, *LINE)
    lines = (folder / "out.json.partial").read_bytes().split(b"\n")
    lines[2] = lines[2][:20]
    (folder / "out.json.partial").write_bytes(b"\n".join(lines))
    stderr = refused(*LINE, "--output", "out.json")
    assert "out.json.partial: the finished points of a run that it holds are damaged (" in stderr
    assert "hint: start over with --no-resume, or remove it" in stderr


def test_the_end_of_a_partial_file_that_was_cut_off_is_computed_again(folder):
    partial_of(folder, *LINE)
    kept = (folder / "out.json.partial").read_bytes()
    (folder / "out.json.partial").write_bytes(kept[:-5])
    done = run(*LINE, "--output", "out.json", "--json")
    assert done.exit_code == 0
    assert "note: 1 of 25 points were finished by a former run" in done.stderr


# Tasks.


TASKS = {
    "raises at a point": (
        "def predict(model, batch):\n"
        "    assert float(model[0].weight.detach().norm()) < 3.5, 'too far'\n"
        "    return model(batch[0])",
        "predict(model, batch) raised AssertionError: too far",
    ),
    "nothing to permute": (
        "def model(): return nn.Linear(4, 3)",
        "the model has no hidden units that could be permuted",
    ),
    "random": (
        "def predict(model, batch): return nn.functional.dropout(model(batch[0]))",
        "two evaluations of the same batch differ",
    ),
    "no training data": (
        "def data(split, data=data): return None if split == 'train' else data(split)",
        "data('train')",
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_fails_is_one_message(folder, name):
    text, said = TASKS[name]
    (folder / "task.py").write_text(f"{TASK}\n{text}\n", "utf-8")
    paths = (A, B)
    if name == "nothing to permute":
        paths = ("1.safetensors", "2.safetensors")
        for scale, path in enumerate(paths, 1):
            save_checkpoint(
                folder / path,
                {"weight": scale * torch.ones(3, 4), "bias": torch.zeros(3)},
                {},
            )
    stderr = refused("interpolate", *paths, *T, "--align", "--path", "bezier", "--path-steps", "2")
    assert said in stderr
    assert "\n  hint: " in stderr


def test_a_machine_without_memory_is_no_bug(monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("sharpcli.runs.interpolate.line", full)
    stderr = refused(*LINE)
    assert "out of memory: " in stderr
    assert "hint: use --samples" in stderr
