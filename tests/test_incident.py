"""From verdicts to open, update and close; timelines are drawn one character a window."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.codec import alert_id, encode_alert, incident_id
from stream_detector.config import IncidentConfig, ThresholdConfig
from stream_detector.decision.incident import Basis, Incidents
from stream_detector.decision.threshold import Judgement
from stream_detector.decision.window import ScoredWindow
from stream_detector.types import Alert, ChannelShare, IncidentState, ModelRef, ScoreBatch

COLUMNS = ("vibration", "temperature", "current")
LEVEL = 4.0
MODEL = ModelRef("ae", "20201103-1f3c")
#: A window's score, by its letter: quiet, between exit and level, anomalous by severity.
SCORES = {".": 1.0, "-": 3.9, "i": 5.0, "w": 6.0, "c": 16.0}


def batch(scores: Sequence[float], parts: Sequence[Sequence[float]] | None = None) -> ScoreBatch:
    """Scores of windows in a row; `parts` of the three channels, the first leading when left out."""
    channels = np.array(parts if parts is not None else [[3.0, 1.0, 0.0]] * len(scores), np.float32)
    return ScoreBatch(
        score=np.array(scores, np.float64),
        channels=channels,
        observed=np.tile(np.array([0.5, 79.25, 1.5], np.float32), (len(scores), 1)),
        expected=np.tile(np.array([0.25, 80.0, 1.5], np.float32), (len(scores), 1)),
        model=np.zeros(len(scores), np.int32),
        models=(MODEL,),
    )


def run(
    line: str, parts: Sequence[Sequence[float]] | None = None, level: float | None = LEVEL, **settings: float
) -> tuple[str, list[Alert], IncidentState]:
    """Step through a timeline; return the events under it (o, u, c or a blank), the alerts and the last state.

    Windows end at 1000, 2000, ... ms. `settings` are of IncidentConfig; ten quiet windows close unless they say so.
    """
    config = IncidentConfig.model_validate({"close_after": 10, "exit_ratio": 0.5, **settings})
    incidents = Incidents("pump", COLUMNS, config, ThresholdConfig(risk=1e-4))
    scores = batch([SCORES[letter] for letter in line], parts)
    state, events, alerts = IncidentState(), "", []
    for row in range(len(line)):
        score = float(scores.score[row])
        judgement = Judgement(level, level is not None and score > level)
        state, found = stepped(
            incidents, state, scores, judgement, row=row, end_ms=1_000 * (row + 1), seen=18_233 + row, ingest_ms=7
        )
        events += "".join(alert.event[0] for alert in found) or " "
        alerts += found
    return events, alerts, state


def stepped(
    incidents: Incidents,
    state: IncidentState,
    scores: ScoreBatch,
    judgement: Judgement,
    *,
    row: int = 0,
    end_ms: int = 1_000,
    seen: int = 100,
    ingest_ms: int = -1,
) -> tuple[IncidentState, list[Alert]]:
    """Take the window in a row of scores; return the state after it and its alerts."""
    window = ScoredWindow(
        asset="pump-1", end_ms=end_ms, score=float(scores.score[row]), scores=scores, row=row, ingest_ms=ingest_ms
    )
    state, event = incidents.step(state, window, judgement)
    basis = Basis(judgement, 1e-4, seen)
    return state, [] if event is None else [incidents.alert(event, window, basis)]


@pytest.mark.parametrize(
    ("windows", "events"),
    [
        ("....", "    "),
        ("..i...", "      "),
        ("ii", " o"),
        ("i.i", "  o"),
        ("i..i", "    "),
        ("i..i.i", "     o"),
        ("ii" + "." * 10, " o" + " " * 9 + "c"),
        ("ii" + "." * 9 + "i" + "." * 10, " o" + " " * 19 + "c"),
        ("ii" + "." * 10 + "i..", " o" + " " * 9 + "c" + "   "),
        ("ii" + "." * 10 + "ii", " o" + " " * 9 + "c" + " o"),
    ],
)
def test_two_of_three_open_and_ten_quiet_close(windows: str, events: str):
    """Open on the second anomalous window of the last three, close on the tenth quiet one in a row."""
    assert run(windows)[0] == events


@pytest.mark.parametrize(
    ("after", "of", "windows", "events"),
    [
        (1, 1, "i", "o"),
        (3, 3, "ii.iii", "     o"),
        (3, 5, "i.i.i", "    o"),
        (3, 5, "i..i.i", "      "),
        (2, 64, "i" + "." * 62 + "i", " " * 63 + "o"),
        (2, 64, "i" + "." * 63 + "i", " " * 65),
    ],
)
def test_k_of_n_is_configurable(after: int, of: int, windows: str, events: str):
    """The n-th last window still counts, the one before it doesn't."""
    assert run(windows, open_after=after, open_of=of)[0] == events


