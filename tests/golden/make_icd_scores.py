"""Make icd_scores.json with scikit-learn (1.9.1; no dependency of the project): python tests/golden/make_icd_scores.py

Each row of probabilities is a permutation, so that documents tie with each other but no two codes of one do:
scikit-learn takes ties in a ranking otherwise than we do. Some codes are in no document, some documents have no code.
"""

import json
from pathlib import Path

import numpy as np
from sklearn import metrics

DOCUMENTS, CODES = 30, 14

rng = np.random.default_rng(20261124)
share_C = np.concatenate([[0.0, 0.0, 1.0], rng.uniform(0.03, 0.5, CODES - 3)])
truth_NC = rng.uniform(size=(DOCUMENTS, CODES)) < share_C
truth_NC[[4, 17]] = False
liking_NC = rng.normal(size=(DOCUMENTS, CODES)) + 1.2 * truth_NC + 2 * share_C
rank_NC = liking_NC.argsort(axis=1).argsort(axis=1)
probability_NC = ((rank_NC + 1) / (CODES + 1)).astype(np.float32)
predicted_NC = probability_NC >= np.float32(0.7)
some_C = truth_NC.any(axis=0) & ~truth_NC.all(axis=0)
has_N = truth_NC.any(axis=1)
f1_C = metrics.f1_score(truth_NC, predicted_NC, average=None, zero_division=0)
precision, recall = (
    score(truth_NC, predicted_NC, average="macro", zero_division=0)
    for score in (metrics.precision_score, metrics.recall_score)
)
expected = {
    "micro_f1": metrics.f1_score(truth_NC, predicted_NC, average="micro"),
    "micro_precision": metrics.precision_score(truth_NC, predicted_NC, average="micro"),
    "micro_recall": metrics.recall_score(truth_NC, predicted_NC, average="micro"),
    "macro_f1_caml": 2 * precision * recall / (precision + recall),
    "macro_f1_all": f1_C.mean(),
    "macro_f1_present": f1_C[truth_NC.any(axis=0)].mean(),
    "micro_auc": metrics.roc_auc_score(truth_NC, probability_NC, average="micro"),
    "macro_auc": metrics.roc_auc_score(truth_NC[:, some_C], probability_NC[:, some_C], average="macro"),
    "map": metrics.average_precision_score(truth_NC[has_N], probability_NC[has_N], average="samples"),
    "exact_match": metrics.accuracy_score(truth_NC, predicted_NC),
}
content = {
    "threshold": 0.7,
    "rank_NC": rank_NC.tolist(),
    "truth_NC": truth_NC.astype(int).tolist(),
    "expected": {name: float(value) for name, value in expected.items()},
}
(Path(__file__).parent / "icd_scores.json").write_text(json.dumps(content) + "\n")
