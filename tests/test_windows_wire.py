"""Windows on the wire: what was sent comes back, and whatever else arrives is refused with a code and the numbers."""

from __future__ import annotations

import struct
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_agent.core.errors import Refused
from edge_agent.core.types import Float32, Window
from edge_agent.schemas.windows import ENVELOPE_BYTES, WindowSpec, decode, encode

SPEC = WindowSpec(channels=3, length=64, rate_hz=1000.0, max_abs=100.0)
CODES = {"E_SIZE", "E_SHAPE", "E_DTYPE", "E_CBOR", "E_NOT_FINITE", "E_RANGE", "E_RATE"}
SHAPE = (SPEC.channels, SPEC.length)
SAMPLES = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
VALID = encode(Window("press", "boot-1", 7, 1_700_000_000_000_000_000, "hum", SAMPLES), SPEC.rate_hz, "g")

some_samples = arrays.arrays(np.float32, SHAPE, elements=st.floats(-100, 100, width=32))


def _decode(payload: bytes, spec: WindowSpec = SPEC) -> Window:
    return decode("press", payload, spec, "raw-1", 3)


def _array(data: bytes, shape: list[Any], tag: int = 85) -> cbor2.CBORTag:
    return cbor2.CBORTag(40, [shape, cbor2.CBORTag(tag, data)])


def _cbor(**changes: Any) -> bytes:
    """A valid map with some keys replaced; ``...`` leaves a key out."""
    content: dict[Any, Any] = {"v": 1, "seq": 7, "boot": "b", "fs": 1000.0, "x": _array(SAMPLES.tobytes(), list(SHAPE))}
    content.update(changes)
    return cbor2.dumps({key: value for key, value in content.items() if value is not ...})


def _refusal(payload: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        _decode(payload)
    return caught.value


def _outcome(payload: bytes) -> Window | Refused:
    try:
        return _decode(payload)
    except Refused as refusal:
        return refusal


def _is_a_window_or_a_refusal(payload: bytes) -> None:
    window = _outcome(payload)
    if isinstance(window, Refused):
        assert window.code in CODES
        assert 10 < len(window.reason) < 300
        return
    assert window.samples.shape == SHAPE
    assert window.samples.dtype == np.float32
    assert np.isfinite(window.samples).all()
    assert np.abs(window.samples).max() <= SPEC.max_abs
    assert 0 <= window.seq < 2**63
    assert -(2**63) <= window.captured_ns < 2**63
    assert 1 <= len(window.boot.encode()) <= 64


@given(samples=some_samples)
@settings(max_examples=50)
def test_a_raw_window_comes_back_bit_for_bit(samples: Float32) -> None:
    window = _decode(samples.astype("<f4").tobytes())
    assert window.samples.tobytes() == samples.tobytes()
    assert (window.asset, window.boot, window.seq, window.captured_ns, window.label) == ("press", "raw-1", 3, 0, None)


@given(
    samples=some_samples,
    boot=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=64).filter(
        lambda text: len(text.encode()) <= 64
    ),
    seq=st.integers(0, 2**63 - 1),
    captured_ns=st.integers(0, 2**63 - 1),
    label=st.none() | st.text("abc@.", min_size=1),
)
@settings(max_examples=50)
def test_a_cbor_window_comes_back_with_everything_it_said(
    samples: Float32, boot: str, seq: int, captured_ns: int, label: str | None
) -> None:
    sent = Window("press", boot, seq, captured_ns, label, samples)
    window = _decode(encode(sent, SPEC.rate_hz, "g"))
    assert window.samples.tobytes() == samples.tobytes()
    assert (window.boot, window.seq, window.captured_ns, window.label) == (boot, seq, captured_ns, label)


def test_time_rate_unit_and_class_may_be_left_out() -> None:
    window = _decode(_cbor(fs=...))
    assert (window.captured_ns, window.label, window.flags) == (0, None, ())


