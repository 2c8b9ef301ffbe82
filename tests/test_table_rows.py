"""What tables say of many rows: intervals, ranks, and which rows are compared at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tables import harm
from benchmarks.tables.rows import (
    duels,
    estimate,
    mean_ranks,
    of_paper_class,
    original,
    share_interval,
    shared,
    sign_test,
    student,
    where,
)
from tests.result_rows import read_back, run_row

FIGURES = st.floats(0, 100, allow_nan=False)


@given(st.lists(FIGURES, min_size=2, max_size=9), st.floats(-50, 50))
def test_an_interval_moves_with_its_values_and_keeps_its_width(values: list[float], shift: float) -> None:
    one, other = student(values), student([value + shift for value in values])
    assert min(values) - 1e-9 <= one.mean <= max(values) + 1e-9
    assert one.margin is not None
    assert one.margin >= 0
    assert other.mean == pytest.approx(one.mean + shift, abs=1e-6)
    assert other.margin == pytest.approx(one.margin, abs=1e-6)


def test_the_interval_of_three_originals_holds_the_true_mean_in_95_of_100_samples() -> None:
    samples = np.random.default_rng(0).normal(5.0, 2.0, (4000, 3))
    hits = [abs(one.mean - 5.0) <= (one.margin or 0) for one in map(student, samples.tolist())]
    assert 0.94 < np.mean(hits) < 0.96


def test_seeds_and_classes_of_one_original_do_not_narrow_the_interval(tmp_path: Path) -> None:
    told = [run_row("pte", model=model, acc_rt=90.0 + model) for model in (0, 1, 2)]
    more = [run_row("pte", model=model, seed=1, acc_rt=90.0 + model) for model in (0, 1, 2)]
    one, other = estimate(read_back(tmp_path, *told), "acc_rt"), estimate(read_back(tmp_path, *told, *more), "acc_rt")
    assert one == other
    assert estimate(read_back(tmp_path, told[0], more[0]), "acc_rt").margin is None


def test_the_interval_of_a_share_holds_it_and_is_open_to_more_where_nothing_was_seen() -> None:
    assert share_interval(0, 40)[0] == 0.0
    assert 0.05 < share_interval(0, 40)[1] < 0.12
    least, most = share_interval(5, 10)
    assert least < 0.5 < most


def test_equal_h_means_share_the_mean_of_their_ranks(tmp_path: Path) -> None:
    h_means = {"pte": 98.0, "delete": 98.0, "imp": 90.0, "delete_all": 99.0}
    told = read_back(tmp_path, *(run_row(method, h_mean=value) for method, value in h_means.items()))
    assert mean_ranks(told) == ({"delete_all": 1.0, "delete": 2.5, "pte": 2.5, "imp": 4.0}, 1)


def test_two_methods_are_held_against_each_other_case_by_case(tmp_path: Path) -> None:
    figures = {"IR007": (9.0, 8.0), "B007": (9.0, 9.0), "Normal": (7.0, 8.0), "IR014": (9.0, 1.0)}
    about = [
        run_row(method, forget=forget, h_mean=value)
        for forget, pair in figures.items()
        for method, value in zip(("pte", "delete_all"), pair, strict=True)
    ]
    told = read_back(tmp_path, *about, run_row("pte", forget="B014"))
    assert duels(told, "pte", "delete_all") == (2, 1, 1)
    assert sign_test(0, 0) == 1.0
    assert sign_test(9, 0) == pytest.approx(2 / 2**9)


def test_ranks_are_over_cases_that_all_methods_have(tmp_path: Path) -> None:
    alone = [run_row("imp", model=model, h_mean=99.0) for model in (1, 2)]
    told = read_back(tmp_path, run_row("imp", h_mean=1.0), run_row("pte", h_mean=2.0), *alone)
    assert mean_ranks(told) == ({"imp": 2.0, "pte": 1.0}, 1)
    assert mean_ranks([]) == ({}, 0)


def test_a_page_about_one_class_is_about_one_network_of_each_seed(tmp_path: Path) -> None:
    """A row about a second network of a seed counted as one more original, which narrowed the interval."""
    told = [run_row("pte", model=model, original="ab") for model in (0, 1)]
    told += [run_row("imp", model=0, original="ab"), run_row("delete", model=0, original="cd")]
    one = of_paper_class(read_back(tmp_path, *told), "cwru")
    assert {(row["method"], *original(row)) for row in one} == {
        ("pte", "0", "ab"),
        ("pte", "1", "ab"),
        ("imp", "0", "ab"),
    }


def test_only_what_is_about_the_same_original_network_is_compared(tmp_path: Path) -> None:
    """Networks of one seed differed from machine to machine, and a rival was held against an edit of another one."""
    rival = [run_row("imp", model=model, h_mean=99.0, original=name) for model, name in ((0, "ab"), (1, "cd"))]
    ours = [run_row("pte", model=model, h_mean=98.0, original="ab") for model in (0, 1)]
    retrain = run_row("retrain", model=0, changes={"B007": -3.0}, original="ef")
    told = read_back(tmp_path, *rival, *ours, retrain)
    assert [row["model_seed"] for row in shared(told, ("imp", "pte"))] == ["0", "0"]
    assert mean_ranks(where(told, method=("imp", "pte"))) == ({"imp": 1.0, "pte": 2.0}, 1)
    assert harm.class_changes_to_retrain(told[0], harm.retrained_of(told)) == {}
