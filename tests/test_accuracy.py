"""What a row says of a network that cannot be measured."""

from __future__ import annotations

import copy

import torch

from benchmarks import quick
from benchmarks.measures import accuracy, relearning
from edge_agent.core.gate import forget_share
from tests.model_fixtures import seeded


def test_a_network_that_diverged_has_kept_nothing_and_forgotten_nothing() -> None:
    """NaN's argmax is class 0: five methods once "forgot" by diverging, and the attack saw no members."""
    case, network = quick.case(), copy.deepcopy(quick.case().original)
    with torch.no_grad():
        network.get_parameter("head.bias").fill_(torch.nan)
    row = accuracy.measure(case, network)
    assert (row["acc_r"], row["acc_rt"], row["h_mean"], row["mia"]) == (0.0, 0.0, 0.0, 100.0)
    assert (row["acc_f"], row["acc_ft"]) == (100.0, 100.0)
    assert relearning.steps_to_relearn(network, case.forget_set, case.forget_set, seeded()) == 0
    assert forget_share(network, case.forget_set.windows, case.forget) == 1.0