def test_an_incident_starts_with_its_first_anomalous_window():
    """Not with the window that opened it; a run that died out before doesn't count."""
    _, alerts, _ = run("i....i.i" + "." * 10)
    assert [(alert.event, alert.start_ms, alert.end_ms) for alert in alerts] == [
        ("open", 6_000, 8_000),
        ("close", 6_000, 18_000),
    ]


def test_a_gap_in_time_closes_nothing():
    """When windows stop and come back an hour later the incident is the same one."""
    incidents = Incidents("pump", COLUMNS, IncidentConfig(), ThresholdConfig())
    scores = batch([5.0, 5.0, 5.0])
    state = IncidentState()
    found: list[Alert] = []
    for row, end_ms in enumerate((1_000, 2_000, 3_602_000)):
        state, more = stepped(incidents, state, scores, Judgement(LEVEL, True), row=row, end_ms=end_ms)
        found += more
    assert [alert.event for alert in found] == ["open"]
    assert state.opened_ms == 2_000


def test_between_exit_and_level_a_window_is_neither_quiet_nor_anomalous():
    """With an exit ratio the count of quiet windows starts again there, but nothing opens."""
    assert run("ii" + "." * 9 + "-" + "." * 10, exit_ratio=0.7)[0] == " o" + " " * 19 + "c"
    assert run("ii" + "." * 9 + "-", exit_ratio=1.0)[0] == " o" + " " * 9 + "c"
    assert run("-----", exit_ratio=0.7)[0] == "     "


def follow(scores: Sequence[float], level: float = LEVEL, **settings: float) -> tuple[str, IncidentState]:
    """Step through scores; return the events under them and the last state."""
    incidents = Incidents("pump", COLUMNS, IncidentConfig.model_validate(settings), ThresholdConfig())
    table, state, events = batch(scores), IncidentState(), ""
    for row, score in enumerate(scores):
        judgement = Judgement(level, score > level)
        state, found = stepped(incidents, state, table, judgement, row=row, end_ms=1_000 * (row + 1))
        events += "".join(alert.event[0] for alert in found) or " "
    return events, state


def test_an_incident_ends_below_a_share_of_its_peak():
    """Far below its peak it is over, though the score stays above the level; at or above the share it goes on."""
    settings = {"close_after": 2, "exit_peak_share": 0.25}
    assert follow([100, 100, 24, 24], **settings)[0] == " o c"
    assert follow([100, 100, 24, 25, 24], **settings)[0] == " o   "
    assert follow([100, 100, 24, 24], close_after=2, exit_peak_share=0)[0] == " o  "
    assert follow([100, 100, 400, 99, 99], **settings)[0] == " o  c"  # the peak so far counts


def test_what_is_below_the_share_of_the_peak_is_no_update():
    """A quiet window is not news, even when another channel leads in it."""
    incidents = Incidents("pump", COLUMNS, IncidentConfig(exit_peak_share=0.25), ThresholdConfig())
    table = batch([100, 100, 20], [[3, 1, 0], [3, 1, 0], [0, 1, 0]])
    state = IncidentState()
    for row in range(3):
        state, found = stepped(incidents, state, table, Judgement(LEVEL, True), row=row, end_ms=1_000 * row)
    assert list(found) == []
    assert state.quiet == 1


def test_after_such_an_end_only_a_clear_rise_alarms():
    """Re-armed at four times the score it ended at: what lingers is not a new incident, the next fault is."""
    settings = {"close_after": 2, "exit_peak_share": 0.25, "rearm_factor": 4}
    lingering, state = follow([100, 100, 24, 20] + [24] * 50, **settings)
    assert lingering == " o c" + " " * 50
    assert state == IncidentState(rearm=80.0)
    assert follow([100, 100, 24, 20, 24, 81, 81], **settings)[0] == " o c  o"
    assert follow([100, 100, 24, 20, 80, 80, 80], **settings)[0] == " o c   "


