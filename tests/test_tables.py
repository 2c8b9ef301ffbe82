"""Tables and figures as pure functions of the CSV files: which rows count, and what is said of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from benchmarks import plans, runs
from benchmarks.methods import METHODS
from benchmarks.runs import RESULTS, Run
from benchmarks.tables import TABLES, __main__, depth, f2, f3, harm, page, rows, targets
from benchmarks.tables.rows import title, where
from tests.result_rows import (
    deep,
    epoch_rows,
    line_of,
    of_the_surrogate,
    read_back,
    run_row,
    something_of_everything,
    text_of,
    write,
)


def row_with(method: str, figures: Mapping[str, Any]) -> runs.Row:
    return run_row(method) | dict(figures)


def test_a_later_row_of_the_same_run_replaces_an_earlier_one(tmp_path: Path) -> None:
    (row,) = read_back(tmp_path, run_row("pte", acc_ft=50.0), run_row("pte", acc_ft=1.0))
    assert row["acc_ft"] == "1.0"


def test_a_row_under_the_present_settings_goes_before_a_later_one_under_others(tmp_path: Path) -> None:
    (row,) = read_back(tmp_path, run_row("pte", acc_ft=1.0), run_row("pte", acc_ft=50.0, run="0123456789abcdef"))
    assert row["acc_ft"] == "1.0"


def test_a_row_under_settings_that_are_gone_is_shown_and_told_of(tmp_path: Path) -> None:
    old = run_row("pte", run="0123456789abcdef"), run_row("delete", changed='{"no_longer": 1}')
    text = text_of("t6", write(tmp_path, runs=[*old, run_row("imp")]))
    assert line_of(text, "PTE, shipped")[-1] == "1"
    assert "2 of them under settings that the code no longer has" in text


def test_no_row_of_the_surrogate_model_or_of_validation_windows_changes_any_table(tmp_path: Path) -> None:
    clean, more = something_of_everything(), of_the_surrogate()
    both = {name: clean[name] + more.get(name, []) for name in clean}
    folders = write(tmp_path / "clean", **clean), write(tmp_path / "both", **both)
    for name in TABLES:
        texts = [text_of(name, folder) for folder in folders]
        assert texts[0] == texts[1], name
        assert "No rows yet" not in texts[0]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("empty", [True, False], ids=["no file", "only heads"])
def test_without_rows_a_page_gives_the_command_that_makes_them(tmp_path: Path, name: str, empty: bool) -> None:
    if not empty:
        for file, of_file in something_of_everything().items():
            runs.write(tmp_path / f"{file}.csv", of_file[0], [])
    text, paths = page.write(TABLES[name], tmp_path)
    assert TABLES[name].command.startswith("python -m benchmarks.")
    assert f"No rows yet. This makes them:\n\n    {TABLES[name].command}" in text
    assert [path.name for path in paths] == [f"{name}.md"]


def test_every_table_is_the_same_to_the_byte_when_made_again_under_another_matplotlibrc(tmp_path: Path) -> None:
    made = []
    for name, size in (("one", 10), ("other", 30)):
        folder = write(tmp_path / name, **something_of_everything())
        with mpl.rc_context({"font.size": size, "axes.facecolor": "red", "svg.hashsalt": name}):
            paths = [path for table in TABLES.values() for path in page.write(table, folder)[1]]
        made.append({path.name: path.read_bytes() for path in paths})
    assert made[0] == made[1]
    assert not any(mpl.__version__.encode() in content for content in made[0].values())
    assert {"f2_cwru.png", "f3_cwru.svg", "f5.svg", "gate.png", "t6.md"} <= set(made[0])


def test_the_command_line_writes_and_prints_what_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, **something_of_everything())
    monkeypatch.setattr(sys, "argv", ["tables", "t6", "gate", "--results", str(tmp_path)])
    __main__.main()
    printed = capsys.readouterr().out
    assert "# T6" in printed
    assert (tmp_path / "tables" / "gate.md").read_text() in printed
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["gate.png", "gate.svg"]
    assert not (tmp_path / "tables" / "t4.md").exists()


def test_every_method_is_in_t6_with_its_figures_or_as_missing(tmp_path: Path) -> None:
    text = text_of("t6", write(tmp_path, runs=[run_row("pte", acc_rt=97.25), run_row("scrub")]))
    for method in METHODS:
        cells = line_of(text, title(method))
        assert ("missing" in cells) == (method not in ("pte", "scrub"))
    assert line_of(text, "PTE, shipped")[1:6] == ["forget", "0.00", "99.50", "0.00", "97.25"]
    assert "Original on cwru" in text
    assert "everything on rig" in text


def test_t6_marks_references_and_methods_that_use_retained_windows(tmp_path: Path) -> None:
    text = text_of("t6", write(tmp_path, runs=[run_row("pte")]))
    marks = {method: line_of(text, title(method))[1] for method in METHODS}
    assert marks["head_surgery"] == "reference"
    assert {name for name, mark in marks.items() if mark == "forget + retain"} == {
        name for name, method in METHODS.items() if method.needs == "retain"
    }


def test_the_worst_class_is_the_worst_over_models(tmp_path: Path) -> None:
    changes = ({"Normal": -1.0}, {"B007": -7.25, "Normal": -2.0}, {"Normal": 3.0})
    told = [run_row("pte", model=model, changes=points) for model, points in enumerate(changes)]
    text = text_of("every_class", write(tmp_path, runs=told))
    assert line_of(text, "worst single retained class")[1:] == [
        "-7.25 (B007 by IR007, model 1)",
        ">= -1",
        "**not met**",
    ]
    assert line_of(text, "IR007")[4] == "-7.25 (B007, original 1)"


@pytest.mark.parametrize(
    ("start", "column", "at_limit", "beyond"),
    [
        ("Acc_ft, worst case: windows", "acc_ft", 1.0, 2.0),  # of 100 windows
        ("Acc_f, worst case: windows", "acc_f", 100 / 512, 200 / 512),
        ("Acc_rt against the original, worst case", "retained_change", -0.2, -0.21),
        ("H-Mean behind retrain, mean", "h_mean", 98.4, 98.39),
    ],
)
def test_a_target_is_met_at_its_limit_and_not_beyond(
    tmp_path: Path, start: str, column: str, at_limit: float, beyond: float
) -> None:
    for value, verdict in ((at_limit, "met"), (beyond, "**not met**")):
        told = read_back(tmp_path, row_with("pte", {column: value}))
        assert line_of(targets.verdicts("cwru", told), start)[-1] == verdict


def test_a_mean_with_a_target_stands_with_its_interval(tmp_path: Path) -> None:
    changes = enumerate((0.1, 0.2, 0.3))
    told = read_back(tmp_path, *(run_row("pte", model=model, retained_change=change) for model, change in changes))
    assert line_of(targets.verdicts("cwru", told), "Acc_rt against the original, mean")[1] == "0.20 ± 0.25"


def test_one_class_stands_beside_several_only_where_every_method_forgot_it(tmp_path: Path) -> None:
    """Lines for one class were about other classes from method to method, and one of them was a single row."""
    together = [run_row(method, forget="IR007+B007") for method in ("pte", "delete", "delete_all")]
    alone = [run_row(method, forget=name) for method, name in (
        ("pte", "IR007"), ("pte", "B007"), ("delete_all", "IR007"), ("delete", "B007"),
    )]  # fmt: skip
    text = text_of("t3", write(tmp_path, runs=[*together, *alone]))
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| 1 |")]
    assert [(line[1], line[-1]) for line in lines] == [("DELETE-all", "1 |"), ("PTE, shipped", "1 |")]
    assert "1 of 2 classes by themselves on CWRU, time blocks" in text


def test_rivals_are_compared_without_the_class_they_were_tuned_on_which_the_targets_keep(tmp_path: Path) -> None:
    told = [
        run_row(method, forget=forget, changes={"Normal": -60.0 if forget == "OR007@6" else -0.5})
        for method in ("retrain", "pte", "delete_all")
        for forget in ("IR007", "B007", "OR007@6")
    ]
    text = text_of("every_class", write(tmp_path, runs=told))
    assert line_of(text, "worst single retained class")[1].startswith("-60.00")
    assert line_of(text, "DELETE-all")[6] == "-0.50"
    assert line_of(text, "DELETE-all")[-1] == "2"


def test_harm_to_a_class_is_told_against_retrain_as_well(tmp_path: Path) -> None:
    about = run_row("retrain", changes={"B007": -3.0, "Normal": 1.0}), run_row("pte", changes={"B007": -4.0})
    told = read_back(tmp_path, *about)
    change = harm.class_changes_to_retrain(where(told, method="pte")[0], harm.retrained_of(told))
    assert change == {"Normal": -1.0, "B007": -1.0, "OR007@6": 0.0}


def test_the_worst_against_retrain_is_told_with_its_case(tmp_path: Path) -> None:
    told = read_back(tmp_path, run_row("retrain", changes={"B007": 2.0}), run_row("pte", changes={"B007": -1.5}))
    words = harm.against_retrain(where(told, method="pte"), harm.retrained_of(told))
    assert words.startswith("Against retrain: Acc_rt 0.00 in the mean and 0.00 at the worst (IR007, original 0); ")
    assert words.endswith("worst class -3.50 (B007 by IR007, original 0).")
    alone = harm.against_retrain(where(told, method="pte"), {})
    assert alone.endswith("(IR007, original 0).")
    assert "class" not in alone


def test_a_class_that_rivals_forgot_from_other_originals_as_well_counts_once(tmp_path: Path) -> None:
    """The paper's class stood three times among the others, each once, and the page spoke of one original."""
    named = ("pte", "delete_all")
    told = [run_row(method, forget=forget) for method in named for forget in ("IR007", "B007")]
    told += [run_row(method, forget="IR007", model=model) for method in named for model in (1, 2)]
    assert line_of(text_of("every_class", write(tmp_path, runs=told)), "DELETE-all")[-1] == "2"


