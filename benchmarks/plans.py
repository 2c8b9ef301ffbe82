"""Which runs each table is made of.

``PLANS`` stands in the order of ``all``: what is cheap and matters first; ``APART`` is done only where it is named.
Most of the time goes into networks that are trained once, for each model and for each set of forget classes: about two
minutes each on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from benchmarks.methods import ABLATIONS, CONTROLS, METHODS, NEAREST, pte
from benchmarks.runs import Run
from benchmarks.settings import IMAGES, MODEL_SEEDS, SETTINGS
from benchmarks.tuning import Changed, tuned
from edge_agent import rig
from edge_agent.adapters.datasets import CWRU_CLASSES, DSADS_CLASSES

CLASSES: Final = {
    **dict.fromkeys(("cwru", "cwru-load", "cwru-noise"), CWRU_CLASSES),
    "rig": rig.CLASSES,
    "dsads": DSADS_CLASSES,
}
REFERENCES: Final = ("original", "retrain", "head_surgery")
REPEATED: Final = (  # of figures F2 and F3: retain-free, the same that the paper's text speaks of
    *("pte", "pte_published", "delete_all", "boundary_shrink"),
    *("boundary_expand", "bad_teacher", "random_label", "imp"),
)
OF_TABLE_1: Final = (  # those of the paper's table 1 in its order, the shipped method, DELETE-all and head surgery
    *("original", "retrain", "random_label", "negative_gradient", "boundary_shrink", "boundary_expand", "delete"),
    *("bad_teacher", "imp", "scrub", "finetune", "sure", "pte_published"),
    *("pte", "delete_all", "head_surgery"),
)
UNLEARNING_SEEDS: Final = (0, 1)
REPEATS: Final = 5
FIGURE_EPOCHS: Final = 20  # as in the paper's figure 3

ABLATED: Final = ("IR007", "IR014", "B014")  # the paper's class, and two whose neighbours suffered most under noise
# One, two and three classes at once: of each number one set of one kind of fault or movement, which lie near each
# other, and one across kinds. No surrogate class is in any of them.
TOGETHER: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    **dict.fromkeys(
        ("cwru", "cwru-noise"),
        (
            ("IR007",),
            *(("IR007", "IR014"), ("B014", "Normal")),
            *(("IR007", "IR014", "IR021"), ("IR007", "B014", "OR014@6")),
        ),
    ),
    "rig": (
        ("NC",),
        *(("IF-0.5", "IF-1"), ("NC", "IF-2")),
        *(("IF-0.5", "IF-1", "IF-2"), ("NC", "IF-1", "OF-2")),
    ),
    "dsads": (
        ("sitting",),
        *(("sitting", "standing"), ("rowing", "jumping")),
        *(("sitting", "standing", "lying_back"), ("ascending_stairs", "walking_parking", "stepper")),
    ),
}


def t6() -> Iterator[Run]:
    """Every method on the paper's classes of CWRU and the rig."""
    for model_seed in MODEL_SEEDS:
        for setting in ("cwru", "rig"):
            for method in ("original", "retrain", *METHODS):
                for seed in UNLEARNING_SEEDS if method not in REFERENCES else (0,):
                    yield _run(setting, _paper(setting), method, model_seed, seed, depth=seed == 0)


def t4() -> Iterator[Run]:
    """Both families of ablations beside what they are ablations of, on three classes with and without noise.

    Those that never forget go to the end of their steps: 6 to 100 s each, an hour and a half in all on one thread.
    """
    for setting in ("cwru", "cwru-noise"):
        for name in ABLATED:
            depth = (name,) == _paper(setting)
            for method in ("original", "retrain", "pte_published", "pte"):
                yield _run(setting, (name,), method, depth=depth)
            for method in ABLATIONS:
                changed = as_published(method, tuned(SETTINGS[setting].tuned_on, pte.METHOD.name))
                yield Run(setting, (name,), method, changed=changed, depth=depth)


def as_published(ablation: str, tuned_pairs: Changed) -> Changed:
    """What was tuned for ``pte_published``, but for what its ablation sets; nothing for one of the shipped method."""
    if not ablation.startswith("ablation_published_"):
        return ()
    own, base = ABLATIONS[ablation].settings, pte.METHOD.settings
    return tuple((name, value) for name, value in tuned_pairs if getattr(own, name) == getattr(base, name))


def f2() -> Iterator[Run]:
    """Repeats of unlearning, all from one original."""
    for method in REPEATED:
        for seed in range(REPEATS):
            yield _run("cwru", _paper("cwru"), method, seed=seed)


