"""The whole path on real windows: train, serve over a real broker, forget in the middle, and count.

    python -m benchmarks.end_to_end --data cwru --forget IR007 --json

The agent's cache is filled with labelled *training* windows of the class; the test windows are sent without labels,
so that no window on which forgetting is measured was seen by the edit. Every test window is sent before the command,
again and again while it runs, and once more after it.

Keys of the JSON object: windows, lost, repeated, mismatched (published class differs from offline ONNX Runtime on the
same window, release and mask), named_after (answers that name the class after it was accepted), acc_ft_unmasked (raw
logits of the new release on test windows of the class, nothing masked), acc_retained_before and _after,
worst_class_drop (points, the retained class that lost most), forget_s, swap_gap_ms (longest silence between the last
answer of the old release and the first of the new one), latencies in ms, cached_after (forget windows whose samples
stand in any file of the state directory), rss_mib.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import trained
from benchmarks.machine import DATA, facts, show
from benchmarks.stream import Answer, Record, Sent, Stream, paced, stream
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import Release
from edge_agent.commands.data import load_dataset
from edge_agent.commands.local import LocalAgent, local_gateway
from edge_agent.core.metrics import class_accuracies
from edge_agent.core.types import Dataset, Float32
from edge_agent.schemas.card import MODEL
from edge_agent.schemas.messages import TERMINAL

PRELOAD_PER_S = 200.0
FORGET_LIMIT_S = 1800.0
BASE = "edge/bench"


def measure(data: Dataset, release: Release, forget: str, per_s: float) -> dict[str, Any]:
    """One run with one class, in a state directory of its own."""
    label = data.classes.index(forget)
    with (
        tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as name,
        local_gateway(Path(name), "bench", release.folder) as (broker, agent),
    ):
        with stream(broker.port, BASE, data.rate_hz, data.unit) as link:
            asked_s = _story(link, data, label, per_s)
        rss_mib, torch_loaded = agent.rss_mib(), "libtorch" in Path(f"/proc/{agent.process.pid}/maps").read_text()
        agent.stop()
        return _numbers(data, release, agent, link.record, label, asked_s) | {
            "rss_mib": round(rss_mib, 1),
            "torch_loaded": torch_loaded,
        }


def _story(link: Stream, data: Dataset, label: int, per_s: float) -> float:
    """Fill the cache, stream, forget, stream; returns when forgetting was asked for."""
    forget, test = data.classes[label], data.test.windows
    stock = trained.forget_windows(data, label)
    _say(f"{forget}: {len(stock)} labelled training windows fill the cache")
    for number in paced(len(stock), PRELOAD_PER_S):
        link.send(number, stock[number], "stock", forget)
    link.settle(60)
    _say(f"{forget}: {len(test)} test windows before")
    for number in paced(len(test), per_s):
        link.send(number, test[number], "before")
    asked_s = link.command(f"{BASE}/unlearn/{forget}", b"")
    _say(f"{forget}: forgetting, test windows go on")
    deadline_s = time.monotonic() + FORGET_LIMIT_S
    while not _ended(link.record) and time.monotonic() < deadline_s:
        for number in paced(len(test), per_s):
            link.send(number, test[number], "during")
            if _ended(link.record):
                break
    link.settle(60)
    _say(f"{forget}: {len(test)} test windows after")
    for number in paced(len(test), per_s):
        link.send(number, test[number], "after")
    link.settle(60)
    return asked_s


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _ended(record: Record) -> bool:
    return bool(record.statuses) and record.statuses[-1][2]["status"] in TERMINAL


def _numbers(
    data: Dataset, before: Release, agent: LocalAgent, record: Record, label: int, asked_s: float
) -> dict[str, Any]:
    forget, test = data.classes[label], data.test
    if not record.statuses:
        raise TimeoutError(f"the agent said nothing about the command; see {agent.log_path}")
    final = record.statuses[-1][2]
    releases = {before.digest: before}
    after = agent.live_release()
    releases[after.digest] = after
    logits = {digest: _logits(one, test.windows) for digest, one in releases.items()}
    accepted = next((order for _, order, content in record.statuses if content["status"] == "accepted"), None)
    retained = test.labels != label
    scores = {part: _scores(record.of(part), data) for part in ("before", "after")}
    drops = {
        name: old - new
        for index, (name, old, new) in enumerate(zip(data.classes, scores["before"], scores["after"], strict=True))
        if index != label
    }
    worst = max(drops, key=lambda name: drops[name])
    answered_s = [(answer.heard_s, answer.release) for answer in record.answers]
    unmasked = logits[after.digest].argmax(axis=1)
    return {
        "forget": forget,
        "status": final["status"],
        "code": final["code"],
        "windows": len(record.sent),
        "lost": record.lost(),
        "repeated": record.repeated(),
        "refused": len(record.refused),
        "mismatched": _mismatched(record, data, logits),
        "named_after": sum(
            answer.name == forget for answer in record.answers if accepted is None or answer.order > accepted
        ),
        "acc_ft_unmasked": round(100 * float((unmasked[~retained] == label).mean()), 3),
        "acc_retained_before": round(_accuracy(record.of("before"), data, retained), 3),
        "acc_retained_after": round(_accuracy(record.of("after"), data, retained), 3),
        "worst_class_drop": round(drops[worst], 3),
        "worst_class": worst,
        "forget_s": round(record.statuses[-1][0] - asked_s, 3),
        "swap_gap_ms": _swap_gap_ms(answered_s, after.digest),
        "p50_ms": _latency_ms(record.of("before"), 50),
        "p99_ms": _latency_ms(record.of("before"), 99),
        "p99_ms_during_forget": _latency_ms(record.of("during"), 99),
        "cached_after": _left_behind(agent.state_dir, trained.forget_windows(data, label)),
        "steps": final["metrics"].get("steps"),
        "forget_windows": final["metrics"].get("windows"),
        "child_s": final["metrics"].get("child_s"),
        "child_peak_mib": final["metrics"].get("child_peak_mib"),
        "gate": {one["check"]: round(one["value"], 4) for one in final["metrics"].get("gate", [])},
    }


def _logits(release: Release, windows: Any) -> Any:
    model = OnnxModel(release.read(MODEL), 1)
    return np.concatenate([model.logits(windows[start : start + 64]) for start in range(0, len(windows), 64)])


def _mismatched(record: Record, data: Dataset, logits: dict[str, Any]) -> int:
    count = 0
    for part in ("before", "during", "after"):
        for sent, answer in record.of(part):
            row = logits[answer.release][sent.index].copy()
            row[[data.classes.index(name) for name in answer.masked]] = -np.inf
            count += data.classes[int(row.argmax())] != answer.name
    return count


def _scores(pairs: Sequence[tuple[Sent, Answer]], data: Dataset) -> list[float]:
    answers = np.array([data.classes.index(answer.name) for _, answer in pairs])
    labels = np.array([data.test.labels[sent.index] for sent, _ in pairs])
    return class_accuracies(answers, labels, len(data.classes))


def _accuracy(pairs: Sequence[tuple[Sent, Answer]], data: Dataset, retained: Any) -> float:
    right = [
        data.classes[data.test.labels[sent.index]] == answer.name for sent, answer in pairs if retained[sent.index]
    ]
    return 100 * float(np.mean(right))


def _latency_ms(pairs: Sequence[tuple[Sent, Answer]], percentile: float) -> float:
    return round(float(np.percentile([1000 * (answer.heard_s - sent.sent_s) for sent, answer in pairs], percentile)), 2)


def _swap_gap_ms(answered_s: list[tuple[float, str]], after: str) -> float | None:
    first = next((index for index, (_, release) in enumerate(answered_s) if release == after), None)
    if not first:
        return None
    return round(1000 * (answered_s[first][0] - answered_s[first - 1][0]), 2)


def _left_behind(state_dir: Path, stock: Float32) -> int:
    """Forget windows whose samples stand in any file of the state directory."""
    content = b"".join(path.read_bytes() for path in state_dir.rglob("*") if path.is_file())
    return sum(window[0, :64].tobytes() in content for window in stock)


def main() -> None:
    """Run for one class, or for each in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, choices=("cwru", "dsads", "rig"))
    parser.add_argument("--folder", type=Path, default=DATA, help="where the files of cwru or dsads lie")
    parser.add_argument("--forget", help="the class, or all; default: the first")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=100.0, help="windows per second")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    data = load_dataset(options.data, options.folder, options.seed)
    release = trained.release(data, options.width, options.seed)
    wanted = data.classes if options.forget == "all" else (options.forget or data.classes[0],)
    rows = []
    for name in wanted:
        rows.append(measure(data, release, name, options.rate))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    settings = {"data": data.name, "width": options.width, "seed": options.seed, "rate": options.rate}
    show({**settings, **facts(), **(rows[0] if len(rows) == 1 else _worst(rows))}, as_json=options.json)


def _worst(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all classes: what must be 0 summed up, what may differ at its worst."""
    summed = ("windows", "lost", "repeated", "mismatched", "named_after", "cached_after")
    changes = {row["forget"]: round(row["acc_retained_after"] - row["acc_retained_before"], 3) for row in rows}
    worst = min(changes, key=lambda name: changes[name])
    single = max(rows, key=lambda row: row["worst_class_drop"])
    return {
        **{key: sum(row[key] for row in rows) for key in summed},
        "not_successful": [row["forget"] for row in rows if row["status"] != "successful"],
        "acc_ft_unmasked_max": max(row["acc_ft_unmasked"] for row in rows),
        "retained_change_worst": changes[worst],
        "retained_change_worst_class": worst,
        "retained_change_mean": round(float(np.mean(list(changes.values()))), 3),
        "class_drop_worst": single["worst_class_drop"],
        "class_drop_worst_pair": [single["forget"], single["worst_class"]],
        "forget_s_max": max(row["forget_s"] for row in rows),
        "p99_ms_max": max(row["p99_ms"] for row in rows),
        "p99_ms_during_forget_max": max(row["p99_ms_during_forget"] for row in rows),
        "by_class": rows,
    }


if __name__ == "__main__":
    main()
