"""Equal tuning: twelve trials for each method that has something to tune.

    python -m benchmarks.tuning

Every method is tuned on CWRU and the rig, where table T6 compares them all, and the shipped method's nearest rivals on
noisy CWRU and DSADS as well; the controls on all four. Trials run on the surrogate model (seed 9, in no result) and the
setting's surrogate class, and are judged on validation windows by the gap to retrain; the best one then serves every
class and model. The first trial is the published default, the others are drawn from the product of the method's
candidates. Rows go to ``results/tuning.csv``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np

from benchmarks import models, runs
from benchmarks.methods import ALL, CONTROLS, METHODS, NEAREST
from benchmarks.runs import RESULTS, Run
from benchmarks.settings import SETTINGS, SURROGATE_SEED

TUNING: Final = RESULTS / "tuning.csv"
TRIALS: Final = 12
COMPARED: Final = METHODS | CONTROLS
TUNED: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("cwru", "rig"), tuple(COMPARED)),
    **dict.fromkeys(("cwru-noise", "dsads"), (*NEAREST, *CONTROLS)),
}
Changed = tuple[tuple[str, Any], ...]


def trials(name: str) -> list[Changed]:
    """The settings that are tried: none but the default for a method without candidates."""
    search = ALL[name].search
    product = [tuple(zip(search, values, strict=True)) for values in itertools.product(*search.values())]
    if not search:
        return [()]
    order = np.random.default_rng(0).permutation(len(product))
    default = ALL[name].settings
    others = (product[index] for index in order if dataclasses.replace(default, **dict(product[index])) != default)
    return [(), *itertools.islice(others, TRIALS - 1)]


def tuning_runs(setting: str, name: str) -> Iterator[Run]:
    """One run for each trial."""
    surrogate = SETTINGS[setting].surrogate
    for changed in trials(name):
        yield Run(setting, (surrogate,), name, SURROGATE_SEED, changed=changed, part="validation")


@lru_cache
def tuned(setting: str, name: str) -> Changed:
    """The trial with the smallest gap to retrain.

    Raises:
        LookupError: some of the trials have not been run.
    """
    if name not in ALL or not ALL[name].search:
        return ()
    gaps = {row["run"]: float(row["gap"]) for row in runs.read(TUNING)}
    tried = list(tuning_runs(setting, name))
    if missing := [run for run in tried if run.id not in gaps]:
        raise LookupError(
            f"{len(missing)} of {len(tried)} trials of {name} on {setting} are missing: "
            f"python -m benchmarks.tuning --data {setting}"
        )
    return min(tried, key=lambda run: gaps[run.id]).changed


def main() -> None:
    """Run every trial that is missing, and print the winners."""
    models.same_kernels()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(TUNED), choices=TUNED)
    parser.add_argument("--methods", nargs="+", default=list(COMPARED), choices=COMPARED)
    options = parser.parse_args()
    pairs = [(each, name) for each in options.data for name in TUNED[each] if name in options.methods]
    wanted = [(setting, name) for setting, name in pairs if ALL[name].search]
    runs.carry_on((run for setting, name in wanted for run in tuning_runs(setting, name)), TUNING)
    for setting, name in wanted:
        print(f"{setting:11s} {name:24s} {dict(tuned(setting, name)) or 'default'}")


if __name__ == "__main__":
    main()
