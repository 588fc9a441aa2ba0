"""Objects of any class, and checkpoints that hold them."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import random
import types
import uuid
from pathlib import PosixPath

import numpy as np
import torch
from torch import nn

from sharpcli.checkpoint import load_checkpoint


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntFlag):
    LOW = 1


@dataclasses.dataclass
class Config:
    lr: float = 0.25
    name: str = "run"


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    lr: float = 0.5


Point = collections.namedtuple("Point", "x y")


class Table(dict):
    pass


class Several(list):
    pass


class OwnTensor(torch.Tensor):
    pass


class Circular:
    def __init__(self):
        self.own, self.tensor = self, torch.ones(3)


def function():
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.tied = nn.Linear(2, 3, bias=False)
        self.tied.weight = self.first.weight
        self.same = self.norm
        self.parts = nn.ModuleDict({"a": nn.Sequential(nn.Linear(3, 3), nn.ReLU())})
        self.absent = None
        self.register_module("missing", None)
        self.register_parameter("no", None)
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.register_buffer("scale", torch.rand(2))
        self.several = nn.ParameterList([nn.Parameter(torch.rand(2))])


NET = nn.Linear(2, 3)


def optimizer():
    made = torch.optim.AdamW(NET.parameters(), 0.125)
    NET(torch.ones(1, 2)).sum().backward()
    made.step()
    return made


def kinds():
    """Objects by key, and the class that a note shows; None for what is read or plain."""
    adam = optimizer()
    scheduler = torch.optim.lr_scheduler.StepLR(adam, 3)
    return {
        "rng": (np.ones(3), "numpy.ndarray"),
        "texts": (np.array([1, "a"], object), "numpy.ndarray"),
        "single": (np.float32(2), None),
        "day": (np.datetime64("2020-01-01"), "numpy.generic"),
        "out": (PosixPath("a/b"), "pathlib.PosixPath"),
        "when": (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), "datetime.datetime"),
        "colour": (Colour.RED, f"{__name__}.Colour"),
        "level": (Level.LOW, f"{__name__}.Level"),
        "cut": (slice(1, 2), None),
        "steps": (range(3), None),
        "names": ({"a"}, None),
        "frozen": (frozenset([3]), None),
        "root": (1j, None),
        "default": (collections.defaultdict(list, a=[1]), None),
        "ordered": (collections.OrderedDict(a=1), None),
        "counts": (collections.Counter("aab"), None),
        "last": (collections.deque([1], 3), None),
        "space": (argparse.Namespace(a=1), None),
        "simple": (types.SimpleNamespace(a=1), None),
        "part": (functools.partial(function, 3, k=2), "functools.partial"),
        "dataclass": (Config(), f"{__name__}.Config"),
        "slotted": (Slotted(), f"{__name__}.Slotted"),
        "point": (Point(1, 2), f"{__name__}.Point"),
        "table": (Table(a=1), f"{__name__}.Table"),
        "several": (Several([1]), f"{__name__}.Several"),
        "function": (function, f"{__name__}.function"),
        "relu": (nn.functional.relu, "torch.nn.functional.relu"),
        "class": (Config, f"{__name__}.Config"),
        "loss": (nn.CrossEntropyLoss(torch.ones(2)), "torch.nn.modules.loss.CrossEntropyLoss"),
        "optimizer": (adam.state_dict(), None),
        "optim": (adam, "torch.optim.adamw.AdamW"),
        "scheduler": (scheduler.state_dict(), None),
        "sched": (scheduler, "torch.optim.lr_scheduler.StepLR"),
        "size": (torch.Size([1]), None),
        "dtype": (torch.float32, None),
        "device": (torch.device("cpu"), None),
        "states": (random.getstate(), None),
        "module_aside": (Net(), f"{__name__}.Net"),
        "decimal": (decimal.Decimal("1.5"), "decimal.Decimal"),
        "uid": (uuid.UUID(int=3), "uuid.UUID"),
        "circular": (Circular(), f"{__name__}.Circular"),
        "own": (torch.ones(2).as_subclass(OwnTensor), f"{__name__}.OwnTensor"),
    }


FORMATS = {
    "zip": {},
    "protocol 3": {"pickle_protocol": 3},
    "protocol 4": {"pickle_protocol": 4},
    "protocol 5": {"pickle_protocol": 5},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return load_checkpoint(path)


def same(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
