"""What experts specialise in, over models and seeds: tables and a figure.

A measure is a list over layers of value, half (of the 95% interval over documents) and null.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moe.analysis import markdown, paired, plots
from moe.analysis.paired import Interval

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

SPEECH, TOPIC, KIND, LANGUAGE = "part of speech", "topic", "kind of token", "language"
CONTRASTS = ((SPEECH, TOPIC), (KIND, LANGUAGE))  # of the same tokens
READ, PREDICTED, NEXT = "vocabulary: id read", "vocabulary: id predicted", "vocabulary: id next"
DOMAINS = "domains"
PAIRS, ADJACENT = "companions", "companions of adjacent ranks"
SATURATION = "saturation"
MATCHED = "matched between seeds"

Measure = list[list[dict]]  # of every seed, or pair of seeds: of every layer
Measures = dict[str, Measure]


def contrast_of(one: str, other: str) -> str:
    """The name of how much more one label tells than another."""
    return f"{one} less {other}"


def by_model(found: Iterable[dict]) -> dict[str, Measures]:
    """The measures of every model."""
    table: dict[str, Measures] = {}
    for one in found:
        own = table.setdefault(one["variant"], {})
        for name, layers in one["measures"].items():
            own.setdefault(name, []).append(layers)
    return table


def over_seeds(measure: Measure, layer: int, field: str = "value", less: str = "") -> Interval:
    """The mean over seeds; its interval is of documents, which all share, and of seeds, if several.

    Args:
      measure: of all seeds.
      layer: from 0 on.
      field: what is averaged.
      less: a field that is subtracted, as "null".
    """
    layers = [seed[layer] for seed in measure]
    seeds = paired.interval([one[field] - (one[less] if less else 0) for one in layers])
    half = np.hypot(documents_half(measure, layer), np.nan_to_num(seeds.half))
    return Interval(seeds.mean, float(half))


def documents_half(measure: Measure, layer: int) -> float:
    """Half of the interval over documents, which are the same for all seeds."""
    return float(np.mean([seed[layer]["half"] for seed in measure]))


def text(found: Sequence[dict]) -> str:
    """The tables: what labels tell, OLMoE's measures, and routers over time."""
    table = by_model(found)
    told = {contrast_of(*pair) for pair in CONTRASTS}
    names = list(dict.fromkeys(name for own in table.values() for name in own))
    labels = [name for name in names if "same_ids" in _any(table, name)[0][0]]
    others = [name for name in names if name not in told and name not in labels]
    return "\n\n".join(
        (
            _measures("label", labels, table, ("value", "null", "same ids")),
            LABELS,
            _measures("measure", others, table, ("value", "null")),
            CHOICES,
            _over_time(found),
        )
    )


LABELS = (
    "What a label tells of a token's first expert: mutual information over the smaller of the two"
    " entropies, 1 if one tells the other. null: labels shuffled, those of tokens inside their"
    " document, those of documents (domain, topic, language) over documents. same ids: labels"
    " shuffled among the occurrences of an id: what the vocabulary alone tells, all of it if an id"
    " decides the label, as kinds of token, punctuation and number. Parts of speech and topics are"
    " of English text, languages of the three encyclopedias. ±: 95%, of documents and, with several"
    " seeds, of seeds."
)
CHOICES = (
    "Measures of OLMoE (Muennighoff et al. 2024, section 5). vocabulary: the share of an id's"
    " occurrences that its commonest expert takes, mean over ids seen 10 times. domains: how far"
    " the shares of a domain's choices are from 1 / E, half the sum of differences. companions:"
    " the share of an expert's tokens that its commonest companion has, over all pairs of ranks;"
    " adjacent ranks alone, as OLMoE's script counts, are the same at K = 2. saturation: the share"
    " of choices that an earlier checkpoint made. matched: the share of tokens that go to the same"
    " expert in two runs, when experts are paired by the tokens that they share (Hungarian). null:"
    " labels or choices shuffled."
)


def _any(table, name):
    return next(own[name] for own in table.values() if name in own)


def _measures(kind, names, table, columns):
    """A row for each measure and model."""
    depth = len(_any(table, names[0])[0])
    head = [f"{column}, layer {layer}" for layer in range(depth) for column in columns]
    rows = [
        (name, model, *(c for layer in range(depth) for c in _cells(own[name], layer, columns)))
        for name in names
        for model, own in table.items()
        if name in own
    ]
    return markdown.table((kind, "model", *head), rows)


def _cells(measure, layer, columns):
    shown = [_number(over_seeds(measure, layer))]
    for column in columns[1:]:
        mean = np.mean([seed[layer][column.replace(" ", "_")] for seed in measure])
        shown.append(f"{mean:.4f}")
    return shown


def _number(found):
    return f"{found.mean:.4f} ± {found.half:.4f}"


def _over_time(found):
    """At the first and the last logged step of training, means over layers."""
    rows = []
    for one in found:
        if "over_time" in one:
            log = one["over_time"]
            series = (log["entropy"], log["load_entropy_L"], log["max_load_L"])
            ends = (f"{np.mean(x[0]):.3f} to {np.mean(x[-1]):.3f}" for x in series)
            steps = f"{log['step'][0]} to {log['step'][-1]}"
            rows.append((one["variant"], f"{one['seed']}", steps, *ends))
    head = ("router entropy, nats", "load entropy, nats", "largest load over mean")
    return markdown.table(("model", "seed", "steps", *head), rows)


def drawn(found: Sequence[dict]) -> figure.Figure:
    """What every label tells in every model, a panel for each layer; small lines are the nulls."""
    table = by_model(found)
    first = next(iter(table.values()))
    labels = [name for name, measure in first.items() if "same_ids" in measure[0][0]]
    depth = len(first[labels[0]][0])
    made = plots.blank(figsize=(6 * depth + 2, 0.75 * len(labels) + 1.6))
    axes = made.subplots(1, depth, sharey=True, squeeze=False)[0]
    for layer, axis in enumerate(axes):
        for index, (model, own) in enumerate(table.items()):
            _points(axis, [own[name] for name in labels], layer, index, model, len(table))
        axis.set_title(f"MoE layer {layer}", fontsize=13)
        axis.set_xlabel("information of a label (cut at the frame)", fontsize=13)
        axis.set_xlim(-0.05, 1.05)
        axis.tick_params(labelsize=12)
        axis.grid(alpha=0.4)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    handles, names = axes[0].get_legend_handles_labels()
    made.legend(handles, names, fontsize=12, loc="outside upper center", ncols=len(table))
    return made


SHADES = ("black", "0.45", "C0", "C1")
MARKERS = ("o", "s", "^", "D")


def _points(axis, measures, layer, index, model, models):
    """One model's, each label's a little below the model's before."""
    places = np.arange(len(measures)) + 0.7 * ((index + 0.5) / models - 0.5)
    found = [over_seeds(measure, layer) for measure in measures]
    nulls = [np.mean([seed[layer]["null"] for seed in measure]) for measure in measures]
    shade = SHADES[index % len(SHADES)]
    axis.errorbar(
        [one.mean for one in found], places, xerr=[one.half for one in found],
        fmt=MARKERS[index % len(MARKERS)], ms=9, capsize=4, color=shade, label=model,
        markerfacecolor="none" if index % 2 else shade,
    )  # fmt: skip
    axis.plot(nulls, places, "|", ms=12, mew=2, color=shade)
