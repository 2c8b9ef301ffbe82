"""The card of a release: everything about a model that is not its weights. Its SHA-256 names the release."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent.core.bearing import Bearing
from edge_agent.core.errors import BrokenRelease
from edge_agent.core.margins import LEVELS, Margins
from edge_agent.core.types import Float32
from edge_agent.schemas.commands import first_problem
from edge_agent.schemas.topics import CLASS_NAME

MODEL, WEIGHTS, DREAMS, CARD = "model.onnx", "weights.safetensors", "dreams.safetensors", "card.json"
INT8: Final = "model.int8.onnx"
Precision = Literal["float32", "int8"]
MODELS: Final[dict[Precision, str]] = {"float32": MODEL, "int8": INT8}
INPUT, OUTPUT = "windows", "logits"  # names in the ONNX graph
SELF_TEST_WINDOWS: Final = 4
LARGEST_WINDOW_BYTES: Final = (4 << 20) - (64 << 10)  # with what goes around it, it must fit a message (mqtt_client)


class Card(BaseModel):
    """What stands in ``card.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    name: str = Field(max_length=100)
    classes: tuple[str, ...] = Field(min_length=2, max_length=1024, description="in the order of the model's outputs")
    forgotten: tuple[str, ...] = Field((), description="classes that the weights have been made to forget")
    channels: tuple[str, ...] = Field(min_length=1, max_length=1024)
    length: int = Field(ge=1, le=1 << 20, description="samples per channel and window")
    rate_hz: float = Field(gt=0)
    unit: str
    architecture: str
    width: int = Field(ge=1, le=4096)
    parent: str | None = Field(None, description="digest of the release this one was edited from")
    channel_mean: tuple[float, ...] = Field(description="of the training windows, in the unit")
    channel_std: tuple[float, ...] = Field(description="of the training windows, in the unit")
    energy_floor: float = Field(description="windows whose energy score is lower are out of distribution")
    margins: Margins = Field(description="of validation windows, for each class")
    bearing: Bearing | None = Field(None, description="the bearing that is watched, for its fault frequencies")
    shaft_rpm: float | None = Field(None, gt=0, le=1e6, description="speed of its shaft, where windows do not say")
    metrics: dict[str, float] = Field(default_factory=dict)
    self_test: tuple[tuple[float, ...], ...] = Field(description="torch's logits on self_test_windows()")
    self_test_int8: tuple[tuple[float, ...], ...] = Field((), description="the int8 model's, if the release has one")
    files: dict[str, str] = Field(description="SHA-256 of every other file of the release")
    versions: dict[str, str] = Field(default_factory=dict)
    notes: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        if len(set(self.classes)) != len(self.classes) or not all(map(CLASS_NAME.fullmatch, self.classes)):
            raise ValueError("classes are not distinct names of A-Z a-z 0-9 . _ @ - and space")
        if not set(self.forgotten) <= set(self.classes):
            raise ValueError("a forgotten class is not in classes")
        if not set(self.classes) - set(self.forgotten):
            raise ValueError("every class is forgotten")
        if not len(self.channels) == len(self.channel_mean) == len(self.channel_std):
            raise ValueError("channels, channel_mean and channel_std have different lengths")
        if (size := len(self.channels) * self.length * 4) > LARGEST_WINDOW_BYTES:
            raise ValueError(f"a window has {size} bytes, at most {LARGEST_WINDOW_BYTES} fit a message")
        return self

    @model_validator(mode="after")
    def _margins_fit(self) -> Card:
        if {len(of.quantiles) for of in self.margins} - {0, len(LEVELS)}:
            raise ValueError(f"quantiles of a class's margins are not {len(LEVELS)} numbers")
        if len(self.margins) != len(self.classes):
            raise ValueError(f"margins are of {len(self.margins)} classes, expected {len(self.classes)}")
        # The gate would take anything else for margins that nothing uses up.
        if not all(0.0 <= of.recall <= 1.0 for of in self.margins):
            raise ValueError("a class's recall is not between 0 and 1")
        if any(
            of.quantiles and (of.quantiles[0] < 0.0 or list(of.quantiles) != sorted(of.quantiles))
            for of in self.margins
        ):
            raise ValueError("quantiles of a class's margins do not rise from 0 or more")
        return self

    @model_validator(mode="after")
    def _models_fit(self) -> Card:
        for name, rows in (("self_test", self.self_test), ("self_test_int8", self.self_test_int8)):
            if [len(row) for row in rows] != [len(self.classes)] * SELF_TEST_WINDOWS and (rows or name == "self_test"):
                raise ValueError(f"{name} is not {SELF_TEST_WINDOWS} rows of {len(self.classes)} logits")
        if {MODEL, WEIGHTS} - self.files.keys() or self.files.keys() - {MODEL, WEIGHTS, DREAMS, INT8}:
            raise ValueError(f"files must be {MODEL}, {WEIGHTS} and perhaps {DREAMS} and {INT8}")
        if (INT8 in self.files) != bool(self.self_test_int8):
            raise ValueError(f"{INT8} and self_test_int8 come together")
        return self

    @property
    def living(self) -> tuple[str, ...]:
        """The classes that have not been forgotten."""
        return tuple(name for name in self.classes if name not in self.forgotten)

    def indices(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Output indices of classes."""
        return tuple(self.classes.index(name) for name in names)

    def to_bytes(self) -> bytes:
        """The content of ``card.json``."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def parse_card(content: bytes) -> Card:
    """Read a card.

    Raises:
        BrokenRelease: ``E_CARD`` with the first thing that is wrong.
    """
    try:
        return Card.model_validate_json(content)
    except ValidationError as error:
        raise BrokenRelease("E_CARD", f"card.json is malformed: {first_problem(error)}") from error


def digest(content: bytes) -> str:
    """Hex SHA-256; that of its card names a release."""
    return hashlib.sha256(content).hexdigest()


def self_test_windows(mean: Sequence[float], std: Sequence[float], length: int) -> Float32:
    """Fixed inputs, (4, channels, length), on which ONNX Runtime and torch must agree: tones around the mean."""
    channels = len(mean)
    number = np.arange(1, SELF_TEST_WINDOWS + 1).reshape(-1, 1, 1)
    channel = np.arange(1, channels + 1).reshape(1, -1, 1)
    time = np.arange(length).reshape(1, 1, -1) / length
    tones = np.sin(2 * np.pi * 7 * number * channel * time + channel) + 0.5 * np.sin(2 * np.pi * 61 * number * time)
    return (np.reshape(mean, (1, -1, 1)) + np.reshape(std, (1, -1, 1)) * tones).astype(np.float32)
