"""The transformers: shapes, attention, and the whole way of a release: trained, dreamt, exported, served, edited."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks import toy
from edge_agent import unlearn_job
from edge_agent.adapters import checkpoints, job_folder, onnx_export
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import read_release
from edge_agent.cli import main
from edge_agent.commands.train import train_release
from edge_agent.core import dreams as dreaming
from edge_agent.core import gate, networks, pte
from edge_agent.core.dreams import DreamSettings, anchors_and_evidence, dream, with_noisy
from edge_agent.core.edit_settings import EditSettings
from edge_agent.core.errors import BrokenRelease
from edge_agent.core.evidence import Evidence, without
from edge_agent.core.networks import EditScope, graph_state
from edge_agent.core.parts import SpectrumRecord
from edge_agent.core.training import TrainingSettings, logits
from edge_agent.core.transformers import SWIN_WINDOW, WindowAttention
from edge_agent.live import LiveModel
from edge_agent.schemas.card import DREAMS, MODEL, WEIGHTS
from tests.model_fixtures import (
    CLASSES,
    RATTLE,
    SHAPE,
    accuracy,
    changed_parts,
    seeded,
    tensors,
    toy_data,
    toy_margins,
    windows_of,
)
from tests.plant import store_at

ARCHITECTURES = ("vit_1d", "swin_1d")
SCOPES: list[tuple[EditScope, str]] = [("head", "head"), ("last_stage", "stage4"), ("all", "stem")]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@cache
def _built(architecture: str, width: int, classes: int, channels: int, length: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return networks.build(architecture, channels=channels, classes=classes, width=width, length=length).eval()


def built(architecture: str, width: int = 4, classes: int = CLASSES, seed: int = 0) -> nn.Sequential:
    return copy.deepcopy(_built(architecture, width, classes, *SHAPE, seed))


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One trained release of each architecture."""
    how, few = TrainingSettings(epochs=7, batch=32, rate=5e-3), DreamSettings(typical=4, soft=2, border=3)
    folders = {name: tmp_path_factory.mktemp("transformers") / name for name in ARCHITECTURES}
    for name, folder in folders.items():
        train_release(toy_data(), folder, architecture=name, width=4, seed=0, settings=how, dream_settings=few)
    return folders


def trained(folder: Path) -> nn.Sequential:
    return checkpoints.load_network((folder / WEIGHTS).read_bytes(), read_release(folder).card)


@every_architecture
@pytest.mark.parametrize(("channels", "length"), [(1, 32), (9, 1024), (2, 125), (3, 333)])
def test_windows_of_any_size_have_one_logit_per_class(architecture: str, channels: int, length: int) -> None:
    network = _built(architecture, 2, 4, channels, length, 0)
    windows = torch.randn(2, channels, length, generator=seeded())
    assert logits(network, windows).shape == (2, 4)
    torch.testing.assert_close(logits(network, windows[:1]), logits(network, windows)[:1], rtol=1e-4, atol=1e-5)
    shifted = windows.clone()
    shifted[..., -1] += 5.0
    assert (logits(network, shifted) - logits(network, windows)).abs().max() > 1e-6  # the last sample counts, too


@pytest.mark.parametrize(("architecture", "millions"), [("vit_1d", 21.4), ("swin_1d", 27.5)])
def test_width_64_is_the_papers_size(architecture: str, millions: float) -> None:
    with torch.device("meta"):
        network = networks.build(architecture, channels=9, classes=7, width=64, length=1024)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.parametrize(
    ("architecture", "width", "length", "words"),
    [("vit_1d", 4, 31, "31.*at least 32"), ("swin_1d", 4, 7, "7.*at least 8"), ("swin_1d", 5, 64, "width is 5.*even")],
)
def test_a_size_that_cannot_be_built_is_refused(architecture: str, width: int, length: int, words: str) -> None:
    with pytest.raises(BrokenRelease, match=f"E_ARCHITECTURE.*{words}"):
        networks.build(architecture, channels=3, classes=5, width=width, length=length)


@every_architecture
def test_weights_come_from_the_global_seed_alone(architecture: str) -> None:
    torch.manual_seed(0)
    again = networks.build(architecture, channels=SHAPE[0], classes=CLASSES, width=4, length=SHAPE[1])
    assert not changed_parts(built(architecture), again)
    assert {"stem", "stage1", "stage4", "head"} <= changed_parts(built(architecture), built(architecture, seed=1))


