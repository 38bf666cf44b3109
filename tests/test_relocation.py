"""Where a machine went: found for a linear detector whose channels go together, where all offsets lead astray."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.decision.relocation import Probe, relocated

#: Five channels that go together closely, as load, current and heat do.
SPREAD = np.full((5, 5), 0.95) + 0.05 * np.eye(5)
INVERSE = np.linalg.inv(SPREAD)


def linear(window: np.ndarray) -> Probe:
    """The Mahalanobis distance of one window (5,), and its offsets from what the other channels foretell."""

    def probe(shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pull = (window - shifts) @ INVERSE
        scores = ((window - shifts) * pull).sum(axis=1)
        return scores, (pull / np.diag(INVERSE) + shifts).astype(np.float32)

    return probe


def test_a_sensor_that_reads_higher_is_a_shift_of_its_channel_alone():
    """All offsets would move the others, too, and leave the machine strange; the channel's own is all there is."""
    window = np.array([0.0, 8.0, 0.0, 0.0, 0.0])
    probe = linear(window)
    _, offsets = probe(np.zeros((1, 5)))
    assert probe(offsets.astype(np.float64))[0][0] > 10 * 5  # of a healthy window: 5
    found = relocated(probe, np.zeros(5, np.float32), offsets[0])
    assert [0.0, 8.0, 0.0, 0.0, 0.0] == pytest.approx(found.tolist(), abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_moved_the_scores_come_down_and_one_windows_noise_is_not_taken_for_place(seed: int):
    """The window is one of many: mean offsets say where they lie, so the next ones are as normal."""
    rng = np.random.default_rng(seed)
    place = rng.normal(scale=6.0, size=5)
    windows = place + rng.multivariate_normal(np.zeros(5), SPREAD, size=400)
    offset = np.mean([linear(one)(np.zeros((1, 5)))[1][0] for one in windows], axis=0)
    found = relocated(linear(windows[0]), np.zeros(5, np.float32), offset)
    before = np.mean([linear(one)(np.zeros((1, 5)))[0][0] for one in windows])
    after = np.mean([linear(one)(found[None].astype(np.float64))[0][0] for one in windows])
    assert after < max(0.05 * before, 9.0)  # of a healthy window: 5


def test_noise_alone_moves_nothing():
    """Offsets of 0 lead nowhere, and scores that are no number don't either."""
    shift = np.array([1.0, 0.0, 0.0, 0.0, 0.0], np.float32)
    assert shift.tolist() == relocated(linear(np.array([1.5, 0.1, -0.2, 0.0, 0.1])), shift, shift).tolist()

    def broken(shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(shifts), np.nan), shifts.astype(np.float32)

    assert shift.tolist() == relocated(broken, shift, shift + np.float32(3.0)).tolist()
