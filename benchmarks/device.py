"""Where the benchmarks' networks live: on the processor, or on a GPU for the tables that would take weeks without one.

Nothing in the package or the benchmarks names a device. ``on`` makes one the default for all tensors that are made
inside, and sees to what torch leaves to its caller: a CPU generator draws on the CPU, so that one seed orders and
perturbs the same windows everywhere, and numpy is given copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU: Final = torch.device("cpu")


class UnknownDeviceError(ValueError):
    """Torch has no such device, or not here."""


def named(name: str) -> torch.device:
    """The device of a name such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UnknownDeviceError: torch knows no such name, or cannot compute there on this machine.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what torch raises differs by device
        reason = str(error).strip().partition("\n")[0]
        raise UnknownDeviceError(f"device {name!r} cannot be used: {reason}") from error
    return device


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Make new tensors on ``device``, and carry over what has to be on the CPU."""
    if device == CPU:
        yield
        return
    with device, _CarryOver(device):
        yield


def here(tensor: Tensor) -> Tensor:
    """A tensor that was read from a file, where new ones are made."""
    return tensor.to(torch.get_default_device())


def settled() -> None:
    """Return once a GPU has done what it was given: it is given work ahead, and a clock read before that is early."""
    if torch.accelerator.is_available() and torch.get_default_device() != CPU:
        torch.accelerator.synchronize()


def hardware() -> str:
    """The device's own name for a row of results, such as ``, NVIDIA A100``; empty on the processor."""
    device = torch.get_default_device()
    return f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""


class _CarryOver(TorchFunctionMode):
    """What torch refuses where tensors are on another device than a generator or numpy's memory."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named_arguments = dict(kwargs or {})
        if func in _TO_NUMPY:
            return func(args[0].cpu(), *args[1:], **named_arguments)
        generator = named_arguments.get("generator")
        if generator is None or generator.device != CPU:
            return func(*args, **named_arguments)
        target = args[0] if args else named_arguments.get("tensor")  # as functions of torch.nn.init call it
        if not isinstance(target, Tensor):
            return func(*args, **named_arguments | {"device": CPU}).to(self._device)
        drawn = torch.empty_like(target, device=CPU)
        with torch.no_grad():
            if args:
                func(drawn, *args[1:], **named_arguments)
            else:
                func(**named_arguments | {"tensor": drawn})
            return target.copy_(drawn)


_TO_NUMPY: Final = (Tensor.numpy, Tensor.__array__)
