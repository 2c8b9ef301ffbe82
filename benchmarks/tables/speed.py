"""How fast: serving and forgetting against what the machine can do, from one run of ``benchmarks.speed``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.figures import Figures, load, origin
from benchmarks.speed.summary import AT, GROWTH_LIMIT, summary
from benchmarks.tables import figures
from benchmarks.tables.page import NONE, Content, Table, grid, made_with, met, optional, section

FILE: Final = "speed.csv"
TARGETS: Final = {
    "agent_over_bare_loop": ("windows/s, agent over bare loop", ">=", 0.95),
    "agent_over_node_red": ("windows/s, agent over Node-RED", ">=", 2.0),
    "rss_over_node_red": ("memory, agent over Node-RED", "<=", 1.0),
    "cpu_over_bare_loop": ("CPU per window, agent over bare loop", "<=", 1.15),
    "paced_cpu_over_bare_loop": ("CPU per window at 100 windows/s, agent over bare loop", "<=", 1.15),
    "p50_ms": ("p50 at 100 windows/s, width 32: ms", "<=", 5.0),
    "p99_ms": ("p99 at 100 windows/s, width 32: ms", "<=", 20.0),
    "swap_later_ms": ("longest answer around a swap, more than without one: ms", "<=", 10.0),
    "swap_lost": ("windows lost over swaps", "<=", 0.0),
    "p99_forget_over_idle": ("p99 while it forgets, over idle", "<=", 2.0),
    "throughput_forget_over_idle": ("windows/s while it forgets, over idle", ">=", 0.6),
    "forget_over_retrain": ("forgetting over retraining: seconds", "<=", 0.02),
    "forget_over_delete": ("forgetting over DELETE: seconds", "<=", 0.2),
    "child_over_idle_torch": ("peak memory of the job over idle torch", "<=", 2.0),
    "ready_s": ("READY after: s", "<=", 2.0),
    "first_diagnosis_s": ("first diagnosis after: s", "<=", 3.0),
    "rss_serving_mib": ("memory while serving, width 32: MiB", "<=", 120.0),
    "rss_loaded_mib": ("memory after full queues, width 32: MiB", "<=", 120.0),
    "int8_acc_change": ("test accuracy in int8, worst change: points", ">=", -0.5),
    "int8_acc_ft": ("test windows of a forgotten class, answered with it in int8: %", "<=", 0.5),
    "worst_growth_step": ("cost over size, worst step", "<=", GROWTH_LIMIT),
}
SUBJECTS: Final = {
    "bare_loop": "bare loop",
    "node_red": "Node-RED",
    "agent": "agent",
    "agent_int8": "agent, int8",
}
STAGES: Final = {
    "model": "model",
    "mqtt": "MQTT both ways, threads",
    "answer": "masks, softmax, answers",
    "examine": "checks of the samples",
    "cache": "cache",
    "json": "JSON",
    "read": "reading the message",
}
PHASES: Final = {  # the phase that ends what the words say
    "probing": "the job's files are written",
    "editing": "torch starts, probing",
    "gating": "editing",
    "exporting": "gate",
    "verifying": "export, and int8 if there is one",
    "committing": "sealing and loading",
    "done": "swap, erasing, certificate",
}


def make(results: Path) -> Content:
    """Targets, then a section for each part of the run."""
    rows = load(results / FILE)
    if not rows:
        return Content([])
    known, facts = Figures(rows), origin(results / FILE)
    sections = [
        f"Measured at commit {facts['commit']} on {made_with(facts)}.",
        section("Targets", _targets(known)),
        section("Serving", _serving(known), _limits(known), _latency(known), _swaps(known)),
        section("Where the time of a window goes", _breakdown(known)),
        section("Forgetting", _forgetting(known), _phases(known), _curve(known)),
        section("The model in int8", _int8(known)),
        section("Growth", _growth(known)),
    ]
    return Content(sections, figures={"speed_serving": _draw_serving(known), "speed_time": _draw_time(known)})


def _targets(known: Figures) -> str:
    """Each target of the project, and whether this run met it; the worst width counts."""
    values, body = summary(known), []
    for key, (words, sign, limit) in TARGETS.items():
        value = values[key]
        holds = value is not None and (value >= limit if sign == ">=" else value <= limit)
        verdict = NONE if value is None else met(holds)
        body.append([words, NONE if value is None else f"{value:.4g}", f"{sign} {limit:g}", verdict])
    return grid(("target", "measured", "limit", ""), body)


def _serving(known: Figures) -> str:
    head = ("windows/s (CPU us per window, MiB)", *AT)
    body = []
    for subject, words in SUBJECTS.items():
        part, cells = _part(subject), []
        for at in AT:
            values = [known.get(part, subject, at, name) for name in ("windows_per_s", "cpu_us_per_window", "rss_mib")]
            rate, *more = (optional(value, 0) for value in values)
            cells.append(f"{rate} ({', '.join(more)})")
        body.append([words, *cells])
    for threads in (1, 2):
        rates = [known.get("serving", "bare_model", at, f"windows_per_s_{threads}_threads") for at in AT]
        body.append(
            [
                f"model alone, {threads} thread{'s' * (threads > 1)}",
                *(optional(rate, 0) for rate in rates),
            ]
        )
    return grid(head, body)


def _limits(known: Figures) -> str:
    rate = known.get("serving", "bare_broker", "", "windows_per_s")
    told = "" if rate is None else f"A subscriber that only acknowledges takes {rate:.0f} windows/s. "
    return f"{told}One model thread each; windows of 36,864 bytes, queued at the broker, median of the rounds."


def _latency(known: Figures) -> str:
    body = []
    for subject in ("bare_loop", "node_red", "agent"):
        values = [known.get("serving", subject, "width 32", name) for name in ("p50_ms", "p99_ms")]
        body.append([SUBJECTS[subject], *(optional(value, 1) for value in values)])
    return grid(("from publish to diagnosis at 100 windows/s, width 32", "p50 ms", "p99 ms"), body)


def _swaps(known: Figures) -> str:
    body = []
    for words, kind in (("around a hot swap", "swap"), ("as long a stretch without one", "usual")):
        values = [known.get("swaps", "agent", AT[0], f"{name}_longest_ms") for name in (kind, f"{kind}s")]
        body.append([words, *(optional(value, 1) for value in values)])
    return grid(("longest answer at 200 windows/s, cache full, width 16", "median ms", "worst ms"), body)


def _breakdown(known: Figures) -> str:
    body = []
    for stage, words in STAGES.items():
        values = [known.get("breakdown", stage, at, "us_per_window") for at in AT]
        body.append([words, *(optional(value, 0) for value in values)])
    return grid(("CPU us per window", *AT), body)


def _forgetting(known: Figures) -> str:
    lines = (
        ("forget, 512 windows: s", "agent", "seconds", 1),
        ("retraining: s", "retrain", "seconds", 0),
        ("DELETE, 20 epochs: s", "delete", "seconds", 0),
        ("steps of the edit", "agent", "steps", 0),
        ("peak memory of the job: MiB", "agent", "child_peak_mib", 0),
        ("p99 before, ms", "agent", "p99_ms_before", 1),
        ("p99 meanwhile, ms", "agent", "p99_ms_meanwhile", 1),
        ("longest before, ms", "agent", "longest_ms_before", 1),
        ("longest meanwhile, ms", "agent", "longest_ms_meanwhile", 1),
    )
    body = []
    for words, subject, quantity, digits in lines:
        values = [known.get("forgetting", subject, at, quantity) for at in AT]
        body.append([words, *(optional(value, digits) for value in values)])
    return grid(("", *AT), body)


def _phases(known: Figures) -> str:
    columns = [_spans(known, at) for at in AT]
    body = [[words, *(optional(column[row], 1) for column in columns)] for row, words in enumerate(PHASES.values())]
    return grid(("where the seconds go", *AT), body)


def _spans(known: Figures, at: str) -> list[float | None]:
    """Seconds from the first word of one phase to that of the next."""
    ends = [known.get("forgetting", "agent", at, f"{phase}_after_s") for phase in PHASES]
    starts = [0.0, *ends[:-1]]
    return [None if end is None or start is None else end - start for start, end in zip(starts, ends, strict=True)]


def _curve(known: Figures) -> str:
    body = []
    for at in [f"{size} cached" for size in known.sizes("forgetting", "seconds", "cached")]:
        used, seconds = (known.get("forgetting", "agent", at, name) for name in ("windows_used", "seconds"))
        body.append([at, optional(used, 0), optional(seconds, 1)])
    words = "`forget.max_windows` (512) bounds what a job is given, and so its time."
    return f"{grid(('windows', 'used', 's'), body)}\n\n{words}"


def _int8(known: Figures) -> str:
    body = []
    for words, quantity, digits in (
        ("CPU us per window, model alone", "us_per_window", 0),
        ("model.onnx: KiB", "model_kib", 0),
        ("test accuracy, %", "acc_test", 2),
        ("Acc_ft after forgetting, %", "acc_ft", 2),
        ("Acc_rt after forgetting, %", "acc_rt", 2),
    ):
        cells = []
        for at in AT:
            values = [known.get("int8", precision, at, quantity) for precision in ("float32", "int8")]
            cells += [optional(value, digits) for value in values]
        body.append([words, *cells])
    head = [f"{at}, {precision}" for at in AT for precision in ("float32", "int8")]
    return grid(("", *head), body)


def _growth(known: Figures) -> str:
    body = []
    for at in known.settings("growth", "windows_per_s", ""):
        values = [known.get("growth", "agent", at, name) for name in ("windows_per_s", "cpu_us_per_window", "p99_ms")]
        cells = [optional(value, digits) for value, digits in zip(values, (0, 0, 1), strict=True)]
        body.append([at, *cells])
    return grid(("width 16; else 1 asset, 9 channels, 1024 samples", "windows/s", "CPU us per window", "p99 ms"), body)


def _draw_serving(known: Figures) -> Figure:
    """Windows per second by width."""
    figure = figures.blank(7.2, 3.4)
    axes = figures.panels(figure, 1, len(AT))
    for one, at in zip(axes, AT, strict=True):
        bars = {words: known.get(_part(subject), subject, at, "windows_per_s") for subject, words in SUBJECTS.items()}
        bars["model alone"] = known.get("serving", "bare_model", at, "windows_per_s_1_threads")
        names = [name for name, value in bars.items() if value is not None]
        values = [bars[name] or 0.0 for name in names]
        colours = [figures.BLUE if name.startswith("agent") else figures.GREY for name in names]
        one.barh(range(len(names)), values, color=colours)
        for place, value in enumerate(values):
            one.text(value, place, f" {value:.0f}", va="center", fontsize=7)
        one.set_yticks(range(len(names)), names if at == AT[0] else [""] * len(names))
        one.invert_yaxis()
        one.set_xlim(0, 1.25 * max(values, default=1.0))
        one.grid(visible=False)
        one.set_title(at)
        one.set_xlabel("windows/s")
    return figure


def _part(subject: str) -> str:
    return "int8" if subject == "agent_int8" else "serving"


def _draw_time(known: Figures) -> Figure:
    """Shares of a window's CPU, and of a forget command's seconds, by width."""
    figure = figures.blank(7.2, 3.6)
    left, right = figures.panels(figure, 1, 2)
    windows = [[known.get("breakdown", stage, at, "us_per_window") or 0.0 for at in AT] for stage in STAGES]
    _stack(left, windows, list(STAGES.values()), "% of the CPU of a window")
    spans = [[span or 0.0 for span in row] for row in zip(*(_spans(known, at) for at in AT), strict=True)]
    _stack(right, spans, list(PHASES.values()), "% of the time of a forget command")
    return figure


def _stack(axes: Axes, parts: Sequence[Sequence[float]], names: Sequence[str], label: str) -> None:
    totals = [sum(column) or 1.0 for column in zip(*parts, strict=True)]
    below = [0.0] * len(totals)
    for place, (values, name) in enumerate(zip(parts, names, strict=True)):
        shares = [100 * value / total for value, total in zip(values, totals, strict=True)]
        hatch = "" if place < 4 else "///"  # told apart without their hues
        axes.bar(range(len(totals)), shares, bottom=below, label=name, color=figures.COLOURS[place], hatch=hatch)
        below = [one + more for one, more in zip(below, shares, strict=True)]
    axes.set_xticks(range(len(totals)), [at.removeprefix("width ") for at in AT])
    axes.set_xlabel("width")
    axes.set_ylabel(label, fontsize="small")
    axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


TABLE: Final = Table(
    "speed",
    "Speed",
    """Everything in one run on one machine, so that what counts are ratios. The bare loop is the shortest honest
script: subscribe, run the model, publish; it checks, caches and counts nothing. The agent caches meanwhile, and its
metrics are read once a second. What sends the windows, and the broker, share the two cores. Node-RED runs the same
model by onnxruntime-node in a function node. CPU is that of the process that answers, all its threads. Retraining is
timed whole at width 16; at the other widths some steps of it are, times the epochs of the whole.""",
    "python -m benchmarks.speed",
    make,
)
