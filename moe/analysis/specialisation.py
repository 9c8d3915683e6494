"""What experts specialise in: how much of a token's expert a label tells, and how much is chance.

Measures are functions of a table of counts, [E, Y]: how often each expert meets each label. Each
comes with a null, the same measure of shuffled labels, and with an interval over documents, since
tokens of one document are alike. At many experts, information without its null means nothing.

Letters: X what is counted, a token's first choice or each of its choices; Y labels; R draws.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from moe.analysis.paired import Interval

Statistic = Callable[[np.ndarray], float | np.ndarray]  # of counts_EY
Shuffle = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # of label_X

HALF = float(stats.norm.ppf(0.975))  # standard errors in the half of a 95% interval
SEEN = 10  # occurrences that an id must have, as OLMoE asks of those it lists


class Sample(NamedTuple):
    """What is counted, in every layer."""

    expert_LX: np.ndarray  # below `experts`
    document_X: np.ndarray
    experts: int  # E


class Measured(NamedTuple):
    """A measure of one layer."""

    value: float
    half: float  # of its 95% interval, by a bootstrap over documents
    null: float  # its mean over shuffled labels
    null_high: float  # 95% of them lie below

    @property
    def above_chance(self) -> bool:
        """Does the whole interval lie above what 95% of the shuffled labels give?"""
        return self.value - self.half > self.null_high


def counted(
    expert_X: np.ndarray, label_X: np.ndarray, experts: int, labels: int,
    weight_X: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """counts_EY: how often, or with what weight, each expert meets each label."""
    flat = np.bincount(expert_X * labels + label_X, weight_X, minlength=experts * labels)
    return flat.reshape(experts, labels)


def information(counts_EY: np.ndarray) -> float:
    """Normalised mutual information: I(expert; label) / min(H(expert), H(label)).

    0 if they are independent, 1 if one tells the other. By the smaller entropy, so that labels with
    few and with many values compare (Vinh et al. 2010, table 2, NMI_min).
    """
    p_EY = counts_EY / counts_EY.sum()
    of_expert, of_label = _entropy(p_EY.sum(1)), _entropy(p_EY.sum(0))
    least = min(of_expert, of_label)
    return float((of_expert + of_label - _entropy(p_EY)) / least) if least > 0 else 0.0


def _entropy(p):
    some = p[p > 0]
    return -(some * np.log(some)).sum()


def vocabulary(counts_EV: np.ndarray) -> float:
    """The share of an id's occurrences that its most frequent expert takes, mean over ids.

    Vocabulary specialisation (Muennighoff et al. 2024, section 5.4). Of ids that are seen `SEEN`
    times: the mean that OLMoE's script prints is over all ids, and of a rare one the share is high
    by chance.
    """
    seen_V = counts_EV.sum(0)
    shares = counts_EV.max(0)[seen_V >= SEEN] / seen_V[seen_V >= SEEN]
    return float(shares.mean()) if len(shares) else 0.0


def shares(counts_EY: np.ndarray) -> np.ndarray:
    """The share of a label's choices that each expert takes, [E, Y]; chance is 1 / E.

    Of domains it is domain specialisation (Muennighoff et al. 2024, section 5.3).
    """
    return counts_EY / np.maximum(counts_EY.sum(0), 1)


def unevenness(counts_EY: np.ndarray) -> float:
    """How far a label's `shares` are from 1 / E, mean over labels: half the sum of differences.

    0 if every expert takes as much, 1 - 1 / E if one takes all.
    """
    return float(np.abs(shares(counts_EY) - 1 / len(counts_EY)).sum(0).mean() / 2)


def inside(group_X: np.ndarray) -> Shuffle:
    """Labels change places inside groups.

    Inside documents: for labels of tokens, and what is left is what documents alone tell. Inside
    the occurrences of an id: for any label, and what is left is what the vocabulary alone tells.
    """
    in_order = np.argsort(group_X, kind="stable")
    numbers_X = np.unique(group_X, return_inverse=True)[1]

    def shuffle(rng: np.random.Generator, label_X: np.ndarray) -> np.ndarray:
        mixed = np.argsort(numbers_X + rng.random(len(numbers_X)))
        found_X = np.empty_like(label_X)
        found_X[in_order] = label_X[mixed]
        return found_X

    return shuffle


def over(document_X: np.ndarray) -> Shuffle:
    """Whole documents change labels: for labels that all tokens of a document share."""
    _, first_D, number_X = np.unique(document_X, return_index=True, return_inverse=True)

    def shuffle(rng: np.random.Generator, label_X: np.ndarray) -> np.ndarray:
        return rng.permutation(label_X[first_D])[number_X]

    return shuffle


def measured(
    statistic: Statistic, sample: Sample, label_X: np.ndarray, shuffle: Shuffle, draws: int
) -> list[Measured]:
    """The measure in every layer, with its interval and its null.

    Args:
      statistic: `information`, `vocabulary` or `unevenness`.
      sample: what is counted.
      label_X: from 0 on.
      shuffle: `over` or `inside` documents, as the label is of documents or of tokens.
      draws: R, of shuffled labels and of resampled documents.
    """
    numbers = _numbers(statistic, sample, label_X, shuffle, draws)
    return [Measured(*map(float, layer)) for layer in zip(*numbers, strict=True)]


def of_each(
    sample: Sample, label_X: np.ndarray, shuffle: Shuffle, draws: int
) -> list[list[Measured]]:
    """In every layer, of every label: the `information` of having it or another.

    Args:
      sample, label_X, shuffle, draws: as of `measured`.
    """
    layers = zip(*_numbers(_each, sample, label_X, shuffle, draws), strict=True)
    return [[Measured(*map(float, own)) for own in zip(*layer, strict=True)] for layer in layers]


def _each(counts_EY):
    """[Y]."""
    all_E = counts_EY.sum(1)
    return np.array([information(np.stack([own_E, all_E - own_E], 1)) for own_E in counts_EY.T])


def _numbers(statistic, sample, label_X, shuffle, draws):
    """The fields of `Measured`, each with an axis of layers and the axes of the statistic."""
    null_RL = shuffled(statistic, sample, label_X, shuffle, draws)
    drawn_RL = _resampled(statistic, sample, label_X, draws)
    return (
        _of_layers(statistic, sample, label_X),
        HALF * drawn_RL.std(0, ddof=1),
        null_RL.mean(0),
        np.quantile(null_RL, 0.95, axis=0),
    )


def contrast(
    statistic: Statistic,
    sample: Sample,
    pair: Sequence[tuple[np.ndarray, Shuffle]],
    draws: int,
) -> list[Interval]:
    """How much more one label tells than another of the same tokens, both less their nulls.

    The interval is that of the difference, by a bootstrap over documents.

    Args:
      statistic, sample, draws: as of `measured`.
      pair: both labels, each with the way in which it is shuffled.
    """
    means, drawn = [], []
    for label_X, shuffle in pair:
        null_RL = shuffled(statistic, sample, label_X, shuffle, draws)
        means.append(_of_layers(statistic, sample, label_X) - null_RL.mean(0))
        drawn.append(_resampled(statistic, sample, label_X, draws))
    half_L = HALF * (drawn[0] - drawn[1]).std(0, ddof=1)
    pairs = zip(means[0] - means[1], half_L, strict=True)
    return [Interval(float(mean), float(half)) for mean, half in pairs]


def shuffled(
    statistic: Statistic, sample: Sample, label_X: np.ndarray, shuffle: Shuffle, draws: int
) -> np.ndarray:
    """The measure of shuffled labels, [R, L]."""
    rng = np.random.default_rng(0)
    return np.array([_of_layers(statistic, sample, shuffle(rng, label_X)) for _ in range(draws)])


def _resampled(statistic, sample, label_X, draws):
    """[R, L]."""
    weights = resamples(sample.document_X, draws)
    return np.array([_of_layers(statistic, sample, label_X, weight_X) for weight_X in weights])


def resamples(document_X: np.ndarray, draws: int) -> Iterator[np.ndarray]:
    """Of documents drawn with replacement, how often each is there, [X]: the same at every call."""
    rng = np.random.default_rng(1)
    number_X = np.unique(document_X, return_inverse=True)[1]
    documents = int(number_X.max()) + 1
    for _ in range(draws):
        times_D = rng.multinomial(documents, np.full(documents, 1 / documents))
        yield times_D[number_X]


def _of_layers(statistic, sample, label_X, weight_X=None):
    labels = int(label_X.max()) + 1
    experts = sample.experts
    return np.array(
        [statistic(counted(e_X, label_X, experts, labels, weight_X)) for e_X in sample.expert_LX]
    )
