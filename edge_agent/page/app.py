"""The page's web application: static files, an event stream, a few answers in JSON, and one request that acts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.adapters.audit import Head
from edge_agent.core.errors import EdgeAgentError, Refused, Unreachable
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.page.asking import VALID_S, Doorman, ask_to_forget
from edge_agent.page.assets import STATIC
from edge_agent.page.plant import HISTORY_S, Model, Plant
from edge_agent.page.records import Records
from edge_agent.schemas.topics import ASSET

LIVE_EVERY_S: Final = 0.5
STATE_EVERY_S: Final = 5.0
MOST_BODY_BYTES: Final = 10_000
MOST_STREAMS: Final = 64
DEAF_S: Final = 30.0  # a browser that takes nothing for so long has hung up
MOST_DIGITS: Final = 18
ASKED_BY: Final = "asked by"  # stands in a reason before the name that the proxy vouches for
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
BROWSERS_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Page:
    """What the requests are answered from.

    Args:
        records: the state directory of each model.
    """

    plant: Plant
    records: Mapping[str, Records]
    address: BrokerAddress
    doorman: Doorman

    def model(self, request: Request) -> tuple[str, Model]:
        """The model that a request names; else the gateway's own."""
        name = request.query_params.get("model", next(iter(self.plant.models)))
        if name not in self.plant.models:
            raise HTTPException(404, f"no model {name[:64]!r}")
        return name, self.plant.models[name]

    async def events(self, request: Request) -> Response:
        """The event stream: ``state`` when it changes, ``live`` twice a second, ``window`` when one was caught."""
        asset = request.query_params.get("asset", "")
        if asset and not ASSET.fullmatch(asset):
            raise HTTPException(400, f"asset {asset[:64]!r} is not 1 to 64 of A-Z a-z 0-9 . _ -")
        if self.plant.watched.total() >= MOST_STREAMS:
            raise HTTPException(503, f"{MOST_STREAMS} pages are open, more are not served")
        return EventSourceResponse(self._stream(asset), ping=15, send_timeout=DEAF_S)

    async def _stream(self, asset: str) -> AsyncIterator[ServerSentEvent]:
        """What one browser is told; made when it is sent, so that a slow browser only skips."""
        plant, seen, state_s, since_s, shown = self.plant, -1, float("-inf"), float("-inf"), None
        plant.watched[asset] += 1
        try:
            while True:
                now_s = time.monotonic()
                if plant.revision != seen or now_s >= state_s + STATE_EVERY_S:
                    seen, state_s = plant.revision, now_s
                    yield _event("state", {**plant.state(), "acting": self.doorman.ways()})
                yield _event("live", plant.live(asset, since_s, now_s) | {"history_s": HISTORY_S})
                since_s = int(now_s) - 1
                if (picture := plant.picture(asset)) is not None and picture is not shown:
                    shown, answer = picture, plant.diagnosis_of(picture)
                    about = answer.model_dump_json(by_alias=True) if answer is not None else "null"
                    content = f'{picture.content[:-1]},"diagnosis":{about}}}'
                    yield ServerSentEvent(event="window", data=content)
                await asyncio.sleep(LIVE_EVERY_S)
        finally:
            plant.watched[asset] -= 1
            plant.watched += type(plant.watched)()  # drops those that nobody looks at

    async def certificate(self, request: Request) -> Response:
        """A certificate, byte for byte as it was signed."""
        document = self.model(request)[1].certificates.get(request.query_params.get("classes", ""))
        if document is None:
            raise HTTPException(404, "there is no such certificate")
        headers = {"Content-Disposition": 'attachment; filename="certificate.json"'}
        return Response(document, media_type="application/json", headers=headers)

    async def verify(self, request: Request) -> Response:
        """Whether a certificate is as the gateway signed it."""
        _, model = self.model(request)
        return JSONResponse(self.plant.verified(model, request.query_params.get("classes", "")))

    async def releases(self, request: Request) -> Response:
        """The line of releases."""
        name, model = self.model(request)
        live = model.release.digest if model.release is not None else ""
        return JSONResponse(await run_in_threadpool(self.records[name].lineage, live))

    async def audit(self, request: Request) -> Response:
        """Rows of the audit log, and whether its chain holds."""
        name, model = self.model(request)
        before = request.query_params.get("before", "")
        if before and not (before.isascii() and before.isdecimal() and len(before) <= MOST_DIGITS):
            raise HTTPException(400, f"before is {before[:20]!r}, expected a number of at most {MOST_DIGITS} digits")
        said = model.birth.audit if model.birth is not None else None
        head = Head(said.n, said.hash) if said is not None else None
        return JSONResponse(await run_in_threadpool(self.records[name].audit, int(before) if before else None, head))

    async def forget(self, request: Request) -> Response:
        """Ask the agent to forget. The body: model, classes, typed (the name once more), reason."""
        # No form can send this type, and no page of another origin may: a proxy's user is not asked by strangers.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the body must be application/json")
        header = self.doorman.user_header
        user = request.headers.get(header, "") if header else ""
        refusal = self.doorman.refusal(request.headers.get("authorization", ""), user)
        if refusal is not None:
            raise HTTPException(403, refusal)
        wish = await _body(request)
        name, typed, reason = (str(wish.get(key, "")) for key in ("classes", "typed", "reason"))
        model = self.plant.models.get(str(wish.get("model")))
        if model is None:
            raise HTTPException(404, "no such model")
        if not name or typed != name:
            raise HTTPException(400, f"typed was {typed[:64]!r}, expected {name[:64]!r}")
        if ASKED_BY in reason:
            raise HTTPException(400, f"a reason must not hold {ASKED_BY!r}, by which the log knows who asked")
        reason = f"{reason} ({ASKED_BY} {user})".strip() if user else reason
        id_ = await run_in_threadpool(ask_to_forget, self.address, model.topics, name, reason)
        return JSONResponse({"id": id_, "valid_s": VALID_S}, 202)


