"""Windows -> scores: batches across assets and partitions, one device, one transfer in and one out.

Two things make a score the same however windows were batched: float64 arithmetic, whose results differ between batch
shapes in about the last digit of sixteen, and rounding to 20 bits of mantissa (6 digits), which hides that digit but
for about one score in 10^9 that lies right at a rounding edge. With `precision: float32` scores of different batches
agree to about 5 digits only, and rounding can't hide that.

Detectors of one shape, a fleet's, are run side by side in batched products (models/stacking.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import ScorerConfig
from stream_detector.errors import ArtifactError, ConfigError
from stream_detector.models import Detector
from stream_detector.models.preprocessing import Preprocess
from stream_detector.models.stacking import Stack
from stream_detector.types import ScoreBatch, Shifts, WindowBatch

SCORE_BITS = 20
#: Parts, observed and expected are for people: 16 bits are 5 digits.
PART_BITS = 16
#: Sizes that batches are padded to when a graph is compiled or captured for each: at most this many ...
BUCKETS = 6
#: ... and none smaller, since a tiny batch costs a device as much as this.
SMALLEST_BUCKET = 16
#: Detectors of more numbers than this are run one by one: their products fill a core by themselves.
LARGEST_STACKED = 1 << 16
#: Numbers of the detectors picked from a stack for one product: 64 MiB of float64.
MOST_PICKED = 1 << 23
#: Windows of one detector side by side in a stack's product.
MOST_ALONGSIDE = 64


class Judge(nn.Module):
    """One detector with its preprocessing: raw windows in, one table out, so that one transfer brings it all back."""

    def __init__(self, artifact: Artifact, dtype: torch.dtype) -> None:
        """Copy the detector in the given precision; the artifact's own stays as it is."""
        super().__init__()
        self.preprocess: Preprocess = copy.deepcopy(artifact.preprocess).eval()
        self.detector: Detector = copy.deepcopy(artifact.detector).to(dtype).eval()
        self.dtype = dtype

    def forward(self, x: Tensor, shift: Tensor | None, seeds: Tensor | None = None) -> Tensor:
        """Return score, parts, observed, expected, offset side by side: (B, T, C) float32 -> (B, 1 + 3C + N) float64.

        `shift` (B, N) float64, in training spreads, is taken off the N numeric columns and added to what is expected;
        None: nothing is. `seeds` (B,), for detectors that draw, are `window_seeds`.
        """
        physical: Tensor = self.preprocess.physical(x.double())
        scaled: Tensor = self.preprocess.scaler(physical, None if shift is None else shift[:, None])
        if shift is None:
            shift = scaled.new_zeros(len(x), len(self.preprocess.scaler.numbers))
        score, parts, expected = self.detector.judge(scaled.to(self.dtype), seeds)
        parts = self.preprocess.fold(parts.double())
        numbers = shift.shape[1]  # they come first
        expected = expected.double()
        offset = scaled[:, -1, :numbers] - expected[:, :numbers] + shift
        expected = torch.cat((expected[:, :numbers] + shift, expected[:, numbers:]), dim=1)
        table = (score[:, None].double(), parts, physical[:, -1], self.preprocess.inverse(expected), offset)
        return torch.cat(table, dim=1)


