"""The harness: what methods are handed, what tuning tries, what plans ask for."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from benchmarks import every_class, plans, quick, runs, tuning
from benchmarks.methods import ABLATIONS, ALL, CONTROLS, METHODS
from benchmarks.runs import Run
from benchmarks.settings import SETTINGS
from benchmarks.task import Labelled, Task, carry_out, hand_over

torch.set_num_threads(1)

RETAIN_FREE = tuple(name for name, method in ALL.items() if method.needs != "retain")
TUNED = tuple(name for name, method in ALL.items() if method.search)


def task_of(name: str, forget_set: Labelled | None = None, retain_set: Labelled | None = None) -> Task:
    case = quick.case()
    sides = forget_set or case.forget_set, retain_set or case.retain_set
    return hand_over(ALL[name], case.original, case.forget, case.dreams, *sides, seed=0)


def unlearnt(name: str, task: Task) -> nn.Sequential:
    method = ALL[name]
    return carry_out(method, task, dataclasses.replace(method.settings, **dict(quick.short(method))))[0]


@cache
def usual(name: str) -> nn.Sequential:
    """The network after two steps, made with the sets that the method is handed."""
    return unlearnt(name, task_of(name))


def unusable(pairs: Labelled) -> Labelled:
    """The same labels, and windows with which nothing can be computed."""
    return Labelled(torch.full_like(pairs.windows, torch.nan), pairs.labels)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


# What methods are handed


@pytest.mark.parametrize("name", ALL)
def test_a_method_is_handed_the_sides_that_it_declared_and_nothing_else(name: str) -> None:
    task, case = task_of(name), quick.case()
    sides = {"none": (None, None), "forget": (case.forget_set, None), "retain": (case.forget_set, case.retain_set)}
    assert (task.forget_set, task.retain_set) == sides[ALL[name].needs]
    assert not torch.isin(task.dreams.first, torch.tensor(case.forget)).any()


@pytest.mark.parametrize("name", RETAIN_FREE)
def test_a_retain_free_method_does_the_same_whatever_the_retained_windows_are(name: str) -> None:
    case = quick.case()
    forget_set = unusable(case.forget_set) if ALL[name].needs == "none" else case.forget_set
    network = unlearnt(name, task_of(name, forget_set, unusable(case.retain_set)))
    assert weights(network).isfinite().all()
    assert weights(network).equal(weights(usual(name)))


@pytest.mark.parametrize("name", sorted(ALL.keys() - set(RETAIN_FREE)))
def test_a_method_that_declares_retained_windows_depends_on_them(name: str) -> None:
    network = unlearnt(name, task_of(name, retain_set=unusable(quick.case().retain_set)))
    assert not weights(network).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_method_returns_a_network_with_one_logit_for_each_class_and_leaves_the_original_alone(name: str) -> None:
    case = quick.case()
    before = weights(case.original)
    output = usual(name)(case.forget_set.windows)
    assert output.shape == (len(case.forget_set), len(quick.CLASSES))
    assert output.isfinite().all()
    assert weights(case.original).equal(before)


def test_the_ablations_are_no_rivals() -> None:
    assert not (METHODS | CONTROLS).keys() & ABLATIONS.keys()
    assert {name.startswith("ablation_") for name in ABLATIONS} == {True}
    assert {method.needs for method in ABLATIONS.values()} == {"forget"}
    assert not any(method.search for method in ABLATIONS.values())


# Tuning


@pytest.mark.parametrize("name", TUNED)
def test_tuning_tries_twelve_different_settings_of_which_the_default_is_the_first(name: str) -> None:
    default, trials = ALL[name].settings, tuning.trials(name)
    tried = [dataclasses.replace(default, **dict(changed)) for changed in trials]
    assert tried[0] == default
    assert len(set(tried)) == len(tried) == 12
    for changed in trials:
        assert all(value in ALL[name].search[setting] for setting, value in changed)


def test_trials_run_on_the_surrogate_alone_and_are_judged_on_validation_windows() -> None:
    for setting in ("cwru", "rig"):
        for run in tuning.tuning_runs(setting, "delete"):
            assert (run.forget, run.model_seed, run.part) == ((SETTINGS[setting].surrogate,), 9, "validation")


def test_settings_that_nobody_tuned_are_missed_with_the_command_that_tunes_them() -> None:
    with pytest.raises(LookupError, match=r"delete on cwru-noise.*python -m benchmarks\.tuning --data cwru-noise"):
        tuning.tuned("cwru-noise", "delete")  # cwru's settings serve there, so nobody ever will


@pytest.mark.parametrize("name", ["original", "head_surgery", "pte", *ABLATIONS])
def test_what_has_nothing_to_tune_needs_no_trials(name: str) -> None:
    assert tuning.tuned("cwru-noise", name) == ()


# Plans


def test_no_table_compares_methods_on_the_class_that_they_were_tuned_on() -> None:
    assert plans.CLASSES.keys() == SETTINGS.keys()
    for name, setting in SETTINGS.items():
        shown = {setting.paper_class, *(each for one in plans.TOGETHER.get(name, ()) for each in one)}
        shown |= set(plans.ABLATED) if name.startswith("cwru") else set()
        assert shown < set(plans.CLASSES[name])
        assert setting.surrogate not in shown


@pytest.mark.parametrize("setting", plans.TOGETHER)
def test_one_two_and_three_classes_are_forgotten_at_once(setting: str) -> None:
    sets = plans.TOGETHER[setting]
    assert [len(set(one)) for one in sets] == [len(one) for one in sets] == [1, 2, 2, 3, 3]


def test_plans_that_share_a_run_have_it_done_once_and_deep_if_any_wants_that() -> None:
    first, second = Run("cwru", ("IR007",), "pte"), Run("cwru", ("IR007",), "pte", seed=1)
    deep = dataclasses.replace(first, depth=True)
    assert plans.united([first, second, deep, first]) == [deep, second]
    assert plans.united([deep, first]) == [deep]


def test_an_ablation_runs_with_what_was_tuned_except_what_it_sets_itself() -> None:
    pairs = (("push_rate", 1e-4), ("pull_rate", 1e-3), ("tau", 2.0))
    assert plans.as_published("ablation_published_without_push", pairs) == pairs[1:]
    assert plans.as_published("ablation_published_eq_10", pairs) == pairs
    assert plans.as_published("ablation_shipped_without_push", pairs) == ()


def test_the_last_line_says_in_points_what_every_class_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = list(plans.every("rig", methods=("pte",)))
    assert not runs.missing(wanted)  # else the next line would train networks
    monkeypatch.setattr(sys, "argv", ["every_class", "--data", "rig", "--models", "3", "--json"])
    every_class.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = [row for row in runs.read() if row["run"] in {run.id for run in wanted}]
    assert (told["classes"], told["models"], len(rows)) == (7, 3, 21)
    assert told["acc_f_max"] == max(float(row["acc_f"]) for row in rows)
    assert told["acc_ft_max"] == max(float(row["acc_ft"]) for row in rows)
    assert told["retained_change_mean"] == pytest.approx(mean(rows, "retained_change"), abs=1e-3)
    assert told["retained_change_worst"] == min(float(row["retained_change"]) for row in rows)
    assert told["class_change_worst"] == min(float(row["class_change_worst"]) for row in rows)
    behind = mean(rows, "retrain_h_mean") - mean(rows, "h_mean")
    assert told["h_mean_gap_to_retrain"] == pytest.approx(behind, abs=1e-3)
    assert told["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in rows), abs=0.1)


def mean(rows: list[dict[str, str]], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)


def test_the_shipped_method_is_run_on_every_class_of_every_model() -> None:
    planned = list(plans.every("rig", (0, 2), ("pte",)))
    assert {(run.forget, run.model_seed) for run in planned} == {
        ((name,), seed) for name in plans.CLASSES["rig"] for seed in (0, 2)
    }


def test_the_list_names_every_plan() -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [*plans.PLANS, "f3", "f5"]
