"""What stands in deploy/ and systemd/ beside code: linted by the tools of each field, since not all can be run here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from edge_agent.config import read_config
from tests.scripts import ROOT

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent  # what pip has installed beside this Python, whatever the PATH says
SCRIPTS = [path for path in DEPLOY.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")]
MANIFESTS: list[dict[str, Any]] = [
    {**document, "file": path.name}
    for path in sorted((DEPLOY / "k8s").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
EXPOSURE = 2.0


def run(*command: object, **environment: str) -> str:
    """Run a tool that must find nothing; returns what it printed."""
    environment = os.environ | environment
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    assert len(SCRIPTS) >= 8
    run("shellcheck", *SCRIPTS, ROOT / ".ci" / "run")


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.l4t"])
def test_hadolint_finds_nothing_in_the_dockerfiles(name: str) -> None:
    run(BIN / "hadolint", DEPLOY / "docker" / name)


def test_the_compose_file_is_one() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "docker" / "compose.yml")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: f"{manifest['file']}-{manifest['kind']}")
def test_kubernetes_knows_every_field_of_the_manifests(manifest: dict[str, Any]) -> None:
    document = {key: value for key, value in manifest.items() if key != "file"}
    kubernetes_validate.validate(document, "1.30", strict=True)


def test_no_selector_takes_in_the_pods_of_another_and_their_traffic_is_let_through() -> None:
    sets = [each for each in MANIFESTS if each["kind"] == "StatefulSet"]
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in sets]
    services = {each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "Service"}
    for manifest, own in zip(sets, pods, strict=True):
        selector = manifest["spec"]["selector"]["matchLabels"]
        assert [labels for labels in pods if selector.items() <= labels.items()] == [own]
        assert manifest["spec"]["serviceName"] in services
        allowed = {
            port["port"]
            for each in MANIFESTS
            if each["kind"] == "NetworkPolicy" and each["spec"]["podSelector"]["matchLabels"].items() <= own.items()
            for rule in each["spec"].get("egress", [])
            for port in rule["ports"]
        }
        assert allowed == {53, 8883, 443}


@pytest.mark.parametrize(
    "manifest", [each for each in MANIFESTS if each["kind"] == "ConfigMap"], ids=lambda manifest: manifest["file"]
)
def test_the_configuration_within_a_manifest_is_one(manifest: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(manifest["data"]["agent.toml"])
    assert read_config(tmp_path / "agent.toml").http.host == "0.0.0.0"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["edge-agent.service", "edge-agent-page.service"])
def test_the_sandbox_of_the_services_leaves_little_open(name: str, tmp_path: Path) -> None:
    unit = shutil.copy(ROOT / "systemd" / name, tmp_path)  # away from the drop-in for a Jetson
    threshold = f"--threshold={EXPOSURE * 10:.0f}"
    told = run("systemd-analyze", "security", "--offline=true", threshold, unit, SYSTEMD_PAGER="cat")
    assert "Overall exposure level" in told
