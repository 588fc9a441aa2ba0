"""Software versions, machine and date that a document records."""

from __future__ import annotations

import platform
import sys
import time
from typing import TYPE_CHECKING, Any

from sharpcli.runtime.version import __version__

if TYPE_CHECKING:
    import torch

__all__ = ["environment"]


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """The `environment` of a document: versions, machine, date and device.

    Imports nothing: torch is listed only if it is already loaded.
    """
    found: dict[str, Any] = {
        "sharpcli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    loaded = sys.modules.get("torch")
    if loaded is not None:
        found["torch"] = str(loaded.__version__)
    if device is not None and loaded is not None:
        cuda = device.type == "cuda"
        found["device"] = str(device)
        found["device_name"] = loaded.cuda.get_device_name(device) if cuda else platform.machine()
        found["threads"] = loaded.get_num_threads()
    return found
