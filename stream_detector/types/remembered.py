"""The decorator of states that are made anew with every score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def remembered(cls: type[T]) -> type[T]:
    """Make a dataclass with slots that the type checker takes for frozen, and the interpreter doesn't.

    Nobody may change such a state: others hold it, too. But `frozen=True` sets each field through a call and so makes
    an object five times as slowly (2.2 against 0.4 µs for seven fields), twice for every score that is judged.
    """
    return dataclass(slots=True)(cls)