@pytest.mark.parametrize(
    ("payload", "code", "words"),
    [
        (b"", "E_SIZE", ["0 bytes", "768"]),
        (bytes(767), "E_SIZE", ["767 bytes", "768"]),
        (b"\xa1" + bytes(768 + ENVELOPE_BYTES), "E_SIZE", ["1281 bytes", "at most 1280"]),
        (_cbor(x=_array(SAMPLES.tobytes(), [2, 64])), "E_SHAPE", ["[2, 64]", "expected [3, 64]"]),
        (_cbor(x=_array(SAMPLES.tobytes(), [3, 65])), "E_SHAPE", ["[3, 65]", "expected [3, 64]"]),
        (_cbor(x=_array(SAMPLES.tobytes(), [3, 8, 8])), "E_SHAPE", ["[3, 8, 8]", "expected [3, 64]"]),
        (_cbor(x=_array(SAMPLES.tobytes()[4:], list(SHAPE))), "E_SHAPE", ["764 bytes", "needs 768"]),
        (_cbor(x=_array(SAMPLES.tobytes(), list(SHAPE), 81)), "E_DTYPE", ["81", "expected 85"]),
        (_cbor(fs=48000), "E_RATE", ["48000 Hz", "expected 1000 Hz"]),
        (_cbor(fs=float("nan")), "E_RATE", ["nan", "1000"]),
        (_cbor(seq=...), "E_CBOR", ["'seq'", "NoneType"]),
        (_cbor(seq=-1), "E_CBOR", ["seq is -1"]),
        (_cbor(seq=2**63), "E_CBOR", ["'seq'", "64 bits"]),
        (_cbor(seq=True), "E_CBOR", ["'seq'", "bool"]),
        (_cbor(boot=""), "E_CBOR", ["boot", "1 to 64"]),
        (_cbor(boot="x" * 65), "E_CBOR", ["boot", "1 to 64"]),
        (_cbor(boot="a" + "é" * 63), "E_CBOR", ["boot", "64 bytes"]),
        (_cbor(boot="a\n"), "E_CBOR", ["printable"]),
        (_cbor(t=1.5), "E_CBOR", ["'t'", "float"]),
        (_cbor(t=2**70), "E_CBOR", ["'t'", "71 bits"]),
        (_cbor(fs=2**1100), "E_CBOR", ["'fs'", "1101 bits"]),
        (_cbor(v=2), "E_CBOR", ["v = 1"]),
        (_cbor(speed=3), "E_CBOR", ["'speed'"]),
        (_cbor(x=SAMPLES.tobytes()), "E_CBOR", ["RFC 8746"]),
        (_cbor(x=_array(SAMPLES.tobytes(), [3, "64"])), "E_CBOR", ["shape of x"]),
        (VALID + b"\0", "E_CBOR", ["1 bytes follow"]),
    ],
)
def test_a_refusal_names_the_value_and_the_limit(payload: bytes, code: str, words: list[str]) -> None:
    refusal = _refusal(payload)
    assert refusal.code == code
    assert [word for word in words if word not in refusal.reason] == []


