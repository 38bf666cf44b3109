"""Classifier: the odds that a window is one of the labelled faults.

    h = f(x),  ℓ = v·g(h) + a                               f: a body (bodies.py), ℓ: log-odds of "faulty"
    loss  = mean of w_y · (log(1 + e^ℓ) − y·ℓ),             w_y = n / (2 n_y), or w₁ = fault_weight · w₀
    score = log₂(1 + e^u),   u = (ℓ − ℓ₅₀) / (ℓ₉₅ − ℓ₅₀)

y is 1 for faulty windows; n₀, n₁ count the normal and the faulty training windows, so that by default both kinds have
the same total weight however rare faults are. In training, Gaussian noise of `noise` spreads is added to the input, so
that differences smaller than the noise are not learnt.

A probability is bounded by 1, and a confident network gives 1 for every anomalous window: thresholds, margins and
shares of a peak would not work on it. Log-odds are unbounded, but negative for normal windows. ℓ₅₀ and ℓ₉₅ are their
median and 95 % quantile on normal training windows: the score is 1 for a usual window, 1.9 for the one in twenty
normal windows with the highest log-odds, and above that it is proportional to the log-odds. It orders windows as the
probability does.

Its response to kinds of faults it was not trained on is undefined: see docs/labels.md.
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
    """A network's log-odds of "faulty", in units of their variation among normal windows."""

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
