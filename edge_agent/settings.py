"""The sections and keys of ``agent.toml``: frozen, unknown keys refused, every key documented here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_agent.core.errors import Misconfigured

MODELS: Final = "models"  # folder of the state directory, and topic level, of the others
OWN_MODEL: Final = "gateway"  # the name of the model that takes what no other takes


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Gateway(Section):
    """Who this gateway is and where it keeps its state."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="name of the gateway, part of its topics")
    state_dir: Path = Field(
        Path("/var/lib/edge-agent"), description="releases, cache, journal; only this agent writes it"
    )
    master_key_file: Path | None = Field(
        None, description="64 hex digits that wrap all other keys; none: systemd's credential, else made in state_dir"
    )
    release: Path | None = Field(None, description="release to adopt when the state directory holds none")
    mode: Literal["agent", "replica"] = Field("agent", description="a replica only answers, with another's releases")

    @property
    def root_dir(self) -> Path:
        """The state directory of the gateway, also where this is one of its models."""
        return self.state_dir


class _ModelGateway(Gateway):
    """What stands for the gateway in the configuration of one of its models."""

    root: Path

    @property
    def root_dir(self) -> Path:
        """The state directory of the gateway that the model belongs to."""
        return self.root


class Mqtt(Section):
    """The broker."""

    host: str = Field("127.0.0.1", description="the broker's host name or address")
    port: int = Field(1883, ge=1, le=65535, description="the broker's port")
    base: str = Field("", pattern=r"^[^+#\x00]*$", description="base of all topics; empty: edge/<gateway.name>")
    protocol: Literal["auto", "5", "3.1.1"] = Field("auto", description="auto: MQTT 5, then 3.1.1")
    client_id: str = Field(
        "", max_length=128, description="empty: one that nobody can guess; a second connection has -out behind it"
    )
    username: str | None = Field(None, description="user name at the broker")
    password_file: Path | None = Field(
        None, description="file whose first line is the password; none: systemd's credential, if there is one"
    )
    ca_file: Path | None = Field(None, description="CA certificates, PEM; turns TLS on")
    cert_file: Path | None = Field(None, description="client certificate, PEM")
    key_file: Path | None = Field(None, description="client key, PEM")
    keepalive_s: int = Field(20, ge=5, le=3600, description="a silent connection is given up after 1.5 times this")
    in_flight: int = Field(256, ge=1, le=65535, description="most unacknowledged messages (Receive Maximum)")
    discovery: str = Field(
        "", pattern=r"^[^+#\x00]*$", description="prefix of discovery messages (homeassistant), so that devices appear"
    )
    share: str = Field(
        "", pattern=r"^[^+#/\x00]*$", description="name of a shared subscription: who has the same divides the windows"
    )
    session_expiry_s: int = Field(
        604_800, ge=0, le=0xFFFFFFFF, description="how long the broker keeps windows for an absent agent"
    )

    @model_validator(mode="after")
    def _encrypted(self) -> Mqtt:
        """A certificate without a CA would go unused, and the password be sent in clear text."""
        if self.ca_file is None and (self.cert_file or self.key_file):
            raise ValueError("cert_file and key_file need ca_file, which turns TLS on")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file")
        return self


class Serving(Section):
    """The model's side."""

    provider: Literal["cpu", "cuda", "tensorrt"] = Field(
        "cpu", description="what runs the model; where it is not to be had, the CPU does, with a warning"
    )
    precision: Literal["float32", "int8"] = Field(
        "float32", description="int8: the smaller model of a release that has one; else float32, with a warning"
    )
    threads: int = Field(1, ge=1, le=64, description="ONNX Runtime threads per run")
    max_batch: int = Field(32, ge=1, le=1024, description="most windows of one run")
    max_abs: float = Field(1e4, gt=0, description="largest sample taken for real, in the sensor's unit")


class Cache(Section):
    """Windows kept for forgetting."""

    windows_per_class: int = Field(512, ge=8, le=65536, description="most windows kept of one class")
    max_bytes: int = Field(1 << 30, ge=1 << 20, description="most bytes of all cached windows, lowers the former")
    bytes_per_day: int = Field(
        1_900_000_000, ge=1 << 20, description="most bytes written to it in a day, beside filling it: flash wears out"
    )
    from_diagnosis: bool = Field(
        False, description="also cache windows whose class only the model says, as long as none is forgotten"
    )
    min_confidence: float = Field(0.99, ge=0.5, le=1, description="how sure the model must be for that")
    recent: int = Field(256, ge=0, le=65536, description="windows kept in memory for a label that comes later")


class Commands(Section):
    """Who may ask to forget, beside what the broker's ACL says."""

    signed: bool = Field(False, description="refuse commands without a valid signature")
    keys: dict[str, Path] = Field({}, description="public keys (Ed25519, PEM) of who may ask, by id")

    @model_validator(mode="after")
    def _consistent(self) -> Commands:
        if self.signed and not self.keys:
            raise ValueError("signed is set, but there are no keys")
        return self


