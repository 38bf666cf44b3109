"""Relocation: find the shift under which a window of a machine in a new regime has the lowest score. Pure.

A model predicts each channel from the others. If one channel has moved, the predictions of the others are wrong too,
the more so the stronger the correlation. Subtracting all offsets at once may increase the score: for a linear model it
is Jacobi's iteration of the normal equations, which need not converge. Subtracting the offset of one channel is, for a
linear model with a quadratic score, the best possible step along that channel. So the shift is found by coordinate
descent, each time with the step that lowers the score most (Gauss-Southwell rule); a step of all channels at once is an
additional candidate. After the replacement of one sensor, the result is a shift of one channel.

Candidates are compared by the score of one window. The size of a step comes from the mean offsets over blocks of
windows. The change of the offsets by a step is free of noise, because it is measured on the same window.
"""

from __future__ import annotations

import numpy as np

from stream_detector.decision.window import Floats, Probe

#: A step must lower the score by this share; smaller gains are noise of the single window.
LEAST_GAIN = 0.05
#: Number of channels tried per step, those with the largest offsets, and maximum number of steps.
TRIED, MOVES = 16, 64


def relocated(probe: Probe, shift: Floats, offset: Floats) -> Floats:
    """Return the shift (N,) with the lowest score, searched from `shift`; `offset` (N,): mean offset over windows."""
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
