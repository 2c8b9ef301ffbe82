"""The inbox: bounded, in order, commands and events before windows."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.inbox import MOST_BYTES, Inbox
from edge_agent.mqtt_link import Connected, Disconnected, Message

LONG_S = 20.0  # no test waits this long unless it fails


def _message(topic: str) -> Message:
    return Message(topic, b"", retained=False, received_s=0.0)


def test_windows_come_out_in_order_and_at_most_as_many_as_asked_for() -> None:
    inbox = Inbox(10)
    sent = [_message(str(number)) for number in range(5)]
    for message in sent:
        assert inbox.put(message, first=False, timeout_s=0)
    assert len(inbox) == 5
    assert inbox.take(3, 0) == ([], sent[:3])
    assert inbox.take(3, 0) == ([], sent[3:])
    assert inbox.take(3, 0) == ([], [])


def test_commands_and_events_go_before_windows_and_are_all_taken() -> None:
    inbox = Inbox(10)
    window, command = _message("window"), _message("command")
    inbox.put(window, first=False, timeout_s=0)
    inbox.put(command, first=True, timeout_s=0)
    inbox.tell(Disconnected("gone"))
    assert inbox.take(0, 0) == ([command, Disconnected("gone")], [])
    assert inbox.take(1, 0) == ([], [window])


def test_large_messages_fill_the_inbox_sooner_and_make_room_when_they_are_taken() -> None:
    """Only their number counted: 256 of 4 MiB, which anybody may send who may publish, are a gigabyte."""
    inbox, large = Inbox(256), Message("t", bytes(MOST_BYTES // 2), retained=False, received_s=0.0)
    for first in (True, False):
        assert inbox.put(large, first=first, timeout_s=0)
    assert not inbox.put(large, first=False, timeout_s=0)
    assert inbox.take(1, 0) == ([large], [large])
    assert inbox.put(Message("t", bytes(MOST_BYTES + 1), retained=False, received_s=0.0), first=False, timeout_s=0)
    assert not inbox.put(large, first=False, timeout_s=0)


def test_all_windows_that_may_be_on_their_way_fit_however_large_they_are() -> None:
    inbox, window = Inbox(4), Message("t", bytes(MOST_BYTES // 3), retained=False, received_s=0.0)
    inbox.hold(len(window.payload))
    for _ in range(4):
        assert inbox.put(window, first=False, timeout_s=0)
    assert not inbox.put(window, first=False, timeout_s=0)


def test_a_full_inbox_turns_messages_away_and_still_takes_events() -> None:
    inbox = Inbox(2)
    for _ in range(2):
        assert inbox.put(_message("a"), first=False, timeout_s=0)
    assert not inbox.put(_message("b"), first=False, timeout_s=0.01)
    assert not inbox.put(_message("c"), first=True, timeout_s=0.01)
    inbox.tell(Connected("5", session_present=True))
    assert len(inbox) == 3
    events, windows = inbox.take(9, 0)
    assert events == [Connected("5", session_present=True)]
    assert [message.topic for message in windows] == ["a", "a"]


def test_a_sender_waits_for_room_and_goes_on_as_soon_as_there_is_some() -> None:
    inbox = Inbox(1)
    inbox.put(_message("a"), first=False, timeout_s=0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inbox.put, _message("b"), first=False, timeout_s=LONG_S)
        started_s = time.monotonic()
        assert inbox.take(1, LONG_S)[1][0].topic == "a"
        assert waiting.result(LONG_S)
        assert time.monotonic() - started_s < LONG_S / 2
    assert inbox.take(1, 0)[1][0].topic == "b"


def test_a_taker_wakes_up_for_a_message_and_for_an_event() -> None:
    inbox = Inbox(4)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(inbox.take, 4, LONG_S)
        inbox.put(_message("a"), first=False, timeout_s=0)
        assert [message.topic for message in taken.result(LONG_S / 2)[1]] == ["a"]
        taken = pool.submit(inbox.take, 4, LONG_S)
        inbox.tell(Disconnected("gone"))
        assert taken.result(LONG_S / 2)[0] == [Disconnected("gone")]


def test_an_empty_inbox_lets_its_taker_go_after_the_timeout() -> None:
    started_s = time.monotonic()
    assert Inbox(1).take(1, 0.05) == ([], [])
    assert time.monotonic() - started_s >= 0.05


@given(
    actions=st.lists(st.sampled_from(["window", "command", "event", "take"]), max_size=60), capacity=st.integers(1, 5)
)
@settings(max_examples=200)
def test_nothing_accepted_is_lost_repeated_or_reordered(actions: list[str], capacity: int) -> None:
    inbox = Inbox(capacity)
    accepted: dict[str, list[object]] = {"first": [], "windows": []}
    taken: dict[str, list[object]] = {"first": [], "windows": []}
    for number, action in enumerate([*actions, *["take"] * len(actions)]):
        if action == "take":
            events, windows = inbox.take(2, 0)
            taken["first"] += events
            taken["windows"] += windows
        elif action == "event":
            accepted["first"].append(Disconnected(str(number)))
            inbox.tell(Disconnected(str(number)))
        else:
            message = _message(str(number))
            full = len(inbox) >= capacity
            assert inbox.put(message, first=action == "command", timeout_s=0) is not full
            if not full:
                accepted["first" if action == "command" else "windows"].append(message)
    assert taken == accepted


def test_many_senders_and_one_taker_lose_nothing() -> None:
    inbox = Inbox(3)

    def send(sender: int) -> None:
        for number in range(200):
            assert inbox.put(_message(f"{sender}/{number}"), first=False, timeout_s=LONG_S)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(3)]
    for thread in threads:
        thread.start()
    topics: list[str] = []
    deadline_s = time.monotonic() + LONG_S
    while len(topics) < 600 and time.monotonic() < deadline_s:
        topics += [message.topic for message in inbox.take(2, 1.0)[1]]
    for thread in threads:
        thread.join(LONG_S)
    for sender in range(3):
        assert [topic for topic in topics if topic.startswith(f"{sender}/")] == [f"{sender}/{n}" for n in range(200)]
