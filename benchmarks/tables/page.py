"""A page: one table's Markdown and figures, and what both say about rows that are not there."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from benchmarks.tables import figures
from benchmarks.tables.rows import Estimate, Row, current

NONE: Final = "-"


@dataclass(frozen=True)
class Content:
    """What a table makes of the CSV files.

    Attributes:
        sections: Markdown; none where there are no rows.
        rows: those that it is made of, for the lines on where they come from.
        missing: what is not there though the table has a place for it, in words.
    """

    sections: Sequence[str]
    rows: Sequence[Row] = ()
    missing: Sequence[str] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One table or figure.

    Attributes:
        name: as on the command line and of its files.
        explains: a paragraph on how to read it.
        command: what makes its rows.
        make: from the folder of the CSV files.
    """

    name: str
    title: str
    explains: str
    command: str
    make: Callable[[Path], Content]


def write(table: Table, results: Path) -> tuple[str, list[Path]]:
    """Make a table's files from the CSV files in ``results``; returns its Markdown and the paths."""
    page = results / "tables" / f"{table.name}.md"
    paths = [page]
    with figures.styled():
        content = table.make(results)
        for name, figure in content.figures.items():
            paths += figures.save(figure, results / "figures" / name)
    text = markdown(table, content)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)
    return text, paths


def markdown(table: Table, content: Content) -> str:
    """The whole page."""
    parts = [f"# {table.title}", textwrap.fill(table.explains, 120, break_on_hyphens=False)]
    if not content.sections:
        return "\n\n".join([*parts, f"No rows yet. This makes them:\n\n    {table.command}"]) + "\n"
    parts += [*content.sections, *(f"![{name}](../figures/{name}.png)" for name in content.figures)]
    if content.missing:
        parts.append(f"Missing: {'; '.join(content.missing)}. This makes what is missing:\n\n    {table.command}")
    if content.rows:
        parts.append(_origin(content.rows, table.command))
    return "\n\n".join(parts) + "\n"


def _origin(rows: Sequence[Row], command: str) -> str:
    """Command, commits, machine and versions behind rows; the rows themselves name their seeds."""
    commits = sorted({row["commit"] for row in rows})
    parts = [f"Made of {len(rows)} rows of `{command}`, on {' and '.join(sorted(set(map(made_with, rows))))}."]
    parts.append(f"Commits: {', '.join(commits)}.")
    if any(commit.endswith("+") for commit in commits):
        parts.append(
            "With + something tracked had changed since, be it only a file of results; it was committed later."
        )
    if old := sum(not current(row) for row in rows):
        parts.append(f"{old} of them under settings that the code no longer has: the command makes them anew.")
    return " ".join(parts)


def grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def made_with(row: Mapping[str, str]) -> str:
    """Machine and versions of a row, in words."""
    versions = ", ".join(f"{name} {row[name]}" for name in ("python", "torch", "onnxruntime", "paho-mqtt", "numpy"))
    return f"{row['machine']}; {versions}"


def section(heading: str, *parts: str) -> str:
    """A section of a page."""
    return "\n\n".join([f"## {heading}", *parts])


def number(value: float, digits: int = 2) -> str:
    """Fixed digits; what rounds to 0 has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def optional(value: float | None, digits: int = 2) -> str:
    """A number, or that there is none."""
    return NONE if value is None else number(value, digits)


def points(value: float) -> str:
    """A change, with its sign."""
    text = number(value)
    return text if value < 0 or float(text) == 0 else f"+{text}"


def spread(value: Estimate, form: Callable[[float], str] = number) -> str:
    """Mean and interval."""
    return form(value.mean) + ("" if value.margin is None else f" ± {form(value.margin).removeprefix('+')}")


def met(holds: bool) -> str:
    """The verdict on a target."""
    return "met" if holds else "**not met**"
