"""Time this checkout against another one: `python tests/benchmarks/against.py OTHER`.

Each round measures ten eigenpairs and ε-sharpness of the large network once with either, in turns,
each in a process of its own, on one thread; the ratio of processor seconds is taken round by round,
so that other programs on the machine matter little. `OTHER` is a folder that holds another version
of `sharpcli`, such as `git worktree add OTHER v0.1.0` makes. With `--inspect` it is `sharp inspect`
of files of 500 MB instead, of each format. With `--documents` nothing is timed: the same commands
and seeds run in both, and every number of their results is compared bit for bit; so are the tables,
charts and CSV that both make of the other's saved results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_HERE = Path(__file__).resolve()
_K, _TOLERANCE = 10, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="a folder with another version of sharpcli")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inspect", action="store_true", help="time `sharp inspect` of 500 MB")
    parser.add_argument("--documents", action="store_true", help="compare results, not times")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.once:
        print(json.dumps(_once()))
        return
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.documents:
            differ = _compare_documents(chosen.other.resolve(), _HERE.parents[2], Path(scratch))
            sys.exit(1 if differ else 0)
        elif chosen.inspect:
            files = _large_files(Path(scratch))
            _compare(chosen, lambda folder: {path.name: _inspect(path, folder) for path in files})
        else:
            _compare(chosen, _run)


def _compare(chosen: argparse.Namespace, run: Callable[[Path], dict[str, float]]) -> None:
    """Print the seconds of this checkout by those of the other, round by round and in all."""
    ratios: dict[str, list[float]] = {}
    for number in range(chosen.rounds):
        order = [chosen.other.resolve(), _HERE.parents[2]][:: -1 if number % 2 else 1]
        found = {folder: run(folder) for folder in order}
        other, here = found[chosen.other.resolve()], found[_HERE.parents[2]]
        for name, seconds in here.items():
            ratios.setdefault(name, []).append(seconds / other[name])
        print({name: f"{values[-1]:.3f}" for name, values in ratios.items()}, flush=True)
    for name, values in ratios.items():
        middle = statistics.median(values)
        print(f"{name}: {middle:.3f} ({min(values):.3f} to {max(values):.3f}) of the other's")


def _run(folder: Path) -> dict[str, float]:
    """Processor seconds by name, with the `sharpcli` in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(_HERE), ".", "--once"]
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, cwd=folder
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _large_files(folder: Path) -> list[Path]:
    """25 tensors of 20 MB in every format; reading them once puts them in the page cache."""
    import torch
    from safetensors.torch import save_file

    state = {f"layer.{i}.weight": torch.randn(5_000, 1_000) for i in range(25)}
    names = ["model.safetensors", "model.pt", "legacy.pth"]
    save_file(state, folder / names[0])
    torch.save(state, folder / names[1])
    torch.save(state, folder / names[2], _use_new_zipfile_serialization=False)
    for name in names:
        (folder / name).read_bytes()
    return [folder / name for name in names]


