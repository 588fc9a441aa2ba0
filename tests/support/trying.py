"""Read forged checkpoints in a process of its own, and say what each did: see `forging`.

    python tests/trying.py SEED BEGIN END

writes a line of JSON for each checkpoint of which something is wrong, and one of counts.
"""

import faulthandler
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_LONGEST = 5.0  # seconds that the processor may take for one checkpoint
_HANGING = 60.0  # seconds after which it hangs, whatever else the machine does
_TIMES, _BESIDE = 4, 300 * 2**20  # what may be taken of memory: times the file, and bytes


@dataclass
class Tried:
    """How many of each kind were refused and read, and what was wrong: (index, kind, words)."""

    refused: Counter = field(default_factory=Counter)
    read: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    slowest: float = 0.0
    largest: int = 0  # bytes of memory beside four times the file


def tried(seed, begin, end):
    """Read the forged checkpoints `begin` to `end` of `seed`; a process that dies is counted."""
    result = Tried()
    while begin < end:
        command = [sys.executable, __file__, str(seed), str(begin), str(end)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        last = begin
        for line in lines:
            last = line["index"]
            if "wrong" in line:
                result.wrong.append((last, line["kind"], line["wrong"]))
            if "seconds" in line:
                (result.read if line["read"] else result.refused)[line["kind"]] += 1
                result.slowest = max(result.slowest, line["seconds"])
                result.largest = max(result.largest, line["memory"])
        if done.returncode == 0:
            break
        result.wrong.append((last, "?", f"the process died: {done.stderr[-2000:]}"))
        if not lines:
            break  # it cannot even start, and would not for the next one
        begin = last + 1
    return result


def _main(seed, begin, end):
    import torch
    from forging import CANARY, emptied, forge

    # memory that nobody filled would hold this, and not what happens to be there
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    sys.addaudithook(_forbid)
    beside = 3 * 2**30 + _resident("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (beside, beside))
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for index in range(begin, end):
            kind, path = forge(seed, index, emptied(Path(scratch) / "forged"))
            _say({"index": index, "kind": kind})
            size = sum(each.stat().st_size for each in _files(path))
            _reset_peak()
            before, started = _resident("VmRSS"), time.process_time()
            faulthandler.dump_traceback_later(_HANGING, exit=True)
            forbidden.clear()
            wrong, read = _read(path)
            faulthandler.cancel_dump_traceback_later()
            seconds = time.process_time() - started
            taken = _resident("VmHWM") - before - _TIMES * size
            if seconds > _LONGEST:
                wrong = wrong or f"took {seconds:.1f} seconds"
            if taken > _BESIDE:
                wrong = wrong or f"took {taken} bytes of memory beside {_TIMES} times the file"
            if forbidden or Path(CANARY).exists():
                wrong = f"ran code: {sorted(forbidden)}"
            report = {"index": index, "kind": kind, "seconds": seconds, "memory": taken}
            _say({**report, "read": read, **({"wrong": wrong} if wrong else {})})


def _say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


forbidden: set = set()
_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.fork")
_EVENTS += ("pickle.find_class", "socket.connect", "exec", "compile", "os.remove", "os.rename")


def _forbid(event, arguments):
    if event in _EVENTS or (event == "open" and "w" in str(arguments[1])):
        if event in ("exec", "compile") and _importing():
            return
        forbidden.add(event)


def _importing():
    """Whether a module is being imported, whose code is not the file's."""
    frame = sys._getframe()
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _files(path):
    """The regular files of a checkpoint, links left out."""
    every = list((path if path.is_dir() else path.parent).iterdir())
    return [each for each in every if stat.S_ISREG(each.lstat().st_mode)]


def _read(path):
    """What is wrong with how `path` is read (None where nothing is), and whether it was."""
    from sharpcli.checkpoint import load_checkpoint
    from sharpcli.errors import SharpError
    from sharpcli.runs.inspect import inspect_checkpoint

    try:
        checkpoint = load_checkpoint(path)
    except SharpError as error:
        good = str(path.parent) in error.message and "\n" not in error.message and error.hint
        return None if good else f"a message without the file or a hint: {error.message}", False
    except BaseException:
        return traceback.format_exc(limit=-4), False
    try:
        wrong = _foreign_bytes(path, checkpoint)
        _read_optimizer(checkpoint)
        json.dumps(inspect_checkpoint(str(path)), default=str)
    except BaseException:
        return traceback.format_exc(limit=-4), True
    return wrong, True


def _read_optimizer(checkpoint):
    """Read the optimizer's state in a checkpoint or beside it, as measures do that need it."""
    from sharpcli.checkpoint.optimizer_state import find_optimizer_state
    from sharpcli.errors import SharpError

    try:
        found = find_optimizer_state(checkpoint, checkpoint.tensors)
        for name in ("lr", "betas", "eps", "weight_decay"):
            found.common(name)
        for name in found.slots:
            found.steps(name)
    except SharpError:
        pass


def _foreign_bytes(path, checkpoint):
    """Name a tensor that has bytes which no file of the checkpoint has in a row."""
    import torch

    from sharpcli.checkpoint import place

    contents = [each.read_bytes() for each in _files(path)]
    swapped = any(b"byteorderbig" in content for content in contents)
    tensors = list(checkpoint.tensors.items())
    states = (checkpoint.optimizer or {}).get("state", {})
    for state in {id(each): each for each in states.values()}.values():
        if isinstance(state, dict):
            tensors += [(str(k), v) for k, v in state.items() if torch.is_tensor(v)]
    for name, tensor in {place(tensor): (name, tensor) for name, tensor in tensors}.values():
        storage = tensor.untyped_storage()
        data = bytes(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
        forms = _written(data, tensor.element_size())
        if tensor.numel() and not swapped and not any(f in c for f in forms for c in contents):
            return f"tensor {name!r} has bytes that are not the file's"
    return None


def _written(data, width):
    """The ways in which a file may have these bytes: NumPy's arrays may be text or big-endian."""
    turned = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
    halves = b"".join(
        data[i : i + width // 2][::-1] for i in range(0, len(data), max(width // 2, 1))
    )  # of complex numbers
    for each in (data, turned, halves):
        yield each
        yield each.decode("latin-1").encode()


def _resident(field_name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
