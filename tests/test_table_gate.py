"""The page of the gate: which edits count, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gate_edits import judge_of_today
from benchmarks.runs import Row
from benchmarks.tables import gate
from edge_agent.core.gate import GateSettings
from tests.result_rows import (
    edit_row,
    text_of,
    write,
)


def test_the_gates_errors_are_shares_of_harmful_and_of_harmless_edits(tmp_path: Path) -> None:
    truths = (-5.1, -80.0, -5.0, -1.0, -0.9, 2.0)
    verdicts = (True, False, True, False, False, True)
    pairs = enumerate(zip(truths, verdicts, strict=True))
    checks = {"refused_by": "border_kept noisy_share"}
    edits = [
        edit_row("shipped", truth, accepted=verdict, forget=str(number)) | ({} if verdict else checks)
        for number, (truth, verdict) in pairs
    ]
    told = gate.edits(write(tmp_path, gate=edits))
    assert gate.errors(told) == (1, 2, 1, 2)
    text = text_of("gate", tmp_path)
    assert "(1 of 2 accepted): **not met**" in text
    assert "(1 of 2; others refused by border_kept 1, noisy_share 1): **not met**" in text
    assert "at least 200 edits (6): **not met**" in text


def test_an_edit_that_was_judged_again_counts_once(tmp_path: Path) -> None:
    edits = [edit_row("shipped", truth, accepted=True, run=f"{truth} {judge_of_today()}") for truth in (-9.0, 0.0)]
    assert gate.errors(gate.edits(write(tmp_path, gate=edits))) == (0, 0, 0, 1)


def test_an_edit_that_was_judged_under_other_limits_does_not_count(tmp_path: Path) -> None:
    limits = judge_of_today().replace(repr(GateSettings()), repr(GateSettings(min_agreement=0.1)))
    assert limits != judge_of_today()
    edits = [edit_row("shipped", 0.0, accepted=True), edit_row("published", -9.0, accepted=True, run=f"x {limits}")]
    assert len(gate.edits(write(tmp_path, gate=edits))) == 1


def test_rank_correlation_sees_order_alone_and_nothing_in_a_constant(tmp_path: Path) -> None:
    edits = [
        edit_row("shipped", -float(number**3), accepted=True, forget=str(number), agreement=1 / (1 + number))
        for number in range(5)
    ]
    told = gate.edits(write(tmp_path, gate=edits))
    assert gate.correlation(told, "agreement") == pytest.approx(1.0)
    assert gate.correlation(told, "border_kept") is None
    assert gate.correlation(told, "predicted_loss") is None


def test_another_limit_is_shown_by_what_it_would_have_accepted_and_refused(tmp_path: Path) -> None:
    def row(forget: str, truth: float, loss: float, *others: str) -> Row:
        checks = (*others, *(["predicted_loss"] if loss > GateSettings().max_predicted_loss else []))
        return edit_row(
            "shipped", truth, accepted=not checks, forget=forget, predicted_loss=loss, refused_by=" ".join(checks)
        )

    edits = [row("a", -9.0, 0.035), row("b", -9.0, 0.001, "agreement"), row("c", 0.0, 0.045), row("d", 0.0, 0.0)]
    write(tmp_path, gate=edits)
    lines = [line for line in text_of("gate", tmp_path).splitlines() if " % |" in line[:10] or "%** |" in line[:12]]
    shares = {
        line.split("|")[1].strip(): [cell.split("%")[0].strip() for cell in line.split("|")[2:4]] for line in lines
    }
    assert shares["0 %"] == ["0.0", "50.0"]
    assert shares["**3 %**"] == ["0.0", "50.0"]
    assert shares["4 %"] == ["50.0", "50.0"]
    assert shares["5 %"] == ["50.0", "0.0"]  # what another check refuses stays refused
