"""What each method costs, beside retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.methods import METHODS
from benchmarks.plans import UNLEARNING_SEEDS
from benchmarks.settings import SETTINGS
from benchmarks.tables import harm
from benchmarks.tables.page import NONE, Content, Table, grid, number, section, spread
from benchmarks.tables.rows import (
    Row,
    case,
    data,
    estimate,
    having,
    methods_of,
    numbers,
    of_paper_class,
    runs,
    settings_of,
    title,
    where,
)

HEAD: Final = (
    "method", "data", "seconds, median", "CPU seconds", "peak MiB", "windows forward", "windows backward",
    "CPU seconds, % of retrain", "windows, % of retrain", "runs",
)  # fmt: skip


def make(results: Path) -> Content:
    """One section for each setting that has rows of a method on the paper's class."""
    seeds = map(str, UNLEARNING_SEEDS)
    rows = having(where(runs(results), seed=seeds, method=("retrain", *METHODS)), "cpu_seconds")
    used = {setting: of_paper_class(rows, setting) for setting in settings_of(rows)}
    sections = [_section(setting, of_it) for setting, of_it in used.items() if where(of_it, method=METHODS)]
    return Content(sections, [row for of_it in used.values() for row in of_it] if sections else [])


def _section(setting: str, rows: list[Row]) -> str:
    retrained = harm.retrained_of(rows)
    body = []
    for method in methods_of(rows):
        own = where(rows, method=method)
        beside = [_with_shares(row, retrained[case(row)]) for row in own if case(row) in retrained]
        shares = [spread(estimate(beside, name)) if beside else NONE for name in ("seconds_share", "windows_share")]
        counts = [number(estimate(own, name).mean, 0) for name in ("peak_mib", "forward", "backward")]
        seconds = number(float(np.median(numbers(own, "seconds"))), 1), spread(estimate(own, "cpu_seconds"))
        body.append([title(method), data(method), *seconds, *counts, *shares, str(len(own))])
    machines = sorted({row["machine"] for row in rows})
    heading = f"{SETTINGS[setting].title}: {SETTINGS[setting].paper_class}"
    return section(heading, grid(HEAD, body), f"Measured on {'; '.join(machines)}, one torch thread.")


def _with_shares(row: Row, retrained: Row) -> Row:
    """The row with its cost in percent of retrain's."""
    seconds = 100 * float(row["cpu_seconds"]) / float(retrained["cpu_seconds"])
    windows, of_retrain = (float(one["forward"]) + float(one["backward"]) for one in (row, retrained))
    return row | {"seconds_share": str(seconds), "windows_share": str(100 * windows / of_retrain)}


TABLE: Final = Table(
    "cost",
    "Cost of forgetting",
    """Means over originals and unlearning seeds, ± the 95 % interval over originals (Student's t). `peak MiB` is the
resident memory above what was in use before the method or the training began. Windows are counted at the part before
the head, once for each pass, with a cached trunk or without: seconds show that difference. Other work ran on
the machine meanwhile, and some runs were paused, so of seconds the median is shown; CPU seconds (of one thread) hardly
show it, and the window counts not at all. Dreams, which a
release carries, are made once per original and are not in the shipped method's seconds.""",
    "python -m benchmarks.run t6 every t4 t3",
    make,
)
