"""Counts and areas against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.evaluate.pointwise import Counts, average_precision, point_adjusted, roc_auc

TRUTH = np.array([0, 0, 1, 1, 1, 0, 0, 1])
ALARM = np.array([0, 1, 0, 1, 1, 1, 0, 0])


def test_counts_by_hand():
    """Two of four anomalous rows found, two of four normal rows alarmed."""
    counts = Counts.of(TRUTH, ALARM)
    assert Counts(tp=2, fp=2, tn=2, fn=2) == counts
    assert {"f1": 0.5, "far": 0.5, "mar": 0.5, "precision": 0.5, "recall": 0.5} == counts.figures()


def test_f1_is_by_skabs_formula():
    """TP/(TP + (FN + FP)/2)."""
    assert Counts(tp=6, fp=1, tn=10, fn=3).f1 == 6 / (6 + (3 + 1) / 2)


def test_a_share_of_nothing_is_none():
    """Without normal rows there is no false alarm rate, without anomalous ones no missed one."""
    assert Counts.of(np.ones(3), np.ones(3)).far is None
    nothing = Counts.of(np.zeros(3), np.zeros(3))
    assert (nothing.mar, nothing.f1, nothing.precision) == (None, None, None)
    assert Counts.of(np.ones(3), np.zeros(3)).f1 == 0


def test_average_precision_by_hand():
    """Thresholds .9, .8, .7, .6: precision 1, 1/2, 2/3, 2/4 at recall 1/2, 1/2, 1, 1."""
    assert average_precision(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6])) == pytest.approx(1 / 2 + 2 / 3 / 2)


def test_auc_is_the_share_of_pairs_in_order():
    """Of four pairs three are in order; a tie counts half."""
    assert roc_auc(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6])) == 0.75
    assert roc_auc(np.array([1, 0]), np.array([0.5, 0.5])) == 0.5


def test_areas_take_infinities():
    """Rows of the warm-up have -inf; a score that is not a number counts as infinite before it comes here."""
    truth, score = np.array([0, 1, 0, 1]), np.array([-np.inf, np.inf, 1.0, 2.0])
    assert (average_precision(truth, score), roc_auc(truth, score)) == (1, 1)


@pytest.mark.parametrize("truth", [np.zeros(3), np.ones(3)])
def test_one_kind_of_row_has_no_auc(truth):
    """There is no pair to put in order."""
    assert roc_auc(truth, np.arange(3.0)) is None


def test_point_adjustment_makes_one_hit_a_whole_anomaly():
    """
    truth     0 0 1 1 1 0 0 1
    alarm     0 1 0 1 0 0 0 0
    adjusted  0 1 1 1 1 0 0 0
    """
    alarm = np.array([0, 1, 0, 1, 0, 0, 0, 0])
    assert [0, 1, 1, 1, 1, 0, 0, 0] == point_adjusted(TRUTH, alarm).astype(int).tolist()
