"""The page's service beside a real agent and a real broker: what it tells, whom it obeys, what it survives."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commands.local import LocalAgent, LocalBroker, LocalPage, free_port
from edge_agent.page.app import HEADERS
from edge_agent.page.report import render
from tests.plant import Plant, wait_until
from tests.scripts import NEEDS_OPENSSL, edge_agent
from tests.test_broker_security import agent_of, site_at, tls_lines

Start = Callable[..., LocalAgent]
TOKEN = "open-sesame"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def pages(tmp_path: Path, start_agent: Start) -> Iterator[Callable[..., tuple[LocalAgent, LocalPage]]]:
    """Starts an agent and its page; all are stopped at the end."""
    started: list[LocalPage] = []

    def start(extra: str = "", page: str = "") -> tuple[LocalAgent, LocalPage]:
        port, token_file = free_port(), tmp_path / "token"
        token_file.write_text(f"{TOKEN}\n")
        agent = start_agent(f"{LocalPage.settings(port, token_file)}{page}{extra}")
        started.append(LocalPage(agent, port))
        return agent, started[-1]

    yield start
    for one in started:
        assert one.stop() == 0, one.log_path.read_text()


def call(
    page: LocalPage, path: str, *, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    link = http.client.HTTPConnection(page.url.split("/")[2], timeout=20)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        link.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = link.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        link.close()


def told(page: LocalPage, path: str, **headers: str) -> Any:
    status, _, content = call(page, path, **headers)
    assert status == 200, content
    return json.loads(content)


def ask(page: LocalPage, token: str = TOKEN, headers: dict[str, str] | None = None, **wish: Any) -> tuple[int, Any]:
    body = {"model": "gateway", "classes": "whine", "typed": "whine", "reason": "test", **wish}
    given = {**JSON, "Authorization": f"Bearer {token}"} if headers is None else headers
    status, _, content = call(page, "/api/forget", method="POST", body=body, **given)
    return status, json.loads(content)


@contextmanager
def events(page: LocalPage, asset: str = "") -> Iterator[Iterator[tuple[str, Any]]]:
    """The event stream, parsed."""
    link = http.client.HTTPConnection(page.url.split("/")[2], timeout=20)
    link.request("GET", f"/events?asset={asset}")
    answer = link.getresponse()
    assert answer.status == 200

    def parsed() -> Iterator[tuple[str, Any]]:
        name = ""
        while line := answer.readline().decode().strip("\r\n") or " ":
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])

    try:
        yield parsed()
    finally:
        link.close()


def first(stream: Iterator[tuple[str, Any]], name: str, wanted: Callable[[Any], bool] = bool) -> Any:
    for number, (event, content) in enumerate(stream):
        assert number < 200, f"no {name} in 200 events"
        if event == name and wanted(content):
            return content
    raise AssertionError("the stream ended")


def test_browsers_are_told_the_state_each_diagnosis_and_one_window_a_second(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], plant: Plant
) -> None:
    _, page = pages()
    plant.answers(plant.feed(0, 10))
    with events(page, "m1") as stream:
        state = first(stream, "state", lambda one: one["agent"] == "online" and one["models"]["gateway"]["release"])
        assert state["broker"] == {"connected": True, "reason": ""}
        first(stream, "state", lambda one: one["models"]["gateway"]["cached"]["hum"] == 10)
        first(stream, "live")
        plant.feed(1, 5)
        live = first(stream, "live", lambda one: any(row["class"] == "rattle" for row in one["assets"]))
        assert any(row[1] == "rattle" for row in live["history"])
        window = None
        while window is None:
            seqs = plant.feed(2, 5)
            event, content = next(stream)
            window = content if event == "window" else None
        assert [len(channel) for channel in window["samples"]] == [256, 256, 256]
        assert window["diagnosis"] is None or window["diagnosis"]["seq"] <= seqs[-1]


def test_a_command_from_the_page_goes_the_way_of_any_other_and_its_story_can_be_told(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], plant: Plant, tmp_path: Path
) -> None:
    agent, page = pages()
    for label in range(5):
        plant.answers(plant.feed(label, 40, seed=label))
    status, answer = ask(page)
    assert status == 202
    final = wait_until(lambda: plant.final("whine", id=answer["id"]), 120)
    assert final["status"] == "successful", final
    assert final["metrics"]["curve"][-1][1:] == [0, 0]
    verdict = wait_until(
        lambda: told(page, "/api/verify?classes=whine").get("key") and told(page, "/api/verify?classes=whine")
    )
    assert verdict["verified"]
    assert verdict["content"]["edit"]["curve"] == final["metrics"]["curve"]
    document = call(page, "/api/certificate?classes=whine")[2]
    (tmp_path / "key.pem").write_text(edge_agent("certificate", "key", "--config", agent.config).stdout)
    (tmp_path / "certificate.json").write_bytes(document)
    verified = edge_agent("certificate", "verify", tmp_path / "certificate.json", "--key", tmp_path / "key.pem")
    assert verified.returncode == 0, verified.stderr

    line = wait_until(
        lambda: (
            [row for row in told(page, "/api/releases")["line"] if row.get("forgot")]
            and told(page, "/api/releases")["line"]
        )
    )
    assert [(row["live"], row["stored"]) for row in line] == [(True, True), (False, False)]
    assert line[0]["forgot"] == line[1]["knew"] == ["whine"]
    assert line[0]["edit"]["windows"] == final["metrics"]["windows"]
    assert line[1]["digest"] == final["release_before"]
    log = told(page, "/api/audit")
    assert (log["verified"], log["published"], log["rows"][0]["event"]) == (True, True, "class.erased")
    assert {row["n"] for row in told(page, "/api/audit?before=3")["rows"]} == {1, 2}

    written = edge_agent("report", answer["id"], "--config", agent.config, "--out", tmp_path / "story.html")
    assert written.returncode == 0, written.stderr
    html = (tmp_path / "story.html").read_text()
    assert "not a byte was changed" in html
    assert "<dd>test</dd>" in html  # the reason, from the audit log
    assert "src=" not in html.replace("img-src", "")


def test_an_audit_log_that_was_changed_is_shown_as_changed(
    pages: Callable[..., tuple[LocalAgent, LocalPage]],
) -> None:
    agent, page = pages()
    path = agent.state_dir / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"agent.started", b"agent.stArted"))
    log = told(page, "/api/audit")
    assert (log["verified"], log["problem"]) == (False, "row 1 was changed")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"token": "guess"}, 403, "the token is wrong"),
        ({"headers": JSON}, 403, "the token is wrong"),
        ({"headers": {"Content-Type": "text/plain", "Authorization": f"Bearer {TOKEN}"}}, 415, "application/json"),
        ({"typed": "whin"}, 400, "typed was 'whin', expected 'whine'"),
        ({"classes": "a/#", "typed": "a/#"}, 400, "is no class name"),
        ({"model": "other"}, 404, "no such model"),
        ({"reason": "x" * 20_000}, 413, "more than 10000 bytes"),
    ],
)
def test_who_may_not_ask_or_asks_for_nonsense_is_told_why(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], change: dict[str, Any], status: int, words: str
) -> None:
    _, page = pages()
    got, answer = ask(page, **change)
    assert got == status, answer
    assert words in answer["reason"]


def test_behind_a_proxy_the_user_that_it_names_may_ask_and_stands_in_the_audit_log(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], plant: Plant
) -> None:
    agent, page = pages(page='user_header = "X-Remote-User"\n')
    plant.answers(plant.feed(2, 40))
    status, answer = ask(page, headers={**JSON, "X-Remote-User": "anna"})
    assert status == 202
    plant.expect("unlearn/whine/status", id=answer["id"])
    assert b"test (asked by anna)" in (agent.state_dir / "audit.jsonl").read_bytes()


def test_a_gateway_of_signed_commands_is_not_asked_without_a_signature(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], tmp_path: Path
) -> None:
    key = tmp_path / "operator.pem"
    key.write_text(edge_agent_key())
    _, page = pages(f'[commands]\nsigned = true\nkeys.anna = "{key}"\n')
    assert ask(page) == (
        403,
        {"code": None, "reason": "this gateway takes signed commands only: edge-agent unlearn --key"},
    )


def edge_agent_key() -> str:
    from edge_agent.signing import Signer

    return Signer.of_seed(bytes(32)).public.pem


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/api/audit", "/nothing", "/api/certificate?classes=x", "/api/forget"]
)
def test_every_answer_carries_the_security_headers(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], path: str
) -> None:
    _, page = pages()
    _, headers, _ = call(page, path)
    lower = {name.lower(): value for name, value in headers.items()}
    assert {name: lower.get(name.lower()) for name in HEADERS} == HEADERS
    assert "server" not in lower


def test_headers_go_with_errors_too_and_a_number_without_end_is_refused(
    pages: Callable[..., tuple[LocalAgent, LocalPage]],
) -> None:
    """Found in a review: 5,000 nines made an answer of status 500 that the security headers were missing from."""
    _, page = pages()
    status, headers, content = call(page, f"/api/audit?before={'9' * 5000}")
    assert (status, b"at most 18 digits" in content) == (400, True)
    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= headers.items()


def test_a_damaged_card_or_certificate_hides_no_other_release(
    pages: Callable[..., tuple[LocalAgent, LocalPage]],
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


def test_the_page_hears_on_after_a_message_that_no_parser_ends(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], plant: Plant
) -> None:
    """Found in a review: brackets without end ended paho's thread, and the page showed for ever what had been."""
    _, page = pages()
    plant.answers(plant.feed(0, 3))
    plant.client.publish("edge/toy/diagnosis/other", b"[" * 200_000)
    plant.answers(plant.feed(1, 3))
    with events(page, "m1") as stream:
        first(stream, "live", partial(_names, 1))


