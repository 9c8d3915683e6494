"""How choices go together: in one token, in one model as it learns, and in two models.

Letters as in `evaluation.traces`; E as an expert stands for no choice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from moe.analysis import paired, specialisation
from moe.analysis.paired import Interval
from moe.analysis.specialisation import Measured
from moe.evaluation import routing


def co_activation(
    expert_NK: np.ndarray, experts: int, adjacent: bool = False, weight_N: np.ndarray | None = None
) -> np.ndarray:
    """P(j is chosen | i is chosen), [E, E], 0 on its diagonal (Muennighoff et al. 2024, 5.2).

    Args:
      expert_NK: of one layer, in the order of their ranks.
      experts: E.
      adjacent: of all pairs in a token only those of neighbouring ranks count, as in OLMoE's
        script, which so misses most pairs of a large K. At K = 2 there are no others.
      weight_N: how often each token counts; None: once.
    """
    K = expert_NK.shape[1]
    pairs = [(a, b) for a in range(K) for b in range(a + 1, K) if b == a + 1 or not adjacent]
    together_EE = np.zeros((experts + 1, experts + 1))
    for a, b in pairs:
        counts = specialisation.counted(
            expert_NK[:, a], expert_NK[:, b], experts + 1, experts + 1, weight_N
        )
        together_EE += counts + counts.T
    weight_X = None if weight_N is None else np.repeat(weight_N, K)
    chosen_E = np.bincount(expert_NK.ravel(), weight_X, minlength=experts + 1)[:experts]
    return together_EE[:experts, :experts] / np.maximum(chosen_E, 1)[:, None]


def companions(
    expert_NK: np.ndarray, document_N: np.ndarray, experts: int, adjacent: bool, draws: int
) -> Measured:
    """The share of an expert's tokens that its most frequent companion has, too; mean over experts.

    The null is of choices that are shuffled over tokens, rank by rank.

    Args:
      expert_NK, experts, adjacent: as of `co_activation`.
      document_N: of the tokens.
      draws: of resampled documents, and of shuffled choices.
    """

    def most(expert_NK: np.ndarray, weight_N: np.ndarray | None = None) -> float:
        return float(co_activation(expert_NK, experts, adjacent, weight_N).max(1).mean())

    rng = np.random.default_rng(0)
    nulls = [most(_strangers(rng, expert_NK)) for _ in range(draws)]
    drawn = [most(expert_NK, weight_N) for weight_N in specialisation.resamples(document_N, draws)]
    half = specialisation.HALF * np.std(drawn, ddof=1)
    high = np.quantile(nulls, 0.95)
    return Measured(most(expert_NK), float(half), float(np.mean(nulls)), float(high))


def _strangers(rng, expert_NK):
    """Choices shuffled over tokens, without tokens that would be given one expert twice."""
    mixed_NK = rng.permuted(expert_NK, axis=0)
    in_order_NK = np.sort(mixed_NK, axis=1)
    return mixed_NK[(in_order_NK[:, 1:] != in_order_NK[:, :-1]).all(1)]


class Matching(NamedTuple):
    """The experts of one run beside those of another."""

    order_E: np.ndarray  # the other run's expert of each
    share: Interval  # of the tokens that go to matched experts in both, over documents
    null: float  # the same where one run's choices are shuffled over tokens, and matched anew


def matched(
    one_N: np.ndarray, other_N: np.ndarray, document_N: np.ndarray, experts: int
) -> Matching:
    """Experts that are given the same tokens: their numbers mean nothing across runs.

    The assignment that has most tokens in common (Kuhn 1955), on counts of first choices.

    Args:
      one_N, other_N: first choices of the same tokens.
      document_N: of the tokens.
      experts: E, of both.
    """
    order_E = _assigned(one_N, other_N, experts)
    mixed_N = np.random.default_rng(0).permutation(other_N)
    null = float((_assigned(one_N, mixed_N, experts)[one_N] == mixed_N).mean())
    same_N = order_E[one_N] == other_N
    return Matching(order_E, _share(same_N, np.ones_like(same_N), document_N), null)


def _assigned(one_N, other_N, experts):
    counts_EE = specialisation.counted(one_N, other_N, experts, experts)
    return optimize.linear_sum_assignment(counts_EE, maximize=True)[1]


def _share(same_N, all_N, document_N):
    """The sum of some over that of all, with its interval over documents."""
    number_N = np.unique(document_N, return_inverse=True)[1]
    same_D, all_D = (np.bincount(number_N, x_N) for x_N in (same_N, all_N))
    return paired.difference_over_documents(same_D, np.zeros_like(same_D), all_D)


class Saturation(NamedTuple):
    """The share of the later choices that were made before, in every layer."""

    top_k: list[Interval]  # of all choices, whatever their rank
    top_1: list[Interval]  # of first choices
    top_k_null: list[float]  # where the earlier ones are shuffled over tokens
    top_1_null: list[float]


def saturation(
    before_LNK: np.ndarray, after_LNK: np.ndarray, document_N: np.ndarray, experts: int
) -> Saturation:
    """Router saturation between two checkpoints (Muennighoff et al. 2024, section 5.1).

    Intervals are over documents, as of `paired.difference_over_documents`.

    Args:
      before_LNK, after_LNK: choices of the same tokens.
      document_N: of the tokens.
      experts: E.
    """
    mixed_LNK = np.random.default_rng(0).permutation(before_LNK, axis=1)
    intervals, nulls = [], []
    for K in (after_LNK.shape[-1], 1):
        before, after, mixed = (x[..., :K] for x in (before_LNK, after_LNK, mixed_LNK))
        layers = zip(before, after, strict=True)
        intervals.append([_kept(*layer, document_N, experts) for layer in layers])
        nulls.append(routing.agreement(mixed, after, experts))
    return Saturation(*intervals, *nulls)


def _kept(before_NK, after_NK, document_N, experts):
    """Of one layer."""
    made_NK = after_NK < experts
    same_NK = (after_NK[:, :, None] == before_NK[:, None]).any(-1) & made_NK
    return _share(same_NK.sum(-1), made_NK.sum(-1), document_N)


def over_time(lines: Sequence[dict]) -> dict[str, list]:
    """What a router did while it learned, from the lines of metrics.jsonl, a list over steps.

    Returns:
      step: of training lines.
      entropy: of a token's probabilities, nats, mean over layers; of routers that have some.
      load_entropy_L: of an expert's load, nats; log E when all are as busy.
      max_load_L: the largest load over the mean.
    """
    train = [line for line in lines if line["split"] == "train" and "load_LE" in line]
    found = {"step": [line["step"] for line in train]}
    if train and "entropy" in train[0]:
        found["entropy"] = [line["entropy"] for line in train]
    loads = [np.array(line["load_LE"]) for line in train]
    found["load_entropy_L"] = [_entropies(load_LE).tolist() for load_LE in loads]
    found["max_load_L"] = [(x.max(1) * x.shape[1] / x.sum(1)).tolist() for x in loads]
    return found


def _entropies(load_LE):
    p_LE = load_LE / load_LE.sum(1, keepdims=True)
    return -(p_LE * np.log(np.where(p_LE > 0, p_LE, 1))).sum(1)
