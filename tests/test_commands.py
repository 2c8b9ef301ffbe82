"""Commands, labels and topics: text from outside becomes a typed value or a refusal with a code."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.core.errors import Refused
from edge_agent.schemas.commands import (
    MOST_BYTES,
    MOST_CLASSES,
    Label,
    UnlearnCommand,
    class_list,
    parse_label,
    parse_unlearn,
)
from edge_agent.schemas.topics import Topics

TOPICS = Topics("edge/press-7")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
unlearn_like = st.dictionaries(st.sampled_from(["id", "expires_at", "reason", "mode"]), json_values)
label_like = st.dictionaries(st.sampled_from(["seq", "class", "boot", "label"]), json_values)


def _unlearn(classes: str, payload: bytes) -> UnlearnCommand | Refused:
    try:
        return parse_unlearn(classes, payload)
    except Refused as refusal:
        return refusal


def _label(payload: bytes) -> Label | Refused:
    try:
        return parse_label(payload)
    except Refused as refusal:
        return refusal


def _code(outcome: object) -> str:
    assert isinstance(outcome, Refused)
    return outcome.code


def _is_a_command_or_a_refusal(outcome: UnlearnCommand | Refused) -> None:
    if isinstance(outcome, Refused):
        assert outcome.code in {"E_TOO_LONG", "E_JSON", "E_CLASS"}
        assert len(outcome.reason) < 400
    else:
        assert 1 <= len(outcome.classes) <= MOST_CLASSES
        assert list(outcome.classes) == sorted(set(outcome.classes))
        assert outcome.expires_at is None or outcome.expires_at.tzinfo is not None


def _is_a_label_or_a_refusal(outcome: Label | Refused) -> None:
    if isinstance(outcome, Refused):
        assert outcome.code in {"E_TOO_LONG", "E_LABEL"}
        assert len(outcome.reason) < 400
    else:
        assert 0 <= outcome.seq < 2**63
        assert len(outcome.label) <= 64


@given(classes=st.text(max_size=200), payload=st.binary(max_size=300))
@example(classes="a", payload=b"\xff\xfe{\x00}\x00")
@example(classes="a", payload=b'{"\\ud800": 1}')
@example(classes="a", payload=b'{"reason": "\\ud800"}')
@example(classes="a", payload=b'{"id": ' + b"9" * 5000 + b"}")
@example(classes="a", payload=b'{"expires_at": 1e400}')
@example(classes="a", payload=b'{"expires_at": ' + b"9" * 400 + b"}")
@settings(max_examples=300)
def test_any_bytes_are_a_command_or_a_refusal(classes: str, payload: bytes) -> None:
    _is_a_command_or_a_refusal(_unlearn(classes, payload))


@given(content=json_values | unlearn_like)
@settings(max_examples=400)
def test_any_json_is_a_command_or_a_refusal(content: Any) -> None:
    _is_a_command_or_a_refusal(_unlearn("IF-1", json.dumps(content).encode()))


@given(payload=st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes_are_a_label_or_a_refusal(payload: bytes) -> None:
    _is_a_label_or_a_refusal(_label(payload))


@given(content=json_values | label_like)
@settings(max_examples=400)
def test_any_json_is_a_label_or_a_refusal(content: Any) -> None:
    _is_a_label_or_a_refusal(_label(json.dumps(content).encode()))


def test_an_empty_payload_is_a_command_without_an_id() -> None:
    command = parse_unlearn("IF-1", b"")
    assert (command.classes, command.id, command.expires_at, command.reason) == (("IF-1",), None, None, "")
    assert command.digest == parse_unlearn("IF-1", b"{}").digest


def test_several_classes_are_sorted_and_each_stands_once() -> None:
    command = parse_unlearn("OF-2, IF-1,OF-2", b"")
    assert command.classes == ("IF-1", "OF-2")
    assert command.name == "IF-1,OF-2"


def test_the_digest_depends_on_content_and_not_on_layout() -> None:
    one = parse_unlearn("a,b", b'{"id": "7", "reason": "worn"}')
    assert one.digest == parse_unlearn("b,a", b'{ "reason":"worn","id":"7" }').digest
    others = [parse_unlearn("a", b'{"id":"7","reason":"worn"}'), parse_unlearn("a,b", b'{"id":"7","reason":"torn"}')]
    assert len({one.digest, *(other.digest for other in others)}) == 3
    # Sent once more it holds for longer, and is the same command.
    again = parse_unlearn("a,b", b'{"id":"7","reason":"worn","expires_at":"2030-01-01T00:00:00+00:00"}')
    assert one.digest == again.digest


@pytest.mark.parametrize("classes", ["", "a,,b", "a/b", "#", "-a", ".", "a\nb", "x" * 65, "ä", "a\0"])
def test_what_is_no_class_name_is_refused(classes: str) -> None:
    outcome = _unlearn(classes, b"")
    assert _code(outcome) == "E_CLASS"
    assert "is no class name" in str(outcome)


@pytest.mark.parametrize("name", ["OR007@6", "NC", "IF-0.5", "belt worn", "x" * 64, "_a"])
def test_class_names_of_real_data_sets_pass(name: str) -> None:
    assert parse_unlearn(name, b"").classes == (name,)


def test_too_many_classes_are_refused_with_the_limit() -> None:
    names = [f"c{number}" for number in range(MOST_CLASSES + 1)]
    assert len(parse_unlearn(",".join(names[:-1]), b"").classes) == MOST_CLASSES
    outcome = _unlearn(",".join(names), b"")
    assert _code(outcome) == "E_CLASS"
    assert "33 classes, limit 32" in str(outcome)


@pytest.mark.parametrize("id_", ["", "x" * 65, "a b", "a/b", "ü", "a\n", 7, True, ["a"]])
def test_a_bad_id_is_refused_by_name(id_: object) -> None:
    outcome = _unlearn("a", json.dumps({"id": id_}).encode())
    assert _code(outcome) == "E_JSON"
    assert "id: " in str(outcome)


@pytest.mark.parametrize("id_", ["7", "x" * 64, "line-3:2026.11_a"])
def test_a_good_id_passes(id_: str) -> None:
    assert parse_unlearn("a", json.dumps({"id": id_}).encode()).id == id_


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T06:00:00Z", datetime(2026, 11, 24, 6, tzinfo=timezone.utc)),
        ("2026-11-24T06:00:00+02:00", datetime(2026, 11, 24, 6, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_an_expiry_with_a_zone_is_read(text: str, expected: datetime) -> None:
    assert parse_unlearn("a", json.dumps({"expires_at": text}).encode()).expires_at == expected


@pytest.mark.parametrize("value", ["2026-11-24T06:00:00", "tomorrow", "", [], True, 1e300, float("nan")])
def test_an_expiry_without_a_zone_or_a_meaning_is_refused(value: object) -> None:
    outcome = _unlearn("a", json.dumps({"expires_at": value}).encode())
    assert _code(outcome) == "E_JSON"
    assert "expires_at: " in str(outcome)


@pytest.mark.parametrize("payload", [b"null", b"[]", b'"a"', b"1", b"NaN", b"{", b"\xff", b"{} {}", b" "])
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    assert _code(_unlearn("a", payload)) == "E_JSON"
    assert _code(_label(payload)) == "E_LABEL"


def test_an_unknown_key_is_refused_by_name() -> None:
    outcome = _unlearn("a", b'{"mode": "fast"}')
    assert _code(outcome) == "E_JSON"
    assert "mode: " in str(outcome)


def test_a_refusal_does_not_repeat_what_the_sender_wrote() -> None:
    assert "secret" not in str(_unlearn("a", b'{"id": "not a secret"}'))


def test_a_payload_is_read_up_to_its_limit() -> None:
    longest = b"{}".ljust(MOST_BYTES)
    assert parse_unlearn("a", longest).classes == ("a",)
    for outcome in (_unlearn("a", longest + b" "), _label(longest + b" ")):
        assert _code(outcome) == "E_TOO_LONG"
        assert f"{MOST_BYTES + 1} bytes, at most {MOST_BYTES}" in str(outcome)


@pytest.mark.parametrize("depth", [100, 900, 2000, 8000])
def test_deep_json_is_refused(depth: int) -> None:
    arrays = b"[" * depth + b"]" * depth
    objects = b'{"a":' * (depth // 4) + b"1" + b"}" * (depth // 4)
    for payload in (arrays, objects, b'{"reason":' + arrays + b"}"):
        assert _code(_unlearn("a", payload)) == "E_JSON"
        assert _code(_label(payload)) == "E_LABEL"


def test_a_label_is_read_with_and_without_a_boot() -> None:
    assert parse_label(b'{"seq": 0, "class": "NC"}') == Label(0, None, "NC")
    assert parse_label(b'{"seq": 9223372036854775807, "class": "NC", "boot": "b"}') == Label(2**63 - 1, "b", "NC")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"class": "NC"}, "seq"),
        ({"seq": 1}, "class"),
        ({"seq": -1, "class": "NC"}, "seq"),
        ({"seq": 2**63, "class": "NC"}, "seq"),
        ({"seq": "1", "class": "NC"}, "seq"),
        ({"seq": 1.0, "class": "NC"}, "seq"),
        ({"seq": True, "class": "NC"}, "seq"),
        ({"seq": 1, "class": "x" * 65}, "class"),
        ({"seq": 1, "class": None}, "class"),
        ({"seq": 1, "label": "NC"}, "class"),
        ({"seq": 1, "class": "NC", "boot": 3}, "boot"),
        ({"seq": 1, "class": "NC", "boot": "x" * 65}, "boot"),
        ({"seq": 1, "class": "NC", "sure": True}, "sure"),
    ],
)
def test_a_malformed_label_is_refused_with_the_key(content: object, word: str) -> None:
    outcome = _label(json.dumps(content).encode())
    assert _code(outcome) == "E_LABEL"
    assert f"{word}: " in str(outcome)


def test_topics_are_told_apart() -> None:
    assert TOPICS.parse("edge/press-7/windows/de_x") == ("window", "de_x")
    assert TOPICS.parse("edge/press-7/labels/de_x") == ("label", "de_x")
    assert TOPICS.is_plant_wide("unlearn/IF-1")
    assert not TOPICS.is_plant_wide("edge/press-7/unlearn/IF-1")


@pytest.mark.parametrize("asset", ["A", "x" * 64, "press-7.de_x"])
def test_a_good_asset_name_passes(asset: str) -> None:
    assert TOPICS.parse(f"edge/press-7/windows/{asset}") == ("window", asset)


@pytest.mark.parametrize("asset", ["", "x" * 65, "a b", "ä", "a\n", "a\0", "a+b", "a#"])
@pytest.mark.parametrize("kind", ["windows", "labels"])
def test_a_bad_asset_name_is_refused(kind: str, asset: str) -> None:
    with pytest.raises(Refused, match="is not 1 to 64 of") as caught:
        TOPICS.parse(f"edge/press-7/{kind}/{asset}")
    assert caught.value.code == "E_ASSET"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "windows/a",
        "edge/press-8/windows/a",
        "edge/press-7/windows",
        "edge/press-7/windows/a/b",
        "edge/press-7/unlearn/IF-1/status",
        "unlearn/IF-1/status",
        "x" * 60_000,
    ],
)
def test_a_topic_that_was_not_asked_for_is_refused(topic: str) -> None:
    with pytest.raises(Refused, match="nothing is expected") as caught:
        TOPICS.parse(topic)
    assert caught.value.code == "E_TOPIC"
    assert len(caught.value.reason) < 200


@given(topic=st.text(max_size=40) | st.text("a/+#", max_size=8).map("edge/press-7/windows/".__add__))
@settings(max_examples=200)
def test_any_topic_is_known_or_refused(topic: str) -> None:
    try:
        _, name = TOPICS.parse(topic)
    except Refused:
        return
    assert "/" not in name


def test_commands_go_first_wherever_they_come_from() -> None:
    assert TOPICS.is_command("unlearn/IF-1")
    assert TOPICS.is_command(TOPICS.unlearn("IF-1"))
    assert TOPICS.is_command("edge/press-7/models/pumps/unlearn/IF-1")
    assert not TOPICS.is_command("edge/press-7/windows/unlearn")
    assert not TOPICS.is_command("edge/press-7/labels/unlearn")


def test_every_subscription_is_parsed_and_nothing_published_comes_back_in() -> None:
    for topic_filter in TOPICS.subscriptions(models=True):
        topic = topic_filter.replace("+", "a")
        assert TOPICS.is_command(topic) or TOPICS.parse(topic)[1] == "a"
    own = [TOPICS.status, TOPICS.release, TOPICS.refused, TOPICS.diagnosis("a"), TOPICS.unlearn_status("a")]
    heads = {topic_filter.removesuffix("+") for topic_filter in TOPICS.subscriptions()}
    assert [topic for topic in own if topic.rpartition("/")[0] + "/" in heads] == []


@given(st.lists(st.sampled_from(["IF-1", "OF-1", " IF-1", "OF-1, IF-1", "Normal "]), min_size=1))
def test_a_tool_and_the_agent_call_a_list_of_classes_by_the_same_name(texts: list[str]) -> None:
    # A tool that was given "OF-1,IF-1" waited under this name, while the agent answered under IF-1,OF-1.
    classes = class_list(*texts)
    assert parse_unlearn(",".join(classes), b"").classes == parse_unlearn(",".join(texts), b"").classes == classes
