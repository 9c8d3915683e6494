"""What the traces of models say, measure by measure: a list over layers of value, half and null.

half: of the 95% interval over documents. null: what chance gives.
"""

import numpy as np

from experiments.traced import Label, Traced
from moe.analysis import choices, specialisation, specialists
from moe.analysis.specialisation import Sample

AMONG_IDS = 10  # times that labels are shuffled among the occurrences of an id

Measures = dict[str, list[dict]]


def of_labels(own: Traced, labels: dict[str, Label], draws: int) -> Measures:
    """How much labels tell of first choices, and how much more one tells than another.

    `same_ids` is what would be left if labels were shuffled among the occurrences of an id.
    """
    found = {name: _of_label(own, label, draws) for name, label in labels.items()}
    for one, other in specialists.CONTRASTS:
        name = specialists.contrast_of(one, other)
        found[name] = _contrast(own, labels[one], labels[other], draws)
    return found


def _of_label(own, label, draws):
    kept_N = label.of >= 0
    label_X = label.of[kept_N]
    sample, shuffle = _sample(own, kept_N, label.of_documents)
    count = specialisation.information
    layers = specialisation.measured(count, sample, label_X, shuffle, draws)
    among = specialisation.inside(own.tokens.token_N[kept_N])
    left_RL = specialisation.shuffled(count, sample, label_X, among, min(AMONG_IDS, draws))
    pairs = zip(layers, left_RL.mean(0).tolist(), strict=True)
    return [layer._asdict() | {"same_ids": left} for layer, left in pairs]


def _sample(own, kept_N, of_documents):
    """First choices, and how a label is shuffled."""
    document_X = own.document_N[kept_N]
    sample = Sample(own.tokens.expert_LNK[:, kept_N, 0], document_X, own.experts)
    unit = specialisation.over if of_documents else specialisation.inside
    return sample, unit(document_X)


def _contrast(own, one, other, draws):
    """Of the tokens that have both labels."""
    kept_N = (one.of >= 0) & (other.of >= 0)
    pairs = []
    for label in (one, other):
        sample, shuffle = _sample(own, kept_N, label.of_documents)
        pairs.append((label.of[kept_N], shuffle))
    layers = specialisation.contrast(specialisation.information, sample, pairs, draws)
    return [{"value": layer.mean, "half": layer.half, "null": 0.0} for layer in layers]


def of_choices(own: Traced, draws: int) -> Measures:
    """OLMoE's measures of one checkpoint."""
    tokens = own.tokens
    found = {
        specialists.READ: tokens.token_N,
        specialists.PREDICTED: tokens.predicted_N,
        specialists.NEXT: tokens.target_N,
    }
    sample, shuffle = _sample(own, tokens.token_N >= 0, of_documents=False)
    made = {
        name: _plain(
            specialisation.measured(specialisation.vocabulary, sample, id_N, shuffle, draws)
        )
        for name, id_N in found.items()
    }
    made[specialists.DOMAINS] = _plain(_domains(own, draws))
    given = own.document_N, own.experts
    for name, adjacent in ((specialists.PAIRS, False), (specialists.ADJACENT, True)):
        made[name] = _plain(
            [choices.companions(e_NK, *given, adjacent, draws) for e_NK in tokens.expert_LNK]
        )
    return made


def _domains(own, draws):
    """Of all choices, not of first ones alone."""
    L, N, K = own.tokens.expert_LNK.shape
    document_X, domain_X = (np.repeat(x_N, K) for x_N in (own.document_N, own.tokens.domain_N))
    sample = Sample(own.tokens.expert_LNK.reshape(L, N * K), document_X, own.experts)
    shuffle = specialisation.over(document_X)
    return specialisation.measured(specialisation.unevenness, sample, domain_X, shuffle, draws)


def _plain(layers):
    return [layer._asdict() for layer in layers]


def saturated(early: Traced, late: Traced, step: int) -> Measures:
    """How many of a model's choices were made at an earlier step, too."""
    found = choices.saturation(
        early.tokens.expert_LNK, late.tokens.expert_LNK, late.document_N, late.experts
    )
    parts = {"top-K": found[::2], "top-1": found[1::2]}
    return {
        f"{specialists.SATURATION} {kind} since step {step}": _of_intervals(*part)
        for kind, part in parts.items()
    }


def _of_intervals(layers, nulls):
    pairs = zip(layers, nulls, strict=True)
    return [{"value": layer.mean, "half": layer.half, "null": null} for layer, null in pairs]


def matched(one: Traced, other: Traced) -> Measures:
    """How many tokens go to the same expert in two runs, when experts have found each other."""
    pairs = zip(one.tokens.expert_LNK, other.tokens.expert_LNK, strict=True)
    layers = [
        choices.matched(a_NK[:, 0], b_NK[:, 0], one.document_N, one.experts) for a_NK, b_NK in pairs
    ]
    nulls = [layer.null for layer in layers]
    return {specialists.MATCHED: _of_intervals([layer.share for layer in layers], nulls)}
