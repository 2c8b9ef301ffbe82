"""Probing then Editing, as published and as this package ships it (Chen et al., arXiv 2511.09414).

Both are ``edge_agent.core.pte.edit``, the code that runs on the gateway. In short, with f0 the original and C_f the
forget classes:

    probing  x_p = x moved by sign ascent of CE(f0(x), y) in a ball, to the first point where f0 answers y_p not in C_f
    push     CE(f(x_p), y_p)
    pull     KL(softmax(f0(x) / tau without C_f) || softmax(f(x) / tau)), all per mini-batch, push and pull in turn

The shipped form trains the last stage only, averages the pull's target over moved copies of x, adds to the pull the
divergence from f0 on dreams (anchors), and goes on for some steps once the class is gone (consolidation). Every choice
that the paper leaves open, and where the defaults come from, stands in docs/decisions/0003-the-edit.md.

- ``pte_published``: ``PUBLISHED``, all weights, no dreams: our reading of algorithm 1, not its letter. Probes climb by
  sign in a ladder of balls and stop where f0 first flips (there: its gradient, one ball, T steps); a window that never
  flips stays as it is and is pushed to f0's runner-up (there: left out); a tenth of D_f only watches; and the run ends
  when no window of D_f is answered, with the last such state (there: E epochs). Table T4 undoes what can be undone.
  The paper's supplement with its rates is not public, so they are tuned as every rival's.
- ``pte``: the defaults of ``EditSettings`` with anchors and evidence as a forget command prepares them. Nothing is
  searched: what ships has one setting for every class and data set.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from benchmarks.task import Method, Task
from edge_agent.core import pte
from edge_agent.core.edit_settings import PUBLISHED, EditSettings
from edge_agent.core.evidence import Evidence, prepare
from edge_agent.core.margins import ClassMargins


def published(task: Task, settings: EditSettings) -> nn.Sequential:
    """Edit without dreams, in place."""
    return _edited(task, settings)


def shipped(task: Task, settings: EditSettings) -> nn.Sequential:
    """Edit as a forget command does, in place: some dreams anchor, the others judge, each side with noisy copies."""
    no_margins = (ClassMargins(),) * task.classes  # they tell a gate what was lost, and have no part in the edit
    anchors, evidence = prepare(task.dreams, task.network, task.forget, no_margins, task.generator)
    return _edited(task, settings, anchors, evidence)


def _edited(
    task: Task, settings: EditSettings, anchors: Tensor | None = None, evidence: Evidence | None = None
) -> nn.Sequential:
    windows = task.forget_windows.windows
    steps_per_epoch = -(-len(windows) // settings.batch)

    def on_step(step: pte.Step) -> None:
        if step.number % steps_per_epoch == 0:
            task.on_epoch(task.network)

    pte.edit(
        task.network, windows, task.forget, settings, task.generator,
        anchors=anchors, evidence=evidence, on_step=on_step,
    )  # fmt: skip
    return task.network


_SEARCH: Final = {
    "push_rate": (3e-5, 1e-4, 3e-4, 1e-3),
    "pull_rate": (3e-5, 1e-4, 3e-4, 1e-3),
    "consolidation_steps": (0, 40, 120),
    "tau": (1.0, 2.0, 4.0),
}
METHOD: Final = Method("pte_published", "PTE, published", "forget", PUBLISHED, _SEARCH, published)
SHIPPED: Final = Method("pte", "PTE, shipped", "forget", EditSettings(), {}, shipped)
