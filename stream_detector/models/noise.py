"""Gaussian noise as a function of a seed and a place: no generator, no state, so no dependence on the batch.

    u = splitmix64(seed, place) / 2^64,  noise = √2 · erf⁻¹(2u − 1)

Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (the mixing function);
counter-based generation: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def seeded_normal(seeds: Tensor, count: int) -> Tensor:
    """Return `count` standard normal numbers for each seed, (B,) int64 -> (B, count) float64, on the seeds' device.

    The same seed gives the same numbers in every batch; devices agree to the accuracy of their erf⁻¹.

    >>> one = seeded_normal(torch.tensor([7]), 3)
    >>> torch.equal(one[0], seeded_normal(torch.tensor([1, 7]), 3)[1])
    True
    """
    place = torch.arange(1, count + 1, device=seeds.device)
    state = seeds[:, None] + place * _signed(0x9E3779B97F4A7C15)  # wraps around at 2^64, as it should
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    state = state ^ _shifted(state, 31)
    # 52 bits and a half: the middle of each of 2^52 equal parts of (0, 1), so that neither end is hit
    uniform = (_shifted(state, 12).double() + 0.5) * 2.0**-52
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Shift right, zeros coming in (torch shifts the sign in)."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    """Return the int64 with the bits of an unsigned number."""
    return x - (1 << 64)  # of the constants here, all have the highest bit set
