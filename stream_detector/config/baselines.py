"""The settings of the baseline detectors: statistics, distances, clusters, trees."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from stream_detector.config.base import Section

_NAMED = ConfigDict(json_schema_extra={"required": ["kind"]})


class RobustZConfig(Section):
    """Control chart of each channel by itself: how far it is from its median, in robust deviations."""

    model_config = _NAMED

    kind: Literal["robust-z"] = "robust-z"
    """Name of the detector family, which chooses this section."""
    chart: Literal["last", "ewma", "cusum"] = "last"
    """What is charted over the window. `last`: its last cell; `ewma`: an exponential moving average, for small shifts;
    `cusum`: the sum of what exceeds `drift`, upwards and downwards, for small lasting shifts."""
    weight: float = Field(default=0.2, gt=0, le=1)
    """`ewma` only: weight of the newest cell; a smaller weight detects smaller shifts, but later."""
    drift: float = Field(default=0.5, ge=0)
    """`cusum` only: deviation that a cell may have before it counts. Set it to half the shift to be found."""


class MahalanobisConfig(Section):
    """Distance from the mean in units of the covariance: detects channels that stop moving together."""

    model_config = _NAMED

    kind: Literal["mahalanobis"] = "mahalanobis"
    """Name of the detector family, which chooses this section."""


class PCAConfig(Section):
    """Principal components: Hotelling's T² within them plus Q, the squared residual outside."""

    model_config = _NAMED

    kind: Literal["pca"] = "pca"
    """Name of the detector family, which chooses this section."""
    variance: float = Field(default=0.9, gt=0, lt=1)
    """Share of the training variance that the kept components explain. Raise it to keep more components."""


class GMMConfig(Section):
    """Mixture of Gaussians, for machines that run in several states."""

    model_config = _NAMED

    kind: Literal["gmm"] = "gmm"
    """Name of the detector family, which chooses this section."""
    clusters: int = Field(default=4, ge=1, le=256)
    """Number of Gaussians; fewer are used if there are fewer than ten training windows for each. Raise it with the
    number of the machine's states."""
    covariance: Literal["full", "diag"] = "full"
    """`full`: channels of a cluster may be correlated; `diag`: they are treated as uncorrelated, for wide inputs and
    little data."""


class KNNConfig(Section):
    """Distance to the nearest training windows."""

    model_config = _NAMED

    kind: Literal["knn"] = "knn"
    """Name of the detector family, which chooses this section."""
    neighbours: int = Field(default=5, ge=1, le=100)
    """Number of nearest training windows that the distance is averaged over. Raise it if single odd training windows
    hide faults."""
    references: int = Field(default=2000, ge=10, le=100_000)
    """Most training windows kept, evenly spaced in time. They determine the artifact's size; lower it for a smaller
    artifact and faster scoring."""


class IsolationForestConfig(Section):
    """Isolation forest: windows that few random cuts isolate score high."""

    model_config = _NAMED

    kind: Literal["isolation-forest"] = "isolation-forest"
    """Name of the detector family, which chooses this section."""
    trees: int = Field(default=100, ge=1, le=1000)
    """Number of trees; more make scores steadier and scoring slower."""
    sample: int = Field(default=256, ge=2, le=4096)
    """Number of training windows that each tree is grown from. Raise it where normal behaviour is varied."""


class HalfSpaceTreesConfig(Section):
    """Half-space trees, learnt online: windows where few training windows fell, under random cuts of the value range,
    score high."""

    model_config = _NAMED

    kind: Literal["half-space-trees"] = "half-space-trees"
    """Name of the detector family, which chooses this section."""
    trees: int = Field(default=25, ge=1, le=500)
    """Number of trees; more make scores steadier and scoring slower."""
    height: int = Field(default=8, ge=1, le=14)
    """Number of cuts from root to leaf; more cuts make smaller regions, which need more training windows."""
    sample: int = Field(default=1000, ge=10)
    """Number of training windows, from the end of the history, that the mass is counted over; all if there are
    fewer."""


class LODAConfig(Section):
    """Histograms of random projections, learnt online: the score is the mean of -log density."""

    model_config = _NAMED

    kind: Literal["loda"] = "loda"
    """Name of the detector family, which chooses this section."""
    projections: int = Field(default=100, ge=1, le=2000)
    """Number of random projections, each of about the square root of the inputs; more make scores steadier and scoring
    slower."""
    bins: int = Field(default=10, ge=4, le=512)
    """Most bins of a histogram; fewer suit little training data."""


BaselineConfig = (
    RobustZConfig
    | MahalanobisConfig
    | PCAConfig
    | GMMConfig
    | KNNConfig
    | IsolationForestConfig
    | HalfSpaceTreesConfig
    | LODAConfig
)