def test_ranks_are_told_beside_methods_that_use_retained_windows_as_well(tmp_path: Path) -> None:
    values = {"pte": 98.0, "delete_all": 90.0, "scrub": 99.0}
    told = [run_row(name, forget=gone, h_mean=value) for name, value in values.items() for gone in ("IR007", "B007")]
    text = text_of("every_class", write(tmp_path, runs=told))
    assert "2 cases: SCRUB 1.00, PTE, shipped 2.00, DELETE-all 3.00" in text


def test_methods_are_compared_where_a_reference_is_missing(tmp_path: Path) -> None:
    told = [run_row(method, forget=forget) for method in ("pte", "delete_all") for forget in ("IR007", "B007")]
    text = text_of("every_class", write(tmp_path, runs=[*told, run_row("head_surgery")]))
    assert line_of(text, "DELETE-all")[-1] == "2"


def test_depth_is_judged_in_each_measures_own_direction(tmp_path: Path) -> None:
    figures = {
        "head_surgery": deep(linear_probe=80.0, steps_to_relearn=3.0, mia_auc=0.4, js_to_retrained=0.2),
        "pte": deep(linear_probe=81.0, steps_to_relearn=9.0, mia_auc=0.59, js_to_retrained=0.09),
        "original": deep(js_to_retrained=0.9),
        "retrain": deep(js_to_retrained=0.0),
        "other_retrain": deep(js_to_retrained=0.3),
    }
    text = text_of("depth", write(tmp_path, runs=[row_with(method, own) for method, own in figures.items()]))
    lines = {column: line_of(text, measure.title) for column, measure in depth.MEASURES.items()}
    assert [lines[name][-1] for name in ("linear_probe", "steps_to_relearn", "codes_changed_int4")] == ["1", "0", "-"]
    marks = {column: line[-2] for column, line in lines.items()}
    assert marks.pop("linear_probe") == "**not met**"
    assert {marks.pop("codes_changed_int8"), marks.pop("codes_changed_int4")} == {"-"}
    assert set(marks.values()) == {"met"}
    assert "keep 10.0 % of the original's divergence from retrain, target at most 10 %: met" in text
    assert "another seed, keeps 33.3 %" in text


