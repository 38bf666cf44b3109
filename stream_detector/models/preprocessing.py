"""From an unscaled window to a model's input: a chain of small steps, stored in the artifact.

    x (B, T, C) ─ Difference ─▶ ─ Smooth, keep last K ─▶ physical units (B, K, C) ─ Encode ─▶ z (B, K, F)

Encode scales numbers, after a logarithm if `log` is set, and turns each category's code into features of 0 and 1.
All steps run in float64, even if the model runs in float32: a small change on a large offset must not be lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.config import ChannelConfig, FeatureConfig
from stream_detector.errors import ConfigError, DataError

#: (q90 - q10) of a Gaussian is 2.563 standard deviations.
GAUSSIAN_DECILES = 2.563
#: A spread below this share of a column's center is the rounding error of a smoothed constant, not a signal.
NOISE_SHARE = 1e-12
#: Scale of a column that is constant in training, as a share of its magnitude.
CONSTANT_SHARE = 0.01
#: Smoothing is one matrix product if the matrix has at most this many entries, else log2(T) shifted sums.
MATRIX_ENTRIES = 1 << 20
#: Maximum number of categories of a one-hot channel, which has one feature per category.
MOST_CATEGORIES = 1024
#: Knuth's multiplier: spreads codes over buckets.
_SPREAD = 2_654_435_761


class Difference(nn.Module):
    """Change from cell to cell: (B, T, C) -> (B, T-1, C), in units per cell."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x[t] - x[t-1]."""
        return x[:, 1:] - x[:, :-1]


class Smooth(nn.Module):
    """Causal exponential moving average along the window, last `keep` cells: (B, T, C) -> (B, keep, C).

    y[t] = Σ_k w_k x[t-k] / Σ_k w_k with w_k = α(1-α)^k, k = 0..t: the weights of the window's cells sum to 1, so the
    first values are averages of few cells and not biased towards zero. α is the weight of the newest cell.
    """

    weights: Tensor

    def __init__(self, alpha: float, length: int, keep: int) -> None:
        """Prepare for windows of `length` cells. The weights follow from the configuration and are not stored."""
        super().__init__()
        self.decay, self.length, self.keep = 1.0 - alpha, length, keep
        self.by_matrix = keep * length <= MATRIX_ENTRIES
        if self.by_matrix:
            age = np.arange(length - keep, length)[:, None] - np.arange(length)[None, :]
            matrix = np.where(age >= 0, self.decay ** np.maximum(age, 0), 0.0)
            weights = matrix / matrix.sum(axis=1, keepdims=True)  # (keep, T)
        else:
            weights = np.cumsum(self.decay ** np.arange(length))[length - keep :, None]  # (keep, 1) Σ_k w_k / α
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smoothed last `keep` cells."""
        if self.by_matrix:
            return torch.matmul(self.weights, x)  # one product per window: no result depends on the other windows
        reach = 1
        while reach < self.length:  # after this x[t] holds the weighted sum of the last 2·reach cells
            x = torch.cat((x[:, :reach], x[:, reach:] + self.decay**reach * x[:, :-reach]), dim=1)
            reach *= 2
        return x[:, -self.keep :] / self.weights


class Keep(nn.Module):
    """Last `keep` cells: (B, T, C) -> (B, keep, C)."""

    def __init__(self, keep: int) -> None:
        """`keep`: number of cells kept."""
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        """Return the last cells."""
        return x[:, -self.keep :]


class Scale(nn.Module):
    """z = (x - center) / scale per column, clipped to ±clip; both learnt from the training part by `fit`.

    `robust`: median and (q90 - q10)/2.563, which a few outliers in training hardly change. `standard`: mean and
    standard deviation. When the robust spread is zero because a column has one value most of the time, its standard
    deviation is used. A column that is constant in training has no spread: its scale is then 1 % of its magnitude (1 if
    it is always zero). So there is no division by zero and rounding causes no alarm, but a deviation of more than a few
    percent from the constant is large.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, columns: int, scaling: Literal["robust", "standard"], clip: float | None) -> None:
        """Start as the identity."""
        super().__init__()
        self.scaling, self.clip = scaling, clip
        self.register_buffer("center", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(columns, dtype=torch.float64))

    def fit(self, x: Tensor) -> None:
        """Learn center and scale from (N, K, C) values in physical units."""
        columns = x.flatten(0, -2)
        for index in range(x.shape[-1]):  # column by column: a sorted copy of the whole history may not fit in memory
            center, scale = self._measure(columns[:, index].double().cpu().numpy())
            self.center[index], self.scale[index] = center, scale

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Scale (..., C) values in physical units; subtract `shift`, in units of `scale`, broadcast to them."""
        z = (x - self.center).div_(self.scale)  # in place where vmap can: a batch barely fits the cache once
        if shift is not None:
            z.sub_(shift)
        return z if self.clip is None else z.clamp(-self.clip, self.clip)

    def inverse(self, z: Tensor) -> Tensor:
        """Return scaled values (..., C) to physical units; clipping can't be undone."""
        return z.to(self.center.dtype) * self.scale + self.center

    def _measure(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
        deviation = float(values.std())
        if self.scaling == "robust":
            low, center, high = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9)))
            spread = (high - low) / GAUSSIAN_DECILES
        else:
            center, spread = float(values.mean()), deviation
        noise = NOISE_SHARE * abs(center)
        if spread <= noise:
            spread = deviation
        if spread <= noise:
            spread = CONSTANT_SHARE * abs(center) or 1.0
        return center, spread


