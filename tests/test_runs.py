"""Runs and their CSV: which are done and found again, and what a crash or another process may do to them."""

from __future__ import annotations

import copy
import dataclasses
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import models, quick, runs
from benchmarks.case import Case
from benchmarks.machine import ROOT, facts
from benchmarks.runs import Run
from benchmarks.task import Cost
from tests.result_rows import rows_of
from tests.scripts import run_script

torch.set_num_threads(1)

DELETE = quick.run_of("delete_all")


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


def unable_to_retrain(run: Run) -> Case:
    case = copy.copy(quick.case_of(run))
    vars(case)["retrained"] = None  # as a cached property: whoever measures it fails
    return case


def test_retrains_figures_are_read_from_a_row_of_the_same_case(tmp_path: Path) -> None:
    """On a machine without cached networks, each took two minutes to train for figures that the CSV already told."""
    path = tmp_path / "runs.csv"
    runs.carry_on([quick.run_of("retrain")], path, quick.case_of)
    runs.carry_on([DELETE], path, unable_to_retrain)
    first, second = runs.read(path)
    assert {name: float(second[name]) for name in runs.OF_RETRAIN} == {
        name: float(first[name]) for name in runs.OF_RETRAIN
    }


def test_a_row_about_another_original_tells_nothing_of_retrain(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    row = runs.perform(quick.run_of("retrain"), quick.case_of, path)
    runs.add(row | {"original": "f00dfeedf00d"}, path)
    with pytest.raises(AttributeError, match="NoneType"):
        runs.perform(DELETE, unable_to_retrain, path)


CLAIMING = """
import sys
from pathlib import Path
from benchmarks import runs

with runs.claimed(sys.argv[1], Path(sys.argv[2]), wait=False) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


def test_what_is_missing_of_a_case_brings_its_rows_about_another_original_along(tmp_path: Path) -> None:
    """Rows of a second machine's networks were added to those of the first, with which nothing could compare them."""
    path, finetune = tmp_path / "runs.csv", quick.run_of("finetune")
    elsewhere = quick.run_of("delete_all", quick.CLASSES[:1])  # a case of which nothing is missing
    wanted = [DELETE, finetune, elsewhere]
    runs.carry_on([DELETE, elsewhere], path, quick.case_of)
    runs.write(path, runs.read(path)[0], [row | {"original": "of another"} for row in runs.read(path)])
    runs.carry_on(wanted, path, quick.case_of)
    ours = models.digest(quick.case().original)[:12]
    assert {row["run"]: row["original"] for row in runs.read(path)} == {
        DELETE.id: ours,
        finetune.id: ours,
        elsewhere.id: "of another",
    }


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
    for cut in ("2,1.", "2,1.5,3."):  # a last column may be cut as well
        path.write_text(f"run,gap,seconds\n1,0.5,2.0\n{cut}")
        assert [row["run"] for row in runs.read(path)] == ["1"]


def test_a_row_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    """The next row went on where the cut one had ended: it was lost, and the cut one came back with its figures."""
    path = tmp_path / "runs.csv"
    path.write_text("run,gap,seconds\n1,0.5,2.0\n2,1.5,3.")
    runs.add({"run": "3", "gap": 9.5, "seconds": 7.0}, path)
    assert path.read_text() == "run,gap,seconds\n1,0.5,2.0\n3,9.5,7.0\n"


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


@pytest.mark.parametrize("size", ["FORGET_WINDOWS", "HELD_STRIDE"])
def test_the_id_of_a_run_changes_with_the_windows_that_it_is_about(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These two were no part of it: a row of fewer windows would have passed for one of today."""
    run = Run("cwru", ("IR007",), "pte")
    before = run.id
    monkeypatch.setattr(runs, size, 1)
    assert run.id != before


def test_ids_are_still_those_of_the_committed_rows() -> None:
    assert Run("cwru", ("IR007",), "original").id == "4fd4e58d5c44a316"
    assert Run("cwru", ("IR007",), "head_surgery").id == "d0d9c673d45c1b22"


def test_a_second_retrained_network_costs_what_its_own_training_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row had the seconds of the other one, which with nothing trained yet was a file that was not there."""
    costs = {0: Cost(seconds=1.0), 1: Cost(seconds=2.0)}
    monkeypatch.setattr(quick.SmallCase, "retraining_cost", property(lambda case: costs[case.model_seed]))
    run = quick.run_of("other_retrain")
    network, cost = runs.network_of(run, quick.case_of(run))
    assert cost == costs[1]
    assert models.digest(network) == models.digest(quick.case().other.retrained)


def test_a_changed_tree_is_one_whose_code_has_changed_not_its_results(tmp_path: Path) -> None:
    """The first row that was appended marked all later ones, so that the mark said nothing."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    results, code = tmp_path / "benchmarks" / "results", tmp_path / "code.py"
    results.mkdir(parents=True)
    for path in (results / "runs.csv", code):
        path.write_text("as committed\n")
    git("init")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "one")
    (results / "runs.csv").write_text("a row more\n")
    assert not facts(tmp_path)["commit"].endswith("+")
    code.write_text("changed\n")
    assert facts(tmp_path)["commit"].endswith("+")


def test_results_come_from_the_same_kernels_on_every_x86_64_and_speed_is_measured_with_the_best() -> None:
    """The variables once came with an import, and reached the agents whose speed was measured: half as slow again."""
    script = """
import os

for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"):
    os.environ.pop(name, None)  # the tests have set them
import benchmarks.speed.__main__
from benchmarks import models
import torch

print("MKL_CBWR" in os.environ)
models.same_kernels()
print(torch.backends.cpu.get_cpu_capability())
"""
    inherited, capability = run_script(script).split()
    assert inherited == "False"
    assert platform.machine() != "x86_64" or capability == "AVX2"
