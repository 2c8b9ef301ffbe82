"""What an unlearning method is, what it is given, and what it costs.

A method declares what data it needs. ``hand_over`` gives it that and nothing else: a retain-free method never holds
retained windows, and one that needs no data holds none at all.
"""

from __future__ import annotations

import copy
import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from benchmarks import device
from edge_agent.core.dreams import Dreams

Needs = Literal["none", "forget", "retain"]  # "retain" means both sides
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Labelled:
    """Windows float32 (n, channels, length) and their classes int64 (n,)."""

    windows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """One epoch of mini-batches in a random order.

        A rest of one window is left out: batch norm has no variance of it.
        """
        order = torch.randperm(len(self), generator=generator)
        return [(self.windows[part], self.labels[part]) for part in order.split(size) if len(part) > 1]

    def pick(self, which: Tensor) -> Labelled:
        """Those that a mask (n,) or indices name."""
        return Labelled(self.windows[which], self.labels[which])


@dataclass(frozen=True)
class Task:
    """One network to make forget.

    Attributes:
        network: the original f0, a copy that the method may change and return; in evaluation mode, no gradients.
        classes: K, how many logits it has.
        forget: the forget classes' indices C_f.
        dreams: windows synthesised from f0 alone, as a release carries them; none with a part of a forget class.
        forget_set: D_f, or None for a method that needs no data.
        retain_set: D_r, or None for a retain-free method.
        on_epoch: to be called with the network after each pass over the forget set; it leaves the network alone.
    """

    network: nn.Sequential
    classes: int
    forget: tuple[int, ...]
    dreams: Dreams
    generator: torch.Generator
    forget_set: Labelled | None = None
    retain_set: Labelled | None = None
    on_epoch: Callable[[nn.Module], None] = lambda network: None

    @property
    def forget_windows(self) -> Labelled:
        """D_f of a method that declared that it needs it."""
        assert self.forget_set is not None, "the method declared that it needs no data"
        return self.forget_set

    @property
    def retain_windows(self) -> Labelled:
        """D_r of a method that declared that it needs it."""
        assert self.retain_set is not None, "the method declared that it needs no retained data"
        return self.retain_set


@dataclass(frozen=True)
class Method(Generic[Settings]):
    """One way to forget.

    Attributes:
        name: as in results; ``title`` as in tables.
        settings: the defaults; a frozen dataclass.
        search: for each setting that is tuned, its candidates; the 12 trials are drawn from their product.
        unlearn: returns the network that has forgotten. It may change ``task.network`` in place and return it.
    """

    name: str
    title: str
    needs: Needs
    settings: Settings
    search: Mapping[str, tuple[Any, ...]]
    unlearn: Callable[[Task, Settings], nn.Sequential]


@dataclass
class Cost:
    """What a method used: seconds, peak memory above what was in use before, windows sent forward and backward.

    ``seconds`` are those of the wall clock, ``cpu_seconds`` those of the process, which other work on the machine
    hardly changes. A pass through the pooling part of a network counts as one, even where the method had the features
    of the parts before it at hand; seconds show the difference.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    forward: int = 0
    backward: int = 0


def hand_over(
    method: Method[Settings],
    network: nn.Sequential,
    forget: tuple[int, ...],
    dreams: Dreams,
    forget_set: Labelled,
    retain_set: Labelled,
    seed: int,
    on_epoch: Callable[[nn.Module], None] = lambda network: None,
) -> Task:
    """A task that holds what ``method`` declared that it needs, and a copy of the network."""
    head = network[-1]
    assert isinstance(head, nn.Linear)
    return Task(
        network=copy.deepcopy(network).eval().requires_grad_(False),
        classes=head.out_features,
        forget=forget,
        dreams=dreams,
        generator=torch.Generator().manual_seed(seed),
        forget_set=None if method.needs == "none" else forget_set,
        retain_set=retain_set if method.needs == "retain" else None,
        on_epoch=on_epoch,
    )


def carry_out(method: Method[Settings], task: Task, settings: Settings) -> tuple[nn.Sequential, Cost]:
    """Run a method, and count what it costs."""
    cost = Cost()
    _count(task.network, cost)
    with measured(cost):
        network = method.unlearn(task, settings)
    network[POOL]._forward_hooks.clear()  # noqa: SLF001  copies made by the method carry the hook as well
    return network.eval().requires_grad_(False), cost


@contextmanager
def measured(cost: Cost) -> Iterator[None]:
    """Write into ``cost`` what the block takes in time and memory."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs gave back must not hide what this one takes
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before_mib, started_s, started_cpu_s = _status_mib("VmRSS"), time.monotonic(), time.process_time()
    yield
    device.settled()
    cost.seconds, cost.cpu_seconds = time.monotonic() - started_s, time.process_time() - started_cpu_s
    cost.peak_mib = _status_mib("VmHWM") - before_mib


POOL: Final = -2  # the part before the head
RESET_PEAK: Final = "5"  # proc(5): sets the peak resident size to the present one


def _count(network: nn.Sequential, cost: Cost) -> None:
    """Count windows at the pooling part, which is behind every weight but the head's.

    Copies of the network count into the same ``cost``: a closure is not copied.
    """

    def on_backward(gradient: Tensor) -> None:
        cost.backward += len(gradient)

    def on_forward(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        cost.forward += len(output)
        if output.requires_grad:
            output.register_hook(on_backward)

    network[POOL].register_forward_hook(on_forward)


def _status_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")
