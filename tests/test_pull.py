"""Releases from elsewhere: over HTTPS and from an OCI registry, with whose release it is checked before its weights."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent import remote
from edge_agent.adapters.releases import read_release
from edge_agent.adapters.workplace import bare_folder
from edge_agent.commands.local import LocalBroker, free_port, wait_until
from edge_agent.commands.pull import sign
from edge_agent.core.errors import (
    BrokenRelease,
    EdgeAgentError,
    Misconfigured,
    StorageFailed,
    Unreachable,
    Untrusted,
)
from edge_agent.remote import SIGNATURE, Trust, _Allowance, fetch
from edge_agent.signing import PublicKey, Signer
from tests.plant import Plant, toy_agent
from tests.scripts import NEEDS_OPENSSL, ROOT, edge_agent, run_script
from tests.web import Server

pytestmark = NEEDS_OPENSSL
REGISTRY = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")
SIGNER = Signer.of_seed(bytes(32))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server called localhost."""
    folder = tmp_path_factory.mktemp("pki")
    for words in ("ca",), ("broker", "localhost"):
        subprocess.run([ROOT / "deploy" / "pki.sh", folder, *words], check=True)
    return folder


@pytest.fixture
def server(tmp_path: Path, pki: Path, toy_release: Path) -> Iterator[Server]:
    """Has the toy release at /press, signed."""
    (tmp_path / "files").mkdir()
    shutil.copytree(toy_release, tmp_path / "files" / "press")
    sign(tmp_path / "files" / "press", SIGNER)
    running = Server(tmp_path / "files", pki)
    yield running
    running.stop()


@pytest.fixture
def trust(pki: Path) -> Trust:
    return Trust((SIGNER.public,), pki / "ca.pem")


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def test_a_signed_release_is_fetched_as_it_is(server: Server, trust: Trust, tmp_path: Path, toy_release: Path) -> None:
    release = fetch(f"{server.url}/press/", trust, emptied(tmp_path / "got"))
    assert release.digest == read_release(toy_release).digest
    assert server.asked[:2] == ["card.json", SIGNATURE]
    assert server.tokens == {None}


def test_without_a_key_the_digest_says_which_it_is(
    server: Server, pki: Path, tmp_path: Path, toy_release: Path
) -> None:
    nobody, digest = Trust((), pki / "ca.pem", "secret"), read_release(toy_release).digest
    with pytest.raises(Untrusted, match="name its digest, or keys"):
        fetch(f"{server.url}/press", nobody, tmp_path)
    with pytest.raises(BrokenRelease, match="E_HASH"):
        fetch(f"{server.url}/press", nobody, tmp_path, "0" * 64)
    assert fetch(f"{server.url}/press", nobody, emptied(tmp_path / "got"), digest).digest == digest
    assert server.tokens == {"Bearer secret"}


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("card.json", None, BrokenRelease),
        (SIGNATURE, b"00" * 64, Untrusted),
        (SIGNATURE, b"\xff", Untrusted),
        ("weights.safetensors", b"other weights", BrokenRelease),
    ],
)
def test_what_was_changed_is_refused_and_weights_are_asked_for_last(
    server: Server, trust: Trust, tmp_path: Path, name: str, content: bytes | None, error: type[EdgeAgentError]
) -> None:
    path = server.folder / "press" / name
    path.write_bytes(path.read_bytes().replace(b"{", b"{ ", 1) if content is None else content)
    expected = Untrusted if name == "card.json" else error
    with pytest.raises(expected):
        fetch(f"{server.url}/press", trust, emptied(tmp_path / "got"))
    if expected is Untrusted:
        assert "weights.safetensors" not in server.asked


def test_a_server_that_is_not_known_or_has_it_not_is_told(
    server: Server, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreachable, match="404"):
        fetch(f"{server.url}/pumps", trust, tmp_path)
    with pytest.raises(Unreachable, match="certificate verify failed"):
        fetch(f"{server.url}/press", Trust(trust.keys), tmp_path)
    with pytest.raises(Unreachable, match="refused"):
        fetch(f"https://localhost:{free_port()}/press", trust, tmp_path)
    for url in ("http://localhost/press", "file:///etc/passwd", "oci://localhost", "press", "https:///press"):
        with pytest.raises(Misconfigured, match="no https:// or oci:// address"):
            fetch(url, trust, tmp_path)


def test_pulling_asks_the_agent_for_a_release_but_for_one_that_knows_what_was_erased(
    server: Server, pki: Path, tmp_path: Path, toy_release: Path, broker: LocalBroker, plant: Plant
) -> None:
    (tmp_path / "signer.pem").write_text(SIGNER.public.pem)
    extra = f'[forget]\nmin_windows = 32\n[releases]\nca_file = "{pki}/ca.pem"\nkeys.plant = "{tmp_path}/signer.pem"'
    agent = toy_agent(tmp_path / "agent", broker.port, toy_release, extra)
    try:
        agent.ready()
        pulled = edge_agent("releases", "pull", f"{server.url}/press", "--config", agent.config)
        assert pulled.returncode == 0, pulled.stderr
        wait_until(lambda: agent.events("release.adopted"), "the agent has adopted it")
        plant.answers(plant.feed(0, 40))
        plant.raw("unlearn/hum", b"")
        plant.expect("unlearn/hum/status", 120, status="successful")
        server.asked.clear()
        pulled = edge_agent("releases", "pull", f"{server.url}/press", "--config", agent.config)
        assert (pulled.returncode, "E_ERASED" in pulled.stderr) == (1, True)
        assert server.asked == ["card.json", SIGNATURE]
    finally:
        agent.kill()