class Encode(Scale):
    """Scaled numbers, then a group of features for each category: (..., C) -> (..., F).

    A one-hot group has one feature per category in the training part, in the order of their codes, and a last one for
    all other categories; a hashed group has one feature per bucket. These features are 0 or 1 and not scaled.
    """

    codes: Tensor
    sizes: Tensor

    def __init__(self, channels: Sequence[ChannelConfig], config: FeatureConfig) -> None:
        """Prepare for the columns of `channels`; without categories and logarithms it equals `Scale`."""
        self.numbers = [index for index, channel in enumerate(channels) if channel.kind == "number"]
        self.categories = [index for index, channel in enumerate(channels) if channel.kind == "category"]
        super().__init__(len(self.numbers), config.scaling, config.clip)
        self.width = len(channels)
        self.buckets = [channels[c].buckets if channels[c].encoding == "hash" else 0 for c in self.categories]
        logs = [channels[index].log for index in self.numbers]
        self.logs = torch.tensor(logs) if any(logs) else None
        if self.categories:
            self.register_buffer("codes", torch.zeros(0, dtype=torch.int64))  # known codes, group after group, sorted
            self.register_buffer("sizes", torch.zeros(len(self.categories), dtype=torch.int64))  # known codes per group

    @property
    def features(self) -> int:
        """F; with categories it is known only after `fit` or a restore."""
        return len(self._column_of()) if self.categories else self.width

    def fit(self, x: Tensor) -> None:
        """Learn scales and categories from (N, K, C) values in physical units.

        Raises DataError when a one-hot channel has more than MOST_CATEGORIES categories.
        """
        super().fit(self._numbers(x))
        if not self.categories:
            return
        known: list[Tensor] = []
        for place, index in enumerate(self.categories):
            found = torch.unique(x[..., index].long()) if not self.buckets[place] else torch.zeros(0, dtype=torch.int64)
            if len(found) > MOST_CATEGORIES:
                raise DataError(
                    f"column {index + 1} has {len(found)} categories in the training part, more than "
                    f"{MOST_CATEGORIES}; set its channel's encoding: hash"
                )
            known.append(found)
        self.codes, self.sizes = torch.cat(known), torch.tensor([len(found) for found in known])

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Encode (..., C) values in physical units; subtract `shift` (..., N), in units of `scale`, from numbers."""
        z = super().forward(self._numbers(x), shift)
        if not self.categories:
            return z
        groups = [self._group(place, x[..., index].long()) for place, index in enumerate(self.categories)]
        return torch.cat([z, *(group.to(z.dtype) for group in groups)], dim=-1)

    def inverse(self, z: Tensor) -> Tensor:
        """Return encoded values (B, F) to (B, C); one-hot categories: the likeliest known code, hashed ones: 0."""
        numbers = super().inverse(z[..., : len(self.numbers)])
        if self.logs is not None:
            raised = numbers.sign() * torch.expm1(numbers.abs().clamp_max(700.0))
            numbers = torch.where(self.logs.to(z.device), raised, numbers)
        if not self.categories:
            return numbers
        columns: list[Tensor] = [numbers.new_zeros(())] * self.width
        for place, index in enumerate(self.numbers):
            columns[index] = numbers[..., place]
        start = len(self.numbers)
        for place, index in enumerate(self.categories):
            codes = self._codes(place)
            size = self.buckets[place] or len(codes) + 1
            likeliest = z[..., start : start + max(len(codes), 1)].argmax(dim=-1)
            columns[index] = codes[likeliest].to(numbers.dtype) if len(codes) else torch.zeros_like(numbers[..., 0])
            start += size
        return torch.stack([column.expand(z.shape[:-1]) for column in columns], dim=-1)

    def fold(self, parts: Tensor) -> Tensor:
        """Sum the contributions of each column's features, (B, F) -> (B, C)."""
        if not self.categories:
            return parts
        columns = torch.tensor(self._column_of(), device=parts.device)
        return parts.new_zeros(len(parts), self.width).index_add(1, columns, parts)

    def _numbers(self, x: Tensor) -> Tensor:
        numbers = x[..., self.numbers] if self.categories else x
        if self.logs is None:
            return numbers
        return torch.where(self.logs.to(x.device), numbers.sign() * torch.log1p(numbers.abs()), numbers)

    def _codes(self, place: int) -> Tensor:
        """Return the known codes of a category, sorted."""
        start = int(self.sizes[:place].sum())
        return self.codes[start : start + int(self.sizes[place])]

    def _group(self, place: int, code: Tensor) -> Tensor:
        """Return the features (..., G) of codes (...)."""
        if buckets := self.buckets[place]:
            return nn.functional.one_hot((code * _SPREAD >> 16) % buckets, buckets)
        known = self._codes(place)
        at = torch.searchsorted(known, code.contiguous())
        at = torch.where((at < len(known)) & (known[at.clamp_max(len(known) - 1)] == code), at, len(known))
        return nn.functional.one_hot(at, len(known) + 1)

    def _column_of(self) -> list[int]:
        groups = [[c] * (b or int(n) + 1) for c, b, n in zip(self.categories, self.buckets, self.sizes, strict=True)]
        return self.numbers + [column for group in groups for column in group]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Accept as many codes as the artifact holds. Raises ValueError when codes and sizes don't match."""
        codes, sizes = state_dict.get(f"{prefix}codes"), state_dict.get(f"{prefix}sizes")
        if self.categories and codes is not None and sizes is not None:
            self.codes = torch.empty_like(codes)
            if codes.ndim != 1 or codes.dtype != torch.int64 or sizes.dtype != torch.int64:
                raise ValueError("its codes of categories are not int64")
            hashed = [bool(buckets) for buckets in self.buckets]
            fits = [(size > 0) != bucket for size, bucket in zip(sizes.tolist(), hashed, strict=True)]
            if not all(fits) or int(sizes.sum()) != len(codes):
                raise ValueError("its codes of categories don't match its channels")
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Preprocess(nn.Module):
    """Window (B, T, C) in physical units -> model input (B, `length`, `columns`), by the steps of a FeatureConfig."""

    def __init__(
        self, config: FeatureConfig, length: int, columns: int, channels: Sequence[ChannelConfig] | None = None
    ) -> None:
        """Prepare for windows of `length` cells; `channels` has one entry for each of `columns` (None: all numbers).

        Raises ConfigError when the window is too short for `difference`, or `keep` exceeds the cells that are left.
        """
        super().__init__()
        steps: list[nn.Module] = []
        if config.difference:
            if length < 2:
                raise ConfigError(f"features.difference needs window.length of at least 2, got {length}")
            steps.append(Difference())
            length -= 1
        keep = length if config.keep is None else config.keep
        if keep > length:
            raise ConfigError(
                f"features.keep must be in 1..{length} (window.length, less 1 for features.difference), got {keep}"
            )
        if config.smoothing is not None:
            steps.append(Smooth(config.smoothing, length, keep))
        elif keep < length:
            steps.append(Keep(keep))
        self.length = keep
        """Cells of the model's input."""
        self.physical = nn.Sequential(*steps)
        """The steps before scaling: (B, T, C) float64 -> (B, length, C), still in physical units."""
        self.scaler = Encode([ChannelConfig()] * columns if channels is None else channels, config)
        """The last step."""

    @property
    def columns(self) -> int:
        """Columns of the model's input; with categories known only after `fit` or a restore."""
        return self.scaler.features

    def fit(self, x: Tensor) -> None:
        """Learn center, scale and categories from training windows (N, T, C)."""
        self.scaler.fit(self.physical(x.double()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's input (B, length, columns) in float64."""
        scaled: Tensor = self.scaler(self.physical(x.double()))
        return scaled

    def inverse(self, z: Tensor) -> Tensor:
        """Return one encoded cell (B, columns) to physical units (B, C); with `difference`, to units per cell."""
        return self.scaler.inverse(z)

    def fold(self, parts: Tensor) -> Tensor:
        """Sum the contributions (B, columns) of the features that come from each column of the window: (B, C)."""
        return self.scaler.fold(parts)


def column_channels(channels: Mapping[str, ChannelConfig]) -> list[ChannelConfig]:
    """Return the channel of each window column, in order."""
    return [channel for name, channel in channels.items() for _ in channel.columns(name)]
