"""Which expert takes most of a kind of token, in every layer, and whether it is more than chance.

First choices count. Letters: X tokens that have a kind, Y kinds, others as of traces.
"""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moe.analysis import specialisation
from moe.analysis.specialisation import Measured, Sample
from moe.evaluation.traces import Traces
from moe.explorer import charts, data

DRAWS = 100  # of shuffled kinds, and of documents
HATCHES = 4  # .h0 to .h3


class Kinds(NamedTuple):
    """A way to sort tokens."""

    title: str
    names: Sequence[str]  # of kinds; those without a name are not shown
    of_N: np.ndarray  # places in `names`, -1 of tokens that are left out
    of_documents: bool = False  # are all tokens of a document of one kind?


class Taken(NamedTuple):
    """What the expert that takes most of a kind takes, in one layer."""

    expert: int
    of_kind: float  # share of the tokens of the kind
    of_all: float  # share of all tokens that are sorted
    told: Measured  # what being of the kind tells of the expert


class Row(NamedTuple):
    """A kind of token that the text has."""

    kind: int  # its place
    tokens: int
    layers: list[Taken]


class Chosen(NamedTuple):
    """What a run chose."""

    name: str
    traces: Traces
    experts: int  # E


def rows(kinds: Kinds, chosen: Chosen, document_N: np.ndarray) -> list[Row]:
    """Every kind that has a name and a token; documents are what intervals are over."""
    kept_N = kinds.of_N >= 0
    if not kept_N.any():
        return []
    label_X, document_X = kinds.of_N[kept_N], document_N[kept_N]
    first_LX = chosen.traces.expert_LNK[:, kept_N, 0]
    sample = Sample(first_LX, document_X, chosen.experts + 1)  # the last one is none
    unit = specialisation.over if kinds.of_documents else specialisation.inside
    told_LY = specialisation.of_each(sample, label_X, unit(document_X), DRAWS)
    labels = len(told_LY[0])
    counts = [specialisation.counted(x, label_X, sample.experts, labels) for x in first_LX]
    layers = [_taken(*layer) for layer in zip(counts, told_LY, strict=True)]
    count_Y = counts[0].sum(0)
    return [
        Row(kind, int(count_Y[kind]), [layer[kind] for layer in layers])
        for kind in range(labels)
        if kinds.names[kind] and count_Y[kind]
    ]


def _taken(counts_EY, told_Y):
    """Of every kind, in one layer."""
    of_kind_EY = specialisation.shares(counts_EY)
    of_all_E = counts_EY.sum(1) / counts_EY.sum()
    most_Y = counts_EY[:-1].argmax(0)
    return [
        Taken(int(e), float(of_kind_EY[e, kind]), float(of_all_E[e]), told)
        for kind, (e, told) in enumerate(zip(most_Y, told_Y, strict=True))
    ]


def packed(sorted_by: Sequence[Kinds]) -> dict:
    """The kinds of all tokens for the page's script, [ways to sort, N]: 0 none, 1 the first."""
    return data.packed(np.stack([kinds.of_N + 1 for kinds in sorted_by]))


def section(sorted_by: Sequence[Kinds], runs: Sequence[Chosen], document_N: np.ndarray) -> str:
    """The part of the page that says it, a table for each run."""
    tables = [_table(sorted_by, number, run, document_N) for number, run in enumerate(runs)]
    documents = len(np.unique(document_N))
    return (
        '<section aria-labelledby="takers"><h2 id="takers">Which expert takes what</h2>'
        f'<p class="help">{LEGEND.format(tokens=len(document_N), documents=documents)}</p>'
        f"{''.join(tables)}</section>"
    )


LEGEND = (
    "For each kind of token the expert that takes most of it, by first choices, in {tokens:,}"
    " tokens of {documents:,} documents; “of all” are all tokens that are sorted so. Choose an"
    " expert to go to its tokens of that kind in the text. Below: what a token's being of the kind"
    " tells of its expert, 0 nothing and 1 all (normalised mutual information, with its 95%"
    f" interval over documents); and by chance, the mean over {DRAWS} shuffles of the kinds, inside"
    " documents or, of domains, over documents, with what 95% of them stay below. More than chance:"
    " the whole interval is above that."
)


def _table(sorted_by, number, run, document_N):
    depth = len(run.traces.expert_LNK)
    head = "".join(f'<th scope="col">MoE layer {layer}</th>' for layer in range(depth))
    body = "".join(
        _group(group, kinds, number, rows(kinds, run, document_N))
        for group, kinds in enumerate(sorted_by)
    )
    return (
        f'<div class="wide"><table class="takers"><caption>{html.escape(run.name)}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead>{body}</table></div>"
    )


def _group(group, kinds, number, found):
    lines = []
    for kind, tokens, layers in found:
        name = html.escape(kinds.names[kind])
        cells = [
            _cell(taken, name, (number, layer, taken.expert, group, kind))
            for layer, taken in enumerate(layers)
        ]
        lines.append(
            f'<tr><th scope="row">{name}<small>{tokens:,} tokens</small></th>{"".join(cells)}</tr>'
        )
    title = f'<tr><th scope="rowgroup">{html.escape(kinds.title)}</th></tr>'
    return f"<tbody>{title}{''.join(lines)}</tbody>" if found else ""


def _cell(taken, name, at):
    """What the script needs is in data-at: run, layer, expert, way to sort, kind."""
    expert, of_kind, of_all, told = taken
    paint = f"c{expert % charts.COLOURS} h{expert // charts.COLOURS % HATCHES}"
    verdict = "<b>more than chance</b>" if told.above_chance else "not more than chance"
    action = f"{expert}: show what it takes of {name} in MoE layer {at[1]}"
    place = " ".join(map(str, at))
    return (
        f'<td>expert <button type="button" class="swatch {paint}" aria-label="{action}"'
        f' data-at="{place}">{expert}</button>'
        f" takes {_percent(of_kind)} of it, {_percent(of_all)} of all: {verdict}"
        f"<small>{told.value:.3f} ± {told.half:.3f}; by chance {told.null:.3f}, 95% below"
        f" {told.null_high:.3f}</small></td>"
    )


def _percent(share):
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"
