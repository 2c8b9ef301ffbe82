"""Edits that the gate is shown are made once, and judged as often as its limits change."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks import gate_edits, quick

KIND = "no anchors, fast"


def test_a_kept_edit_is_judged_as_it_was_when_it_was_made(tmp_path: Path) -> None:
    made = gate_edits.judged(quick.case(), KIND, folder=tmp_path)
    kept = next(tmp_path.iterdir())
    written_ns = kept.stat().st_mtime_ns
    assert gate_edits.judged(quick.case(), KIND, folder=tmp_path) == made
    assert kept.stat().st_mtime_ns == written_ns


def test_what_is_judged_is_the_kept_edit_and_not_another(tmp_path: Path) -> None:
    gate_edits.judged(quick.case(), KIND, folder=tmp_path)
    kept = next(tmp_path.iterdir())
    untouched = quick.case().original.state_dict()
    save_file({**load_file(kept), **untouched}, kept)  # an edit that changed nothing has cost nothing
    row = gate_edits.judged(quick.case(), KIND, folder=tmp_path)
    assert [row[name] for name in ("truth_worst_class", "agreement", "border_kept")] == [0.0, 1.0, 1.0]


def test_edits_of_two_kinds_are_kept_apart(tmp_path: Path) -> None:
    for kind in (KIND, "no consolidation"):
        gate_edits.judged(quick.case(), kind, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
