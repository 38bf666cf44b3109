"""Evaluation protocols of public data sets, one per file, listed in `PROTOCOLS`."""

from __future__ import annotations

from collections.abc import Mapping

from stream_detector.evaluate.protocols import cwru, femto, nab, plain, records, skab
from stream_detector.evaluate.protocols.base import Protocol, Request

__all__ = ["PROTOCOLS", "Protocol", "Request"]

PROTOCOLS: Mapping[str, Protocol] = {
    one.name: one
    for one in (
        skab.PROTOCOL,
        nab.PROTOCOL,
        plain.SMAP_MSL,
        cwru.PROTOCOL,
        femto.PROTOCOL,
        records.NSL_KDD,
        records.KDD99,
        records.CREDITCARD,
        plain.YAHOO_S5,
        plain.UCR,
        plain.CSV,
    )
}
