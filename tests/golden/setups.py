"""The configurations of the golden cases. They are fixed: configs/*.yaml may change, these may not.

A stored artifact fits the channels, window and features beside which it was trained.
"""

from __future__ import annotations

from typing import Any

Setup = dict[str, Any]

SKAB: Setup = {
    "stream": "skab",
    "channels": {
        "Accelerometer1RMS": {"unit": "g"},
        "Accelerometer2RMS": {"unit": "g"},
        "Current": {"unit": "A"},
        "Pressure": {"unit": "bar"},
        "Temperature": {"unit": "°C"},
        "Thermocouple": {"unit": "°C"},
        "Voltage": {"unit": "V"},
        "Volume Flow RateRMS": {"unit": "l/min"},
    },
    "window": {"cell_ms": 1_000, "length": 60, "stride": 1, "max_gap_ms": 300_000},
    "features": {"smoothing": 0.1, "keep": 1, "scaling": "robust"},
    "model": {"kind": "ae", "hidden": [16], "latent": 3},
    "train": {"epochs": 40, "learning_rate": 2e-3},
    "adaptation": {"follow": None, "block": 40, "flat_ms": 600_000},
    "sensors": {"check": False},
}

WAVEFORMS: Setup = {
    "stream": "bearings",
    "channels": {
        "horizontal": {
            "unit": "g",
            "cell": "waveform",
            "features": ["rms", "kurtosis"],
            "bands": 4,
            "valid": [-200, 200],
        },
        "vertical": {
            "unit": "g",
            "cell": "waveform",
            "features": ["rms", "peak", "crest", "kurtosis"],
            "valid": [-200, 200],
        },
        "temperature": {"unit": "°C", "valid": [-60, 300]},
    },
    "window": {"cell_ms": 10_000, "length": 6, "stride": 1, "max_gap_ms": 60_000},
    "features": {"smoothing": 0.3, "keep": 1},
    "model": {"kind": "ae", "hidden": [16], "latent": 3},
    "train": {"epochs": 60},
    "threshold": {"method": "quantile", "risk": 1e-3, "margin": 3},
    "incident": {"open_after": 3, "open_of": 4, "close_after": 6},
}

RECORDS: Setup = {
    "stream": "cards",
    "channels": {
        "amount": {"cell": "last", "unit": "€", "log": True},
        "age": {"cell": "last", "valid": [0, 120]},
        "speed": {"cell": "last"},
        "shop": {"kind": "category", "cell": "last"},
        "place": {"kind": "category", "cell": "last", "encoding": "hash", "buckets": 8},
    },
    "window": {"mode": "records", "length": 1},
    "features": {"scaling": "standard", "clip": 10},
    "model": {"kind": "vae", "hidden": [16], "latent": 4},
    "train": {"epochs": 25},
    "threshold": {"method": "quantile", "risk": 1e-2, "margin": 1, "learn_after": 0},
    "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
}

SUITES: Setup = {
    "stream": "simulated",
    "channels": {
        "vibration": {"unit": "g", "valid": [0, 200]},
        "temperature": {"unit": "°C", "valid": [-60, 300]},
        "current": {"unit": "A", "valid": [0, 2000]},
        "speed": {"unit": "rpm", "valid": [0, 10000]},
    },
    "window": {
        "cell_ms": 120_000,
        "length": 5,
        "stride": 1,
        "lateness_ms": 0,
        "max_gap_ms": 600_000,
        "max_ahead_ms": 600_000,
    },
    "features": {"smoothing": 0.3, "keep": 1},
    "model": {"kind": "mahalanobis"},
    "threshold": {"method": "spot", "risk": 1e-4, "margin": 4},
    "incident": {"open_after": 2, "open_of": 3, "close_after": 10, "point_windows": 10},
    "sensors": {"silent_after_ms": 1_800_000},
}

CHAOS: Setup = {
    "stream": "chaos",
    "channels": {
        "vibration": {"unit": "g"},
        "temperature": {"valid": [-50, 500]},
        "current": {"unit": "A", "valid": [-10, 100]},
    },
    "window": {"cell_ms": 1_000, "length": 20, "stride": 2, "lateness_ms": 2_000, "max_ahead_ms": 20_000},
    "features": {"smoothing": 0.3, "keep": 1},
    "model": {"kind": "ae", "hidden": [8], "latent": 2},
    "train": {"epochs": 30},
    "threshold": {"method": "spot", "learn_after": 5, "max_peaks": 40, "budget": {"incidents": 600, "per": "day"}},
    "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
    "adaptation": {"follow": 4.0, "block": 8, "flat_ms": 120_000, "policy": "adapt"},
}

CHAOS_RECORDS: Setup = {
    "stream": "chaos-records",
    "channels": {
        "vibration": {"cell": "last", "log": True},
        "temperature": {"cell": "last", "valid": [-50, 500]},
        "current": {"cell": "last", "valid": [-10, 100]},
        "mode": {"kind": "category", "cell": "last"},
    },
    "window": {"mode": "records", "length": 1, "max_ahead_ms": 20_000},
    "features": {"scaling": "standard", "clip": 10},
    "model": {"kind": "ae", "hidden": [8], "latent": 2},
    "train": {"epochs": 15},
    "threshold": {"method": "spot", "risk": 1e-2, "learn_after": 5, "max_peaks": 40},
    "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
}

#: The fleet of the policies; their sections `threshold`, `incident`, `adaptation`, `sensors` are in policies.py.
FLEET: Setup = {
    "stream": "fleet",
    "channels": {
        "vibration": {"unit": "g"},
        "temperature": {"unit": "°C", "valid": [-60, 300]},
        "current": {"unit": "A", "valid": [0, 40]},
    },
    "window": {"cell_ms": 10_000, "length": 6, "stride": 1, "lateness_ms": 20_000, "max_gap_ms": 60_000},
    "features": {"smoothing": 0.3, "keep": 1, "clip": None},
    "model": {"kind": "mahalanobis"},
}

JOINED: Setup = {**FLEET, "stream": "joined", "kafka": {"inputs": [{"topic": "shaking"}, {"topic": "electric"}]}}
