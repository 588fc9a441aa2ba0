"""Run the benchmarks and write what they found: `python tests/benchmarks/run.py`."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import callbacks
import certified
import checkpoints
import checks
import claims
import corners
import coupled
import coverage
import critical
import data
import decide
import density
import derivatives
import differences
import documents
import eigenvalues
import epsilon_sharpness
import faithful
import forged
import gpt2
import granulated
import house
import interrupted
import killed
import killed_reproduce
import killed_training
import line
import many
import maximum
import memory
import noise_scales
import optimizers
import pairs
import perturbations
import precision
import processes
import product
import report_page
import rescaling
import schedules
import sharing
import skewed
import spectra_attack
import startup
import sweeps
import together
import torch
import tracking
import training
import unwritable
from problem import Setting
from report import write

_BENCHMARKS = (
    certified,
    checks,
    checkpoints,
    eigenvalues,
    many,
    product,
    density,
    derivatives,
    coverage,
    decide,
    precision,
    pairs,
    coupled,
    skewed,
    differences,
    memory,
    data,
    epsilon_sharpness,
    rescaling,
    maximum,
    corners,
    line,
    spectra_attack,
    startup,
    killed,
    killed_training,
    killed_reproduce,
    sweeps,
    granulated,
    tracking,
    callbacks,
    together,
    interrupted,
    unwritable,
    processes,
    gpt2,
    critical,
    noise_scales,
    house,
    faithful,
    forged,
    documents,
    schedules,
    claims,
    sharing,
    optimizers,
    training,
    perturbations,
    report_page,
)


def main() -> None:
    names = [benchmark.NAME for benchmark in _BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=names, action="append", help="one benchmark (repeatable)")
    parser.add_argument("--output", type=Path, help="folder to write a page of each to")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that all of it runs"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the long benchmarks")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--width", type=int, default=512, help="of the large network's layers")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")  # PyHessian's backward(create_graph=True), SciPy's limits
    setting = Setting(chosen.quick, chosen.repeats, chosen.device, chosen.width)
    for benchmark in _BENCHMARKS:
        if chosen.only and benchmark.NAME not in chosen.only:
            continue
        print(f"{benchmark.NAME} …", file=sys.stderr, flush=True)
        started = time.perf_counter()
        section = benchmark.run(setting)
        section.seconds = time.perf_counter() - started
        print(section.markdown(), flush=True)
        if chosen.output:
            write(section, chosen.output, chosen.device)


if __name__ == "__main__":
    main()
