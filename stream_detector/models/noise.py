"""Gaussian noise as a function of a seed and an index: no generator, no state, so no dependence on the batch.

    u = mix(mix(seed) + index · STEP) / 2^64,  noise = √2 · erf⁻¹(2u − 1)

mix is the finaliser of splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014);
generation by counter: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Odd, and small enough that index · STEP never exceeds 64 bits: a compiler may compute the product in unbounded
#: integers.
STEP = 0x9E3779B97


def seeded_normal(seeds: Tensor, count: int) -> Tensor:
    """Return `count` standard normal numbers for each seed, (B,) int64 -> (B, count) float64, on the seeds' device.

    The same seed gives the same numbers in every batch; devices agree within the accuracy of their erf⁻¹.

    >>> one = seeded_normal(torch.tensor([7]), 3)
    >>> torch.equal(one[0], seeded_normal(torch.tensor([1, 7]), 3)[1])
    True
    """
    place = torch.arange(1, count + 1, device=seeds.device) * STEP
    bits = _mix(_mix(seeds)[:, None] + place)
    # midpoints of 2^52 equal intervals of (0, 1): never 0 or 1, where erf⁻¹ is infinite
    uniform = (_shifted(bits, 12).double() + 0.5) * 2.0**-52
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _mix(x: Tensor) -> Tensor:
    """Return 64 bits, each of which depends on all bits of x; products wrap around at 2^64 by intent."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros (torch fills with the sign bit)."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    """Return the int64 that has the bits of an unsigned 64-bit number whose highest bit is set."""
    return x - (1 << 64)