def test_names_of_the_page_are_matched_as_browsers_write_them(
    pages: Callable[..., tuple[LocalAgent, LocalPage]],
) -> None:
    _, page = pages(page='hosts = ["Press-7.plant", "fd00::5"]\n')
    for host, expected in (("press-7.plant", 200), ("PRESS-7.plant:9465", 200), ("[fd00::5]:9465", 200), ("fd00", 421)):
        assert call(page, "/", Host=host)[0] == expected, host


@pytest.mark.parametrize("asset", ["%23", "%2B", "a/b", "x" * 65])
def test_no_more_than_one_asset_can_be_watched_by_a_stream(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], asset: str
) -> None:
    # As a topic filter, "#" would have brought every window of the gateway to the page.
    _, page = pages()
    status, _, content = call(page, f"/events?asset={asset}")
    assert status == 400
    assert b"is not 1 to 64 of" in content


def test_a_name_that_is_not_the_pages_own_is_refused(pages: Callable[..., tuple[LocalAgent, LocalPage]]) -> None:
    # A name of somebody else's that is made to lead to the loopback address (DNS rebinding) must read nothing.
    _, page = pages(page='hosts = ["press-7.plant"]\n')
    assert call(page, "/api/audit", Host="evil.example:9465")[0] == 421
    assert call(page, "/api/audit", Host="press-7.plant:9465")[0] == 200
    assert call(page, "/api/audit", Host="[::1]:9465")[0] == 200


