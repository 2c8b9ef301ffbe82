"""ONNX: the export, the same graph with other weights, and ONNX Runtime against torch."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import structlog
import torch
from torch import Tensor, nn

from edge_agent.adapters import onnx_export
from edge_agent.adapters.onnx_session import OnnxModel, providers
from edge_agent.core.errors import BrokenRelease, JobFailed
from edge_agent.core.parts import Standardise
from edge_agent.core.training import logits
from edge_agent.core.types import Float32
from edge_agent.schemas.card import INPUT, OUTPUT
from tests.model_fixtures import SHAPE, good_edit, seeded, toy_network, windows_of
from tests.scripts import ROOT


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    onnx_export.export(toy_network(), *SHAPE, path)
    return path


def _parity(network: nn.Module, path: Path, windows: Tensor) -> float:
    return onnx_export.check_parity(network, windows, OnnxModel(path.read_bytes(), 1).logits(windows.numpy()))


def _windows(count: int) -> Tensor:
    return windows_of(0, 1, 2, 3, 4)[:: 600 // count][:count].contiguous()


def _changed() -> nn.Sequential:
    """The toy network with every weight and statistic another one."""
    network, generator = toy_network(), seeded(4)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
    return network


def test_every_weight_and_statistic_is_an_initializer_under_its_own_name(exported: Path) -> None:
    held = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(exported)).graph.initializer}
    for name, value in toy_network().state_dict().items():
        if value.is_floating_point():
            np.testing.assert_array_equal(held[name], value.numpy())


def test_the_graph_takes_windows_and_gives_logits_with_a_free_batch(exported: Path) -> None:
    graph = onnx.load(str(exported)).graph
    assert [one.name for one in graph.input] == [INPUT]
    assert [one.name for one in graph.output] == [OUTPUT]
    batch, channels, length = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert (channels.dim_value, length.dim_value) == SHAPE


def test_the_graph_is_well_formed_and_in_one_file(exported: Path) -> None:
    onnx.checker.check_model(str(exported), full_check=True)
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]


def test_maps_have_a_height_from_the_first_convolution_to_the_mean_and_weights_have_none(exported: Path) -> None:
    graph = onnx.load(str(exported)).graph
    weights = {one.name for one in graph.initializer if len(one.dims) == 3 and not one.name.startswith("normalise")}
    convolved = {node.input[1].removesuffix(".unsqueeze") for node in graph.node if node.op_type == "Conv"}
    assert convolved == weights == {name for name, value in toy_network().state_dict().items() if value.dim() == 3} - {
        "normalise.mean", "normalise.std"
    }  # fmt: skip
    reshaped = [node.op_type for node in graph.node if node.op_type in ("Unsqueeze", "Squeeze")]
    assert sorted(reshaped) == ["Squeeze", *["Unsqueeze"] * (1 + len(weights))]


@pytest.mark.parametrize(
    "parts",
    [
        (nn.MaxPool1d(2), nn.Conv1d(3, 4, 3, dilation=2), nn.GELU(), nn.Conv1d(4, 6, 5, stride=3, padding=2, groups=2)),
        (nn.Conv1d(3, 4, 3, padding=1), nn.Tanh(), nn.MaxPool1d(3, 2, 1), nn.BatchNorm1d(4), nn.AvgPool1d(2)),
        (nn.Unflatten(2, (16, 16)), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(2), nn.Conv1d(4, 4, 9)),
    ],
    ids=["pooled first, another activation", "other layers between", "pictures among it"],
)
def test_any_convolutional_network_is_answered_as_torch_does(parts: tuple[nn.Module, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(normalise=Standardise(3), stem=nn.Sequential(*parts), head=nn.Flatten()))
    onnx_export.export(network, *SHAPE, tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    windows = _windows(9)
    answers = OnnxModel((tmp_path / "model.onnx").read_bytes(), 1).logits(windows.numpy())
    np.testing.assert_allclose(answers, logits(network, windows).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 33])
def test_any_number_of_windows_is_answered_as_torch_does(exported: Path, count: int) -> None:
    windows = _windows(count)
    answer = OnnxModel(exported.read_bytes(), threads=1).logits(windows.numpy())
    assert answer.shape == (count, 5)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, logits(toy_network(), windows).numpy(), rtol=0, atol=onnx_export.PARITY)
    assert _parity(toy_network(), exported, windows) <= 1e-4


def test_new_weights_in_the_old_graph_answer_as_a_fresh_export_does(exported: Path, tmp_path: Path) -> None:
    network, windows = _changed(), _windows(33)
    onnx_export.with_weights(exported.read_bytes(), network, tmp_path / "rewritten.onnx")
    onnx_export.export(network, *SHAPE, tmp_path / "fresh.onnx")
    rewritten, fresh, old = (
        OnnxModel(path.read_bytes(), threads=1).logits(windows.numpy())
        for path in (tmp_path / "rewritten.onnx", tmp_path / "fresh.onnx", exported)
    )
    np.testing.assert_allclose(rewritten, fresh, rtol=1e-5, atol=1e-5)
    assert np.abs(rewritten - old).max() > 0.1


def test_new_weights_leave_the_graph_and_the_parent_s_file_as_they_were(exported: Path, tmp_path: Path) -> None:
    before = exported.read_bytes()
    onnx_export.with_weights(exported.read_bytes(), _changed(), tmp_path / "m.onnx")
    parent, child = onnx.load(str(exported)), onnx.load(str(tmp_path / "m.onnx"))
    assert exported.read_bytes() == before
    assert list(parent.graph.node) == list(child.graph.node)
    assert [one.name for one in parent.graph.initializer] == [one.name for one in child.graph.initializer]


def test_an_edited_network_passes_in_its_parent_s_graph(exported: Path, tmp_path: Path) -> None:
    done = good_edit()
    onnx_export.with_weights(exported.read_bytes(), done.network, tmp_path / "m.onnx")
    assert _parity(done.network, tmp_path / "m.onnx", done.windows) <= 1e-4


def test_another_network_s_file_fails_parity_with_the_difference(exported: Path) -> None:
    with pytest.raises(JobFailed, match=r"differ by [\d.e+]+, limit 0.0001") as caught:
        _parity(_changed(), exported, _windows(4))
    assert caught.value.code == "E_PARITY"


def test_a_network_of_nan_fails_parity(exported: Path, tmp_path: Path) -> None:
    network = toy_network()
    with torch.no_grad():
        network.get_parameter("head.bias")[0] = torch.nan
    onnx_export.with_weights(exported.read_bytes(), network, tmp_path / "m.onnx")
    with pytest.raises(JobFailed, match="E_PARITY"):
        _parity(network, tmp_path / "m.onnx", _windows(2))


def test_a_graph_without_one_of_the_weights_is_refused_by_the_weight_s_name(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    (gone,) = (one for one in model.graph.initializer if one.name == "head.bias")
    model.graph.initializer.remove(gone)
    onnx.save(model, tmp_path / "parent.onnx")
    with pytest.raises(BrokenRelease, match=r"no initializer head\.bias") as caught:
        onnx_export.with_weights((tmp_path / "parent.onnx").read_bytes(), toy_network(), tmp_path / "m.onnx")
    assert caught.value.code == "E_MODEL"
    assert not (tmp_path / "m.onnx").exists()


def test_a_graph_with_a_weight_of_another_shape_is_refused(exported: Path, tmp_path: Path) -> None:
    network = toy_network()
    network[-1] = nn.Linear(32, 6)
    with pytest.raises(BrokenRelease, match=r"no initializer head\.weight of shape \(6, 32\)"):
        onnx_export.with_weights(exported.read_bytes(), network, tmp_path / "m.onnx")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(exported: Path, tmp_path: Path, share: float) -> None:
    content = exported.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: int(share * len(content))])
    with pytest.raises(BrokenRelease, match="cannot load") as caught:
        OnnxModel((tmp_path / "m.onnx").read_bytes(), threads=1)
    assert caught.value.code == "E_MODEL"


@pytest.mark.parametrize(
    "windows",
    [
        np.zeros((1, 4, 256), np.float32),
        np.zeros((1, 3, 255), np.float32),
        np.zeros((3, 256), np.float32),
        np.zeros((1, 3, 256), np.float64),
    ],
    ids=["channels", "length", "dimensions", "dtype"],
)
def test_windows_that_do_not_fit_the_model_are_refused(exported: Path, windows: Float32) -> None:
    with pytest.raises(BrokenRelease, match="cannot run") as caught:
        OnnxModel(exported.read_bytes(), threads=1).logits(windows)
    assert caught.value.code == "E_MODEL"


def test_nothing_of_the_machine_that_exported_it_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (b".py", b"site-packages", b"/home", b"/tmp", str(Path.cwd()).encode(), b"edge_agent", b"Traceback"):
        assert trace not in content
    if (user := getpass.getuser()) != "root":
        assert user.encode() not in content
    model = onnx.load(str(exported))
    assert not model.metadata_props
    assert not model.doc_string
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("where", ["data.bin", "../data/data.bin", "absolute"])
def test_weights_outside_the_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """They are under no hash of the card, and were read from wherever the process happened to stand."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.bin").write_bytes(np.ones((768, 2), np.float32).tobytes())
    monkeypatch.chdir(tmp_path / "data")
    outside = onnx.TensorProto(name="w", data_type=1, dims=[768, 2], data_location=onnx.TensorProto.EXTERNAL)
    place = str(tmp_path / "data" / "data.bin") if where == "absolute" else where
    outside.external_data.add(key="location", value=place)
    helper = onnx.helper
    nodes = [helper.make_node("Flatten", [INPUT], ["flat"]), helper.make_node("MatMul", ["flat", "w"], [OUTPUT])]
    values = [
        helper.make_tensor_value_info(INPUT, 1, ["b", 3, 256]),
        helper.make_tensor_value_info(OUTPUT, 1, ["b", 2]),
    ]
    graph = helper.make_graph(nodes, "outside", values[:1], values[1:], [outside])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(BrokenRelease, match="E_MODEL"):
        OnnxModel(model.SerializeToString(), threads=1)


