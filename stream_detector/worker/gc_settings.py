"""Settings of the Python process that suit a worker."""

from __future__ import annotations

import gc

#: Container objects allocated before the collector looks for cycles among the youngest; Python's default is 700.
YOUNG = 100_000


def tune_gc() -> None:
    """Let the garbage collector run rarely and leave what start-up made alone.

    A worker makes some ten thousand short-lived objects a batch (decoded messages), none in a cycle: counting
    references frees them all. At Python's defaults the collector walks them again and again, which halves throughput.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 50, 100)
