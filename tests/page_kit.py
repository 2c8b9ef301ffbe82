"""What the tests of the page's service share: requests, the event stream, and asking to forget."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edge_agent.commands.local import LocalAgent, LocalPage

Pages = Callable[..., tuple[LocalAgent, LocalPage]]
TOKEN = "open-sesame"
JSON = {"Content-Type": "application/json"}


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


def names(label: int, live: dict[str, Any]) -> bool:
    return bool(live["assets"]) and live["assets"][0]["class"] == ("hum", "rattle", "whine")[label]
