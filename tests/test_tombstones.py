"""What stays erased: tombstones in the journal, the audit log and the live release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.adapters.audit import AuditLog, read_rows
from edge_agent.adapters.releases import read_release
from edge_agent.clock import Clock
from edge_agent.masks import erased_classes, unwelcome
from tests.offline import done


def row(event: str, **content: Any) -> dict[str, Any]:
    return {"event": event, "content": content}


def test_a_class_that_was_erased_stays_so_whatever_is_left_of_its_probation_in_the_journal() -> None:
    """A crash between the audit log's row and the journal's left a class that a release could bring back."""
    assert erased_classes([done("hum", kept_s=5.0)], [row("class.erased", id="job-hum", classes=["hum"])]) == {"hum"}


def test_a_revival_counts_also_where_the_journal_is_lost(toy_release: Path) -> None:
    live = read_release(toy_release).card.model_copy(update={"forgotten": ("hum",)})
    rows = [row("class.erased", id="a", classes=["hum"]), row("class.revived", **{"class": "hum"})]
    assert erased_classes([], rows[:1], live) == {"hum"}
    assert erased_classes([], rows, live) == frozenset()


def test_during_a_probation_only_the_parent_may_bring_the_class_back() -> None:
    """Any release that knew the class could be adopted, and undid the forgetting."""
    states = [done("hum", kept_s=5.0, release_before="parent", release_after="child"), done("whine")]
    erased = erased_classes(states)
    assert erased == {"hum", "whine"}
    assert unwelcome(erased, states, "parent") == {"whine"}
    assert unwelcome(erased, states, "another") == {"hum", "whine"}


def test_a_damaged_row_tells_of_no_erasure(tmp_path: Path) -> None:
    """One flipped bit in a name hid a living class, and no release was good enough for the agent to start."""
    log = AuditLog(tmp_path / "audit.jsonl", Clock(tmp_path / "clock"))
    log.append("class.erased", id="a", classes=["IF-1"])
    log.close()
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"IF-1", b"IF-0"))
    log = AuditLog(path, Clock(tmp_path / "clock"))
    assert erased_classes([], log.rows) == erased_classes([], read_rows(path)) == frozenset()
    log.close()


def test_an_agent_remembers_few_rows_of_a_long_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", Clock(tmp_path / "clock"))
    for _ in range(50):
        log.append("command.failed", id="a", classes=["hum"], code="E_GATE", reason="")
    log.append("class.erased", id="a", classes=["hum"])
    log.close()
    again = AuditLog(tmp_path / "audit.jsonl", Clock(tmp_path / "clock"))
    assert [one["event"] for one in again.rows] == ["class.erased"]
    assert again.head.n == 51
    again.close()
