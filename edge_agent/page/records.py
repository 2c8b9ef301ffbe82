"""What the state directory tells beside the broker: the line of releases, the audit log, and jobs that have ended."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.audit import Chain, Head, read_rows
from edge_agent.adapters.journal import read_states
from edge_agent.core.errors import BrokenRelease, Misconfigured, StorageFailed
from edge_agent.files import listed, read_if_there
from edge_agent.schemas.card import CARD, parse_card
from edge_agent.schemas.heard import CertificateHead
from edge_agent.schemas.messages import job_status

PAGE_ROWS = 50
SHOWN_OF_CARD: Final = {"name", "classes", "forgotten", "parent", "architecture", "width", "metrics", "versions"}


@dataclass(frozen=True)
class Records:
    """Read-only view of one model's state directory, which its agent goes on writing.

    All methods raise ``Misconfigured`` (``E_STATE``) where it cannot be read.
    """

    state_dir: Path

    def audit(self, before: int | None, published: Head | None) -> dict[str, Any]:
        """The last rows before number ``before``, and whether the whole chain holds, read anew, once.

        Args:
            published: the head that the agent last announced; a log that ends before it was cut off.
        """
        path, chain = self.state_dir / "audit.jsonl", Chain(published)
        with _readable(path), path.open("rb") as file:
            rows = deque((row for row in chain.rows(file) if before is None or row["n"] < before), PAGE_ROWS)
        return {
            "rows": list(reversed(rows)),
            "count": chain.count,
            "verified": chain.problem is None,
            "problem": chain.problem,
            "published": published is not None,
        }

    def lineage(self, live: str) -> dict[str, Any]:
        """The live release and those it comes from, newest first, as far as cards and certificates tell.

        Returns:
            ``line``, and ``problems``: what could not be read.
        """
        problems: list[str] = []
        cards = self._cards(problems)
        edits = {head.releases.after: head for _, head in self._certificates(problems)}
        line: list[dict[str, Any]] = []
        digest, knew = (live, list[str]()) if live else (None, [])
        while digest is not None and len(line) < len(cards) + len(edits) + 1:
            card, edit = cards.get(digest, {}), edits.get(digest)
            row = {"digest": digest, "live": digest == live, "stored": digest in cards, "card": card, "knew": knew}
            if edit is not None:
                row |= {
                    "forgot": edit.command.classes,
                    "issued": edit.issued,
                    "command": edit.command.id,
                    "edit": edit.edit.model_dump(exclude_none=True),
                }
                knew = edit.command.classes
            line.append(row)
            digest = edit.releases.before if edit is not None else card.get("parent")
        return {"line": line, "problems": problems}

    def job(self, id_: str) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
        """The state of a command, its certificate if it has one, and the row of the audit log in which it came."""
        try:
            states = {state.id: state for state in read_states(self.state_dir / "journal.jsonl")}
            rows = read_rows(self.state_dir / "audit.jsonl")
            asked = (row for row in rows if row["event"] == "command.accepted" and row["content"].get("id") == id_)
            accepted = next(asked, {})
        except StorageFailed as error:
            raise Misconfigured("E_STATE", error.reason) from error
        if id_ not in states:
            raise Misconfigured("E_STATE", f"no command {id_!r}; there are: {', '.join(states) or 'none'}")
        documents = (document for document, head in self._certificates([]) if head.command.id == id_)
        return job_status(states[id_]), next(documents, None), accepted

    def _cards(self, problems: list[str]) -> dict[str, dict[str, Any]]:
        found = {}
        for path in (folder / CARD for folder in _listed(self.state_dir / "releases")):
            try:
                content = read_if_there(path)
                if content is None:
                    continue  # half a release, or none
                card = parse_card(content).model_dump(mode="json", include=SHOWN_OF_CARD)
            except (OSError, BrokenRelease):
                problems.append(f"the card of release {path.parent.name[:12]} cannot be read")
                continue
            found[path.parent.name] = card
        return found

    def _certificates(self, problems: list[str]) -> list[tuple[bytes, CertificateHead]]:
        """Whether they are to be believed is for others to say."""
        found = []
        for path in _listed(self.state_dir / "certificates", end=".json"):
            with _readable(path):
                document = path.read_bytes()
            try:
                found.append((document, CertificateHead.model_validate(json.loads(document)["content"])))
            except (ValueError, LookupError, TypeError, RecursionError):  # pydantic's errors are ValueErrors
                problems.append(f"certificate {path.name} cannot be read")
        return found


def _listed(folder: Path, end: str = "") -> list[Path]:
    with _readable(folder):
        return listed(folder, end=end)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Misconfigured("E_STATE", f"{path} cannot be read: {error.strerror}") from error
