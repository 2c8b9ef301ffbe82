"""Hostile input beyond single messages: documents, files, releases that lie; and no secret leaks.

Windows, commands, labels, cards, configurations and journals are fuzzed beside the tests of their parsers.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from benchmarks import toy
from edge_agent.adapters import checkpoints, job_folder
from edge_agent.adapters.audit import check, read_rows
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import read_release
from edge_agent.commands.local import LocalAgent, free_port
from edge_agent.core.errors import BrokenRelease, Untrusted
from edge_agent.schemas.card import DREAMS, INPUT, OUTPUT, WEIGHTS, Card
from edge_agent.signing import Signer, canonical, opened
from edge_agent.slots import SlotFile
from edge_agent.vault import CREDENTIAL, IDENTITY, Vault, read_master
from tests.plant import Plant, wait_until
from tests.scripts import edge_agent

Start = Callable[..., LocalAgent]
SIGNER = Signer.of_seed(bytes(32))
SIGNED = SIGNER.document({"kind": "test", "classes": ["hum"], "n": 1})
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


# Documents


@given(st.binary(max_size=300))
def test_any_bytes_are_no_certificate(content: bytes) -> None:
    with pytest.raises(Untrusted) as caught:
        opened(content, SIGNER.public)
    assert caught.value.code == "E_SIGNATURE"


@given(st.dictionaries(st.sampled_from(["content", "key", "signature"]), json_values))
def test_any_json_is_no_certificate(content: dict[str, Any]) -> None:
    with pytest.raises(Untrusted):
        opened(json.dumps(content).encode(), SIGNER.public)


@given(st.integers(0, len(SIGNED)), st.integers(0, len(SIGNED)), st.binary(max_size=8))
def test_a_certificate_with_a_part_replaced_is_the_same_or_refused(start: int, end: int, part: bytes) -> None:
    changed = SIGNED[:start] + part + SIGNED[end:]
    if changed != SIGNED:
        with pytest.raises(Untrusted):
            opened(changed, SIGNER.public)


def test_a_signed_document_with_one_more_member_is_refused() -> None:
    """A repeated part made a member ``sey`` of ``key``: nobody had signed it, and the document was believed."""
    whole = json.loads(SIGNED)
    assert opened(canonical(whole), SIGNER.public) == whole["content"]
    with pytest.raises(Untrusted):
        opened(canonical({**whole, "sey": whole["key"]}), SIGNER.public)


@given(st.binary(max_size=300))
def test_any_bytes_in_place_of_the_audit_log_are_read_as_no_row_and_found_out(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    path.write_bytes(content)
    assert list(read_rows(path)) == []
    if content:
        with pytest.raises(Untrusted):
            check(io.BytesIO(content))


# Files of the state directory


@settings(max_examples=60)
@given(st.binary(max_size=400), st.integers(0, 300))
def test_any_bytes_in_a_file_of_slots_are_empty_slots(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, place: int
) -> None:
    folder = tmp_path_factory.mktemp("slots")
    vault, sizes = Vault(folder), (4, 16, 8)
    file = SlotFile(folder, "hum", vault, *sizes)
    file.write(0, b"head", b"b" * 16)
    file.close()
    path = next(folder.glob("*.slots"))
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + junk)
    again = SlotFile(folder, "hum", vault, *sizes)
    for slot in range(again.count):
        assert again.header(slot) in (None, b"head")
        assert again.body(slot) in (None, b"b" * 16)
    assert again.count <= 8
    again.write(7, b"next", b"c" * 16)
    assert again.body(7) == b"c" * 16
    again.close()


# Releases that lie: the hashes of their files are right, for who makes a release makes its card


def tensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file with whatever header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


LIES: dict[str, bytes] = {
    "nothing": b"",
    "a header longer than the file": struct.pack("<Q", 2**60) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"xxxx",
    "more bytes than there are": tensors({"first": {"dtype": "I64", "shape": [2**40], "data_offsets": [0, 2**43]}}),
    "a shape that is not that of its bytes": tensors(
        {"first": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "parts that overlap": tensors(
        {
            "first": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "second": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        bytes(12),
    ),
    "a negative shape": tensors({"first": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "other arrays": safetensors.numpy.save({"other": np.zeros(3, np.float32)}),
    "arrays of different lengths": safetensors.numpy.save(
        {"first": np.zeros(3, np.int64), "second": np.zeros(3, np.int64), "samples": np.zeros((2, 4), np.int8)}
    ),
}


class Lying:
    """A release one of whose files is something else."""

    def __init__(self, folder: Path, name: str, content: bytes) -> None:
        self._release, self._name, self._content = read_release(folder), name, content

    @property
    def card(self) -> Card:
        return self._release.card

    def read(self, name: str) -> bytes:
        return self._content if name == self._name else self._release.read(name)


@pytest.mark.parametrize("lie", LIES)
def test_dreams_that_are_not_what_they_say_fail_the_job_and_not_the_agent(
    tmp_path: Path, toy_release: Path, lie: str
) -> None:
    """Dreams without the expected arrays ended the agent's process with a KeyError."""
    windows = {"whine": toy.windows(2, 32, np.random.default_rng(0))}
    job = job_folder.Job("id", ("whine",), 1, 1, {})
    with pytest.raises(BrokenRelease) as caught:
        job_folder.prepare(tmp_path / "job", job, Lying(toy_release, DREAMS, LIES[lie]), windows)
    assert caught.value.code == "E_WEIGHTS"


