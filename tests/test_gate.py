"""The gate: which edits it lets through, and what it says about those that it does not."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import toy
from edge_agent.core.evidence import Evidence
from edge_agent.core.gate import GateSettings, Verdict, _of_evidence, drift, forget_share, judge, rounded
from edge_agent.core.networks import channel_std
from edge_agent.core.pte import Edit
from edge_agent.core.training import logits
from tests.model_fixtures import RATTLE, Edited, accuracy, good_edit, seeded, toy_margins, toy_network, windows_of

SETTINGS = GateSettings()
CHECKS = ["forget_share", "noisy_share", "int8_share", "predicted_loss", "agreement", "border_kept", "drift"]


def _judge(done: Edited, how: GateSettings = SETTINGS, evidence: Evidence | None = None) -> Verdict:
    return judge(toy_network(), done.network, done.windows, toy.CLASSES, evidence or done.evidence, how, seeded())


def _failed(verdict: Verdict) -> dict[str, str]:
    return {reason.check: reason.words for reason in verdict.reasons if not reason.passed}


def _with_network(network: nn.Sequential, outcome: Edit | None = None) -> Edited:
    done = good_edit()
    return replace(done, network=network, outcome=outcome or done.outcome)


def test_a_good_edit_is_accepted() -> None:
    verdict = _judge(good_edit())
    assert verdict.accepted
    assert verdict.refusal == ""
    assert [reason.check for reason in verdict.reasons] == CHECKS
    assert [row.label for row in verdict.classes] == [0, 2, 3, 4]


def test_the_verdict_follows_each_value_and_its_limit() -> None:
    for reason in _judge(good_edit()).reasons:
        at_least = reason.check in {"agreement", "border_kept"}
        assert reason.passed is (reason.value >= reason.limit if at_least else reason.value <= reason.limit)


def test_a_network_that_still_answers_the_class_is_refused_with_its_share() -> None:
    verdict = _judge(_with_network(toy_network()))
    assert not verdict.accepted
    words = _failed(verdict)
    assert set(words) == {"forget_share", "noisy_share", "int8_share"}
    share = forget_share(toy_network(), windows_of(RATTLE), (RATTLE,))
    assert words["forget_share"] == f"rattle is still answered for {share:.1%} of its cached windows, limit 0.0%"
    assert "0.3 sigma" in words["noisy_share"]
    assert "8 bits" in words["int8_share"]


def test_one_window_that_still_answers_the_class_is_one_too_many() -> None:
    done = good_edit()
    stray = windows_of(0)[:1]
    with torch.no_grad():
        answer = int(logits(done.network, stray).argmax(1))
    other = Evidence(done.evidence.dreams, (RATTLE, answer), toy_margins())
    verdict = _judge(replace(done, windows=torch.cat([done.windows[:20], stray])), evidence=other)
    assert "forget_share" in _failed(verdict)


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_a_damaged_network_is_refused_and_the_worst_class_is_named_with_numbers(size: float) -> None:
    network, generator = good_edit().network, seeded(8)
    with torch.no_grad():
        for parameter in network.get_submodule("stage4").parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    verdict = _judge(_with_network(network))
    assert not verdict.accepted
    worst = min(verdict.classes, key=lambda row: row.border_kept)
    limit = f"{SETTINGS.min_border_kept:.0%}"
    said = (
        f"{toy.CLASSES[worst.label]}: {worst.border_kept:.1%} of its probability at its borders is kept, limit {limit}"
    )
    assert said in verdict.refusal
    assert worst.border_kept < SETTINGS.min_border_kept
    retained = (0, 2, 3, 4)
    assert accuracy(network, *retained) < accuracy(toy_network(), *retained) - 0.05  # and the harm is real


def test_harm_to_one_class_alone_is_refused_by_its_name() -> None:
    network = good_edit().network
    with torch.no_grad():
        network.get_parameter("head.bias")[2] -= 6.0
    verdict = _judge(_with_network(network))
    assert not verdict.accepted
    assert "whine: " in verdict.refusal


def test_hiding_the_class_behind_its_bias_is_refused_for_the_weights_that_moved() -> None:
    for bias in (-30.0, -torch.inf):
        network = toy_network()
        with torch.no_grad():
            network.get_parameter("head.bias")[RATTLE] = bias
        assert forget_share(network, windows_of(RATTLE), (RATTLE,)) == 0.0
        assert set(_failed(_judge(_with_network(network)))) == {"drift"}


def test_a_network_of_nan_is_refused() -> None:
    network = good_edit().network
    with torch.no_grad():
        network.get_parameter("head.weight").fill_(torch.nan)
    assert not _judge(_with_network(network)).accepted


def test_evidence_that_is_no_number_is_the_worst_there_is() -> None:
    """``max`` and ``min`` pass over NaN that is not first: a class with nothing but NaN passed beside a sound one."""
    done = good_edit()
    sound = done.evidence.compare(toy_network(), done.network)
    for name in ("predicted_loss", "agreement", "border_kept"):
        odd = copy.copy(sound[0])
        object.__setattr__(odd, name, float("nan"))
        rows = [*sound, odd]
        reasons = _of_evidence(rows, toy.CLASSES, SETTINGS)
        assert [reason.check for reason in reasons if not reason.passed] == [name]


def test_without_any_evidence_nothing_is_accepted() -> None:
    done = good_edit()
    nothing = Evidence(done.evidence.dreams.pick(torch.tensor([], dtype=torch.int64)), (RATTLE,), toy_margins())
    verdict = _judge(done, evidence=nothing)
    others = [name for name in toy.CLASSES if name != "rattle"]
    assert verdict.refusal == "; ".join(f"{name}: no dreams tell what it did to this class" for name in others)


@pytest.mark.parametrize("label", [label for label in range(len(toy.CLASSES)) if label != RATTLE])
def test_an_edit_is_refused_where_one_class_has_no_dreams(label: int) -> None:
    """The class was passed over: an edit that took a third of its windows was accepted."""
    done = good_edit()
    dreams = done.evidence.dreams
    rest = Evidence(dreams.pick((dreams.first != label) | (dreams.second >= 0)), (RATTLE,), toy_margins())
    verdict = _judge(done, evidence=rest)
    assert set(_failed(verdict)) == {"evidence"}
    assert verdict.refusal.startswith(f"{toy.CLASSES[label]}: ")


def test_every_reason_is_a_sentence_with_its_value_and_its_limit() -> None:
    done = good_edit()
    for reason in _judge(done).reasons:
        assert f"{reason.value:.1%}" in reason.words
        assert "limit " in reason.words
        limit = reason.words.split("limit ")[1]
        assert float(limit.rstrip("%")) / 100 == pytest.approx(reason.limit)


def test_the_noisy_share_is_that_of_the_windows_in_sensor_noise() -> None:
    done, how = _with_network(toy_network()), replace(SETTINGS, noise_std=2.0)
    values = {reason.check: reason.value for reason in _judge(done, how).reasons}
    noise = torch.randn(done.windows.shape, generator=seeded()) * channel_std(done.network) * 2.0
    assert values["noisy_share"] == forget_share(done.network, done.windows + noise, (RATTLE,))
    assert values["noisy_share"] != values["forget_share"]


def test_a_class_that_comes_back_when_weights_are_rounded_is_refused() -> None:
    network = good_edit().network
    with torch.no_grad():
        # The same large weight for all classes changes no answer, but drowns the others in 8 bits: biases decide.
        network.get_parameter("head.weight")[:, 0] = 1e4
        network.get_parameter("head.bias")[RATTLE] = network.get_parameter("head.bias").max() + 1e-2
    assert forget_share(network, windows_of(RATTLE), (RATTLE,)) < 0.1
    words = _failed(_judge(_with_network(network)))["int8_share"]
    assert words == "rattle is still answered for 100.0% of them after rounding the weights to 8 bits, limit 1.0%"


def test_several_forget_classes_are_named_together() -> None:
    done = good_edit()
    both = Evidence(done.evidence.dreams, (RATTLE, 3), toy_margins())
    done = replace(done, network=toy_network(), windows=windows_of(RATTLE, 3))
    assert "rattle+squeal is still answered" in _judge(done, evidence=both).refusal


def test_a_refusal_holds_the_sentences_that_failed_and_no_other() -> None:
    verdict = _judge(good_edit(), replace(SETTINGS, max_drift=0.0, min_agreement=1.01))
    failed = [reason.words for reason in verdict.reasons if not reason.passed]
    assert len(failed) == 2
    assert verdict.refusal == "; ".join(failed)


def test_the_same_seed_gives_the_same_verdict() -> None:
    assert _judge(good_edit()) == _judge(good_edit())


def test_eight_bits_are_close_to_the_original_and_two_are_not() -> None:
    network, windows = toy_network(), windows_of(0, 1, 2, 3, 4)
    before = logits(network, windows).softmax(1)
    near, far = (logits(rounded(network, bits), windows).softmax(1) for bits in (8, 2))
    assert (near.argmax(1) == before.argmax(1)).float().mean() > 0.97
    assert (near - before).abs().mean() < 0.1 * (far - before).abs().mean()


def test_rounding_leaves_255_levels_a_channel_and_the_network_alone() -> None:
    network = toy_network()
    copied = rounded(network, bits=8)
    weight, original = copied.get_parameter("stage4.0.conv1.weight"), network.get_parameter("stage4.0.conv1.weight")
    assert torch.equal(original, toy_network().get_parameter("stage4.0.conv1.weight"))
    assert not torch.equal(weight, original)
    step = original.flatten(1).abs().amax(1).view(-1, 1, 1) / 127
    torch.testing.assert_close((weight / step).round(), weight / step, rtol=0, atol=1e-3)
    assert ((weight - original).abs() <= step / 2 + 1e-7).all()


def test_drift_is_the_relative_change_of_what_was_edited() -> None:
    original, edited = toy_network(), toy_network()
    assert drift(original, edited) == 0.0
    with torch.no_grad():
        edited.get_parameter("head.weight").mul_(1.25)
    assert drift(original, edited) == pytest.approx(0.25, rel=1e-4)
    assert drift(original, copy.deepcopy(original)) == 0.0


def test_the_drift_of_a_good_edit_is_far_below_its_limit() -> None:
    assert 0.0 < drift(toy_network(), good_edit().network) < SETTINGS.max_drift / 4
