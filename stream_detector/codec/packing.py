"""MessagePack functions with type annotations."""

from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped] # it has no type annotations

#: Object -> bytes. Raises TypeError, ValueError or OverflowError for what MessagePack can't hold.
pack: Callable[[object], bytes] = msgpack.packb

#: Bytes -> object. Every length is bounded by that of the message, so a forged header can't cause a large allocation;
#: nesting is bounded by the parser's stack. Raises ValueError and its subclasses.
unpack: Callable[[bytes], Any] = msgpack.unpackb
