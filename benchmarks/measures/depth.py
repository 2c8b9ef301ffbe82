"""Every measure of depth of one network, as one flat row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from benchmarks.case import Case
from benchmarks.measures import divergence, membership, quantisation, relearning, robustness, separability
from benchmarks.measures.samples import evenly, together
from benchmarks.task import Labelled

TRAIN_WINDOWS: Final = 128  # of each class, where all of them would take minutes or a probe wants them even
RETAIN_WINDOWS: Final = 256  # of each class, in the pass over retained windows
TEST_WINDOWS: Final = 128  # of each class, where they are pushed, or asked after each step
SNR_DB: Final = (20, 10, 5)
RADII: Final = {"0_1": 0.1, "0_3": 0.3}  # of the push, in standard deviations of a channel
BITS: Final = (8, 4)
COLUMNS: Final = (
    *("linear_probe", "prototype_relearning", *(f"relearned_{count}" for count in relearning.COUNTS)),
    *("steps_to_relearn", "relearned_on_retained"),
    *(*(f"answered_snr_{level}_db" for level in SNR_DB), *(f"answered_pgd_{name}_sigma" for name in RADII)),
    *(f"{what}_int{bits}" for what in ("answered", "codes_changed") for bits in BITS),
    *("js_to_retrained", "mia_auc"),
)


def depth(network: nn.Sequential, case: Case, generator: torch.Generator) -> dict[str, float]:
    """How deep ``network``, in evaluation mode, has forgotten the classes of ``case``; the network stays as it is.

    Large sets are thinned evenly, class by class, so that a row takes about 20 s. How much is drawn from the generator
    does not depend on the weights: with generators of one seed, every network meets the same windows and noise.

    Returns:
        Percent of the forget test windows, low is deep:
            ``linear_probe``, ``prototype_relearning``: told from the features, see ``separability``;
            ``relearned_1``, ``relearned_5``, ``relearned_10``, ``relearned_50``: answered right after fine-tuning on so
            many forget windows of each class, ``relearned_on_retained`` on retained ones, see ``relearning``;
            ``answered_snr_20_db``, ``answered_snr_10_db``, ``answered_snr_5_db``: answered with the class in noise,
            ``answered_pgd_0_1_sigma``, ``answered_pgd_0_3_sigma``: after a push toward it, see ``robustness``,
            ``answered_int8``, ``answered_int4``: with rounded weights, see ``quantisation``.
        Others:
            ``steps_to_relearn``: on 50 windows of each class, at most 100; high is deep;
            ``js_to_retrained``: mean divergence of the answers to D_f from retrain's, in bits; low is deep;
            ``codes_changed_int8``, ``codes_changed_int4``: percent of weight codes that are not the original's;
            ``mia_auc`` in [0, 1], 0.5 is good.
    """
    sets = _Sets.of(case)
    percents = {
        **_separable(network, sets, generator),
        **_relearned(network, sets, generator),
        **_answered(network, sets, case.forget, generator),
        **{f"codes_changed_int{bits}": quantisation.codes_changed(case.original, network, bits) for bits in BITS},
    }
    return {name: round(value, 3) for name, value in percents.items()} | {
        "js_to_retrained": round(divergence.answers_apart(network, case.retrained, sets.forget_train.windows), 6),
        "mia_auc": round(membership.membership_auc(network, sets.forget_train, sets.forget_test), 6),
    }


@dataclass(frozen=True)
class _Sets:
    """The windows that are measured on; the forget classes' are whole, except ``few_tests``."""

    retain_train: Labelled
    retain_pass: Labelled
    retain_test: Labelled
    forget_train: Labelled
    forget_test: Labelled
    few_tests: Labelled

    @classmethod
    def of(cls, case: Case) -> _Sets:
        """Those of a case."""
        forget_test = case.side("test", gone=True)
        return cls(
            evenly(case.retain_set, TRAIN_WINDOWS),
            evenly(case.retain_set, RETAIN_WINDOWS),
            evenly(case.side("test", gone=False), TEST_WINDOWS),
            case.forget_set,
            forget_test,
            evenly(forget_test, TEST_WINDOWS),
        )


def _separable(network: nn.Sequential, sets: _Sets, generator: torch.Generator) -> dict[str, float]:
    train = together(sets.retain_train, evenly(sets.forget_train, TRAIN_WINDOWS))
    return {
        "linear_probe": separability.linear_probe(network, train, sets.forget_test),
        "prototype_relearning": separability.prototype_relearning(
            network, sets.retain_train, sets.forget_train, sets.forget_test, generator
        ),
    }


def _relearned(network: nn.Sequential, sets: _Sets, generator: torch.Generator) -> dict[str, float]:
    forget = sets.forget_train, sets.few_tests
    curve = relearning.relearning_curve(network, *forget, generator)
    return {
        **{f"relearned_{count}": accuracy for count, accuracy in curve.items()},
        "steps_to_relearn": relearning.steps_to_relearn(network, *forget, generator),
        "relearned_on_retained": relearning.relearned_on_retained(network, sets.retain_pass, sets.few_tests, generator),
    }


def _answered(
    network: nn.Sequential, sets: _Sets, forget: tuple[int, ...], generator: torch.Generator
) -> dict[str, float]:
    all_tests, few_tests = sets.forget_test.windows, sets.few_tests.windows
    row = {}
    for snr_db in SNR_DB:
        row[f"answered_snr_{snr_db}_db"] = robustness.answered_in_noise(network, all_tests, forget, snr_db, generator)
    for name, radius in RADII.items():
        row[f"answered_pgd_{name}_sigma"] = robustness.answered_when_pushed(
            network, few_tests, forget, radius, generator
        )
    for bits in BITS:
        row[f"answered_int{bits}"] = quantisation.answered_when_rounded(network, all_tests, forget, bits)
    return row
