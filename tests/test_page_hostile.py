"""The page's service and what is done to it: strangers, nonsense, damaged files, browsers that take nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commands.local import LocalAgent
from edge_agent.page.app import HEADERS
from edge_agent.page.report import render
from tests.page_kit import JSON, TOKEN, Pages, ask, call, events, first, names, told
from tests.plant import Plant, wait_until
from tests.scripts import edge_agent

Start = Callable[..., LocalAgent]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"token": "guess"}, 403, "the token is wrong"),
        ({"headers": JSON}, 403, "the token is wrong"),
        ({"headers": {"Content-Type": "text/plain", "Authorization": f"Bearer {TOKEN}"}}, 415, "application/json"),
        ({"typed": "whin"}, 400, "typed was 'whin', expected 'whine'"),
        ({"classes": "a/#", "typed": "a/#"}, 400, "is no class name"),
        ({"model": "other"}, 404, "no such model"),
        ({"reason": "worn (asked by the boss)"}, 400, "must not hold 'asked by'"),
        ({"reason": "x" * 20_000}, 413, "more than 10000 bytes"),
    ],
)
def test_who_may_not_ask_or_asks_for_nonsense_is_told_why(
    pages: Pages, change: dict[str, Any], status: int, words: str
) -> None:
    _, page = pages()
    got, answer = ask(page, **change)
    assert got == status, answer
    assert words in answer["reason"]


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/api/audit", "/nothing", "/api/certificate?classes=x", "/api/forget"]
)
def test_every_answer_carries_the_security_headers(pages: Pages, path: str) -> None:
    _, page = pages()
    _, headers, _ = call(page, path)
    lower = {name.lower(): value for name, value in headers.items()}
    assert {name: lower.get(name.lower()) for name in HEADERS} == HEADERS
    assert "server" not in lower


def test_headers_go_with_errors_too_and_a_number_without_end_is_refused(
    pages: Pages,
) -> None:
    """Found in a review: 5,000 nines made an answer of status 500 that the security headers were missing from."""
    _, page = pages()
    status, headers, content = call(page, f"/api/audit?before={'9' * 5000}")
    assert (status, b"at most 18 digits" in content) == (400, True)
    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= headers.items()


def test_a_damaged_card_or_certificate_hides_no_other_release(
    pages: Pages,
) -> None:
    """Found in a review: one garbled file, and the line of releases was a bare status 500."""
    agent, page = pages()
    live = wait_until(lambda: told(page, "/api/releases")["line"])[0]["digest"]
    folder = agent.state_dir / "certificates"
    folder.mkdir(exist_ok=True)
    for name, content in (("a", b"\xff"), ("b", b"[]"), ("c", b'{"content":{}}')):
        (folder / f"{name}.json").write_bytes(content)
    (agent.state_dir / "releases" / ("d" * 64)).mkdir()
    (agent.state_dir / "releases" / ("d" * 64) / "card.json").write_text("[[[")
    told_now = told(page, "/api/releases")
    assert [row["digest"] for row in told_now["line"]] == [live]
    assert len(told_now["problems"]) == 4


def test_the_page_hears_on_after_a_message_that_no_parser_ends(pages: Pages, plant: Plant) -> None:
    """Found in a review: brackets without end ended paho's thread, and the page showed for ever what had been."""
    _, page = pages()
    with events(page, "m1") as stream:
        # What was sent before the page had its connection it never hears.
        first(stream, "state", lambda one: one["broker"]["connected"])
        plant.answers(plant.feed(0, 3))
        first(stream, "live", partial(names, 0))
        plant.client.publish("edge/toy/diagnosis/other", b"[" * 200_000)
        plant.answers(plant.feed(1, 3))
        first(stream, "live", partial(names, 1))


def test_names_of_the_page_are_matched_as_browsers_write_them(
    pages: Pages,
) -> None:
    _, page = pages(page='hosts = ["Press-7.plant", "fd00::5"]\n')
    for host, expected in (("press-7.plant", 200), ("PRESS-7.plant:9465", 200), ("[fd00::5]:9465", 200), ("fd00", 421)):
        assert call(page, "/", Host=host)[0] == expected, host


@pytest.mark.parametrize("asset", ["%23", "%2B", "a/b", "x" * 65])
def test_no_more_than_one_asset_can_be_watched_by_a_stream(pages: Pages, asset: str) -> None:
    # As a topic filter, "#" would have brought every window of the gateway to the page.
    _, page = pages()
    status, _, content = call(page, f"/events?asset={asset}")
    assert status == 400
    assert b"is not 1 to 64 of" in content


def test_a_name_that_is_not_the_pages_own_is_refused(pages: Pages) -> None:
    # A name of somebody else's that is made to lead to the loopback address (DNS rebinding) must read nothing.
    _, page = pages(page='hosts = ["press-7.plant"]\n')
    assert call(page, "/api/audit", Host="evil.example:9465")[0] == 421
    assert call(page, "/api/audit", Host="press-7.plant:9465")[0] == 200
    assert call(page, "/api/audit", Host="[::1]:9465")[0] == 200


def test_a_browser_that_reads_nothing_delays_no_other(pages: Pages, plant: Plant) -> None:
    _, page = pages()
    plant.answers(plant.feed(0, 5))
    deaf = []
    for _ in range(5):
        link = socket.create_connection(("127.0.0.1", int(page.url.split(":")[2].strip("/"))))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.sendall(b"GET /events?asset=m1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deaf.append(link)
    try:
        with events(page, "m1") as stream:
            for label in range(3):
                plant.answers(plant.feed(label, 5))
                first(
                    stream,
                    "live",
                    partial(names, label),
                )
    finally:
        for link in deaf:
            link.close()


def test_an_address_that_is_taken_is_said_so(tmp_path: Path, start_agent: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        agent = start_agent(f"[page]\nport = {taken.getsockname()[1]}\n")
        done = edge_agent("page", "--config", agent.config)
    assert done.returncode == 1  # with 78 systemd gave up for good, also where the address only came late
    assert "page.port" in done.stderr
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_hostile_in_a_story_becomes_markup_of_the_report() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    job = {
        "id": "c",
        "classes": [evil],
        "status": "failed",
        "phase": "gating",
        "code": "E_GATE",
        "reason": evil,
        "metrics": {},
    }
    story = {"job": job, "content": None, "accepted": {"reason": evil}}
    html = render(evil, story, evil, evil.encode())
    assert evil not in html
    assert "<img" not in html
    assert html.count("<script") == 5  # data, three libraries, the call
