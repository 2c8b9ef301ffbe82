"""Values that more than one part of the agent speaks of. All are frozen; arrays in them are never written to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.bearing import Bearing

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """One window of vibration from one asset, checked against the live release's shape."""

    asset: str
    boot: str  # names one run of the sender, so that sequence numbers may start again
    seq: int
    captured_ns: int  # the sender's wall clock, ns since 1970; 0 if it did not say
    label: str | None  # class, where the sender knows it
    samples: Float32 = field(repr=False)  # (channels, length), in the sensor's unit
    flags: tuple[str, ...] = ()  # "flat", "clipped", "gap", "repeat"
    rpm: float | None = None  # speed of the shaft, where the sender knows it


@dataclass(frozen=True)
class Split:
    """Labelled windows: float32 (n, channels, length) and class indices int64 (n,)."""

    windows: Float32 = field(repr=False)
    labels: Int64 = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, label: int) -> Float32:
        """The windows of one class, (m, channels, length)."""
        chosen: Float32 = self.windows[self.labels == label]
        return chosen


@dataclass(frozen=True)
class Dataset:
    """A labelled data set, split so that no recording stretch is on two sides."""

    name: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    rate_hz: float
    unit: str
    split_by: str  # "time block", "record", "subject", "run"
    train: Split
    validation: Split
    test: Split
    notes: str = ""
    bearing: Bearing | None = None  # the one that is watched
    shaft_rpm: float | None = None  # its speed, where windows do not say

    @property
    def length(self) -> int:
        """Samples per channel and window."""
        return int(self.train.windows.shape[2])
