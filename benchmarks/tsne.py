"""Where test windows lie in the penultimate features, in two dimensions, for figure F5.

    python -m benchmarks.tsne

t-SNE (van der Maaten and Hinton 2008) as scikit-learn has it, with its defaults and a fixed seed, for each network by
itself: distances between the pictures mean nothing. At most 60 windows of each class of CWRU; the paper's class is
forgotten, methods are tuned as in the tables. Rows go to ``results/tsne.csv``: run, method, x, y, label (the window's
class) and class (what the network answers), both by name, model_seed, seed and original (its digest). Needs
scikit-learn (the extra ``bench``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import torch
from sklearn.manifold import TSNE

from benchmarks import models, runs
from benchmarks.case import Case
from benchmarks.machine import facts
from benchmarks.measures.samples import evenly, together
from benchmarks.plans import f5
from benchmarks.runs import RESULTS, Run
from edge_agent.core.training import logits

TSNE_ROWS: Final = RESULTS / "tsne.csv"
WINDOWS: Final = 60  # of each class
SEED: Final = 0


def embed(run: Run, case: Case) -> list[dict[str, Any]]:
    """A row for each window of one network."""
    network, _cost = runs.network_of(run, case)
    chosen = evenly(together(case.side("test", gone=False), case.side("test", gone=True)), WINDOWS)
    features = logits(network[:-1], chosen.windows)
    points = TSNE(random_state=SEED).fit_transform(features.numpy())
    answers = network[-1](features).argmax(1)
    names = case.data.classes
    told = {"model_seed": run.model_seed, "seed": run.seed, "original": runs.original_of(case)}
    return [
        told
        | {
            "method": run.method,
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            "label": names[label],
            "class": names[answer],
        }
        for (x, y), label, answer in zip(points, chosen.labels.tolist(), answers.tolist(), strict=True)
    ]


def draw_anew(wanted: Iterable[Run], path: Path = TSNE_ROWS, case_of: Callable[[Run], Case] = runs.case_of) -> None:
    """Embed them all, and write the file as a whole."""
    torch.set_num_threads(1)
    told = facts()
    rows = [row | told for run in wanted for row in embed(run, case_of(run))]
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write(path, rows[0], rows)


def main() -> None:
    """Embed the networks of the figure."""
    models.same_kernels()
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # fmt: skip
    draw_anew(f5())


if __name__ == "__main__":
    main()
