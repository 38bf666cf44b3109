"""The generalised Pareto law of excesses over a high threshold: fit and quantile.

P(Y > y) = (1 + γ y / σ)^(-1/γ), y >= 0; the exponential law exp(-y / σ) for γ -> 0. Pickands, Balkema and de Haan:
nearly every law's excesses over a high enough threshold look so; γ > 0 is a heavy tail, γ < 0 one that ends.

Fit: maximum likelihood by Grimshaw's trick (Technometrics 35, 1993): with x = γ/σ the likelihood's maximum over (γ,
σ) is one over x alone, since given x the best γ is s = mean(log(1 + x Y)) and σ = γ / x. Instead of finding roots one
by one, the likelihood is taken on a grid of x at once, then on two finer grids, then at the vertex of a parabola: no
iteration that could fail, and the same cost each time.

Two things are added.

Truncation. A score above the alarm level is never learnt, so most excesses were only seen because they lay below a
cut c. Taken for a whole sample they make the tail look short, the level falls, more is cut off, and so on: at a risk
of 1e-3 the share of false alarms grows seventeenfold in 150,000 scores. The likelihood of a share ρ of the excesses
is therefore that of the law below c, f(y) / F(c). With L = -log(1 - F(c)) = log(1 + x c)/γ, the best γ given x solves

    1/L - ρ / (e^L - 1) = s / log(1 + x c)

A prior on γ. Ten to two hundred excesses say little about it, while the level at a risk of 1e-4 depends on it
steeply. So the likelihood is weighted by a Gaussian of mean .10 and deviation .12, the moments of the prior of
Martins and Stedinger (Water Resources Research 36, 2000), who found it for the same trouble in small samples.
Calibrated on 60 exponential scores, levels meant for 1e-4 are exceeded at 2e-4 on average with it, at 65e-4
without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PRIOR_MEAN = 0.1
PRIOR_DEVIATION = 0.12
LOWEST_SHAPE = -0.5  # below, maximum likelihood is not regular and runs to the largest excess
MOST_CUT = 0.5  # never believe that more of the tail than this was cut off

_COARSE = np.linspace(0.0, 1.0, 24)
_FINE = np.linspace(-1.0, 1.0, 9)
_COARSE_STEP = float(_COARSE[1])
_LIGHTEST = 1e-9  # |x| below this is taken as it: the limit γ -> 0 without a division by zero
_STRAIGHT = 1e-6  # |γ| below this is that of the exponential law
_HEAVIEST = 0.95  # upper end of the grid in g
_LEAST_STEPS = -math.log(MOST_CUT)
_LARGEST = float(np.finfo(np.float32).max)
_MOST_STEPS = 40.0  # beyond, nothing is cut off in double precision


def fit(excesses: NDArray[np.float64], cut: float = math.inf, share: float = 0.0) -> tuple[float, float, float]:
    """Return (γ, σ, F(cut)) of `excesses` (N,), all >= 0, N >= 1; a `share` of them was seen only because it lay
    below `cut`.

    σ is 0 when every excess is 0. All are rounded to float32, so that machines whose logarithms differ in the last
    bit agree.
    """
    return fit_all([(excesses, cut, share)])[0]


def fit_all(tails: Sequence[tuple[NDArray[np.float64], float, float]]) -> list[tuple[float, float, float]]:
    """Return what `fit` returns for each (excesses, cut, share): the same bits, for a fraction of the time.

    Tails of as many excesses are fitted in one array operation each.
    """
    found: list[tuple[float, float, float]] = [(0.0, 0.0, 1.0)] * len(tails)
    alike: dict[int, list[int]] = {}
    for place, (excesses, _, _) in enumerate(tails):
        alike.setdefault(len(excesses), []).append(place)
    for places in alike.values():
        excesses = np.stack([tails[place][0] for place in places])
        cuts, shares = np.array([tails[place][1:] for place in places]).T
        for place, law in zip(places, fit_alike(excesses, cuts, shares), strict=True):
            found[place] = law
    return found


def fit_alike(
    excesses: NDArray[np.float64], cuts: NDArray[np.float64], shares: NDArray[np.float64]
) -> list[tuple[float, float, float]]:
    """Return what `fit` returns for each of A tails of as many excesses (A, N); `cuts` and `shares` are (A,)."""
    found: list[tuple[float, float, float]] = [(0.0, 0.0, 1.0)] * len(excesses)
    means = excesses.mean(axis=1)
    cut_off = (cuts > 0.0) & (shares != 0.0)
    for truncated in (False, True):
        places = np.flatnonzero((means > 0.0) & (cut_off == truncated))
        if not len(places):
            continue
        mean = means[places, None]
        y, cut, share = excesses[places] / mean, cuts[places, None] / mean, shares[places, None]
        fits = _fitted(_Likelihood(y, cut, share if truncated else None))
        for place, size, (shape, x, below) in zip(places.tolist(), means[places].tolist(), fits, strict=True):
            found[place] = _rounded(shape), _rounded(size * shape / x), _rounded(below)
    return found


def _fitted(likelihood: _Likelihood) -> list[tuple[float, float, float]]:
    """Return (γ, x, F(cut)) of each of A tails where its likelihood is largest."""
    rows = np.arange(len(likelihood.y))
    # In g = x / (1 + x) (the shape, were the excesses' mean exact) the likelihood is even enough for an even grid.
    lowest = -(1.0 - 1e-3) / likelihood.y.max(axis=1, keepdims=True)  # (A, 1)
    with np.errstate(divide="ignore"):
        low = np.where(lowest > -0.5, lowest / (1.0 + lowest), -1.0)
    width = _HEAVIEST - low
    grid = low + width * _COARSE  # (A, K)
    centre = low + width * _COARSE[likelihood.costs(grid).argmin(axis=1)][:, None]
    step = width * _COARSE_STEP
    for _ in range(2):
        grid = np.clip(centre + step * _FINE, low, _HEAVIEST)
        costs = likelihood.costs(grid)
        best = costs.argmin(axis=1)
        centre = grid[rows, best][:, None]
        step = step * 0.25
    inner = (best > 0) & (best < costs.shape[1] - 1)  # vertex of the parabola through the best three
    at = np.clip(best, 1, costs.shape[1] - 2)
    left, middle, right = costs[rows, at - 1], costs[rows, at], costs[rows, at + 1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        bend = left - 2.0 * middle + right
        moved = centre[:, 0] + step[:, 0] * 0.5 * (left - right) / bend
    centre = np.where(inner & np.isfinite(bend) & (bend > 0.0), moved, centre[:, 0])[:, None]
    x, shape, steps, _ = likelihood.best(centre)
    return [(float(shape[row, 0]), float(x[row, 0]), -math.expm1(-float(steps[row, 0]))) for row in range(len(rows))]


def quantile(shape: float, scale: float, share: float) -> float:
    """Return the excess that a share (0 < share) of excesses lies above; negative for a share above 1."""
    steps = -math.log(share)
    if abs(shape) < _STRAIGHT:
        return scale * steps
    return scale * math.expm1(shape * steps) / shape


def quantiles(
    shape: NDArray[np.float64], scale: NDArray[np.float64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `quantile` of each of A laws (A,), to the same bits: numpy's own log and expm1 may round otherwise."""
    steps = -np.fromiter(map(math.log, share.data), np.float64, len(share))
    grown = np.fromiter(map(math.expm1, (shape * steps).data), np.float64, len(share))
    straight = np.abs(shape) < _STRAIGHT
    found: NDArray[np.float64] = scale * grown / np.where(straight, 1.0, shape)
    return np.where(straight, scale * steps, found)


