"""Which announcement a replica follows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.followed import Announcement

ORDERS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def announced(key: str, order: tuple[int, int]) -> Announcement:
    return Announcement(digest="0" * 64, hidden=(), order=(key, *order))


@given(ORDERS, ORDERS)
def test_of_one_installation_the_later_start_and_then_the_later_number_is_followed(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert announced("a", one).follows(announced("a", other)) is (one >= other)


@given(ORDERS, ORDERS)
def test_a_gateway_that_was_installed_anew_is_followed_though_it_counts_from_one(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert announced("b", one).follows(announced("a", other))
