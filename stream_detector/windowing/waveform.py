"""Features of the samples in one grid cell: level, shape and spectrum of a waveform. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Lower bound of band energies before the logarithm, so that a dead signal gives -12 and not minus infinity.
BAND_FLOOR = 1e-12
#: A signal whose deviation from its mean is below this share of its RMS is constant: the rest is rounding.
CONSTANT_SHARE = 1e-12


def waveform_features(samples: NDArray[np.float64], features: Sequence[str], bands: int) -> NDArray[np.float64]:
    """Return the features of one cell's evenly spaced samples, in the order of `ChannelConfig.columns`.

    `samples` is (n,), n >= 1, in the channel's unit. The result is (len(features) + bands,):

    - `rms`: sqrt(mean x²), `peak`: max |x|, both in the channel's unit
    - `crest`: peak / rms, 0 for a signal that is zero throughout
    - `kurtosis`: Pearson's, m4 / m2² about the mean: 3 for a Gaussian, 1.5 for a sine; it grows with the impulses of
      a damaged bearing. 0 for a constant signal, which has none
    - band i of `bands`: log10 of the mean power between i/bands and (i+1)/bands of half the sample rate (see
      `band_energies`)

    Raises ValueError when there are no samples or a feature is unknown.
    """
    x = np.asarray(samples, np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"samples must be one row of at least one sample, got shape {x.shape}")
    out = np.empty(len(features) + bands)
    rms = float(np.sqrt(np.mean(np.square(x))))
    peak = float(np.max(np.abs(x)))
    for index, name in enumerate(features):
        if name == "rms":
            out[index] = rms
        elif name == "peak":
            out[index] = peak
        elif name == "crest":
            out[index] = peak / rms if rms > 0 else 0.0
        elif name == "kurtosis":
            out[index] = _kurtosis(x, rms)
        else:
            raise ValueError(f"unknown waveform feature {name!r}; known are rms, peak, crest, kurtosis")
    if bands:
        out[len(features) :] = np.log10(np.maximum(band_energies(x, bands), BAND_FLOOR))
    return out


def band_energies(samples: NDArray[np.float64], bands: int) -> NDArray[np.float64]:
    """Return the mean power in `bands` even bands from 0 to half the sample rate; (n,) -> (bands,), unit squared.

    A Hann window keeps a strong tone out of far bands. The power of a bin is |X|² / Σw², so white noise of variance v
    gives v in every band, for any number of samples. With fewer bins than bands, neighbours share a bin.
    """
    n = samples.size
    taper, power_of_taper = _hann(n)
    power = np.square(np.abs(np.fft.rfft(samples * taper))) / power_of_taper
    bins = power.size  # n // 2 + 1
    edges = np.arange(bands + 1) * bins // bands
    sums = np.add.reduceat(power, edges[:-1])  # an empty band (two equal edges) gives the bin at its edge
    return np.asarray(sums / np.maximum(np.diff(edges), 1))


def _kurtosis(x: NDArray[np.float64], rms: float) -> float:
    squares = np.square(x - np.mean(x))
    variance = float(np.mean(squares))
    if variance <= (CONSTANT_SHARE * rms) ** 2:
        return 0.0
    return float(np.mean(np.square(squares / variance)))


@lru_cache(maxsize=32)
def _hann(n: int) -> tuple[NDArray[np.float64], float]:
    # sampled at midpoints: never zero, so even one or two samples keep their power
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)
    return taper, float(np.sum(np.square(taper)))
