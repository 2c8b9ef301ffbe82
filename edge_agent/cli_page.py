"""The part of the command line about pictures: the gateway's page, and the report of one forget job."""

from __future__ import annotations

from pathlib import Path

import click

from edge_agent.cli_trust import CONFIG, OF_MODEL
from edge_agent.core.errors import Misconfigured


@click.command()
@CONFIG
def page(config_path: Path) -> None:
    """Serve the gateway's page until SIGTERM: live diagnoses, forgetting, releases, audit log.

    \b
    Example: edge-agent page --config /etc/edge-agent/agent.toml
    """
    try:
        from edge_agent.page.serve import serve
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    serve(config_path)


@click.command()
@click.argument("job")
@CONFIG
@OF_MODEL
@click.option("--out", type=click.Path(path_type=Path), help="The HTML file. Default: JOB.html.")
def report(job: str, config_path: Path, model: str, out: Path | None) -> None:
    """Write the story of a forget command, by its id, into one HTML file that needs nothing else.

    \b
    Example: edge-agent report cli-5f0c8a --config agent.toml --out IF-1-forgotten.html
    """
    try:
        from edge_agent.page.report import write_report
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    click.echo(f"wrote {write_report(config_path, model, job, out)}")


def _extra_missing(error: ModuleNotFoundError) -> Misconfigured:
    return Misconfigured(
        "E_CONFIG", f"{error.name} is not installed: run deploy/install.sh again, or pip install '.[web]' in a checkout"
    )
