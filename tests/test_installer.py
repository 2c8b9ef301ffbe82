"""What is made beside the thread that answers windows."""

from __future__ import annotations

import threading

import pytest

from edge_agent.core.errors import BrokenRelease
from edge_agent.installer import Installer
from tests.plant import wait_until


def test_who_asks_never_waits_and_gets_what_was_made_once() -> None:
    installer, go_on, calls = Installer[int](), threading.Event(), list[int]()

    def make() -> int:
        assert go_on.wait(30)
        calls.append(1)
        return len(calls)

    assert installer.made("a", make) is None
    assert installer.made("a", make) is None
    go_on.set()
    assert wait_until(lambda: installer.made("a", make)) == 1
    assert wait_until(lambda: installer.made("a", make)) == 2


def test_what_nobody_has_come_for_gives_way_to_what_is_wanted_now() -> None:
    installer, go_on = Installer[str](), threading.Event()
    assert installer.made("old", lambda: str(go_on.wait(30))) is None
    assert installer.made("new", lambda: "new") is None
    go_on.set()
    assert wait_until(lambda: installer.made("new", lambda: "new")) == "new"


def test_an_error_reaches_who_asks_and_the_next_attempt_begins_anew() -> None:
    installer, outcomes = Installer[str](), ["broken", "whole"]

    def make() -> str:
        if (outcome := outcomes.pop(0)) == "broken":
            raise BrokenRelease("E_MODEL", outcome)
        return outcome

    def ask() -> str | None:
        return installer.made("a", make)

    with pytest.raises(BrokenRelease, match="broken"):
        wait_until(ask)
    assert wait_until(ask) == "whole"


def test_what_is_given_up_is_waited_for_and_handed_over_so_that_it_can_be_undone() -> None:
    installer, go_on = Installer[str](), threading.Event()
    assert installer.discard() is None
    assert installer.made("a", lambda: str(go_on.wait(30))) is None
    threading.Timer(0.05, go_on.set).start()
    assert installer.discard() == "True"
    assert wait_until(lambda: installer.made("a", lambda: "anew")) == "anew"


def test_what_is_given_up_and_could_not_be_made_is_nothing() -> None:
    installer, go_on = Installer[int](), threading.Event()
    assert installer.made("a", lambda: 1 // (not go_on.wait(30))) is None
    go_on.set()
    assert installer.discard() is None
