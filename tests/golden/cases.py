"""The golden cases by name: each runs a stored artifact over fixed messages and returns what was published and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from tests.golden import material, policies, setups
from tests.golden.logs import Lines, Logs
from tests.golden.runs import Sent, backtest, config_of, workers

Case = Callable[[], Logs]


class MissingError(Exception):
    """What a case needs is not here; the message says what."""


# Recorded and simulated streams -------------------------------------------------------------------------------------


def _skab() -> Logs:
    if not material.SKAB_FOLDER.is_dir():
        raise MissingError("the recordings are not here: skab/valve1 of ../shared/data")
    parts = [material.one_after_another([one]) for one in material.skab()]
    return backtest(config_of(setups.SKAB, "skab"), parts)


def _waveforms() -> Logs:
    parts = [material.one_after_another(material.waveforms(), msgpack_too=True)]
    return backtest(config_of(setups.WAVEFORMS, "waveforms"), parts)


def _records() -> Logs:
    return backtest(config_of(setups.RECORDS, "records"), [material.records()])


def _records_spot() -> Logs:
    config = config_of(
        setups.RECORDS,
        "records",
        threshold={"method": "spot", "risk": 1e-2, "learn_after": 20},
        incident={"open_after": 2, "open_of": 5, "close_after": 4},
    )
    return backtest(config, [material.records(seed=1)])


def _suite(name: str, **threshold: object) -> Case:
    def run() -> Logs:
        changes = {"threshold": {**setups.SUITES["threshold"], **threshold}} if threshold else {}
        config = config_of(setups.SUITES, f"suite-{name}", **changes)
        return workers([config], material.side_by_side(material.suite(name)[1]))

    return run


def _chaos(delivery: str) -> Case:
    def run() -> Logs:
        sent = material.with_bad(material.side_by_side(material.chaos(), material.CHAOS_PARTITIONS))
        config = config_of(setups.CHAOS, "chaos", delivery=delivery)
        # at least once: three workers, each taking over from the commit of the one before
        configs = [config] * (3 if delivery == "at_least_once" else 1)
        return workers(configs, sent, material.CHAOS_PARTITIONS)

    return run


def _chaos_records() -> Logs:
    sent = material.with_bad(material.side_by_side(material.chaos(records=True), material.CHAOS_PARTITIONS))
    return workers([config_of(setups.CHAOS_RECORDS, "chaos-records")] * 2, sent, material.CHAOS_PARTITIONS)


def _joined() -> Logs:
    some = [one.rows(round(0.36 * len(one)), round(0.7 * len(one))) for one in material.fleet()]
    return workers([config_of(setups.JOINED, "fleet")] * 2, material.apart(some), partitions=2, batch=500)


# Policies -----------------------------------------------------------------------------------------------------------


def policy(name: str, batch: int | None = None) -> Logs:
    """Run one policy, in polls of `batch` messages."""
    config = config_of(setups.FLEET, "fleet-each" if name in policies.OF_EACH else "fleet", **_sections(name))
    cell_ms = config.window.cell_ms
    return backtest(
        config,
        _parts(material.fleet_messages(), policies.PARTS),
        policies.operators(name),
        **({} if batch is None else {"batch": batch}),  # type: ignore[arg-type]
        **({"wrap": lambda scorer: policies.Spoilt(scorer, cell_ms)} if name in policies.SPOILT else {}),  # type: ignore[arg-type]
    )


def _policy(name: str) -> Case:
    def run() -> Logs:
        logs = policy(name)
        if name in policies.BATCHED:
            for batch in policies.BATCHES:
                _check_same(logs, policy(name, batch), f"policies/{name} in polls of {batch}")
        return logs

    return run


def _change(name: str) -> Case:
    def run() -> Logs:
        configs = [config_of(setups.FLEET, "fleet", **_sections(one)) for one in policies.CHANGES[name]]
        return workers(configs, list(material.fleet_messages()))

    return run


def _sections(name: str) -> dict[str, object]:
    sections = dict(policies.POLICIES[name])
    if "window" in sections:
        sections["window"] = {**setups.FLEET["window"], **sections["window"]}
    return sections


def _parts(sent: Sequence[Sent], count: int) -> list[Sequence[Sent]]:
    size = -(-len(sent) // count)
    return [sent[start : start + size] for start in range(0, len(sent), size)]


def _check_same(one: Logs, other: Logs, title: str) -> None:
    """Raise AssertionError naming each asset and log that the batch size has changed."""
    ours, theirs = one.by_asset(), other.by_asset()
    if differ := [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]:
        raise AssertionError(f"{title}: the batch size changes {', '.join(differ)}; {_first(ours, theirs, differ[0])}")


def _first(ours: dict[str, Lines], theirs: dict[str, Lines], name: str) -> str:
    pairs = zip(ours.get(name, []), theirs.get(name, []), strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ours.get(name, [])), len(theirs.get(name, []))))
    said = [_short(lines[at]) if at < len(lines) else "nothing" for lines in (ours.get(name, []), theirs.get(name, []))]
    return f"first at entry {at}: {said[0]} against {said[1]}"


def _short(line: bytes) -> str:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return repr(line[:80])
    return " ".join(str(fields.get(key)) for key in ("end", "at", "event", "cause", "kind", "score") if key in fields)


CASES: dict[str, Case] = {
    "skab-valve1": _skab,
    "waveforms": _waveforms,
    "records": _records,
    "records-spot": _records_spot,
    "suite-healthy": _suite("healthy"),
    "suite-healthy-risk": _suite("healthy", risk=1e-3),
    "suite-healthy-budget": _suite("healthy", budget={"incidents": 3, "per": "week"}),
    "suite-nuisance": _suite("nuisance"),
    "suite-nuisance-frozen": _suite("nuisance", adapt=False),
    "suite-faults": _suite("faults"),
    "suite-kinds": _suite("kinds"),
    "chaos": _chaos("at_least_once"),
    "chaos-exactly-once": _chaos("exactly_once"),
    "chaos-records": _chaos_records,
    "joined": _joined,
    **{f"policies/{name}": _policy(name) for name in policies.POLICIES},
    **{f"changes/{name}": _change(name) for name in policies.CHANGES},
}
#: Run by the test suite: little of everything, in well under a minute.
SHORT = (
    "waveforms",
    "records",
    "suite-kinds",
    "chaos",
    "joined",
    "policies/spot",
    "policies/spot-fleet-budget-ask",
    "policies/quantile-ask-roams",
    "policies/incident-peak-share-budget",
    "changes/spot-to-budget",
)
