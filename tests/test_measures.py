"""Depth of forgetting: what each measure says of toy networks that know a class, never saw it, or only hide it."""

from __future__ import annotations

import copy
import math
from functools import cache, cached_property

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks import toy
from benchmarks.case import Case
from benchmarks.measures.depth import depth
from benchmarks.measures.divergence import answers_apart, jensen_shannon
from benchmarks.measures.membership import auc, log_odds, membership_auc
from benchmarks.measures.quantisation import answered_when_rounded, codes_changed
from benchmarks.measures.relearning import COUNTS, MOST_STEPS, relearned_on_retained, steps_to_relearn, with_new_row
from benchmarks.measures.robustness import answered_in_noise, answered_when_pushed, pushed, with_noise
from benchmarks.measures.samples import drawn, evenly, known, together
from benchmarks.measures.separability import linear_probe, prototype_relearning
from benchmarks.settings import Setting
from benchmarks.task import Labelled
from edge_agent.core.networks import channel_std
from edge_agent.core.training import TrainingSettings, fit, logits
from tests.model_fixtures import RATTLE, changed_parts, seeded, toy_data, toy_network, untrained

FORGET = (RATTLE,)
CHIRP = 4  # the class whose pitch lies furthest from it
VALUES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


class ToyCase(Case):
    """A case whose networks are trained here, in seconds."""

    @cached_property
    def original(self) -> nn.Sequential:
        return toy_network()

    @cached_property
    def retrained(self) -> nn.Sequential:
        network = untrained()
        train, held = ((one.windows, one.labels) for one in (self.retain_set, self.side("validation", gone=False)))
        fit(network, train, held, TrainingSettings(epochs=5, batch=32, rate=1e-2), seeded())
        return network


@cache
def case() -> Case:
    setting = Setting("toy", "toy", lambda _: toy_data(), toy.CLASSES[RATTLE], toy.CLASSES[0], "toy", epochs=5)
    return ToyCase(setting, toy_data(), 0, FORGET)


@cache
def forget_test() -> Labelled:
    return case().side("test", gone=True)


@cache
def forget_windows() -> Tensor:
    return forget_test().windows


def of_all_classes() -> Labelled:
    return together(case().retain_set, case().forget_set)


def by_surgery(bias: float = -1e4) -> nn.Sequential:
    """The original with its forget class's logit removed: the class is hidden, and all of it still there."""
    network = copy.deepcopy(case().original)
    _set_row(network, 0.0, bias)
    return network


def _set_row(network: nn.Sequential, weight: float, bias: float) -> None:
    head = network[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight[RATTLE], head.bias[RATTLE] = weight, bias


def steps(network: nn.Sequential) -> int:
    return steps_to_relearn(network, case().forget_set, forget_test(), seeded())


@cache
def rows() -> tuple[dict[str, float], dict[str, float]]:
    """Every measure of head surgery, and of the network that never saw the class."""
    hidden, unknown = (depth(network, case(), seeded()) for network in (by_surgery(), case().retrained))
    return hidden, unknown


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=40), most=st.integers(1, 12))
def test_thinning_keeps_at_most_so_many_windows_of_each_class_and_each_once(labels: list[int], most: int) -> None:
    pairs = Labelled(torch.arange(len(labels)).view(-1, 1, 1).float(), torch.tensor(labels))
    kept = evenly(pairs, most)
    assert len(kept.windows.unique()) == len(kept)
    assert kept.labels.bincount(minlength=4).tolist() == [min(most, labels.count(label)) for label in range(4)]
    assert kept.labels.equal(pairs.labels[kept.windows.flatten().long()])


def test_thinning_spans_the_whole_set() -> None:
    kept = evenly(Labelled(torch.arange(100).view(-1, 1, 1), torch.zeros(100, dtype=torch.int64)), 4)
    assert kept.windows.flatten().tolist() == [0, 33, 66, 99]


