"""Which runs each table is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks import case as cases
from benchmarks.methods import METHODS
from benchmarks.runs import Run
from benchmarks.settings import MODEL_SEEDS, SETTINGS
from benchmarks.tuning import tuned

REFERENCES: Final = ("original", "retrain", "head_surgery")
NEAREST: Final = ("pte_published", "delete_all", "boundary_shrink", "scrub")  # the shipped method's nearest rivals
UNLEARNING_SEEDS: Final = (0, 1)


def t6() -> Iterator[Run]:
    """Every method on the paper's classes of CWRU and the rig."""
    for setting in ("cwru", "rig"):
        for model_seed in MODEL_SEEDS:
            for method in ("original", "retrain", *METHODS):
                for seed in UNLEARNING_SEEDS if method not in REFERENCES else (0,):
                    yield _run(setting, (SETTINGS[setting].paper_class,), method, model_seed, seed, depth=seed == 0)


def every(setting: str, models: Iterable[int] = MODEL_SEEDS, methods: Iterable[str] = ()) -> Iterator[Run]:
    """Every class of one setting, by the shipped method, its nearest rivals and the references."""
    for model_seed in models:
        for name in cases.dataset(setting).classes:
            for method in methods or (*REFERENCES, "pte", *NEAREST):
                yield _run(setting, (name,), method, model_seed, 0, depth=model_seed == 0 and method not in NEAREST)


def _run(setting: str, forget: tuple[str, ...], method: str, model_seed: int, seed: int, *, depth: bool = False) -> Run:
    """A run with the method's tuned settings."""
    return Run(setting, forget, method, model_seed, seed, tuned(SETTINGS[setting].tuned_on, method), depth=depth)
