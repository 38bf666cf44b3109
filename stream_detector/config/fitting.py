"""The settings of fitting and scoring."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from stream_detector.config.base import Section


class TrainConfig(Section):
    """How a detector is fitted."""

    epochs: int = Field(default=60, ge=1)
    """Most passes over the training part."""
    batch: int = Field(default=64, ge=1)
    """Windows in a gradient step."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Step size of Adam."""
    patience: int = Field(default=10, ge=1)
    """Stop after so many epochs without a better loss on the held-out tail."""
    holdout: float = Field(default=0.25, gt=0, lt=1)
    """Share of the history, at its end, kept out of the fit: for early stopping and calibration."""
    folds: int = Field(default=0, ge=0, le=10)
    """Cross-fitting, for short histories (up to some thousand windows). Instead of a tail held out, each asset's
    history is cut into so many blocks; one network is trained without each two of them, their scores are averaged,
    and each block is calibrated by those that never saw it. 5 makes ten networks. 0: a tail is held out."""
    members: int = Field(default=1, ge=1, le=20)
    """`ae`, `vae`, `gan`: so many networks, each from other initial weights, share the judging, and their mean is the
    score: what one seed does by luck cancels out. It costs as many trainings. With `folds` so many for each two blocks
    left out. Other families stay one."""
    short_history: Literal["refuse", "leave-out", "shared"] = "refuse"
    """`train --per-asset` into one file: what becomes of an asset whose history is too short for a detector of its own.
    `refuse`: training fails and names it; `leave-out`: it has none and is not judged; `shared`: a detector trained on
    all assets serves it, and every asset that training never saw."""
    seed: int = 0
    """Seed of initial weights and shuffling."""

    @field_validator("folds")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value in (1, 2):
            raise ValueError(f"must be 0 or at least 3, so that something is left to train on, got {value}")
        return value


class ScorerConfig(Section):
    """Batching and the device."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is a device."""
    precision: Literal["float64", "float32"] = "float64"
    """Arithmetic of the model. float64 makes scores independent of how windows were batched."""
    max_batch: int = Field(default=512, ge=1)
    """Most windows in one forward pass."""
    max_wait_ms: float = Field(default=50.0, ge=0)
    """Longest a window waits for others to share its batch."""
    max_waiting_mb: float = Field(default=64.0, gt=0)
    """Windows that may wait to be scored, MiB; while they are more nothing is read."""
    compile: bool = False
    """Compile the model (torch.compile, CUDA graphs where there are any); batches are padded to few sizes."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one worker."""