def test_windows_are_drawn_from_each_class_and_by_the_generator() -> None:
    pairs = of_all_classes()
    few = drawn(pairs, 3, seeded(1))
    assert few.labels.bincount().tolist() == [3] * len(toy.CLASSES)
    assert few.windows.equal(drawn(pairs, 3, seeded(1)).windows)
    assert not few.windows.equal(drawn(pairs, 3, seeded(2)).windows)


def test_the_probe_sees_through_head_surgery() -> None:
    known = linear_probe(case().original, of_all_classes(), forget_test())
    assert known > 90.0
    assert linear_probe(by_surgery(), of_all_classes(), forget_test()) == known
    assert logits(by_surgery(), forget_windows()).argmax(1).eq(RATTLE).sum() == 0


def test_the_probe_finds_no_class_in_features_that_do_not_depend_on_the_window() -> None:
    network = copy.deepcopy(case().original)
    network[-2] = nn.Sequential(network[-2], nn.Threshold(math.inf, 1.0))
    tests = together(case().side("test", gone=False), forget_test())  # as many of each of the five classes
    assert linear_probe(network, of_all_classes(), tests) == pytest.approx(20.0)  # one answer for all


def test_prototypes_of_five_windows_see_through_head_surgery() -> None:
    recalls = [
        prototype_relearning(network, case().retain_set, case().forget_set, forget_test(), seeded())
        for network in (case().original, by_surgery())
    ]
    assert recalls[0] > 80.0
    assert recalls[1] == recalls[0]


def test_prototypes_of_other_windows_do_not_bring_the_class_back() -> None:
    chirps = case().retain_set.pick(case().retain_set.labels == CHIRP)
    named_rattle = Labelled(chirps.windows, torch.full_like(chirps.labels, RATTLE))
    assert prototype_relearning(case().original, case().retain_set, named_rattle, forget_test(), seeded()) < 20.0


def test_a_network_that_was_never_changed_relearns_in_no_steps() -> None:
    assert steps(case().original) == 0


def test_head_surgery_is_undone_sooner_than_a_network_learns_that_never_saw_the_class() -> None:
    hidden, unknown = rows()
    assert hidden["steps_to_relearn"] < unknown["steps_to_relearn"]
    assert all(hidden[f"relearned_{count}"] > 90.0 for count in COUNTS)
    assert all(unknown[f"relearned_{count}"] < 50.0 for count in COUNTS)


def test_it_makes_no_difference_by_which_constant_a_logit_was_removed() -> None:
    assert steps(by_surgery(-math.inf)) == steps(by_surgery(-1e4)) < MOST_STEPS


def test_with_a_new_row_for_all_what_hides_a_class_in_the_head_alone_hides_it_from_nobody() -> None:
    """A row that was driven down held a class back for 35 steps whose features were untouched, retrain for 17."""
    driven_down, (label,) = copy.deepcopy(case().original), case().forget
    with torch.no_grad():
        dict(driven_down.named_parameters())["head.bias"][label] -= 50.0
    fresh = [with_new_row(network, (label,)) for network in (driven_down, case().original)]
    assert changed_parts(*fresh) == set()
    assert known(logits(fresh[0], forget_test().windows), forget_test().labels) == 0.0
    steps = [steps_to_relearn(network, case().forget_set, forget_test(), seeded()) for network in (driven_down, *fresh)]
    assert steps[0] > steps[1] == steps[2]
    assert changed_parts(driven_down, fresh[0]) == {"head"}


def test_a_random_network_does_not_relearn_in_no_steps() -> None:
    network = untrained().eval()
    _set_row(network, 0.01, -3.0)  # so that it does not answer with the class by chance
    assert 0 < steps(network) <= MOST_STEPS


def test_a_network_that_cannot_learn_takes_the_most_steps_there_are() -> None:
    network = by_surgery()
    network[-2] = nn.Sequential(network[-2], nn.Threshold(math.inf, 0.0))
    _set_row(network, 1.0, -1e4)  # no removed logit, but only its bias could learn
    assert steps(network) == MOST_STEPS


