"""The gate's measures of harm one by one, from answers made by hand: which check fails, for which class, and where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edge_agent.core.dreams import Dreams
from edge_agent.core.evidence import Evidence
from edge_agent.core.gate import GateSettings, Reason, _of_evidence
from edge_agent.core.margins import LEVELS, ClassMargins, Margins

NAMES = ("a", "b", "c", "gone")
A, B, C, GONE = range(4)
MARGIN = 300.0  # of every inner dream, before
EACH = 10  # inner dreams of a class
FIRST = torch.tensor([A] * EACH + [B] * EACH + [C] * EACH + [A, B, C])
SECOND = torch.tensor([-1] * 3 * EACH + [B, C, A])


def margins_from(start: float, recall: float = 0.8) -> ClassMargins:
    return ClassMargins(recall, tuple(np.linspace(start, start + 14, len(LEVELS)).tolist()))


# Of another size for each class, so that one cannot pass for another.
MARGINS: Margins = (margins_from(1.0), margins_from(101.0), margins_from(201.0), ClassMargins())


def answers() -> Tensor:
    """Logits (m, 4) on the dreams: sure of the inner ones, undecided on those at a border."""
    output = torch.zeros(len(FIRST), len(NAMES))
    output[torch.arange(3 * EACH), FIRST[: 3 * EACH]] = MARGIN
    for row in range(3 * EACH, len(FIRST)):
        output[row] = -50.0
        output[row, [FIRST[row], SECOND[row]]] = 0.0
    output[:, GONE] = 400.0  # masked, and so of no account
    return output


def inner(label: int) -> Tensor:
    return torch.arange(label * EACH, (label + 1) * EACH)


def judged(after: Tensor, margins: Margins = MARGINS, settings: GateSettings | None = None) -> dict[str, Reason]:
    dreams = Dreams(torch.zeros(len(FIRST), 1, 1), FIRST, SECOND, SECOND < 0)
    rows = Evidence(dreams, (GONE,), margins).compare_answers(answers(), after)
    return {one.check: one for one in _of_evidence(rows, NAMES, settings or GateSettings())}


def failed(reasons: dict[str, Reason]) -> list[str]:
    return [check for check, one in reasons.items() if not one.passed]


def fallen(label: int, fall: float) -> Tensor:
    after = answers()
    after[inner(label), label] -= fall
    return after


def test_answers_that_did_not_change_pass_every_check() -> None:
    reasons = judged(answers())
    assert failed(reasons) == []
    assert [one.value for one in reasons.values()] == [0.0, 1.0, pytest.approx(1.0)]


@pytest.mark.parametrize("label", [A, B, C])
def test_margins_that_fall_fail_the_predicted_loss_alone_by_the_classs_own_margins(label: int) -> None:
    fall = MARGINS[label].quantiles[5]  # where 5 % of its windows lie
    reasons = judged(fallen(label, fall))
    assert failed(reasons) == ["predicted_loss"]
    assert reasons["predicted_loss"].value == pytest.approx(0.8 * LEVELS[5], abs=1e-4)
    assert reasons["predicted_loss"].words.startswith(f"{NAMES[label]}: 4.0% of its windows")
    assert reasons["predicted_loss"].limit == 0.03


@pytest.mark.parametrize("label", [A, B, C])
def test_margins_that_grow_cost_nothing(label: int) -> None:
    assert judged(fallen(label, -100.0))["predicted_loss"].value == 0.0


@pytest.mark.parametrize("label", [A, B, C])
def test_dreams_that_are_answered_otherwise_fail_the_agreement_alone(label: int) -> None:
    after = answers()
    flipped = inner(label)[: EACH // 2]
    after[flipped, label] = -MARGIN
    unknown = tuple(replace(own, quantiles=()) if at == label else own for at, own in enumerate(MARGINS))
    reasons = judged(after, unknown)
    assert failed(reasons) == ["agreement"]
    assert reasons["agreement"].value == pytest.approx(0.5)
    assert reasons["agreement"].words.startswith(f"{NAMES[label]}: 50.0% of its dreams")


@pytest.mark.parametrize("label", [A, B, C])
def test_probability_that_a_border_takes_fails_the_border_alone(label: int) -> None:
    after = answers()
    edge = (SECOND >= 0) & ((label == FIRST) | (label == SECOND))
    after[edge, label] = float(np.log(1 / 9))  # from a half to a tenth of the two
    reasons = judged(after)
    assert failed(reasons) == ["border_kept"]
    assert reasons["border_kept"].value == pytest.approx(0.2, abs=1e-4)
    assert reasons["border_kept"].words.startswith(f"{NAMES[label]}: 20.0% of its probability")


def test_each_limit_is_the_last_value_that_passes() -> None:
    after = fallen(B, MARGINS[B].quantiles[5])
    after[inner(C)[:2], C] = -MARGIN
    after[-3, A] = float(np.log(1 / 9))
    found = judged(after)
    names = {"predicted_loss": "max_predicted_loss", "agreement": "min_agreement", "border_kept": "min_border_kept"}
    for check, name in names.items():
        value, worse = found[check].value, 1e-6 if check == "predicted_loss" else -1e-6
        assert judged(after, settings=replace(GateSettings(), **{name: value}))[check].passed
        assert not judged(after, settings=replace(GateSettings(), **{name: value - worse}))[check].passed


@given(st.sampled_from([A, B, C]), st.floats(0, 320), st.floats(0, 320))
def test_a_greater_fall_never_costs_less(label: int, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert judged(fallen(label, less))["predicted_loss"].value <= judged(fallen(label, more))["predicted_loss"].value
    assert judged(fallen(label, less))["agreement"].value >= judged(fallen(label, more))["agreement"].value


def test_margins_that_are_left_are_those_of_each_class_less_its_own_fall() -> None:
    dreams = Dreams(torch.zeros(len(FIRST), 1, 1), FIRST, SECOND, SECOND < 0)
    rows = Evidence(dreams, (GONE,), MARGINS).compare_answers(answers(), fallen(B, 3.0))
    assert [row.label for row in rows] == [A, B, C]
    for row in rows:
        own, fall = MARGINS[row.label], 3.0 if row.label == B else 0.0
        assert row.margins_left.quantiles == pytest.approx([value - fall for value in own.quantiles], abs=1e-3)
