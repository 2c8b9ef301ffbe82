"""The child process of a forget command: edit, judge, export, prove parity.

``python -m edge_agent.unlearn_job FOLDER`` reads the job folder and nothing else (adapters/job_folder.py says what is
in it), and leaves ``result/`` and ``outcome.json`` there. It runs apart from the agent, so that torch's memory,
threads and crashes go away with it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_agent.adapters import checkpoints, heap
from edge_agent.adapters.job_folder import (
    RELEASE,
    RESULT,
    TRACE,
    WINDOWS,
    Job,
    Progress,
    Reports,
    read_job,
    read_windows,
    write_outcome,
)
from edge_agent.adapters.releases import Release, read_release, write_card
from edge_agent.core import gate, pte
from edge_agent.core.edit_settings import EditSettings
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, JobFailed, StorageFailed
from edge_agent.core.evidence import ClassEvidence, Evidence, prepare
from edge_agent.core.margins import ClassMargins
from edge_agent.core.training import logits
from edge_agent.files import sha256
from edge_agent.schemas.card import DREAMS, INT8, MODEL, WEIGHTS, Card, self_test_windows
from edge_agent.schemas.messages import Phase

REPORT_EVERY_S = 0.2
PARITY_WINDOWS = 64
CURVE_POINTS = 40  # of the edit's course that the status and the certificate show
# oneDNN keeps a kernel and its buffers for each of 1,024 shapes that it has met, and probing meets every batch size.
KERNELS_KEPT = "64"
OOM_SCORE = "500"  # when memory is short this process goes first, never the serving one
# Where each phase begins and ends, as a share of the whole job; probing and editing take most of the time.
SPANS: dict[Phase, tuple[float, float]] = {
    "probing": (0.02, 0.45),
    "editing": (0.45, 0.85),
    "gating": (0.85, 0.92),
    "exporting": (0.92, 1.0),
}


class Reporter:
    """Writes progress at most five times a second, and ends the process when the agent that started it has gone."""

    def __init__(self, folder: Path, parent: int | None) -> None:
        self._reports, self._parent, self._last_s = Reports(folder), parent, 0.0

    def say(self, phase: Phase, share: float, metrics: dict[str, Any] | None = None, *, always: bool = False) -> None:
        """Report that ``share`` of a phase is done."""
        if self._parent is not None and os.getppid() != self._parent:
            sys.exit(3)  # nobody would adopt the result, and the next agent starts the job again
        now_s = time.monotonic()
        if always or now_s >= self._last_s + REPORT_EVERY_S:
            start, end = SPANS[phase]
            self._reports.add(Progress(phase, round(start + (end - start) * share, 4), metrics or {}))
            self._last_s = now_s


def run(folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Do the job; returns the numbers that describe it.

    Raises:
        JobFailed: ``E_NOT_FORGOTTEN``, ``E_GATE`` or ``E_PARITY``.
        BrokenRelease: the release in the folder cannot be used.
    """
    started_s = time.monotonic()
    job = read_job(folder)
    parent = read_release(folder / RELEASE, without=frozenset({DREAMS}))
    # What was forgotten before stays masked: no probe may lead back to it, and the gate looks at it again.
    forget = parent.card.indices(tuple(dict.fromkeys((*job.classes, *job.masked, *parent.card.forgotten))))
    original = checkpoints.load_network(parent.read(WEIGHTS), parent.card)
    edited = checkpoints.load_network(parent.read(WEIGHTS), parent.card)
    generator = torch.Generator().manual_seed(job.seed)
    anchors, evidence = prepare(
        checkpoints.load_dreams(folder / DREAMS), original, forget, parent.card.margins, generator
    )
    windows = torch.cat([torch.from_numpy(part) for part in read_windows(folder).values()])

    outcome = _edit(edited, windows, anchors, evidence, generator, folder / TRACE, reporter)
    heap.give_back()
    reporter.say("gating", 0.0, {"steps": outcome.steps, "flip_rate": outcome.flip_rate}, always=True)
    verdict = gate.judge(original, edited, windows, parent.card.classes, evidence, gate.GateSettings(), generator)
    numbers = {
        "windows": len(windows),
        "windows_by_source": job.windows,
        "windows_sha256": sha256(folder / WINDOWS),
        "seed": job.seed,
        **_told(outcome, verdict, parent.card.classes),
        "edit_s": round(time.monotonic() - started_s, 3),
    }
    if not verdict.accepted:
        raise GateRefusal("E_GATE" if outcome.forgotten else "E_NOT_FORGOTTEN", verdict.refusal, numbers)

    reporter.say("exporting", 0.0, always=True)
    left = {parent.card.classes[row.label]: row.margins_left for row in verdict.classes}
    parity = _write_result(folder, parent, edited, job, left, windows[:PARITY_WINDOWS])
    if INT8 in parent.card.files:
        evidence = replace(evidence, margins=tuple(left.get(name, ClassMargins()) for name in parent.card.classes))
        numbers["int8"] = _smaller(folder / RESULT, edited, anchors, evidence, windows, job.threads)
    return {
        **numbers,
        "onnx_parity": parity,
        "child_s": round(time.monotonic() - started_s, 3),
        "child_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _edit(
    network: nn.Sequential,
    windows: Tensor,
    anchors: Tensor,
    evidence: Evidence,
    generator: torch.Generator,
    trace_path: Path,
    reporter: Reporter,
) -> pte.Edit:
    """Edit ``network`` in place, with a line in the trace for each step."""
    settings = EditSettings()
    reporter.say("probing", 0.0, {"windows": len(windows)}, always=True)
    with trace_path.open("w") as trace:

        def on_step(step: pte.Step) -> None:
            if step.number == 1:
                heap.give_back()  # what making the features took
            trace.write(json.dumps(asdict(step)) + "\n")
            numbers = {"step": step.number, "forget_share": step.forget_share, "holdout_share": step.holdout_share}
            reporter.say("editing", step.number / settings.max_steps, numbers)

        def on_probe(done: int, total: int) -> None:
            heap.give_back()  # else what each batch leaves between the others' tensors adds up
            reporter.say("probing", done / total, {"probed": done, "windows": total})

        return pte.edit(
            network, windows, evidence.forget, settings, generator,
            anchors=anchors, evidence=evidence,
            on_probe=on_probe, on_step=on_step,
        )  # fmt: skip


