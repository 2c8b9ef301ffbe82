"""What the agent shows of itself over HTTP: metrics, and whether it lives and is ready."""

from __future__ import annotations

import errno
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import toy
from edge_agent.adapters.http import LONGEST_TURN_S, HttpServer, alive, ready
from edge_agent.commands import run
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port
from edge_agent.config import read_config
from edge_agent.schemas.snapshot import EDGES_S, Latency, Snapshot
from edge_agent.settings import OWN_MODEL
from tests import reference
from tests.plant import Plant, wait_until
from tests.reference import a_snapshot
from tests.scripts import ROOT

Start = Callable[..., LocalAgent]
RULES = ROOT / "deploy" / "prometheus" / "edge-agent.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "edge-agent.json"
END = "", "_count", "_sum"
NOT_SHOWN = "labels", "commands_accepted", "releases_refused", "cache_over_budget"  # each is told elsewhere
DEAF = "the broker does not let the agent listen to edge/toy/windows/+"
DYNAMIC_SECURITY = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)  # of Debian's mosquitto
PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")


def fetch(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(port: int) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and label values, but for the model's name: there is one."""
    status, text = fetch(port, "/metrics")
    assert status == 200
    families = text_string_to_metric_families(text)
    return {
        (one.name, tuple(value for label, value in one.labels.items() if label != "model")): one.value
        for family in families
        for one in family.samples
    }


def test_what_happened_to_windows_and_commands_stands_in_the_metrics(start_agent: Start, plant: Plant) -> None:
    port = free_port()
    start_agent(http_port=port)
    plant.answers(plant.feed(0, 40))
    plant.raw("windows/m1", b"no window")
    plant.raw("unlearn/growl", b"")
    plant.raw("unlearn/hum", b"")
    plant.expect("unlearn/hum/status", 120, status="successful")
    wait_until(lambda: samples(port)["edge_agent_commands", ("successful",)] == 1)
    seen = samples(port)
    assert seen["edge_agent_windows_total", ("answered",)] == 40
    assert seen["edge_agent_messages_refused_total", ("E_SIZE",)] == 1
    assert seen["edge_agent_messages_refused_total", ("E_CLASS",)] == 1
    assert seen["edge_agent_latency_seconds_count", ()] == 40
    assert 0 < seen["edge_agent_latency_seconds_sum", ()] < 40
    assert seen["edge_agent_broker_connected", ()] == 1
    assert seen["edge_agent_class_masked", ("hum",)] == 1
    assert seen["edge_agent_cache_windows", ("hum",)] == 0
    assert seen["edge_agent_jobs_cpu_seconds_total", ()] > 0.5
    assert seen["edge_agent_job_peak_memory_bytes", ()] > 100 << 20
    assert seen["edge_agent_turn_age_seconds", ()] < 5
    assert seen["process_resident_memory_bytes", ()] > 50 << 20


def test_an_agent_without_a_broker_lives_but_is_not_ready(start_agent: Start, broker: LocalBroker) -> None:
    port = free_port()
    start_agent(http_port=port)
    wait_until(lambda: fetch(port, "/readyz")[0] == 200)
    broker.kill()
    wait_until(lambda: fetch(port, "/readyz")[0] == 503)
    assert json.loads(fetch(port, "/readyz")[1]) == {"ok": False, "reason": "no connection to the broker"}
    assert fetch(port, "/healthz")[0] == 200
    assert samples(port)["edge_agent_broker_connected", ()] == 0
    assert fetch(port, "/else")[0] == 404


@pytest.mark.skipif(DYNAMIC_SECURITY is None, reason="mosquitto has no plugin for dynamic security (Debian: mosquitto)")
def test_an_agent_that_may_not_listen_to_windows_is_connected_but_not_ready(
    start_agent: Start, broker: LocalBroker, tmp_path: Path
) -> None:
    """It looked well everywhere, and answered nothing. An ACL file refuses no subscription; this plugin does."""
    deaf = {"acltype": "subscribePattern", "topic": "edge/toy/windows/#", "priority": 1, "allow": False}
    kinds = "publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"
    rights = {
        "defaultACLAccess": dict.fromkeys(kinds, True),
        "roles": [{"rolename": "deaf", "acls": [deaf]}],
        "groups": [{"groupname": "all", "roles": [{"rolename": "deaf"}], "clients": []}],
        "anonymousGroup": "all",
        "clients": [],
    }
    (tmp_path / "rights.json").write_text(json.dumps(rights))
    broker.stop()
    with (tmp_path / "broker" / "mosquitto.conf").open("a") as config:
        config.write(f"plugin {DYNAMIC_SECURITY}\nplugin_opt_config_file {tmp_path / 'rights.json'}\n")
    broker.start()
    port = free_port()
    start_agent(http_port=port)
    wait_until(lambda: json.loads(fetch(port, "/readyz")[1])["reason"] == DEAF)
    seen = samples(port)
    assert (seen["edge_agent_broker_connected", ()], seen["edge_agent_subscriptions_refused", ()]) == (1, 1)


def test_a_taken_port_is_told_and_serving_goes_on(start_agent: Start, plant: Plant) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        agent = start_agent(http_port=other.getsockname()[1])
        plant.answers(plant.feed(0, 5))
    assert "Address already in use" in agent.events("http.failed")[0]["reason"]


class Shown:
    """An agent as far as metrics ask for it."""

    snapshot = a_snapshot()


def test_an_address_that_comes_late_is_listened_at_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was tried once: after a start before the network's there were no metrics until the next start."""
    monkeypatch.setattr(run, "HTTP_RETRY_S", 0.02)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text = f'[gateway]\nname = "toy"\nstate_dir = "state"\n[http]\nport = {port}\n'
        (tmp_path / "agent.toml").write_text(text)
        with run._shown(read_config(tmp_path / "agent.toml"), Shown()):  # type: ignore[arg-type]
            other.close()
            wait_until(lambda: not refused(port))
            assert fetch(port, "/metrics")[0] == 200


def refused(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("host", "asked"),
    [("::1", "[::1]"), ("::", "[::1]"), ("::", "127.0.0.1"), ("localhost", "127.0.0.1"), ("", "127.0.0.1")],
)
def test_it_listens_at_addresses_of_either_kind(host: str, asked: str) -> None:
    """With an address of IPv6 it did not listen at all: "Address family for hostname not supported"."""
    port = free_port()
    try:
        server = HttpServer(host, port, a_snapshot, None, ROOT)
    except OSError as error:
        if host.startswith(":") and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            pytest.skip("this machine has no IPv6")
        raise
    server.start()
    try:
        assert fetch(port, "/healthz", asked)[0] == 200
    finally:
        server.stop()


def test_a_host_that_cannot_be_one_is_told_and_serving_goes_on(start_agent: Start, plant: Plant) -> None:
    """Python takes two dots in a row for a mistake of the program, and the agent ended with a traceback."""
    agent = start_agent(http_port=free_port())
    agent.stop()
    agent.config.write_text(agent.config.read_text().replace("[http]\n", '[http]\nhost = "a..b"\n'))
    agent.start()
    agent.ready(times=2)
    plant.answers(plant.feed(0, 5))
    assert "a..b" in agent.events("http.failed")[0]["reason"]


def test_an_agent_without_finished_turns_is_not_alive() -> None:
    seen = a_snapshot()
    assert alive(None, 0.0) == "it is starting"
    assert alive(seen, seen.turn_s + LONGEST_TURN_S - 1) is None
    assert alive(seen, seen.turn_s + 45) == "no turn for 45 s, limit 30 s"
    assert ready(seen, seen.turn_s + 45) == "no turn for 45 s, limit 30 s"
    assert ready(replace(seen, online=False), seen.turn_s) == "no connection to the broker"


def served(seen: Snapshot, cert_file: Path | None = None) -> dict[tuple[str, tuple[str, ...]], float]:
    port = free_port()
    server = HttpServer("127.0.0.1", port, lambda: seen, cert_file, ROOT)
    server.start()
    try:
        return samples(port)
    finally:
        server.stop()


def test_a_class_may_have_any_name_that_a_class_can_have() -> None:
    name = "a b@c-1._x"
    model = replace(a_snapshot().models[OWN_MODEL], cached={name: 3})
    figures = served(replace(a_snapshot(), models={OWN_MODEL: model}))
    assert figures["edge_agent_cache_windows", (name,)] == 3


def test_the_end_of_the_client_certificate_is_shown(tmp_path: Path) -> None:
    for words in ("ca",), ("agent", "toy"):
        subprocess.run([ROOT / "deploy" / "pki.sh", tmp_path, *words], check=True)
    ends = served(a_snapshot(), tmp_path / "toy.pem")["edge_agent_certificate_expiry_timestamp_seconds", ()]
    assert 824 < (ends - time.time()) / 86_400 < 826
    (tmp_path / "toy.pem").write_text("damaged")
    assert ("edge_agent_certificate_expiry_timestamp_seconds", ()) not in served(a_snapshot(), tmp_path / "toy.pem")


@given(st.lists(st.floats(0, 20), max_size=50))
def test_the_histogram_counts_every_window_below_each_edge(times_s: list[float]) -> None:
    latency = Latency()
    for time_s in times_s:
        latency.observe(time_s)
    for number in range(len(EDGES_S)):
        assert sum(latency.counts[: number + 1]) == sum(time_s <= EDGES_S[number] for time_s in times_s)
    assert sum(latency.counts) == len(times_s)
    assert latency.sum_s == pytest.approx(sum(times_s))


@PROMTOOL
def test_promtool_finds_nothing_to_improve_in_the_metrics() -> None:
    port = free_port()
    server = HttpServer("127.0.0.1", port, a_snapshot, None, ROOT)
    server.start()
    try:
        text = fetch(port, "/metrics")[1]
    finally:
        server.stop()
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    assert check.stdout + check.stderr == ""
    assert toy.CLASSES[0] in text


# deploy/prometheus and deploy/grafana


def promtool(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *arguments]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def known_metrics() -> set[str]:
    """Names of the series that the agent has."""
    text = reference.README.read_text()
    names = set(re.findall(r"^\| `(edge_agent_[a-z_]+)` \|", text, re.MULTILINE))
    histogram = {f"edge_agent_latency_seconds{end}" for end in ("_bucket", "_count", "_sum")}
    return (
        names
        | histogram
        | {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}
        | {"process_start_time_seconds"}
    )


def used_metrics(text: str) -> set[str]:
    return set(re.findall(r"\b(?:edge_agent_[a-z_]+|process_[a-z_]+)\b", text))


@PROMTOOL
def test_the_alert_rules_fire_when_they_should_and_are_silent_on_an_agent_that_is_well(tmp_path: Path) -> None:
    assert promtool("check", "config", "prometheus.yml", folder=RULES.parent).returncode == 0
    tests = (ROOT / "tests" / "alerts.yml").read_text().replace("RULES", str(RULES))
    (tmp_path / "alerts.yml").write_text(tests)
    done = promtool("test", "rules", "alerts.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout


@PROMTOOL
def test_every_query_of_the_dashboard_can_be_asked(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries = [query.replace("$__rate_interval", "1m") for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", "rules.json", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{len(queries)} rules found" in done.stdout


@PROMTOOL
def test_the_dashboard_shows_the_releases_of_several_models(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    query = next(panel for panel in panels if panel["title"].startswith("Live release"))["targets"][0]["expr"]
    series, expected = [], []
    for age, (model, digest) in enumerate([("gateway", "aa"), ("pumps", "bb")], 1):
        about = f'instance="i",model="{model}"'
        series.append({"series": f"edge_agent_release_age_seconds{{{about}}}", "values": f"{age}"})
        series.append({"series": f'edge_agent_release_info{{{about},digest="{digest}"}}', "values": "1"})
        expected.append({"labels": f'{{digest="{digest}", {about}}}', "value": age})
    test = {"expr": query.replace("$gateway", ".*"), "eval_time": "0", "exp_samples": expected}
    content = {"tests": [{"input_series": series, "promql_expr_test": [test]}]}
    (tmp_path / "test.yml").write_text(json.dumps(content))
    done = promtool("test", "rules", "test.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_and_dashboard_ask_only_for_metrics_that_there_are() -> None:
    rules, dashboard = RULES.read_text(), DASHBOARD.read_text()
    assert used_metrics(rules) <= known_metrics()
    assert used_metrics(dashboard) <= known_metrics()
    own = {name for name in known_metrics() if name.startswith("edge_agent_")}
    unseen = own - used_metrics(rules) - used_metrics(dashboard) - {f"edge_agent_latency_seconds{e}" for e in END}
    assert unseen <= {f"edge_agent_{name}_total" for name in NOT_SHOWN}


def test_every_alert_stands_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "operations.md").read_text()
    for name in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert f"### {name}\n" in runbook


@pytest.mark.parametrize(
    ("error", "told"), [(ConnectionResetError("gone"), False), (ValueError("a fault of ours"), True)]
)
def test_a_peer_that_hangs_up_is_no_news_and_a_fault_of_ours_is(
    capfd: pytest.CaptureFixture[str], error: Exception, told: bool
) -> None:
    server = HttpServer("127.0.0.1", 0, a_snapshot, None, ROOT)._server
    try:
        raise error
    except (ConnectionError, ValueError):
        server.handle_error(None, ("127.0.0.1", 1))
    server.server_close()
    assert (str(error) in capfd.readouterr().err) is told