def test_onnx_runtime_keeps_no_record_of_what_it_ran(exported: Path, tmp_path: Path) -> None:
    """It sent telemetry, and kept a database of models and sessions in the home directory, unless forbidden to."""
    script = f"""
import numpy as np
from edge_agent.adapters.onnx_session import OnnxModel
OnnxModel(open({str(exported)!r}, "rb").read(), 1).logits(np.zeros({(1, *SHAPE)!r}, np.float32))
"""
    # Nothing else, for it keeps quiet on what it takes for a test machine by its environment.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_a_provider_that_is_not_to_be_had_leaves_the_model_to_the_cpu_with_a_warning(exported: Path) -> None:
    windows = _windows(4).numpy()
    with structlog.testing.capture_logs() as said:
        model = OnnxModel(exported.read_bytes(), 1, providers("tensorrt", None))
    assert model.provider == "CPUExecutionProvider"
    assert said[0]["event"] == "provider.missed"
    assert said[0]["providers"] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert np.array_equal(model.logits(windows), OnnxModel(exported.read_bytes(), 1).logits(windows))


def test_what_an_accelerator_compiles_is_kept_by_release_and_computed_in_full_precision(tmp_path: Path) -> None:
    assert providers("cpu", tmp_path) == [("CPUExecutionProvider", {})]
    assert [name for name, _ in providers("cuda", None)] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    (_, options), (_, cuda), _ = providers("tensorrt", tmp_path / "digest")
    assert options["trt_engine_cache_path"] == str(tmp_path / "digest")
    assert cuda == {"use_tf32": "0"}
