"""The envelope spectrum, where the impacts of a damaged bearing show as lines at its fault frequencies.

Source: R. B. Randall, J. Antoni, "Rolling element bearing diagnostics - a tutorial", Mechanical Systems and Signal
Processing 25 (2011) 485-520, section 4.3: band-pass about the structure's resonances, analytic signal, spectrum of its
magnitude.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from edge_agent.core.types import Float32

# The band: above the shaft's harmonics and the fault frequencies themselves, below the anti-aliasing filter's edge.
BAND: Final = (0.125, 0.45)  # of the sampling rate


def envelope_spectrum(samples: Float32, rate_hz: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each channel of a window.

    Args:
        samples: float32 (channels, length).

    Returns:
        The frequencies in Hz, (length // 2 + 1,), and the envelope's amplitude there, (channels, length // 2 + 1), in
        the unit of the samples.
    """
    length = samples.shape[-1]
    frequencies = fft.rfftfreq(length, 1 / rate_hz)
    low, high = (share * rate_hz for share in BAND)
    one_sided = np.zeros(samples.shape, np.complex128)
    band = (frequencies >= low) & (frequencies <= high)
    one_sided[:, : len(frequencies)][:, band] = 2 * fft.rfft(samples.astype(np.float64))[:, band]
    envelope = np.abs(fft.ifft(one_sided))  # an analytic signal has no negative frequencies
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    centred = envelope - envelope.mean(axis=-1, keepdims=True)
    return frequencies, 2 * np.abs(fft.rfft(centred * hann)) / hann.sum()
