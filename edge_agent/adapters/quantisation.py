"""ONNX Runtime's static quantisation: the int8 model of a float32 one (Jacob et al. 2018, section 2).

Weights become signed 8 bits, per output channel; what flows between them unsigned 8 bits, whose ranges are what given
windows make the model produce, but for the largest values: finer steps for nearly all are worth more than the peaks
(percentile calibration, Wu et al. 2020, arXiv 2004.09602). For this pair of types ONNX Runtime has its fastest kernels.
The last layer stays in float32: it costs next to nothing, and what it is given reaches twice as far for real windows as
for dreams.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from edge_agent.core.errors import BrokenRelease
from edge_agent.core.types import Float32
from edge_agent.schemas.card import INPUT

COUNTED_AT_ONCE: Final = 8  # windows whose every map between the layers is in memory: 3 MiB each at width 64
PERCENTILE: Final = 99.999  # of the values of either sign, by their size; ONNX Runtime's default


def quantise(model: bytes, windows: Float32, folder: Path) -> bytes:
    """The int8 model of a float32 ONNX model.

    Args:
        windows: what its ranges are taken from, float32 (n, channels, length).
        folder: for files on the way, which know what the model knows; nothing stays there.

    Raises:
        BrokenRelease: ``E_PRECISION``, none can be made.
    """
    try:
        return _quantised(model, windows, folder)
    except Exception as error:  # three libraries, of no common root, and nothing that must not go on without this model
        raise BrokenRelease("E_PRECISION", f"no int8 model can be made: {str(error)[:300]}") from error


def _quantised(model: bytes, windows: Float32, folder: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=folder) as name, _kept_in(Path(name)):
        given, plain, made = (Path(name) / f"{stage}.onnx" for stage in ("given", "plain", "int8"))
        given.write_bytes(model)
        # Folds batch norm into the convolutions. Shapes are fixed but for the batch: no symbols have to be solved.
        quant_pre_process(given, plain, skip_symbolic_shape=True)
        quantize_static(
            plain, made, _Windows(windows),
            quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=_last(plain),
            calibrate_method=CalibrationMethod.Percentile,
            # The second goes by its first use: histograms are summed batch by batch, too.
            extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
        )  # fmt: skip
        return made.read_bytes()


def _last(model: Path) -> list[str]:
    """Name of the node that makes the logits."""
    graph = onnx.load(model).graph
    return [node.name for node in graph.node if graph.output[0].name in node.output]


class _Windows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime.quantization carries no types
    """Batches, of which the quantiser asks for one at a time."""

    def __init__(self, windows: Float32) -> None:
        starts = range(0, len(windows), COUNTED_AT_ONCE)
        self._batches = [{INPUT: windows[start : start + COUNTED_AT_ONCE]} for start in starts]
        self._asked: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Which batches are asked for next."""
        self._asked = iter(self._batches[start_index:end_index])

    def get_next(self) -> Any:
        """The next batch; None after the last."""
        return next(self._asked, None)


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Let the quantiser, which makes temporary folders of its own, make them here; and say nothing of how it goes."""
    before, logger = tempfile.tempdir, logging.getLogger()
    level = logger.level
    tempfile.tempdir = str(folder)
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        tempfile.tempdir = before
        logger.setLevel(level)
