"""The equal-FLOPs comparison as a table: what each model costs, reaches, and saves.

Reads the records of results.jsonl (`experiments.study`). Everything "against dense" is paired by
seed, with the baseline called "dense": the runs given must have seeds that the baseline has, too.
"""

import math
from collections.abc import Iterable

import numpy as np

from moe import flops
from moe.analysis import markdown, paired

BASELINE = "dense"
SHORT = (
    *("model", "parameters", "active", "executed", "against dense", "test nats", "Δ nats (95%)"),
    *("steps", "seconds", "dropped"),
)  # columns that fit a screen


def by_variant(records: Iterable[dict]) -> dict[str, dict[int, dict]]:
    """The longest runs, variant -> seed -> record; the same one's shorter runs are in "shorter"."""
    records = list(records)
    longest = max((record["steps"] for record in records), default=0)
    shorter: dict[tuple, list[dict]] = {}
    for record in sorted(records, key=lambda record: record["steps"]):
        shorter.setdefault((record["variant"], record["seed"]), []).append(record)
    table: dict[str, dict[int, dict]] = {}
    for record in (record for record in records if record["steps"] == longest):
        *before, _ = shorter[record["variant"], record["seed"]]
        table.setdefault(record["variant"], {})[record["seed"]] = {**record, "shorter": before}
    return table


def shared(runs: dict[int, dict], baseline: dict[int, dict]) -> dict[int, dict]:
    """The seeds of a variant that the baseline has, too."""
    return {seed: record for seed, record in runs.items() if seed in baseline}


def common(
    runs: dict[str, dict[int, dict]], baseline: dict[int, dict]
) -> dict[str, dict[int, dict]]:
    """Of each variant the shared seeds; no variant without any."""
    found = {name: shared(seeds, baseline) for name, seeds in runs.items()}
    return {name: seeds for name, seeds in found.items() if seeds}


def over_seeds(runs: dict[int, dict], baseline: dict[int, dict]) -> paired.Interval:
    """The test loss against the baseline's, nats per token, with its interval over seeds."""
    return paired.interval([runs[s]["test_nll"] - baseline[s]["test_nll"] for s in runs])


def over_documents(runs: dict[int, dict], baseline: dict[int, dict]) -> paired.Interval:
    """The same difference with its interval over test documents, each a mean over the seeds."""
    nll_X, baseline_X = (
        np.mean([found[s]["test_documents_nll"] for s in runs], axis=0)
        for found in (runs, baseline)
    )
    tokens_X = first(runs)["test_documents_tokens"]
    return paired.difference_over_documents(nll_X, baseline_X, tokens_X)


def steps_to_baseline(runs: dict[int, dict], baseline: dict[int, dict]) -> list[float]:
    """Per seed: steps to the baseline's last loss, over those of the baseline to it.

    Between runs of several lengths, each with its own decay, it is the length at which the test
    loss would be the baseline's, in a line over the logarithm of the length; the shortest length
    if its loss is lower already. With one length it is where the validation losses, means of
    `paired.SMOOTHED` evaluations, come down to the baseline's last. NaN if that is never.
    """
    return [_share_of_steps(run, baseline[seed]) for seed, run in runs.items()]


def _share_of_steps(run, base):
    if run["shorter"]:
        lengths = [*run["shorter"], run]
        logs = [math.log(r["steps"]) for r in lengths]
        reached = paired.first_reach(logs, [r["test_nll"] for r in lengths], base["test_nll"])
        return math.exp(reached) / base["steps"]
    curves = [paired.smoothed(r["curve_steps"], r["curve_nll"]) for r in (run, base)]
    target = curves[1][1][-1]
    return paired.first_reach(*curves[0], target) / paired.first_reach(*curves[1], target)


def table(records: list[dict], watts: float, columns: Iterable[str] = ()) -> str:
    """The comparison as a Markdown table with its legend.

    Args:
      records: the lines of results.jsonl.
      watts: a stated power of one run, for the energy column.
      columns: those to show, such as `SHORT`; none for all.
    """
    runs = by_variant(records)
    if BASELINE not in runs:
        return f"no finished run of {BASELINE!r} yet: nothing to compare with"
    baseline = runs[BASELINE]
    rows = [_row(name, seeds, baseline, watts) for name, seeds in common(runs, baseline).items()]
    head = [column for column in rows[0] if not columns or column in columns]
    text = markdown.table(head, ([row[column] for column in head] for row in rows))
    return f"{text}\n\n{_legend(records, watts)}"


