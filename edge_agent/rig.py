"""A simulated bearing rig with nine accelerometers, in the shape of the private SCUT-FD data set.

Seven conditions (``CLASSES``: healthy, and a spall of 0.5, 1 or 2 mm on the inner or outer race) at four shaft speeds;
float32 windows (9, 1024) in m/s^2. It shows the whole path at work where no measured data may ship; it is no
substitute for measured data. A *run* is one assembly of the rig: what changes when bearing, sensors or speed change.

Equations, in the order of the code (angles in radians, ``theta`` the shaft's, ``psi`` measured from the load):

1.  Shaft: ``theta(t) = 2 pi f (t + a / (2 pi f_w) sin(2 pi f_w t + c))``: the speed ``f`` wanders by ``a`` at ``f_w``.
2.  Impact k comes at the shaft's angle ``theta_k = theta_(k-1) + (2 pi / order) (1 + s_k)``, ``s_k ~ N(0, slip^2)``,
    order = BPFO or BPFI per turn. The jitter adds up, so the train is pseudo-cyclostationary, not periodic [1, 2].
3.  Load zone: ``q(psi) = (1 - (1 - cos psi) / (2 eps))^1.5``, 0 outside (Stribeck; [3]). A spall on the outer race
    stays at one ``psi``; one on the inner race turns with the shaft, so its impacts are modulated once a turn.
4.  Impact k is a radial force ``J q(psi_k) (1 + b_k) (sin psi_k, cos psi_k)``, ``J = J0 (w / 1 mm)^p f / f_ref``: it
    grows with the width ``w`` of the spall and with the speed; ``b_k`` is the scatter of single impacts.
5.  Pulse: a soft, opposite pulse where the rolling element enters the spall, then the sharp impact ``w / (2 v)``
    later, ``v`` the speed of the element's centre against the race [4]. Hann pulses, both wider for wider spalls.
6.  Structure: modes m with ``r_m(t) = exp(-zeta_m w_m t) sin(w_m sqrt(1 - zeta_m^2) t)``. From input i (the two radial
    forces, the ambient force) to sensor s: ``h_si(t) = g_s sum_m Phi_sm Psi_im r_m(t - d_s)``: gain, mode mix, delay.
7.  Sensor: ``x_s = sum_i (h_si * F_i) + sum_k A_sk cos(k theta + phi_sk) + n_s``. The first harmonic is the unbalance
    (grows with f^2), the others misalignment and looseness; ambient force and sensor noise ``n_s`` are white.

Sources:
[1] J. Antoni, R. B. Randall, "A stochastic model for simulation and diagnostics of rolling element bearings with
    localized faults", Journal of Vibration and Acoustics 125 (2003) 282-289.
[2] R. B. Randall, J. Antoni, "Rolling element bearing diagnostics - a tutorial", Mechanical Systems and Signal
    Processing 25 (2011) 485-520.
[3] P. D. McFadden, J. D. Smith, "Model for the vibration produced by a single point defect in a rolling element
    bearing", Journal of Sound and Vibration 96 (1984) 69-82.
[4] N. Sawalhi, R. B. Randall, "Vibration response of spalled rolling element bearings: observations, simulations and
    signal processing techniques to track the spall size", Mechanical Systems and Signal Processing 25 (2011) 846-870.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from edge_agent.core.bearing import Bearing
from edge_agent.core.types import Dataset, Float32, Split

Float64 = NDArray[np.float64]
Race = Literal["inner", "outer"]
Part = Literal["train", "validation", "test"]

CLASSES: Final = ("NC", "IF-0.5", "IF-1", "IF-2", "OF-0.5", "OF-1", "OF-2")
SPEEDS_RPM: Final = (500.0, 800.0, 1100.0, 1400.0)
CHANNELS: Final = ("de_x", "de_y", "de_z", "nde_x", "nde_y", "nde_z", "base_x", "base_y", "base_z")
LENGTH: Final = 1024
RATE_HZ: Final = 5120.0
BEARING: Final = Bearing(elements=9, element_mm=7.94, pitch_mm=39.04)  # a 6205

# The structure (equation 6): modes of housing and base, no measured rig's. Rows of the shapes follow CHANNELS.
_MODE_HZ: Final = np.array([310.0, 640.0, 1080.0, 1560.0, 2120.0])
_MODE_DAMPING: Final = np.array([0.050, 0.040, 0.032, 0.028, 0.025])
_SENSOR_SHAPE: Final = np.array(
    [
        [0.50, 0.70, 1.00, 0.80, 0.90],
        [0.80, 1.00, 0.60, 1.00, -0.70],
        [0.20, -0.30, 0.40, 0.50, 0.60],
        [0.40, -0.60, 0.50, -0.40, 0.30],
        [0.70, -0.70, -0.40, 0.50, 0.25],
        [0.20, 0.30, -0.30, 0.20, 0.20],
        [0.60, 0.30, 0.25, -0.15, 0.10],
        [0.90, 0.40, -0.20, 0.20, -0.10],
        [0.30, -0.20, 0.15, 0.10, 0.05],
    ]
)
_INPUT_SHAPE: Final = np.array(  # lateral force, force along the load, ambient force (drive, floor, oil)
    [[0.30, 0.60, 0.90, 0.50, 1.00], [0.80, 0.90, 0.50, 1.00, 0.70], [1.00, 0.60, 0.40, 0.30, 0.20]]
)
_DELAY_S: Final = np.repeat([0.05e-3, 0.30e-3, 0.45e-3], 3)  # drive end, non-drive end, base
_TAPS: Final = 512  # 0.1 s: the slowest mode has decayed by 40 dB after half of it

# The excitation (equations 2-5, 7).
_REFERENCE_HZ: Final = 1000 / 60
_IMPACT: Final = 13.0  # m/s^2 at a sensor with unit shapes: 1 mm spall, 1000 rpm, full load
_SEVERITY_EXPONENT: Final = 0.7
_INNER_PATH: Final = 0.9  # from the inner race a force crosses the elements first
_IMPACT_SCATTER: Final = 0.15
_SLIP: Final = 0.01
_ENTRY_SHARE: Final = 0.4  # amplitude of the entry into the spall against the impact
_PULSE_S: Final = 0.35e-3  # width of the impact of a 1 mm spall
_HARMONICS: Final = np.array([1.0, 0.45, 0.25, 0.12])  # 1x..4x shaft
_UNBALANCE: Final = 0.3  # m/s^2 at 1000 rpm
_AMBIENT: Final = 0.45
_NOISE: Final = 0.30  # m/s^2 rms: sensor, cable, converter

# From run to run: standard deviations (of the logarithm where a value is a factor). They set how hard the data set is.
_SPEED_SPREAD: Final = 0.005
_GAIN_SPREAD: Final = 0.13
_HARMONIC_SPREAD: Final = 0.30
_NOISE_SPREAD: Final = 0.16
_AMBIENT_SPREAD: Final = 0.20
_IMPACT_SPREAD: Final = 0.16
_RESONANCE_SPREAD: Final = 0.017
_SHAPE_SPREAD: Final = 0.13
_SPALL_ANGLE_SPREAD: Final = math.radians(15)

# Part, runs per class and speed, consecutive windows per run.
_SIZES: Final[tuple[tuple[Part, int, int], ...]] = (("train", 5, 15), ("validation", 5, 5), ("test", 10, 5))


@dataclass(frozen=True, eq=False)
class Run:
    """What one assembly of the rig fixes: float64 arrays over the 9 channels, the 5 modes and the 4 harmonics."""

    speed_rpm: float
    speed_wander: float  # relative amplitude of the speed's slow fluctuation
    wander_hz: float
    impact_factor: float  # load, lubrication and edges of the spall, against nominal
    spall_angle: float  # radians from the load's direction to a spall on the outer race
    load_extent: float  # eps of equation 3
    ambient: float  # m/s^2 rms per unit shape
    resonance_hz: Float64 = field(repr=False)  # (modes,)
    shape: Float64 = field(repr=False)  # (channels, modes)
    gain: Float64 = field(repr=False)  # (channels,)
    noise: Float64 = field(repr=False)  # (channels,), m/s^2 rms
    harmonics: NDArray[np.complex128] = field(repr=False)  # (channels, harmonics), m/s^2 and phase

    @classmethod
    def draw(cls, rng: np.random.Generator, speed_rpm: float) -> Run:
        """Assemble the rig anew and set it to about ``speed_rpm``."""
        channels, modes = _SENSOR_SHAPE.shape
        speed = speed_rpm * (1 + _SPEED_SPREAD * rng.standard_normal())
        gain = np.exp(_GAIN_SPREAD * rng.standard_normal(channels))
        size = _UNBALANCE * _HARMONICS * np.exp(_HARMONIC_SPREAD * rng.standard_normal((channels, _HARMONICS.size)))
        growth = (speed / 60 / _REFERENCE_HZ) ** np.where(np.arange(_HARMONICS.size) == 0, 2, 1)
        phase = rng.uniform(0, 2 * np.pi, (channels, _HARMONICS.size))
        return cls(
            speed_rpm=speed,
            speed_wander=rng.uniform(0.002, 0.006),
            wander_hz=rng.uniform(0.3, 1.5),
            impact_factor=float(np.exp(_IMPACT_SPREAD * rng.standard_normal())),
            spall_angle=_SPALL_ANGLE_SPREAD * rng.standard_normal(),
            load_extent=rng.uniform(0.40, 0.55),
            ambient=_AMBIENT * float(np.exp(_AMBIENT_SPREAD * rng.standard_normal())),
            resonance_hz=_MODE_HZ * (1 + _RESONANCE_SPREAD * rng.standard_normal(modes)),
            shape=_SENSOR_SHAPE * (1 + _SHAPE_SPREAD * rng.standard_normal((channels, modes))),
            gain=gain,
            noise=_NOISE * np.exp(_NOISE_SPREAD * rng.standard_normal(channels)),
            harmonics=gain[:, None] * size * growth * np.exp(1j * phase),
        )


@dataclass(frozen=True)
class Recording:
    """One stretch of the data set: so many consecutive windows of one class from one run, for one part of the split."""

    part: Part
    fault_class: str
    run: Run
    count: int


def windows(run: Run, fault_class: str, count: int, rng: np.random.Generator) -> Float32:
    """Record ``count`` consecutive windows of one run: float32 (count, 9, 1024), m/s^2.

    Raises:
        ValueError: ``fault_class`` is not in ``CLASSES``.
    """
    if fault_class not in CLASSES:
        raise ValueError(f"class is {fault_class!r}, the rig has {', '.join(CLASSES)}")
    samples = _TAPS + count * LENGTH
    angle = _shaft_angle(run, samples, rng)
    inputs = run.ambient * rng.standard_normal((1, samples), dtype=np.float32)
    responses = _responses(run)
    if fault_class == "NC":
        responses = responses[:, 2:]
    else:
        race, width_mm = _spall(fault_class)
        inputs = np.concatenate([_impacts(run, race, width_mm, angle, rng), inputs])
        pulse = _pulse(race, width_mm, run.speed_rpm / 60)
        responses[:, :2] = fft.irfft(fft.rfft(responses[:, :2], 2 * _TAPS) * fft.rfft(pulse, 2 * _TAPS))[..., :_TAPS]
    recorded = _convolve(inputs, responses.astype(np.float32))
    recorded += _shaft_harmonics(run, angle[_TAPS:].reshape(count, LENGTH))
    recorded += rng.standard_normal(recorded.shape, dtype=np.float32) * run.noise.astype(np.float32)[:, None]
    return recorded


def recordings(seed: int) -> tuple[Recording, ...]:
    """Plan the data set of ``seed``: every recording has a run of its own, so no run is on two sides of the split."""
    rng = np.random.default_rng([seed, 0])
    return tuple(
        Recording(part, name, Run.draw(rng, speed), count)
        for part, runs, count in _SIZES
        for name in CLASSES
        for speed in SPEEDS_RPM
        for _ in range(runs)
    )


def dataset(seed: int) -> Dataset:
    """Record the plan of ``seed``: 300 windows of each class to train on, 100 to validate, 200 to test; 155 MB."""
    rng = np.random.default_rng([seed, 1])
    planned = recordings(seed)
    return Dataset(
        name="rig",
        classes=CLASSES,
        channels=CHANNELS,
        rate_hz=RATE_HZ,
        unit="m/s^2",
        split_by="run",
        train=_record([r for r in planned if r.part == "train"], rng),
        validation=_record([r for r in planned if r.part == "validation"], rng),
        test=_record([r for r in planned if r.part == "test"], rng),
        notes=f"simulated, seed {seed}; speeds {', '.join(f'{speed:.0f}' for speed in SPEEDS_RPM)} rpm",
        bearing=BEARING,
    )


class Take(NamedTuple):
    """One window of the stream, (9, 1024)."""

    fault_class: str
    samples: Float32
    speed_rpm: float


def stream(rng: np.random.Generator, turns: int = 16) -> Iterator[Take]:
    """Yield windows for ever: the classes in turn, each from a fresh run after ``turns`` windows."""
    while True:
        runs = [Run.draw(rng, speed) for speed in rng.choice(SPEEDS_RPM, len(CLASSES))]
        stretches = [windows(run, name, turns, rng) for name, run in zip(CLASSES, runs, strict=True)]
        for turn in range(turns):
            for name, run, stretch in zip(CLASSES, runs, stretches, strict=True):
                yield Take(name, stretch[turn], run.speed_rpm)


def _record(planned: list[Recording], rng: np.random.Generator) -> Split:
    stretches = [windows(r.run, r.fault_class, r.count, rng) for r in planned]
    labels = np.repeat([CLASSES.index(r.fault_class) for r in planned], [r.count for r in planned])
    return Split(np.concatenate(stretches), labels.astype(np.int64))


def _spall(fault_class: str) -> tuple[Race, float]:
    race, width_mm = fault_class.split("-")
    return ("inner" if race == "IF" else "outer"), float(width_mm)


def _shaft_angle(run: Run, samples: int, rng: np.random.Generator) -> Float64:
    time_s = np.arange(samples) / RATE_HZ
    wander = 2 * np.pi * run.wander_hz
    phase, start = rng.uniform(0, 2 * np.pi, 2)
    swing = run.speed_wander / wander * (np.sin(wander * time_s + phase) - np.sin(phase))
    angle: Float64 = start + 2 * np.pi * run.speed_rpm / 60 * (time_s + swing)
    return angle


def _impacts(run: Run, race: Race, width_mm: float, angle: Float64, rng: np.random.Generator) -> Float32:
    """Lateral and along-the-load force of the impacts (equations 2-4): float32 (2, samples)."""
    step = 2 * np.pi / (BEARING.bpfi if race == "inner" else BEARING.bpfo)
    most = int((angle[-1] - angle[0]) / step * 1.1) + 20
    turned = angle[0] + step * (rng.uniform() + np.cumsum(1 + _SLIP * rng.standard_normal(most)))
    turned = turned[turned < angle[-1]]
    at = np.interp(turned, angle, np.arange(angle.size))
    psi = turned if race == "inner" else np.full_like(turned, run.spall_angle)
    load = np.maximum(1 - (1 - np.cos(psi)) / (2 * run.load_extent), 0) ** 1.5
    energy = _IMPACT * run.impact_factor * width_mm**_SEVERITY_EXPONENT * run.speed_rpm / 60 / _REFERENCE_HZ
    path = _INNER_PATH if race == "inner" else 1.0
    size = energy * path * load * (1 + _IMPACT_SCATTER * rng.standard_normal(turned.size))
    sample = at.astype(np.intp)
    late = at - sample  # an impact between two samples is shared by them
    force = np.zeros((2, angle.size), np.float32)
    for row, part in enumerate((size * np.sin(psi), size * np.cos(psi))):
        force[row] = np.bincount(sample, part * (1 - late), angle.size)
        force[row] += np.bincount(sample + 1, part * late, angle.size)
    return force


def _pulse(race: Race, width_mm: float, shaft_hz: float) -> Float64:
    """Entry and impact of one pass over a spall (equation 5), float64 (taps / 2,); the sharp pulse has unit area."""
    turns = BEARING.ftf if race == "outer" else 1 - BEARING.ftf
    gap_s = width_mm / (2 * np.pi * BEARING.pitch_mm * turns * shaft_hz)
    sharp_s = _PULSE_S * math.sqrt(width_mm)
    soft_s = max(gap_s, sharp_s)
    time_s = np.arange(_TAPS // 2) / RATE_HZ
    return _hann(time_s - soft_s - gap_s, sharp_s) - _ENTRY_SHARE * _hann(time_s - soft_s, soft_s)


def _hann(time_s: Float64, width_s: float) -> Float64:
    """Sample a Hann pulse about time 0 of full width ``2 width_s``, scaled to the sum 1."""
    pulse: Float64 = np.where(np.abs(time_s) < width_s, 1 + np.cos(np.pi * time_s / width_s), 0)
    pulse /= pulse.sum()
    return pulse


def _responses(run: Run) -> Float64:
    """Impulse responses of equation 6 from the three inputs to the nine sensors: float64 (9, 3, taps)."""
    time_s = np.arange(_TAPS) / RATE_HZ - np.unique(_DELAY_S)[:, None, None]  # (locations, 1, taps)
    omega = 2 * np.pi * run.resonance_hz[:, None]
    decay = np.exp(-_MODE_DAMPING[:, None] * omega * np.maximum(time_s, 0))
    modes = np.where(time_s > 0, decay * np.sin(omega * np.sqrt(1 - _MODE_DAMPING[:, None] ** 2) * time_s), 0)
    per_sensor = modes.repeat(3, axis=0) * (run.gain[:, None] * run.shape)[:, :, None]  # (9, modes, taps)
    responses: Float64 = np.matmul(_INPUT_SHAPE, per_sensor)
    return responses


def _convolve(inputs: Float32, responses: Float32) -> Float32:
    """Sum of the filtered inputs, block by block (overlap-save with one block per window): (count, 9, 1024)."""
    block = _TAPS + LENGTH
    starts = np.arange(0, inputs.shape[1] - block + 1, LENGTH)
    frames = np.lib.stride_tricks.sliding_window_view(inputs, block, axis=1)[:, starts]  # (inputs, count, block)
    spectra = fft.rfft(frames)
    paths = fft.rfft(responses, block)
    total = paths[:, 0] * spectra[0, :, None]
    for path, spectrum in zip(paths.swapaxes(0, 1)[1:], spectra[1:], strict=True):
        total += path * spectrum[:, None]
    filtered: Float32 = fft.irfft(total, block)[..., _TAPS:]
    return filtered


def _shaft_harmonics(run: Run, angle: Float64) -> Float32:
    """Second sum of equation 7 for angles (count, 1024): float32 (count, 9, 1024)."""
    turn = np.exp(1j * np.remainder(angle, 2 * np.pi)).astype(np.complex64)
    powers = np.stack([turn ** (order + 1) for order in range(_HARMONICS.size)], axis=1)  # (count, harmonics, 1024)
    size = run.harmonics.astype(np.complex64)
    harmonics: Float32 = np.matmul(size.real, powers.real) - np.matmul(size.imag, powers.imag)
    return harmonics