@every_architecture
@pytest.mark.parametrize(("scope", "first"), SCOPES)
def test_a_scope_cuts_trunk_from_tail(architecture: str, scope: EditScope, first: str) -> None:
    network, windows = built(architecture), torch.randn(3, *SHAPE, generator=seeded())
    at = networks.cut(network, scope)
    assert [name for name, _ in network.named_children()][at] == first
    with torch.no_grad():
        torch.testing.assert_close(network[at:](network[:at](windows)), network(windows), rtol=0, atol=0)


@given(tokens=st.integers(2, 40), shifted=st.booleans())
@settings(max_examples=40)
def test_tokens_see_those_of_their_attention_window_and_no_others(tokens: int, shifted: bool) -> None:
    attention = WindowAttention(6, 3, tokens, shifted=shifted)
    x = torch.randn(1, tokens, 6, generator=seeded()).requires_grad_()
    start = SWIN_WINDOW // 2 if shifted and tokens > SWIN_WINDOW else 0
    window = (torch.arange(tokens) - start).div(SWIN_WINDOW, rounding_mode="floor")  # -1: before the first shifted one
    y = attention(x)[0].sum(1)
    seen = torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0][0].abs().sum(1) > 0 for one in y])
    assert torch.equal(seen, window[:, None] == window)


def test_shifted_and_plain_attention_together_carry_a_change_across_a_border() -> None:
    swin, windows = built("swin_1d"), torch.randn(1, *SHAPE, generator=seeded())
    tokens = swin[:2](windows)
    moved = tokens.clone()
    moved[0, SWIN_WINDOW - 1].neg_()
    with torch.no_grad():
        changed = (swin.get_submodule("stage1")(moved) - swin.get_submodule("stage1")(tokens)).abs().sum(2)[0] > 1e-6
    assert changed[: SWIN_WINDOW + SWIN_WINDOW // 2].all()
    assert not changed[SWIN_WINDOW + SWIN_WINDOW // 2 :].any()


@every_architecture
def test_rounding_reaches_every_weight_matrix(architecture: str) -> None:
    network = built(architecture)
    coarse = gate.rounded(network, bits=4)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            levels = coarse.get_submodule(name).get_parameter("weight").flatten(1)
            assert all(len(row.unique()) <= 15 for row in levels), name


@every_architecture
def test_the_toy_data_set_is_learned_and_served_by_onnx_runtime(
    architecture: str, releases: dict[str, Path], tmp_path: Path
) -> None:
    store = store_at(tmp_path)
    release = store.add(releases[architecture])
    assert release.card.name == f"toy {architecture} width 4 seed 0"
    live = LiveModel(store, threads=1, max_abs=100.0)
    live.adopt(release)
    windows, labels = tensors(toy_data().test)
    answers = [answer.top[0][0] for answer in live.answer(windows.numpy()) if answer is not None]
    right = np.mean([name == toy.CLASSES[label] for name, label in zip(answers, labels.tolist(), strict=True)])
    assert right > 0.95
    served = OnnxModel(release.read(MODEL), threads=1).logits(windows.numpy())
    assert onnx_export.check_parity(trained(releases[architecture]), windows, served) <= 1e-4


@every_architecture
def test_other_weights_in_the_exported_graph_answer_as_torch_does(
    architecture: str, releases: dict[str, Path], tmp_path: Path
) -> None:
    other, windows = built(architecture, seed=1), windows_of(0, 3)[:33].contiguous()
    onnx_export.with_weights((releases[architecture] / MODEL).read_bytes(), other, tmp_path / "m.onnx")
    answers = OnnxModel((tmp_path / "m.onnx").read_bytes(), threads=1).logits(windows.numpy())
    assert onnx_export.check_parity(other, windows, answers) <= 1e-4
    held = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(tmp_path / "m.onnx")).graph.initializer}
    state = graph_state(other)
    assert {name for name, _ in other.named_parameters()} <= state.keys()
    assert all(np.array_equal(held[name], value.numpy()) for name, value in state.items())
    assert not any("record" in name for name in held)


@every_architecture
def test_the_record_is_the_spectrum_of_the_training_windows(architecture: str, releases: dict[str, Path]) -> None:
    network = trained(releases[architecture])
    record = network.get_submodule("stem.record")
    assert isinstance(record, SpectrumRecord)
    with torch.no_grad():
        levels = record.levels(network[0](tensors(toy_data().train)[0]))
    # A circular shift, which is how training varies its windows, moves no power between bands.
    torch.testing.assert_close(record.statistics.running_mean, levels.mean((0, 2)), rtol=0, atol=0.02)
    torch.testing.assert_close(record.statistics.running_var, levels.var((0, 2)), rtol=0.2, atol=0.02)


