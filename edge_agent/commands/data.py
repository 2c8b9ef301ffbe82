"""The data set that a command line names."""

from __future__ import annotations

from pathlib import Path

from edge_agent.adapters import datasets
from edge_agent.core.errors import Misconfigured
from edge_agent.core.types import Dataset
from edge_agent.rig import dataset as rig_dataset


def load_dataset(source: str, folder: Path | None, seed: int) -> Dataset:
    """``rig``, ``cwru`` or ``dsads`` (with the folder of their files), or the path of an ``.npz``.

    Raises:
        Misconfigured: ``E_DATA``.
    """
    if source == "rig":
        return rig_dataset(seed)
    if source in ("cwru", "dsads"):
        if folder is None:
            raise Misconfigured("E_DATA", f"{source} needs --folder, where its files lie")
        return datasets.cwru(folder) if source == "cwru" else datasets.dsads(folder)
    path = Path(source)
    if path.suffix != ".npz":
        raise Misconfigured("E_DATA", f"{source!r} is neither rig, cwru, dsads nor the path of an .npz")
    return datasets.archive(path)
