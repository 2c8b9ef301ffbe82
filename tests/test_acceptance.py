"""Which commands are accepted: every reason to refuse, with its code and its numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from edge_agent.acceptance import check, check_origin
from edge_agent.core.errors import Refused
from edge_agent.core.margins import ClassMargins
from edge_agent.schemas.card import DREAMS, MODEL, WEIGHTS, Card
from edge_agent.schemas.commands import UnlearnCommand, parse_unlearn, to_sign
from edge_agent.schemas.messages import JobState
from edge_agent.settings import Forget
from edge_agent.signing import Signer

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
OPERATOR, STRANGER = Signer.of_seed(b"o" * 32), Signer.of_seed(b"s" * 32)
KEYS = {"operator": OPERATOR.public}
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


def test_a_class_that_is_erased_but_known_to_the_release_does_not_count_among_those_that_stay() -> None:
    check(COMMAND, CARD, [], dict.fromkeys(CARD.classes, 100), Forget(), NOW)
    with pytest.raises(Refused, match="1 classes would stay, at least 2 must"):
        check(COMMAND, CARD, [], dict.fromkeys(CARD.classes, 100), Forget(), NOW, frozenset({"b"}))


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


# Signatures

BODY = {"id": "one", "audience": ["press-7", "press-8"], "expires_at": "2030-01-01T00:10:00+00:00", "key": "operator"}


def signed(signer: Signer = OPERATOR, classes: str = "a", signed_as: str = "a", **changes: Any) -> UnlearnCommand:
    body = {name: value for name, value in {**BODY, **changes}.items() if value is not None}
    body["signature"] = signer.sign(to_sign(tuple(signed_as.split(",")), body))
    return parse_unlearn(classes, json.dumps(body).encode())


def origin(command: UnlearnCommand, gateway: str = "press-7", *, required: bool = True) -> str:
    try:
        check_origin(command, gateway, KEYS, signed=required)
    except Refused as error:
        return error.code
    return ""


def test_only_a_signature_says_whose_command_it_is() -> None:
    """The audit log took the name of the key from commands that nobody had signed."""
    assert check_origin(signed(), "press-7", KEYS, signed=False) == "operator"
    named = parse_unlearn("a", json.dumps({"id": "one", "key": "operator"}).encode())
    assert check_origin(named, "press-7", KEYS, signed=False) is None


@pytest.mark.parametrize("gateway", ["press-7", "press-8"])
def test_a_signed_command_is_taken_by_every_gateway_that_it_is_for(gateway: str) -> None:
    assert origin(signed(), gateway) == ""
    assert origin(signed(classes="b,a", signed_as="a,b"), gateway) == ""


@pytest.mark.parametrize(
    "command",
    [
        signed(STRANGER),
        signed(classes="b"),
        signed(classes="a,b"),
        replace(signed(), signature="0" * 128),
        signed(key="nobody"),
        signed(key=None),
        signed(id=None),
        signed(audience=None),
        signed(audience=[]),
        signed(expires_at=None),
        parse_unlearn("a", b""),
        parse_unlearn("a", json.dumps(BODY).encode()),
    ],
)
def test_a_command_whose_signature_does_not_hold_is_refused(command: UnlearnCommand) -> None:
    assert origin(command) == "E_SIGNATURE"


@pytest.mark.parametrize("name", ["id", "expires_at", "audience", "reason"])
def test_no_field_of_a_signed_command_can_be_changed(name: str) -> None:
    values = {"id": "two", "expires_at": "2031-01-01T00:00:00Z", "audience": ["press-7"], "reason": "x"}
    body = {**BODY, "signature": OPERATOR.sign(to_sign(("a",), BODY)), name: values[name]}
    assert origin(parse_unlearn("a", json.dumps(body).encode())) == "E_SIGNATURE"


def test_a_command_for_another_gateway_is_refused_signed_or_not() -> None:
    assert origin(signed(), "press-9") == "E_AUDIENCE"
    assert origin(parse_unlearn("a", b'{"audience": ["press-9"]}'), required=False) == "E_AUDIENCE"


def test_without_the_demand_for_signatures_only_wrong_ones_are_refused() -> None:
    assert origin(parse_unlearn("a", b""), required=False) == ""
    assert origin(signed(), required=False) == ""
    assert origin(signed(STRANGER), required=False) == "E_SIGNATURE"