def test_the_limit_falls_with_the_score_and_never_rises():
    """A machine that calms down is watched more closely again."""
    settings = {"close_after": 2, "exit_peak_share": 0.25, "rearm_factor": 4}
    before = [100, 100, 24, 20]
    assert follow([*before, 10, 20, 5, 20], **settings)[1] == IncidentState(rearm=20.0)
    assert follow([*before, 5, 21, 21], **settings)[0] == " o c  o"


def test_the_limit_goes_once_the_score_is_quiet():
    """Back at normal, the level alone counts again."""
    settings = {"close_after": 2, "exit_peak_share": 0.25, "exit_ratio": 0.5}
    assert follow([100, 100, 24, 20, 2.0], **settings)[1] == IncidentState()
    assert follow([100, 100, 24, 20, 2.1], **settings)[1] == IncidentState(rearm=8.4)
    assert follow([100, 100, 24, 20, 2.0, 5, 5], **settings)[0] == " o c  o"
    assert follow([100, 100, 24, 2.0, 5, 5], **settings)[0] == " o c o"  # it had ended as quiet


def test_shares_of_the_peak_work_for_levels_below_zero():
    """Log-likelihoods: ratios are taken as for severity, 1 + (score - level)/|level|."""
    settings = {"level": -10.0, "close_after": 1, "exit_peak_share": 0.25, "rearm_factor": 4.0}
    events, state = follow([30, 30, -8], **settings)  # ratios 5, 5 and 1.2
    assert events == " oc"
    assert state.rearm == pytest.approx(-10 + (4 * 1.2 - 1) * 10)
    assert follow([30, 30, -7], **settings)[0] == " o "


def test_a_minimum_duration_is_waited_for():
    """Opening takes k of n and the time since the run's first anomalous window; its length is known all the same."""
    events, alerts, _ = run("iiiiii", min_duration_ms=3_000)
    assert events == "   o  "
    assert (alerts[0].start_ms, alerts[0].end_ms) == (1_000, 4_000)
    assert run("i...iii", min_duration_ms=3_000)[0] == "       "  # the first had been forgotten
    assert run("i.iii", min_duration_ms=3_000)[0] == "   o "
    assert [alert.kind for alert in run("iiiii", min_duration_ms=4_000, collective_windows=5)[1]] == ["collective"]


def test_severity_rises_and_never_falls():
    """Info, warning, critical by the score over the level; each rise is an update, each fall is not."""
    events, alerts, _ = run("iiiwwicci" + "." * 10)
    assert events == " o u  u  " + " " * 9 + "c"
    assert [alert.severity for alert in alerts] == ["info", "warning", "critical", "critical"]


@pytest.mark.parametrize(
    ("ratio", "severity"), [(1.49, "info"), (1.5, "warning"), (3.99, "warning"), (4.0, "critical")]
)
def test_severity_is_the_score_over_the_level(ratio: float, severity: str):
    """The ratios of the settings belong to the severity they start."""
    incidents = Incidents("pump", COLUMNS, IncidentConfig(open_after=1, open_of=1), ThresholdConfig())
    scores = batch([ratio * LEVEL])
    _, (alert,) = stepped(incidents, IncidentState(), scores, Judgement(LEVEL, True))
    assert alert.severity == severity


@pytest.mark.parametrize(
    ("level", "score", "severity"),
    [(-10.0, -9.0, "info"), (-10.0, -4.0, "warning"), (-10.0, 30.0, "critical"), (0.0, 1e-9, "critical")],
)
def test_levels_need_not_be_above_zero(level: float, score: float, severity: str):
    """Log-likelihoods have levels below 0: what counts is the distance in levels, as above 0."""
    config = IncidentConfig(open_after=1, open_of=1, close_after=1, exit_ratio=0.5, exit_peak_share=0)
    incidents = Incidents("pump", COLUMNS, config, ThresholdConfig())
    scores = batch([score, level, level - 0.5 * abs(level)])
    state, (alert,) = stepped(incidents, IncidentState(), scores, Judgement(level, True))
    assert alert.severity == severity
    if level != 0.0:
        state, found = stepped(incidents, state, scores, Judgement(level, False), row=1, end_ms=2_000)
        assert not found
    _, (alert,) = stepped(incidents, state, scores, Judgement(level, False), row=2, end_ms=3_000)
    assert alert.event == "close"


