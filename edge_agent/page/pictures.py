"""What a window looks like: its channels, and its envelope spectrum with the bearing's fault frequencies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from edge_agent.core.envelope import envelope_spectrum
from edge_agent.core.types import Float32
from edge_agent.schemas.heard import LiveRelease
from edge_agent.schemas.windows import WindowSpec, decode

HARMONICS: Final = 3  # of a fault frequency that are marked
LARGEST: Final = float(np.finfo(np.float32).max)
DIGITS: Final = 4


@dataclass(frozen=True)
class Picture:
    """One window.

    Attributes:
        number: boot and sequence number; the page's own where the sender gives none.
        content: JSON, made once for all browsers.
    """

    asset: str
    number: tuple[str, int]
    content: str = field(repr=False)


def picture(asset: str, payload: bytes, release: LiveRelease) -> Picture:
    """Decode a window and work out its spectrum.

    Raises:
        Refused: it is none that the live release takes.
    """
    spec = WindowSpec(len(release.channels), release.length, release.rate_hz, LARGEST)
    window = decode(asset, payload, spec, "", 0)
    rpm = window.rpm or release.shaft_rpm
    faults = release.bearing.frequencies(rpm) if release.bearing is not None and rpm is not None else {}
    hz, amplitude = envelope_spectrum(window.samples, release.rate_hz)
    shown = hz <= min(hz[-1], (HARMONICS + 0.5) * max(faults.values(), default=hz[-1] / 8))
    content = {
        "asset": asset,
        "channels": release.channels,
        "unit": release.unit,
        "rate_hz": release.rate_hz,
        "samples": _rounded(window.samples),
        "rpm": rpm,
        "faults": {name: round(value, 2) for name, value in faults.items()},
        "harmonics": HARMONICS,
        "hz": _rounded(hz[shown]),
        "envelope": _rounded(amplitude[:, shown]),
    }
    return Picture(asset, (window.boot, window.seq), json.dumps(content, separators=(",", ":"), allow_nan=False))


def _rounded(values: Any) -> Any:
    """To some digits, so that the message stays small."""
    array: Float32 = np.asarray(values, np.float64)
    size = np.abs(array).max(initial=0.0)
    decimals = DIGITS - int(np.ceil(np.log10(size))) if size > 0 else 0
    return array.round(max(0, min(decimals, 12))).tolist()
