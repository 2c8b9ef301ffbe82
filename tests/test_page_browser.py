"""The page in a real browser (Debian's chromium), beside a real agent and broker that serve the simulated rig.

One gateway lives through the whole file, so the tests build on each other in their order. With EDGE_AGENT_IMAGES set to
a folder (``make images``), each state is kept there as a picture.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent import rig
from edge_agent.commands.client import connected
from edge_agent.commands.demo import packaged_release
from edge_agent.commands.local import LocalAgent, LocalBroker, LocalPage, free_port
from edge_agent.mqtt_client import BrokerAddress
from tests.browser_kit import BASE, Screen, Site
from tests.page_kit import TOKEN

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)")

FORGET = "IF-1"
WIDE, PHONE = {"width": 1920, "height": 1080}, {"width": 390, "height": 844}
VIEWS = "live", "forget", "releases", "audit"
FORGET_MS = 240_000
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>' + "W" * 300


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "token").write_text(TOKEN)
    broker = LocalBroker(folder / "broker", free_port())
    port = free_port()
    with packaged_release() as release:
        agent = LocalAgent(folder / "agent", "demo", broker.port, release, LocalPage.settings(port, folder / "token"))
        agent.ready()
        # It has the release now, and goes on without the folder that it came from.
        agent.stop()
        lines = agent.config.read_text().splitlines()
        agent.config.write_text("\n".join(line for line in lines if not line.startswith("release =")))
        agent.start()
        agent.ready(2)
        one = Site(broker, agent, LocalPage(agent, port))
        feeding = threading.Thread(target=one.feed)
        try:
            yield one
        finally:
            one.stopping.set()
            if feeding.is_alive():
                feeding.join()
            assert one.page.stop() == 0
            agent.kill()
            broker.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def screen(chromium: Any, site: Site) -> Iterator[Screen]:
    one = Screen(chromium, site.page.url, WIDE, "light")
    yield one
    one.close()


def test_before_the_first_window_the_page_says_what_it_waits_for(screen: Screen) -> None:
    screen.tab.wait_for_selector("text=No window has been answered since this page was started")
    assert screen.tab.inner_text("#pill-agent").startswith("agent online")
    screen.keep("live-empty", whole=False)
    screen.show("forget")
    screen.tab.wait_for_selector("text=No class has been forgotten here")
    assert screen.findings() == []


def test_live_diagnoses_change_and_the_last_window_is_drawn(screen: Screen, site: Site) -> None:
    threading.Thread(target=site.feed, daemon=True).start()
    screen.tab.wait_for_selector("#live-body:not([hidden])")
    screen.tab.wait_for_selector("#channels canvas >> nth=8")
    assert screen.tab.inner_text("#answer-class") in rig.CLASSES
    assert "sure" in screen.tab.inner_text("#answer-sure")
    screen.until("document.querySelector('#spectrum-about').textContent.includes('BPFO')")
    before = screen.tab.get_attribute("#chart-spectrum", "aria-label")
    screen.until("label => document.querySelector('#chart-spectrum').ariaLabel !== label", before)
    screen.tab.click("label:has-text('pump-3')")
    screen.until("document.querySelector('#asset-name').textContent === 'Diagnosis of pump-3'")
    seen = {screen.tab.inner_text("#answer-class")}
    for _ in range(60):
        screen.tab.wait_for_timeout(500)
        seen.add(screen.tab.inner_text("#answer-class"))
        if len(seen) > 1:
            break
    assert len(seen) > 1


def test_a_refused_command_is_explained(screen: Screen) -> None:
    screen.show("forget")
    screen.tab.click("tr:has-text('OF-2') button")
    assert screen.tab.is_disabled("#ask-send")
    screen.tab.fill("#ask-typed", "OF-2")
    screen.tab.fill("#ask-token", "guess")
    screen.tab.click("#ask-send")
    screen.tab.wait_for_selector("#ask-problem:has-text('the token is wrong')")
    screen.problems = [line for line in screen.problems if "403" not in line]  # the browser's own line about the answer
    screen.tab.fill("#ask-token", TOKEN)
    screen.keep("forget-dialog", whole=False)
    assert screen.findings() == []
    screen.tab.click("#ask-send")
    screen.tab.wait_for_selector(".job:has-text('OF-2') >> text=E_TOO_FEW_WINDOWS")
    screen.keep("forget-refused", whole=False)


def test_a_class_is_forgotten_by_keyboard_up_to_its_certificate(screen: Screen, site: Site) -> None:
    site.teach(FORGET, 130)
    screen.show("forget")
    screen.tab.wait_for_selector(f"tr:has-text('{FORGET}'):has-text('130')")
    screen.tab.focus(f"tr:has(th:text-is('{FORGET}')) button")
    screen.tab.keyboard.press("Enter")
    screen.tab.keyboard.type(FORGET)
    screen.tab.keyboard.press("Tab")
    screen.tab.keyboard.type("shown in a test")
    screen.tab.keyboard.press("Tab")
    screen.tab.keyboard.type(TOKEN)
    screen.tab.keyboard.press("Enter")
    screen.tab.wait_for_selector(f".job:has-text('{FORGET}'):has-text('being forgotten')")
    screen.tab.wait_for_selector(".job .phases [aria-current]:text-is('editing')", timeout=FORGET_MS)
    assert screen.tab.evaluate("document.activeElement.dataset.key ?? null") is None  # on no other class's button
    screen.keep("forget-running", whole=False)
    story = f".job:has-text('{FORGET}'):has(summary .good)"
    screen.tab.wait_for_selector(story, timeout=FORGET_MS)
    screen.tab.wait_for_selector(f"{story} canvas")
    for words in ("Where the probed windows flipped to", "The gate", "The classes that stay", "What was destroyed"):
        assert screen.tab.is_visible(f"{story} >> text={words}")
    screen.tab.click(f"{story} >> text=Verify the certificate")
    screen.tab.wait_for_selector(f"{story} >> text=not a byte was changed")
    screen.tab.wait_for_selector(f"tr:has(th:text-is('{FORGET}')) td:text-is('0')", timeout=8000)
    screen.keep("forget-done")
    assert screen.findings() == []


def test_the_line_of_releases_and_the_audit_log_tell_what_happened(screen: Screen) -> None:
    screen.show("releases")
    screen.tab.wait_for_selector(f"text=forgot {FORGET}")
    assert screen.tab.is_visible("text=destroyed")
    screen.keep("releases", whole=False)
    assert screen.findings() == []
    screen.show("audit")
    screen.tab.wait_for_selector("#audit-verdict.good")
    assert screen.tab.is_visible("td:text-is('class.erased')")
    screen.keep("audit", whole=False)
    assert screen.findings() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_view_fits_the_screen_and_has_no_serious_finding(
    chromium: Any, site: Site, size: dict[str, int], scheme: str
) -> None:
    screen = Screen(chromium, f"{site.page.url}?asset=pump-3", size, scheme)
    try:
        screen.tab.wait_for_selector("#channels canvas >> nth=8")
        screen.tab.wait_for_timeout(2500)
        for view in VIEWS:
            screen.show(view)
            screen.tab.wait_for_timeout(300)
            assert screen.overflow_px() <= 0, view
            assert screen.findings() == [], view
            if view in ("live", "forget"):
                screen.keep(f"{view}-{'phone' if size is PHONE else 'wide'}-{scheme}")
    finally:
        screen.close()


def test_the_broker_that_goes_and_comes_back_is_seen(screen: Screen, site: Site) -> None:
    screen.tab.click("label:has-text('pump-3')")
    site.broker.kill()
    screen.tab.wait_for_selector("#banner:has-text('No connection to the broker')")
    assert screen.tab.inner_text("#pill-broker") == "no broker"
    screen.keep("broker-gone", whole=False)
    site.broker.start()
    screen.until("document.querySelector('#banner').textContent === ''")
    screen.until("document.querySelector('#answer-sure').textContent.includes('sure')")


def test_the_page_that_goes_and_comes_back_is_seen(screen: Screen, site: Site) -> None:
    screen.tab.wait_for_selector("#live-body:not([hidden])")
    site.page.stop()
    screen.tab.wait_for_selector("#banner:has-text('does not answer')", timeout=20_000)
    screen.keep("page-gone", whole=False)
    site.page.start()
    screen.until("document.querySelector('#banner').textContent === ''")
    screen.problems = [line for line in screen.problems if "ERR_" not in line]  # the browser's own lines about it


def test_hostile_names_and_reasons_are_text_and_break_no_layout(chromium: Any, site: Site) -> None:
    base = {
        "boot": "b",
        "seq": 1,
        "confidence": 0.5,
        "energy": 1.0,
        "masked": [],
        "release": "f" * 64,
        "latency_ms": 1.0,
    }
    diagnosis = {**base, "asset": "evil", "class": EVIL, "top": [[EVIL, 0.5]], "flags": [EVIL]}
    job = {"id": EVIL, "classes": [EVIL], "status": "failed", "phase": EVIL, "code": EVIL, "reason": EVIL}
    metrics = {"flipped_to": {EVIL: 3}, "gate": [{"passed": False, "words": EVIL}], "curve": [[1, 1.0, 1.0]]}
    odd = {**job, "id": "odd", "classes": ["odd"], "metrics": {"gate": "abc", "child_peak_mib": "x"}}
    release = {**_card(site), "classes": [EVIL, "b"], "forgotten": ["b"], "name": EVIL}
    birth = {"state": "online", "cached": {EVIL: 9}, "counters": {}, "masked": [EVIL + "x"], "version": EVIL}
    messages = {
        "unlearn/evil/status": {**job, "metrics": metrics},
        "unlearn/odd/status": odd,
        "diagnosis/evil": diagnosis,
        f"diagnosis/{'W' * 64}": {**diagnosis, "asset": EVIL},
        "refused": {"topic": EVIL, "code": EVIL, "reason": EVIL},
    }
    with connected(BrokerAddress("127.0.0.1", site.broker.port, "")) as client:
        for topic, content in messages.items():
            client.publish(f"{BASE}/{topic}", json.dumps(content).encode())
        for size in (WIDE, PHONE):
            screen = Screen(chromium, site.page.url, size, "light")
            try:
                client.publish(f"{BASE}/release", json.dumps(release).encode())
                client.publish(f"{BASE}/status", json.dumps(birth).encode())
                screen.tab.click("label:has-text('evil')")
                screen.until("document.querySelector('#answer-class').textContent.startsWith('<img')")
                screen.tab.click("#refusals summary")
                assert screen.overflow_px() <= 0
                screen.show("forget")
                screen.tab.click(".job summary:has-text('onerror')")
                screen.tab.wait_for_selector(".job[open] .reasons:has-text('onerror')")
                screen.tab.click(".job summary:has-text('odd')")
                screen.tab.wait_for_selector("text=they cannot be shown")
                client.publish(f"{BASE}/release", json.dumps(release).encode())
                client.publish(f"{BASE}/status", json.dumps(birth).encode())
                screen.tab.click("#forget-classes button")
                dialog = "document.querySelector('#ask')"
                assert screen.tab.evaluate(f"{dialog}.scrollWidth - {dialog}.clientWidth") <= 0
                assert screen.overflow_px() <= 0
                screen.tab.click("#ask-cancel")
                for view in ("releases", "audit"):
                    screen.show(view)
                    assert screen.overflow_px() <= 0
                assert screen.tab.evaluate("window.hacked") is None
            finally:
                screen.close()
        for topic in ("release", "status"):  # what the agent says of itself, once more
            client.publish(f"{BASE}/{topic}", b"")
    site.agent.stop()
    site.agent.start()
    site.agent.ready(3)


def _card(site: Site) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((site.agent.live_release().folder / "card.json").read_text())
    return {**card, "digest": "f" * 64}


def test_many_tabs_leave_each_other_connections_and_a_hidden_one_holds_none(chromium: Any, site: Site) -> None:
    """Found in a review: browsers open six connections to a host, and six tabs with a stream each held all."""
    context = chromium.new_context()
    try:
        tabs = [context.new_page() for _ in range(8)]
        for tab in tabs:
            tab.goto(site.page.url)
            tab.wait_for_selector("#pill-agent.good")
            tab.evaluate(
                "Object.defineProperty(document, 'hidden', { value: true });"
                "document.dispatchEvent(new Event('visibilitychange'))"
            )
        tabs[0].goto(f"{site.page.url}#audit")
        tabs[0].wait_for_selector("#audit-verdict.good")
    finally:
        context.close()


def test_a_page_that_is_turned_away_says_why(chromium: Any, site: Site) -> None:
    """Found in a review: when all places were taken it said that the service did not answer."""
    screen = Screen(chromium, site.page.url, WIDE, "light")
    screen.tab.route("**/events*", lambda route: route.fulfill(status=503, json={"reason": "64 pages are open"}))
    try:
        screen.tab.reload()
        screen.tab.wait_for_selector("#banner:has-text('64 pages are open')")
    finally:
        screen.tab.close()
        screen.context.close()


def test_the_report_is_one_file_that_draws_the_story_without_a_network(
    chromium: Any, site: Site, tmp_path: Path
) -> None:
    from tests.scripts import edge_agent

    rows = [json.loads(line) for line in (site.agent.state_dir / "audit.jsonl").read_text().splitlines()]
    id_ = next(row["content"]["id"] for row in rows if row["event"] == "class.erased")
    done = edge_agent("report", id_, "--config", site.agent.config, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    screen = Screen(chromium, (tmp_path / "report.html").as_uri(), WIDE, "light")
    try:
        screen.context.set_offline(True)
        screen.tab.wait_for_selector("canvas")
        assert screen.tab.is_visible("text=not a byte was changed")
        screen.keep("report")
        assert screen.findings() == []
    finally:
        screen.close()


def test_a_command_that_nobody_answers_is_shown_as_sent_until_it_is_void(chromium: Any, site: Site) -> None:
    """Found in a review: asked while the agent was just gone, nothing appeared at all."""
    screen = Screen(chromium, site.page.url, WIDE, "light")
    try:
        screen.show("forget")
        screen.tab.click("#forget-classes button >> nth=0")
        name = screen.tab.text_content("#ask-title").removeprefix("Forget ").removesuffix("?")
        os.kill(site.agent.process.pid, signal.SIGSTOP)
        screen.tab.fill("#ask-typed", name)
        screen.tab.fill("#ask-token", TOKEN)
        screen.tab.click("#ask-send")
        screen.tab.wait_for_selector("#jobs:has-text('the agent has not answered yet')")
        os.kill(site.agent.process.pid, signal.SIGKILL)
        screen.tab.wait_for_selector("#forget-acting:has-text('The agent is offline')", timeout=60_000)
        assert screen.tab.query_selector("#forget-classes button") is None
    finally:
        site.agent.kill()
        screen.close()
