"""Data of any size: peak memory of a run, time of a pass, and what one long text costs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from paired import Ratio, Timed, in_turns, ratio
from problem import Setting
from report import Bar, Section
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import read_rows
from sharpcli.tasks import Task, load_task

NAME = "data"
_PASS, _LONG = 1.3, 1.3
# Peaks that were promised for 2 GB of images, in GB: without a limit, and with `--memory 1GB`.
_PEAK, _PEAK_LIMITED = 3.5, 1.6
_SHAPE = (3, 64, 64)
# Products of a run. The peak is reached within the first two, and when their rounding is measured.
_PRODUCTS = 3
_TURNS = 5  # of the passes
# Rows of each kind, and the limits under which they are measured. float32 rows are of a quarter of
# the images, so that they take as many bytes.
_KINDS = {"uint8": ("", "1GB"), "tensors": ("", "1GB"), "float32": ("1GB",)}
_TEXTS, _SHORT, _LONGEST = 256, 20, 64
_TASK = """
    from pathlib import Path

    import numpy as np
    import torch
    from torch import nn
    from torch.utils.data import Dataset

    FOLDER = Path(__file__).parent


    class Images(Dataset):
        def __init__(self, split, floats):
            images = np.load(FOLDER / f"{split}.npy", mmap_mode="r")
            self.images = images[: len(images) // 4] if floats else images
            self.floats = floats

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            image = torch.from_numpy(np.array(self.images[index]))
            return image.float() / 255 if self.floats else image, index % 10


    def model():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 8, stride=8), nn.Tanh(), nn.Flatten(), nn.Linear(64, 10)
        )


    def data(split, rows: str = "uint8"):
        images = Images(split, rows == "float32")
        if rows != "tensors":
            return images
        mapped = torch.from_numpy(np.load(FOLDER / f"{split}.npy", mmap_mode="r+"))
        return mapped, torch.arange(len(images)) % 10


    def predict(model, batch):
        images = batch[0][:, :, ::2, ::2]
        return model(images if images.is_floating_point() else images.float() / 255)
