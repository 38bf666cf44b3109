"""A part of the golden logs in every test run; `python -m tests.golden --check` compares all of them."""

from __future__ import annotations

import json

import pytest

from tests.golden.__main__ import differences, main, stored
from tests.golden.cases import CASES, SHORT


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("case", SHORT)
def test_logs_are_byte_identical(case: str) -> None:
    """Alerts, audit entries, states and dead letters are those that are written down."""
    assert differences(case, json.loads(json.dumps(CASES[case]().hashes())), stored().get(case)) == []


def test_every_case_is_written_down() -> None:
    """No case is without hashes, no hashes are without a case."""
    assert list(stored()) == list(CASES)


def test_a_difference_is_named_by_case_and_log() -> None:
    """With the counts that changed; other logs of the case are not mentioned."""
    was = stored()["records"]
    now = {**was, "alerts": "0" * 64, "counts": {**was["counts"], "alerts": {"open point": 1}}}
    [line] = differences("records", now, was)
    assert line.startswith("records: alerts differ (")
    assert "open point 3 -> 1" in line


def test_an_unknown_case_is_refused() -> None:
    """With the names there are."""
    with pytest.raises(SystemExit, match="no case is called 'nothing'; expected some of: skab-valve1"):
        main(["--check", "--only", "nothing"])
