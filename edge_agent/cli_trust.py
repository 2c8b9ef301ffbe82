"""The part of the command line about releases, certificates and the audit log."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_agent.settings import Config

CONFIG = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), default=Path("agent.toml"), show_default=True,
    help="The agent's configuration.",
)  # fmt: skip


OF_MODEL = click.option("--model", default="gateway", show_default=True, help="Which of the gateway's models is meant.")


def _configured(function: Any) -> Any:
    """A gateway's configuration, and which of its models is meant; handed over as ``config``."""

    @CONFIG
    @OF_MODEL
    @functools.wraps(function)
    def with_config(*arguments: Any, config_path: Path, model: str, **options: Any) -> Any:
        from edge_agent.config import read_config

        return function(*arguments, config=read_config(config_path).of_model(model), **options)

    return with_config


@click.group()
def releases() -> None:
    """Look at the releases of a gateway, and choose the one it serves."""


@releases.command("list")
@click.option("--full", is_flag=True, help="Whole digests.")
@_configured
def releases_list(config: Config, *, full: bool) -> None:
    """List all releases, oldest first.

    \b
    Example: edge-agent releases list --config agent.toml
    """
    from edge_agent.commands.releases import overview, store_of

    for digest, state, forgotten, name in overview(store_of(config)):
        click.echo(f"{digest if full else digest[:12]}  {state:6s}  forgotten: {forgotten:20s}  {name}")


@releases.command("show")
@click.argument("digest")
@_configured
def releases_show(digest: str, config: Config) -> None:
    """Print a release's card; the digest may be shortened to 6 characters.

    \b
    Example: edge-agent releases show 3f9c21 --config agent.toml
    """
    from edge_agent.commands.releases import store_of

    click.echo(store_of(config).get(digest).card.to_bytes().decode(), nl=False)


@releases.command("verify")
@_configured
def releases_verify(config: Config) -> None:
    """Check every hash of every release; exit code 1 if one is broken.

    \b
    Example: edge-agent releases verify --config agent.toml
    """
    from edge_agent.commands.releases import overview, store_of

    broken = [(digest, code) for digest, state, _, code in overview(store_of(config)) if state == "broken"]
    for digest, code in broken:
        click.echo(f"{digest[:12]}  {code}")
    click.echo(f"{len(broken)} broken")
    sys.exit(1 if broken else 0)


@releases.command("export")
@click.argument("digest")
@click.argument("folder", type=click.Path(path_type=Path))
@_configured
def releases_export(digest: str, folder: Path, config: Config) -> None:
    """Write a release out, unsealed, into a new folder; what it knows is outside the agent's reach from then on.

    \b
    Example: edge-agent releases export 3f9c21 /var/tmp/press-7 --config agent.toml
    """
    from edge_agent.commands.releases import store_of

    click.echo(f"wrote {store_of(config).export(digest, folder).digest[:12]} to {folder}")


@releases.command("install")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@_configured
def releases_install(folder: Path, config: Config) -> None:
    """Add a trained release and ask the agent to serve it: within a second, or at its next start.

    \b
    Example: edge-agent releases install press-7-release --config agent.toml
    """
    from edge_agent.commands.releases import install, store_of

    click.echo(f"asked for {install(config, store_of(config, create=True), folder).digest[:12]}")


@releases.command("pull")
@click.argument("url")
@click.option("--digest", help="The release that it must be.")
@click.option("--key", "key_paths", type=click.Path(path_type=Path), multiple=True, help="Public key of who signed it.")
@_configured
def releases_pull(url: str, digest: str | None, key_paths: tuple[Path, ...], config: Config) -> None:
    """Fetch a release over HTTPS, or from an OCI registry, and ask the agent to serve it.

    It must be signed with a key of --key or of releases.keys, or else be named by its digest. What was erased on this
    gateway is refused before any weights are fetched.

    \b
    Examples: edge-agent releases pull https://files.plant/releases/press --key plant.pem
              edge-agent releases pull oci://registry.plant/press:2026-11 --digest 3f9c...
    """
    from edge_agent.commands.pull import pull
    from edge_agent.commands.releases import store_of
    from edge_agent.commands.show import arriving
    from edge_agent.signing import read_public_key

    keys = tuple(read_public_key(path) for path in key_paths)
    with arriving() as progress:
        release = pull(config, store_of(config, create=True), url, digest, keys, progress)
    click.echo(f"asked for {release.digest[:12]}")


