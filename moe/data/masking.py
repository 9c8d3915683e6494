"""Hidden tokens, for models that read both ways (Devlin et al. 2019, section 3.1).

A share of the tokens is hidden, and the model must say what stood there. All hidden ones show the
same vector (id -1); BERT's exceptions, a tenth left as it is and a tenth swapped, are left out.
"""

import numpy as np

SHARE = 0.15
HIDDEN = -1  # the id that stands for a hidden token


def hidden(seed: int, step: int, shape: tuple[int, int]) -> np.ndarray:
    """Which tokens of a batch [B, T] are hidden: a pure function of (seed, step)."""
    return np.random.default_rng((seed, step)).random(shape) < SHARE


def hidden_in_rows(seed: int, rows, length: int) -> np.ndarray:
    """Which tokens of held-out rows are hidden, [rows, T], whatever batch they come in."""
    return np.concatenate([hidden(seed, int(row), (1, length)) for row in rows])
