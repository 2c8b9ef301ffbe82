"""A second model of a release, in int8: two to four times as fast, a third of the size, and a little less exact.

Its ranges are taken from dreams, so that no window of a retained class is needed and a gateway can make it anew after
each edit. docs/decisions/0023-int8.md says why, and how much is lost.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.quantisation import quantise
from edge_agent.adapters.releases import read_release, write_card
from edge_agent.core.errors import StorageFailed
from edge_agent.core.evidence import Evidence
from edge_agent.core.gate import GateSettings
from edge_agent.core.probing import known_share
from edge_agent.core.training import logits
from edge_agent.schemas.card import INT8, MODEL, Card, self_test_windows

BATCH: Final = 32
MOST_LOST: Final = 0.005  # of the retained classes' windows, in the mean


@dataclass(frozen=True)
class Int8Verdict:
    """What the int8 model answers, against the float32 model of the same weights; shares in [0, 1].

    Attributes:
        predicted_loss: measured windows whose answers the dreams' margins say are lost, mean over the classes.
        agreement: of the answers to dreams, mean over the classes.
        forget_share: of the forget windows that it answers with a forget class, nothing masked.
        classes: how many there were dreams of to judge it by.
    """

    predicted_loss: float
    agreement: float
    forget_share: float
    classes: int

    @property
    def complaint(self) -> str | None:
        """Why it must not serve; None if it may."""
        most = GateSettings().max_int8_share
        if self.forget_share > most:
            return f"in int8 its classes are answered for {self.forget_share:.1%} of their windows, limit {most:.1%}"
        if not self.classes:
            return "there is no dream of any class to judge the int8 model by"
        if self.predicted_loss > MOST_LOST:
            return f"in int8 {self.predicted_loss:.2%} of the answers would be lost, limit {MOST_LOST:.2%}"
        return None


def add(
    folder: Path,
    network: nn.Module,
    calibration: Tensor,
    evidence: Evidence,
    forget_windows: Tensor | None,
    threads: int,
) -> Int8Verdict:
    """Give the release in ``folder`` an int8 model, unless the verdict has a complaint; where it fails there is none.

    Args:
        network: what the release's float32 model was made of.
        calibration: dreams for ``quantise``, float32 (m, channels, length).
        evidence: for ``judge``.
        forget_windows: for ``judge``.

    Raises:
        BrokenRelease: ``E_PRECISION`` or ``E_MODEL``, no model can be made, or it does not run.
        OSError: it cannot be written.
    """
    release = read_release(folder)
    content = quantise(release.read(MODEL), calibration.numpy(), folder)
    model = OnnxModel(content, threads)
    verdict = judge(network, model, evidence, forget_windows)
    if verdict.complaint is None:
        card = release.card
        answers = model.logits(self_test_windows(card.channel_mean, card.channel_std, card.length)).tolist()
        changes = {"self_test_int8": answers, "files": {**card.files, INT8: hashlib.sha256(content).hexdigest()}}
        try:
            (folder / INT8).write_bytes(content)
            write_card(folder, Card.model_validate({**card.model_dump(), **changes}))
        except (OSError, StorageFailed):
            write_card(folder, card)  # the new one may be in place, and names what goes now
            (folder / INT8).unlink(missing_ok=True)
            raise
    return verdict


def judge(network: nn.Module, model: OnnxModel, evidence: Evidence, forget_windows: Tensor | None) -> Int8Verdict:
    """Hold an int8 model against the network that it was made of.

    Args:
        evidence: dreams that ``quantise`` has not seen.
        forget_windows: float32 (n, channels, length), of the classes that the network has been made to forget.
    """
    windows = evidence.dreams.windows
    rows = evidence.compare_answers(logits(network, windows), _answers(model, windows))
    share = 0.0
    if forget_windows is not None:
        share = known_share(_answers(model, forget_windows), evidence.forget)
    count = max(1, len(rows))
    lost, agreed = (sum(getattr(row, name) for row in rows) / count for name in ("predicted_loss", "agreement"))
    return Int8Verdict(lost, agreed, share, len(rows))


def _answers(model: OnnxModel, windows: Tensor) -> Tensor:
    return torch.cat([torch.from_numpy(model.logits(part.numpy())) for part in windows.split(BATCH)])
