"""What the tests of the page in a real browser share: the gateway that lives through them, and a browser window."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent import rig
from edge_agent.commands.client import connected
from edge_agent.commands.demo import plant, publish
from edge_agent.commands.local import LocalAgent, LocalBroker, LocalPage
from edge_agent.mqtt_client import BrokerAddress
from tests.scripts import ROOT

AXE = ROOT / "deploy" / "page" / "node_modules" / "axe-core" / "axe.min.js"
BASE = "edge/demo"


@dataclass
class Site:
    """A gateway with its page, fed with windows of three machines."""

    broker: LocalBroker
    agent: LocalAgent
    page: LocalPage
    stopping: threading.Event = field(default_factory=threading.Event)

    def feed(self) -> None:
        """Publish until told to stop; through the broker's restart too."""
        while not self.stopping.is_set():
            try:
                with connected(BrokerAddress("127.0.0.1", self.broker.port, "")) as client:
                    for seq, (asset, take) in enumerate(plant(np.random.default_rng(5))):
                        publish(client, asset, seq // 3, take, labelled=False)
                        if client.lost or self.stopping.wait(0.02):
                            break
            except Exception:  # noqa: BLE001 the broker is away; whatever it is, try again
                self.stopping.wait(0.5)

    def teach(self, name: str, count: int) -> None:
        """Publish labelled windows of one class, which the agent caches."""
        rng = np.random.default_rng(1)
        run = rig.Run.draw(rng, 1100)
        with connected(BrokerAddress("127.0.0.1", self.broker.port, "")) as client:
            client.subscribe([f"{BASE}/diagnosis/bench"])
            for seq, samples in enumerate(rig.windows(run, name, count, rng)):
                publish(client, "bench", seq, rig.Take(name, samples, run.speed_rpm), labelled=True)
            assert sum(1 for _, _ in zip(range(count), client.listen(30), strict=False)) == count


class Screen:
    """One browser window; what goes wrong in it fails the test."""

    def __init__(self, browser: Any, url: str, size: dict[str, int], scheme: str) -> None:
        self.context = browser.new_context(viewport=size, color_scheme=scheme)
        self.tab = self.context.new_page()
        self.problems: list[str] = []
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.tab.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        self.tab.goto(url)

    def show(self, view: str) -> None:
        self.tab.click(f'nav a[href="#{view}"]')
        self.tab.wait_for_selector(f"#view-{view}:not([hidden])")

    def until(self, condition: str, arg: Any = None, timeout_s: float = 60.0) -> None:
        """Wait for JavaScript to be true; Playwright's own way needs eval, which the page's policy forbids."""
        deadline_s = time.monotonic() + timeout_s
        while not self.tab.evaluate(condition, arg):
            assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {condition}"
            self.tab.wait_for_timeout(50)

    def keep(self, name: str, *, whole: bool = True) -> None:
        """A picture of this state, if they are wanted."""
        if folder := os.environ.get("EDGE_AGENT_IMAGES"):
            self.tab.screenshot(path=Path(folder) / f"{name}.png", full_page=whole)

    def close(self) -> None:
        self.context.close()
        assert not self.problems

    def overflow_px(self) -> int:
        return int(self.tab.evaluate("document.scrollingElement.scrollWidth - innerWidth"))

    def findings(self) -> list[str]:
        """What axe-core finds serious or critical."""
        self.tab.evaluate(AXE.read_text())
        found = self.tab.evaluate("axe.run().then((result) => result.violations)")
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {[node['html'][:200] for node in one['nodes']][:3]}" for one in serious]
