"""Fault frequencies of a bearing, and the envelope spectrum in which they show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import rig
from edge_agent.core.bearing import Bearing
from edge_agent.core.envelope import envelope_spectrum
from edge_agent.core.types import Float32

RATE_HZ = 5120.0


def modulated(carrier_hz: float, modulation_hz: float, length: int = 1024) -> Float32:
    time_s = np.arange(length) / RATE_HZ
    tone = (1 + 0.5 * np.cos(2 * np.pi * modulation_hz * time_s)) * np.cos(2 * np.pi * carrier_hz * time_s)
    return tone[None].astype(np.float32)


def test_a_known_bearing_has_the_fault_frequencies_of_its_data_sheet() -> None:
    # CWRU's drive end bearing, SKF 6205: multiples of the shaft's speed as the Bearing Data Center gives them.
    at_one_hertz = Bearing(elements=9, element_mm=7.94, pitch_mm=39.04).frequencies(60)
    assert at_one_hertz["BPFI"] == pytest.approx(5.4152, abs=0.002)
    assert at_one_hertz["BPFO"] == pytest.approx(3.5848, abs=0.002)
    assert at_one_hertz["FTF"] == pytest.approx(0.39828, abs=0.0003)
    assert 2 * at_one_hertz["BSF"] == pytest.approx(4.7135, abs=0.003)  # the data sheet counts both races


@given(st.integers(3, 40), st.floats(1, 30), st.floats(1.05, 20), st.floats(0, 60))
def test_the_elements_pass_both_races_as_often_together_as_they_turn_with_the_shaft(
    elements: int, element_mm: float, ratio: float, contact_deg: float
) -> None:
    bearing = Bearing(elements, element_mm, element_mm * ratio, contact_deg)
    assert bearing.bpfi + bearing.bpfo == pytest.approx(elements)
    assert 0 < bearing.ftf < 0.5


@pytest.mark.parametrize("sizes", [(0, 8.0, 39.0), (9, 39.0, 39.0), (9, -1.0, 39.0), (9, 8.0, 39.0, 90.0)])
def test_what_is_no_bearing_is_refused_with_its_sizes(sizes: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="is no bearing"):
        Bearing(int(sizes[0]), *sizes[1:])


def test_the_modulation_of_a_resonance_is_a_line_of_its_size() -> None:
    hz, amplitude = envelope_spectrum(modulated(1500, 50), RATE_HZ)
    line = int(np.argmax(amplitude[0]))
    assert hz[line] == 50
    assert amplitude[0, line] == pytest.approx(0.5, rel=0.05)
    assert amplitude.shape == (1, 513)


@pytest.mark.parametrize("carrier_hz", [80, 2500])
def test_a_tone_outside_the_band_does_not_show(carrier_hz: float) -> None:
    assert envelope_spectrum(modulated(carrier_hz, 20), RATE_HZ)[1].max() < 0.05


@given(st.integers(2, 64))
def test_windows_of_any_length_have_a_spectrum(length: int) -> None:
    hz, amplitude = envelope_spectrum(np.ones((2, length), np.float32), RATE_HZ)
    assert amplitude.shape == (2, len(hz))
    assert np.isfinite(amplitude).all()


def test_an_outer_race_fault_of_the_rig_stands_out_at_its_ball_pass_frequency() -> None:
    run = rig.Run.draw(np.random.default_rng(3), 1400)
    windows = rig.windows(run, "OF-2", 12, np.random.default_rng(4))
    hz, _ = envelope_spectrum(windows[0], rig.RATE_HZ)
    mean = np.mean([envelope_spectrum(window, rig.RATE_HZ)[1] for window in windows], axis=(0, 1))
    fault_hz = rig.BEARING.frequencies(run.speed_rpm)["BPFO"]
    near = np.abs(hz - fault_hz) <= hz[1]
    floor = np.median(mean[(hz > 20) & (hz < 200)])
    assert mean[near].max() > 4 * floor
