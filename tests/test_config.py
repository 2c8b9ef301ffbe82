"""The configuration: what is wrong is named by its key, what may change under way is told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import RELOADABLE, changed_keys, needs_restart, read_config, read_password
from edge_agent.core.errors import Misconfigured
from edge_agent.settings import Config
from tests.reference import sections

GATEWAY = '[gateway]\nname = "press-7"\n'


def _config(folder: Path, text: str = "") -> Config:
    path = folder / "agent.toml"
    path.write_text(GATEWAY + text)
    return read_config(path)


def _refusal(path: Path) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        read_config(path)
    assert caught.value.code == "E_CONFIG"
    assert str(path) in caught.value.reason
    return caught.value


def test_a_name_is_enough(tmp_path: Path) -> None:
    config = _config(tmp_path)
    assert config.base == "edge/press-7"
    assert (config.mqtt.port, config.forget.probation_s) == (1883, 0)
    assert config.gateway.state_dir == Path("/var/lib/edge-agent")


def test_a_base_of_ones_own_is_used(tmp_path: Path) -> None:
    assert _config(tmp_path, '[mqtt]\nbase = "plant/hall 3"').base == "plant/hall 3"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("state = 1", "gateway.state"),
        ("[mqtt]\nhots = 'broker'", "mqtt.hots"),
        ("[webserver]\nport = 80", "webserver"),
        ("[mqtt]\nport = 'many'", "mqtt.port"),
        ("[mqtt]\nport = 0", "mqtt.port"),
        ("[mqtt]\nport = 65536", "mqtt.port"),
        ("[mqtt]\nport = 18.5", "mqtt.port"),
        ("[mqtt]\nhost = 7", "mqtt.host"),
        ("[mqtt]\nbase = 'edge/+'", "mqtt.base"),
        ("[mqtt]\nprotocol = '4'", "mqtt.protocol"),
        ("[mqtt]\nca_file = 5", "mqtt.ca_file"),
        ("[mqtt]\ncert_file = 'a'\nkey_file = 'b'", "mqtt"),
        ("[mqtt]\nca_file = 'a'\nkey_file = 'b'", "mqtt"),
        ("[mqtt]\nsession_expiry_s = 4294967296", "mqtt.session_expiry_s"),
        ("[serving]\nmax_abs = nan", "serving.max_abs"),
        ("[serving]\nmax_abs = inf", "serving.max_abs"),
        ("[serving]\nmax_batch = 0", "serving.max_batch"),
        ("[cache]\nmin_confidence = 1.5", "cache.min_confidence"),
        ("[cache]\nfrom_diagnosis = 'perhaps'", "cache.from_diagnosis"),
        ("[cache]\nrecent = -1", "cache.recent"),
        ("[forget]\nnice = 20", "forget.nice"),
        ("[forget]\nprobation_s = -1", "forget.probation_s"),
        ("[forget]\nprobation_s = inf", "forget.probation_s"),
        ("[forget]\ntimeout_s = []", "forget.timeout_s"),
        ("[logs]\nlevel = 'loud'", "logs.level"),
    ],
)
def test_an_unknown_key_or_a_wrong_value_is_refused_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GATEWAY + text)
    assert f" {key}: " in _refusal(path).reason


def test_a_cache_too_small_to_ever_forget_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GATEWAY + "[cache]\nwindows_per_class = 16")
    assert "windows_per_class is 16, less than forget.min_windows, 32" in _refusal(path).reason


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "#"])
def test_a_gateway_name_that_is_no_topic_level_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'[gateway]\nname = "{name}"\n')
    assert " gateway.name: " in _refusal(path).reason


@pytest.mark.parametrize("content", [b"", b"[mqtt]\n", b"gateway = 3\n"])
def test_a_configuration_without_a_gateway_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    assert " gateway: " in _refusal(path).reason


@pytest.mark.parametrize("content", [b"[gateway", b"\xff\xfe", b"a = 1\na = 2\n", b"name: press\n"])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    assert "is not TOML" in _refusal(path).reason


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in _refusal(tmp_path / "agent.toml").reason


def test_relative_paths_are_relative_to_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    text = 'state_dir = "state"\nrelease = "../release"\n'
    text += '[mqtt]\nca_file = "/etc/ca.pem"\ncert_file = "tls/a.pem"\nkey_file = "tls/key.pem"\n'
    config = _config(tmp_path, text)
    assert config.gateway.state_dir == tmp_path / "state"
    assert config.gateway.release == tmp_path / "../release"
    assert config.mqtt.ca_file == Path("/etc/ca.pem")
    assert config.mqtt.key_file == tmp_path / "tls/key.pem"
    assert config.mqtt.password_file is None


def test_a_relative_path_to_the_file_itself_does_not_make_its_paths_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _config(tmp_path, 'state_dir = "state"\n')
    monkeypatch.chdir(tmp_path)
    assert read_config(Path("agent.toml")).gateway.state_dir == tmp_path / "state"


def test_every_key_says_what_it_means() -> None:
    for _, section in sections():
        for name, field in section.model_fields.items():
            assert field.description, name


def test_reloading_tells_apart_what_a_running_agent_can_take_over(tmp_path: Path) -> None:
    old = _config(tmp_path)
    same = _config(tmp_path, "[mqtt]\nport = 1883\n")
    assert changed_keys(old, same) == []
    soft = _config(tmp_path, "[serving]\nmax_abs = 5\n[forget]\nqueue = 3\nnice = 1\n[logs]\nlevel = 'debug'\n")
    assert changed_keys(old, soft) == ["serving.max_abs", "forget.nice", "forget.queue", "logs.level"]
    assert needs_restart(changed_keys(old, soft)) == []
    hard = _config(tmp_path, "[serving]\nmax_abs = 5\nthreads = 2\n[cache]\nrecent = 3\n[logs]\nformat = 'text'\n")
    assert needs_restart(changed_keys(old, hard)) == ["serving.threads", "cache.recent", "logs.format"]


def test_every_reloadable_key_exists() -> None:
    keys = {f"{name}.{key}" for name, section in sections() for key in [*section.model_fields, "*"]}
    assert set(RELOADABLE) <= keys


@given(port=st.integers(), max_abs=st.floats(), level=st.text(max_size=8))
@settings(max_examples=100)
def test_any_values_are_taken_within_their_limits_or_refused(
    tmp_path_factory: pytest.TempPathFactory, port: int, max_abs: float, level: str
) -> None:
    path = tmp_path_factory.mktemp("config") / "agent.toml"
    quoted = "".join(f"\\U{ord(char):08x}" for char in level if not 0xD800 <= ord(char) < 0xE000)
    path.write_text(f'{GATEWAY}[mqtt]\nport = {port}\n[serving]\nmax_abs = {max_abs}\n[logs]\nlevel = "{quoted}"\n')
    try:
        config = read_config(path)
    except Misconfigured as error:
        assert any(key in error.reason for key in ("mqtt.port", "serving.max_abs", "logs.level"))  # noqa: PT017
        return
    assert 1 <= config.mqtt.port <= 65535
    assert config.serving.max_abs > 0


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("secret \nsecond line\n")
    assert read_password(path) == "secret "
    assert read_password(None) is None


@pytest.mark.parametrize("content", [None, b"", b"\xe9t\xe9\n"])
def test_a_password_file_that_cannot_be_read_is_refused_by_its_key(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"E_CONFIG: mqtt\.password_file"):
        read_password(path)


def test_a_file_that_nests_too_deeply_is_refused(tmp_path: Path) -> None:
    """Read again on SIGHUP, it ended the service."""
    path = tmp_path / "agent.toml"
    path.write_text('[gateway]\nname = "x"\ny = ' + "[" * 20_000)
    with pytest.raises(Misconfigured, match="E_CONFIG"):
        read_config(path)


def test_without_a_password_file_the_credential_of_systemd_is_used_unless_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password(None) is None
    (tmp_path / "edge-agent-mqtt-password").write_text("\n")
    assert read_password(None) is None
    (tmp_path / "edge-agent-mqtt-password").write_text("secret\n")
    assert read_password(None) == "secret"