class Scorer:
    """Scores batches of windows with the detectors of a `ModelSet`; higher is more anomalous."""

    def __init__(self, models: ModelSet, config: ScorerConfig) -> None:
        """Choose the device, set the process's CPU threads and put the detectors on the device.

        Raises ConfigError when CUDA is asked for and absent.
        """
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("scorer.device is cuda, but torch finds no CUDA device; use auto or cpu")
        use_cuda = config.device != "cpu" and torch.cuda.is_available()
        torch.set_num_threads(config.threads)
        self.device = torch.device("cuda" if use_cuda else "cpu")
        self.models = models
        self.buckets = buckets(config.max_batch) if use_cuda or config.compile else ()
        self._config = config
        self._refs = models.refs
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        judges = [Judge(artifact, dtype).to(self.device) for artifact in models.artifacts]
        self._shapes = [(a.config.window.length, len(a.config.columns)) for a in models.artifacts]
        self._numbers = max((len(a.preprocess.scaler.numbers) for a in models.artifacts), default=0)
        self._groups = [] if config.compile else list(_groups(judges, models.artifacts))
        in_group = {int(index) for group in self._groups for index in group.models}
        self._alone = [index for index in range(len(judges)) if index not in in_group]
        self._judges: list[nn.Module] = list(judges)
        if config.compile:
            mode = "reduce-overhead" if use_cuda else None  # CUDA graphs where there are any
            self._judges = [cast(nn.Module, torch.compile(judge, mode=mode, dynamic=False)) for judge in judges]
        self._staging: Tensor | None = None  # pinned host memory of one batch, reused

    def warm_up(self) -> None:
        """Run every detector once in every size, so that no live window waits for a compiler or a first allocation.

        Raises ConfigError when `scorer.compile` is set and compiling fails.
        """
        for index in self._alone:
            length, columns = self._shapes[index]
            for size in self.buckets or (1, self._config.max_batch):
                try:
                    shift = np.zeros((size, self._numbers))
                    self._run(index, np.zeros((size, length, columns), np.float32), shift)
                except Exception as error:
                    if not self._config.compile:
                        raise
                    # the compiler's errors have no common base; most often there is no C++ compiler
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise ConfigError(
                        f"scorer.compile is true, but the model can't be compiled here ({reason}); "
                        "install a C++ compiler (g++) or set scorer.compile: false"
                    ) from error

    def score(self, batch: WindowBatch, shifts: Shifts | None = None) -> ScoreBatch:
        """Score all windows of a batch, in its order, each moved by its asset's shift.

        A window whose asset has no detector has model -1 and NaN for its score and all else; one that holds a value
        that is not a number keeps its model, and its score is NaN. Raises ArtifactError when the windows' shape is not
        the detectors'.
        """
        count, _, columns = batch.values.shape
        table = np.full((count, 1 + 3 * columns + self._numbers), np.nan)
        shift = np.zeros((count, self._numbers)) if shifts is None else shifts.values
        model = self._assign(batch.assets)
        for group in self._groups:
            self._score_group(group, model, batch.values, shift, table)
        for index in self._alone:  # over models, never over windows
            rows = np.flatnonzero(model == index)
            if not len(rows):
                continue
            self._check_shape(index, batch.values.shape[1:])
            for start in range(0, len(rows), self._config.max_batch):
                stop = start + self._config.max_batch
                some = slice(start, stop) if len(rows) == count else rows[start:stop]  # a slice copies nothing
                table[some] = self._run(index, batch.values[some], None if shifts is None else shift[some])
        parts = round_mantissa(table[:, 1 : 1 + 3 * columns], PART_BITS).astype(np.float32)
        return ScoreBatch(
            score=round_mantissa(table[:, 0], SCORE_BITS),
            channels=parts[:, :columns],
            observed=parts[:, columns : 2 * columns],
            expected=parts[:, 2 * columns :],
            model=model,
            models=self._refs,
            offset=round_mantissa(table[:, 1 + 3 * columns :], SCORE_BITS).astype(np.float32),
        )

    def _assign(self, assets: list[str]) -> NDArray[np.int32]:
        find = self.models.for_asset
        found = {asset: find(asset) for asset in set(assets)}
        known = {asset: -1 if index is None else index for asset, index in found.items()}
        return np.fromiter(map(known.__getitem__, assets), np.int32, len(assets))

    def _check_shape(self, index: int, got: tuple[int, ...]) -> None:
        if got != self._shapes[index]:
            raise ArtifactError(
                f"the detector {self._refs[index].version} scores windows of (cells, columns) {self._shapes[index]}, "
                f"got {got}; train it with the window and channels of this configuration"
            )

    @torch.inference_mode()
    def _score_group(
        self,
        group: _Group,
        model: NDArray[np.int32],
        values: NDArray[np.float32],
        shift: NDArray[np.float64],
        table: NDArray[np.float64],
    ) -> None:
        """Fill in the table's rows of a group's windows."""
        rows = np.flatnonzero(group.place[model] >= 0)  # model -1 is the last place, which is nobody's
        if not len(rows):
            return
        self._check_shape(int(group.models[0]), values.shape[1:])
        most = min(MOST_ALONGSIDE, self._config.max_batch)
        for who, some in _side_by_side(group.place[model[rows]], rows, most):
            step = max(1, min(self._config.max_batch // some.shape[1], MOST_PICKED // group.stack.values))
            for start in range(0, len(who), step):
                part = some[start : start + step]  # (S, L)
                x = torch.from_numpy(values[part]).to(self.device)
                inputs = [x, torch.from_numpy(shift[part]).to(self.device)]
                if group.stochastic:
                    inputs.append(window_seeds(x.flatten(0, 1)).view(part.shape))
                out = group.stack(torch.from_numpy(who[start : start + step]).to(self.device), *inputs)
                table[part] = out.cpu().numpy()  # windows that fill up a group say the same again

    @torch.inference_mode()
    def _run(self, index: int, values: NDArray[np.float32], shift: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Return the table of up to max_batch windows (B, T, C): one transfer in (and a small one), one out."""
        count = len(values)
        x = torch.from_numpy(np.ascontiguousarray(values))
        moved = None if shift is None else torch.from_numpy(np.ascontiguousarray(shift))
        if self.buckets:
            size = next(bucket for bucket in self.buckets if bucket >= count)
            staging = self._stage(size, *values.shape[1:])
            staging[:count].copy_(x)
            staging[count:].zero_()
            x = staging
            padded = torch.zeros(size, self._numbers, dtype=torch.float64)  # one graph, shifted or not
            if moved is not None:
                padded[:count] = moved
            moved = padded
        x = x.to(self.device, non_blocking=True)
        seeds = window_seeds(x) if self.models.artifacts[index].detector.stochastic else None
        out = self._judges[index](x, None if moved is None else moved.to(self.device), seeds)
        return cast(NDArray[np.float64], out[:count].cpu().numpy())  # waits for the device; staging is free again

    def _stage(self, size: int, length: int, columns: int) -> Tensor:
        if self._staging is None or self._staging.shape[1:] != (length, columns):
            on_cuda = self.device.type == "cuda"
            self._staging = torch.empty(max(self.buckets), length, columns, pin_memory=on_cuda)
        return self._staging[:size]


@dataclass(frozen=True, slots=True)
class _Group:
    """Detectors of one shape, in one stack."""

    stack: Stack
    models: NDArray[np.int64]  # (M,) their indexes in the model set
    place: NDArray[np.int64]  # (all models + 1,) where in the stack each is; -1: not in it
    stochastic: bool


def _groups(judges: list[Judge], artifacts: tuple[Artifact, ...]) -> Iterator[_Group]:
    """Yield the groups of at least two detectors that can be run side by side."""
    found: dict[object, list[int]] = {}
    for index, (judge, artifact) in enumerate(zip(judges, artifacts, strict=True)):
        if not _stackable(judge):
            continue
        config = artifact.config.model_dump_json(include={"channels", "window", "features", "model"})
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in judge.state_dict().items())
        found.setdefault((config, shapes), []).append(index)
    for members in found.values():
        if len(members) > 1:
            place = np.full(len(judges) + 1, -1, np.int64)
            place[members] = np.arange(len(members))
            stack = Stack([judges[index] for index in members])
            device = next(judges[0].buffers()).device
            yield _Group(stack.to(device), np.array(members), place, artifacts[members[0]].detector.stochastic)


def _stackable(judge: Judge) -> bool:
    """Tell whether its detector has a batched form (recurrent nets have none in torch) and gains by it."""
    # with categories the shape of the input follows from values
    if not judge.detector.stacks or judge.preprocess.scaler.categories:
        return False
    recurrent = any(isinstance(module, nn.RNNBase) for module in judge.modules())
    return not recurrent and sum(tensor.numel() for tensor in judge.state_dict().values()) <= LARGEST_STACKED


def _side_by_side(
    place: NDArray[np.int64], rows: NDArray[np.intp], most: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.intp]]]:
    """Arrange rows by their detector's place: yield places (S,) and rows (S, L), L a power of two or `most`.

    A detector's rows are cut into runs of at most `most`; a run that doesn't fill its row repeats its last.

    >>> [(who.tolist(), some.tolist()) for who, some in _side_by_side(np.array([4, 2, 4, 4]), np.arange(4), 8)]
    [([2], [[1]]), ([4], [[0, 2, 3, 3]])]
    """
    order = np.argsort(place, kind="stable")
    place, rows = place[order], rows[order]
    first = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    pieces = -(-np.diff(np.r_[first, len(place)]) // most)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of a run among its detector's
    runs = np.repeat(first, pieces) + most * number
    lengths = np.diff(np.r_[runs, len(place)])
    widths = np.minimum(2 ** np.ceil(np.log2(lengths)).astype(np.int64), most)
    for width in np.unique(widths):
        start, length = runs[widths == width], lengths[widths == width]
        at = start[:, None] + np.minimum(np.arange(width), length[:, None] - 1)
        yield place[start], rows[at]


def buckets(max_batch: int) -> tuple[int, ...]:
    """Return the sizes batches are padded to, ascending: powers of two, then `max_batch` itself.

    >>> buckets(512), buckets(100), buckets(5)
    ((16, 32, 64, 128, 256, 512), (16, 32, 64, 100), (5,))
    """
    sizes = [max_batch]
    size = 1 << (max_batch - 1).bit_length() >> 1  # the largest power of two below
    while len(sizes) < BUCKETS and size >= SMALLEST_BUCKET:
        sizes.append(size)
        size >>= 1
    return tuple(sorted(sizes))


def round_mantissa(values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Round to `bits` significant bits, half to even; NaN and infinities stay.

    >>> round_mantissa(np.array([1.0, 1.0000001, -0.1]), 20).tolist()
    [1.0, 1.0, -0.10000002384185791]
    """
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))


def window_seeds(x: Tensor) -> Tensor:
    """Return a seed for each window from the bits of its values, (B, T, C) float32 -> (B,) int64.

    Integer arithmetic, so exact: a window has the same seed in every batch, on every device and in every replay.
    """
    words = x.contiguous().view(torch.int32).long().flatten(1)  # (B, T·C)
    # odd steps, so order counts; small ones, for compilers fold this product in unbounded integers
    place = torch.arange(1, words.shape[1] + 1, device=x.device) * 0x9E3779B97
    mixed = (words + 1) * (place | 1)
    mixed = mixed ^ (mixed >> 29)
    return mixed.sum(dim=1)
