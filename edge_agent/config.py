"""The agent's configuration, ``agent.toml``: read, checked, and compared with the one before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from edge_agent.core.errors import Misconfigured
from edge_agent.files import CREDSTORE, credential
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.commands import first_problem
from edge_agent.settings import Config, Mqtt, Section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MQTT_CREDENTIAL: Final = "edge-agent-mqtt-password"  # the name of systemd's credential
FIXED: Final = ("forget.work_dir",)  # of RELOADABLE
RELOADABLE: Final = ("serving.max_abs", "cache.from_diagnosis", "cache.min_confidence", "logs.level", "forget.*")

AnySection = TypeVar("AnySection", bound=Section)


class _BrokerFile(Section):
    """An operator's file: how to reach the broker, and as whom."""

    mqtt: Mqtt


def read_config(path: Path) -> Config:
    """Read ``agent.toml``; relative paths in it are relative to its folder.

    Raises:
        Misconfigured: ``E_CONFIG`` with file, key and what is wrong.
    """
    config, folder = _read(path, Config), path.resolve().parent
    sections: dict[str, Any] = {
        name: _anchored(getattr(config, name), folder) for name in ("gateway", "mqtt", "forget", "releases", "page")
    }
    for name in ("commands", "releases"):
        section = sections.get(name, getattr(config, name))
        keys = {id_: folder / path for id_, path in section.keys.items()}
        sections[name] = section.model_copy(update={"keys": keys})
    sections["models"] = {name: _anchored(model, folder) for name, model in config.models.items()}
    return config.model_copy(update=sections)


def read_broker(path: Path) -> Mqtt:
    """The section ``[mqtt]`` of a file that has no other; relative paths in it are relative to its folder.

    Raises:
        Misconfigured: ``E_CONFIG`` with file, key and what is wrong.
    """
    return _anchored(_read(path, _BrokerFile).mqtt, path.resolve().parent)


def _read(path: Path, model: type[AnySection]) -> AnySection:
    try:
        return model.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise Misconfigured("E_CONFIG", f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured("E_CONFIG", f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise Misconfigured("E_CONFIG", f"{path}: {first_problem(error)}") from error


def _anchored(section: AnySection, folder: Path) -> AnySection:
    return section.model_copy(update={key: folder / value for key, value in section if isinstance(value, Path)})


def read_secret(key: str, path: Path | None) -> str | None:
    """The first line of the file that a key of the configuration names, if it names one.

    Raises:
        Misconfigured: ``E_CONFIG``, it cannot be read or is empty.
    """
    if path is None:
        return None
    if not (line := _first_line(key, path)):
        raise Misconfigured("E_CONFIG", f"{key} {path} is empty")
    return line


def read_password(path: Path | None) -> str | None:
    """The first line of a password file; where none is configured, of systemd's credential, which may be empty.

    Raises:
        Misconfigured: ``E_CONFIG``, it cannot be read, or the file is empty.
    """
    if path is not None:
        return read_secret("mqtt.password_file", path)
    given = credential(MQTT_CREDENTIAL, CREDSTORE)
    return None if given is None else _first_line("mqtt.password_file", given) or None


def _first_line(key: str, path: Path) -> str:
    try:
        return next(iter(path.read_text().splitlines()), "")
    except UnicodeDecodeError as error:  # what it says of itself shows bytes of a secret
        raise Misconfigured("E_CONFIG", f"{key} {path} cannot be read: it is not UTF-8") from error
    except OSError as error:
        raise Misconfigured("E_CONFIG", f"{key} {path} cannot be read: {error.strerror}") from error


def broker_address(mqtt: Mqtt, client_id: str) -> BrokerAddress:
    """How to reach the broker.

    Raises:
        Misconfigured: ``E_CONFIG``, the password cannot be read.
    """
    return BrokerAddress(
        host=mqtt.host,
        port=mqtt.port,
        client_id=client_id,
        protocol=mqtt.protocol,
        username=mqtt.username,
        password=read_password(mqtt.password_file),
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        keepalive_s=mqtt.keepalive_s,
        in_flight=mqtt.in_flight,
        session_expiry_s=mqtt.session_expiry_s,
    )


def changed_keys(old: Config, new: Config) -> list[str]:
    """Keys, as ``section.key``, that differ between two configurations; ``models`` as a whole."""
    keys = [
        f"{section}.{key}"
        for section, value in old
        if isinstance(value, Section)
        for key, before in value
        if before != getattr(getattr(new, section), key)
    ]
    return [*keys, "models"] if old.models != new.models else keys


def needs_restart(keys: list[str]) -> list[str]:
    """Those of ``keys`` that a running agent cannot take over."""
    taken = [key for key in keys if key in RELOADABLE or f"{key.split('.', maxsplit=1)[0]}.*" in RELOADABLE]
    return [key for key in keys if key not in taken or key in FIXED]
