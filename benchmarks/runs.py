"""One run: a method, its settings, and a case; its row goes into a CSV and is never computed twice.

A run's id is the hash of everything that decides its result besides the code; the row names the commit. Rows are
appended under a lock, and a process claims a case while it works on it, so that several may share a plan.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from benchmarks import case as cases
from benchmarks import device, models
from benchmarks.case import Case
from benchmarks.machine import ROOT, facts
from benchmarks.measures import accuracy
from benchmarks.measures.depth import depth
from benchmarks.methods import ALL
from benchmarks.settings import FORGET_WINDOWS, HELD_STRIDE, KNOWN, WIDTH
from benchmarks.task import Cost, carry_out, hand_over

RESULTS: Final = ROOT / "benchmarks" / "results"
RUNS: Final = RESULTS / "runs.csv"
Row = dict[str, Any]
OF_RETRAIN: Final = tuple(f"retrain_{name}" for name in ("acc_f", "acc_r", "acc_ft", "acc_rt", "mia", "h_mean"))


@dataclass(frozen=True)
class Run:
    """What decides a run's result.

    Attributes:
        method: a key of ``methods.ALL``, or ``original``, ``retrain`` or ``other_retrain`` (by another seed).
        changed: settings that differ from the method's defaults, as (name, value) pairs.
        depth: whether the depth of forgetting is measured as well; no part of the id.
        part: the side that accuracies are measured on; tuning uses ``validation``.
    """

    setting: str
    forget: tuple[str, ...]
    method: str
    model_seed: int = 0
    seed: int = 0
    changed: tuple[tuple[str, Any], ...] = ()
    architecture: str = models.ARCHITECTURE
    depth: bool = False
    part: str = "test"

    @property
    def id(self) -> str:
        """Hash of all of it; settings and recipes are written out, so that new defaults make a new run."""
        method = ALL.get(self.method)
        shared = {"width": WIDTH, "forget_windows": FORGET_WINDOWS, "held_stride": HELD_STRIDE}
        content = dataclasses.asdict(self) | shared | {"recipes": models.recipes(KNOWN.get(self.setting))}
        del content["depth"]
        if method is not None:
            content["settings"] = repr(dataclasses.replace(method.settings, **dict(self.changed)))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> Row:
        """The columns that say which run it is."""
        return {
            "run": self.id,
            "setting": self.setting,
            "forget": "+".join(self.forget),
            "method": self.method,
            "model_seed": self.model_seed,
            "seed": self.seed,
            "changed": json.dumps(dict(self.changed)),
            "architecture": self.architecture,
            "part": self.part,
        }


def case_of(run: Run) -> Case:
    """The case that a run is about."""
    return cases.case(run.setting, run.model_seed, run.forget, run.architecture)


def perform(run: Run, case_of: Callable[[Run], Case] = case_of, path: Path = RUNS) -> Row:
    """Do one run; ``path`` may tell what retrain reached on the same case."""
    torch.set_num_threads(1)
    case = case_of(run)
    network, cost = network_of(run, case)
    row = run.describe() | accuracy.measure(case, network, run.part)
    row["original"] = original_of(case)
    row |= _told_of_retrain(run, row["original"], path) or _measured_of_retrain(case, run.part)
    row["gap"] = gap(row)
    row |= {name: round(value, 3) for name, value in dataclasses.asdict(cost).items()}
    if run.depth:
        row |= depth(network, case, torch.Generator().manual_seed(run.seed))
    known = facts()
    return row | known | {"machine": known["machine"] + device.hardware()}


def gap(row: Row) -> float:
    """Mean distance to retrain over Acc_f, Acc_r, Acc_ft, Acc_rt and MIA, in points; the objective of tuning."""
    names = ("acc_f", "acc_r", "acc_ft", "acc_rt", "mia")
    distances = [abs(float(row[name]) - float(row[f"retrain_{name}"])) for name in names]
    return round(sum(distances) / len(names), 4)


def network_of(
    run: Run, case: Case, on_epoch: Callable[[nn.Module], None] = lambda network: None
) -> tuple[nn.Sequential, Cost]:
    """The network that a run is about, and what it cost."""
    if run.method == "original":
        return case.original, Cost()
    if run.method == "retrain":
        return case.retrained, case.retraining_cost
    if run.method == "other_retrain":
        return case.other.retrained, case.other.retraining_cost
    method = ALL[run.method]
    settings = dataclasses.replace(method.settings, **dict(run.changed))
    sides = case.forget_set, case.retain_set
    task = hand_over(method, case.original, case.forget, case.dreams, *sides, run.seed, on_epoch)
    return carry_out(method, task, settings)


def _told_of_retrain(run: Run, original: str, path: Path) -> Row:
    """Retrain's figures as a row of the same case and original tells them, or nothing; its network takes minutes."""
    same = {dataclasses.replace(run, method=name, seed=0, changed=()).id for name in ("retrain", "head_surgery", "pte")}
    told = next((row for row in read(path) if row["run"] in same and row.get("original") == original), None)
    return {name: float(told[name]) for name in OF_RETRAIN} if told else {}