@pytest.mark.parametrize(("value", "said"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize("channel", range(3))
def test_a_sample_that_is_no_number_is_refused_with_its_place(value: float, said: str, channel: int) -> None:
    samples = SAMPLES.copy()
    samples[channel, 17] = value
    refusal = _refusal(samples.tobytes())
    assert refusal.code == "E_NOT_FINITE"
    assert refusal.reason == f"sample 17 of channel {channel} is {said}"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sample_beyond_the_limit_is_refused_and_one_at_the_limit_is_not(sign: int) -> None:
    samples = SAMPLES.copy()
    samples[1, 5] = sign * 100
    assert _decode(samples.tobytes()).samples[1, 5] == sign * 100
    samples[1, 5] = sign * 100.5
    refusal = _refusal(samples.tobytes())
    assert (refusal.code, refusal.reason) == ("E_RANGE", "largest sample is 100.5, the limit is 100")


def test_a_rate_within_one_percent_passes() -> None:
    assert _decode(_cbor(fs=1009)).seq == 7
    assert _refusal(_cbor(fs=1011)).code == "E_RATE"


_BIG = b"\xc2\x59\x01\x00" + b"\xff" * 256  # a bignum of 2048 bits, beyond float64
_HUGE = b"\xc2\x59\x10\x00" + b"\xff" * 4096  # more digits than Python turns into text


@pytest.mark.parametrize(
    "value",
    [
        b"\x81" * 1000 + b"\0",  # arrays in arrays
        b"\xa1\x61a" * 300 + b"\0",  # maps in maps
        b"\xc6" * 1000 + b"\0",  # tags on tags
        b"\xd8\x28\x82" * 300 + b"\0",  # tag 40 all the way down
        b"\x5b\x7f" + b"\xff" * 7,  # a byte string of 2^63 - 1 bytes
        b"\x7b" + b"\xff" * 8,  # a text of 2^64 - 1 bytes
        b"\x9b\x7f" + b"\xff" * 7,  # an array of 2^63 - 1 items
        b"\xbb" + b"\xff" * 8,  # a map of 2^64 - 1 pairs
        b"\x5a\x7f\xff\xff\xff",
        b"\x9f" + b"\x01" * 100,  # indefinite, never ended
        b"\xbf\x61a\xff",  # a key without a value
        b"\x5f\x41a\x61b\xff",  # text in an indefinite byte string
        _BIG,
        b"\xc0\x63abc",  # dates
        b"\xc1\xfb\x7f\xf0" + bytes(6),
        b"\xd8\x64\x1b\x7f" + b"\xff" * 7,
        b"\xc4\x82\x1b\x7f" + b"\xff" * 7 + b"\x01",  # decimal fraction with a huge exponent
        b"\xc4\x82\x61N\x611",  # a signalling NaN, for cbor2 before 6.3
        b"\xc5\x82\x1a\x00\xff\xff\xff\x01",  # bigfloat
        b"\xd8\x1e\x82\x01\x00",  # 1/0
        b"\xd8\x23\x68(((((((a",  # a broken regular expression
        b"\xd8\x23\x6a(a*)*[[a-]",
        b"\xd8\x24\x63abc",  # MIME
        b"\xd8\x25\x43abc",  # UUID
        b"\xd9\x01\x04\x43abc",  # IP address
        b"\xd9\x01\x05\xa1\x44\x7f\0\0\1\x18\xff",  # IP network
        b"\xd8\x1c\x81\xd8\x1d\x00",  # an array that holds itself
        b"\xd8\x1d\x05",  # a reference to nothing
        b"\xd9\x01\x00\x81\xd8\x19\x05",
        b"\xd9\x01\x02\x81\x81\x01",  # a set of arrays
        b"\xf7",
        b"\xf8\xff",
        b"\xf9\x7e\x00",
        b"\xff",
        b"\x1c",  # reserved
    ],
)
@pytest.mark.parametrize("place", [b"\xa1\x61x", b"\xa1\x62fs", b"\xa1\x61v", b"\xa1\x63seq", b"\xa1"])
def test_hostile_cbor_is_refused_wherever_it_stands(value: bytes, place: bytes) -> None:
    assert _refusal(place + value + (b"\x01" if place == b"\xa1" else b"")).code == "E_CBOR"


@pytest.mark.parametrize("key", ["seq", "fs", "t", "boot", "class", "x", "unit"])
@pytest.mark.parametrize("value", [_BIG, b"\xc4\x82\x01\x01", b"\xd8\x1c\x81\xd8\x1d\x00", b"\xd8\x24\x63abc"])
def test_a_strange_value_in_an_otherwise_good_window_is_harmless(key: str, value: bytes) -> None:
    content = cbor2.loads(_cbor(**{key: ...}))
    payload = bytes([0xA0 + len(content) + 1]) + cbor2.dumps(content)[1:] + cbor2.dumps(key) + value
    if key == "unit":  # nothing depends on it
        assert _decode(payload).seq == 7
    else:
        assert _refusal(payload).code == "E_CBOR"


@pytest.mark.parametrize("size", [_BIG, _HUGE, b"\x20", b"\xfb\x40\x08" + bytes(6), b"\xc4\x82\x00\x03"])
def test_a_shape_of_anything_but_small_integers_is_refused(size: bytes) -> None:
    head = b"\xa4\x61v\x01\x63seq\x07\x64boot\x61b\x61x"
    payload = head + b"\xd8\x28\x82\x82" + size + b"\x18\x40" + b"\xd8\x55\x42ab"
    with pytest.raises(Refused, match="E_CBOR: the shape of x"):
        _decode(payload, WindowSpec(9, 1024, 1000.0, 100.0))


def test_a_bignum_as_key_is_refused() -> None:
    with pytest.raises(Refused, match=r"E_CBOR: unknown keys \['int'\]"):
        _decode(b"\xa2\x61v\x01" + _HUGE + b"\x01", WindowSpec(9, 1024, 1000.0, 100.0))


def test_an_indefinite_map_and_array_are_read_like_others() -> None:
    body = cbor2.dumps(cbor2.loads(_cbor()))[1:]
    window = _decode(b"\xbf" + body + b"\xff")
    assert window.samples.tobytes() == SAMPLES.tobytes()


def test_of_a_key_that_stands_twice_the_last_one_counts() -> None:
    payload = bytes([VALID[0] + 1]) + VALID[1:] + cbor2.dumps("seq") + b"\x09"
    assert _decode(payload).seq == 9


@pytest.mark.parametrize("size", [size for size in range(0, len(VALID), 64) if size != SPEC.raw_bytes])
def test_a_truncated_window_is_refused(size: int) -> None:
    assert _refusal(VALID[:size]).code == ("E_CBOR" if size else "E_SIZE")


@given(payload=st.binary(max_size=SPEC.raw_bytes + ENVELOPE_BYTES + 1))
@settings(max_examples=400)
def test_any_bytes_are_a_window_or_a_refusal(payload: bytes) -> None:
    _is_a_window_or_a_refusal(payload)
    _is_a_window_or_a_refusal(b"\xa8" + payload)


@given(payload=st.binary(min_size=SPEC.raw_bytes, max_size=SPEC.raw_bytes))
@example(struct.pack("<I", 0x7F800001) * SPEC.channels * SPEC.length)  # signalling NaN
@example(struct.pack("<I", 1) * SPEC.channels * SPEC.length)  # subnormal
@settings(max_examples=200)
def test_any_bytes_of_the_raw_size_are_a_window_or_a_refusal(payload: bytes) -> None:
    _is_a_window_or_a_refusal(payload)


@given(data=st.data())
@settings(max_examples=600)
def test_a_mutated_window_is_a_window_or_a_refusal(data: st.DataObject) -> None:
    payload = bytearray(VALID)
    envelope = len(VALID) - SPEC.raw_bytes  # most mutations go there: samples only become other samples
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, envelope) | st.integers(0, len(payload) - 1))
        removed = data.draw(st.integers(0, 3))
        payload[place : place + removed] = data.draw(st.binary(max_size=removed + 1))
    _is_a_window_or_a_refusal(bytes(payload))


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from(["v", "seq", "boot", "t", "fs", "unit", "class", "x", "y"]), _plain))
@settings(max_examples=400)
def test_a_map_with_any_values_is_a_window_or_a_refusal(changes: dict[str, Any]) -> None:
    _is_a_window_or_a_refusal(_cbor(**changes))


def test_a_dead_channel_is_flagged_flat() -> None:
    samples = SAMPLES.copy()
    samples[2] = 0.25
    assert _decode(samples.tobytes()).flags == ("flat",)


@pytest.mark.parametrize(("count", "flags"), [(7, ()), (8, ("clipped",))])
def test_eight_equal_extremes_are_flagged_clipped(count: int, flags: tuple[str, ...]) -> None:
    samples = SAMPLES.copy()
    samples[0, :count] = -50.0
    samples[0, 40] = SAMPLES[0].max() + 1  # one maximum, which counts with the minima
    samples[0, 0] = -50.0 if flags else 0.0
    window = _decode(samples.tobytes())
    assert window.flags == flags
    assert window.samples.tobytes() == samples.tobytes()


def test_flags_do_not_change_who_sent_the_window() -> None:
    flat = np.zeros(SHAPE, np.float32)
    window = _decode(encode(Window("press", "b", 5, 9, "hum", flat), SPEC.rate_hz, "g"))
    assert (window.boot, window.seq, window.captured_ns, window.label, window.flags) == ("b", 5, 9, "hum", ("flat",))
