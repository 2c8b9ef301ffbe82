"""A real HTTPS server for tests."""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server:
    """Files over HTTPS, and what was asked for.

    Attributes:
        elsewhere: names that are redirected, and where to.
        endless: names of files that never end.
    """

    def __init__(self, folder: Path, pki: Path) -> None:
        self.folder, self.asked, self.tokens = folder, list[str](), set[str | None]()
        self.elsewhere, self.endless = dict[str, str](), set[str]()

        class Handler(SimpleHTTPRequestHandler):
            def log_message(handler, *_: Any) -> None:  # noqa: N805
                self.asked.append(handler.path.rpartition("/")[2])
                self.tokens.add(handler.headers["Authorization"])

            def do_GET(handler) -> None:  # noqa: N805
                name = handler.path.rpartition("/")[2]
                if name in self.elsewhere:
                    handler.send_response(302)
                    handler.send_header("Location", self.elsewhere[name])
                    handler.end_headers()
                elif name in self.endless:
                    handler.send_response(200)
                    handler.end_headers()
                    with suppress(OSError):
                        while True:
                            handler.wfile.write(bytes(1 << 16))
                else:
                    super().do_GET()

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "broker.pem", pki / "broker.key")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
