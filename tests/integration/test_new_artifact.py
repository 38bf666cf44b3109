"""Another artifact is deployed: assets start from its calibration, and everybody who should know it is told."""

from __future__ import annotations

import pytest
import yaml

from tests.integration.site import DETECTOR, call, until

pytestmark = pytest.mark.slow


def test_assets_start_from_the_calibration_of_a_new_artifact(make_site, material, tmp_path):
    """Stop, replace the artifact, start: levels, audit trail, log and metric say so; the way back is shut."""
    site = make_site(partitions=1)
    first = site.worker()
    site.replay(material.files[3:4], 60, "--loop", "forever")
    until(site.read_up_to, "an asset is judged", alive=first)
    asset = site.thresholds("list")[0]["asset"]
    assert "new-model" not in [one["cause"] for one in site.thresholds("history", asset)]
    before = site.thresholds("show", asset)
    assert first.stop() == 0, first.said()

    setup = yaml.safe_load(site.config_path.read_text())
    setup |= {"model": {"kind": "robust-z"}, "artifact": str(tmp_path / "another.safetensors")}
    site.config_path.write_text(yaml.safe_dump(setup))
    call(DETECTOR, "train", site.config_path, "--data", *material.files, "--rows", 720, "--quiet")
    second = site.worker()
    until(lambda: second.metric("model_changes_total") == 1, "the worker counts it", alive=second)
    until(lambda: site.thresholds("show", asset)["model"] != before["model"], "it judges", alive=second)
    told = site.thresholds("history", asset)
    [new] = [one for one in told if one["cause"] == "new-model"]
    assert (new["before"]["seen"], new["model"]) != (new["after"]["seen"], before["model"])
    assert new["model"] == site.thresholds("show", asset)["model"]
    assert "another model judges 1 of 1 assets by now" in second.said()
    said = call(DETECTOR, "thresholds", "rollback", site.config_path, asset, "--to", told[0]["id"][:8], status=2)
    assert said == ""
    assert second.stop() == 0, second.said()
