"""``edge-agent quantise``: a release once more, with a model in int8 beside the one in float32."""

from __future__ import annotations

from pathlib import Path

import torch

from edge_agent.adapters import checkpoints
from edge_agent.adapters.releases import Release, read_release, write_card
from edge_agent.core.errors import BrokenRelease, Misconfigured
from edge_agent.core.evidence import prepare
from edge_agent.files import appearing
from edge_agent.int8 import Int8Verdict, add
from edge_agent.schemas.card import DREAMS, INT8, WEIGHTS

SEED = 0  # of the noise on some dreams


def quantise(release: Path, out: Path) -> tuple[Release, Int8Verdict]:
    """Write the release into the new folder ``out``; nothing is left there if that fails.

    Raises:
        Misconfigured: ``E_DATA``, the folder is there already, or the release has an int8 model.
        BrokenRelease: the release cannot be used, has no dreams (``E_DREAMS``) or loses too much (``E_PRECISION``).
    """
    if out.exists():
        raise Misconfigured("E_DATA", f"{out} is there already")
    found = read_release(release)
    if INT8 in found.card.files:
        raise Misconfigured("E_DATA", f"release {found.digest[:12]} has an int8 model already")
    if DREAMS not in found.card.files:
        raise BrokenRelease("E_DREAMS", "the release has no dreams, from which the ranges of an int8 model are taken")
    network = checkpoints.load_network(found.read(WEIGHTS), found.card)
    dreams, generator = checkpoints.load_dreams(release / DREAMS), torch.Generator().manual_seed(SEED)
    forgotten = found.card.indices(found.card.forgotten)
    calibration, evidence = prepare(dreams, network, forgotten, found.card.margins, generator)
    with appearing(out) as folder:
        for name in found.card.files:
            (folder / name).write_bytes(found.read(name))
        write_card(folder, found.card)
        verdict = add(folder, network, calibration, evidence, None, threads=1)
        if verdict.complaint is not None:
            raise BrokenRelease("E_PRECISION", verdict.complaint)
    return read_release(out), verdict
