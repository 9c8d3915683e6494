"""Routers compared at equal FLOPs: a table, and the papers' claims set beside what came out.

Reads the records of results.jsonl (`experiments.study`), as `analysis.scaling` does.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from moe.analysis import paired, scaling


class Claim(NamedTuple):
    """That one router is better than another, or learns faster, as a paper says."""

    source: str
    says: str
    better: str  # a variant
    than: str
    faster: float = 0.0  # times fewer steps to the other's last loss; 0: the paper says "better"


def table(records: list[dict], baseline: str) -> str:
    """Every variant in Markdown, best first, against the baseline.

    Args:
      records: the lines of results.jsonl.
      baseline: the variant that differences and speeds are against.
    """
    runs = scaling.by_variant(records)
    if baseline not in runs:
        return f"no finished run of {baseline!r} yet: nothing to compare with"
    half = _half(runs)
    rows = [
        _row(name, seeds, runs[baseline], half) for name, seeds in _paired(runs, baseline).items()
    ]
    rows.sort(key=lambda row: float(row["test nats"]))
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[c] for c in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + _legend(baseline)


def _paired(runs, baseline):
    """Of each variant the seeds that the baseline has, too."""
    common = {
        name: {s: r for s, r in seeds.items() if s in runs[baseline]}
        for name, seeds in runs.items()
    }
    return {name: seeds for name, seeds in common.items() if seeds}


def _half(runs):
    """Of a difference's interval over seeds, from those that all variants have."""
    seeds = set.intersection(*(set(found) for found in runs.values()))
    return paired.pooled_half([[found[s]["test_nll"] for s in seeds] for found in runs.values()])


def _row(name, runs, baseline, half):
    one = next(iter(runs.values()))
    routing = [r["train_routing"] for r in runs.values()]
    base_one = next(iter(baseline.values()))
    documents = scaling.over_documents(runs, baseline)
    change = "" if name == base_one["variant"] else str(documents)
    if change and len(runs) > 1:
        seeds = paired.Interval(scaling.over_seeds(runs, baseline).mean, half)
        change = f"{seeds} ({len(runs)} seeds), ± {documents.half:.4f} (documents)"
    ratio = float(np.mean(scaling.steps_to_baseline(runs, baseline)))
    seconds = ratio * one.get("step_seconds", np.nan) / base_one.get("step_seconds", np.nan)

    def mean(key, shown="{:.2f}"):
        values = [r[key] for r in routing if key in r]
        return shown.format(np.mean(values)) if values else "-"

    return {
        "router": name,
        "test nats": f"{np.mean([r['test_nll'] for r in runs.values()]):.4f}",
        "Δ nats (95%)": change,
        "steps": "not reached" if ratio != ratio else f"{ratio:.0%}",
        "seconds": "-" if seconds != seconds else f"{seconds:.0%}",
        "ms/step": f"{1e3 * one['step_seconds']:.0f}" if "step_seconds" in one else "-",
        "executed FLOPs": f"{one['executed_flops'] / base_one['executed_flops'] - 1:+.2%}",
        "parameters": f"{one['total_parameters'] / 1e3:.0f}k",
        "dropped": mean("dropped", "{:.1%}"),
        "in test": f"{one['test']['dropped']:.1%}" if "dropped" in one.get("test", {}) else "-",
        "missed": mean("missed", "{:.1%}"),
        "realised K": mean("realised_k"),
        "max load": mean("max_load"),
        "unused": mean("unused", "{:.1f}"),
        "entropy": mean("entropy"),
    }


def _legend(baseline):
    return (
        f"Δ is the paired difference of test loss from {baseline}, with its 95% interval over seeds"
        " (if there are several; their spread is taken as the same for all models and estimated"
        " from all of them) and over test documents. steps, seconds: what it takes to reach"
        f" {baseline}'s last validation loss, as a share of what {baseline} took. ms/step: median,"
        f" measured side by side. executed FLOPs: of a training step, per token, from {baseline}'s."
        " dropped: choices without a slot; missed: tokens that no expert takes; realised K: choices"
        " a token; max load: largest over mean; unused: experts, of all; entropy: nats, of the"
        " router's probabilities. All of these over the last quarter of training, but for what was"
        " dropped in test: some routers choose otherwise there."
    )


def claims(records: list[dict], said: Iterable[Claim]) -> str:
    """The papers' claims in Markdown: what they say, what came out here, and whether they agree.

    A difference agrees if its 95% interval over documents (and that over seeds, as in `table`, if
    there are several) lies on the paper's side of 0; it is open if one of them contains 0.
    """
    runs = scaling.by_variant(records)
    half = _half(runs)
    lines = ["| source | claim | ours | agrees |", "| --- | --- | --- | --- |"]
    for claim in said:
        if claim.better in runs and claim.than in runs:
            ours, verdict = _judge(claim, runs[claim.better], runs[claim.than], half)
            lines.append(f"| {claim.source} | {claim.says} | {ours} | {verdict} |")
    return "\n".join(lines)


def _judge(claim, better, than, half):
    both = {s: r for s, r in better.items() if s in than}
    change = scaling.over_documents(both, than)
    half = max(change.half, np.nan_to_num(half))
    ours = f"{claim.better} less {claim.than}: {change.mean:+.4f} ± {half:.4f}"
    verdict = "open" if abs(change.mean) <= half else ("yes" if change.mean < 0 else "no")
    if claim.faster:
        ratio = np.mean(scaling.steps_to_baseline(both, than))
        reached = f"{1 / ratio:.2f}x fewer steps" if ratio == ratio else "never gets there"
        ours += f"; to the other's last loss: {reached}"
        if verdict == "yes":
            verdict = "yes" if ratio == ratio and 1 / ratio >= claim.faster else "less so"
    return ours, verdict
