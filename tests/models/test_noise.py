import math

import pytest
import torch

from stream_detector.models.noise import seeded_normal


def mixed(seed: int, place: int) -> int:
    """Return splitmix64's output number `place` (from 1) for a seed, in Python's unbounded integers."""
    mask = (1 << 64) - 1
    z = (seed + place * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 123456789])
def test_it_is_splitmix64(seed: int):
    """Overflow and shifts of torch's signed integers give the bits of the unsigned algorithm."""
    noise = seeded_normal(torch.tensor([seed]), 5)[0]
    uniform = 0.5 * (1 + torch.erf(noise / math.sqrt(2)))
    expected = [((mixed(seed, place) >> 12) + 0.5) / 2**52 for place in range(1, 6)]
    torch.testing.assert_close(uniform, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_the_first_number_of_the_published_generator():
    """Vigna's splitmix64.c gives 0xE220A8397B1DCDAF for the state 0."""
    assert mixed(0, 1) == 0xE220A8397B1DCDAF


def test_it_is_standard_normal():
    """Mean, variance, skewness and tails of 200,000 numbers from consecutive seeds, and no correlation between them."""
    noise = seeded_normal(torch.arange(2_000), 100)
    flat = noise.flatten()
    assert abs(float(flat.mean())) < 0.01
    assert float(flat.var()) == pytest.approx(1, abs=0.02)
    assert abs(float((flat**3).mean())) < 0.03
    assert float((flat.abs() > 3).double().mean()) == pytest.approx(0.0027, abs=5e-4)
    assert abs(float((noise[:-1] * noise[1:]).mean())) < 0.01
    assert abs(float((noise[:, :-1] * noise[:, 1:]).mean())) < 0.01


def test_a_seed_has_the_same_numbers_in_every_batch():
    """Bit for bit, and the first numbers don't depend on how many are asked for."""
    seeds = torch.randint(-(2**62), 2**62, (50,), generator=torch.Generator().manual_seed(0))
    together = seeded_normal(seeds, 8)
    assert torch.equal(together.flip(0), seeded_normal(seeds.flip(0), 8))
    assert torch.equal(together[17:18], seeded_normal(seeds[17:18], 8))
    assert torch.equal(together[:, :3], seeded_normal(seeds, 3))
