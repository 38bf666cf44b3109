"""The training loop of the neural detectors: Adam, seeded shuffles, early stopping; the best weights are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.config import TrainConfig
from stream_detector.errors import DataError

Progress = Callable[[int, int, float, float], None]
"""Called after every epoch with epoch (from 1), maximum epochs, training loss, validation loss."""

Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class FitReport:
    """Report of a fit, stored in the artifact."""

    epochs: int  # passes run
    best_epoch: int  # the pass whose weights were kept, from 1; 0 for detectors without passes
    losses: tuple[float, ...]  # (epochs) mean training loss of each pass
    val_losses: tuple[float, ...]  # (epochs) loss on the held-out windows after each pass
    first_choice: int = 1  # the first pass whose weights may be kept; earlier passes are preparation
    warnings: tuple[str, ...] = ()  # limits on the scores' reliability that the user must see
    faulty: int = 0  # training windows labelled faulty


def fit_by_gradient(
    model: nn.Module,
    loss: Loss,
    x_train: Tensor,
    x_val: Tensor,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    begin: Callable[[float], None] | None = None,
) -> FitReport:
    """Minimise `loss` over minibatches of x_train (N, T, F); stop `patience` epochs after the best loss on x_val.

    `begin` is called before each epoch with the share of `config.epochs` completed so far, for losses with a schedule.
    Deterministic: shuffles come from a generator seeded with `config.seed`, and every validation uses the same draws.
    Leaves the model in eval mode with the weights of its best epoch. Raises DataError when the loss becomes non-finite.
    """
    shuffle = torch.Generator().manual_seed(config.seed)
    weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(weights, lr=config.learning_rate, fused=True)
    n = len(x_train)
    losses: list[float] = []
    val_losses: list[float] = []
    best, best_epoch = float("inf"), 0
    kept = [p.detach().clone() for p in weights]
    for epoch in range(1, config.epochs + 1):
        model.train()
        if begin is not None:
            begin((epoch - 1) / config.epochs)
        order = torch.randperm(n, generator=shuffle).to(x_train.device)
        shuffled = x_train[order]  # one gather per epoch; minibatches are views of it
        total = torch.zeros((), dtype=torch.float64, device=x_train.device)
        for batch in torch.split(shuffled, config.batch):
            adam.zero_grad(set_to_none=True)
            value = loss(batch, shuffle)
            value.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            adam.step()
            total += value.detach() * len(batch)
        model.eval()
        losses.append(float(total) / n)
        val_losses.append(_validate(loss, x_val, config))
        if progress is not None:
            progress(epoch, config.epochs, losses[-1], val_losses[-1])
        check_finite(epoch, losses[-1] + val_losses[-1], config)
        if val_losses[-1] < best:
            best, best_epoch = val_losses[-1], epoch
            torch._foreach_copy_(kept, [p.detach() for p in weights])
        elif epoch - best_epoch >= config.patience:
            break
    with torch.no_grad():
        torch._foreach_copy_(weights, kept)
    return FitReport(len(losses), best_epoch, tuple(losses), tuple(val_losses))


def joint_report(reports: Sequence[FitReport]) -> FitReport:
    """Return one report for the members' fits: mean losses of the passes that all members ran, each warning once."""
    if len(reports) == 1:
        return reports[0]
    least = min(report.epochs for report in reports)
    losses, val_losses = (
        tuple(np.mean([getattr(report, name)[:least] for report in reports], axis=0).tolist())
        for name in ("losses", "val_losses")
    )
    said: dict[str, list[int]] = {}
    for index, report in enumerate(reports):
        for warning in report.warnings:
            said.setdefault(warning, []).append(index + 1)
    of = len(reports)
    warnings = tuple(f"member {', '.join(map(str, who))} of {of}: {what}" for what, who in said.items())
    best = min(least, round(sum(report.best_epoch for report in reports) / of))
    first = max(report.first_choice for report in reports)
    return FitReport(least, best, losses, val_losses, first, warnings)


def check_finite(epoch: int, loss: float, config: TrainConfig) -> None:
    """Raise DataError when the loss of an epoch is not finite."""
    if not math.isfinite(loss):
        raise DataError(
            f"training diverged in epoch {epoch}: the loss is no longer a finite number; "
            f"lower train.learning_rate (now {config.learning_rate:g}) or set features.clip"
        )


@torch.no_grad()
def _validate(loss: Loss, x: Tensor, config: TrainConfig) -> float:
    draws = torch.Generator().manual_seed(config.seed)
    # large chunks: only a mean is computed, so memory is the only limit
    parts = [float(loss(chunk, draws)) * len(chunk) for chunk in torch.split(x, max(config.batch, 4096))]
    return sum(parts) / len(x)
