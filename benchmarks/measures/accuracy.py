"""Accuracies before and after, as every table reads them; percent and points, each with how many windows."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.case import Case
from benchmarks.measures.samples import answered, known, recall
from benchmarks.task import Labelled
from edge_agent.core.metrics import h_mean, membership_attack
from edge_agent.core.training import logits


def measure(case: Case, network: nn.Sequential, part: str = "test") -> dict[str, Any]:
    """Everything that one run's row says about accuracy.

    Keys: ``acc_f``, ``acc_r`` (training windows), ``acc_ft``, ``acc_rt`` (windows of ``part``), ``h_mean``;
    ``retained_change`` and ``class_change_worst`` (points of ``acc_rt`` against the original, all retained windows and
    the single class that lost most), ``class_changes`` (all of them, JSON); ``mia`` (share of forget windows that the
    confidence attack calls members); ``n_f``, ``n_r``, ``n_ft``, ``n_rt``; ``original_*`` the same of f0.
    """
    sets = {
        "f": case.forget_set,
        "r": case.retain_set,
        "ft": case.side(part, gone=True),
        "rt": case.side(part, gone=False),
    }
    after = {name: logits(network, pairs.windows) for name, pairs in sets.items()}
    before = _before(case, part)
    row: dict[str, Any] = {f"acc_{name}": known(after[name], sets[name].labels) for name in ("f", "ft")}
    row |= {f"acc_{name}": recall(answered(after[name]), sets[name].labels) for name in ("r", "rt")}
    row |= {f"original_acc_{name}": recall(answered(output), sets[name].labels) for name, output in before.items()}
    row |= {f"n_{name}": len(pairs) for name, pairs in sets.items()}
    row["h_mean"] = h_mean(row["acc_rt"], row["original_acc_ft"], row["acc_ft"])
    changes = class_changes(before["rt"], after["rt"], sets["rt"].labels, case.data.classes)
    row["retained_change"] = row["acc_rt"] - row["original_acc_rt"]
    row["class_change_worst"] = min(changes.values())
    row["worst_class"] = min(changes, key=lambda name: changes[name])
    row["class_changes"] = json.dumps(changes)
    row["mia"] = membership_attack(
        *(_confidence(after[name], sets[name]).numpy() for name in ("r", "rt", "f")),
    )
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


@lru_cache(maxsize=2)  # a case has dozens of runs, and they follow each other
def _before(case: Case, part: str) -> dict[str, Tensor]:
    sides = {"ft": case.side(part, gone=True), "rt": case.side(part, gone=False)}
    return {name: logits(case.original, pairs.windows) for name, pairs in sides.items()}


def class_changes(before: Tensor, after: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Points of accuracy that each class in ``labels`` gained, from logits (n, K) before and after."""
    gained = (answered(after) == labels).float() - (answered(before) == labels).float()
    present = sorted(set(labels.tolist()))
    return {classes[label]: round(100.0 * gained[labels == label].mean().item(), 3) for label in present}


def _confidence(output: Tensor, pairs: Labelled) -> Tensor:
    """Probability of the true class, (n,); 1 where training ran away, so that it does not pass for forgetting."""
    return functional.softmax(output, 1).gather(1, pairs.labels.unsqueeze(1)).squeeze(1).nan_to_num(nan=1.0)
