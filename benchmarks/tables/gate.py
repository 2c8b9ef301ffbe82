"""The gate: how well evidence without retained data tells the harm that was truly done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure
from scipy import stats

from benchmarks.gate_edits import judge_of_today
from benchmarks.settings import SETTINGS
from benchmarks.tables import figures
from benchmarks.tables.page import NONE, Content, Table, grid, met, optional, section
from benchmarks.tables.rows import Row, having, numbers, read, settings_of, share_interval, where
from edge_agent.core.gate import GateSettings

FILE: Final = "gate.csv"
EVIDENCE: Final = {
    "predicted_loss": "worst class: predicted loss",
    "agreement": "worst class: agreement on its dreams",
    "border_kept": "worst class: probability kept at its borders",
}
SAME_EDIT: Final = ("setting", "model_seed", "forget", "kind")
TRUTH: Final = "truth_worst_class"
HARMFUL: Final = -5.0  # points of the worst retained class: a gate must refuse beyond it
HARMLESS: Final = -1.0  # and accept short of it
MOST_REFUSED: Final = 0.05
LEAST_EDITS: Final = 200
OTHER_LIMITS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1)
TRADE_OFF: Final = """The same edits, had another limit been set; the other checks as they are. The limit was chosen on
surrogate networks (decision 0005), and that it was kept and not the way of telling the loss that was tried after it,
also here."""
TICKS: Final = (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20)


def make(results: Path) -> Content:
    """Error rates and rank correlations over all edits, by setting and by kind of edit."""
    rows = edits(results)
    if not rows:
        return Content([])
    by_setting = {"all": rows} | {SETTINGS[name].title: where(rows, setting=name) for name in settings_of(rows)}
    by_kind = {kind: where(rows, kind=kind) for kind in dict.fromkeys(row["kind"] for row in rows)}
    sections = [
        section("The shipped threshold", _standing(rows), _rates("setting", by_setting), _rates("edit", by_kind)),
        section("Other limits of the predicted loss", TRADE_OFF, _trade_off(rows)),
        section("Edits as shipped, by original", _rates("network", _by_original(where(rows, kind="shipped")))),
        section("Rank correlation with the true change of the worst retained class", _correlations(by_setting)),
    ]
    return Content(sections, rows, figures={"gate": _scatter(rows)})


def edits(results: Path) -> list[Row]:
    """One row for each edit: the latest that today's gate has judged."""
    judged = [row for row in read(results / FILE) if row["run"].endswith(judge_of_today())]
    return list({tuple(row[name] for name in SAME_EDIT): row for row in judged}.values())


def _trade_off(rows: Sequence[Row]) -> str:
    body = []
    for limit in OTHER_LIMITS:
        judged = [row | {"accepted": str(_passes(row, limit))} for row in rows]
        accepts, harmful, refusals, harmless = errors(judged)
        name = f"{100 * limit:g} %"
        shipped = limit == GateSettings().max_predicted_loss
        body.append([f"**{name}**" if shipped else name, _rate(accepts, harmful), _rate(refusals, harmless)])
    return grid(("limit", "false accepts", "false refusals"), body)


def _passes(row: Row, limit: float) -> bool:
    """Whether the gate would accept an edit under another limit of the predicted loss."""
    others = set(row["refused_by"].split()) - {"predicted_loss"}
    return not others and float(row["predicted_loss"]) <= limit


