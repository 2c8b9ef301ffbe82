"""What the state directory tells beside the broker: the line of releases, the audit log, and jobs that have ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.adapters.audit import Head, check, read_rows
from edge_agent.adapters.journal import read_states
from edge_agent.core.errors import Misconfigured, Untrusted
from edge_agent.schemas.card import CARD
from edge_agent.schemas.messages import job_status

PAGE_ROWS = 50
SHOWN_OF_CARD = ("name", "classes", "forgotten", "parent", "architecture", "width", "metrics", "versions")


@dataclass(frozen=True)
class Records:
    """Read-only view of one model's state directory, which its agent goes on writing.

    All methods raise ``Misconfigured`` (``E_STATE``) where it cannot be read.
    """

    state_dir: Path

    def audit(self, before: int | None, published: Head | None) -> dict[str, Any]:
        """The last rows before number ``before``, and whether the whole chain holds, worked out anew.

        Args:
            published: the head that the agent last announced; a log that ends before it was cut off.
        """
        content = self._content(self.state_dir / "audit.jsonl")
        try:
            count, problem = check(content, published), None
        except Untrusted as error:
            count, problem = content.count(b"\n"), error.reason
        rows = [row for row in read_rows(self.state_dir / "audit.jsonl") if before is None or row["n"] < before]
        return {
            "rows": rows[: -PAGE_ROWS - 1 : -1],
            "count": count,
            "verified": problem is None,
            "problem": problem,
            "published": published is not None,
        }

    def lineage(self, live: str) -> list[dict[str, Any]]:
        """The live release and those it comes from, newest first, as far as cards and certificates tell."""
        cards, edits = self._cards(), {one["releases"]["after"]: one for one in self._certificates()}
        line: list[dict[str, Any]] = []
        digest: str | None = live
        while digest is not None and len(line) < len(cards) + len(edits) + 1:
            card, edit = cards.get(digest, {}), edits.get(digest)
            row = {"digest": digest, "live": digest == live, "stored": digest in cards, "card": card}
            if edit is not None:
                row |= {
                    "forgot": edit["command"]["classes"],
                    "issued": edit["issued"],
                    "command": edit["command"]["id"],
                }
            line.append(row)
            digest = edit["releases"]["before"] if edit is not None else card.get("parent")
        return line

    def job(self, id_: str) -> tuple[dict[str, Any], bytes | None]:
        """The state of a command, and its certificate if it has one."""
        try:
            states = {state.id: state for state in read_states(self.state_dir / "journal.jsonl")}
        except OSError as error:
            raise _unreadable(self.state_dir, error) from error
        if id_ not in states:
            raise Misconfigured("E_STATE", f"no command {id_!r}; there are: {', '.join(states) or 'none'}")
        documents = (document for document in self._documents() if _content(document)["command"]["id"] == id_)
        return job_status(states[id_]), next(documents, None)

    def _cards(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path in sorted((self.state_dir / "releases").glob(f"*/{CARD}")):
            card = json.loads(self._content(path))
            found[path.parent.name] = {name: card.get(name) for name in SHOWN_OF_CARD}
        return found

    def _certificates(self) -> list[dict[str, Any]]:
        return [_content(document) for document in self._documents()]

    def _documents(self) -> Iterator[bytes]:
        for path in sorted((self.state_dir / "certificates").glob("*.json")):
            yield self._content(path)

    def _content(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> Misconfigured:
    return Misconfigured("E_STATE", f"{path} cannot be read: {error.strerror}")


def _content(document: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(document)["content"]
    return content
