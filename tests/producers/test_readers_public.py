"""Readers on the public recordings, where they lie beside the repository."""

from __future__ import annotations

import numpy as np

from stream_detector.datasets import read
from tests.producers import files


def test_skab_files_are_read_whole():
    """Every file of valve1: eight channels, labels on all rows."""
    recordings = read(files.real("skab"), "skab")
    by_asset = {recording.asset: recording for recording in recordings}
    assert len(by_asset) == 21
    assert (len(by_asset["anomaly-free"]), len(by_asset["anomaly-free"].channels), None) == (9405, 8, None)
    first = by_asset["valve1-0"]
    assert (len(first), int(first.labels.sum()), int(first.marks["changepoint"].sum())) == (1147, 401, 4)
    assert [first.values["Accelerometer1RMS"][0], first.values["Volume Flow RateRMS"][0]] == [0.0265878, 32.0]
    assert all(np.isfinite(column).all() for recording in recordings for column in recording.values.values())


def test_nab_series_have_their_windows():
    """Each series is labelled by the benchmark's own windows."""
    by_asset = {recording.asset: recording for recording in read(files.real("nab"), "nab")}
    assert len(by_asset) == 21
    assert (
        len(by_asset["ambient_temperature_system_failure"]),
        len(by_asset["ambient_temperature_system_failure"].faults),
        int(by_asset["ambient_temperature_system_failure"].labels.sum()),
    ) == (7267, 2, 726)
    assert by_asset["art_flatline"].labels.sum() == 0


def test_cwru_recordings_become_blocks():
    """Rates and labels are the index's, and no sample is lost."""
    by_asset = {recording.asset: recording for recording in read(files.real("cwru"), "cwru")}
    normal, inner = by_asset["1797_Normal"], by_asset["1797_IR_7_DE12"]
    assert (sum(map(len, normal.blocks["DE"])), sum(map(len, inner.blocks["BA"]))) == (243_938, 121_265)
    assert (normal.interval_ms, set(normal.labels.tolist())) == (1 / 48, {0})
    assert (inner.interval_ms, set(inner.labels.tolist())) == (1 / 12, {1})


def test_femto_run_to_failure_is_one_asset():
    """230 blocks of 2,560 samples every 10 s, 37 minutes of temperature among them."""
    (bearing,) = read(files.real("femto-pronostia"), "femto")
    waves = [row for row, block in enumerate(bearing.blocks["vertical"]) if block is not None]
    lengths = {len(bearing.blocks["vertical"][row]) for row in waves}
    assert (bearing.asset, len(waves), lengths) == ("Bearing2_7", 230, {2_560})
    np.testing.assert_allclose(10_000, np.diff(bearing.ts_ms[waves]), atol=1)
    heat = bearing.values["temperature"][np.isfinite(bearing.values["temperature"])]
    assert len(heat) == len(bearing) - 230
    assert (np.diff(bearing.ts_ms) >= 0).all()


def test_smap_msl_channels_have_their_anomalies():
    """Every channel here is labelled; training rows come first."""
    by_asset = {recording.asset: recording for recording in read(files.real("smap_msl"), "smap-msl")}
    first = by_asset["M-1"]
    assert (len(by_asset), len(first), int(first.marks["training"].sum()), int(first.labels.sum())) == (
        27,
        4_486,
        2_209,
        1_141,
    )


def test_ucr_series_have_their_anomaly():
    """The names' figures are found again."""
    by_asset = {recording.asset[:3]: recording for recording in read(files.real("ucr"), "ucr")}
    assert [(len(one), int(one.labels.sum())) for one in by_asset.values()] == [(7_501, 13), (7_500, 112)]


def test_record_streams_are_read_whole():
    """Connections and transactions, as many as published, attacks as labels."""
    test = {recording.asset: recording for recording in read(files.real("nsl-kdd"), "nsl-kdd")}["KDDTest+"]
    assert (len(test), int(test.labels.sum())) == (22_544, 12_833)
    (cards,) = read(files.real("creditcard"), "creditcard")
    assert (len(cards), int(cards.labels.sum())) == (7_382, 492)
    assert (np.diff(cards.ts_ms) > 0).all()
