"""What the sources say that experts specialise in, beside what ours do."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from moe.analysis import claims, markdown, paired, specialists
from moe.analysis.paired import Interval
from moe.analysis.specialists import Measures

BASE = "e32_top2"  # what pools are compared with
POOLED = "emo"  # in the names of models with document pools
ST_MOE = "ST-MoE (Zoph et al. 2022)"
EMO = "EMO (arXiv 2605.06663)"
SYNTAX, LANGUAGE = (specialists.contrast_of(*pair) for pair in specialists.CONTRASTS)


class Claim(NamedTuple):
    """What a source says of a measure."""

    words: str
    source: str
    measure: str
    above: bool = True  # 0; or below
    pools: bool = False  # said of models with document pools, or of others
    change: bool = False  # said of the difference from BASE


CLAIMS = (
    Claim("verbs have their experts", ST_MOE, "verb"),
    Claim("punctuation has its experts", ST_MOE, "punctuation"),
    Claim("numbers have their experts", ST_MOE, "number"),
    Claim("syntax tells more than topic", ST_MOE, SYNTAX),
    Claim("syntax tells more than language", ST_MOE, LANGUAGE),
    Claim("in pools topic tells more than syntax", EMO, SYNTAX, above=False, pools=True),
    Claim("in pools domains tell more", EMO, specialists.DOMAINS, pools=True, change=True),
)
SAID = {"yes": "agrees", "no": "disagrees", "open": "open"}
LEGEND = (
    "ours: a measure less its null; the difference between two labels of the same tokens (parts of"
    " speech and topics in English, kinds of token and languages in the encyclopedias), each less"
    " its null; or the difference of pools from top-k with the same seeds. agrees: the interval"
    " lies on the claimed side of 0. ST-MoE found syntax in encoders, and little in decoders"
    " (section 7.2); ours are decoders. At so many tokens nearly all is above its null: its size"
    " counts."
)


def text(found: Iterable[dict]) -> str:
    """A row for each claim, model and layer: ours with its interval, and whether it agrees."""
    table = specialists.by_model(found)
    rows = [
        _row(claim, table, model, layer)
        for claim in CLAIMS
        for model, own in table.items()
        if (POOLED in model) == claim.pools
        for layer in range(len(own[claim.measure][0]))
    ]
    head = ("claim", "source", "model", "layer", "ours (95%)", "")
    return f"{markdown.table(head, rows)}\n\n{LEGEND}"


def _row(claim, table, model, layer):
    own = ours(claim, table, model, layer)
    return claim.words, claim.source, model, f"{layer}", f"{own}", verdict(own, claim.above)


def ours(claim: Claim, table: dict[str, Measures], model: str, layer: int) -> Interval:
    """What a claim is about, in one layer of a model."""
    own = table[model][claim.measure]
    if not claim.change:
        return specialists.over_seeds(own, layer, less="null")
    base = table[BASE][claim.measure]
    pairs = zip(own, base, strict=True)
    seeds = paired.interval([_excess(a[layer]) - _excess(b[layer]) for a, b in pairs])
    documents = [specialists.documents_half(measure, layer) for measure in (own, base)]
    half = np.hypot.reduce([*documents, np.nan_to_num(seeds.half)])
    return Interval(seeds.mean, float(half))


def _excess(one):
    return one["value"] - one["null"]


def verdict(found: Interval, above: bool) -> str:
    """Does an interval lie on the claimed side of 0?"""
    return SAID[claims.verdict(*found.ends, claims.ABOVE if above else claims.BELOW)]
