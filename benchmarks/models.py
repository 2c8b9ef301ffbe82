"""Original and retrained networks and their dreams, made once per recipe and then found in ``.cache/benchmarks``.

A retrained network is what forgetting is measured against: the same recipe and seed, without the windows of the
forget classes. It keeps their outputs, which nothing ever trains.

One seed makes one network only where the same kernels run, see ``same_kernels``. A row of results names the digest of
its original, so that only what is about the same network is compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import device
from benchmarks.image_networks import resnet18_2d
from benchmarks.machine import CACHE
from benchmarks.settings import WIDTH, Setting, tensors
from benchmarks.task import Cost, measured
from edge_agent.adapters import checkpoints
from edge_agent.core import dreams, networks, training
from edge_agent.core.types import Dataset

ARCHITECTURE: Final = "resnet18_1d"
# Beside those that a release may name. No entry point: the benchmarks are not installed.
OF_PICTURES: Final[dict[str, networks.Builder]] = {"resnet18_2d": resnet18_2d}
# To be raised when training, a data set's windows, or dreaming change their result: hours of retraining hang on it, so
# that a change of their code alone does not throw them away.
TRAINING_RECIPE: Final = 1
DREAM_RECIPE: Final = 1


def recipes(setting: Setting | None) -> list[str | int]:
    """What decides networks and dreams beside their seed and size, for the id of a run; None: no setting of results."""
    return [repr(setting and setting.training), TRAINING_RECIPE, repr(dreams.DEFAULT), DREAM_RECIPE]


def same_kernels() -> None:
    """Hold torch to AVX2 on every x86-64, unless the environment says otherwise; before it computes for the first time.

    A processor with AVX-512 would be given other kernels, whose sums differ in their last bits, and twelve epochs later
    that is another network. Between Intel's processors and AMD's it is another one in spite of this (decision 0027).
    Speed is measured without it.
    """
    if platform.machine() == "x86_64":
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
        os.environ.setdefault("MKL_CBWR", "AVX2")


def build(data: Dataset, architecture: str = ARCHITECTURE, width: int = WIDTH) -> nn.Sequential:
    """An untrained network for a data set."""
    size = {"channels": len(data.channels), "classes": len(data.classes), "width": width, "length": data.length}
    if architecture in OF_PICTURES:
        return OF_PICTURES[architecture](*size.values())
    return networks.build(architecture, **size)


def trained(
    setting: Setting,
    data: Dataset,
    seed: int,
    without: tuple[int, ...] = (),
    architecture: str = ARCHITECTURE,
    width: int = WIDTH,
) -> nn.Sequential:
    """The network of these settings, in evaluation mode; ``without`` names classes that it never saw."""
    path = _weights(setting, seed, without, architecture, width)
    if not path.exists():
        say = _progress(f"training {setting.name}, model {seed}, without {without}")
        cost = Cost()
        torch.manual_seed(seed)  # the initial weights
        network = build(data, architecture, width)
        train, validation = (_staying(*tensors(split), without) for split in (data.train, data.validation))
        generator = torch.Generator().manual_seed(seed)
        with measured(cost):
            parts = train, validation, setting.training, generator
            epochs = training.fit(network, *parts, lambda epoch: say(_words(epoch)))
        cost.backward = len(epochs) * len(train[1])
        cost.forward = cost.backward + len(epochs) * len(validation[1])
        save(path.with_suffix(".json"), lambda beside: _write_json(beside, dataclasses.asdict(cost)))
        save(path, lambda beside: checkpoints.save_weights(network, beside))
    network = build(data, architecture, width)
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


def training_cost(
    setting: Setting, seed: int, without: tuple[int, ...], architecture: str = ARCHITECTURE, width: int = WIDTH
) -> Cost:
    """What the training of that network cost."""
    path = _weights(setting, seed, without, architecture, width).with_suffix(".json")
    return Cost(**json.loads(path.read_text()))


def _weights(setting: Setting, seed: int, without: tuple[int, ...], architecture: str, width: int) -> Path:
    about = setting.name, architecture, width, seed, without, repr(setting.training), TRAINING_RECIPE
    return place(CACHE / "models", setting.name, seed, *about)


def digest(network: nn.Module) -> str:
    """SHA-256 of all weights: tells whether two originals of one recipe and seed are the same network."""
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in network.state_dict().values())).hexdigest()


def dreamt(setting: Setting, data: Dataset, network: nn.Sequential, seed: int) -> dreams.Dreams:
    """The dreams that a release of this network would carry, in the precision that it stores."""
    about = digest(network), repr(dreams.DEFAULT), DREAM_RECIPE
    path = place(CACHE / "dreams", setting.name, seed, *about)
    if not path.exists():
        say = _progress(f"dreaming {setting.name}, model {seed}")
        generator = torch.Generator().manual_seed(seed)
        shape = len(data.channels), data.length
        made = dreams.dream(network, len(data.classes), shape, dreams.DEFAULT, generator, _every(50, say))
        save(path, lambda beside: checkpoints.save_dreams(made, beside))
    read = checkpoints.load_dreams(path)
    return dreams.Dreams(*(device.here(part) for part in (read.windows, read.first, read.second, read.typical)))


def _staying(windows: Tensor, labels: Tensor, without: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    keep = ~torch.isin(labels, torch.tensor(without, dtype=torch.int64))
    return windows[keep], labels[keep]


def place(folder: Path, setting: str, seed: int, *made_of: object) -> Path:
    """Where something is kept that is made of all this."""
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    return folder / f"{setting}-s{seed}-{key}.safetensors"


def save(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside and rename: another process may make or want the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    write(beside)
    beside.replace(path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _every(count: int, say: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, total: say(f"{done}/{total}") if done % count == 0 else None


def _words(epoch: training.Epoch) -> str:
    return f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, validation {epoch.validation_accuracy:.2%}"


def _progress(title: str) -> Callable[[str], None]:
    started_s = time.monotonic()
    print(title, file=sys.stderr, flush=True)
    return lambda words: print(f"  {time.monotonic() - started_s:6.0f} s  {words}", file=sys.stderr, flush=True)