def test_the_curve_is_that_of_the_last_whole_run(tmp_path: Path) -> None:
    old = epoch_rows("pte", "old", (99.0, 50.0, 40.0, 30.0))
    new = epoch_rows("pte", "new", (99.0, 5.0))
    broken = epoch_rows("pte", "broken", (99.0, 77.0, 77.0))
    told = f3.latest(rows.read(write(tmp_path, epochs=[*old, *new, *broken[:-1]]) / f3.FILE))
    assert f3.epochs(told, "acc_ft") == {0: [99.0], 1: [5.0]}


def test_the_figure_by_epoch_is_about_one_network(tmp_path: Path) -> None:
    """Another machine's network of the same seed counted as one more run of the same."""
    told = [
        *epoch_rows("pte", "one", (99.0, 0.0), original="ab"),
        *epoch_rows("imp", "two", (99.0, 3.0), original="ab"),
    ]
    other = epoch_rows("pte", "three", (90.0, 60.0), original="cd")
    text = text_of("f3", write(tmp_path, epochs=[*told, *other]))
    assert line_of(text, title("pte"))[2] == "0.00"


def test_full_sized_pictures_have_sections_of_their_own(tmp_path: Path) -> None:
    """Only the settings of the paper's table were looked for: rows that took days on a GPU would have shown nowhere."""
    about: dict[str, Any] = {"forget": "airplane", "architecture": "resnet18_2d"}
    told = [
        run_row("pte_published", name, h_mean=figure, **about)
        for name, figure in (("cifar10", 70.0), ("cifar10-full", 97.0))
    ]
    told.append(run_row("pte_published", "cifar100-full", h_mean=60.0, **(about | {"forget": "apple"})))
    text = text_of("t1", write(tmp_path, runs=told))
    assert [
        cell
        for line in text.splitlines()
        if line.startswith(f"| {title('pte_published')} |")
        for cell in line.split(" | ")[6:7]
    ] == ["70.00", "97.00", "60.00"]
    assert text.count("*the paper's PTE*") == 2  # of CIFAR-10, in both sizes