def _told(outcome: pte.Edit, verdict: gate.Verdict, classes: tuple[str, ...]) -> dict[str, Any]:
    """What the status and the certificate tell of an edit and of what the gate says of it."""
    return {
        "steps": outcome.steps,
        "chosen_step": outcome.chosen_step,
        "curve": curve(outcome.trace),
        "flip_rate": round(outcome.flip_rate, 4),
        "flipped_to": {classes[label]: count for label, count in outcome.flipped_to.items()},
        "gate": [asdict(reason) for reason in verdict.reasons],
        "gate_classes": {classes[row.label]: _shares(row) for row in verdict.classes},
        "settings": {**asdict(EditSettings()), **asdict(gate.GateSettings())},
    }


def _smaller(
    result: Path, edited: nn.Module, anchors: Tensor, evidence: Evidence, windows: Tensor, threads: int
) -> dict[str, Any]:
    """Give the result an int8 model, or say why it has none: for that no command to forget may fail."""
    from edge_agent import int8  # the quantiser takes 33 MiB and half a second

    try:
        smaller = int8.add(result, edited, anchors, evidence, windows, threads)
    except (BrokenRelease, StorageFailed, OSError, MemoryError) as error:
        return {"refused": str(error) or type(error).__name__}
    return {**asdict(smaller), "refused": smaller.complaint}


