"""How well does the gate know? Many edits, good and damaged: its evidence beside what test windows say.

    python -m benchmarks.gate_edits --data cwru cwru-noise rig dsads
    python -m benchmarks.gate_edits --data dsads --model 1 --kinds shipped
    python -m benchmarks.gate_edits --data dsads --model 9 --part validation

Every class is forgotten from one model by the shipped method and by variants of it that are known to harm, some a
little, some beyond use. One row per edit goes to ``results/gate.csv``: ``original`` (its digest), ``kind`` of edit,
``truth_worst_class`` and ``truth_retained`` (points of test accuracy against the original, the single retained class
that lost most and all together), the gate's ``predicted_loss``, ``agreement`` and ``border_kept`` at their worst class,
and whether it ``accepted``.

Limits are chosen by what a surrogate network (9) loses on validation windows: those rows go to
``results/gate_surrogate.csv``, with every class's predicted loss and true change, and stand in no table.

Edits take the time, some 35 s each on one thread. They are kept in ``.cache/benchmarks/edits``, so that other limits
judge the same ones again in minutes. Several processes may share the work: each claims an edit.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import case as cases
from benchmarks import models, runs
from benchmarks.case import Case
from benchmarks.machine import CACHE, facts
from benchmarks.measures.accuracy import class_changes
from benchmarks.measures.samples import answered, recall
from benchmarks.runs import RESULTS, Row
from benchmarks.settings import FORGET_WINDOWS, SETTINGS
from edge_agent.core import dreams, gate, pte
from edge_agent.core.edit_settings import PUBLISHED, EditSettings
from edge_agent.core.evidence import Evidence, prepare
from edge_agent.core.training import logits

FILES: Final = {"test": RESULTS / "gate.csv", "validation": RESULTS / "gate_surrogate.csv"}
EDIT_RECIPE: Final = 1  # to be raised when an edit changes its result: the kept ones are those of before
JUDGE_RECIPE: Final = 1  # to be raised when what the gate looks at changes
GENERATOR: Final = "generator"  # its state, beside the weights
_BRIEF: Final = EditSettings(consolidation_steps=40, max_steps=240)
KINDS: Final = {
    "shipped": EditSettings(),
    "no consolidation": EditSettings(consolidation_steps=0),
    "weak anchors": replace(_BRIEF, anchor_weight=1.0, anchor_tau=1.0),
    "no anchors": replace(_BRIEF, anchor_weight=0.0),
    "no anchors, fast": replace(_BRIEF, anchor_weight=0.0, push_rate=1e-3, pull_rate=1e-3),
    "published": PUBLISHED,
}


def judged(case: Case, kind: str, part: str = "test", seed: int = 0, folder: Path | None = None) -> Row:
    """One edit, which ``folder`` may keep, the gate's opinion of it, and the truth on one side of the data."""
    original, windows = case.original, case.forget_set.windows
    generator = torch.Generator().manual_seed(seed)
    anchors, evidence = prepare(case.dreams, original, case.forget, case.margins, generator)
    edited = _edited(case, kind, folder, anchors, evidence, generator)
    verdict = gate.judge(original, edited, windows, case.data.classes, evidence, gate.GateSettings(), generator)
    side = case.side(part, gone=False)
    before, after = (logits(network, side.windows) for network in (original, edited))
    changes = class_changes(before, after, side.labels, case.data.classes)
    right = [recall(answered(output), side.labels) for output in (before, after)]
    return {
        "original": runs.original_of(case),
        "truth_worst_class": min(changes.values()),
        "worst_class": min(changes, key=lambda name: changes[name]),
        "truth_retained": round(right[1] - right[0], 3),
        "predicted_loss": round(max(row.predicted_loss for row in verdict.classes), 6),
        "agreement": round(min(row.agreement for row in verdict.classes), 4),
        "border_kept": round(min(row.border_kept for row in verdict.classes), 4),
        "accepted": verdict.accepted,
        "refused_by": " ".join(reason.check for reason in verdict.reasons if not reason.passed),
        "predicted": json.dumps(
            {case.data.classes[row.label]: round(row.predicted_loss, 4) for row in verdict.classes}
        ),
        "truth": json.dumps(changes),
    }


def judge_of_today() -> str:
    """How the id of a row ends that today's gate has judged."""
    return f"judge {JUDGE_RECIPE} {gate.GateSettings()!r}"


def _edited(
    case: Case, kind: str, folder: Path | None, anchors: Tensor, evidence: Evidence, generator: torch.Generator
) -> nn.Sequential:
    """The edited network, found in the folder or made; either way the generator ends as the edit leaves it."""
    settings, seed = KINDS[kind], generator.initial_seed()
    made_of = models.digest(case.original), case.forget, FORGET_WINDOWS, repr(dreams.DEFAULT), models.DREAM_RECIPE
    about = *made_of, repr(settings), seed, EDIT_RECIPE
    path = folder and models.place(folder, case.setting.name, case.model_seed, *about)
    edited = copy.deepcopy(case.original)
    if path and path.exists():
        kept = load_file(path)
        generator.set_state(kept.pop(GENERATOR))
        edited.load_state_dict(kept)
        return edited
    pte.edit(edited, case.forget_set.windows, case.forget, settings, generator, anchors, evidence)
    if path:
        content = edited.state_dict() | {GENERATOR: generator.get_state()}
        models.save(path, lambda beside: save_file(content, beside))
    return edited


def main() -> None:
    """Edit and judge whatever the CSV does not hold yet."""
    models.same_kernels()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["cwru", "cwru-noise", "rig", "dsads"], choices=SETTINGS)
    parser.add_argument("--model", type=int, default=0)
    parser.add_argument("--part", default="test", choices=FILES, help="validation: for choosing limits")
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    started_s, path = time.monotonic(), FILES[options.part]
    for setting in options.data:
        for name in cases.dataset(setting).classes:
            for kind in options.kinds:
                with runs.claimed(f"{setting} {name} {kind} {options.model}", path, wait=False) as ours:
                    row = _judged_anew(setting, name, kind, options, path) if ours else None
                if row:
                    words = f"worst {row['truth_worst_class']:+.1f}, accepted {row['accepted']}"
                    title = f"{setting} {name} {kind}"
                    print(f"{time.monotonic() - started_s:6.0f} s  {title}: {words}", file=sys.stderr, flush=True)


def _judged_anew(setting: str, name: str, kind: str, options: argparse.Namespace, path: Path) -> Row | None:
    """The row of one edit, added to the file; None if it was there."""
    run = f"{setting} {name} {kind} {options.model} {KINDS[kind]!r} {judge_of_today()}"
    if run in {row["run"] for row in runs.read(path)}:
        return None
    about = {"run": run, "setting": setting, "model_seed": options.model, "forget": name, "kind": kind}
    case = cases.case(setting, options.model, (name,))
    row = about | judged(case, kind, options.part, folder=CACHE / "edits") | facts()
    runs.add(row, path)
    return row


if __name__ == "__main__":
    main()
