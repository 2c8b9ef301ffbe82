"""The harness: what methods are handed, which runs are done and found again, what tuning tries, what plans ask for."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import models, plans, quick, runs, tuning
from benchmarks.case import Case
from benchmarks.machine import ROOT
from benchmarks.methods import ABLATIONS, ALL, METHODS
from benchmarks.runs import Run
from benchmarks.settings import SETTINGS
from benchmarks.task import Labelled, Task, carry_out, hand_over

torch.set_num_threads(1)

RETAIN_FREE = tuple(name for name, method in ALL.items() if method.needs != "retain")
TUNED = tuple(name for name, method in METHODS.items() if method.search)
DELETE = quick.run_of("delete_all")


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


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
    assert not METHODS.keys() & ABLATIONS.keys()
    assert {name.startswith("ablation_") for name in ABLATIONS} == {True}
    assert {method.needs for method in ABLATIONS.values()} == {"forget"}
    assert not any(method.search for method in ABLATIONS.values())


# Runs and their CSV


def test_a_run_that_the_csv_holds_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs.carry_on([DELETE, DELETE], path, quick.case_of)
    written = path.read_bytes()
    runs.carry_on([DELETE], path, quick.case_of)
    assert path.read_bytes() == written
    (row,) = runs.read(path)
    assert (row["run"], row["method"], row["setting"]) == (DELETE.id, "delete_all", "quick")
    assert row["commit"]


def test_an_interrupted_plan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    wanted = [quick.run_of(name) for name in ("head_surgery", "delete_all", "finetune")]

    def interrupted(run: Run) -> Case:
        if run == wanted[1]:
            raise KeyboardInterrupt
        return quick.case_of(run)

    with pytest.raises(KeyboardInterrupt):
        runs.carry_on(wanted, path, interrupted)
    written = path.read_bytes()
    assert [row["run"] for row in runs.read(path)] == [wanted[0].id]
    runs.carry_on(wanted, path, quick.case_of)
    assert path.read_bytes().startswith(written)
    assert [row["run"] for row in rows_of(path)] == [run.id for run in wanted]


CLAIMING = """
import sys
from pathlib import Path
from benchmarks import runs

with runs.claimed(sys.argv[1], Path(sys.argv[2]), wait=False) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


def test_a_case_is_worked_on_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Two processes that shared a plan once trained the same networks side by side, and gained nothing."""
    path = tmp_path / "runs.csv"
    command = [sys.executable, "-c", CLAIMING, "cwru IR007 0", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with runs.claimed("cwru IR007 0", path, wait=False) as ours:
            assert not ours
        with runs.claimed("cwru IR014 0", path, wait=False) as ours:
            assert ours
        other.kill()
    with runs.claimed("cwru IR007 0", path, wait=True) as ours:
        assert ours


def test_a_run_is_done_again_only_if_its_depth_is_asked_for_and_missing(tmp_path: Path) -> None:
    path, deep = tmp_path / "runs.csv", dataclasses.replace(DELETE, depth=True)
    runs.carry_on([DELETE], path, quick.case_of)
    assert runs.missing([deep], path) == [deep]
    runs.carry_on([deep], path, quick.case_of)
    (row,) = runs.read(path)
    assert float(row["linear_probe"]) >= 0.0
    assert not runs.missing([deep, DELETE], path)


def test_two_processes_that_write_at_once_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    code = (
        "import sys; from pathlib import Path; from benchmarks.runs import add; path, name = sys.argv[1:]\n"
        "for number in range(60): add({'run': f'{name}{number}', f'only_{name}': number}, Path(path))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    rows = {row["run"]: row for row in rows_of(path)}
    assert len(rows_of(path)) == len(rows) == 120
    for name, other in ("ab", "ba"):
        assert [rows[f"{name}{number}"][f"only_{name}"] for number in range(60)] == [str(n) for n in range(60)]
        assert {rows[f"{name}{number}"][f"only_{other}"] for number in range(60)} == {""}


def test_new_columns_keep_the_rows_that_lack_them(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs.add({"run": "1", "gap": 0.5}, path)
    runs.add({"run": "2", "gap": 1.5, "words": 'a "quoted", comma'}, path)
    runs.add({"run": "3", "gap": 2.5}, path)
    assert runs.read(path) == [
        {"run": "1", "gap": "0.5", "words": ""},
        {"run": "2", "gap": "1.5", "words": 'a "quoted", comma'},
        {"run": "3", "gap": "2.5", "words": ""},
    ]


def test_of_two_rows_of_one_run_the_later_counts(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    for gap in (1.0, 2.0):
        runs.add({"run": "1", "gap": gap}, path)
    assert runs.read(path) == [{"run": "1", "gap": "2.0"}]


def test_a_row_that_a_crash_cut_off_is_no_finished_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("run,gap,seconds\n1,0.5,2.0\n2,1.")
    assert [row["run"] for row in runs.read(path)] == ["1"]


@pytest.mark.parametrize(
    "change",
    [
        {"setting": "rig"},
        {"forget": ("IR014",)},
        {"forget": ("IR007", "IR014")},
        {"method": "delete"},
        {"model_seed": 1},
        {"seed": 1},
        {"changed": (("rate", 0.5),)},
        {"architecture": "vit_1d"},
        {"part": "validation"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_id_of_a_run_changes_with_everything_that_decides_its_result(change: dict[str, Any]) -> None:
    run = Run("cwru", ("IR007",), "delete_all")
    assert dataclasses.replace(run, **change).id != run.id


def test_the_id_of_a_run_does_not_change_with_its_depth() -> None:
    run = Run("cwru", ("IR007",), "pte")
    assert dataclasses.replace(run, depth=True).id == run.id


@pytest.mark.parametrize("recipe", ["TRAINING_RECIPE", "DREAM_RECIPE"])
def test_the_id_of_a_run_changes_with_the_recipes_of_networks_and_dreams(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("cwru", ("IR007",), "pte")
    before = run.id
    monkeypatch.setattr(models, recipe, 1000)
    assert run.id != before


def test_ids_are_still_those_of_the_committed_rows() -> None:
    assert Run("cwru", ("IR007",), "original").id == "fa8f70977712ec9d"
    assert Run("cwru", ("IR007",), "head_surgery").id == "54b35b1c84dcfd33"


# Tuning


@pytest.mark.parametrize("name", TUNED)
def test_tuning_tries_twelve_different_settings_of_which_the_default_is_the_first(name: str) -> None:
    default, trials = METHODS[name].settings, tuning.trials(name)
    tried = [dataclasses.replace(default, **dict(changed)) for changed in trials]
    assert tried[0] == default
    assert len(set(tried)) == len(tried) == 12
    for changed in trials:
        assert all(value in METHODS[name].search[setting] for setting, value in changed)


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


def test_the_shipped_method_is_run_on_every_class_of_every_model() -> None:
    planned = list(plans.every("rig", (0, 2), ("pte",)))
    assert {(run.forget, run.model_seed) for run in planned} == {
        ((name,), seed) for name in plans.CLASSES["rig"] for seed in (0, 2)
    }


def test_the_list_names_every_plan() -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [*plans.PLANS, "f3", "f5"]
