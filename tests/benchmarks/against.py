"""Time this checkout against another one: `python tests/benchmarks/against.py OTHER`.

Each round measures ten eigenpairs and ε-sharpness of the large network once with either, in turns,
each in a process of its own, on one thread; the ratio of processor seconds is taken round by round,
so that other programs on the machine matter little. `OTHER` is a folder that holds another version
of `sharpcli`, such as `git worktree add OTHER v0.1.0` makes. With `--inspect` it is `sharp inspect`
of files of 500 MB instead, of each format.
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
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).resolve()
_K, _TOLERANCE = 10, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="a folder with another version of sharpcli")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inspect", action="store_true", help="time `sharp inspect` of 500 MB")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.once:
        print(json.dumps(_once()))
        return
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.inspect:
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


def _once() -> dict[str, float]:
    import torch
    from problem import Setting, objective

    from sharpcli.linalg.eigsh import eigsh
    from sharpcli.measures import compute, known_measures
    from sharpcli.measures.context import Context
    from sharpcli.settings import MeasureSettings

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