# An OCI registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> Iterator[str]:
    """A real registry with TLS; returns its address."""
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n  tls: {{certificate: {pki}/broker.pem, key: {pki}/broker.key}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    yield f"localhost:{port}"
    process.kill()
    process.wait()


def push(registry: str, name: str, folder: Path, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``oras push`` does it: the files of a folder, a layer each."""
    from oras.provider import Registry

    monkeypatch.chdir(folder)
    client = Registry(registry, tls_verify=str(pki / "ca.pem"))
    files = [path.name for path in folder.iterdir()]
    wait_until(lambda: client.push(files=files, target=f"{registry}/{name}").ok, "it is pushed")


@REGISTRY
def test_a_release_comes_out_of_an_oci_registry_as_it_went_in(
    registry: str, pki: Path, server: Server, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry, "press:2026-11", server.folder / "press", pki, monkeypatch)
    release = fetch(f"oci://{registry}/press:2026-11", trust, emptied(tmp_path / "got"))
    assert release.digest == read_release(server.folder / "press").digest
    stranger: PublicKey = Signer.of_seed(bytes(31) + b"1").public
    with pytest.raises(Untrusted, match="signed with none of the keys"):
        fetch(f"oci://{registry}/press:2026-11", Trust((stranger,), trust.ca_file), tmp_path)
    with pytest.raises(Unreachable, match="E_SOURCE"):
        fetch(f"oci://{registry}/press:2025-01", trust, tmp_path)
    with pytest.raises(Unreachable, match=r"E_SOURCE.*certificate"):
        fetch(f"oci://{registry}/press:2026-11", Trust(trust.keys), tmp_path)
    (server.folder / "press" / SIGNATURE).unlink()
    push(registry, "press:unsigned", server.folder / "press", pki, monkeypatch)
    with pytest.raises(Unreachable, match=SIGNATURE):
        fetch(f"oci://{registry}/press:unsigned", trust, tmp_path)


def test_a_shortened_digest_is_refused_before_anything_is_asked_for(tmp_path: Path) -> None:
    """Release 57c7a3635434 was said not to be the one that was wanted, 57c7a3635434."""
    with pytest.raises(Misconfigured, match="is no whole digest, 64 hex digits"):
        fetch("https://localhost:1/press", Trust(), tmp_path, "57c7a3635434")


@REGISTRY
def test_what_is_no_manifest_and_a_registry_that_is_not_there_are_told_at_once(
    registry: str, pki: Path, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreachable, match="refused"):
        fetch(f"oci://localhost:{free_port()}/press:1", trust, tmp_path)
    with pytest.raises(Misconfigured, match="token_file") as caught:
        fetch(f"oci://anna:secret@{registry}/press:1", trust, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_redirection_is_not_followed_for_the_token_is_for_one_server(
    server: Server, trust: Trust, tmp_path: Path, pki: Path
) -> None:
    other = Server(server.folder, pki)
    server.elsewhere["card.json"] = f"{other.url}/press/card.json"
    with pytest.raises(Unreachable, match="302"):
        fetch(f"{server.url}/press", replace(trust, token="secret"), emptied(tmp_path / "got"))
    other.stop()
    assert server.tokens == {"Bearer secret"}
    assert (other.asked, other.tokens) == ([], set())


def test_a_card_that_does_not_end_is_not_read_for_ever(server: Server, trust: Trust, tmp_path: Path) -> None:
    server.endless.add("card.json")
    with pytest.raises(BrokenRelease, match=r"card\.json has more than"):
        fetch(f"{server.url}/press", trust, emptied(tmp_path / "got"))


def test_a_release_that_comes_too_slowly_is_given_up() -> None:
    _Allowance(1000, 60.0).take(1)
    with pytest.raises(Unreachable, match="did not come within"):
        _Allowance(1000, -1.0).take(1)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up_in_time(
    pki: Path, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until 64 KiB had come nobody looked at the clock: days, in which a replica followed nobody."""
    over = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "broker.pem", pki / "broker.key")
    monkeypatch.setattr(remote, "FETCH_S", 0.5)

    def drip(listener: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as secure:
            secure.recv(4096)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(200):  # at most ten seconds, so that a failure ends too
                secure.sendall(b" ")
                if over.wait(0.05):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=drip, args=(listener,))
        server.start()
        started_s = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0\.5 s"):
            fetch(f"https://localhost:{listener.getsockname()[1]}/x", trust, tmp_path, "a" * 64)
        took_s = time.monotonic() - started_s
        over.set()
        server.join()
    assert took_s < 5.0


def test_a_release_that_is_too_large_is_not_taken(server: Server, trust: Trust, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="there is room for 1000 bytes"):
        fetch(f"{server.url}/press", replace(trust, max_bytes=1000), emptied(tmp_path / "got"))


def test_what_is_not_sealed_yet_is_gone_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os, signal\nfrom edge_agent.adapters.workplace import bare_folder\n"
        "with bare_folder() as folder:\n    (folder / 'weights').write_bytes(b'bare')\n    print(folder, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    left = Path(done.stdout.strip())
    assert (left / "weights").exists()
    with bare_folder() as folder:
        assert not left.exists()
        assert folder.parent == left.parent
    assert not folder.exists()


def test_a_folder_in_which_another_process_works_is_left_to_it() -> None:
    """It was looked up in /proc, which hides a process that has given root up: the agent swept its release away."""
    with bare_folder() as folder:
        (folder / "weights").touch()
        run_script("from edge_agent.adapters.workplace import sweep_bare; sweep_bare()")
        assert (folder / "weights").exists()