def test_the_page_says_that_the_broker_is_gone_and_when_it_is_back(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], broker: LocalBroker
) -> None:
    _, page = pages()
    with events(page) as stream:
        first(stream, "state", lambda one: one["broker"]["connected"])
        broker.kill()
        gone = first(stream, "state", lambda one: not one["broker"]["connected"])
        assert gone["broker"]["reason"]
        broker.start()
        first(stream, "state", lambda one: one["broker"]["connected"] and one["agent"] == "online")


def _names(label: int, live: dict[str, Any]) -> bool:
    return bool(live["assets"]) and live["assets"][0]["class"] == ("hum", "rattle", "whine")[label]


def test_a_browser_that_reads_nothing_delays_no_other(
    pages: Callable[..., tuple[LocalAgent, LocalPage]], plant: Plant
) -> None:
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
                    partial(_names, label),
                )
    finally:
        for link in deaf:
            link.close()


@NEEDS_OPENSSL
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_at_a_secure_broker_the_page_listens_and_asks_with_rights_of_its_own(tmp_path: Path, toy_release: Path) -> None:
    (tmp_path / "pki").mkdir()
    site = site_at(tmp_path / "pki", "localhost")
    (tmp_path / "token").write_text(TOKEN)
    lines = [*tls_lines(site, "desk"), f"port = {site.broker.port}"]
    (tmp_path / "page.toml").write_text("\n".join(["[mqtt]", *lines]))
    port = free_port()
    more = f'{LocalPage.settings(port, tmp_path / "token")}broker_file = "{tmp_path / "page.toml"}"\n'
    agent = agent_of(site, tmp_path / "agent", toy_release, more=more)
    try:
        agent.ready()
        page = LocalPage(agent, port)
        try:
            with events(page) as stream:
                first(stream, "state", lambda one: one["agent"] == "online")
                assert ask(page)[0] == 202
                state = first(stream, "state", lambda one: one["models"]["gateway"]["rejected"])
                assert state["models"]["gateway"]["rejected"][0]["code"] == "E_TOO_FEW_WINDOWS"
        finally:
            assert page.stop() == 0
    finally:
        agent.kill()
        site.broker.stop()


def test_an_address_that_is_taken_is_said_so(tmp_path: Path, start_agent: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        agent = start_agent(f"[page]\nport = {taken.getsockname()[1]}\n")
        done = edge_agent("page", "--config", agent.config)
    assert done.returncode == 78
    assert "page.port" in done.stderr
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
