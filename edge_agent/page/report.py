"""``edge-agent report``: the story of a forget command as one HTML file for the archive; no network, no page needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edge_agent import __version__
from edge_agent.commands.trust import public_key_apart
from edge_agent.config import read_config
from edge_agent.core.errors import Untrusted
from edge_agent.files import storage, write_atomically
from edge_agent.page.assets import CHARTS, STATIC, built_whole
from edge_agent.page.records import Records
from edge_agent.schemas.messages import TERMINAL
from edge_agent.signing import opened

SCRIPTS: Final = (CHARTS, "charts.js", "story.js")
STYLES: Final = ("lib/uPlot.min.css", "page.css")


def write_report(config_path: Path, model: str, id_: str, out: Path | None) -> Path:
    """Write the report; returns its path.

    Raises:
        Misconfigured: there is no such command, the state directory cannot be read, or this package has no charts.
        StorageFailed: the file cannot be written.
    """
    built_whole()
    config = read_config(config_path)
    of_model = config.of_model(model)
    path = out or Path(f"{id_.replace('/', '-')}.html")
    path = path.resolve()
    job, document, accepted = Records(of_model.gateway.state_dir).job(id_)
    content, verdict = None, _without_certificate(job["status"])
    if document is not None:
        key = public_key_apart(config_path)
        try:
            content = opened(document, key)
            verdict = f"the certificate is signed with this gateway's key {key.fingerprint}, not a byte was changed"
        except Untrusted as error:
            verdict = f"the certificate is not to be believed: {error.reason}"
    page = render(
        of_model.gateway.name, {"job": job, "content": content, "accepted": asked(accepted)}, verdict, document
    )
    with storage(f"{path} cannot be written"):
        write_atomically(path, page.encode())
    return path


def _without_certificate(status: str) -> str:
    if status == "successful":
        return "the class was forgotten, but its certificate is not there or cannot be read"
    if status in TERMINAL:
        return "there is no certificate: the class was not forgotten"
    return "there is no certificate yet: the command has not ended"


def asked(row: dict[str, Any]) -> dict[str, str]:
    """When, by whose key and why it was asked for, as the audit log's row of the acceptance has it."""
    content, time = row.get("content", {}), row.get("time", {})
    facts = {"accepted": time.get("utc"), "signed with key": content.get("key"), "reason": content.get("reason")}
    return {name: str(value) for name, value in facts.items() if value}


def render(gateway: str, story: dict[str, Any], verdict: str, document: bytes | None) -> str:
    """The whole file. What comes from outside goes in as JSON or escaped text, never as markup or script.

    Args:
        story: ``job``, its state; ``content`` of its certificate, or None; ``accepted``, see ``asked``.
    """
    environment = Environment(
        loader=PackageLoader("edge_agent.page", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html").render(
        gateway=gateway,
        story=story,
        verdict=verdict,
        believed=story["content"] is not None,
        document=document.decode() if document is not None else None,
        version=__version__,
        scripts=[_static(name) for name in SCRIPTS],
        styles=[_static(name) for name in STYLES],
    )


def _static(name: str) -> Markup:
    """One of our own files, for inside a script or style element."""
    text = (STATIC / name).read_text()
    assert "</script" not in text
    assert "</style" not in text
    return Markup(text)  # noqa: S704 ours, not the world's