@lru_cache(maxsize=1)
def _measured_of_retrain(case: Case, part: str) -> Row:
    row = accuracy.measure(case, case.retrained, part)
    return {name: row[name.removeprefix("retrain_")] for name in OF_RETRAIN}


def read(path: Path = RUNS) -> list[dict[str, str]]:
    """Every row, as text; a later row replaces an earlier one of the same run, a row cut off by a crash is left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        whole = (line for line in file if line.endswith("\n"))
        return list({row["run"]: row for row in csv.DictReader(whole)}.values())


def add(row: Row, path: Path = RUNS) -> None:
    """Append a row; columns that the file does not have yet are added to it, a row that a crash cut off is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = path.read_text() if path.exists() else ""
        columns = next(csv.reader([text.partition("\n")[0]]), [])
        if set(row) <= set(columns) and text.endswith("\n"):
            with path.open("a", newline="") as file:
                csv.DictWriter(file, columns, lineterminator="\n").writerow(row)
            return
        columns += [name for name in row if name not in columns]
        write(path, columns, [*read(path), row])


def write(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> None:
    """Write a CSV anew, all or nothing."""
    beside = path.with_suffix(".new")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)


def missing(wanted: Iterable[Run], path: Path = RUNS) -> list[Run]:
    """Those that the CSV does not hold yet, or without the depth that is asked for."""
    deep = {row["run"]: bool(row.get("linear_probe")) for row in read(path)}
    return [run for run in dict.fromkeys(wanted) if run.id not in deep or (run.depth and not deep[run.id])]


def carry_on(wanted: Iterable[Run], path: Path = RUNS, case_of: Callable[[Run], Case] = case_of) -> None:
    """Do what is missing, with a line for each run on standard error.

    Whoever works on a case has claimed it, for its runs share the networks that take the time. What another process
    has claimed is left to it, and looked at again at the end, in case it was stopped. Where something is missing of a
    case, rows about another original, which another machine has made, are done again with it: rows of one case are
    there to be compared.
    """
    wanted = list(dict.fromkeys(wanted))
    todo = missing(wanted, path)
    progress = _Progress(len(todo))
    left = [group for group in by_case(wanted, todo) if not _work_on(group, path, case_of, progress, wait=False)]
    for group in left:
        _work_on(group, path, case_of, progress, wait=True)


def by_case(wanted: Iterable[Run], todo: Iterable[Run]) -> list[list[Run]]:
    """All that is wanted of each case of which something is to be done."""
    wanted, lacking = list(wanted), dict.fromkeys(_about(run) for run in todo)
    return [[run for run in wanted if _about(run) == about] for about in lacking]


def _about(run: Run) -> str:
    return f"{run.setting} {'+'.join(run.forget)} {run.model_seed} {run.architecture}"


def _work_on(group: list[Run], path: Path, case_of: Callable[[Run], Case], progress: _Progress, *, wait: bool) -> bool:
    """Do what is missing of one case; False if another process has claimed it and we do not wait."""
    with claimed(_about(group[0]), path, wait=wait) as ours:
        todo = missing(group, path) if ours else []
        again = of_another_original(group, original_of(case_of(todo[0])), path) if todo else []
        progress.total += len(again)
        for run in [*todo, *again]:
            row = perform(run, case_of, path)
            add(row, path)
            progress.say(run, row)
    return ours


def of_another_original(
    group: list[Run], original: str, path: Path, key: Callable[[Run], str] = lambda run: run.id
) -> list[Run]:
    """Those whose row, which the file has under ``key``, is about another network than ``original``."""
    others = {row["run"] for row in read(path) if row.get("original") != original}
    return [run for run in group if key(run) in others]


def original_of(case: Case) -> str:
    """The original network, as rows name it."""
    return models.digest(case.original)[:12]


@contextmanager
def claimed(name: str, path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a name among the processes that work on one CSV: yields whether it is ours. A claim ends with its process.

    Each name is one byte of a file that stays empty: a lock of a range needs no file of its own to be cleared away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:5])
    with path.with_suffix(".claims").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except BlockingIOError:
            yield False
        else:
            yield True


class _Progress:
    """A line on standard error for each run that is done."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._done = 0
        self._started_s = time.monotonic()

    def say(self, run: Run, row: Row) -> None:
        self._done += 1
        words = f"acc_ft {row['acc_ft']:.2f}, retained {row['retained_change']:+.2f}, {row['seconds']:.1f} s"
        title = f"{run.setting} {'+'.join(run.forget)} {run.method} {run.model_seed}/{run.seed}"
        spent_s = time.monotonic() - self._started_s
        print(f"{spent_s:6.0f} s  {self._done}/{self.total}  {title}: {words}", file=sys.stderr, flush=True)
