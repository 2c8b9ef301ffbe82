"""ONNX Runtime: windows in, logits out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnxruntime
import structlog

from edge_agent.core.errors import BrokenRelease
from edge_agent.core.types import Float32
from edge_agent.schemas.card import INPUT, OUTPUT

log = structlog.get_logger(__name__)

_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)
# ValueError and RuntimeError come of its Python layer: windows of another shape, names that are not UTF-8.
_ERRORS: tuple[type[Exception], ...] = (*_RUNTIME_ERRORS, ValueError, RuntimeError)


Provider = Literal["cpu", "cuda", "tensorrt"]
Providers = list[tuple[str, dict[str, str]]]
CPU: Final[Providers] = [("CPUExecutionProvider", {})]


def providers(wanted: Provider, engines: Path | None) -> Providers:
    """ONNX Runtime's execution providers for what the configuration wants, best first; the CPU is always the last.

    Answers must be those of the self-test, so nothing is computed with fewer bits than float32 has.

    Args:
        engines: where TensorRT keeps what it has compiled of one release; None: it compiles at every start.
    """
    cuda: Providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), *CPU]
    if wanted == "cuda":
        return cuda
    if wanted == "tensorrt":
        cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines)} if engines else {}
        return [("TensorrtExecutionProvider", cache), *cuda]
    return CPU


class OnnxModel:
    """One session, from the content of an ONNX file; on the CPU where a better provider is not to be had.

    Raises:
        BrokenRelease: ``E_MODEL``, it cannot be loaded.
    """

    def __init__(self, content: bytes, threads: int, wanted: Providers = CPU) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it keeps a plan for each batch size that it has met
        options.log_severity_level = 3  # errors come as exceptions
        # Spinning threads would burn the cores that the plant's other programs and the forget job need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights in files beside the model would be under no hash of the card: nothing lies below this folder.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        self._session = _loaded(content, options, wanted)

    @property
    def provider(self) -> str:
        """The execution provider that runs most of it."""
        return str(self._session.get_providers()[0])

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


def _loaded(content: bytes, options: onnxruntime.SessionOptions, wanted: Providers) -> onnxruntime.InferenceSession:
    """A session on the best provider that is to be had."""
    here = onnxruntime.get_available_providers()
    usable = [one for one in wanted if one[0] in here]
    _tell_missed([name for name, _ in wanted if name not in here], "this build of ONNX Runtime has none")
    try:
        with _as_file(content) as path:
            session = onnxruntime.InferenceSession(path, options, providers=usable, enable_fallback=0)
    except _ERRORS as error:
        if usable == CPU:
            raise BrokenRelease("E_MODEL", f"ONNX Runtime cannot load the model: {str(error)[:300]}") from error
        _tell_missed([usable[0][0]], str(error)[:300])
        return _loaded(content, options, usable[1:])
    # Where CUDA's own libraries are missing, it leaves the provider out and raises nothing.
    _tell_missed([name for name, _ in usable if name not in session.get_providers()], "its libraries cannot be loaded")
    return session


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The content as a file in memory, for a moment: given bytes, a session keeps them for as long as it lives."""
    descriptor = os.memfd_create("model", os.MFD_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 a descriptor, no path
        file.write(content)
        yield f"/proc/self/fd/{descriptor}"


def _tell_missed(names: list[str], reason: str) -> None:
    if names:
        log.warning("provider.missed", providers=names, reason=reason)
