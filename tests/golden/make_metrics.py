"""Writes tests/golden/metrics.json: figures of small sets of scores, by scikit-learn.

    python make_metrics.py

Scores are f32. `positive` says which are positives. scikit-learn refuses NaN, which ranks above every
number here: it is given as infinity's successor in rank. Where nothing is defined the figures are null.
ECE and the curve are counted by numpy from their definitions: scikit-learn has neither.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

rng = np.random.default_rng(20211100)


def ranked(scores):
    """The same order and ties, finite: the rank of each distinct score, NaN the highest."""
    keys = np.where(np.isnan(scores), np.inf, scores)
    order = np.unique(keys[~np.isnan(scores)], return_inverse=True)[1]
    ranks = np.full(len(scores), len(scores), dtype=float)
    ranks[~np.isnan(scores)] = order
    return ranks


def detection(scores, positive):
    if positive.all() or not positive.any():
        return None
    ranks = ranked(scores)
    fpr, tpr, _ = roc_curve(positive, ranks, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(positive, ranks),
        "ap": average_precision_score(positive, ranks),
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
    }


def case(name, scores, positive):
    scores = np.asarray(scores, dtype=np.float32)
    positive = np.asarray(positive, dtype=bool)
    found = detection(scores, positive) if len(scores) else None
    texts = [None if np.isnan(s) else ("inf" if s > 0 else "-inf") if np.isinf(s) else float(s) for s in scores]
    return {"name": name, "scores": texts, "positive": positive.tolist(), "expected": found}


def ece(confidence, right):
    bins = np.clip(np.ceil(confidence.astype(np.float64) * 15).astype(int), 1, 15) - 1
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].astype(np.float64).sum()) for b in range(15)]
    return sum(gaps) / len(confidence)


n = 150
positive = rng.random(n) < 0.2
# On a grid on which different scores fall in different bins of a histogram, whose figures are exact then.
normal = (np.round(4096 * (rng.normal(size=n) + positive)) / 4096).astype(np.float32)
with_nan = normal.copy()
with_nan[::17] = np.nan
confidence = rng.random(n).astype(np.float32)
right = rng.random(n) < confidence**1.5

cases = [
    case("continuous", normal, positive),
    case("ties", np.round(normal * 2) / 2, positive),
    case("constant", np.full(n, 0.25), positive),
    case("perfect", positive.astype(float), positive),
    case("reversed", -positive.astype(float), positive),
    case("one class", normal[:20], np.ones(20)),
    case("empty", [], []),
    case("NaN", with_nan, positive),
    case("infinities", np.where(rng.random(n) < 0.1, -np.inf, np.where(rng.random(n) < 0.1, np.inf, normal)), positive),
    case("rare positives", normal, np.arange(n) % 73 == 3),
    case("densities", -150 + 30 * normal, positive),
]
calibration = {
    "confidence": confidence.tolist(),
    "right": right.tolist(),
    "ece": ece(confidence, right),
}
path = Path(__file__).with_name("metrics.json")
path.write_text(json.dumps({"detection": cases, "calibration": calibration}) + "\n")
