"""``edge-agent train``: from a labelled data set to a release folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from edge_agent import __version__
from edge_agent.adapters import checkpoints, onnx_export
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import Release, read_release, write_card
from edge_agent.commands.data import load_dataset
from edge_agent.commands.show import bars
from edge_agent.core import dreams, margins, networks, training
from edge_agent.core.errors import Misconfigured
from edge_agent.core.metrics import class_accuracies
from edge_agent.core.types import Dataset, Split
from edge_agent.files import appearing, sha256
from edge_agent.schemas.card import DREAMS, MODEL, WEIGHTS, Card, self_test_windows

ENERGY_QUANTILE = 0.01  # of the validation windows lie below the card's energy floor
PARITY_WINDOWS = 64


@dataclass(frozen=True)
class TrainingRun:
    """What training left behind. Accuracies in percent; ``by_class`` is that of the test windows."""

    release: Release
    train_accuracy: float
    test_accuracy: float
    by_class: dict[str, float]


def train_release(
    data: Dataset,
    out: Path,
    *,
    width: int,
    seed: int,
    settings: training.TrainingSettings,
    architecture: str = networks.DEFAULT,
    dream_settings: dreams.DreamSettings = dreams.DEFAULT,
    on_epoch: Callable[[training.Epoch], None] = lambda _: None,
    on_dream: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingRun:
    """Train, dream, export and write a release into the new folder ``out``.

    Raises:
        BrokenRelease: ``E_ARCHITECTURE``, nobody provides the architecture, or not in this size.
        Misconfigured: ``out`` holds something already.
        JobFailed: ``E_PARITY``, ONNX Runtime disagrees with torch.
    """
    _refuse_full(out)
    torch.manual_seed(seed)  # the initial weights
    generator = torch.Generator().manual_seed(seed)
    size = {"channels": len(data.channels), "classes": len(data.classes), "width": width, "length": data.length}
    network = networks.build(architecture, **size)
    train, validation, test = (_tensors(split) for split in (data.train, data.validation, data.test))
    training.fit(network, train, validation, settings, generator, on_epoch)
    shape = len(data.channels), data.length
    made = dreams.dream(network, len(data.classes), shape, dream_settings, generator, on_dream)

    answers = training.logits(network, test[0]).argmax(1).numpy()
    train_answers = training.logits(network, train[0]).argmax(1).numpy()
    test_accuracy = 100.0 * float((answers == data.test.labels).mean())
    train_accuracy = 100.0 * float((train_answers == data.train.labels).mean())
    mean, std = (getattr(network[0], name).flatten().tolist() for name in ("mean", "std"))
    held_out = training.logits(network, validation[0])
    check = torch.from_numpy(self_test_windows(mean, std, data.length))
    by_class = dict(zip(data.classes, class_accuracies(answers, data.test.labels, len(data.classes)), strict=True))
    with appearing(out) as folder:
        checkpoints.save_weights(network, folder / WEIGHTS)
        checkpoints.save_dreams(made, folder / DREAMS)
        onnx_export.export(network, *shape, folder / MODEL)
        some = validation[0][:PARITY_WINDOWS]
        onnx_export.check_parity(
            network, some, OnnxModel((folder / MODEL).read_bytes(), threads=1).logits(some.numpy())
        )
        card = Card(
            name=f"{data.name} {architecture} width {width} seed {seed}",
            classes=data.classes,
            channels=data.channels,
            length=data.length,
            rate_hz=data.rate_hz,
            unit=data.unit,
            architecture=architecture,
            width=width,
            channel_mean=mean,
            channel_std=std,
            energy_floor=float(np.quantile(held_out.logsumexp(1).numpy(), ENERGY_QUANTILE)),
            margins=margins.measure(held_out.numpy(), data.validation.labels, len(data.classes)),
            bearing=data.bearing,
            shaft_rpm=data.shaft_rpm,
            metrics={"train_accuracy": round(train_accuracy, 3), "test_accuracy": round(test_accuracy, 3)},
            self_test=tuple(map(tuple, training.logits(network, check).tolist())),
            files={name: sha256(folder / name) for name in (MODEL, WEIGHTS, DREAMS)},
            versions={"edge_agent": __version__, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
            notes=f"split by {data.split_by}; {data.notes}".rstrip("; "),
        )
        write_card(folder, card)
    return TrainingRun(read_release(out), train_accuracy, test_accuracy, by_class)


def _refuse_full(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise Misconfigured("E_DATA", f"{out} is no folder")
    if out.exists() and any(out.iterdir()):
        raise Misconfigured("E_DATA", f"{out} is not empty")


def _tensors(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(split.windows), torch.from_numpy(split.labels)


def show_training(
    source: str, folder: Path | None, out: Path, *, architecture: str, width: int, epochs: int, seed: int, threads: int
) -> None:
    """Train with progress bars, and print the accuracies.

    Raises:
        Misconfigured: the data cannot be had, or ``out`` is there already; before anything is loaded.
    """
    _refuse_full(out)
    if threads:
        torch.set_num_threads(threads)
    data = load_dataset(source, folder, seed)
    settings = training.TrainingSettings(epochs=epochs)
    with bars() as show:

        def on_epoch(epoch: training.Epoch) -> None:
            words = f"loss {epoch.train_loss:.3f}, validation {epoch.validation_accuracy:.1%}"
            show("training", epoch.number, epoch.epochs, words)

        done = train_release(
            data, out, architecture=architecture, width=width, seed=seed, settings=settings,
            on_epoch=on_epoch, on_dream=lambda step, total: show("dreaming", step, total, ""),
        )  # fmt: skip
    table = Table("class", "test accuracy")
    for name, accuracy in done.by_class.items():
        table.add_row(name, f"{accuracy:.1f} %")
    console = Console()
    console.print(table)
    sides = f"{len(data.train)} training and {len(data.test)} test windows, split by {data.split_by}"
    console.print(f"train {done.train_accuracy:.2f} %, test {done.test_accuracy:.2f} % ({sides})")
    console.print(f"release {done.release.digest[:12]} in {out}")
