"""Recorded data by format: `read` turns files and folders into recordings.

Each format is one module of this package with a `Format`, listed in `FORMATS`. Other packages add formats through the
entry point group `stream_detector.readers`.

The asset is named after the file without its extension (FEMTO, IMS: after the folder). The folder's name is put before
it if the name has only digits or another file of the same call has the same name: `valve1/0.csv` is `valve1-0`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from stream_detector import plugins
from stream_detector.datasets import (
    creditcard,
    cwru,
    delimited,
    femto,
    ims,
    kdd99,
    nab,
    nsl_kdd,
    parquet,
    skab,
    smap_msl,
    ucr,
    yahoo_s5,
)
from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.times import TsUnit
from stream_detector.errors import DataError

FORMATS: dict[str, Format] = {
    "skab": skab.FORMAT,
    "nab": nab.FORMAT,
    "cwru": cwru.FORMAT,
    "femto": femto.FORMAT,
    "ims": ims.FORMAT,
    "smap-msl": smap_msl.FORMAT,
    "ucr": ucr.FORMAT,
    "yahoo-s5": yahoo_s5.FORMAT,
    "nsl-kdd": nsl_kdd.FORMAT,
    "kdd99": kdd99.FORMAT,
    "creditcard": creditcard.FORMAT,
    "csv": delimited.FORMAT,
    "parquet": parquet.FORMAT,
}

__all__ = ["FORMATS", "Format", "ReadOptions", "TsUnit", "format_names", "format_of", "read"]


def format_names() -> list[str]:
    """Return the names of all formats that `read` supports, including those of installed plug-ins."""
    return sorted({*FORMATS, *plugins.names("readers")})


def format_of(name: str) -> Format:
    """Return the format with this name, built in or from a plug-in. Raises DataError when there is none."""
    if (built_in := FORMATS.get(name)) is not None:
        return built_in
    try:
        found = plugins.load("readers", name)
    except KeyError:
        raise DataError(f"format {name!r} is not known; {plugins.expected('readers', FORMATS)}") from None
    if not isinstance(found, Format):
        raise DataError(f"format {name!r} of the package {plugins.origin('readers', name)}: {found!r} is not a Format")
    return found


def read(
    paths: Path | str | Iterable[Path | str],
    format: str,
    *,
    asset: str | None = None,
    ts_column: str | None = None,
    ts_unit: TsUnit | None = None,
    asset_column: str | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    rate_hz: float | None = None,
    block: int = 1_024,
    start_ms: float | None = None,
) -> list[Recording]:
    """Read recordings of one format; a folder means all its files of that format, in natural order (2 before 10).

    `asset` names the asset of a single file. Only the channels in `columns` are kept, if given. `rate_hz` and `block`
    (samples per message) are for waveforms; `start_ms` (UNIX ms) is the start of a recording without dates (FEMTO: any
    time on its first day). Raises DataError with the file, the place in it and the fix.
    """
    reader = format_of(format)
    options = ReadOptions(
        ts_column=ts_column,
        ts_unit=ts_unit,
        asset_column=asset_column,
        label_column=label_column,
        columns=None if columns is None else tuple(columns),
        rate_hz=rate_hz,
        block=block,
    )
    if start_ms is not None:
        options.start_ms = start_ms
    sources = _sources([paths] if isinstance(paths, (str, Path)) else list(paths), format, reader)
    if asset is not None and len(sources) > 1:
        raise DataError(f"one asset name ({asset!r}) for {len(sources)} files; leave it out to name each by its file")
    names = [asset] if asset is not None else _names(sources)
    return [
        recording
        for source, name in zip(sources, names, strict=True)
        for recording in reader.load(source, name, options)
    ]


def _sources(paths: Sequence[Path | str], format: str, reader: Format) -> list[Path]:
    """Expand folders; return every file once, in the given order."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        sources = reader.find(path)
        if not sources:
            raise DataError(f"{path}: nothing of format {format} in this folder; expected {reader.layout}")
        found.update(dict.fromkeys(sorted(sources, key=_natural)))
    if not found:
        raise DataError("no file was given")
    return list(found)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _names(sources: Sequence[Path]) -> list[str]:
    stems = [_stem(source) for source in sources]
    names = [
        f"{source.resolve().parent.name}-{stem}" if stem.isdecimal() or stems.count(stem) > 1 else stem
        for source, stem in zip(sources, stems, strict=True)
    ]
    for name, source in zip(names, sources, strict=True):
        if names.count(name) > 1:
            raise DataError(f"{source}: another file also gives the asset {name!r}; read it separately, with a name")
    return names


def _stem(source: Path) -> str:
    return source.name if source.is_dir() else source.name.removesuffix(".gz").rsplit(".", 1)[0]