"""


def run(setting: Setting) -> Section:
    size = 40 * 10**6 if setting.quick else 2 * 10**9
    kinds = {"uint8": _KINDS["uint8"]} if setting.quick else _KINDS
    section = Section(
        NAME,
        "Data of any size",
        f"{size / 1e9:g} GB of uint8 images ({'×'.join(map(str, _SHAPE))}) in a mapped file, and a "
        "tenth of that as test data; a network of one convolution and one linear layer, which sees "
        "every second line and column. Rows are uint8, a mapped tensor, or float32, decoded by the "
        f"data set from a quarter of the images. A run measures the loss and, by {_PRODUCTS} "
        "products, the largest eigenvalue. Its peak is the most resident memory of its process, "
        "with PyTorch and with pages of mapped files. A pass is a gradient over the test data, "
        "kept in a file, in turns with a plain loop over a DataLoader with forward and backward "
        "pass in batches of the same size: by the processors' time, and by the clock.",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.py").write_text(textwrap.dedent(_TASK))
        for split, share in (("train", 1), ("test", 10)):
            _images(folder / f"{split}.npy", size // share)
        task = load_task(str(folder / "task.py"), {})
        save_file(dict(task.model().state_dict()), folder / "model.safetensors")
        peaks = {}
        for kind, limits in kinds.items():
            for memory in limits:
                peak, seconds = peaks[kind, memory] = _peak(folder, kind, memory)
                said = f"  {kind} {memory}: {peak / 1e9:.2f} GB, {seconds:.0f} s"
                print(said, file=sys.stderr, flush=True)
        rows = [
            (kind, memory or "—", f"{peak / 1e9:.2f}", f"{seconds:.0f}")
            for (kind, memory), (peak, seconds) in peaks.items()
        ]
        header = ("rows", "`--memory`", "peak, GB", "seconds")
        section.tables.append(("A run: `-m loss -m hessian`", header, rows))
        for limit, most in (("", _PEAK), ("1GB", _PEAK_LIMITED)):
            worst = max(peak for (_, memory), (peak, _) in peaks.items() if memory == limit) / 1e9
            what = f"peak memory{f' with --memory {limit}' if limit else ''}"
            section.bars.append(Bar(what, f"{worst:.2f} GB", f"≤ {most:g} GB", worst <= most))
        for kind in kinds:
            for clock, found in _pass(folder, kind, size, setting).items():
                what = f"a pass by a plain loop ({kind}), {clock}"
                bar = Bar(what, str(found), f"≤ {_PASS:g}", found.median <= _PASS)
                section.bars.append(bar)
    found = _one_long_text(setting)
    what = f"{_TEXTS} texts of {_SHORT} tokens and one of {_LONGEST} by the time without the one"
    section.bars.append(Bar(what, str(found), f"≤ {_LONG:g}", found.median <= _LONG))
    return section


def _images(path: Path, size: int) -> None:
    """A file of images whose brightness follows their class; each thousand repeats."""
    count, generator = size // int(np.prod(_SHAPE)), np.random.default_rng(0)
    block = generator.integers(0, 160, (1000, *_SHAPE), dtype=np.uint8)
    block += (9 * (np.arange(1000) % 10)).astype(np.uint8)[:, None, None, None]
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *_SHAPE))
    for start in range(0, count, 1000):
        images[start : start + 1000] = block[: min(1000, count - start)]
    images.flush()


def _peak(folder: Path, kind: str, memory: str) -> tuple[float, float]:
    """Peak resident bytes and seconds of a run."""
    command = [
        *(sys.executable, "-m", "sharpcli", "measure", str(folder / "model.safetensors")),
        *("-t", str(folder / "task.py"), "-O", f"rows={kind}", "--device", "cpu", "--json"),
        *("-m", "loss", "-m", "hessian", "-k", "1", "--tol", "0.1"),
        *("--max-products", str(_PRODUCTS)),
        *(("--memory", memory) if memory else ()),
    ]
    code = textwrap.dedent(
        """
        import resource, subprocess, sys, time
        started = time.perf_counter()
        subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, seconds)
        """
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *command],
        check=False,
        capture_output=True,
        text=True,
    )
    if said.returncode:
        raise RuntimeError(said.stderr)
    peak, seconds = map(float, said.stdout.split())
    return peak, seconds


def _pass(folder: Path, kind: str, size: int, setting: Setting) -> dict[str, Ratio]:
    """A gradient over the test images by a plain loop, by each clock."""
    task = load_task(str(folder / "task.py"), {"rows": kind})
    objective, theta = _objective(task, "test", room=size / 80)
    objective.gradient(theta)  # sizes the batches
    model, data = task.model(), task.data("test")
    dataset = torch.utils.data.TensorDataset(*data) if isinstance(data, tuple) else data

    def plain() -> None:
        for batch in torch.utils.data.DataLoader(dataset, objective.batch_size):
            outputs = task.predict(model, batch)
            nn.functional.cross_entropy(outputs, batch[1], reduction="sum").backward()

    spent: dict[str, list[float]] = {"sharp": [], "plain": []}

    def noted(name: str, work: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            started = time.process_time()
            work()
            spent[name].append(time.process_time() - started)

        return call

    calls = {"sharp": lambda: objective.gradient(theta), "plain": plain}
    timed = in_turns({name: noted(name, work) for name, work in calls.items()}, _TURNS)
    by_processor = [Timed(seconds, None) for seconds in spent.values()]
    return {"processors' time": ratio(*by_processor), "the clock": ratio(*timed.values())}


def _objective(task: Task, split: str = "train", **reading) -> tuple[Objective, torch.Tensor]:
    model = task.model()
    network = Network(model, task, device=torch.device("cpu"))
    rows = read_rows(task.data(split), name=f"{split} data", collate=task.collate, **reading)
    theta = network.flatten(model.state_dict())
    return Objective(network, rows, network.fixed(model.state_dict())), theta


class Texts(nn.Module):
    """A classifier of token sequences: one transformer layer, and the mean over real tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        real = tokens > 0
        found = self.layer(self.embedding(tokens), src_key_padding_mask=~real)
        return self.head((found * real[..., None]).sum(1) / real.sum(1, keepdim=True))


def _one_long_text(setting: Setting):
    """A gradient over texts of which one is long, by one over the others."""
    generator = torch.Generator().manual_seed(0)
    lengths = [_SHORT] * _TEXTS
    made = [
        (torch.randint(1, 1000, (length,), generator=generator), index % 2)
        for index, length in enumerate([*lengths, _LONGEST])
    ]

    def collate(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return pad_sequence([text for text, _ in rows], True), torch.tensor([y for _, y in rows])

    torch.manual_seed(0)
    model = Texts().eval()
    calls = {}
    for name, texts in (("with", made), ("without", made[:_TEXTS])):
        task = Task(
            "texts",
            {},
            "",
            lambda: model,
            lambda _, texts=texts: texts,
            lambda model, batch: model(batch[0]),
            lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1], reduction="none"),
            collate=collate,
        )
        objective, theta = _objective(task, by_length=True)
        calls[name] = lambda objective=objective, theta=theta: objective.gradient(theta)
    in_turns(calls, 1)
    return ratio(*in_turns(calls, 5 if setting.quick else 21).values())
