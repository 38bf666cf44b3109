"""Which fault comes when: all kinds in every deal of the cards, in an order that the seed decides."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


def deal(kinds: Mapping[T, int], chance: random.Random) -> Iterator[T]:
    """Yield kinds for ever: first one of each, then each as often as its number says, each round shuffled anew."""
    cards = list(kinds)
    while True:
        chance.shuffle(cards)
        yield from cards
        cards = [kind for kind, count in kinds.items() for _ in range(count)]
