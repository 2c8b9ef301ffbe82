"""Margins of measured windows, and the loss that they predict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.margins import FURTHER, LEVELS, ClassMargins, Falls, measure

OWN, OTHER, THIRD = range(3)


def spread(margin: float) -> tuple[float, ...]:
    return (margin,) * len(LEVELS)


def of_one_class(to_other: np.ndarray) -> ClassMargins:
    """Margins of windows of OWN, which lie so far from OTHER and out of reach of THIRD."""
    logits = np.stack([to_other, np.zeros_like(to_other), np.full_like(to_other, -1000.0)], axis=1)
    return measure(logits.astype(np.float32), np.zeros(len(to_other), np.int64), 3)[OWN]


def fallen(to_other: float, to_third: float = 0.0) -> Falls:
    """What dreams of OWN tell that fell so far, each to the other two."""
    before = np.array([[9.0, 0.0, 0.0]] * 4, np.float32)
    return Falls.of(before, before + np.array([0.0, to_other, to_third], np.float32), OWN)


def test_margins_are_the_own_logit_less_each_other_one_and_less_the_greatest() -> None:
    logits = np.array([[5.0, 2.0, 1.0], [1.0, 4.0, 3.0]], np.float32)
    expected = (
        ClassMargins(1.0, spread(3.0), ((), spread(3.0), spread(4.0))),
        ClassMargins(1.0, spread(1.0), (spread(3.0), (), spread(1.0))),
        ClassMargins(),
    )
    assert measure(logits, np.array([0, 1]), 3) == expected


def test_windows_that_are_answered_wrong_have_no_answer_to_lose() -> None:
    logits = np.array([[5.0, 2.0, 0.0], [1.0, 4.0, 0.0]], np.float32)
    own, other, _ = measure(logits, np.array([0, 0]), 3)
    assert own == ClassMargins(0.5, spread(3.0), ((), spread(3.0), spread(5.0)))
    assert own.loss_by_shift(fallen(100.0)) == own.loss_by_chance(fallen(100.0)) == 0.5
    assert other.loss_by_shift(fallen(100.0)) == other.loss_by_chance(fallen(100.0)) == 0.0


def test_a_fall_beyond_every_margin_loses_all_and_none_loses_nothing() -> None:
    of = of_one_class(np.arange(1.0, 16.0))
    assert of.predicted_loss(fallen(100.0)) == 1.0
    assert of.predicted_loss(fallen(0.5)) == 0.0
    assert of.predicted_loss(fallen(-3.0)) == 0.0


def test_a_loss_is_predicted_where_both_ways_of_telling_it_see_one() -> None:
    of = of_one_class(np.arange(1.0, 16.0))
    falls = fallen(3.0)
    both = of.loss_by_shift(falls), of.loss_by_chance(falls)
    assert 0.0 < both[1] < of.predicted_loss(falls) < both[0]
    assert of.predicted_loss(falls) ** 2 == pytest.approx(both[0] * both[1])


def test_windows_lose_their_answers_to_the_class_next_to_them_and_not_to_the_one_next_to_dreams() -> None:
    """Dreams that lie next to THIRD lost their margins to it; by the nearest margins alone that cost windows theirs."""
    of = of_one_class(np.full(50, 0.5))
    falls = fallen(0.0, to_third=9.0)
    assert (of.loss_by_shift(falls), of.loss_by_chance(falls), of.predicted_loss(falls)) == (0.0, 1.0, 0.0)


def test_a_loss_by_chance_is_counted_dream_by_dream() -> None:
    of = of_one_class(np.full(50, 0.5))
    before = np.array([[9.0, 0.0, 0.0]] * 4, np.float32)
    after = before.copy()
    after[:, OTHER] += np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    falls = Falls.of(before, after, OWN)
    assert of.loss_by_chance(falls) == 0.5
    assert of.loss_by_shift(falls) == 0.0  # in the mean they have not moved


def test_classes_that_are_masked_take_no_window() -> None:
    of = of_one_class(np.full(50, 0.5))
    before = np.array([[9.0, -np.inf, 0.0]] * 4, np.float32)
    assert Falls.of(before, before, OWN).apart.keys() == {THIRD}
    assert of.predicted_loss(Falls.of(before, before, OWN)) == 0.0


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.5))
def test_the_predicted_loss_is_about_the_share_that_a_fall_truly_turns(seed: int, fall: float) -> None:
    margins = np.random.default_rng(seed).gamma(2.0, 1.5, 400).astype(np.float32) - np.float32(0.5)
    truly = float(((margins > 0) & (margins < fall)).mean())
    of = of_one_class(margins)
    assert of.loss_by_shift(fallen(fall / FURTHER)) == pytest.approx(truly, abs=0.04)
    assert of.loss_by_chance(fallen(fall)) == pytest.approx(truly, abs=0.04)


def test_two_edits_in_a_row_are_charged_for_what_both_took() -> None:
    margins = np.random.default_rng(0).gamma(2.0, 1.5, 4000).astype(np.float32)
    of, falls = of_one_class(margins), fallen(0.4)
    for predicted, fall in ((ClassMargins.loss_by_shift, 0.4 * FURTHER), (ClassMargins.loss_by_chance, 0.4)):
        once, twice = predicted(of, falls), predicted(of.after(falls), falls)
        assert once + twice == pytest.approx(float((margins < 2 * fall).mean()), abs=0.03)
    assert of.after(falls).recall == pytest.approx(1.0 - of.predicted_loss(falls), abs=1e-3)


def test_an_edit_that_only_one_way_of_telling_sees_takes_no_window_but_all_room_for_the_next() -> None:
    """It passes; what it used up of the margins was dropped, so that the gate was blind to the edit after it."""
    of = of_one_class(np.full(50, 0.5))
    before = np.array([[9.0, 0.0, 0.0]] * 4, np.float32)
    shifted = Falls(np.zeros(4, np.float32), {OTHER: 9.0, THIRD: 0.0})
    by_chance = Falls(np.full(4, 9.0, np.float32), {OTHER: 0.0, THIRD: 0.0})
    for falls in (shifted, by_chance):
        assert of.predicted_loss(falls) == 0.0
        assert of.after(falls).recall == 1.0
    assert of.after(shifted).loss_by_shift(fallen(0.01)) == 1.0
    assert of.after(by_chance).loss_by_chance(fallen(0.01)) == 1.0
    assert of.after(Falls.of(before, before, OWN)) == of


def test_a_class_whose_margins_are_not_known_is_taken_for_lost() -> None:
    """A card whose rows were empty let every edit pass."""
    blind = ClassMargins(0.9, spread(0.5), ((), (), spread(1.0)))
    assert blind.loss_by_shift(fallen(0.0)) == 0.9


def test_margins_that_grew_are_not_counted() -> None:
    of = of_one_class(np.array([3.0]))
    assert of.after(fallen(-2.0)) == of
    assert ClassMargins().after(fallen(2.0)) == ClassMargins()


def test_nothing_is_kept_of_the_margins_to_a_class_that_does_not_stay() -> None:
    before = np.array([[9.0, -np.inf, 0.0]] * 4, np.float32)
    left = of_one_class(np.array([3.0])).after(Falls.of(before, before, OWN))
    assert left.against == ((), (), spread(1003.0))


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_a_greater_fall_never_predicts_a_smaller_loss(to_other: float, to_third: float) -> None:
    of = measure(np.array([[3.0, 0.0, 1.0], [9.0, 1.0, 8.0]], np.float32), np.array([0, 0]), 3)[OWN]
    less, more = (of.predicted_loss(fallen(to_other + further, to_third + further)) for further in (0.0, 1.0))
    assert 0.0 <= less <= more <= 1.0


def test_falls_that_are_no_numbers_predict_no_number() -> None:
    """A diverged edit; a loss of 0 would let it pass."""
    assert np.isnan(of_one_class(np.array([3.0])).predicted_loss(fallen(float("nan"))))
