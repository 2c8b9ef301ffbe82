"""Every unlearning method that is compared, one module each; ``METHODS`` in the order of the tables.

``CONTROLS`` are rivals under what the shipped method is held to, tuned like them and compared on every class.
``ABLATIONS`` are what table T4 compares with ``pte_published`` and ``pte``; nothing tunes them. ``ALL`` is all three.
"""

from __future__ import annotations

from typing import Any, Final

from benchmarks.methods import (
    ablations,
    bad_teacher,
    boundary_expand,
    boundary_shrink,
    controls,
    delete,
    finetune,
    gradient_difference,
    head_surgery,
    imp,
    misdirection,
    negative_gradient,
    neighbourhood,
    pte,
    random_label,
    salun,
    scrub,
    sure,
)
from benchmarks.task import Method

METHODS: Final[dict[str, Method[Any]]] = {
    method.name: method
    for method in (
        head_surgery.METHOD,
        random_label.METHOD,
        negative_gradient.METHOD,
        negative_gradient.WITH_STOP,
        boundary_shrink.METHOD,
        boundary_expand.METHOD,
        imp.METHOD,
        bad_teacher.METHOD,
        delete.METHOD,
        delete.MASK_ALL,
        neighbourhood.METHOD,
        misdirection.METHOD,
        pte.METHOD,
        pte.SHIPPED,
        finetune.METHOD,
        gradient_difference.METHOD,
        scrub.METHOD,
        bad_teacher.WITH_RETAIN,
        salun.METHOD,
        sure.METHOD,
    )
}
# The shipped method's nearest rivals: of the retain-free ones, and of those that use retained data, those with the
# smallest gap to retrain in tuning on CWRU and the rig that take seconds. With one class, DELETE is DELETE-all.
NEAREST: Final = ("pte_published", "delete_all", "spotter", "scrub", "bad_teacher_retain")
CONTROLS: Final[dict[str, Method[Any]]] = {
    method.name: method for method in (controls.DELETE_ALL, controls.PTE_PUBLISHED)
}
ABLATIONS: Final[dict[str, Method[Any]]] = {
    method.name: method for method in (*ablations.OF_PUBLISHED, *ablations.OF_SHIPPED)
}
ALL: Final = METHODS | CONTROLS | ABLATIONS
