"""LLM-Blender: the best of several models' candidates for each input, and one made of the best.

Jiang et al. 2023 (arXiv 2306.02561), section 3. PairRanker gives two candidates that it reads
together a score each, s and s'. M_ij = s - s' where i is read first and j second, so both orders
are read: what counts is M_ij - M_ji. A candidate is chosen by the sum over all others (MaxLogits),
by how often it wins (MaxWins), or in one pass of a bubble sort, of N - 1 comparisons. GenFuser
writes a text of its own out of the input and the best three.

Letters of this file: X inputs of Z tokens, N candidates for each, of at most Y tokens; B of the
inputs or pairs, at once.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm

from moe import decoding, generation, models, schema, sharding
from moe.adapt.banks import Trained
from moe.batch import Batch
from moe.data import candidates
from moe.data.candidates import Candidates
from moe.evaluation import likelihood
from moe.models.pair_ranker import PairRankerConfig
from moe.objectives import fusing, pair_ranking

AT_ONCE = 256  # rows

# (i_X, j_X) -> above 0 where candidate i of an input is better than j
Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]


def both_orders(M_XNN: np.ndarray) -> np.ndarray:
    """M_ij - M_ji: what is said of two candidates in both orders, antisymmetric."""
    return M_XNN - M_XNN.swapaxes(1, 2)


def max_logits(M_XNN: np.ndarray) -> np.ndarray:
    """The score of each candidate, [X, N]: the sum over all others."""
    return both_orders(M_XNN).sum(2)


def max_wins(M_XNN: np.ndarray) -> np.ndarray:
    """How many comparisons each candidate wins, [X, N], of 2 (N - 1) in both orders.

    M_ii is 0: nobody wins it.
    """
    return (M_XNN > 0).sum(2) + (M_XNN < 0).sum(1)


def most_wins(M_XNN: np.ndarray) -> np.ndarray:
    """The candidate of each input with the most wins, of several that with the highest sum."""
    return np.lexsort((max_logits(M_XNN), max_wins(M_XNN)), axis=1)[:, -1]


def bubble(compare: Compare, order_XN: np.ndarray) -> np.ndarray:
    """The candidate of each input, [X], that is left after one pass of N - 1 comparisons.

    Args:
      compare: of two candidates, in both orders.
      order_XN: in which candidates are met; the one that is held stays where nothing is better.

    Raises:
      UserError: for fewer than two candidates.
    """
    number = order_XN.shape[1]
    schema.require(number > 1, f"expected two candidates or more for each input; got {number}")
    held_X = order_XN[:, 0]
    for next_X in order_XN.T[1:]:
        held_X = np.where(compare(next_X, held_X) > 0, next_X, held_X)
    return held_X


def of_matrix(M_XNN: np.ndarray) -> Compare:
    """Comparisons that are looked up."""
    both_XNN, x_X = both_orders(M_XNN), np.arange(len(M_XNN))
    return lambda i_X, j_X: both_XNN[x_X, i_X, j_X]


def compared(ranker: Trained, found: Candidates) -> np.ndarray:
    """M_XNN of all pairs in both orders; 0 of a candidate and itself.

    Args:
      ranker: a trained `models.pair_ranker`.
      found: the candidates.

    Raises:
      UserError: as `candidates.check`.
    """
    candidates.check(found)
    X, N, _ = found.candidate_XNY.shape
    pair_R2 = np.argwhere(~np.eye(N, dtype=bool))
    x_A = np.repeat(np.arange(X), len(pair_R2))
    pair_A2 = np.tile(pair_R2, (X, 1))
    M_XNN = np.zeros((X, N, N), np.float32)
    for some, padded in _chunks(len(x_A), "comparisons"):
        batch = pair_ranking.rows(found, x_A[padded], pair_A2[padded])
        score_B2 = scores(ranker.model, ranker.params, sharding.shard_batch(batch))
        difference_B = np.asarray(score_B2[:, 0] - score_B2[:, 1])[: len(some)]
        M_XNN[x_A[some], *pair_A2[some].T] = difference_B
    return M_XNN


@functools.partial(jax.jit, static_argnums=0)
def scores(model: PairRankerConfig, params: dict, batch: Batch) -> jax.Array:
    """The scores of both candidates of each row, [B, 2]."""
    found = models.build(model).apply(params, {}, batch, key=jax.random.key(0), train=False)
    return sharding.reshard(found.logits, "..")


def _chunks(number, title) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(some numbers, those filled up to as many as always) of all, under a progress bar."""
    for first in tqdm.trange(0, number, AT_ONCE, desc=title, disable=None):
        some = np.arange(first, min(first + AT_ONCE, number))
        yield some, np.minimum(first + np.arange(AT_ONCE), number - 1)


def continued(writer: Trained, input_XZ: np.ndarray, written: int, end: int) -> np.ndarray:
    """The most probable tokens after each input, one by one, [X, Y]; NONE after the end.

    Args:
      writer: a decoder.
      input_XZ: ids.
      written: Y.
      end: the token that ends a text.
    """
    return _written(writer, input_XZ.tolist(), written, end, "candidates")


def fused(fuser: Trained, found: Candidates, end: int) -> np.ndarray:
    """What an encoder-decoder writes of inputs and all of their candidates, [X, Y].

    Args:
      fuser: learned by the objective `fusing`.
      found: as many candidates as it learned from, in its order.
      end: the token that starts and ends a text.
    """
    read = fusing.inputs(found, fuser.model.vocab_size - 1)
    written = found.reference_XY.shape[1]
    return _written(fuser, [[end]] * len(read), written, end, "fused", read)


def _written(trained, prompts, steps, end, title, inputs=None):
    schema.require(bool(prompts), "expected one input or more to be continued; got none")
    weights = decoding.prepare(*trained)
    parts = []
    for some, padded in _chunks(len(prompts), title):
        given: dict[str, Any] = {"inputs": [inputs[i] for i in padded]} if inputs else {}
        few = [prompts[i] for i in padded]
        made_BY = generation.generate(trained.model, weights, few, steps, doc_id=end, **given)
        parts.append(made_BY[: len(some)])
    return candidates.ended(np.concatenate(parts), end)


def mean_log_p(judge: Trained, found: Candidates, which: int) -> np.ndarray:
    """Nats of a token of one of the candidates of each input by a model, [X], the mean.

    Args:
      judge: a decoder.
      found: the candidates.
      which: of them.
    """
    written = [ids[ids != candidates.NONE].tolist() for ids in found.candidate_XNY[:, which]]
    asked = zip(found.input_XZ.tolist(), written, strict=True)
    texts = [likelihood.Text(before, scored) for before, scored in asked]
    longest = found.input_XZ.shape[1] + found.candidate_XNY.shape[2]
    nats_X = likelihood.log_likelihoods(*judge, texts, longest=longest, title="likelihoods")
    return nats_X / np.array([len(ids) for ids in written])
