"""Where a machine went: the shift under which a detector finds least that is strange. Pure.

A model predicts each channel from the others. Where one has moved, the predictions of the others are wrong as well,
and more so the closer they go together; to take all offsets off at once may make things worse (it is Jacobi's
iteration of a linear model's normal equations, which need not converge). To take off that of one channel is, for a
linear model with a quadratic score, the best that can be done along it. So the shift is sought channel by channel,
each time by the move that lowers the score most (Gauss-Southwell coordinate descent); moving all at once is one more
candidate. One sensor that was replaced ends as a shift of one channel.

Candidates are compared by the score of one window. Where they lead is the mean over blocks of windows:
by how much a move changes the offsets is seen without noise, as it is the same window before and after.
"""

from __future__ import annotations

import numpy as np

from stream_detector.decision.window import Floats, Probe

#: A move must lower the score by this share of it, or it is the noise of one window.
LEAST_GAIN = 0.05
#: Channels tried at a time, those with the largest offsets, and most moves.
TRIED, MOVES = 16, 64


def relocated(probe: Probe, shift: Floats, offset: Floats) -> Floats:
    """Return the shift (N,), from `shift` on, at which the window is least strange; `offset` (N,): the mean one."""
    here, mean = shift.astype(np.float64), offset.astype(np.float64)
    scores, offsets = probe(here[None])
    score, seen = float(scores[0]), offsets[0].astype(np.float64)
    for _ in range(min(MOVES, 4 * len(here))):
        step = mean - here
        channels = np.argsort(-np.abs(step), kind="stable")[:TRIED]
        moves = np.zeros((len(channels) + 1, len(here)))
        moves[np.arange(len(channels)), channels] = step[channels]
        moves[-1] = step
        scores, offsets = probe(here + moves)
        best = int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))
        if not score - float(scores[best]) > LEAST_GAIN * abs(score):
            break
        mean = mean + (offsets[best].astype(np.float64) - seen)
        here, score, seen = here + moves[best], float(scores[best]), offsets[best].astype(np.float64)
    return here.astype(np.float32)
