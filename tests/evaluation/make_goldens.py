"""Makes goldens/harness.json: what lm-eval computes from log-likelihoods that are given to it.

python -m venv ENV && ENV/bin/pip install lm-eval==0.4.13
ENV/bin/python tests/evaluation/make_goldens.py tests/evaluation/goldens
"""

import importlib.metadata
import json
import pathlib
import sys
import tempfile

import numpy as np
from lm_eval.api import metrics
from lm_eval.api.task import ConfigurableTask

PINNED = "0.4.13"
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "brier_score")
WORDS = ("yes", "no", "a cat", "Zürich", "three of them", "naïve café", "7", "日本")


def drawn(number: int = 60) -> list[dict]:
    """Questions with three choices each, of other lengths, and their log-likelihoods."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        choices = rng.choice(WORDS, 3, replace=False).tolist()
        log_p, alone = (rng.normal(-8, 2, 3).round(4).tolist() for _ in range(2))
        gold = int(rng.integers(3))
        found.append({"choices": choices, "gold": gold, "log_p": log_p, "alone": alone})
    return found


def task(questions: list[dict]) -> ConfigurableTask:
    """lm-eval's, with the questions as its documents."""
    folder = pathlib.Path(tempfile.mkdtemp())
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in questions))
    return ConfigurableTask(
        config={
            "task": "drawn",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "Q",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "gold",
            "metric_list": [{"metric": name} for name in METRICS],
        }
    )


def main(out: str) -> None:
    """Writes the questions with what each metric says of each, and the means with errors."""
    assert importlib.metadata.version("lm_eval") == PINNED, f"expected lm-eval {PINNED}"
    questions = drawn()
    theirs = task(questions)
    said = [
        theirs.process_results(doc, [(x, False) for x in doc["log_p"] + doc["alone"]])
        for doc in theirs.test_docs()
    ]
    brier = float(metrics.brier_score([one["brier_score"] for one in said]))
    for question, one in zip(questions, said, strict=True):
        question["right"] = {name: float(one[name]) for name in METRICS[:-1]}
        question["probabilities"] = np.asarray(one["brier_score"][1]).tolist()
    means = {
        name: [float(np.mean(x)), float(metrics.mean_stderr(x))]
        for name in METRICS[:-1]
        for x in [[q["right"][name] for q in questions]]
    }
    content = {"lm_eval": PINNED, "questions": questions, "means": means, "brier_score": brier}
    (pathlib.Path(out) / "harness.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