def _by_original(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{SETTINGS[row['setting']].title}, original {row['model_seed']}", []).append(row)
    return dict(sorted(groups.items()))


def accepted(row: Row) -> bool:
    """The gate's verdict."""
    return row["accepted"].lower() in ("true", "1")


def errors(rows: Sequence[Row]) -> tuple[int, int, int, int]:
    """Harmful edits accepted, harmful edits, harmless edits refused, harmless edits; the others count for neither."""
    harmful = [row for row in rows if float(row[TRUTH]) < HARMFUL]
    harmless = [row for row in rows if float(row[TRUTH]) > HARMLESS]
    refused = len(harmless) - sum(map(accepted, harmless))
    return sum(map(accepted, harmful)), len(harmful), refused, len(harmless)


def correlation(rows: Sequence[Row], column: str) -> float | None:
    """Spearman's rank correlation with the truth; None where either side is one value, or of fewer than three edits."""
    told = having(rows, column)
    pairs = numbers(told, column), numbers(told, TRUTH)
    if len(told) < 3 or any(len(set(side)) == 1 for side in pairs):
        return None
    return float(stats.spearmanr(*pairs).statistic)


def _standing(rows: Sequence[Row]) -> str:
    accepts, harmful, refusals, harmless = errors(rows)
    lines = [f"- at least {LEAST_EDITS} edits ({len(rows)}): {met(len(rows) >= LEAST_EDITS)}"]
    if harmful:
        words = f"{accepts} of {harmful} accepted"
        lines.append(f"- refuses every edit that lost over {-HARMFUL:g} points ({words}): {met(accepts == 0)}")
    if harmless:
        words, share = f"{harmless - refusals} of {harmless}", f"{100 * (1 - MOST_REFUSED):g} %"
        words += f"; others refused by {checks}" if (checks := _refusing(rows)) else ""
        holds = refusals <= MOST_REFUSED * harmless
        lines.append(f"- accepts {share} of those that lost under {-HARMLESS:g} ({words}): {met(holds)}")
    return "\n".join(lines)


def _refusing(rows: Sequence[Row]) -> str:
    """The checks that refused harmless edits, each with how many; some edits are refused by several."""
    refused = [row for row in rows if float(row[TRUTH]) > HARMLESS and not accepted(row)]
    checks = Counter(check for row in refused for check in row.get("refused_by", "").split())
    return ", ".join(f"{check} {count}" for check, count in sorted(checks.items()))


def _rates(word: str, groups: dict[str, list[Row]]) -> str:
    body = []
    for name, rows in groups.items():
        accepts, harmful, refusals, harmless = errors(rows)
        counts = [str(len(rows)), str(sum(map(accepted, rows))), str(harmful), str(harmless)]
        body.append([name, *counts, _rate(accepts, harmful), _rate(refusals, harmless)])
    head = (word, "edits", "accepted", "lost over 5", "lost under 1", "false accepts", "false refusals")
    return grid(head, body)


def _rate(hits: int, count: int) -> str:
    if not count:
        return NONE
    least, most = share_interval(hits, count)
    return f"{100 * hits / count:.1f} % ({100 * least:.1f} to {100 * most:.1f})"


def _correlations(groups: dict[str, list[Row]]) -> str:
    told = _told(groups["all"])
    body = [[name, *(optional(correlation(rows, column)) for column in told)] for name, rows in groups.items()]
    return grid(("setting", *(EVIDENCE[column] for column in told)), body)


def _told(rows: Sequence[Row]) -> list[str]:
    return [column for column in EVIDENCE if having(rows, column)]


def _scatter(rows: Sequence[Row]) -> Figure:
    told = _told(rows)
    figure = figures.blank(3.6 * len(told), 3.8)
    verdicts: tuple[tuple[str, Callable[[Row], bool], str, str], ...] = (
        ("accepted", accepted, figures.BLUE, "o"),
        ("refused", lambda row: not accepted(row), figures.VERMILION, "x"),
    )
    for axes, column in zip(figures.panels(figure, 1, len(told)), told, strict=True):
        for label, holds, colour, marker in verdicts:
            side = [row for row in having(rows, column) if holds(row)]
            axes.scatter(
                numbers(side, column), numbers(side, TRUTH), s=16, c=colour, marker=marker, label=label, linewidths=0.9
            )
        for limit in (HARMFUL, HARMLESS):
            axes.axhline(limit, color=figures.GREY, linestyle="--", linewidth=0.8)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_ylim(1.3 * TICKS[0], 1.3 * TICKS[-1])
        axes.set_xlabel(EVIDENCE[column])
    figure.supylabel("true change of the worst class, points", fontsize="medium")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


TABLE: Final = Table(
    "gate",
    "The gate's evidence against the truth",
    """Edits as shipped and edits that were damaged on purpose, each with what the gate saw, its verdict, and the change
of test accuracy of the retained class that lost most, which a gateway cannot see. False accepts are a share of the
edits that lost over 5 points, false refusals of those that lost under 1, those included that a check refused which
looks at what is left of the forgotten class; in brackets Wilson's 95 % interval, which is too narrow, since up to
six edits are of the same class and network; and rates over all hang on how many edits of each kind there are, so
that the line of those as shipped says most. In the figure dashed lines stand at these two limits, and the axis is
linear between -1 and 1.""",
    "python -m benchmarks.gate_edits; python -m benchmarks.gate_edits --data dsads --kinds shipped --model 1 (and 2)",
    make,
)
