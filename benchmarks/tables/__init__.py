"""Every table and figure, as a pure function of the CSV files in ``benchmarks/results``."""

from __future__ import annotations

from typing import Final

from benchmarks.tables import cost, depth, every_class, f2, f3, f5, gate, new_row, profiles, speed, t1, t2, t3, t4, t6

TABLES: Final = {
    module.TABLE.name: module.TABLE
    for module in (t6, every_class, t4, t3, t2, t1, depth, new_row, cost, gate, f2, f3, f5, speed, profiles)
}
