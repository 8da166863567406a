"""Evidence and verdicts on numbers alone."""

from __future__ import annotations

import numpy as np
import pytest

from edgenas.errors import SpecError, VerificationError
from edgenas.export.verify import (
    Gate,
    agreement_gate,
    compare,
    drop_gate,
    verify_model,
    worst,
)


def one_hot(classes):
    return np.eye(3, dtype=np.float32)[np.asarray(classes)]


def case(n, lost=0, won=0, moved=0):
    """Evidence over n images: `lost` answers turn wrong, `won` right, `moved` stay wrong."""
    labels = np.zeros(n, np.int64)
    reference, answers = np.zeros(n, int), np.zeros(n, int)
    answers[:lost] = 1
    reference[lost : lost + won] = 1
    reference[lost + won : lost + won + moved] = 1
    answers[lost + won : lost + won + moved] = 2
    return compare(one_hot(answers), reference_logits=one_hot(reference), labels=labels)


def test_figures_are_what_they_say():
    found = case(1000, lost=30, won=10, moved=5)
    assert found.n == 1000
    assert found.top1_drop == pytest.approx(0.02)
    assert found.reference_top1 - found.top1 == pytest.approx(0.02)
    assert found.n_disagree == 45
    assert found.agreement == pytest.approx(0.955)
    assert found.max_abs_difference == 1
    assert found.drop_low < 0.02 < found.drop_high


def test_paired_interval_is_bonett_and_price():
    found = case(100, lost=9, won=3)
    p, q = 10 / 102, 4 / 102
    half = 1.959964 * ((p + q - (p - q) ** 2) / 102) ** 0.5
    assert found.drop_low == pytest.approx(p - q - half)
    assert found.drop_high == pytest.approx(p - q + half)


def test_interval_covers_the_true_drop():
    rng = np.random.default_rng(0)
    lost, won, n, hits = 0.03, 0.01, 600, 0
    for _ in range(300):
        draw = rng.random(n)
        found = case(n, lost=int((draw < lost).sum()), won=int((draw > 1 - won).sum()))
        hits += found.drop_low <= lost - won <= found.drop_high
    assert hits / 300 > 0.92


@pytest.mark.parametrize(
    ("n", "lost", "won", "verdict"),
    [
        (10000, 50, 0, "passed"),
        (10000, 0, 300, "passed"),
        (10000, 250, 50, "failed"),
        (10000, 110, 0, "inconclusive"),  # beyond the limit, but its interval is not
        (500, 2, 0, "passed"),
        (499, 0, 0, "inconclusive"),  # never passed below 500
        (499, 100, 0, "failed"),
    ],
)
def test_drop_gate(n, lost, won, verdict):
    gate = drop_gate(case(n, lost, won), max_top1_drop=0.01)
    assert gate.verdict == verdict
    assert f"n = {n}" in gate.reason


@pytest.mark.parametrize(
    ("n", "moved", "verdict"),
    [
        (10000, 10, "passed"),
        (10000, 40, "failed"),
        (1000, 1, "passed"),
        (600, 1, "inconclusive"),
        (400, 0, "inconclusive"),
        (400, 20, "failed"),
    ],
)
def test_agreement_gate(n, moved, verdict):
    assert agreement_gate(case(n, moved=moved)).verdict == verdict


def test_worst_verdict_wins():
    passed, failed = Gate("a", "passed", ""), Gate("b", "failed", "")
    unsure = Gate("c", "inconclusive", "")
    assert worst([passed]) == "passed"
    assert worst([passed, unsure]) == "inconclusive"
    assert worst([unsure, failed, passed]) == "failed"


def test_nonsense_answers_are_refused():
    labels = np.zeros(4, np.int64)
    good = one_hot([0, 0, 0, 0])
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(VerificationError, match="NaN"):
        compare(bad, reference_logits=good, labels=labels)
    with pytest.raises(VerificationError, match="answers"):
        compare(good[:, :2], reference_logits=good, labels=labels)


def test_no_images_are_an_error(tmp_path):
    with pytest.raises(SpecError, match="0 images"):
        verify_model(
            tmp_path / "model.onnx",
            images=np.zeros((0, 4, 4, 1), np.float32),
            labels=np.zeros(0, np.int64),
            reference_logits=np.zeros((0, 3), np.float32),
        )


def test_logits_as_large_as_floats_go_are_compared_without_overflow() -> None:
    logits = np.array([[3e37, -3e37], [1e30, 2e30]], np.float32)
    found = compare(logits, reference_logits=logits, labels=np.array([0, 1]))
    assert found.logit_rms == pytest.approx(float(np.sqrt(np.mean(logits.astype(float) ** 2))))
    assert found.logit_scale == pytest.approx(1)