def test_a_new_leading_channel_is_an_update():
    """The alert leads with the channel that leads now."""
    parts = [[3, 1, 0], [3, 1, 0], [3, 1, 0], [1, 3, 0], [1, 3, 0]]
    events, alerts, state = run("iiiii", parts)
    assert events == " o u "
    assert [alert.channels[0].name for alert in alerts] == ["vibration", "temperature"]
    assert state.leader == "temperature"


def test_channels_that_take_turns_are_no_storm():
    """About equal shares: the leader stays until another has half as much again."""
    parts = [[5, 4, 0] if row % 2 else [4, 5, 0] for row in range(40)]
    assert run("i" * 40, parts)[0].strip() == "o"


def test_a_leader_of_a_quiet_window_does_not_count():
    """Shares of a score that is nothing special say nothing."""
    parts = [[3, 1, 0], [3, 1, 0], [0, 1, 0], [3, 1, 0]]
    assert run("ii.i", parts)[0] == " o  "


def test_severity_and_leader_at_once_are_one_update():
    """At most one alert a window."""
    events, alerts, _ = run("iic", [[3, 1, 0], [3, 1, 0], [0, 1, 3]])
    assert events == " ou"
    assert (alerts[1].severity, alerts[1].channels[0].name) == ("critical", "current")


@pytest.mark.parametrize(
    ("windows", "kinds"),
    [
        ("ii" + "." * 10, ["contextual", "point"]),
        ("iii" + "." * 10, ["contextual", "point"]),
        ("iiii" + "." * 10, ["contextual", "contextual"]),
        ("i" * 7 + "c" + "." * 10, ["contextual", "contextual", "contextual"]),
        ("i" * 8 + "c" + "." * 10, ["contextual", "contextual", "contextual"]),
        ("i" * 9 + "c" + "." * 10, ["contextual", "collective", "collective"]),
    ],
)
def test_kind_follows_the_length(windows: str, kinds: list[str]):
    """Up to three windows are a point, from ten (here) on it is collective; quiet windows at the end don't count."""
    assert [alert.kind for alert in run(windows, collective_windows=10)[1]] == kinds


def test_an_alert_says_everything():
    """Every field, from the window that made it."""
    _, (alert,), _ = run("iw", [[1, 1, 2], [1, 6, 1]])
    incident = incident_id("pump", "pump-1", 2_000, MODEL.version)
    assert alert == Alert(
        id=alert_id("pump", "pump-1", 2_000, MODEL.version, "open"),
        incident=incident,
        event="open",
        stream="pump",
        asset="pump-1",
        start_ms=1_000,
        end_ms=2_000,
        score=6.0,
        threshold=4.0,
        severity="warning",
        kind="contextual",
        channels=(
            ChannelShare("temperature", 0.75, 79.25, 80.0),
            ChannelShare("vibration", 0.125, 0.5, 0.25),
            ChannelShare("current", 0.125, 1.5, 1.5),
        ),
        model=MODEL,
        method="spot",
        risk=1e-4,
        seen=18_234,
        ingest_ms=7,
    )


def test_all_alerts_of_an_incident_share_its_id():
    """And every alert has an id of its own; the next incident is another."""
    _, alerts, _ = run("iic" + "." * 10 + "ii")
    assert [alert.event for alert in alerts] == ["open", "update", "close", "open"]
    assert len({alert.id for alert in alerts}) == 4
    assert [alert.incident == alerts[0].incident for alert in alerts] == [True, True, True, False]


def test_a_pinned_level_is_said():
    """The method of the alert is `pinned`, its threshold the pin."""
    incidents = Incidents("pump", COLUMNS, IncidentConfig(open_after=1, open_of=1), ThresholdConfig(method="mad"))
    judgement = Judgement(2.0, True, pinned=True)
    _, (alert,) = stepped(incidents, IncidentState(), batch([3.0]), judgement)
    assert (alert.method, alert.threshold) == ("pinned", 2.0)


