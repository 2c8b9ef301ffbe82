"""The ratios of one run that the project's targets are about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from benchmarks.speed.figures import Figures
from benchmarks.speed.growth import USUAL

WIDTHS: Final = (16, 32, 64)
AT: Final = tuple(f"width {width}" for width in WIDTHS)
GROWTH_LIMIT: Final = 1.05  # 1 is linear; the rest is what a machine's speed wanders within a minute
# Each kind of size that is varied, and how many there are where another kind is.
GROWN: Final = {"assets": USUAL.assets, "channels": USUAL.channels, "samples": USUAL.length}


def summary(known: Figures) -> dict[str, float | None]:
    """By the keys that ``benchmarks.speed`` documents; None where something was not measured."""
    sparse = "width 32" if known.get("starting", "agent", "width 32", "ready_s") is not None else "width 16"

    def worst(choose: Callable[[list[float]], float], part: str, pair: tuple[str, str], quantity: str) -> float | None:
        return _choose(choose, [known.ratio(part, pair, at, quantity) for at in AT])

    def own(choose: Callable[[list[float]], float], above: str, below: str) -> float | None:
        pairs = [[known.get("forgetting", "agent", at, name) for name in (above, below)] for at in AT]
        return _choose(choose, [one / other if one is not None and other else None for one, other in pairs])

    swapped, usual = (known.get("swaps", "agent", AT[0], f"{kind}s_longest_ms") for kind in ("swap", "usual"))
    idle = known.get("forgetting", "idle_torch", "", "rss_mib")
    peaks = [known.get("forgetting", "agent", at, "child_peak_mib") for at in AT]
    return {
        "agent_over_bare_loop": worst(min, "serving", ("agent", "bare_loop"), "windows_per_s"),
        "cpu_over_bare_loop": worst(max, "serving", ("agent", "bare_loop"), "cpu_us_per_window"),
        "paced_cpu_over_bare_loop": known.ratio("serving", ("agent", "bare_loop"), sparse, "paced_cpu_us_per_window"),
        "agent_over_node_red": worst(min, "serving", ("agent", "node_red"), "windows_per_s"),
        "rss_over_node_red": worst(max, "serving", ("agent", "node_red"), "rss_mib"),
        "p50_ms": known.get("serving", "agent", sparse, "p50_ms"),
        "p99_ms": known.get("serving", "agent", sparse, "p99_ms"),
        "swap_later_ms": None if swapped is None or usual is None else swapped - usual,
        "swap_lost": known.get("swaps", "agent", AT[0], "lost"),
        "p99_forget_over_idle": own(max, "p99_ms_meanwhile", "p99_ms_before"),
        "throughput_forget_over_idle": own(min, "windows_per_s_meanwhile", "windows_per_s_alone"),
        "forget_over_retrain": worst(max, "forgetting", ("agent", "retrain"), "seconds"),
        "forget_over_delete": worst(max, "forgetting", ("agent", "delete"), "seconds"),
        "child_over_idle_torch": _choose(max, [peak / idle if peak and idle else None for peak in peaks]),
        "rss_serving_mib": known.get("starting", "agent", sparse, "rss_mib"),
        "rss_loaded_mib": known.get("serving", "agent", sparse, "rss_mib"),
        "ready_s": known.get("starting", "agent", sparse, "ready_s"),
        "first_diagnosis_s": known.get("starting", "agent", sparse, "first_diagnosis_s"),
        "int8_speed_up": worst(min, "int8", ("float32", "int8"), "us_per_window"),
        "int8_size": worst(max, "int8", ("int8", "float32"), "model_kib"),
        "int8_acc_change": _choose(
            min, [_int8_change(known, at, name) for at in AT for name in ("acc_test", "acc_rt")]
        ),
        "int8_acc_ft": known.get("int8", "int8", AT[0], "acc_ft"),
        "worst_growth_step": _choose(max, list(_growth_steps(known))),
    }


def _growth_steps(known: Figures) -> Iterator[float]:
    """From one size to the next measured: times that it costs more over times that it is larger; 1 is linear."""
    usual = known.get("growth", "agent", USUAL.name, "cpu_us_per_window")
    for kind, size in GROWN.items():
        yield from _steps(_costs(known, "growth", "cpu_us_per_window", kind) | ({size: usual} if usual else {}))
    yield from _steps(_costs(known, "forgetting", "seconds", "cached"))


def _costs(known: Figures, part: str, quantity: str, kind: str) -> dict[int, float]:
    """What the agent took at each size of a kind."""
    costs = {size: known.get(part, "agent", f"{size} {kind}", quantity) for size in known.sizes(part, quantity, kind)}
    return {size: cost for size, cost in costs.items() if cost}


def _steps(costs: Mapping[int, float]) -> Iterator[float]:
    for (size, cost), (larger, dearer) in pairwise(sorted(costs.items())):
        yield (dearer / cost) / (larger / size)


def _choose(choose: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return choose(measured) if measured else None


def _int8_change(known: Figures, at: str, quantity: str) -> float | None:
    small, whole = (known.get("int8", precision, at, quantity) for precision in ("int8", "float32"))
    return None if small is None or whole is None else small - whole
