"""Plug-ins of other packages: detectors, threshold methods and readers, found by their entry points.

    [project.entry-points."stream_detector.detectors"]      model.kind -> settings class, which names the detector
    [project.entry-points."stream_detector.thresholds"]     threshold.method -> settings class, which names the method
    [project.entry-points."stream_detector.readers"]        --format -> `datasets.Format`

Names are listed without importing anything; a plug-in is imported when a configuration or an option names it. How to
write one: docs/library.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from stream_detector.errors import ConfigError

Group = Literal["detectors", "thresholds", "readers"]

#: Noun for an entry of each group, in messages.
NOUNS: Mapping[Group, str] = {"detectors": "detector", "thresholds": "threshold method", "readers": "format"}


@dataclass(frozen=True, slots=True)
class Origin:
    """The distribution that provides a plug-in."""

    name: str
    version: str

    def __str__(self) -> str:
        """Return name and version."""
        return f"{self.name} {self.version}"


def names(group: Group) -> list[str]:
    """Return the names that installed packages provide, sorted; nothing is imported."""
    return sorted({entry.name for entry in _entries(group)})


def expected(group: Group, built_in: Collection[str]) -> str:
    """Return the end of an error about an unknown name: the available names, and how to install more."""
    known = ", ".join(map(repr, [*built_in, *(name for name in names(group) if name not in built_in)]))
    return f"expected one of: {known}; a plug-in's {NOUNS[group]} needs its package installed: pip install PACKAGE"


def load(group: Group, name: str) -> Any:
    """Return what the entry point of this name refers to.

    Raises ConfigError naming the distribution when it can't be imported, or when two offer the name; KeyError when
    none does.
    """
    entry = _entry(group, name)
    return _imported(group, entry, entry.value)


def implementation(group: Group, name: str) -> Any:
    """Return the class that the settings class of this name gives as `implemented_by`; raises what `load` raises."""
    entry = _entry(group, name)
    return _imported(group, entry, _imported(group, entry, entry.value).implemented_by)


def origin(group: Group, name: str) -> Origin:
    """Return the distribution that offers this name; raises what `load` raises."""
    return _origin(_entry(group, name))


def _entry(group: Group, name: str) -> EntryPoint:
    found = {str(_origin(entry)): entry for entry in _entries(group) if entry.name == name}
    if len(found) > 1:
        raise ConfigError(f"the {NOUNS[group]} {name!r} is offered by {' and '.join(sorted(found))}; uninstall one")
    if not found:
        raise KeyError(name)
    return next(iter(found.values()))


def _entries(group: Group) -> Collection[EntryPoint]:
    return entry_points(group=f"stream_detector.{group}")


def _origin(entry: EntryPoint) -> Origin:
    return Origin("?", "?") if entry.dist is None else Origin(entry.dist.name, entry.dist.version)


def _imported(group: Group, entry: EntryPoint, path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        found = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # third-party code: any error means that it can't be used
        raise ConfigError(
            f"the {NOUNS[group]} {entry.name!r} of the package {_origin(entry)} can't be imported ({path}): "
            f"{type(error).__name__}: {error}; reinstall the package, or ask its authors"
        ) from error
    return found
