"""Margins of measured windows, and the loss that they predict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_agent.core.margins import LEVELS, ClassMargins, measure


def test_the_margin_is_the_own_logit_less_the_greatest_other_one() -> None:
    logits = np.array([[5.0, 2.0, 1.0], [1.0, 4.0, 3.0]], np.float32)
    expected = (ClassMargins(1.0, (3.0,) * len(LEVELS)), ClassMargins(1.0, (1.0,) * len(LEVELS)), ClassMargins())
    assert measure(logits, np.array([0, 1]), 3) == expected


def test_windows_that_are_answered_wrong_have_no_answer_to_lose() -> None:
    logits = np.array([[5.0, 2.0], [1.0, 4.0]], np.float32)
    (own, other) = measure(logits, np.array([0, 0]), 2)
    assert own == ClassMargins(0.5, (3.0,) * len(LEVELS))
    assert own.predicted_loss(np.array([100.0], np.float32)) == 0.5
    assert other.predicted_loss(np.array([100.0], np.float32)) == 0.0


def test_a_shift_beyond_every_margin_loses_all_and_none_loses_nothing() -> None:
    of = ClassMargins(1.0, tuple(float(step) for step in range(1, len(LEVELS) + 1)))
    assert of.predicted_loss(np.array([100.0], np.float32)) == 1.0
    assert of.predicted_loss(np.array([0.5, -3.0], np.float32)) == 0.0
    assert of.predicted_loss(np.array([100.0, 0.5], np.float32)) == 0.5


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.5))
def test_the_predicted_loss_is_about_the_share_that_a_shift_truly_turns(seed: int, shift: float) -> None:
    margins = np.random.default_rng(seed).gamma(2.0, 1.5, 400).astype(np.float32) - np.float32(0.5)
    logits = np.stack([margins, np.zeros_like(margins)], axis=1)
    of = measure(logits, np.zeros(400, np.int64), 2)[0]
    truly = float(((margins > 0) & (margins < shift)).mean())
    assert of.predicted_loss(np.array([shift], np.float32)) == pytest.approx(truly, abs=0.04)


def test_two_edits_in_a_row_are_charged_for_what_both_took() -> None:
    margins = np.random.default_rng(0).gamma(2.0, 1.5, 4000).astype(np.float32)
    of = measure(np.stack([margins, np.zeros_like(margins)], axis=1), np.zeros(4000, np.int64), 2)[0]
    fall = np.array([0.4], np.float32)
    once, twice = of.predicted_loss(fall), of.after(fall).predicted_loss(fall)
    assert once + twice == pytest.approx(float((margins < 0.8).mean()), abs=0.02)
    assert of.after(fall).recall == pytest.approx(1.0 - once, abs=1e-3)


def test_margins_that_grew_are_not_counted() -> None:
    of = measure(np.array([[3.0, 0.0]], np.float32), np.array([0]), 2)[0]
    assert of.after(np.array([-2.0], np.float32)) == of
    assert ClassMargins().after(np.array([2.0], np.float32)) == ClassMargins()


@given(arrays.arrays(np.float32, st.integers(1, 30), elements=st.floats(-50, 50, width=32)))
def test_a_greater_shift_never_predicts_a_smaller_loss(shifts: np.ndarray) -> None:
    of = measure(np.array([[3.0, 0.0], [9.0, 1.0]], np.float32), np.array([0, 0]), 2)[0]
    assert 0.0 <= of.predicted_loss(shifts) <= of.predicted_loss(shifts + np.float32(1.0)) <= 1.0
