"""What models have left that the configuration does not name any more."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edge_agent.core.errors import BrokenRelease
from edge_agent.schemas.card import CARD, parse_card
from edge_agent.settings import MODELS


def orphans(root_dir: Path, configured: Collection[str]) -> dict[str, set[str]]:
    """The classes that their releases know, by model; an agent does not touch them, and they may still be opened."""
    left = {path.name: path for path in (root_dir / MODELS).glob("*") if path.is_dir() and path.name not in configured}
    return {name: known_in(path) for name, path in sorted(left.items())}


def known_in(folder: Path) -> set[str]:
    """The classes that the releases in a model's state directory know, by their cards."""
    known: set[str] = set()
    for path in (folder / "releases").glob(f"*/{CARD}"):
        try:
            known.update(parse_card(path.read_bytes()).living)
        except (OSError, BrokenRelease):
            continue
    return known
