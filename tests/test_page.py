"""The page's service beside a real agent and a real broker: what it tells, and whom it obeys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.commands.local import LocalAgent, LocalBroker, LocalPage, free_port
from tests.page_kit import JSON, TOKEN, Pages, ask, call, events, first, told
from tests.plant import Plant, wait_until
from tests.scripts import NEEDS_OPENSSL, edge_agent
from tests.secure_broker import agent_of, site_at, tls_lines

Start = Callable[..., LocalAgent]


def test_browsers_are_told_the_state_each_diagnosis_and_one_window_a_second(pages: Pages, plant: Plant) -> None:
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
    pages: Pages, plant: Plant, tmp_path: Path
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
    # With a damaged certificate it said that the class was not forgotten.
    next((agent.state_dir / "certificates").glob("*.json")).write_bytes(b"{")
    edge_agent("report", answer["id"], "--config", agent.config, "--out", tmp_path / "story.html")
    assert "forgotten, but its certificate is not there or cannot be read" in (tmp_path / "story.html").read_text()


def test_an_audit_log_that_was_changed_is_shown_as_changed(
    pages: Pages,
) -> None:
    agent, page = pages()
    path = agent.state_dir / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"agent.started", b"agent.stArted"))
    log = told(page, "/api/audit")
    assert (log["verified"], log["problem"]) == (False, "row 1 was changed")


def test_behind_a_proxy_the_user_that_it_names_may_ask_and_stands_in_the_audit_log(pages: Pages, plant: Plant) -> None:
    agent, page = pages(page='user_header = "X-Remote-User"\n')
    plant.answers(plant.feed(2, 40))
    status, answer = ask(page, headers={**JSON, "X-Remote-User": "anna"})
    assert status == 202
    plant.expect("unlearn/whine/status", id=answer["id"])
    assert b"test (asked by anna)" in (agent.state_dir / "audit.jsonl").read_bytes()


def test_a_gateway_of_signed_commands_is_not_asked_without_a_signature(pages: Pages, tmp_path: Path) -> None:
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


def test_the_page_says_that_the_broker_is_gone_and_when_it_is_back(pages: Pages, broker: LocalBroker) -> None:
    _, page = pages()
    with events(page) as stream:
        first(stream, "state", lambda one: one["broker"]["connected"])
        broker.kill()
        gone = first(stream, "state", lambda one: not one["broker"]["connected"])
        assert gone["broker"]["reason"]
        broker.start()
        first(stream, "state", lambda one: one["broker"]["connected"] and one["agent"] == "online")


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
