"""The two forms of a window on the wire, and the checks each window passes.

- raw: exactly ``channels * length * 4`` bytes, little-endian float32, channel-major. It names no sender and no
  number, so a repeat cannot be told from a new window;
- CBOR (RFC 8949): a map ``{v: 1, seq, boot, t?, fs?, unit?, class?, rpm?, x}``, where ``x`` is a multi-dimensional
  array (tag 40) over a little-endian float32 typed array (tag 85) as in RFC 8746, and ``t`` is in ns since 1970.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Any, Final

import cbor2
import numpy as np

from edge_agent.core.errors import Refused
from edge_agent.core.types import Float32, Window

ENVELOPE_BYTES: Final = 512  # what a CBOR map may add to the samples
CLIPPED_SAMPLES: Final = 8  # as many equal extremes in one channel are a clipped sensor
RATE_TOLERANCE: Final = 0.01
MOST_RPM: Final = 1e6
_ARRAY, _FLOAT32_LE = 40, 85
_KEYS: Final = {"v", "seq", "boot", "t", "fs", "unit", "class", "rpm", "x"}


@dataclass(frozen=True)
class WindowSpec:
    """What the live release expects; ``max_abs`` is a limit of the configuration, in the sensor's unit."""

    channels: int
    length: int
    rate_hz: float
    max_abs: float

    @property
    def raw_bytes(self) -> int:
        """Size of a raw window."""
        return self.channels * self.length * 4


def encode(window: Window, rate_hz: float, unit: str) -> bytes:
    """The CBOR form of a window."""
    samples = np.ascontiguousarray(window.samples, dtype="<f4")
    content: dict[str, Any] = {
        "v": 1,
        "seq": window.seq,
        "boot": window.boot,
        "t": window.captured_ns,
        "fs": rate_hz,
        "unit": unit,
        "x": cbor2.CBORTag(_ARRAY, [list(samples.shape), cbor2.CBORTag(_FLOAT32_LE, samples.tobytes())]),
    }
    if window.label is not None:
        content["class"] = window.label
    if window.rpm is not None:
        content["rpm"] = window.rpm
    return cbor2.dumps(content)


def decode(asset: str, payload: bytes, spec: WindowSpec, raw_boot: str, raw_seq: int) -> Window:
    """Read and check one window: ``read`` and ``examine``.

    Raises:
        Refused: as both say.
    """
    window = read(asset, payload, spec, raw_boot, raw_seq)
    found = examine(window.samples[np.newaxis], spec)[0]
    if isinstance(found, Refused):
        raise found
    return replace(window, flags=found)


def read(asset: str, payload: bytes, spec: WindowSpec, raw_boot: str, raw_seq: int) -> Window:
    """Read one window whose samples nobody has looked at yet, cheapest check first.

    Args:
        raw_boot: with ``raw_seq``, what stands in for the identity that a raw window does not carry.

    Raises:
        Refused: with the code that says which check failed, and value and limit in the reason.
    """
    if len(payload) == spec.raw_bytes:
        samples = np.frombuffer(payload, "<f4").reshape(spec.channels, spec.length)
        return Window(asset, raw_boot, raw_seq, 0, None, samples)
    if len(payload) > spec.raw_bytes + ENVELOPE_BYTES:
        raise Refused("E_SIZE", f"payload has {len(payload)} bytes, at most {spec.raw_bytes + ENVELOPE_BYTES} are read")
    if payload and payload[0] >> 5 == 5:  # CBOR major type 5: a map
        return _from_cbor(asset, payload, spec)
    raise Refused("E_SIZE", f"payload has {len(payload)} bytes, a raw window has {spec.raw_bytes}")


def examine(samples: Float32, spec: WindowSpec) -> list[tuple[str, ...] | Refused]:
    """Look at the samples of windows, float32 (n, channels, length): the flags of each, or why it is refused.

    All at once: each call into numpy lets another thread have the interpreter, and waits to get it back.
    """
    low, high = samples.min(axis=2), samples.max(axis=2)  # NaN and infinity come through
    largest = np.maximum(-low.min(axis=1), high.max(axis=1))
    flat = low == high
    extremes = sum((samples == edge[:, :, np.newaxis]).sum(axis=2, dtype=np.uint32) for edge in (low, high))
    clipped = ((extremes >= CLIPPED_SAMPLES) & ~flat).any(axis=1)
    flags = [("flat",) * a + ("clipped",) * b for a, b in zip(flat.any(axis=1).tolist(), clipped.tolist(), strict=True)]
    return [
        found if value <= spec.max_abs else _refusal(samples[index], value, spec)  # NaN is not
        for index, (value, found) in enumerate(zip(largest.tolist(), flags, strict=True))
    ]