class Forget(Section):
    """Forget jobs."""

    min_windows: int = Field(32, ge=8, description="fewer cached windows of a class: the command is refused")
    max_windows: int = Field(512, ge=8, description="most windows per class that a job is given")
    threads: int = Field(1, ge=1, le=64, description="torch threads of the job")
    nice: int = Field(10, ge=0, le=19, description="nice level of the job, so that serving goes first")
    timeout_s: float = Field(1800, gt=0, description="a longer job is ended; the old model serves on")
    queue: int = Field(8, ge=1, le=1024, description="most commands that wait or run")
    work_dir: Path | None = Field(
        None, description="in memory (tmpfs), for a job's files; none: $RUNTIME_DIRECTORY, /dev/shm, else state_dir"
    )
    known_again: Literal["refuse", "mask"] = Field(
        "refuse", description="a later release that knows an erased class: refuse it, or serve it with the class masked"
    )
    shadow_windows: int = Field(
        0, ge=0, description="live windows that the new model answers unheard before it goes live; 0: none"
    )
    shadow_agreement: float = Field(
        0.9, ge=0, le=1, description="least share of them, of classes that stay, on which it agrees with the old model"
    )
    shadow_s: float = Field(600, gt=0, description="if they have not come by then, the command fails")
    probation_s: float = Field(
        0, ge=0, description="how long the parent release is kept for a rollback, by hand or on bad health"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Forget:
        if self.min_windows > self.max_windows:
            raise ValueError(f"min_windows is {self.min_windows}, more than max_windows, {self.max_windows}")
        return self


class Logs(Section):
    """Log output, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is written")
    format: Literal["json", "text"] = Field("json", description="json: one object per line; text: for people")


class Releases(Section):
    """Where further releases come from: ``edge-agent releases pull``, and what a replica follows."""

    keys: dict[str, Path] = Field({}, description="public keys (Ed25519, PEM) of who may sign a release, by id")
    ca_file: Path | None = Field(None, description="CA of the server, PEM; none: those that the machine trusts")
    max_bytes: int = Field(256 << 20, ge=1 << 20, description="largest release that is fetched")
    token_file: Path | None = Field(
        None, description="file whose first line is sent to an HTTPS server as bearer token"
    )


class Replica(Section):
    """With ``gateway.mode = "replica"``: whom it follows. It answers windows, and neither caches nor forgets."""

    of: str = Field("", pattern=r"^[^+#\x00]*$", description="base topic of the gateway that it follows")
    source: str = Field("", description="https:// or oci:// address below which that gateway's releases lie, by digest")


class Model(Section):
    """A further model on the same gateway, for some assets; the gateway's own takes the others."""

    release: Path | None = Field(None, description="release to adopt when it has none yet")
    assets: tuple[str, ...] = Field(
        min_length=1, description='its assets, by name or pattern ("pump-*"); the first model that has one takes it'
    )


class Http(Section):
    """Metrics and health, for Prometheus and whoever watches."""

    host: str = Field("127.0.0.1", description="address to listen at; nobody is asked who he is, so keep it local")
    port: int = Field(9464, ge=0, le=65535, description="its port; 0: none")


class Page(Section):
    """The page for people, ``edge-agent page``: a process of its own, and a client of the broker like any other."""

    host: str = Field("127.0.0.1", description="address to listen at")
    port: int = Field(9465, ge=1, le=65535, description="its port")
    hosts: tuple[str, ...] = Field(
        (), description="names by which browsers may ask for it, beside localhost and its address"
    )
    broker_file: Path | None = Field(
        None, description="TOML file with a section [mqtt]: as whom the page connects; none: as the agent"
    )
    token_file: Path | None = Field(
        None, description="file whose first line lets whoever gives it ask to forget; none: nobody may by a token"
    )
    user_header: str = Field(
        "",
        pattern=r"^[A-Za-z0-9-]*$",
        description="header in which a reverse proxy says who asks; only behind one",
    )


class Config(Section):
    """The whole file."""

    gateway: Gateway
    mqtt: Mqtt = Mqtt()
    serving: Serving = Serving()
    cache: Cache = Cache()
    commands: Commands = Commands()
    forget: Forget = Forget()
    logs: Logs = Logs()
    http: Http = Http()
    page: Page = Page()
    releases: Releases = Releases()
    replica: Replica = Replica()
    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")], Model] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if OWN_MODEL in self.models:
            raise ValueError(f"models.{OWN_MODEL}: this is how the gateway's own model is called")
        if self.gateway.mode == "replica" and not (self.replica.of and self.replica.source and self.mqtt.share):
            raise ValueError("a replica needs replica.of, replica.source and mqtt.share")
        if self.mqtt.share and self.models:
            raise ValueError("mqtt.share divides the windows of one model; models must be empty")
        if self.forget.min_windows > self.cache.windows_per_class:
            words = f"cache.windows_per_class is {self.cache.windows_per_class}, less than forget.min_windows"
            raise ValueError(f"{words}, {self.forget.min_windows}: no class could be forgotten")
        return self

    @property
    def base(self) -> str:
        """Base topic."""
        return self.mqtt.base or f"edge/{self.gateway.name}"

    def of_model(self, name: str) -> Config:
        """What holds for one of the models: to the outside it is a gateway of its own, with its own state.

        Raises:
            Misconfigured: ``E_CONFIG``, there is none of this name.
        """
        cache = self.cache.model_copy(update={"max_bytes": self.cache.max_bytes // (1 + len(self.models))})
        if name == OWN_MODEL:
            return self.model_copy(update={"cache": cache})
        if name not in self.models:
            raise Misconfigured("E_CONFIG", f"no model {name!r}; there are: {', '.join([OWN_MODEL, *self.models])}")
        place = f"{MODELS}/{name}"
        own = {
            "name": f"{self.gateway.name}/{place}",
            "state_dir": self.gateway.state_dir / place,
            "release": self.models[name].release,
        }
        sections = {
            "gateway": _ModelGateway.model_construct(**{**dict(self.gateway), **own, "root": self.gateway.state_dir}),
            "mqtt": self.mqtt.model_copy(update={"base": f"{self.base}/{place}"}),
            "cache": cache,
        }
        return self.model_copy(update=sections)
