"""Which windows of a class stay: the same ones as by looking through all slots each time."""

from __future__ import annotations

from typing import cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.reservoir import Reservoir, Source, is_labelled
from edge_agent.slots import SlotFile

SIZE = 4
SOURCES = st.sampled_from([Source.DIAGNOSIS, Source.LABEL, Source.SENDER])
STEPS = st.lists(st.one_of(SOURCES, st.integers(0, SIZE - 1)), max_size=60)  # a window is offered, or a slot vacated


class Plain:
    """Algorithm R by the book, over a list of sources."""

    def __init__(self) -> None:
        self.sources = [Source.EMPTY] * SIZE
        self._seen = {True: 0, False: 0}

    def place(self, generator: np.random.Generator, *, labelled: bool) -> int | None:
        self._seen[labelled] += 1
        if Source.EMPTY in self.sources:
            return self.sources.index(Source.EMPTY)
        mine = [slot for slot, source in enumerate(self.sources) if is_labelled(source) is labelled]
        others = [slot for slot in range(SIZE) if slot not in mine]
        if labelled and others:
            return others[int(generator.integers(len(others)))]
        pick = int(generator.integers(self._seen[labelled]))
        return mine[pick] if pick < len(mine) else None


@given(STEPS)
def test_windows_go_where_a_look_through_all_slots_would_put_them(steps: list[Source | int]) -> None:
    ours, plain = Reservoir(cast("SlotFile", None), SIZE), Plain()  # the file has no part in it
    generators = np.random.default_rng(0), np.random.default_rng(0)
    for number, step in enumerate(steps):
        if isinstance(step, Source):
            slot = ours.place(generators[0], labelled=is_labelled(step))
            assert slot == plain.place(generators[1], labelled=is_labelled(step))
            if slot is not None:
                ours.hold(slot, ("press", "b", number), step)
                plain.sources[slot] = step
        else:
            ours.vacate(step)
            plain.sources[step] = Source.EMPTY
        assert ours.sources == plain.sources
        assert ours.filled == sum(source > 0 for source in plain.sources)