def _refusal(samples: Float32, largest: float, spec: WindowSpec) -> Refused:
    """Why a window with such a sample is refused."""
    if math.isfinite(largest):
        return Refused("E_RANGE", f"largest sample is {largest:g}, the limit is {spec.max_abs:g}")
    bad = np.argwhere(~np.isfinite(samples))[0]
    return Refused("E_NOT_FINITE", f"sample {bad[1]} of channel {bad[0]} is {samples[tuple(bad)]}")


def _from_cbor(asset: str, payload: bytes, spec: WindowSpec) -> Window:
    stream = io.BytesIO(payload)
    try:
        content = cbor2.load(stream)
    # Hostile input reaches cbor2 and the constructors of its tags (dates, decimals, addresses): whatever they raise
    # says the same about the payload. RecursionError and MemoryError come of deep nesting and of huge lengths.
    except (cbor2.CBORError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise Refused("E_CBOR", f"not one well-formed CBOR item: {type(error).__name__}") from error
    except (RecursionError, MemoryError) as error:
        raise Refused("E_CBOR", "the CBOR item nests too deeply or claims too great a length") from error
    if stream.tell() != len(payload):
        raise Refused("E_CBOR", f"{len(payload) - stream.tell()} bytes follow the CBOR item")
    # By its type first: to compare a signalling NaN, which cbor2 before 6.3 makes of some decimals, raises.
    if not isinstance(content, dict) or type(content.get("v")) is not int or content["v"] != 1:
        raise Refused("E_CBOR", "the CBOR item is not a map with v = 1")
    if unknown := [key[:40] if isinstance(key, str) else type(key).__name__ for key in content if key not in _KEYS]:
        raise Refused("E_CBOR", f"unknown keys {unknown[:5]}")
    seq = _typed(content, "seq", int, None)
    if seq < 0:
        raise Refused("E_CBOR", f"seq is {seq}, expected 0 .. 2^63 - 1")
    boot = _typed(content, "boot", str, None)
    if not 0 < len(boot.encode()) <= 64 or not boot.isprintable():
        raise Refused("E_CBOR", "boot is not 1 to 64 bytes of printable UTF-8")
    rate_hz = _typed(content, "fs", (int, float), spec.rate_hz)
    if not math.isclose(rate_hz, spec.rate_hz, rel_tol=RATE_TOLERANCE):
        raise Refused("E_RATE", f"window was sampled at {rate_hz:g} Hz, expected {spec.rate_hz:g} Hz")
    label = _typed(content, "class", str, "") or None
    captured_ns = _typed(content, "t", int, 0)
    rpm = float(_typed(content, "rpm", (int, float), 0.0)) or None
    if rpm is not None and not 0 < rpm <= MOST_RPM:
        raise Refused("E_CBOR", f"rpm is {rpm:g}, expected 0 .. {MOST_RPM:g}")
    return Window(asset, boot, seq, captured_ns, label, _samples(content.get("x"), spec), rpm=rpm)


def _typed(content: dict[str, Any], key: str, types: type | tuple[type, ...], default: Any) -> Any:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, types):
        raise Refused("E_CBOR", f"key {key!r} is missing or of the wrong type ({type(value).__name__})")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Refused("E_CBOR", f"key {key!r} has {value.bit_length()} bits, at most 63 and a sign are read")
    return value


def _samples(value: object, spec: WindowSpec) -> Float32:
    match value:
        case cbor2.CBORTag(tag=tag, value=[[*shape], cbor2.CBORTag(tag=inner, value=bytes(data))]) if tag == _ARRAY:
            pass
        case _:
            raise Refused("E_CBOR", "x is not an RFC 8746 array: tag 40 of [shape, typed array]")
    if not all(isinstance(size, int) and 0 <= size < 2**63 for size in shape):
        raise Refused("E_CBOR", "the shape of x is not made of integers in 0 .. 2^63 - 1")
    if inner != _FLOAT32_LE:
        raise Refused("E_DTYPE", f"x has typed-array tag {inner}, expected 85 (float32, little-endian)")
    if shape != [spec.channels, spec.length]:
        raise Refused("E_SHAPE", f"window has shape {shape[:4]}, expected {[spec.channels, spec.length]}")
    if len(data) != spec.raw_bytes:
        raise Refused("E_SHAPE", f"x holds {len(data)} bytes, its shape needs {spec.raw_bytes}")
    return np.frombuffer(data, "<f4").reshape(spec.channels, spec.length)