def test_an_incident_ends_after_a_reset_too():
    """While the threshold has no level, windows are quiet; the close says the score for want of a level."""
    events, alerts, state = run("ii")
    incidents = Incidents("pump", COLUMNS, IncidentConfig(close_after=2), ThresholdConfig())
    for row in (0, 1):
        state, found = stepped(
            incidents, state, batch([1.5, 1.5]), Judgement(None, False), row=row, end_ms=9_000 + row, seen=3
        )
    assert events == " o"
    assert [alert.event for alert in found] == ["close"]
    assert found[0].threshold == 1.5
    assert found[0].incident == alerts[0].incident
    assert state == IncidentState()


def test_shares_without_a_score_are_even():
    """A score of 0 above a level below it has no parts to share: still they sum to 1."""
    _, (alert,), _ = run("ii", [[0, 0, 0], [0, 0, 0]])
    assert [channel.share for channel in alert.channels] == [1 / 3] * 3


@pytest.mark.parametrize("score", [math.nan, math.inf, 1e300])
def test_scores_that_json_cant_say_still_make_an_alert(score: float):
    """A model that overflowed is as strange as can be: critical, with the largest float32 for what is not a number."""
    incidents = Incidents("pump", COLUMNS, IncidentConfig(open_after=1, open_of=1), ThresholdConfig())
    scores = batch([score], [[math.nan, math.inf, 1.0]])
    scores.observed[0, 0], scores.expected[0, 1] = math.nan, -math.inf
    state, (alert,) = stepped(incidents, IncidentState(), scores, Judgement(LEVEL, True))
    assert alert.severity == "critical"
    assert sum(channel.share for channel in alert.channels) == pytest.approx(1.0)
    assert math.isfinite(state.peak)
    assert b"null" not in encode_alert(alert)


@given(
    st.text(alphabet=".-iwc", max_size=120),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 5),
    st.sampled_from([0.5, 1.0]),
    st.randoms(use_true_random=False),
)
def test_every_sequence_of_alerts_is_well_formed(
    windows: str, after: int, more: int, close: int, exit_ratio: float, random: object
):
    """Open, updates, close, in this order, with rising severity; nothing between a close and the next open."""
    parts = [[random.random() + 0.01 for _ in COLUMNS] for _ in windows]  # type: ignore[attr-defined]
    _, alerts, state = run(
        windows, parts or None, open_after=after, open_of=after + more, close_after=close, exit_ratio=exit_ratio
    )
    is_open, rank, incident, ids = False, 0, "", set()
    for alert in alerts:
        assert (alert.event == "open") == (not is_open)
        new_rank = ("info", "warning", "critical").index(alert.severity)
        assert alert.event == "open" or (new_rank >= rank and alert.incident == incident)
        is_open, rank, incident = alert.event != "close", new_rank, alert.incident
        assert alert.start_ms <= alert.end_ms
        assert sum(channel.share for channel in alert.channels) == pytest.approx(1.0)
        shares = [channel.share for channel in alert.channels]
        assert shares == sorted(shares, reverse=True)
        ids.add(alert.id)
    assert len(ids) == len(alerts)
    assert is_open == (state.opened_ms is not None)


def test_a_restart_in_between_changes_nothing():
    """The state is all there is: a new object goes on where the old one was."""
    windows = "i.iwwc" + "." * 10 + "iii"
    _, whole, last = run(windows)
    scores = batch([SCORES[letter] for letter in windows])
    state, alerts = IncidentState(), []
    for row, letter in enumerate(windows):
        config = IncidentConfig(close_after=10, exit_ratio=0.5)
        incidents = Incidents("pump", COLUMNS, config, ThresholdConfig(risk=1e-4))
        judgement = Judgement(LEVEL, SCORES[letter] > LEVEL)
        state, found = stepped(
            incidents, state, scores, judgement, row=row, end_ms=1_000 * (row + 1), seen=18_233 + row, ingest_ms=7
        )
        alerts += found
    assert (alerts, state) == (whole, last)


def test_a_quiet_window_costs_next_to_nothing():
    """The state comes back as it is; the target is a microsecond, the bound leaves room for a busy machine."""
    incidents = Incidents("pump", COLUMNS, IncidentConfig(), ThresholdConfig())
    scores, state, judgement = batch([1.0]), IncidentState(), Judgement(LEVEL, False)
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(10_000):
            after, alerts = stepped(incidents, state, scores, judgement)
        best = min(best, (time.perf_counter() - began) / 10_000)
    assert after is state
    assert list(alerts) == []
    assert best < 5e-6
