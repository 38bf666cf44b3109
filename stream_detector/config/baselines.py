"""The settings of the baseline detectors: statistics, distances, clusters, trees."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from stream_detector.config.base import Section

_NAMED = ConfigDict(json_schema_extra={"required": ["kind"]})


class RobustZConfig(Section):
    """Control charts of each channel by itself: how far from its median, in robust deviations."""

    model_config = _NAMED

    kind: Literal["robust-z"] = "robust-z"
    """Family of the detector."""
    chart: Literal["last", "ewma", "cusum"] = "last"
    """What is charted over the window: `last`: its last cell; `ewma`: an exponential moving average; `cusum`: the sum
    of what exceeds `drift`, upwards and downwards."""
    weight: float = Field(default=0.2, gt=0, le=1)
    """`ewma` only: weight of the newest cell."""
    drift: float = Field(default=0.5, ge=0)
    """`cusum` only: deviations a cell may be off before it counts; half the shift to be found."""


class MahalanobisConfig(Section):
    """Distance from the mean in units of the covariance: sees channels that no longer go together."""

    model_config = _NAMED

    kind: Literal["mahalanobis"] = "mahalanobis"
    """Family of the detector."""


class PCAConfig(Section):
    """Principal components: Hotelling's T² within them plus Q, the squared rest outside."""

    model_config = _NAMED

    kind: Literal["pca"] = "pca"
    """Family of the detector."""
    variance: float = Field(default=0.9, gt=0, lt=1)
    """Share of the training variance that the components kept explain."""


class GMMConfig(Section):
    """Mixture of Gaussians: for machines that run in several states."""

    model_config = _NAMED

    kind: Literal["gmm"] = "gmm"
    """Family of the detector."""
    clusters: int = Field(default=4, ge=1, le=256)
    """Gaussians; fewer when there are fewer than ten training windows for each."""
    covariance: Literal["full", "diag"] = "full"
    """`full`: channels of a cluster may go together; `diag`: they don't, for wide inputs and little data."""


class KNNConfig(Section):
    """Distance to the nearest training windows."""

    model_config = _NAMED

    kind: Literal["knn"] = "knn"
    """Family of the detector."""
    neighbours: int = Field(default=5, ge=1, le=100)
    """Training windows the distance is averaged over."""
    references: int = Field(default=2000, ge=10, le=100_000)
    """Most training windows kept, evenly spaced in time; they make up the artifact's size."""


class IsolationForestConfig(Section):
    """Random trees: what few cuts isolate is strange."""

    model_config = _NAMED

    kind: Literal["isolation-forest"] = "isolation-forest"
    """Family of the detector."""
    trees: int = Field(default=100, ge=1, le=1000)
    """Trees."""
    sample: int = Field(default=256, ge=2, le=4096)
    """Training windows each tree is grown from."""


class HalfSpaceTreesConfig(Section):
    """Half-space trees, learnt online: random cuts of the value range; where few windows fell is strange."""

    model_config = _NAMED

    kind: Literal["half-space-trees"] = "half-space-trees"
    """Family of the detector."""
    trees: int = Field(default=25, ge=1, le=500)
    """Trees."""
    height: int = Field(default=8, ge=1, le=14)
    """Cuts from root to leaf."""
    sample: int = Field(default=1000, ge=10)
    """Training windows that the mass is counted over: the last so many, or all if there are fewer."""


class LODAConfig(Section):
    """Histograms of random projections, learnt online: score = mean of -log density."""

    model_config = _NAMED

    kind: Literal["loda"] = "loda"
    """Family of the detector."""
    projections: int = Field(default=100, ge=1, le=2000)
    """Random projections, each of about the root of the inputs."""
    bins: int = Field(default=10, ge=4, le=512)
    """Most bins of a histogram."""


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