def every(setting: str, models: Iterable[int] = MODEL_SEEDS, methods: Iterable[str] = ()) -> Iterator[Run]:
    """Every class of one setting: shipped method, nearest rivals, controls, references; depth of the first and last."""
    beside = (*NEAREST, *CONTROLS)
    for model_seed in models:
        for name in CLASSES[setting]:
            for method in methods or (*REFERENCES, "pte", *beside, *(("other_retrain",) if model_seed == 0 else ())):
                yield _run(setting, (name,), method, model_seed, depth=model_seed == 0 and method not in beside)


def every_setting() -> Iterator[Run]:
    """``every`` of all settings, one model after the other."""
    for model_seed in MODEL_SEEDS:
        for setting in ("cwru", "cwru-noise", "rig", "cwru-load", "dsads"):
            yield from every(setting, (model_seed,))


def t3() -> Iterator[Run]:
    """Several classes at once; sixteen of the sets need a network that is retrained without them."""
    for number in range(5):
        for setting, sets in TOGETHER.items():
            for method in ("pte", "head_surgery", "retrain", "pte_published", "delete_all", "spotter"):
                yield _run(setting, sets[number], method)
            # The two differ only here, so that one tuning serves both.
            yield replace(_run(setting, sets[number], "delete_all"), method="delete")


def t2() -> Iterator[Run]:
    """Transformers on the paper's class of CWRU.

    They train on 114 (``vit_1d``) and 220 windows (``swin_1d``) per second of one thread: original and retrained
    network take about 2 x 10 and 2 x 5 minutes, dreams 8 and 4, and all of it an hour.
    """
    for architecture in ("swin_1d", "vit_1d"):
        for method in ("original", "pte", "pte_published", "delete_all", "bad_teacher", "retrain"):
            yield replace(_run("cwru", _paper("cwru"), method), architecture=architecture)


PLANS: Final[dict[str, Callable[[], Iterator[Run]]]] = {
    "t6": t6,
    "t4": t4,
    "f2": f2,
    "every": every_setting,
    "t3": t3,
    "t2": t2,
}


def t1(setting: str = "cifar10") -> Iterator[Run]:
    """The methods of the paper's table 1 on its class of a picture setting, by one model.

    Nothing is tuned, for twelve trials of each method would take days: each runs with its defaults, whose sources
    stand in its module. A thread to itself trains on 365 pictures of ``cifar10`` per second, so the original and the
    retrained network take nine minutes each; with dreams, edits and measuring that is about an hour.
    """
    for method in OF_TABLE_1:
        # Views are windows rolled by any number of samples; of a picture, whose rows that tears, there are none.
        changed = (("views", 0),) if method == "pte" else ()
        yield Run(setting, (IMAGES[setting].paper_class,), method, changed=changed, architecture="resnet18_2d")


# They need pictures, which are fetched apart, see ``benchmarks/images.py``. The full ones want a GPU
# (``--device cuda``); on two cores they would take weeks. Nobody has run them: they are a configuration and no claim.
APART: Final[dict[str, Callable[[], Iterator[Run]]]] = {
    "t1": t1,
    "t1_full": lambda: t1("cifar10-full"),
    "t1_full_100": lambda: t1("cifar100-full"),
}


def united(runs: Iterable[Run]) -> list[Run]:
    """Each run once, where it is first met, with depth if it is asked for anywhere."""
    wanted: dict[str, Run] = {}
    for run in runs:
        known = wanted.setdefault(run.id, run)
        wanted[run.id] = replace(known, depth=known.depth or run.depth)
    return list(wanted.values())


def f3() -> Iterator[Run]:
    """The repeats once more, for ``benchmarks.epochs``: the rivals for ``FIGURE_EPOCHS`` epochs whatever was tuned."""
    for run in f2():
        goes_on = (("epochs", FIGURE_EPOCHS),) if hasattr(METHODS[run.method].settings, "epochs") else ()
        kept = tuple(pair for pair in run.changed if pair[0] != "epochs")
        yield replace(run, changed=(*kept, *goes_on))


def f5() -> Iterator[Run]:
    """The networks whose features are drawn, for ``benchmarks.tsne``."""
    for method in ("original", "retrain", "pte", "boundary_shrink", "negative_gradient"):
        yield _run("cwru", _paper("cwru"), method)


def new_row() -> Iterator[Run]:
    """The networks that learn every class of CWRU again with a new row of the head, for ``benchmarks.new_row``."""
    methods = "retrain", "head_surgery", "pte", "ablation_shipped_head", *CONTROLS
    for name in CLASSES["cwru"]:
        for method in methods:
            yield _run("cwru", (name,), method)


def _paper(setting: str) -> tuple[str, ...]:
    return (SETTINGS[setting].paper_class,)


def _run(
    setting: str, forget: tuple[str, ...], method: str, model_seed: int = 0, seed: int = 0, *, depth: bool = False
) -> Run:
    """A run with the method's tuned settings."""
    return Run(setting, forget, method, model_seed, seed, tuned(SETTINGS[setting].tuned_on, method), depth=depth)