def _inspect(path: Path, folder: Path) -> float:
    """Seconds of `sharp inspect PATH`, with the `sharpcli` in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "sharpcli", "inspect", str(path)]
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - started


_CHECKPOINTS = (
    "train digits --epochs 2 --output a.safetensors",
    "train digits --epochs 2 --seed 1 --optimizer adam --output b.safetensors",
    "train digits --epochs 3 --batch-size 256 --output c.safetensors",
    "train digits -O model=cnn -O batch_norm=true --epochs 1 --output n.safetensors",
    "train digits -O model=cnn -O batch_norm=true --epochs 1 --seed 1 --output m.safetensors",
)
# The name of a result → the command that makes it; those without --json are not compared as JSON.
_RESULTS = {
    "measure": "measure a.safetensors b.safetensors missing.safetensors -m all",
    "float64": "measure a.safetensors -m all --dtype float64 -k 3 --subspace 20 --subspace full",
    "bfloat16": "measure a.safetensors -m all --dtype bfloat16 -k 2",
    "samples": "measure a.safetensors b.safetensors --samples 300",
    "layers": "measure a.safetensors -m hessian -m trace --by layer",
    "fisher": "measure a.safetensors -m hessian -m trace --operator ggn",
    "normalised": "measure n.safetensors -m loss -m gradient -m hessian --samples 200",
    "line": "interpolate a.safetensors b.safetensors --points 9",
    "aligned": "interpolate a.safetensors b.safetensors --points 5 --align",
    "path": "interpolate a.safetensors b.safetensors --points 5 --path bezier --path-steps 5",
    "recalibrated": "interpolate n.safetensors m.safetensors --points 3 --samples 100",
    "plane": "interpolate a.safetensors b.safetensors c.safetensors --points 4",
    "surface": "landscape a.safetensors --points 5 --mark b.safetensors",
    "eigenvectors": "landscape a.safetensors --points 3 --directions hessian",
    "trajectory": "landscape c.safetensors --directions trajectory --points 3 "
    "--trajectory a.safetensors --trajectory b.safetensors --trajectory c.safetensors",
    "spectrum": "spectrum a.safetensors --probes 2 --steps 20",
    "inspect": "inspect a.safetensors",
    "compare": "compare measure.json float64.json --by optimizer",
}
_VIEWS = ("--format table", "--format csv", "--format markdown")
_OF_THE_RUN = ("environment", "seconds", "metadata", "sha256")


def _compare_documents(other: Path, here: Path, scratch: Path) -> int:
    """Print which results and views differ between two checkouts, and return how many."""
    folders = {other: scratch / "other", here: scratch / "here"}
    for folder in folders.values():
        folder.mkdir()
    for line in _CHECKPOINTS:
        _sharp(other, folders[other], line)
    for path in folders[other].glob("*.safetensors"):
        (folders[here] / path.name).write_bytes(path.read_bytes())
    differ = 0
    for name, line in _RESULTS.items():
        found = []
        for checkout, folder in folders.items():
            _sharp(checkout, folder, f"{line} --json --output {name}.json", allowed=(0, 1))
            found.append(json.loads((folder / f"{name}.json").read_text("utf-8")))
        places = [*_differences(*found, name)]
        (folders[here] / f"{name}.json").write_bytes((folders[other] / f"{name}.json").read_bytes())
        picture = name in ("line", "aligned", "path", "recalibrated", "plane", "surface")
        picture = picture or name in ("eigenvectors", "trajectory", "spectrum")
        command = "plot" if picture else "compare"
        for view in () if name in ("inspect", "compare") else _VIEWS:
            shown = f"{command} {name}.json {view}"
            texts = [_sharp(*each, shown, allowed=(0, 1, 2)) for each in folders.items()]
            places += [f"{shown}: differs"] if texts[0] != texts[1] else []
        differ += len(places)
        print(f"{name}: {'the same' if not places else ''}", *places[:10], sep="\n  ", flush=True)
    return differ


def _differences(one: object, other: object, where: str) -> Iterator[str]:
    """Places at which two documents differ, but for where and when they ran."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key in _OF_THE_RUN:
                continue
            if (key in one) != (key in other):
                yield f"{where}.{key}: only {'before' if key in one else 'after'}"
            else:
                yield from _differences(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{where}[{index}]")
    elif one != other:
        yield f"{where}: {str(one)[:80]} before, {str(other)[:80]} after"


def _sharp(checkout: Path, folder: Path, line: str, allowed: Sequence[int] = (0,)) -> str:
    """Run one command of a checkout's `sharp` in a folder; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "sharpcli", *line.split()],
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in allowed, f"sharp {line}: {done.stderr}"
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def _once() -> dict[str, float]:
    import torch
    from problem import Setting, objective
    from sharpcli.settings.measuring import MeasureSettings

    from sharpcli.linalg.eigsh import eigsh
    from sharpcli.measures import compute, known_measures
    from sharpcli.measures.context import Context

    try:
        from sharpcli.curvature import make_operator
    except ModuleNotFoundError:  # another checkout, from before the folders
        from sharpcli.operators import make_operator

    problem = Setting(quick=False, repeats=1, device=torch.device("cpu")).main_problem()
    built, theta = objective(problem)
    built.gradient(theta)  # sizes the batches
    found = {}
    started = time.process_time()
    hessian = make_operator(built, theta)
    eigsh(hessian, _K, tolerance=_TOLERANCE)
    hessian.release()
    found["ten eigenpairs"] = time.process_time() - started
    context = Context(built, {"train": built}, theta, MeasureSettings(epsilons=(1e-3,)))
    started = time.process_time()
    compute([known_measures()["epsilon-sharpness"]], context)
    found["ε-sharpness"] = time.process_time() - started
    return found


if __name__ == "__main__":
    main()
