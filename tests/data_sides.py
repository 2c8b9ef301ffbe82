"""The real data, if it is there, and what every data set is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.core.errors import Misconfigured
from edge_agent.core.types import Dataset, Split

REAL = Path(__file__).parents[2] / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data sets are not in {REAL}")


def refusal(load: Any, path: Path) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(path)
    assert caught.value.code == "E_DATA"
    assert str(path) in caught.value.reason
    return caught.value.reason


def sides(data: Dataset) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


def _stretches(side: Split) -> NDArray[np.uint64]:
    """A number for every stretch of eight samples of all channels, wherever it starts; constant ones are left out."""
    bits = side.windows.view(np.uint32).astype(np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    columns = np.zeros((bits.shape[0], bits.shape[2]), np.uint64)
    for channel in range(bits.shape[1]):
        columns = (columns ^ bits[:, channel]) * factor
        columns ^= columns >> np.uint64(29)
    starts = bits.shape[2] - 7
    stretches = np.zeros((bits.shape[0], starts), np.uint64)
    for offset in range(8):
        stretches = (stretches ^ columns[:, offset : offset + starts]) * factor
        stretches ^= stretches >> np.uint64(31)
    constant = columns[:, :starts] == columns[:, 7:]
    return np.unique(stretches[~constant])


def share_nothing(data: Dataset) -> None:
    train, validation, test = map(_stretches, sides(data))
    for one, other in ((train, validation), (train, test), (validation, test)):
        assert len(np.intersect1d(one, other, assume_unique=True)) == 0