@pytest.mark.parametrize("lie", LIES)
def test_weights_that_are_not_what_they_say_are_refused(toy_release: Path, lie: str) -> None:
    with pytest.raises(BrokenRelease) as caught:
        checkpoints.load_network(LIES[lie], read_release(toy_release).card)
    assert caught.value.code == "E_WEIGHTS"


@settings(max_examples=40)
@given(st.data())
def test_weights_with_any_header_are_refused_or_loaded(toy_release: Path, data: st.DataObject) -> None:
    whole = (toy_release / WEIGHTS).read_bytes()
    place = data.draw(st.integers(0, 2000))
    changed = whole[:place] + data.draw(st.binary(min_size=1, max_size=8)) + whole[place + 8 :]
    with suppress(BrokenRelease):
        checkpoints.load_network(changed, read_release(toy_release).card)


def model(nodes: list[onnx.NodeProto], initializers: list[TensorProto]) -> bytes:
    windows = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["b", 3, 256])
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["b", 5])
    graph = helper.make_graph(nodes, "g", [windows], [logits], initializers)
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return made


def test_a_model_whose_weights_claim_more_than_is_there_is_refused() -> None:
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 5], raw_data=bytes(8))
    nodes = [helper.make_node("Flatten", [INPUT], ["flat"]), helper.make_node("MatMul", ["flat", "w"], [OUTPUT])]
    with pytest.raises(BrokenRelease, match="E_MODEL"):
        OnnxModel(model(nodes, [huge]), 1)


def test_a_model_that_asks_for_more_memory_than_there_is_is_refused() -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**24, 2**24])
    nodes = [
        helper.make_node("ReduceSum", [INPUT], ["sum"], keepdims=0),
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("Add", ["huge", "sum"], ["more"]),
        helper.make_node("ReduceMean", ["more"], ["one"], axes=[0, 1], keepdims=0),
        helper.make_node("Expand", ["one", "five"], [OUTPUT]),
    ]
    five = helper.make_tensor("five", TensorProto.INT64, [2], [1, 5])
    with pytest.raises(BrokenRelease, match="E_MODEL"):
        OnnxModel(model(nodes, [shape, five]), 1).logits(np.zeros((1, 3, 256), np.float32))


@settings(max_examples=60)
@given(st.data())
def test_a_model_with_any_bytes_changed_is_refused_or_runs(toy_release: Path, data: st.DataObject) -> None:
    whole = (toy_release / "model.onnx").read_bytes()
    place = data.draw(st.integers(0, min(len(whole), 4000)))
    changed = whole[:place] + data.draw(st.binary(min_size=1, max_size=8)) + whole[place + 8 :]
    with suppress(BrokenRelease):  # names that are not UTF-8 raised a UnicodeDecodeError
        OnnxModel(changed, 1).logits(np.zeros((1, 3, 256), np.float32))


# Secrets


def test_no_secret_appears_in_what_the_agent_says(tmp_path: Path, start_agent: Start, plant: Plant) -> None:
    """A canary: password, master key, signing key and the keys of the cache, in every form that they have."""
    (tmp_path / "password").write_text("canary-password-7f3a\n")
    (tmp_path / "given").mkdir()
    master = tmp_path / "given" / CREDENTIAL
    master.write_text("c0ffee" * 10 + "abcd")
    master.chmod(0o600)
    port = free_port()
    logs = '[logs]\nlevel = "debug"\n[forget]\nprobation_s = 600'
    agent = start_agent(
        f'username = "plant"\npassword_file = "{tmp_path}/password"\n{logs}',
        env={"CREDENTIALS_DIRECTORY": str(tmp_path / "given")},
        http_port=port,
    )
    plant.answers(plant.feed(2, 40, seed=1))
    vault = Vault(agent.state_dir, read_master(master))
    secrets = {vault.secret(name) for name in vault.names("")}
    plant.raw("unlearn/whine", b'{"id": "canary"}')
    wait_until(lambda: plant.find("unlearn/whine/certificate"), 120)
    plant.raw("unlearn/whine", b'{"id": "canary-password-7f3a-not-said"')
    plant.expect("refused", code="E_JSON")
    packed = tmp_path / "diag.tar.gz"
    assert edge_agent("diag", "--config", agent.config, "--out", packed, "--log", agent.log_path).returncode == 0
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
    agent.stop()
    plant.expect("status", state="offline")
    said = agent.log_path.read_bytes() + json.dumps([one.content for one in plant.heard]).encode()
    with metrics, tarfile.open(packed) as archive:
        files = [archive.extractfile(name) for name in archive.getnames()]
        said += metrics.read() + b"".join(file.read() for file in files if file is not None)
    said += (agent.state_dir / "audit.jsonl").read_bytes() + (agent.state_dir / "journal.jsonl").read_bytes()
    secrets |= {b"canary-password-7f3a", bytes.fromhex("c0ffee" * 10 + "abcd")}
    assert vault.secret(IDENTITY) in secrets
    secrets |= {vault.secret(name) for name in vault.names("")}  # those that the edit has made
    secrets |= {path.read_bytes() for path in (agent.state_dir / "keys").iterdir()}
    assert len(secrets) > 15
    for secret in secrets:
        for form in (secret, secret.hex().encode(), repr(secret)[2:-1].encode()):
            assert form not in said
