"""The equal-FLOPs comparison as a table: what each model costs, reaches, and saves.

Reads the records of results.jsonl (`experiments.study`). Everything "against dense" is paired by
seed, with the baseline called "dense".
"""

import math
from collections.abc import Iterable

import numpy as np

from moe import flops
from moe.analysis import paired

BASELINE = "dense"


def by_variant(records: Iterable[dict]) -> dict[str, dict[int, dict]]:
    """variant -> seed -> record."""
    table: dict[str, dict[int, dict]] = {}
    for record in records:
        table.setdefault(record["variant"], {})[record["seed"]] = record
    return table


def difference(runs: dict[int, dict], baseline: dict[int, dict]) -> tuple[paired.Interval, str]:
    """The test loss against the baseline's, nats per token, and what its interval is over.

    Over seeds if two or more are paired, else over the documents of the test set.

    Raises:
      ValueError: if no seed is in both.
    """
    seeds = _shared(runs, baseline)
    if len(seeds) > 1:
        changes = [runs[s]["test_nll"] - baseline[s]["test_nll"] for s in seeds]
        return paired.interval(changes), f"{len(seeds)} seeds"
    a, b = runs[seeds[0]], baseline[seeds[0]]
    over = paired.difference_over_documents(
        a["test_rows_nll"], b["test_rows_nll"], a["test_rows_tokens"], a["test_rows_document"]
    )
    return over, "documents"


def steps_to_baseline(runs: dict[int, dict], baseline: dict[int, dict]) -> list[float]:
    """Per seed: steps to the baseline's last validation loss, over those of the baseline to it."""
    pairs = [(runs[s], baseline[s]) for s in _shared(runs, baseline)]
    return [_reach(run, base["curve_nll"][-1]) / _reach(base, base["curve_nll"][-1])
            for run, base in pairs]  # fmt: skip


def _reach(run, target):
    return paired.first_reach(run["curve_steps"], run["curve_nll"], target)


def _shared(runs, baseline):
    seeds = sorted(runs.keys() & baseline.keys())
    if not seeds:
        raise ValueError(f"no common seed: {sorted(runs)} against {sorted(baseline)} of {BASELINE}")
    return seeds


def table(records: list[dict], watts: float) -> str:
    """The comparison as a Markdown table with its legend.

    Args:
      records: the lines of results.jsonl.
      watts: a stated power, for the energy column.
    """
    runs = by_variant(records)
    if BASELINE not in runs:
        return f"no finished run of {BASELINE!r} yet: nothing to compare with"
    baseline = runs[BASELINE]
    paired_only = {
        name: {s: r for s, r in seeds.items() if s in baseline} for name, seeds in runs.items()
    }
    rows = [_row(name, seeds, baseline, watts) for name, seeds in paired_only.items() if seeds]
    head = list(rows[0])
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(row[column] for column in head) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n\n" + _legend(watts)


def _row(name, runs, baseline, watts):
    one = next(iter(runs.values()))
    ratios = steps_to_baseline(runs, baseline)
    change, over = difference(runs, baseline)
    flops_ratio = one["executed_flops"] / _one(baseline)["executed_flops"]
    routing = one["train_routing"]
    row = {
        "model": name,
        "parameters": _count(one["total_parameters"]),
        "active": _count(one["active_parameters"]),
        "ideal FLOPs/token": _count(one["ideal_flops"]),
        "executed": _count(one["executed_flops"]),
        "against dense": f"{flops_ratio - 1:+.2%}",
        "evaluating": f"{one['eval_flops'] / _one(baseline)['eval_flops'] - 1:+.2%}",
        "tokens": _count(one["steps"] * one["tokens_per_step"]),
        "seeds": str(len(runs)),
        "test nats": f"{_mean(runs, 'test_nll'):.4f}",
        "bits/byte": f"{_mean(runs, 'test_bits_per_byte'):.4f}",
        "Δ nats (95%)": "" if name == BASELINE else f"{change} ({over})",
        "steps": _share(ratios),
        "FLOPs": _share([r * flops_ratio for r in ratios]),
    }
    if "step_seconds" in one:
        slower = one["step_seconds"] / _one(baseline)["step_seconds"]
        seconds = one["steps"] * one["step_seconds"]
        row["seconds"] = _share([r * slower for r in ratios])
        row["ms/step"] = f"{1e3 * one['step_seconds']:.0f}"
        row["kWh (est.)"] = f"{flops.energy_kwh(seconds, watts):.4f}"
    row["dropped"] = _percent(runs, "dropped") if routing else "-"
    row["max load"] = (
        f"{np.mean([r['train_routing']['max_load'] for r in runs.values()]):.2f}"
        if routing
        else "-"
    )
    return row


def _legend(watts):
    return (
        f"Δ is the paired difference of test loss from {BASELINE}, with a 95% interval over seeds,"
        " or over test documents where there is one seed."
        f" steps, FLOPs, seconds: what it takes to reach {BASELINE}'s last validation loss, as a"
        f" share of what {BASELINE} took (50% is 2x faster). FLOPs are those of the matrix products"
        " of a training step, per token; against dense compares the executed ones, evaluating those"
        " of evaluation."
        " Seconds and ms/step are"
        " from step times measured side by side. kWh is an estimate: seconds of training times"
        f" {watts:g} W. dropped and max load (largest over mean): last quarter of training."
    )


def _one(runs):
    return next(iter(runs.values()))


def _mean(runs, key):
    return np.mean([r[key] for r in runs.values()])


def _percent(runs, key):
    return f"{np.mean([r['train_routing'][key] for r in runs.values()]):.1%}"


def _share(ratios):
    """A mean share of the baseline's cost with the speed-up it means."""
    mean = np.mean(ratios)
    if math.isnan(mean):
        return "not reached"
    return f"{mean:.0%} ({1 / mean:.2f}x)"


def _count(number):
    """1234567 -> 1.23M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
