"""Read checkpoints: safetensors, torch files, sharded checkpoints and Hugging Face folders.

A checkpoint is data. Nothing in it can make this package import or run code. Safetensors headers
are checked before anything is allocated. The package's own pickle reader makes plain values only.
"""

from sharpcli.checkpoint.configured import configuration_notes
from sharpcli.checkpoint.contents import Checkpoint, first_not_finite, pieces, place, tied
from sharpcli.checkpoint.load import load_checkpoint, read_checkpoint
from sharpcli.checkpoint.matching import Match, match_tensors
from sharpcli.checkpoint.optimizer import summarize_optimizer
from sharpcli.checkpoint.safetensors_file import checkpoint_content, save_checkpoint

__all__ = [
    "Checkpoint",
    "Match",
    "checkpoint_content",
    "configuration_notes",
    "first_not_finite",
    "load_checkpoint",
    "match_tensors",
    "pieces",
    "place",
    "read_checkpoint",
    "save_checkpoint",
    "summarize_optimizer",
    "tied",
]
