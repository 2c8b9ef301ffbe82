"""Do the runs of one plan, or of all; what the CSV already holds is left alone.

    python -m benchmarks.run all
    python -m benchmarks.run t6 every
    python -m benchmarks.run --list
    python -m benchmarks.run --quick
    python -m benchmarks.run t1_full --device cuda

Plans stand in ``benchmarks/plans.py``; ``f3`` and ``f5`` write files of their own (``benchmarks/epochs.py``,
``benchmarks/tsne.py``), and ``all`` ends with them; ``t1`` needs pictures (``benchmarks/images.py``) and is no part of
it. Settings must have been tuned: ``python -m benchmarks.tuning``.
Interrupt at any time: the next call goes on where this one stopped, and several processes may share the work.
``--device`` is for ``t1_full`` and ``t1_full_100``, which would take weeks on a processor.
``--list`` says how many runs of each plan are done. ``--quick`` goes through everything once, small, in about two
minutes: networks of width 4, two steps; its numbers mean nothing and are thrown away.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Final

from benchmarks import device, epochs, models, plans, runs
from benchmarks.runs import Run

FIGURES: Final = ("f3", "f5")
EVERYTHING: Final = (*plans.PLANS, *FIGURES)
NAMED: Final = plans.PLANS | plans.APART


def carry_out(names: tuple[str, ...]) -> None:
    """Do what is missing of some plans, then the figures among them."""
    runs.carry_on(planned(name for name in names if name in NAMED))
    if "f3" in names:
        epochs.carry_on(plans.f3())
    if "f5" in names:
        from benchmarks import tsne

        tsne.draw_anew(plans.f5())


def planned(names: Iterable[str]) -> list[Run]:
    """The runs of some plans."""
    return plans.united(run for name in names for run in NAMED[name]())


def progress(name: str) -> str:
    """How much of a plan is done, in words; or what has to be done before."""
    if name == "f5":
        return "is drawn anew each time"
    try:
        wanted = list(plans.f3()) if name == "f3" else planned([name])
    except LookupError as error:
        return str(error)
    missing = epochs.missing(wanted) if name == "f3" else runs.missing(wanted)
    return f"{len(wanted) - len(missing):5d} of {len(wanted)} runs done, {len(missing)} missing"


def main() -> None:
    """Run, list, or go through everything small."""
    models.same_kernels()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "plans", nargs="*", metavar="PLAN", help=f"all, or some of {', '.join((*EVERYTHING, *plans.APART))}"
    )
    parser.add_argument("--list", action="store_true", help="how much of each plan is done")
    parser.add_argument("--quick", action="store_true", help="everything once, small, and keep nothing")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where to compute, such as cuda (default: cpu)")
    options = parser.parse_args()
    try:
        place = device.named(options.device)
    except device.UnknownDeviceError as error:
        parser.error(f"argument --device: {error}")
    if unknown := set(options.plans) - {"all", *EVERYTHING, *plans.APART}:
        parser.error(f"no such plan: {', '.join(sorted(unknown))}")
    named = tuple(name for name in EVERYTHING if name in options.plans or "all" in options.plans)
    named += tuple(name for name in plans.APART if name in options.plans)
    if options.list:
        for name in named or EVERYTHING:
            print(f"{name:11s} {progress(name)}")
    elif options.quick:
        from benchmarks import quick

        with device.on(place):
            quick.main()
    elif named:
        with device.on(place):
            carry_out(named)
    else:
        parser.error("which plan? --list names them")


if __name__ == "__main__":
    main()
