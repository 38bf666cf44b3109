"""MessagePack, with types."""

from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped] # it ships no types

#: Object -> bytes. Raises TypeError, ValueError or OverflowError for what MessagePack can't hold.
pack: Callable[[object], bytes] = msgpack.packb

#: Bytes -> object. It bounds every length by the message's own, so a header can't promise more than was sent, and
#: nesting by its stack. Raises ValueError and its subclasses.
unpack: Callable[[bytes], Any] = msgpack.unpackb
