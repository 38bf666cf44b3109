"""Common part of NSL-KDD and KDD Cup 99: the 41 fields of a network connection and the names of the attacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.options import ReadOptions
from stream_detector.datasets.recording import Fault, Recording
from stream_detector.datasets.records import Columns

FIELDS = (
    "duration",
    "protocol_type",
    "service",
    "flag",
    "src_bytes",
    "dst_bytes",
    "land",
    "wrong_fragment",
    "urgent",
    "hot",
    "num_failed_logins",
    "logged_in",
    "num_compromised",
    "root_shell",
    "su_attempted",
    "num_root",
    "num_file_creations",
    "num_shells",
    "num_access_files",
    "num_outbound_cmds",
    "is_host_login",
    "is_guest_login",
    "count",
    "srv_count",
    "serror_rate",
    "srv_serror_rate",
    "rerror_rate",
    "srv_rerror_rate",
    "same_srv_rate",
    "diff_srv_rate",
    "srv_diff_host_rate",
    "dst_host_count",
    "dst_host_srv_count",
    "dst_host_same_srv_rate",
    "dst_host_diff_srv_rate",
    "dst_host_same_src_port_rate",
    "dst_host_srv_diff_host_rate",
    "dst_host_serror_rate",
    "dst_host_srv_serror_rate",
    "dst_host_rerror_rate",
    "dst_host_srv_rerror_rate",
)
CATEGORIES = ("protocol_type", "service", "flag")

_ATTACKS = {
    "dos": "apache2 back land mailbomb neptune pod processtable smurf teardrop udpstorm",
    "probe": "ipsweep mscan nmap portsweep saint satan",
    "r2l": "ftp_write guess_passwd imap multihop named phf sendmail snmpgetattack snmpguess spy warezclient "
    "warezmaster worm xlock xsnoop",
    "u2r": "buffer_overflow httptunnel loadmodule perl ps rootkit sqlattack xterm",
}
#: Attack -> category; attacks that are not listed have the category `unknown`.
CATEGORY: Mapping[str, str] = {
    "normal": "normal",
    **{attack: category for category, names in _ATTACKS.items() for attack in names.split()},
}
#: Records have no time: they are placed one second apart.
STEP_MS = 1_000.0


def recording(path: Path, asset: str, options: ReadOptions, columns: Columns) -> Recording:
    """Return the connections in the order of the file; name and category of the attack are details, never sent."""
    attack: NDArray[Any] = np.array([name.rstrip(".") for name in columns["label"]], dtype=object)
    ts_ms = options.start_ms + STEP_MS * np.arange(len(attack), dtype=np.float64)
    return Recording(
        asset=asset,
        ts_ms=ts_ms,
        values={name: columns[name] for name in options.choose(FIELDS, str(path))},
        labels=(attack != "normal").astype(np.int8),
        faults=_faults(ts_ms, attack),
        details={
            "attack": attack,
            "category": np.array([CATEGORY.get(name, "unknown") for name in attack], dtype=object),
        },
        source=str(path),
    )


def _faults(ts_ms: NDArray[np.float64], attack: NDArray[Any]) -> list[Fault]:
    """Return one fault for each run of consecutive rows with the same attack."""
    edges = np.flatnonzero(np.concatenate([[True], attack[1:] != attack[:-1]])).tolist()
    stops = [*edges[1:], len(attack)]
    return [
        Fault(float(ts_ms[start]), float(ts_ms[stop - 1]), str(attack[start]))
        for start, stop in zip(edges, stops, strict=True)
        if attack[start] != "normal"
    ]
