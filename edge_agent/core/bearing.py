"""The fault frequencies of a rolling bearing, from its geometry.

Source: R. B. Randall, J. Antoni, "Rolling element bearing diagnostics - a tutorial", Mechanical Systems and Signal
Processing 25 (2011) 485-520, equations 1-4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bearing:
    """Geometry of a rolling bearing whose outer race is fixed; its orders are events per turn of the shaft."""

    elements: int
    element_mm: float
    pitch_mm: float
    contact_deg: float = 0.0

    def __post_init__(self) -> None:
        if not (self.elements > 0 and 0 < self.element_mm < self.pitch_mm and 0 <= self.contact_deg < 90):
            raise ValueError(f"{self} is no bearing: elements, 0 < element_mm < pitch_mm, 0 <= contact_deg < 90")

    @property
    def _ratio(self) -> float:
        return self.element_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg))

    @property
    def ftf(self) -> float:
        """Turns of the cage per turn of the shaft."""
        return (1 - self._ratio) / 2

    @property
    def bpfo(self) -> float:
        """Elements that pass a point of the outer race per turn of the shaft."""
        return self.elements * self.ftf

    @property
    def bpfi(self) -> float:
        """Elements that pass a point of the inner race per turn of the shaft."""
        return self.elements * (1 - self.ftf)

    @property
    def bsf(self) -> float:
        """Turns of an element about its own axis per turn of the shaft."""
        return self.pitch_mm / (2 * self.element_mm) * (1 - self._ratio**2)

    def frequencies(self, shaft_rpm: float) -> dict[str, float]:
        """The four fault frequencies in Hz, by their usual names."""
        shaft_hz = shaft_rpm / 60
        orders = {"BPFI": self.bpfi, "BPFO": self.bpfo, "BSF": self.bsf, "FTF": self.ftf}
        return {name: order * shaft_hz for name, order in orders.items()}