def test_white_noise_has_a_level_of_0_bel_and_ten_times_the_power_one_more() -> None:
    noise = torch.randn(400, 2, 500, generator=seeded())
    noise[:, 1] *= 10**0.5
    levels = SpectrumRecord(2, 500).levels(noise).view(400, 2, -1).mean((0, 2))
    torch.testing.assert_close(levels, torch.tensor([0.0, 1.0]), rtol=0, atol=0.05)


@every_architecture
def test_answering_changes_nothing_in_a_network(architecture: str) -> None:
    network = built(architecture)
    logits(network, windows_of(0))
    assert not changed_parts(network, built(architecture))


@every_architecture
def test_typical_dreams_are_answered_with_their_class(architecture: str, releases: dict[str, Path]) -> None:
    made, network = checkpoints.load_dreams(releases[architecture] / DREAMS), trained(releases[architecture])
    right = (logits(network, made.windows).argmax(1) == made.first)[made.typical].float()
    of = made.first[made.typical]
    assert all(right[of == label].mean() > 0.6 for label in range(CLASSES))


def _spectrum_error(network: nn.Sequential, windows: Tensor) -> float:
    record = network.get_submodule("stem.record")
    assert isinstance(record, SpectrumRecord)
    assert record.statistics.running_mean is not None
    with torch.no_grad():
        levels = record.levels(network[0](windows))
    return float((levels.mean((0, 2)) - record.statistics.running_mean).norm())


def test_the_prior_draws_the_dreams_to_the_spectrum_of_real_windows(
    releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dreaming, "STEPS", 40)
    network, few = trained(releases["vit_1d"]), DreamSettings(typical=3, soft=0, border=0)
    with_prior = dream(network, CLASSES, SHAPE, few, seeded()).windows
    monkeypatch.setattr(dreaming, "PRIOR_WEIGHT", 0.0)
    without_prior = dream(network, CLASSES, SHAPE, few, seeded()).windows
    assert _spectrum_error(network, with_prior) < 0.5 * _spectrum_error(network, without_prior)


@every_architecture
def test_a_class_is_forgotten_and_the_others_stay(architecture: str, releases: dict[str, Path]) -> None:
    original = trained(releases[architecture])
    network, others = copy.deepcopy(original), [label for label in range(CLASSES) if label != RATTLE]
    made = without(checkpoints.load_dreams(releases[architecture] / DREAMS), (RATTLE,))
    anchors, evidence = (with_noisy(side, network, seeded(3)) for side in anchors_and_evidence(made))
    windows, sure = windows_of(RATTLE)[:64], Evidence(evidence, (RATTLE,), toy_margins())
    how = EditSettings(push_rate=1e-3, pull_rate=1e-3, consolidation_steps=16)  # in fewer steps than ships
    outcome = pte.edit(network, windows, (RATTLE,), how, seeded(1), anchors=anchors.windows, evidence=sure)
    assert outcome.forgotten
    assert accuracy(original, RATTLE) > 0.9
    assert gate.forget_share(network, windows, (RATTLE,)) == 0.0
    assert accuracy(network, RATTLE) < 0.1
    assert accuracy(network, *others) > accuracy(original, *others) - 0.05
    assert changed_parts(original, network) == {"stage4", "pool", "head"}


@every_architecture
def test_the_forget_job_leaves_a_release_that_has_forgotten(
    architecture: str, releases: dict[str, Path], tmp_path: Path
) -> None:
    parent, folder, windows = read_release(releases[architecture]), tmp_path / "job", windows_of(RATTLE)[:64].numpy()
    what = job_folder.Job("one", ("rattle",), 7, 1, {"sender": len(windows)})
    job_folder.prepare(folder, what, parent, {"rattle": windows})
    numbers = unlearn_job.run(folder, unlearn_job.Reporter(folder, None))
    assert numbers["onnx_parity"] <= 1e-4
    result = read_release(folder / job_folder.RESULT)
    assert (result.card.architecture, result.card.forgotten) == (architecture, ("rattle",))
    assert RATTLE not in OnnxModel(result.read(MODEL), threads=1).logits(windows).argmax(1)


def test_train_hands_the_architecture_on_and_says_which_there_are(tmp_path: Path) -> None:
    path, split = tmp_path / "mine.npz", toy_data().test
    np.savez(
        path,
        windows=split.windows,
        labels=split.labels,
        classes=np.array(toy.CLASSES),
        groups=np.arange(len(split)) % 5,
        rate_hz=np.array(toy.RATE_HZ),
    )
    words = ["train", "--data", str(path), "--out", str(tmp_path / "release"), "--architecture", "vgg_1d"]
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 1
    assert "'vgg_1d' is unknown; built in: resnet18_1d, swin_1d, vit_1d" in run.output