def _row(name, runs, baseline, watts):
    one = first(runs)
    ratios = steps_to_baseline(runs, baseline)
    bound = any(_is_bound(run, baseline[seed]) for seed, run in runs.items())
    changes = over_seeds(runs, baseline), over_documents(runs, baseline)
    in_bits = one["test_bits_per_byte"] / one["test_nll"]  # the same text for all: a constant
    flops_ratio = one["executed_flops"] / first(baseline)["executed_flops"]
    routing = one["train_routing"]
    row = {
        "model": name,
        "parameters": _count(one["total_parameters"]),
        "active": _count(one["active_parameters"]),
        "ideal FLOPs/token": _count(one["ideal_flops"]),
        "executed": _count(one["executed_flops"]),
        "against dense": f"{flops_ratio - 1:+.2%}",
        "evaluating": _against(one, baseline, "eval_flops"),
        "all operations": _against(one, baseline, "all_flops"),
        "learning rate": f"{one['learning_rate']:g}",
        "tokens": _count(one["steps"] * one["tokens_per_step"]),
        "seeds": str(len(runs)),
        "test nats": f"{mean(runs, 'test_nll'):.4f}",
        "bits/byte": f"{mean(runs, 'test_bits_per_byte'):.4f}",
        "Δ nats (95%)": "" if name == BASELINE else _change(*changes, len(runs)),
        "Δ bits/byte (95%)": "" if name == BASELINE else _change(*changes, len(runs), in_bits),
        "steps": _share(ratios, bound),
        "FLOPs": _share([r * flops_ratio for r in ratios], bound),
    }
    if "step_seconds" in one:
        slower = one["step_seconds"] / first(baseline)["step_seconds"]
        seconds = one["steps"] * one["step_seconds"]
        row["seconds"] = _share([r * slower for r in ratios], bound)
        row["ms/step (least)"] = (
            f"{1e3 * one['step_seconds']:.0f} ({1e3 * one['step_seconds_least']:.0f})"
        )
        row["kWh (est.)"] = f"{flops.energy_kwh(seconds, watts):.4f}"
    if "step_bytes" in one:
        row["bytes accessed"] = _against(one, baseline, "step_bytes")
        row["temporary MiB"] = f"{one['temporary_bytes'] / 2**20:.0f}"
    row["dropped"] = _percent(runs, "dropped") if routing else "-"
    row["max load"] = (
        f"{np.mean([r['train_routing']['max_load'] for r in runs.values()]):.2f}"
        if routing
        else "-"
    )
    return row


def _change(seeds, documents, number, scale=1.0):
    """Both intervals, times a constant; with one seed there is only the one over documents."""
    seeds, documents = (paired.Interval(*(scale * x for x in i)) for i in (seeds, documents))
    if number == 1:
        return f"{documents} (documents)"
    return f"{seeds} ({number} seeds), ± {documents.half:.4f} (documents)"


def _legend(records, watts):
    return (
        f"Δ is the paired difference of test loss from {BASELINE}, with its 95% interval over"
        " seeds, on this test text, and over test documents, for these seeds. steps, FLOPs,"
        f" seconds: what it takes to reach {BASELINE}'s last loss, as a share of what {BASELINE}"
        " took (50% is 2x faster), by the test losses of runs of several lengths if there are, else"
        " by the validation curve, smoothed; with a 95% interval over seeds (that of seconds takes"
        " the ratio of step times as exact). FLOPs are those of the matrix products of a"
        " training step, per token; against dense compares the executed ones, evaluating those of"
        " evaluation, all operations every operation of a step, the optimizer's too. Bytes accessed"
        " and temporary memory are those of the compiled step. Seconds are"
        " from the medians of step times measured side by side (in brackets the least). kWh is an"
        f" estimate: steps times step time times {watts:g} W, the assumed share of one run. dropped"
        " and max load (largest over mean): last quarter of training.\n\n"
        f"{trained_on(records)}"
    )


def trained_on(records: list[dict]) -> str:
    """The machines and commits of the runs, in a sentence."""
    commits: dict[str, set[str]] = {}  # hardware -> commits
    for machine in (r["machine"] for r in records):
        commit = machine.get("commit", "not recorded")[:12]
        commits.setdefault(_hardware(machine), set()).add(commit)
    said = (f"{what}, commit {', '.join(sorted(which))}" for what, which in commits.items())
    return f"Trained on: {'; '.join(sorted(said))}."


def _hardware(machine):
    devices = ", ".join(sorted(set(machine["devices"])))
    return (
        f"{devices}, {machine['processor']}, cores a run: {machine['cores']}, Python"
        f" {machine['python']}, jax {machine['jax']}"
    )


def _against(one, baseline, key):
    return f"{one[key] / first(baseline)[key] - 1:+.2%}"


def first(runs: dict[int, dict]) -> dict:
    """The record of one seed, for what is the same in all."""
    return next(iter(runs.values()))


def mean(runs: dict[int, dict], key: str) -> float:
    """The mean of a field over the seeds."""
    return np.mean([r[key] for r in runs.values()])


def _percent(runs, key):
    return f"{np.mean([r['train_routing'][key] for r in runs.values()]):.1%}"


def _is_bound(run, base):
    """Is even the shortest run below the baseline's last loss? A shorter one may be, too."""
    return bool(run["shorter"]) and run["shorter"][0]["test_nll"] < base["test_nll"]


def _share(ratios, bound):
    """A mean share of the baseline's cost with the speed-up it means, or a bound of both."""
    mean, half = paired.interval(ratios)
    if math.isnan(mean):
        return "not reached"
    if bound:
        return f"at most {mean:.0%} ({1 / mean:.2f}x or more)"
    spread = f" ± {half:.0%}" if half > 0 else ""  # none for one seed, and the baseline itself
    return f"{mean:.0%}{spread} ({1 / mean:.2f}x)"


def _count(number):
    """1234567 -> 1.23M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