class _Likelihood:
    """The likelihood of A tails' excesses y (A, N) of mean 1, a `share` (A, 1) of them cut off at `cut` (A, 1).

    `share` None: nothing was cut off. Taken on grids of g (A, K).
    """

    def __init__(self, y: NDArray[np.float64], cut: NDArray[np.float64], share: NDArray[np.float64] | None) -> None:
        self.y = y
        self.cut = cut
        self.share = share
        self.weight = 0.5 / (PRIOR_DEVIATION * PRIOR_DEVIATION * y.shape[1])

    def best(self, g: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return x, the γ that suits each best, -log(1 - F(cut)) there, and mean(log(1 + x y)), each (A, K)."""
        x = g / (1.0 - g)
        x[np.abs(x) < _LIGHTEST] = _LIGHTEST
        terms = x[:, :, None] * self.y[:, None, :]  # (A, K, N), large: used for its logarithms, too
        mean_log = np.add.reduce(np.log1p(terms, out=terms), axis=2) / self.y.shape[1]
        if self.share is None:
            return x, mean_log, np.full(x.shape, math.inf), mean_log
        log_cut = np.log(np.maximum(1.0 + x * self.cut, 1e-12))  # clipped where the law ends below the cut
        ratio = mean_log / log_cut
        steps = np.clip(1.0 / ratio, _LEAST_STEPS, _MOST_STEPS)
        for _ in range(3):  # Newton: the left side is convex and falls in L; quadratic from a start this near
            grown = np.expm1(steps)
            value = 1.0 / steps - self.share / grown - ratio
            slope = self.share * (grown + 1.0) / (grown * grown) - 1.0 / (steps * steps)
            steps = np.clip(steps - value / slope, _LEAST_STEPS, _MOST_STEPS)
        return x, log_cut / steps, steps, mean_log

    def costs(self, g: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return -log(likelihood · prior) / N and a constant (A, K)."""
        x, shape, steps, mean_log = self.best(g)
        fit = shape
        if self.share is not None:
            fit = mean_log + (mean_log / shape - 1.0) + self.share * np.log(-np.expm1(-steps))
        costs: NDArray[np.float64] = np.log(shape / x) + fit + self.weight * np.square(shape - PRIOR_MEAN)
        costs[shape < LOWEST_SHAPE] = math.inf
        return costs


def _rounded(value: float) -> float:
    return float(np.float32(min(value, _LARGEST)))
