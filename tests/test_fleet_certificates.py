"""Which certificates ``edge-agent fleet`` believes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import toy
from edge_agent.cli_fleet import _progress, _states
from edge_agent.commands import fleet
from edge_agent.commands.client import Heard
from edge_agent.schemas.certificate import KIND, VERSION
from edge_agent.signing import Signer, read_public_key

HUM = toy.CLASSES[0]
KIND_OF = {"kind": KIND, "version": VERSION}
COMMAND = {"id": "f1", "classes": [HUM]}
SIGNER, FORGER = Signer.of_seed(bytes(32)), Signer.of_seed(bytes([1]) * 32)


def certificate(signer: Signer, gateway: str = "press-1", name: str = HUM, id_: str = "f1") -> bytes:
    return signer.document({**KIND_OF, "gateway": gateway, "command": {"id": id_, "classes": [name]}})


def heard(topic: str, payload: bytes | dict[str, Any]) -> Heard:
    document = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Heard(f"edge/press-1/{topic}", json.loads(document), True, document)


def member(document: bytes, key: Signer | None = None, tmp_path: Path | None = None) -> fleet.Member:
    """A gateway that has announced SIGNER's key, succeeded, and handed over this certificate."""
    keys = {}
    if key is not None and tmp_path is not None:
        (tmp_path / "press-1.pem").write_text(key.public.pem)
        keys = {"press-1": read_public_key(tmp_path / "press-1.pem")}
    seen = fleet.Fleet("edge", keys)
    seen.hear(heard("status", {"state": "online", "public_key": SIGNER.public.pem}))
    seen.command, seen.members["press-1"].asked = ("hum", "f1"), True
    seen.hear(heard("unlearn/hum/status", {"id": "f1", "classes": ["hum"], "status": "successful"}))
    seen.hear(heard("unlearn/hum/certificate", document))
    return seen.members["press-1"]


def test_a_certificate_is_believed_if_the_gateways_key_signed_it_for_this_command(tmp_path: Path) -> None:
    assert member(certificate(SIGNER)).succeeded
    assert member(certificate(SIGNER), SIGNER, tmp_path).succeeded


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (certificate(FORGER), "it was signed with key"),
        (certificate(SIGNER, gateway="press-2"), "it is for hum of gateway press-2"),
        (certificate(SIGNER, name="whine"), "it is for whine of gateway press-1"),
        (certificate(SIGNER).replace(b'"hum"', b'"HUM"'), "the signature is not that of key"),
    ],
)
def test_a_certificate_of_somebody_or_something_else_is_not_believed(document: bytes, problem: str) -> None:
    one = member(document)
    assert one.ended
    assert not one.succeeded
    assert problem in str(one.problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({**KIND_OF, "command": COMMAND}, "gateway"),
        ({**KIND_OF, "gateway": "press-1", "command": {"id": "f1"}}, "classes"),
        ({"gateway": "press-1", "command": COMMAND}, "no edge-agent forgetting certificate of version 1"),
        ({**KIND_OF, "version": 2, "gateway": "press-1", "command": COMMAND}, "of version 1"),
    ],
)
def test_what_the_gateway_itself_has_signed_is_not_believed_if_it_is_no_certificate(
    content: dict[str, Any], problem: str
) -> None:
    """One without a gateway's name ended the tool with a KeyError; of the kind nothing was asked."""
    one = member(SIGNER.document(content))
    assert not one.succeeded
    assert problem in str(one.problem)


def test_a_pinned_key_is_believed_and_no_other_that_a_gateway_announces(tmp_path: Path) -> None:
    one = member(certificate(SIGNER), FORGER, tmp_path)
    assert not one.succeeded
    assert "it was signed with key" in str(one.problem)


def test_a_certificate_of_an_earlier_command_is_waited_past() -> None:
    one = member(certificate(SIGNER, id_="earlier"))
    assert (one.ended, one.certificate) == (False, None)


# What is heard besides


@pytest.mark.parametrize("more", [{"cached": None}, {"cached": {"a": "5"}}, {"release": None, "counters": {}}])
def test_a_gateway_that_says_odd_things_of_itself_stops_nobodys_tool(more: dict[str, Any]) -> None:
    seen = fleet.Fleet("edge", {})
    seen.hear(heard("status", {"state": "online", **more}))
    _states(seen.members)
    assert fleet.asked(seen.members, (HUM,)) == ("press-1",)


def test_a_number_in_quotes_is_shown_as_a_number() -> None:
    seen = fleet.Fleet("edge", {})
    seen.hear(heard("status", {"state": "online"}))
    seen.command = "hum", "f1"
    seen.hear(heard("unlearn/hum/status", {"id": "f1", "classes": ["hum"], "status": "executing", "progress": "0.5"}))
    assert seen.members["press-1"].status["progress"] == 0.5
    _progress(seen.members)


def test_what_gateways_say_is_shown_as_it_is_and_not_taken_for_markup() -> None:
    # A closing tag in a release's name ended the tool, after it had asked and before it had written its report.
    seen = fleet.Fleet("edge", {})
    seen.hear(heard("status", {"state": "online", "version": "[/red]", "release": "[link=x]", "masked": ["[/b]"]}))
    seen.command = "hum", "f1"
    seen.hear(heard("unlearn/hum/status", {"id": "f1", "classes": ["hum"], "status": "[/x]", "phase": "[bold]"}))
    console = Console(record=True, width=200)
    console.print(_states(seen.members))
    console.print(_progress(seen.members))
    text = console.export_text()
    assert [word in text for word in ("[/red]", "[link=x]", "[/b]")] == [True] * 3