def curve(trace: tuple[pte.Step, ...]) -> list[list[float]]:
    """Step, and share of the windows, and of those held out, that still answer the class; about ``CURVE_POINTS``."""
    kept = sorted({*range(0, len(trace), max(1, len(trace) // CURVE_POINTS)), len(trace) - 1})
    steps = [trace[index] for index in kept]
    return [[step.number, round(step.forget_share, 4), round(step.holdout_share, 4)] for step in steps]


def _shares(row: ClassEvidence) -> dict[str, float]:
    """The shares of a retained class, for the status."""
    names = "agreement", "border_kept", "predicted_loss", "named_before", "named_after"
    return {name: round(getattr(row, name), 4) for name in names}


class GateRefusal(JobFailed):
    """The edit must not go live; ``numbers`` say what was measured."""

    def __init__(self, code: str, reason: str, numbers: dict[str, Any]) -> None:
        super().__init__(code, reason)
        self.numbers = numbers


def _write_result(
    folder: Path,
    parent: Release,
    edited: nn.Sequential,
    job: Job,
    margins: dict[str, ClassMargins],
    windows: torch.Tensor,
) -> float:
    """Write the edited release; of forgotten classes the card keeps no margins.

    Returns the largest difference of a logit between torch and ONNX Runtime.
    """
    from edge_agent.adapters import onnx_export  # 25 MiB that editing has no use for
    from edge_agent.adapters.onnx_session import OnnxModel

    result, card = folder / RESULT, parent.card
    result.mkdir()
    checkpoints.save_weights(edited, result / WEIGHTS)
    onnx_export.with_weights(parent.read(MODEL), edited, result / MODEL)
    (folder / DREAMS).rename(result / DREAMS)
    answers = OnnxModel((result / MODEL).read_bytes(), job.threads).logits(windows.numpy())
    parity = onnx_export.check_parity(edited, windows, answers)
    test_windows = self_test_windows(card.channel_mean, card.channel_std, card.length)
    expected = logits(edited, torch.from_numpy(test_windows)).tolist()
    changes = {
        "forgotten": tuple(sorted({*card.forgotten, *job.classes})),
        "parent": parent.digest,
        "self_test": tuple(map(tuple, expected)),
        "self_test_int8": (),
        "files": {name: sha256(result / name) for name in (MODEL, WEIGHTS, DREAMS)},
        "margins": tuple(margins.get(name, ClassMargins()) for name in card.classes),
        "metrics": {},  # the parent's were measured on data that the gateway does not have
        "versions": {**card.versions, "torch": torch.__version__},
    }
    write_card(result, Card.model_validate({**card.model_dump(), **changes}))
    return parity


def _code_may_be_made() -> bool:
    """Whether memory may be writable and executable at once, which oneDNN's just-in-time kernels need.

    systemd's MemoryDenyWriteExecute and SELinux forbid it; torch's own kernels do without, and take some four times as
    long (decision 0018).
    """
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run a job folder; exit code 0 if there is a result, 1 if it was refused or failed."""
    parser = argparse.ArgumentParser(prog="python -m edge_agent.unlearn_job", description=__doc__)
    parser.add_argument("folder", type=Path, help="the job folder")
    parser.add_argument("--parent", type=int, help="stop when this process is no longer the parent")
    options = parser.parse_args(arguments)
    job = read_job(options.folder)
    with suppress(OSError):  # no such file outside Linux
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS_KEPT)
    torch.set_num_threads(job.threads)
    if not _code_may_be_made():
        torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        numbers = run(options.folder, Reporter(options.folder, options.parent))
    except EdgeAgentError as error:
        metrics = error.numbers if isinstance(error, GateRefusal) else {}
        write_outcome(options.folder, {"code": error.code, "reason": error.reason, "metrics": metrics})
        return 1
    write_outcome(options.folder, {"code": None, "reason": None, "metrics": numbers})
    return 0


if __name__ == "__main__":
    sys.exit(main())
