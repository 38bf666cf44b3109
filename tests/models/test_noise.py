import math

import pytest
import torch

from stream_detector.models.noise import STEP, seeded_normal

MASK = (1 << 64) - 1


def mix(z: int) -> int:
    """Return splitmix64's finaliser of 64 bits, in Python's unbounded integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_finaliser_is_the_published_one():
    """Vigna's splitmix64.c gives 0xE220A8397B1DCDAF first for the state 0."""
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 123456789])
def test_its_bits_are_those_of_unsigned_integers(seed: int):
    """Overflow and shifts of torch's signed integers do what the algorithm asks for."""
    noise = seeded_normal(torch.tensor([seed]), 5)[0]
    uniform = 0.5 * (1 + torch.erf(noise / math.sqrt(2)))
    bits = [mix((mix(seed & MASK) + place * STEP) & MASK) for place in range(1, 6)]
    expected = torch.tensor([((each >> 12) + 0.5) / 2**52 for each in bits], dtype=torch.float64)
    torch.testing.assert_close(uniform, expected, rtol=1e-9, atol=1e-12)


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