async def _body(request: Request) -> dict[str, Any]:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_BODY_BYTES:
            raise HTTPException(413, f"the body has more than {MOST_BODY_BYTES} bytes")
    try:
        wish = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is no JSON") from error
    if not isinstance(wish, dict):
        raise HTTPException(400, "the body is no JSON object")
    return wish


def _event(name: str, content: Any) -> ServerSentEvent:
    return ServerSentEvent(event=name, data=json.dumps(content, separators=(",", ":"), allow_nan=False))


class Hardened:
    """Adds the security headers to every answer, and refuses requests for a host that is not ours.

    Without that check, another site's name that is made to lead here (DNS rebinding) could read the page.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._hosts = {*BROWSERS_HOSTS, *map(_as_in_header, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *given]}
            await send(message)

        host = Request(scope).headers.get("host", "")
        name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            await self._app(scope, receive, hardened)
        else:
            refusal = _problem(421, f"this page is not {name[:64]!r}; page.hosts lists the names it goes by")
            await refusal(scope, receive, hardened)


def _as_in_header(host: str) -> str:
    """How browsers write a name, or an address, of ours."""
    return f"[{host}]".lower() if ":" in host and not host.startswith("[") else host.lower()


def _problem(status: int, reason: str, code: str | None = None) -> Response:
    return JSONResponse({"code": code, "reason": reason}, status)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail))


def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, EdgeAgentError)
    status = 400 if isinstance(error, Refused) else 502 if isinstance(error, Unreachable) else 500
    return _problem(status, error.reason, error.code)


def application(page: Page, hosts: tuple[str, ...], lifespan: Callable[[Starlette], Any]) -> Hardened:
    """The application; ``hosts`` are names that it goes by beside localhost."""
    app = Starlette(
        routes=[
            Route("/events", page.events),
            Route("/api/certificate", page.certificate),
            Route("/api/verify", page.verify),
            Route("/api/releases", page.releases),
            Route("/api/audit", page.audit),
            Route("/api/forget", page.forget, methods=["POST"]),
            Mount("/", StaticFiles(directory=str(STATIC), html=True)),
        ],
        exception_handlers={HTTPException: _refused, EdgeAgentError: _failed},
        lifespan=lifespan,
    )
    return Hardened(app, hosts)  # outside of everything, also of what starlette answers to an error of ours