def test_a_network_whose_training_runs_away_has_not_relearned() -> None:
    network = copy.deepcopy(case().original)
    _set_row(network, math.nan, math.nan)
    zero = Labelled(forget_windows(), torch.zeros_like(forget_test().labels))
    assert relearned_on_retained(network, case().retain_set, zero, seeded()) == 0.0  # argmax of NaN is 0


def test_retained_windows_alone_do_not_teach_a_class_that_the_network_never_saw() -> None:
    assert relearned_on_retained(case().retrained, case().retain_set, forget_test(), seeded()) == 0.0
    assert relearned_on_retained(case().original, case().retain_set, forget_test(), seeded()) > 80.0


@given(pairs=st.lists(st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6), min_size=1, max_size=5))
def test_the_divergence_is_symmetric_between_0_and_1_and_0_only_for_equals(pairs: list[list[float]]) -> None:
    both = torch.tensor(pairs, dtype=torch.float64).view(-1, 2, 3) + torch.tensor([0.1, 0.0, 0.0])
    p, q = (both / both.sum(2, keepdim=True)).unbind(1)
    there = jensen_shannon(p, q)
    assert there.equal(jensen_shannon(q, p))
    assert ((there >= 0) & (there <= 1)).all()
    assert jensen_shannon(p, p).eq(0).all()
    assert (there[(p - q).abs().amax(1) > 1e-3] > 0).all()


def test_answers_that_share_no_class_are_one_bit_apart() -> None:
    p, q = torch.eye(2, dtype=torch.float64).unbind(0)
    assert jensen_shannon(p.unsqueeze(0), q.unsqueeze(0)).tolist() == [1.0]


def test_the_divergence_is_that_of_its_definition() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.1, 0.1, 0.8]])
    middle = (p + q) / 2
    expected = sum((side * (side / middle).log2()).sum() for side in (p, q)) / 2
    assert jensen_shannon(p, q).item() == pytest.approx(float(expected), abs=1e-6)


def test_a_network_answers_as_itself_and_otherwise_than_one_that_never_saw_the_class() -> None:
    assert answers_apart(case().original, case().original, forget_windows()) == 0.0
    assert answers_apart(case().original, case().retrained, forget_windows()) > 0.5


@pytest.mark.parametrize("snr_db", [20.0, 5.0])
def test_noise_has_the_power_that_the_ratio_asks_for_in_each_channel_whatever_its_offset(snr_db: float) -> None:
    time = torch.arange(20_000)
    tones = torch.stack([5.0 + 3.0 * torch.sin(time / 9), -100.0 + 0.01 * torch.sin(time / 7)]).unsqueeze(0)
    noise = with_noise(tones, snr_db, seeded()) - tones
    ratio_db = 10 * torch.log10(tones.var(2) / noise.var(2))
    assert ratio_db.flatten().tolist() == pytest.approx([snr_db] * 2, abs=0.3)


def test_a_network_that_knows_the_class_answers_with_it_in_little_noise_and_one_that_does_not_never() -> None:
    assert answered_in_noise(case().original, forget_windows(), FORGET, 20, seeded()) > 90.0
    assert answered_in_noise(case().retrained, forget_windows(), FORGET, 5, seeded()) == 0.0


@pytest.mark.parametrize("radius", [0.1, 0.3])
def test_a_push_stays_in_its_ball(radius: float) -> None:
    windows = forget_windows()[:8]
    network = case().retrained
    moved = (pushed(network, windows, FORGET, radius, seeded()) - windows).abs() / channel_std(network)
    assert moved.max().item() == pytest.approx(radius, rel=1e-4)


def test_a_push_goes_toward_the_class() -> None:
    windows = case().side("test", gone=False).windows
    shares = [answered_when_pushed(case().original, windows, FORGET, radius, seeded()) for radius in (0.0, 0.3)]
    assert shares[0] < 5.0
    assert shares[1] > 40.0


def test_nothing_is_pushed_to_a_logit_that_is_not_there() -> None:
    assert answered_when_pushed(by_surgery(-math.inf), forget_windows(), FORGET, 0.3, seeded()) == 0.0


