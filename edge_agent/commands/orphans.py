"""What models have left that the configuration does not name any more."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edge_agent.core.errors import BrokenRelease
from edge_agent.files import is_folder, listed, storage
from edge_agent.schemas.card import CARD, parse_card
from edge_agent.settings import MODELS


def orphans(root_dir: Path, configured: Collection[str], unread: Collection[str] = ()) -> dict[str, set[str]]:
    """The classes that their releases know, by model; an agent does not touch them, and they may still be opened.

    Args:
        unread: the classes that a release is taken to know whose card cannot be read.

    Raises:
        StorageFailed: the disk cannot say which models there are.
    """
    with storage("the models cannot be listed"):
        left = [path for path in listed(root_dir / MODELS) if is_folder(path) and path.name not in configured]
    return {path.name: known_in(path, unread) for path in left}


def known_in(folder: Path, unread: Collection[str] = ()) -> set[str]:
    """The classes that the releases in a model's state directory know, by their cards."""
    known: set[str] = set()
    try:
        for release in listed(folder / "releases"):
            known.update(_living(release / CARD, unread))
    except OSError:
        known.update(unread)
    return known


def _living(path: Path, unread: Collection[str]) -> Collection[str]:
    try:
        return parse_card(path.read_bytes()).living
    except FileNotFoundError:
        return ()
    except (OSError, BrokenRelease):
        return unread