def test_a_page_says_where_its_rows_come_from(tmp_path: Path) -> None:
    told = [run_row("pte"), run_row("pte", forget="B007", commit="fedcba543210+")]
    text = text_of("every_class", write(tmp_path, runs=told))
    assert "Made of 2 rows of `python -m benchmarks.run every`, on x86_64, 2 cores; python 3.11, torch 2.13" in text
    assert "Commits: abcdef012345, fedcba543210+. With + something" in text


def test_a_method_without_all_its_repeats_is_missing_from_the_boxes(tmp_path: Path) -> None:
    told = [run_row(method, seed=seed) for method, count in (("pte", 5), ("imp", 4)) for seed in range(count)]
    content = f2.make(write(tmp_path, runs=told))
    assert {row["method"] for row in content.rows} == {"pte"}
    assert title("imp") in content.missing


def test_runs_that_are_not_there_are_counted(tmp_path: Path) -> None:
    wanted = list(plans.every("cwru"))
    held = read_back(tmp_path, run_row("pte"), run_row("pte", model=1), run_row("pte", architecture="vit_1d"))
    assert rows.not_run(wanted, held) == [f"{len(wanted) - 2} of {len(wanted)} runs on CWRU, time blocks"]
    assert rows.not_run([Run("cwru", ("IR007",), "pte")], held) == []


def test_a_network_whose_training_ran_away_has_forgotten_nothing_in_any_table(tmp_path: Path) -> None:
    # Its answers are no class's, so that older rows say 0 % of the forget windows, and 100 steps to learn them again.
    gone = dict.fromkeys(("acc_f", "acc_r", "acc_ft", "acc_rt"), 0.0)
    (told,) = read_back(tmp_path, run_row("scrub") | gone | deep(steps_to_relearn=100.0))
    assert (told["acc_f"], told["acc_ft"], told["acc_r"], told["steps_to_relearn"]) == ("100.0", "100.0", "0.0", "")


def test_an_interval_is_over_originals_that_have_the_same_classes(tmp_path: Path) -> None:
    told = read_back(
        tmp_path,
        run_row("pte", retained_change=0.0),
        run_row("pte", model=1, retained_change=6.0),
        run_row("pte", forget="B007", retained_change=3.0),
    )
    assert rows.estimate(told, "retained_change") == rows.Estimate(3.0, None)
    assert rows.estimate(told[:2], "retained_change").margin is not None


def test_the_depth_of_ablations_stands_beside_that_of_the_same_classes(tmp_path: Path) -> None:
    # References have it of more classes: their means stood beside figures of one.
    whole = [run_row("pte", forget=name) | deep(steps_to_relearn=steps) for name, steps in (("IR007", 9), ("B007", 1))]
    ablated = run_row("ablation_shipped_head") | deep(), run_row("ablation_shipped_head", forget="B007")
    assert "9.00" in line_of(text_of("t4", write(tmp_path, runs=[*ablated, *whole])), "**PTE, shipped**")


@pytest.mark.parametrize("name", TABLES)
def test_the_committed_page_is_what_the_committed_rows_make(name: str) -> None:
    """``python -m benchmarks.tables all`` once crashed on them, and nobody saw."""
    assert (RESULTS / "tables" / f"{name}.md").read_text() == text_of(name, RESULTS)