def test_the_class_survives_8_bits_and_head_surgery_hides_it_at_any_number() -> None:
    assert answered_when_rounded(case().original, forget_windows(), FORGET, 8) > 80.0
    assert answered_when_rounded(by_surgery(), forget_windows(), FORGET, 4) == 0.0


def test_a_weight_s_code_changes_when_it_moves_by_more_than_half_of_one_and_only_up_to_the_last() -> None:
    conv, linear = nn.Conv1d(1, 1, 3), nn.Linear(4, 2)
    edited_linear = copy.deepcopy(linear)
    rows = torch.tensor([[7.0, 1.0, 2.0, 3.0], [70.0, 10.0, 20.0, 30.0]])  # codes 7, 1, 2, 3 of 4 bits, both
    with torch.no_grad():
        linear.weight.copy_(rows)
        edited_linear.weight.copy_(rows + torch.tensor([[9.0, 0.4, 0.6, 0.0], [4.0, 6.0, 0.0, -80.0]]))
        edited_linear.bias.fill_(100.0)  # no weight: it is not rounded
    original, edited = nn.Sequential(conv, linear), nn.Sequential(conv, edited_linear)
    assert codes_changed(original, edited, 4) == pytest.approx(100 * 3 / 11)
    assert codes_changed(original, original, 8) == 0.0


@given(members=VALUES, strangers=VALUES)
def test_the_auc_is_that_of_comparing_every_pair(members: list[int], strangers: list[int]) -> None:
    pairs = [(one > other) + 0.5 * (one == other) for one in members for other in strangers]
    value = auc(np.array(members, np.float32), np.array(strangers, np.float32))
    assert value == pytest.approx(sum(pairs) / len(pairs))
    assert auc(np.array(strangers, np.float32), np.array(members, np.float32)) == pytest.approx(1.0 - value)


def test_log_odds_are_those_of_the_true_class_s_probability() -> None:
    pairs = case().side("test", gone=False)
    p = logits(case().original, pairs.windows).double().softmax(1).gather(1, pairs.labels.unsqueeze(1)).squeeze(1)
    unsure = p < 0.99
    assert unsure.sum() > 5
    assert log_odds(case().original, pairs)[unsure] == pytest.approx(p.logit()[unsure].numpy(), abs=1e-3)


def test_a_class_that_is_never_answered_gives_nothing_away() -> None:
    assert membership_auc(by_surgery(), case().forget_set, forget_test()) == 0.5


def test_windows_that_are_answered_more_surely_than_others_are_told_from_them() -> None:
    noise = torch.randn(forget_windows().shape, generator=seeded())
    strangers = Labelled(forget_windows() + 2.0 * noise, forget_test().labels)
    assert membership_auc(case().original, case().forget_set, strangers) > 0.8


def test_the_auc_of_two_classes_is_the_mean_of_theirs() -> None:
    train, test = of_all_classes(), together(case().side("test", gone=False), forget_test())
    each = []
    for label in (0, RATTLE):
        sides = (pairs.pick(pairs.labels == label) for pairs in (train, test))
        each.append(membership_auc(case().original, *sides))
    both = (pairs.pick(torch.isin(pairs.labels, torch.tensor([0, RATTLE]))) for pairs in (train, test))
    assert membership_auc(case().original, *both) == pytest.approx(sum(each) / 2)


def test_depth_is_the_same_each_time_documents_each_figure_and_leaves_the_network_alone() -> None:
    network, untouched = by_surgery(), by_surgery()
    row = depth(network, case(), seeded())
    assert row == rows()[0]
    assert all(f"``{name}``" in str(depth.__doc__) and math.isfinite(value) for name, value in row.items())
    pairs = zip(network.state_dict().values(), untouched.state_dict().values(), strict=True)
    assert all(one.equal(other) for one, other in pairs)
    states = ([weight.requires_grad for weight in one.parameters()] for one in (network, untouched))
    assert next(states) == next(states)
    assert all(weight.grad is None for weight in network.parameters())
