"""From a path to named tensors and facts: safetensors, torch files, shards, Hugging Face folders.

A checkpoint is data. Nothing in one can make this package import or run code: safetensors headers
are proven before anything is allocated, and pickles are read by an own reader that makes plain
values and nothing else.
"""

from sharpcli.checkpoint.contents import Checkpoint, first_not_finite, pieces, place, tied
from sharpcli.checkpoint.load import load_checkpoint
from sharpcli.checkpoint.matching import Match, match_tensors
from sharpcli.checkpoint.optimizer import summarize_optimizer
from sharpcli.checkpoint.safetensors_file import save_checkpoint

__all__ = [
    "Checkpoint",
    "Match",
    "first_not_finite",
    "load_checkpoint",
    "match_tensors",
    "pieces",
    "place",
    "save_checkpoint",
    "summarize_optimizer",
    "tied",
]
