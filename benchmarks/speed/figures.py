"""One measured number, and the CSV of all of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from benchmarks import runs
from benchmarks.machine import facts

SPEED: Final = runs.RESULTS / "speed.csv"


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        part: of the run, for example ``serving``.
        subject: who was measured, for example ``agent``.
        at: the setting, for example ``width 32``; empty if there is only one.
        quantity: what was measured, with its unit, for example ``windows_per_s``.
    """

    part: str
    subject: str
    at: str
    quantity: str
    value: float


def save(figures: Iterable[Figure], path: Path = SPEED) -> None:
    """Write the CSV anew."""
    known = facts()
    columns = [field.name for field in fields(Figure)]
    rows: list[dict[str, Any]] = [asdict(figure) | {"value": f"{figure.value:.5g}"} | known for figure in figures]
    runs.write(path, [*columns, *known], rows)


def load(path: Path = SPEED) -> list[Figure]:
    """Read it; empty where there is none."""
    rows = rows_of(path)
    return [Figure(row["part"], row["subject"], row["at"], row["quantity"], float(row["value"])) for row in rows]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV as text; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def origin(path: Path = SPEED) -> dict[str, str]:
    """Commit, machine and versions of what the CSV holds, which one run wrote."""
    first = rows_of(path)[0]
    return {name: first[name] for name in facts() if name in first}


class Figures:
    """Figures by what they say, for ratios between them."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._values = {(one.part, one.subject, one.at, one.quantity): one.value for one in figures}

    def get(self, part: str, subject: str, at: str, quantity: str) -> float | None:
        """One number; None if it was not measured."""
        return self._values.get((part, subject, at, quantity))

    def settings(self, part: str, quantity: str, ending: str) -> list[str]:
        """The settings with such an ending at which a quantity of the agent was measured, in order."""
        wanted = (part, "agent", quantity)
        return [key[2] for key in self._values if (key[0], key[1], key[3]) == wanted and key[2].endswith(ending)]

    def sizes(self, part: str, quantity: str, kind: str) -> list[int]:
        """The numbers in settings like ``256 cached`` (``kind`` is ``cached``), ascending."""
        return sorted(int(at.removesuffix(f" {kind}")) for at in self.settings(part, quantity, f" {kind}"))

    def ratio(self, part: str, subjects: tuple[str, str], at: str, quantity: str) -> float | None:
        """The first subject's number by the second's; None if one was not measured."""
        above, below = (self.get(part, subject, at, quantity) for subject in subjects)
        return above / below if above is not None and below else None
