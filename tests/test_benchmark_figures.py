"""What the figures by epoch and of features are drawn from."""

from __future__ import annotations

from pathlib import Path

from benchmarks import epochs, quick, runs, tsne
from tests.result_rows import rows_of

DELETE = quick.run_of("delete_all")


def test_watching_the_epochs_changes_nothing_and_ends_with_the_returned_network(tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    epochs.carry_on([DELETE], path, quick.case_of)
    written = path.read_bytes()
    epochs.carry_on([DELETE], path, quick.case_of)
    assert path.read_bytes() == written
    points = sorted(rows_of(path), key=lambda row: int(row["epoch"]))
    assert [row["epoch"] for row in points] == ["0", "1", "2", "3"]
    for row, run in ((points[0], quick.run_of("original")), (points[-1], DELETE)):
        alone = runs.perform(run, quick.case_of)
        assert [float(row[name]) for name in ("acc_ft", "acc_rt")] == [alone["acc_ft"], alone["acc_rt"]]


def test_what_is_missing_of_an_original_brings_the_epochs_of_another_along(tmp_path: Path) -> None:
    """They stood beside each other, though one seed had made two networks on two machines."""
    path, rest = tmp_path / "epochs.csv", quick.run_of("finetune")
    epochs.carry_on([DELETE], path, quick.case_of)
    other = [row | {"original": "of another"} for row in rows_of(path)]
    runs.write(path, other[0], other)
    epochs.carry_on([DELETE, rest], path, quick.case_of)
    assert {row["original"] for row in runs.read(path)} == {runs.original_of(quick.case_of(rest))}


def test_every_window_has_a_place_and_a_class_in_the_picture_of_features(tmp_path: Path) -> None:
    path = tmp_path / "tsne.csv"
    tsne.draw_anew([quick.run_of("original"), DELETE], path, quick.case_of)
    rows = rows_of(path)
    assert {(row["method"], row["label"]) for row in rows} == {
        (method, label) for method in ("original", "delete_all") for label in quick.CLASSES
    }
    assert {row["class"] for row in rows} <= set(quick.CLASSES)
    assert {row["original"] for row in rows} == {runs.original_of(quick.case())}
    assert all(row["commit"] and row["torch"] for row in rows)
    assert len({(row["method"], row["x"], row["y"]) for row in rows}) == len(rows) == 2 * len(quick.tones().test)
