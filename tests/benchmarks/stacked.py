"""What a fleet of per-asset detectors gains by being trained and scored side by side.

    python -m tests.benchmarks.stacked --json [--assets 1000] [--kinds ae,vae] [--pairs 3]

Prints, for each kind, two ratios of one run, each the median of `pairs`:

- `train`: time to train all assets together over the time to train ten of them one after the other
- `score`: time to score one window of each asset, detector by detector, over the time to score them stacked
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from unittest import mock

from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.scoring import scorer
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train, train_many
from stream_detector.types import WindowBatch
from tests.trained import joined, make_config, windows

#: detection.md's recipe on three channels.
NETS: dict[str, dict[str, object]] = {
    "ae": {"kind": "ae", "hidden": [16], "latent": 3},
    "vae": {"kind": "vae", "hidden": [16], "latent": 4},
    "gan": {"kind": "gan", "hidden": [16], "latent": 4},
}
ROWS = 400
FEW = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=1000)
    parser.add_argument("--kinds", default="ae,vae")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found: dict[str, object] = {"assets": args.assets, "rows": ROWS, "epochs": args.epochs}
    for kind in args.kinds.split(","):
        found[kind] = measure(kind, args.assets, args.epochs, args.pairs)
    sys.stdout.write(json.dumps(found, indent=None if args.json else 2) + "\n")


def measure(kind: str, assets: int, epochs: int, pairs: int) -> dict[str, object]:
    """Return the two ratios of a kind of detector, and what they are made of."""
    config = make_config(model=NETS[kind], train={"epochs": epochs, "patience": epochs})
    histories = {f"a{index}": windows(ROWS, f"a{index}", seed=index) for index in range(assets)}
    some = list(histories)[:FEW]
    trained: dict[str, Artifact] = {}
    one_by_one, together, ratios = [], [], []
    for _ in range(pairs):
        one_by_one.append(clocked(lambda: [train(config, [histories[name]], assets=[name]) for name in some]))
        together.append(clocked(lambda: trained.update(train_many(config, histories.values()))))
        ratios.append(together[-1] / one_by_one[-1])
    return {
        "train": round(statistics.median(ratios), 2),
        "train_ratios": [round(ratio, 2) for ratio in ratios],
        "ten_one_by_one_s": round(statistics.median(one_by_one), 2),
        "all_together_s": round(statistics.median(together), 2),
        **scoring(config, trained, pairs),
    }


def scoring(config: Config, trained: dict[str, Artifact], pairs: int) -> dict[str, object]:
    """Return how much faster the fleet's windows are scored side by side."""
    models = ModelSet(by_asset=trained)
    stacked = Scorer(models, config.scorer)
    with mock.patch.object(scorer, "LARGEST_STACKED", 0):
        alone = Scorer(models, config.scorer)
    batch: WindowBatch = joined(*(windows(1, name, seed=index) for index, name in enumerate(trained)))
    ratios, best = [], []
    for _ in range(5 * pairs):
        slow, fast = clocked(lambda: alone.score(batch)), clocked(lambda: stacked.score(batch))
        ratios.append(slow / fast)
        best.append(len(batch) / fast)
    return {
        "score": round(statistics.median(ratios), 1),
        "score_ratios": [round(ratio, 1) for ratio in ratios],
        "windows_per_s": round(statistics.median(best)),
    }


def clocked(work: Callable[[], object]) -> float:
    """Return the seconds of this process's work, whatever else runs on the machine."""
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
