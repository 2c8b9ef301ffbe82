"""A case: one original network, the classes it is to forget, and every window on which that is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import nn

from benchmarks import models
from benchmarks.machine import DATA
from benchmarks.measures.samples import evenly
from benchmarks.settings import FORGET_WINDOWS, KNOWN, MODEL_SEEDS, Setting, tensors
from benchmarks.task import Cost, Labelled
from edge_agent.core.dreams import Dreams
from edge_agent.core.evidence import without
from edge_agent.core.margins import Margins, measure
from edge_agent.core.training import logits
from edge_agent.core.types import Dataset


@dataclass(frozen=True, eq=False)  # equal is only the same one: windows take seconds to compare
class Case:
    """One original network and its forget classes.

    The forget set D_f is what a gateway would have cached: at most 512 training windows per class, evenly drawn.
    """

    setting: Setting
    data: Dataset
    model_seed: int
    forget: tuple[int, ...]
    architecture: str = models.ARCHITECTURE

    @cached_property
    def original(self) -> nn.Sequential:
        """f0."""
        return self._network(())

    @cached_property
    def retrained(self) -> nn.Sequential:
        """The same recipe and seed without the forget classes."""
        return self._network(self.forget)

    @cached_property
    def other(self) -> Case:
        """The same by the next seed, whose ``retrained`` is as far from this one's as chance alone leads."""
        position = MODEL_SEEDS.index(self.model_seed) if self.model_seed in MODEL_SEEDS else -1
        return replace(self, model_seed=MODEL_SEEDS[(position + 1) % len(MODEL_SEEDS)])

    @property
    def retraining_cost(self) -> Cost:
        """What the training of ``retrained``, which must have been, cost."""
        return models.training_cost(self.setting, self.model_seed, self.forget, self.architecture, self.setting.width)

    @cached_property
    def dreams(self) -> Dreams:
        """Those of f0 in which no forget class has a part."""
        return without(models.dreamt(self.setting, self.data, self.original, self.model_seed), self.forget)

    @cached_property
    def margins(self) -> Margins:
        """Those of f0 on validation windows, as a release's card carries them."""
        output = logits(self.original, torch.as_tensor(self.data.validation.windows))
        return measure(output.numpy(), self.data.validation.labels, len(self.data.classes))

    def side(self, name: str, *, gone: bool) -> Labelled:
        """The windows of ``train``, ``validation`` or ``test`` that are (or are not) of a forget class."""
        pairs = Labelled(*tensors(getattr(self.data, name)))
        return pairs.pick(torch.isin(pairs.labels, torch.tensor(self.forget)) == gone)

    @cached_property
    def forget_set(self) -> Labelled:
        """D_f: what a gateway would have cached."""
        return evenly(self.side("train", gone=True), FORGET_WINDOWS)

    @cached_property
    def retain_set(self) -> Labelled:
        """D_r: every training window of the other classes."""
        return self.side("train", gone=False)

    def _network(self, without: tuple[int, ...]) -> nn.Sequential:
        size = self.architecture, self.setting.width
        return models.trained(self.setting, self.data, self.model_seed, without, *size)


@lru_cache(maxsize=2)
def dataset(name: str, folder: Path = DATA) -> Dataset:
    """The data of a setting, kept in memory."""
    return KNOWN[name].load(folder)


@lru_cache(maxsize=1)  # the runs of one case follow each other
def case(name: str, model_seed: int, forget: tuple[str, ...], architecture: str = models.ARCHITECTURE) -> Case:
    """The case of a setting's name, a model and class names."""
    data = dataset(name)
    return Case(KNOWN[name], data, model_seed, tuple(data.classes.index(each) for each in forget), architecture)
