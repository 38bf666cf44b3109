"""Classifier: the odds that a window is one of the faults that were labelled.

    h = f(x),  ℓ = v·g(h) + a                               f: a body (bodies.py), ℓ: log-odds of "faulty"
    loss  = mean of w_y · (log(1 + e^ℓ) − y·ℓ),             w_y = n / (2 n_y), or w₁ = fault_weight · w₀
    score = log₂(1 + e^u),   u = (ℓ − ℓ₅₀) / (ℓ₉₅ − ℓ₅₀)

y is 1 for faulty windows; n₀, n₁ are the training windows of either kind, so that by default both weigh the same
however rare faults are. In training Gaussian noise of `noise` spreads is added to the input: what is decided by less
than that is not learnt.

A probability ends at 1, and a network sure of itself says 1 of everything strange: no level, margin or share of a peak
could be asked of it. Log-odds have no end, but are negative for all that is normal. ℓ₅₀ and ℓ₉₅ are their median and
95 % quantile on normal training windows: the score is 1 for what is usual, 1.9 for what one normal window in twenty
reaches, and rises in proportion to the log-odds from there. It orders windows as the probability does.

It knows the faults it was shown, and nothing says what it makes of others: see docs/labels.md.
Source: logistic loss and weights against rare events: King & Zeng, "Logistic regression in rare events data", Political
Analysis 9, 2001; noise as regularisation: Bishop, "Training with noise is equivalent to Tikhonov regularization",
Neural Computation 7, 1995.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stream_detector.config import TrainConfig
from stream_detector.config.model import ClassifierConfig
from stream_detector.models.fitting import FitReport, Progress
from stream_detector.models.labelled import Labelled

#: Lowest u: below it the score would be rounded to nothing.
LOWEST = -30.0


class Classifier(Labelled):
    """A network's log-odds of "faulty", in steps of what varies among normal windows."""

    kind = "classifier"
    middle: Tensor
    step: Tensor

    def __init__(self, config: ClassifierConfig, length: int, features: int) -> None:
        """Build for windows (B, length, features)."""
        super().__init__(config, length, features)
        self.head = nn.Sequential(nn.ELU(), nn.Linear(config.latent, 1))
        self.fault_weight, self.noise = config.fault_weight, config.noise
        self.register_buffer("middle", torch.zeros(()))  # ℓ₅₀
        self.register_buffer("step", torch.ones(()))  # ℓ₉₅ − ℓ₅₀

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-odds ℓ, (B, T, F) -> (B,)."""
        logit: Tensor = self.head(self.body(x))[:, 0]
        return logit

    def raw(self, x: Tensor) -> Tensor:
        """Return u, (B, T, F) -> (B,)."""
        u: Tensor = (self(x) - self.middle) / self.step
        return u

    def scaled(self, raw: Tensor) -> Tensor:
        """Return log₂(1 + e^u)."""
        return nn.functional.softplus(raw.clamp_min(LOWEST)) / torch.log(raw.new_tensor(2.0))

    def fit_labelled(
        self,
        x_train: Tensor,
        faulty_train: Tensor,
        x_val: Tensor,
        faulty_val: Tensor,
        config: TrainConfig,
        *,
        progress: Progress | None = None,
    ) -> FitReport:
        """Minimise the weighted logistic loss; see Labelled."""
        count, faults = len(x_train), int(faulty_train.sum())
        rest = count - faults
        ratio = rest / faults if self.fault_weight is None else self.fault_weight  # w₁ / w₀
        unit = count / (rest + ratio * faults)  # so that weights have a mean of 1

        def loss(x: Tensor, faulty: Tensor, generator: torch.Generator) -> Tensor:
            if self.noise and self.training:
                x = x + self.noise * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            weight = unit * (1.0 + (ratio - 1.0) * faulty)
            return nn.functional.binary_cross_entropy_with_logits(self(x), faulty, weight)

        report = self.minimise(loss, x_train, faulty_train, x_val, faulty_val, config=config, progress=progress)
        with torch.no_grad():
            normal = x_train[~faulty_train]
            self.learn_usual(normal)
            found = self.of_all(self, normal).double()
            middle, high = found.quantile(0.5), found.quantile(0.95)
            self.middle.copy_(middle)
            self.step.copy_(torch.where(high > middle, high - middle, 1.0))
        return report
