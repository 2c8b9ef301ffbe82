"""The benchmarks on another device than the processor: one that refuses what a GPU refuses, and computes here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks import device, models, plans, quick, run, runs
from benchmarks.quick import SmallCase
from benchmarks.runs import Row
from edge_agent.core import dreams

torch.set_num_threads(1)

# Torch names it and has no kernels of it: whatever works there was done by ``Elsewhere``.
AWAY = torch.device("lazy:0")
PICTURES = "resnet18_2d"
COPIES = {"_to_copy", "copy_"}  # between devices, as on a GPU
TOOK = {"seconds", "cpu_seconds", "peak_mib", "commit"}


class AwayTensor(Tensor):
    """Says that it is elsewhere; ``here`` is what it holds."""

    here: Tensor

    @staticmethod
    def __new__(cls: type[Self], here: Tensor) -> Self:
        size, strides = here.size(), here.stride()
        made: Self = Tensor._make_wrapper_subclass(cls, size, strides, dtype=here.dtype, device=AWAY)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it as a value
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Read from memory by torch, without a call that is dispatched."""
        return self.cpu().tolist()


class Elsewhere(TorchDispatchMode):
    """Computes on the CPU what is asked of the other device."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """One operation: refused as a GPU would refuse it, or done here and its results sent away."""
    name = func.overloadpacket.__name__
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    among = [isinstance(each, AwayTensor) for each in tensors]
    wanted = kwargs.get("device")
    away = torch.device(wanted) == AWAY if wanted is not None else any(among)
    picked = name == "index" and among[0]  # indices may be on the CPU where what they pick from is not
    if any(among) and not picked and name not in COPIES:
        stay = [each for each, gone in zip(tensors, among, strict=True) if not gone and each.dim()]
        assert not stay, f"{name}: expected all tensors on one device"
    if away:
        assert kwargs.get("generator") is None, f"{name}: expected a generator of the device"
    local_args, local_kwargs = tree_map(
        lambda each: each.here if isinstance(each, AwayTensor) else each, (args, kwargs)
    )
    result = func(*local_args, **local_kwargs | ({"device": device.CPU} if wanted is not None else {}))
    if not away:
        return result
    known = {id(each.here): each for each in tensors if isinstance(each, AwayTensor)}  # changed in place

    def sent(each: Any) -> Any:
        if not isinstance(each, Tensor):
            return each
        return known[id(each)] if id(each) in known else AwayTensor(each)

    return tree_map(sent, result)


@contextmanager
def elsewhere(place: AbstractContextManager[object]) -> Iterator[None]:
    """With the other device as the default, by ``place``."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor's move to the device is dispatched
    try:
        with Elsewhere(), place:  # type: ignore[no-untyped-call]
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def rows(methods: Sequence[str]) -> list[Row]:
    """What the methods do to one network, with what they cost left out."""
    case = SmallCase(quick.SETTING, quick.tones(), 0, (1,), PICTURES)
    runs._measured_of_retrain.cache_clear()
    done = [runs.perform(quick.run_of(name, architecture=PICTURES), lambda _: case) for name in methods]
    runs._measured_of_retrain.cache_clear()
    return [{name: value for name, value in row.items() if name not in TOOK} for row in done]


@pytest.fixture(autouse=True)
def _hasty_dreams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreams, "STEPS", 3)


def test_all_methods_of_table_1_do_the_same_on_another_device() -> None:
    """What once broke: SURE made its discriminator on the CPU, whatever the default device."""
    with elsewhere(device.on(AWAY)):
        moved = rows(plans.OF_TABLE_1)
    assert moved == rows(plans.OF_TABLE_1)


def test_networks_and_dreams_of_files_are_read_to_the_other_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "CACHE", tmp_path)

    def found() -> tuple[nn.Sequential, dreams.Dreams]:
        network = models.trained(quick.SETTING, quick.tones(), 0, (1,), PICTURES, quick.WIDTH)
        return network, models.dreamt(quick.SETTING, quick.tones(), network, 0)

    network, made = found()
    with elsewhere(device.on(AWAY)):
        same_network, read = found()
        parts = (*same_network.state_dict().values(), read.windows, read.first, read.second, read.typical)
        assert {part.device for part in parts} == {AWAY}
        assert models.digest(same_network) == models.digest(network)
        assert read.windows.cpu().equal(made.windows)


REFUSED: tuple[Callable[[Tensor], object], ...] = (
    lambda away: away + torch.ones(3, device="cpu"),
    lambda away: torch.ones(3, device="cpu")[away.long()],
    lambda away: away.numpy(),
    lambda away: away.normal_(generator=torch.Generator()),
    lambda away: torch.randperm(3, generator=torch.Generator()),
)


@pytest.mark.parametrize("misuse", REFUSED)
def test_these_tests_would_see_what_a_gpu_refuses(misuse: Callable[[Tensor], object]) -> None:
    with elsewhere(AWAY), pytest.raises((AssertionError, RuntimeError)):
        misuse(torch.ones(3))


@pytest.mark.parametrize(
    ("name", "reason"), [("cuda:99", "argument --device: "), ("nowhere", "Expected one of cpu, cuda")]
)
def test_a_device_that_cannot_compute_is_refused_by_name(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(device.UnknownDeviceError, match=f"device '{name}' cannot be used: .*"):
        device.named(name)
    monkeypatch.setattr(sys, "argv", ["benchmarks.run", "t1", "--device", name])
    with pytest.raises(SystemExit, match="2"):
        run.main()
    assert reason in capsys.readouterr().err
