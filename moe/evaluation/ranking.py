"""Multiple choice by log-likelihood: which continuation a model holds for the most probable.

Rules and their names are those of lm-eval (Gao et al. 2024, version 0.4): `acc` compares sums of
log p, `acc_norm` those sums by character of the choice, `acc_bytes` by byte, and
`acc_mutual_info` takes away log p of the choice without the question (Holtzman et al. 2021).
"""

from collections.abc import Sequence

import numpy as np


def scores(
    log_p_C: Sequence[float], choices: Sequence[str], alone_C: Sequence[float]
) -> dict[str, np.ndarray]:
    """The score of each choice, [C], by rule; the highest is the prediction.

    Args:
      log_p_C: nats of each choice after the question.
      choices: their texts; a space before one is not counted.
      alone_C: nats of each choice after nothing.
    """
    nats_C = np.asarray(log_p_C, float)
    texts = [choice.removeprefix(" ") for choice in choices]
    characters_C = np.array([len(text) for text in texts], float)
    bytes_C = np.array([len(text.encode()) for text in texts], float)
    return {
        "acc": nats_C,
        "acc_norm": nats_C / characters_C,
        "acc_bytes": nats_C / bytes_C,
        "acc_mutual_info": nats_C - np.asarray(alone_C, float),
    }


def right(found: dict[str, np.ndarray], gold: int) -> dict[str, bool]:
    """Whether the prediction is right, by rule; of equal choices the first is predicted."""
    return {rule: int(score_C.argmax()) == gold for rule, score_C in found.items()}


def probabilities(log_p_C: Sequence[float]) -> np.ndarray:
    """p_C: the choices' share of what the model gives to all of them."""
    nats_C = np.asarray(log_p_C, float)
    p_C = np.exp(nats_C - nats_C.max())
    return p_C / p_C.sum()
