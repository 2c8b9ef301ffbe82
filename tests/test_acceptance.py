"""Which commands are accepted: every reason to refuse, with its code and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from edge_agent.acceptance import check
from edge_agent.config import Forget
from edge_agent.core.errors import Refused
from edge_agent.core.margins import ClassMargins
from edge_agent.schemas.card import DREAMS, MODEL, WEIGHTS, Card
from edge_agent.schemas.commands import UnlearnCommand
from edge_agent.schemas.messages import JobState

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
CARD = Card(
    name="toy",
    classes=("a", "b", "c", "d"),
    forgotten=("d",),
    channels=("x",),
    length=64,
    rate_hz=1.0,
    unit="g",
    architecture="resnet18_1d",
    width=4,
    parent=None,
    channel_mean=(0.0,),
    channel_std=(1.0,),
    energy_floor=0.0,
    margins=(ClassMargins(),) * 4,
    self_test=((0.0,) * 4,) * 4,
    files={MODEL: "", WEIGHTS: "", DREAMS: ""},
)
COMMAND = UnlearnCommand(("a",), None, None, "", "digest")
RUNNING = JobState("other", ("b",), "d", "executing", "editing")


def refusal(
    command: UnlearnCommand = COMMAND,
    card: Card = CARD,
    unfinished: Sequence[JobState] = (),
    cached: int = 100,
    settings: Forget = Forget(),  # noqa: B008 frozen
) -> str:
    with pytest.raises(Refused) as caught:
        check(command, card, unfinished, dict.fromkeys(card.classes, cached), settings, NOW)
    return str(caught.value)


def test_a_command_for_a_class_with_windows_enough_is_accepted() -> None:
    check(COMMAND, CARD, [], {"a": 32}, Forget(), NOW)
    check(replace(COMMAND, expires_at=NOW), CARD, [], {"a": 32}, Forget(), NOW)


def test_every_other_is_refused_with_code_value_and_limit() -> None:
    assert "E_EXPIRED" in refusal(replace(COMMAND, expires_at=NOW - timedelta(seconds=1)))
    assert (
        refusal(replace(COMMAND, classes=("z",))) == "E_CLASS: class 'z' is unknown; the live release knows a, b, c, d"
    )
    assert "E_ALREADY_FORGOTTEN" in refusal(replace(COMMAND, classes=("d",)))
    assert "E_DREAMS" in refusal(card=CARD.model_copy(update={"files": {MODEL: "", WEIGHTS: ""}}))
    assert "'other' is already forgetting b" in refusal(replace(COMMAND, classes=("b",)), unfinished=[RUNNING])
    assert "1 commands wait or run, limit 1" in refusal(unfinished=[RUNNING], settings=Forget(queue=1))
    assert "1 classes would stay, at least 2 must" in refusal(replace(COMMAND, classes=("a", "b")))
    assert "E_LAST_CLASS" in refusal(unfinished=[RUNNING])  # what is on its way counts too
    assert "31 windows of a are cached, at least 32 are needed" in refusal(cached=31)
