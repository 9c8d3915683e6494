"""A ranker, and a few inputs with candidates, of which one ends early."""

import numpy as np

from moe.data.candidates import Candidates
from moe.models.pair_ranker import PairRankerConfig
from tests import tiny

SIZES = vars(tiny.model(experts=None, num_layers=1, moe_every=1))
CONFIG = PairRankerConfig(**SIZES | {"causal": False})


def found(inputs: int, number: int = 3, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, tiny.V, (inputs, 4 + 3 + number * 3)).astype(np.int32)
    candidate_XNY = ids[:, 7:].reshape(inputs, number, 3)
    candidate_XNY[0, 1] = [5, 0, -1]
    quality_XN = rng.permuted(np.tile(np.arange(number) * 10.0, (inputs, 1)), axis=1)
    return Candidates(ids[:, :4], ids[:, 4:7], candidate_XNY, quality_XN, np.arange(inputs))
