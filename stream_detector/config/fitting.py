"""The settings of training and scoring."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from stream_detector.config.base import Section


class TrainConfig(Section):
    """How a detector is trained."""

    epochs: int = Field(default=60, ge=1)
    """Most passes over the training part. Raise it if the loss still falls at the end."""
    batch: int = Field(default=64, ge=1)
    """Number of windows in a gradient step. Raise it to train faster on long histories."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Step size of the Adam optimiser. Lower it if the loss is unstable."""
    patience: int = Field(default=10, ge=1)
    """Number of epochs without a better loss on the held-out tail after which training stops."""
    holdout: float = Field(default=0.25, gt=0, lt=1)
    """Share of the history, at its end, that is kept out of the fit for early stopping and calibration. For short
    histories use `folds` instead."""
    folds: int = Field(default=0, ge=0, le=10)
    """Number of blocks for cross-fitting, for short histories (up to some thousand windows). Instead of holding a tail
    out, each asset's history is cut into this number of blocks; one network is trained without each pair of them, their
    mean is the score, and each block is calibrated by the networks that never saw it. 5 makes ten networks. 0: a tail
    is held out."""
    members: int = Field(default=1, ge=1, le=20)
    """`ae`, `vae`, `gan`: number of networks, each from other initial weights, whose mean is the score, which averages
    out the luck of one seed. It costs as many trainings. With `folds` it is the number for each pair of blocks left
    out. Other families train one."""
    short_history: Literal["refuse", "leave-out", "shared"] = "refuse"
    """`train --per-asset` into one file: what happens to an asset whose history is too short for a detector of its own.
    `refuse`: training fails and names it; `leave-out`: it has no detector and is not judged; `shared`: a detector
    trained on all assets serves it, and every asset that training never saw."""
    seed: int = 0
    """Seed of initial weights and shuffling. Change it to see how much results depend on it."""

    @field_validator("folds")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value in (1, 2):
            raise ValueError(f"must be 0 or at least 3, so that blocks are left to train on, got {value}")
        return value


class ScorerConfig(Section):
    """Batching of windows, and the device that scores them."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto` uses CUDA if there is a device."""
    precision: Literal["float64", "float32"] = "float64"
    """Arithmetic of the model. `float64` makes scores independent of how windows were batched; with `float32`, which is
    faster, replays may differ in the last digit."""
    max_batch: int = Field(default=512, ge=1)
    """Most windows in one forward pass. Lower it if the device runs out of memory."""
    max_wait_ms: float = Field(default=50.0, ge=0)
    """Longest time, ms, that a window waits for others to share its batch. Lower it for faster alerts, raise it for
    fuller batches."""
    max_waiting_mb: float = Field(default=64.0, gt=0)
    """Windows that may wait to be scored, MiB; above this nothing more is read. Lower it where memory is short."""
    compile: bool = False
    """Whether to compile the model (torch.compile, with CUDA graphs if available); batches are padded to a few sizes.
    Set it for large models, where it outweighs the slower start."""
    threads: int = Field(default=1, ge=1)
    """Number of CPU threads of one worker. Raise it only if cores would be idle otherwise."""
