"""Export a line or plane to NumPy's .npz, or to .vts for ParaView."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from sharpcli.render.scene import Array, Scene, Values
from sharpcli.settings.output import FigureSettings

__all__ = ["exported"]


def exported(scene: Scene, suffix: str, _settings: FigureSettings | None = None) -> bytes:
    """The bytes of a ".npz" or ".vts" file.

    Values that are not finite are NaN. A .vts file holds the grid points (alpha, beta, 0) with an
    array for each split and metric. An .npz file also holds checkpoints, trajectories, aligned and
    curved paths.
    """
    return {".npz": _npz, ".vts": _vts}[suffix](scene)


def _npz(scene: Scene) -> bytes:
    """Arrays by name: alpha, beta, train_loss (n_beta, n_alpha), … ; see `exported`."""
    arrays: dict[str, Any] = {axis.name: axis.values for axis in scene.axes}
    arrays |= _named(scene.grid.values)
    arrays |= {f"{name}_sampling_error": x for name, x in _named(scene.grid.errors).items()}
    for curve in scene.others:
        kind = "path" if curve.bent else "aligned"
        arrays |= {"path_t": curve.at} if curve.bent else {}
        arrays |= {f"{kind}_{name}": array for name, array in _named(curve.values).items()}
    for curve in (scene.grid, *scene.others):
        kind = "" if curve is scene.grid else "path_" if curve.bent else "aligned_"
        for split, barrier in curve.barriers.items():
            arrays[f"{kind}barrier_{split}"] = np.array(float(barrier["value"]))
    arrays["checkpoint_names"] = np.array([mark.name for mark in scene.marks], dtype=np.str_)
    arrays["checkpoint_paths"] = np.array([mark.path for mark in scene.marks], dtype=np.str_)
    arrays["checkpoint_coordinates"] = np.array([mark.at for mark in scene.marks]).reshape(
        len(scene.marks), len(scene.axes)
    )
    arrays["checkpoint_unseen"] = np.array([mark.unseen for mark in scene.marks])
    for split in scene.splits:
        for metric in scene.metrics:
            found = [mark.values.get(split, {}).get(metric, np.nan) for mark in scene.marks]
            arrays[f"checkpoint_{_key(split, metric)}"] = np.array(found, dtype=np.float64)
    for number, run in enumerate(scene.trajectories):
        arrays[f"trajectory_{number}_coordinates"] = run.at
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _named(values: Values) -> dict[str, Array]:
    return {
        _key(split, metric): array
        for split, metrics in values.items()
        for metric, array in metrics.items()
    }


def _key(split: str, metric: str) -> str:
    """`train_loss`; characters that some program rejects in a name become underscores."""
    return re.sub(r"[^0-9A-Za-z_.-]", "_", f"{split}_{metric}")


def _point_data(scene: Scene) -> Iterator[tuple[str, Array]]:
    """Each array with its name; a loss also as its decimal logarithm."""
    for split, metrics in scene.grid.values.items():
        for metric, values in metrics.items():
            yield _key(split, metric), values.ravel()
            if metric == "loss":
                positive = np.where(values > 0, values, np.nan).ravel()
                yield _key(split, "log10_loss"), np.log10(positive)


def _points(scene: Scene) -> tuple[tuple[int, int], Array]:
    """The grid's shape (n_alpha, n_beta) and points (n, 3), with alpha running fastest."""
    alpha = scene.axes[0].values
    beta = scene.axes[1].values if len(scene.axes) == 2 else np.zeros(1)
    across, along = np.meshgrid(beta, alpha, indexing="ij")
    flat = (along.ravel(), across.ravel(), np.zeros(alpha.size * beta.size))
    return (alpha.size, beta.size), np.stack(flat, axis=1)


def _vts(scene: Scene) -> bytes:
    """VTK's XML format: base64 of a length (UInt64) and little-endian doubles."""
    (columns, rows), points = _points(scene)
    extent = f"0 {columns - 1} 0 {rows - 1} 0 0"
    arrays = "".join(_data_array(name, values) for name, values in _point_data(scene))
    active = quoteattr(_key(scene.splits[0], scene.metrics[0]))
    return (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="StructuredGrid" version="1.0" byte_order="LittleEndian" '
        'header_type="UInt64">\n'
        f'<StructuredGrid WholeExtent="{extent}">\n<Piece Extent="{extent}">\n'
        f"<PointData Scalars={active}>\n{arrays}</PointData>\n"
        f"<Points>\n{_data_array('Points', points)}</Points>\n"
        "</Piece>\n</StructuredGrid>\n</VTKFile>\n"
    ).encode()


def _data_array(name: str, values: Array) -> str:
    data = values.astype("<f8").tobytes()
    text = base64.b64encode(len(data).to_bytes(8, "little") + data).decode("ascii")
    components = f' NumberOfComponents="{values.shape[1]}"' if values.ndim == 2 else ""
    return (
        f'<DataArray type="Float64" Name={quoteattr(name)}{components} format="binary">'
        f"{text}</DataArray>\n"
    )
