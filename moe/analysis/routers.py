"""Routers compared at equal FLOPs: a table, and the papers' claims set beside what came out.

Reads the records of results.jsonl (`experiments.study`), as `analysis.scaling` does.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from moe.analysis import markdown, paired, scaling
from moe.analysis.claims import Region, verdict


class Claim(NamedTuple):
    """That one router is better than another, or learns faster, as a paper says."""

    source: str
    says: str
    better: str  # a variant
    than: str
    faster: float = 0.0  # times fewer steps to the other's last loss; 0: the paper says "better"
    within: float = 0.0  # nats that it may be worse; 0: the paper says "better"


def table(records: list[dict], baseline: str) -> str:
    """Every variant in Markdown, best first, against the baseline.

    Args:
      records: the lines of results.jsonl.
      baseline: the variant that differences and speeds are against.
    """
    runs = scaling.by_variant(records)
    if baseline not in runs:
        return f"no finished run of {baseline!r} yet: nothing to compare with"
    found = scaling.common(runs, runs[baseline])
    order = sorted(found, key=lambda name: scaling.mean(found[name], "test_nll"))
    rows = [_row(name, runs, baseline) for name in order]
    text = markdown.table(rows[0], (row.values() for row in rows))
    return f"{text}\n\n{_legend(baseline)}\n\n{scaling.trained_on(records)}"


def difference(
    runs: dict[str, dict[int, dict]], name: str, than: str
) -> tuple[paired.Interval, float, int]:
    """Of two variants: the difference with its interval over documents, half of that over seeds.

    The latter is NaN with one seed. Its spread is that of all variants with experts which have
    these seeds, see `paired.seeds_half`. The third result is the number of seeds.
    """
    both = scaling.shared(runs[name], runs[than])
    half = paired.seeds_half(_pool(runs, both), name, than)
    return scaling.over_documents(both, runs[than]), half, len(both)


def together(documents: paired.Interval, half: float) -> paired.Interval:
    """The interval over documents and seeds, of what `difference` returns."""
    return documents._replace(half=math.hypot(documents.half, half))


def _pool(runs, seeds):
    """Test losses of the variants with experts that have these seeds."""
    return {
        name: [found[s]["test_nll"] for s in seeds]
        for name, found in runs.items()
        if seeds.keys() <= found.keys() and scaling.first(found)["experts"]
    }


def _row(name, runs, baseline):
    both = scaling.shared(runs[name], runs[baseline])
    one = scaling.first(both)
    base = scaling.first(runs[baseline])
    ratio = float(np.mean(scaling.steps_to_baseline(both, runs[baseline])))
    seconds = ratio * one.get("step_seconds", np.nan) / base.get("step_seconds", np.nan)

    def routing(key: str, shown: str = "{:.2f}", where: str = "train_routing") -> str:
        values = [r[where][key] for r in both.values() if key in r.get(where, {})]
        return shown.format(np.mean(values)) if values else "-"

    return {
        "router": name,
        "seeds": str(len(both)),
        "test nats": f"{scaling.mean(both, 'test_nll'):.4f}",
        "Δ nats (95%)": "" if name == baseline else _change(*difference(runs, name, baseline)),
        "steps": "not reached" if math.isnan(ratio) else f"{ratio:.0%}",
        "seconds": "-" if math.isnan(seconds) else f"{seconds:.0%}",
        "ms/step (least)": (
            f"{1e3 * one['step_seconds']:.0f} ({1e3 * one['step_seconds_least']:.0f})"
            if "step_seconds" in one
            else "-"
        ),
        "executed FLOPs": f"{one['executed_flops'] / base['executed_flops'] - 1:+.2%}",
        "all operations": f"{one['all_flops'] / base['all_flops'] - 1:+.2%}",
        "parameters": f"{one['total_parameters'] / 1e3:.0f}k",
        "dropped": routing("dropped", "{:.1%}"),
        "in test": routing("dropped", "{:.1%}", "test"),
        "unrouted": routing("unrouted", "{:.1%}"),
        "realised K": routing("realised_k"),
        "max load": routing("max_load"),
        "unused": routing("unused", "{:.1f}"),
        "entropy": routing("entropy"),
    }


def _change(documents, half, seeds):
    over_seeds = "" if math.isnan(half) else f", ± {half:.4f} ({seeds} seeds)"
    return f"{documents} (documents){over_seeds}"


def _legend(baseline):
    return (
        f"Δ is the paired difference of test loss from {baseline}, with its 95% interval over test"
        " documents and, if there are several, over seeds; the spread over seeds is taken as the"
        " same for all models with experts, and estimated from all of them, but for those that an F"
        " test sets apart (p < 0.001), which have their own. No interval is widened"
        " for the number of comparisons. steps, seconds: what it takes to reach"
        f" {baseline}'s last validation loss, as a share of what {baseline} took; not reached: by"
        " one seed at least. ms/step: median of a training step on one device, measured side by"
        " side (in brackets the least). executed FLOPs: of the matrix products of a training step,"
        f" per token, from {baseline}'s; all operations: every operation of it, sorts and the"
        " optimizer's, too. dropped: choices without a slot; unrouted: tokens that no expert takes;"
        " realised K: choices a token; max load: largest over mean; unused: experts, of all;"
        " entropy: nats, of the router's probabilities. All of these over the last quarter of"
        " training, but for what was dropped in test: some routers choose otherwise there."
    )


def claims(records: list[dict], said: Iterable[Claim]) -> str:
    """The papers' claims in Markdown: what they say, what came out here, and whether they agree.

    The legend under the table says how it is judged. Claims about runs that are missing are left
    out.
    """
    runs = scaling.by_variant(records)
    rows = [(c.source, c.says, *_judge(c, runs)) for c in said if _can_be_judged(c, runs)]
    return markdown.table(("source", "claim", "ours", "agrees"), rows) + (
        "\n\nOurs is a difference of test loss in nats per token, ± half of a 95% interval over"
        " documents and seeds together, and in brackets what each drops in training. yes, no: the"
        " interval lies on one side of 0; open: it does not; with one seed nothing is judged."
        ' Where a paper says "so many times faster", yes needs that many in every seed, and less so'
        ' is a speed between 1 and that. Where it says "no worse", the interval lies on one side of'
        " the nats in brackets. No interval is widened for the number of claims."
    )


def _can_be_judged(claim, runs):
    """Have both variants been run with a seed in common?"""
    return bool(runs.get(claim.better, {}).keys() & runs.get(claim.than, {}).keys())


def _judge(claim, runs):
    documents, half, seeds = difference(runs, claim.better, claim.than)
    both = scaling.shared(runs[claim.better], runs[claim.than])
    whole = together(documents, half)
    shown = f"± {documents.half:.4f} (documents)" if math.isnan(half) else f"± {whole.half:.4f}"
    ours = f"{claim.better} less {claim.than}: {documents.mean:+.4f} {shown}"
    drops = [_dropped(runs[name]) for name in (claim.better, claim.than)]
    ours += f" ({drops[0]} against {drops[1]} dropped)"
    speeds = [1 / ratio for ratio in scaling.steps_to_baseline(both, runs[claim.than])]
    if claim.faster:
        least = min(speeds) if not any(map(math.isnan, speeds)) else 0.0
        ours += f"; {np.mean(speeds):.2f} times the speed" if least else "; never gets there"
    if seeds < 2 or math.isnan(half):
        return ours, "one seed"
    found = verdict(*whole.ends, Region(high=claim.within))
    if found != "yes":
        return ours, found
    if claim.faster and least <= 1:
        return ours, "no"
    return ours, "less so" if claim.faster and least < claim.faster else "yes"


def _dropped(runs):
    values = [r["train_routing"]["dropped"] for r in runs.values() if r["train_routing"]]
    return f"{np.mean(values):.1%}" if values else "nothing"
