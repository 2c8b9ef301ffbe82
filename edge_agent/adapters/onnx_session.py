"""ONNX Runtime: windows in, logits out."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime

from edge_agent.core.errors import BrokenRelease
from edge_agent.core.types import Float32
from edge_agent.schemas.card import INPUT, OUTPUT

_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)
# ValueError and RuntimeError come of its Python layer: windows of another shape, names that are not UTF-8.
_ERRORS: tuple[type[Exception], ...] = (*_RUNTIME_ERRORS, ValueError, RuntimeError)


class OnnxModel:
    """One session on the CPU, from the content of an ONNX file.

    Raises:
        BrokenRelease: ``E_MODEL``, it cannot be loaded.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it keeps a plan for each batch size that it has met
        options.log_severity_level = 3  # errors come as exceptions
        # Spinning threads would burn the cores that the plant's other programs and the forget job need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights in files beside the model would be under no hash of the card: nothing lies below this folder.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except _ERRORS as error:
            raise BrokenRelease("E_MODEL", f"ONNX Runtime cannot load the model: {str(error)[:300]}") from error

    def logits(self, windows: Float32) -> Float32:
        """Logits float32 (n, classes) of float32 windows (n, channels, length).

        Raises:
            BrokenRelease: ``E_MODEL``, the model does not accept the windows.
        """
        try:
            answer = self._session.run([OUTPUT], {INPUT: windows})[0]
        except _ERRORS as error:
            raise BrokenRelease("E_MODEL", f"the model cannot run: {str(error)[:300]}") from error
        return np.asarray(answer, dtype=np.float32)
