"""Gaussian noise as a function of a seed and a place: no generator, no state, so no dependence on the batch.

    u = mix(mix(seed) + place · STEP) / 2^64,  noise = √2 · erf⁻¹(2u − 1)

mix is the finaliser of splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014);
generation by counter: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Odd, and small enough that no place times it leaves 64 bits: compilers do that sum in unbounded integers.
STEP = 0x9E3779B97


def seeded_normal(seeds: Tensor, count: int) -> Tensor:
    """Return `count` standard normal numbers for each seed, (B,) int64 -> (B, count) float64, on the seeds' device.

    The same seed gives the same numbers in every batch; devices agree to the accuracy of their erf⁻¹.

    >>> one = seeded_normal(torch.tensor([7]), 3)
    >>> torch.equal(one[0], seeded_normal(torch.tensor([1, 7]), 3)[1])
    True
    """
    place = torch.arange(1, count + 1, device=seeds.device) * STEP
    bits = _mix(_mix(seeds)[:, None] + place)
    # the middle of each of 2^52 equal parts of (0, 1), so that neither end is hit
    uniform = (_shifted(bits, 12).double() + 0.5) * 2.0**-52
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _mix(x: Tensor) -> Tensor:
    """Return 64 bits each of which depends on all of x's; products wrap around at 2^64, as they should."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Shift right, zeros coming in (torch shifts the sign in)."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    """Return the int64 with the bits of an unsigned number whose highest bit is set."""
    return x - (1 << 64)
