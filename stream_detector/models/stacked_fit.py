"""Many small detectors fitted at once: the gradient loop of fitting.py with a leading dimension of models.

Each model has the same minibatches, random draws and initial weights as in a separate fit, its own Adam updates (they
are elementwise), its own early stopping and its own best epoch. So an asset's model does not depend on the other assets
trained in the same call, except for rounding errors of sums.

    windows (N_m, T, F) of model m, shuffled ─▶ (M, batch, T, F) ─▶ vmap(loss) ─▶ (M,) losses ─▶ one backward pass

Models with equal numbers of minibatches are trained together; the last minibatch is padded with windows of weight 0.
Source of the batched loss: `torch.func` (Horace He & Richard Zou, "functorch", 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stream_detector.config import TrainConfig
from stream_detector.errors import DataError
from stream_detector.models.base import Detector
from stream_detector.models.fitting import FitReport, Progress, check_finite
from stream_detector.models.stacking import Method, stacked

#: Maximum number of models trained at once: more are not faster and need more memory.
MOST = 512
#: Models with more parameters than this are trained one by one: a single one is enough to occupy a core.
LARGEST = 1 << 16
#: Maximum number of values in the windows of all models trained at once (each has its own copy): 1 GiB.
MOST_VALUES = 1 << 28
#: Number of windows, of all models together, in one step of a validation.
CHUNK = 1 << 16


def fit_all(
    detectors: Sequence[Detector],
    x_train: Sequence[Tensor],
    x_val: Sequence[Tensor],
    seeds: Sequence[int],
    config: TrainConfig,
    *,
    progress: Progress | None = None,
) -> list[FitReport]:
    """Fit detectors of one family and shape: in one batch if they have a batched form, else one after the other.

    Arguments and errors as in `fit_stacked`. `progress` is called after each pass with means over the detectors.
    """
    if not detectors:
        return []
    if len(detectors) > 1 and trains_stacked(detectors[0]) and sum(one.numel() for one in x_train) <= MOST_VALUES:
        return fit_stacked(detectors, x_train, x_val, seeds, config, progress=progress)
    reports = []
    for index, (detector, train, val, seed) in enumerate(zip(detectors, x_train, x_val, seeds, strict=True)):
        seeded = config.model_copy(update={"seed": seed})
        try:
            reports.append(detector.fit(train, val, seeded, _after(progress, index, len(detectors))))
        except DataError as error:
            raise DivergedError(index, str(error)) from error
    return reports


def _after(progress: Progress | None, done: int, of: int) -> Progress | None:
    """Return the progress callback for the next of `of` fits, of which `done` are finished."""
    if progress is None:
        return None
    tell = progress

    def epoch(epoch: int, epochs: int, loss: float, val_loss: float) -> None:
        tell(done * epochs + epoch, of * epochs, loss, val_loss)

    return epoch


def trains_stacked(detector: Detector) -> bool:
    """Return whether such detectors can be trained in one batch: small dense networks with a `weighted_loss`.

    Recurrent layers have no batched form in torch; convolutions have one, but on a CPU it is not faster than a loop.
    """
    modules = (nn.RNNBase, nn.Conv1d, nn.ConvTranspose1d)
    if type(detector).weighted_loss is Detector.weighted_loss:
        return False
    if any(isinstance(module, modules) for module in detector.modules()):
        return False
    return sum(tensor.numel() for tensor in detector.parameters()) <= LARGEST


def fit_stacked(
    detectors: Sequence[Detector],
    x_train: Sequence[Tensor],
    x_val: Sequence[Tensor],
    seeds: Sequence[int],
    config: TrainConfig,
    *,
    progress: Progress | None = None,
) -> list[FitReport]:
    """Fit M detectors of one family and shape, detectors[m] to windows x_train[m] (N_m, T, F) with seeds[m].

    x_val[m] (V_m, T, F) are later windows for early stopping. Raises DivergedError when a loss becomes non-finite.
    """
    groups: dict[int, list[int]] = {}
    for index, windows in enumerate(x_train):
        groups.setdefault(-(-len(windows) // config.batch), []).append(index)
    parts = [members[start : start + MOST] for members in groups.values() for start in range(0, len(members), MOST)]
    found: dict[int, FitReport] = {}
    for number, some in enumerate(parts):
        stack = _Fit(
            [detectors[i] for i in some],
            [x_train[i] for i in some],
            [x_val[i] for i in some],
            [seeds[i] for i in some],
            config,
        )
        found.update(zip(some, stack.run(some, _after(progress, number, len(parts))), strict=True))
    return [found[index] for index in range(len(x_train))]


class DivergedError(DataError):
    """One of several fits diverged."""

    def __init__(self, index: int, message: str) -> None:
        """`index`: position of the detector in the arguments of the fit."""
        super().__init__(message)
        self.index = index


class _Fit:
    """The fit of M models with equal numbers of minibatches."""

    def __init__(
        self,
        detectors: Sequence[Detector],
        x_train: Sequence[Tensor],
        x_val: Sequence[Tensor],
        seeds: Sequence[int],
        config: TrainConfig,
    ) -> None:
        self.config, self.detectors, self.x_train, self.seeds = config, detectors, x_train, seeds
        self.counts = [len(windows) for windows in x_train]
        self.val_counts = [len(windows) for windows in x_val]
        self.x, self.x_val = _padded(x_train), _padded(x_val)
        self.val_weight = _shares(self.val_counts, self.x_val.shape[1])
        names = {name for name, _ in detectors[0].named_parameters()}
        state = stacked([one.state_dict() for one in detectors])
        self.weights = {name: tensor.requires_grad_() for name, tensor in state.items() if name in names}
        self.buffers = {name: tensor for name, tensor in state.items() if name not in self.weights}
        # as in separate fits: detectors with the same seed and length share their shuffles
        self.shuffles = {key: torch.Generator().manual_seed(key[0]) for key in zip(seeds, self.counts, strict=True)}
        self.template = copy.deepcopy(detectors[0]).to("meta")
        self.loss = Method(self.template, "weighted_loss")

    def run(self, indexes: Sequence[int], progress: Progress | None) -> list[FitReport]:
        """Fit the models; `indexes` identify them in errors."""
        size, config = len(self.x_train), self.config
        adam = torch.optim.Adam(list(self.weights.values()), lr=config.learning_rate, fused=True)
        best = torch.full((size,), torch.inf, dtype=torch.float64)
        best_epoch = torch.zeros(size, dtype=torch.int64)
        stopped = torch.zeros(size, dtype=torch.int64)  # the last epoch of each model; 0: still running
        kept = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        losses: list[Tensor] = []
        val_losses: list[Tensor] = []
        for epoch in range(1, config.epochs + 1):
            self.template.train()
            self.template.begin_epoch((epoch - 1) / config.epochs)
            losses.append(self._epoch(adam))
            self.template.eval()
            val_losses.append(self._validate())
            goes_on = stopped == 0
            if progress is not None:
                progress(epoch, config.epochs, float(losses[-1].mean()), float(val_losses[-1].mean()))
            self._check(epoch, losses[-1] + val_losses[-1], goes_on, indexes)
            better = (val_losses[-1] < best) & goes_on
            best, best_epoch = torch.where(better, val_losses[-1], best), torch.where(better, epoch, best_epoch)
            for name, tensor in self.weights.items():
                kept[name][better] = tensor.detach()[better]
            stopped[goes_on & (epoch - best_epoch >= config.patience)] = epoch
            if bool((stopped > 0).all()):
                break
        made = torch.where(stopped > 0, stopped, len(losses)).tolist()
        history, val_history = torch.stack(losses, 1).tolist(), torch.stack(val_losses, 1).tolist()
        reports = []
        for place, (epochs, chosen) in enumerate(zip(made, best_epoch.tolist(), strict=True)):
            self._complete(place, kept)
            reports.append(
                FitReport(epochs, int(chosen), tuple(history[place][:epochs]), tuple(val_history[place][:epochs]))
            )
        return reports

    def _epoch(self, adam: torch.optim.Adam) -> Tensor:
        """Run one pass; return each model's mean loss (M,) float64."""
        orders = {key: torch.randperm(key[1], generator=draws) for key, draws in self.shuffles.items()}
        width = self.x.shape[1]
        order = torch.stack([_filled(orders[key], width) for key in zip(self.seeds, self.counts, strict=True)])
        shuffled = self.x[torch.arange(len(order))[:, None], order]
        total = torch.zeros(len(order), dtype=torch.float64)
        for start in range(0, width, self.config.batch):
            batch = shuffled[:, start : start + self.config.batch]
            real = [min(n - start, self.config.batch) for n in self.counts]
            adam.zero_grad(set_to_none=True)
            value, after = self._losses(batch, _shares(real, batch.shape[1]), self._noise(real, batch.shape[1]))
            value.sum().backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            adam.step()
            self.buffers.update({name: tensor.detach() for name, tensor in after.items()})
            total += value.detach() * torch.tensor(real)
        return total / torch.tensor(self.counts)

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """Return each model's loss on its later windows (M,) float64, with the same draws every time."""
        width = self.x_val.shape[1]
        noise = self._noise(self.val_counts, width, fresh=True)
        step = max(1, CHUNK // width)
        return torch.cat(
            [
                self._losses(self.x_val[part], self.val_weight[part], noise[part], part)[0]
                for part in (slice(start, start + step) for start in range(0, len(self.x_val), step))
            ]
        ).double()

    def _losses(
        self, x: Tensor, weight: Tensor, noise: Tensor, part: slice = slice(None)
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own = {name: tensor[part] for name, tensor in {**self.weights, **self.buffers}.items()}
        value, after = self.loss.of_each(own, x, weight, noise)
        return value, after

    def _noise(self, counts: Sequence[int], width: int, fresh: bool = False) -> Tensor:
        """Return draws (M, width, noise_width), equal to those of separate fits; `fresh`: restart from the seeds."""
        values = self.template.noise_width
        if not values:
            return self.x.new_zeros(len(counts), width, 0)
        drawn: dict[tuple[int, int], Tensor] = {}
        found = []
        for seed, of, count in zip(self.seeds, self.counts, counts, strict=True):
            key = (seed, count) if fresh else (seed, of)
            if key not in drawn:
                draws = torch.Generator().manual_seed(seed) if fresh else self.shuffles[key]
                own = torch.randn((count, values), generator=draws)
                drawn[key] = torch.cat([own, own.new_zeros(width - count, values)])
            found.append(drawn[key])
        return torch.stack(found)

    def _check(self, epoch: int, loss: Tensor, goes_on: Tensor, indexes: Sequence[int]) -> None:
        wrong = torch.nonzero(~torch.isfinite(loss) & goes_on)[:, 0]
        if len(wrong):
            try:
                check_finite(epoch, float(loss[wrong[0]]), self.config)
            except DataError as error:
                raise DivergedError(indexes[int(wrong[0])], str(error)) from error

    @torch.no_grad()
    def _complete(self, place: int, kept: dict[str, Tensor]) -> None:
        """Set one detector's weights, then the values measured with them."""
        one = self.detectors[place]
        tensors = {**self.buffers, **kept}
        one.load_state_dict({name: tensor[place].detach().clone() for name, tensor in tensors.items()})
        one.eval()
        one.complete(self.x_train[place], self.config.model_copy(update={"seed": self.seeds[place]}))


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """Return parts (n_m, T, F) as (M, n, T, F), the shorter ones padded with zeros."""
    return nn.utils.rnn.pad_sequence(list(parts), batch_first=True)


def _filled(order: Tensor, width: int) -> Tensor:
    """Return an order (n,) padded with zeros to (width,)."""
    return nn.functional.pad(order, (0, width - len(order)))


def _shares(counts: Sequence[int], width: int) -> Tensor:
    """Return weights (M, width): 1/n for the first n places, 0 for the rest."""
    count = torch.tensor(counts)[:, None]
    return (torch.arange(width) < count).float() / count
