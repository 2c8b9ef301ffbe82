"""The simulated rig: its physics is visible where theory puts it, and its split keeps runs apart."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from edge_agent import rig
from edge_agent.core.types import Dataset


@pytest.fixture(scope="module")
def data() -> Dataset:
    return rig.dataset(3)


def _run(seed: int, speed_rpm: float = 1100.0) -> rig.Run:
    return rig.Run.draw(np.random.default_rng(seed), speed_rpm)


def _line_over_floor(fault_class: str, order: float, speed_rpm: float) -> float:
    """Height of the line at ``order`` in the squared envelope spectrum of a 20 s recording, over the local median."""
    run = _run(11, speed_rpm)
    recorded = rig.windows(run, fault_class, 100, np.random.default_rng(12))
    sample = recorded[:, rig.CHANNELS.index("de_y")].ravel()
    band = signal.sosfilt(signal.butter(4, (900, 2400), "bandpass", fs=rig.RATE_HZ, output="sos"), sample)
    squared = np.abs(signal.hilbert(band)) ** 2
    # One second per segment: finer bins would spread a line that slip and wander already smear.
    hertz, power = signal.welch(squared, rig.RATE_HZ, nperseg=int(rig.RATE_HZ))
    expected = order * run.speed_rpm / 60
    line = power[np.abs(hertz - expected) <= 0.015 * expected + 1].max()
    floor = np.median(power[np.abs(hertz - expected) <= 0.4 * expected])
    return float(line / floor)


def test_the_bearing_has_the_published_orders_of_a_6205() -> None:
    bearing = rig.BEARING
    assert bearing.bpfo == pytest.approx(3.5848, abs=2e-3)
    assert bearing.bpfi == pytest.approx(5.4152, abs=2e-3)
    assert bearing.ftf == pytest.approx(0.39828, abs=2e-4)
    assert bearing.bsf == pytest.approx(2.357, abs=2e-3)
    assert bearing.bpfo + bearing.bpfi == pytest.approx(bearing.elements)


@given(
    count=st.integers(1, 4),
    fault_class=st.sampled_from(rig.CLASSES),
    speed_rpm=st.sampled_from(rig.SPEEDS_RPM),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_every_recording_is_finite_float32_in_the_shape_of_the_rig(
    count: int, fault_class: str, speed_rpm: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    recorded = rig.windows(rig.Run.draw(rng, speed_rpm), fault_class, count, rng)
    assert recorded.shape == (count, len(rig.CHANNELS), rig.LENGTH)
    assert recorded.dtype == np.float32
    assert np.isfinite(recorded).all()
    assert recorded.std(axis=2).min() > 0.05


def test_an_unknown_class_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="BF-1"):
        rig.windows(_run(0), "BF-1", 1, np.random.default_rng(0))


@pytest.mark.parametrize("speed_rpm", rig.SPEEDS_RPM[1:])
def test_the_envelope_of_an_outer_race_fault_shows_bpfo_and_not_bpfi(speed_rpm: float) -> None:
    assert _line_over_floor("OF-2", rig.BEARING.bpfo, speed_rpm) > 10
    assert _line_over_floor("OF-2", rig.BEARING.bpfi, speed_rpm) < 6


@pytest.mark.parametrize("speed_rpm", rig.SPEEDS_RPM[1:])
def test_the_envelope_of_an_inner_race_fault_shows_bpfi_with_shaft_sidebands_and_not_bpfo(speed_rpm: float) -> None:
    assert _line_over_floor("IF-2", rig.BEARING.bpfi, speed_rpm) > 6
    assert _line_over_floor("IF-2", rig.BEARING.bpfi - 1, speed_rpm) > 4
    assert _line_over_floor("IF-2", rig.BEARING.bpfo, speed_rpm) < 4


@pytest.mark.parametrize("order", [rig.BEARING.bpfo, rig.BEARING.bpfi])
def test_the_envelope_of_a_healthy_bearing_shows_no_fault_order(order: float) -> None:
    assert _line_over_floor("NC", order, 1100.0) < 4


@pytest.mark.parametrize("race", ["IF", "OF"])
def test_a_wider_spall_raises_energy_and_kurtosis(race: str) -> None:
    run = _run(5)
    recorded = [rig.windows(run, name, 60, np.random.default_rng(6)) for name in ("NC", f"{race}-0.5", f"{race}-2")]
    channel = rig.CHANNELS.index("de_y")
    energy = [float(part[:, channel].var()) for part in recorded]
    kurtosis = [float(stats.kurtosis(part[:, channel], axis=None)) for part in recorded]
    assert energy[0] < energy[1] < energy[2]
    assert kurtosis[0] < kurtosis[1] < kurtosis[2]


@pytest.mark.parametrize("fault_class", [name for name in rig.CLASSES if name.startswith("OF")])
def test_outer_race_impacts_come_at_bpfo_with_one_percent_of_slip(fault_class: str) -> None:
    run = _run(8)
    race, width_mm = rig._spall(fault_class)
    angle = rig._shaft_angle(run, 200 * rig.LENGTH, np.random.default_rng(9))
    force = np.hypot(*rig._impacts(run, race, width_mm, angle, np.random.default_rng(9)))
    starts = np.flatnonzero((force[1:] > 0) & (force[:-1] == 0)) + 1
    late = force[starts + 1] / (force[starts] + force[starts + 1])  # the part of a sample by which the impact is late
    turned = np.interp(starts + late, np.arange(angle.size), angle)
    period = 2 * np.pi / rig.BEARING.bpfo
    assert np.diff(turned).mean() == pytest.approx(period, rel=0.003)
    assert np.diff(turned).std() == pytest.approx(0.01 * period, rel=0.15)


def test_inner_race_impacts_vanish_outside_the_load_zone() -> None:
    run = _run(8)
    angle = rig._shaft_angle(run, 200 * rig.LENGTH, np.random.default_rng(9))
    force = np.hypot(*rig._impacts(run, "inner", 1.0, angle, np.random.default_rng(9)))
    from_load = np.abs((angle + np.pi) % (2 * np.pi) - np.pi)
    assert force[from_load > np.radians(105)].max() == 0  # eps <= 0.55: the zone ends at 96 degrees, one sample is 2
    centre, flank = force[from_load < np.radians(20)], force[np.abs(from_load - np.radians(70)) < np.radians(5)]
    assert centre.max() > 2 * flank.max() > 0


def test_shaft_vibration_grows_with_speed() -> None:
    slow, fast = (rig.windows(_run(2, rpm), "NC", 50, np.random.default_rng(2)) for rpm in (500.0, 1400.0))
    band = signal.butter(4, 100, fs=rig.RATE_HZ, output="sos")  # below the structure's modes
    rms = [signal.sosfilt(band, part[:, 0].ravel()).std() for part in (slow, fast)]
    assert rms[1] > 2 * rms[0]


def test_the_same_seed_gives_the_same_windows_and_another_seed_does_not() -> None:
    first, again, other = (rig.windows(_run(1), "IF-1", 2, np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_a_recording_continues_from_window_to_window() -> None:
    recorded = rig.windows(_run(1), "NC", 50, np.random.default_rng(4))
    joined = recorded.swapaxes(0, 1).reshape(len(rig.CHANNELS), -1)
    steps = np.abs(np.diff(joined, axis=1))
    at_the_seam = steps[:, rig.LENGTH - 1 :: rig.LENGTH]
    assert at_the_seam.mean() == pytest.approx(steps.mean(), rel=0.2)


def test_two_runs_differ_in_gain_noise_resonance_and_speed() -> None:
    one, other = _run(1), _run(2)
    assert np.abs(one.gain / other.gain - 1).max() > 0.03
    assert np.abs(one.noise / other.noise - 1).max() > 0.03
    assert (one.resonance_hz != other.resonance_hz).all()
    assert one.speed_rpm != other.speed_rpm
    assert one.speed_rpm == pytest.approx(1100, rel=0.03)


def test_no_run_serves_two_recordings() -> None:
    planned = rig.recordings(0)
    gains = {recording.run.gain.tobytes() for recording in planned}
    assert len(gains) == len(planned)
    assert {recording.part for recording in planned} == {"train", "validation", "test"}


def test_every_part_holds_every_class_at_every_speed_alike() -> None:
    held = Counter[tuple[str, str, float]]()
    for recording in rig.recordings(0):
        nominal = min(rig.SPEEDS_RPM, key=lambda speed: abs(speed - recording.run.speed_rpm))
        held[recording.part, recording.fault_class, nominal] += recording.count
    for part in ("train", "validation", "test"):
        counts = {held[part, name, speed] for name in rig.CLASSES for speed in rig.SPEEDS_RPM}
        assert len(counts) == 1
        assert counts.pop() > 0


def test_the_data_set_follows_its_plan(data: Dataset) -> None:
    assert (data.name, data.split_by, data.unit) == ("rig", "run", "m/s^2")
    assert (data.classes, data.channels, data.rate_hz) == (rig.CLASSES, rig.CHANNELS, rig.RATE_HZ)
    for part, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        planned = [r for r in rig.recordings(3) if r.part == part]
        assert split.windows.shape == (sum(r.count for r in planned), 9, 1024)
        assert split.windows.dtype == np.float32
        assert split.labels.dtype == np.int64
        for label, name in enumerate(rig.CLASSES):
            assert len(split.of(label)) == sum(r.count for r in planned if r.fault_class == name)


def test_no_two_windows_of_the_data_set_are_the_same(data: Dataset) -> None:
    every = np.concatenate([data.train.windows, data.validation.windows, data.test.windows])
    assert len(np.unique(every[:, 0, :8], axis=0)) == len(every)


def test_the_stream_takes_the_classes_in_turn_and_changes_runs() -> None:
    taken = list(itertools.islice(rig.stream(np.random.default_rng(0), turns=2), 4 * len(rig.CLASSES)))
    assert [take.fault_class for take in taken] == 4 * list(rig.CLASSES)
    assert all(take.samples.shape == (9, 1024) and take.samples.dtype == np.float32 for take in taken)
    assert len({take.samples.tobytes() for take in taken}) == len(taken)