@releases.command("remove")
@click.argument("digest")
@_configured
def releases_remove(digest: str, config: Config) -> None:
    """Destroy a release that is not needed any more, its key first; the digest may be shortened to 6 characters.

    The live one, one that is wanted or kept for a probation, and those of a command at work are refused. Not while an
    agent is adopting another one: it would find it gone.

    \b
    Example: edge-agent releases remove 3f9c21 --config agent.toml
    """
    from edge_agent.commands.releases import discard, store_of

    click.echo(f"removed {discard(store_of(config), digest)[:12]}")


@releases.command("sign")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key (Ed25519, PEM).")
def releases_sign(folder: Path, key: Path) -> None:
    """Sign a release for those who pull it: writes card.json.sig into its folder.

    \b
    Example: openssl genpkey -algorithm ed25519 -out plant.key && openssl pkey -in plant.key -pubout -out plant.pem
             edge-agent releases sign runs/press --key plant.key
    """
    from edge_agent.commands.pull import sign
    from edge_agent.signing import read_private_key

    click.echo(f"signed {sign(folder, read_private_key(key)).digest[:12]}")


@releases.command("rollback")
@click.option("--to", "digest", help="Release to go back to; default: the parent of the live one.")
@_configured
def releases_rollback(digest: str | None, config: Config) -> None:
    """Ask the agent to go back; refused (E_ERASED) where that would bring back an erased class.

    \b
    Example: edge-agent releases rollback --to 3f9c21 --config agent.toml
    """
    from edge_agent.commands.releases import ask, parent_of_live, store_of

    store = store_of(config)
    release = store.get(digest) if digest else parent_of_live(store)
    ask(config, store, release)
    click.echo(f"asked for {release.digest[:12]}")


@releases.command("revive")
@click.argument("name", metavar="CLASS")
@_configured
def releases_revive(name: str, config: Config) -> None:
    """Allow a forgotten class to come back with a later release; the audit log says so.

    It brings nothing back by itself: what was destroyed is gone.

    \b
    Example: edge-agent releases revive IF-1 --config agent.toml
    """
    from edge_agent.commands.releases import revive

    revive(config, name)
    click.echo(f"asked for {name} to be allowed again")


@click.group()
def certificate() -> None:
    """Certificates of forgetting: signed by the gateway, checked anywhere."""


@certificate.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The gateway's public key, PEM.")
def certificate_verify(file: Path, key: Path) -> None:
    """Check a certificate, offline; exit code 0 if the gateway signed every byte of it, else 1.

    \b
    Example: mosquitto_sub -t 'edge/press-7/unlearn/IF-1/certificate' -C 1 -N > forgotten.json
             edge-agent certificate verify forgotten.json --key press-7.pem
    """
    from edge_agent.commands.trust import certificate as checked
    from edge_agent.commands.trust import in_words

    for line in in_words(checked(file, key)):
        click.echo(line)


@certificate.command("key")
@CONFIG
def certificate_key(config_path: Path) -> None:
    """Print this gateway's public key; it stands in its birth message as well.

    \b
    Example: edge-agent certificate key --config agent.toml >press-7.pem
    """
    from edge_agent.commands.trust import public_key

    click.echo(public_key(config_path).pem, nl=False)


@click.group()
def audit() -> None:
    """The log of everything that was forgotten, refused and served."""


@audit.command("verify")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--certificate", "document", type=click.Path(path_type=Path), help="Must be in the log with its head.")
@click.option("--key", type=click.Path(path_type=Path), help="Public key of that certificate.")
@CONFIG
@OF_MODEL
def audit_verify(
    file: Path | None, document: Path | None, key: Path | None, config_path: Path, model: str
) -> None:  # fmt: skip
    """Find any row that was removed, changed or moved; exit code 0 if there is none, else 1.

    Rows cut off at the end are found with a certificate, which holds the head of its time; one that the log withdraws
    later, for the class came back during its probation, ends with exit code 1 as well. FILE is a copy of
    audit.jsonl; without it the log of --config is read.

    \b
    Example: edge-agent audit verify --config agent.toml --certificate forgotten.json --key press-7.pem
    """
    from edge_agent.commands.trust import certificate as checked
    from edge_agent.commands.trust import check_audit
    from edge_agent.config import read_config

    if (document is None) != (key is None):
        raise click.UsageError("--certificate and --key go together")
    content = checked(document, key) if document and key else None
    path = file or read_config(config_path).of_model(model).gateway.state_dir / "audit.jsonl"
    click.echo(f"{check_audit(path, content)} rows, none removed, changed or moved")
