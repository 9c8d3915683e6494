"""A plan as a row of numbers, and rows as a report that people read."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from moe import chips, flops, plan
from moe.analysis import markdown
from moe.presets import Preset
from moe.training.config import RunConfig

Choices = Sequence[tuple[RunConfig, plan.Plan]]

FEWER = (
    "The first with fewer slots an expert, by arithmetic. It drops more tokens, so it is another"
    " model, whose loss has to be measured: it is not compared with those above."
)
ADVICE = (
    "To fit: --zero, a longer mesh.expert or mesh.model, fewer sequences or --accumulate,"
    " model.remat, --optimizer=adafactor, or more chips."
)


def row(name: str, preset: Preset, run: RunConfig, planned: plan.Plan, tokens: float) -> dict:
    """Everything a report says of one model, for JSON.

    Args:
      tokens: of the whole training run, for days and energy.
    """
    counts = flops.parameters(run.model)
    forward = flops.ideal(run.model, run.train.seq_len)
    seconds = planned.seconds
    memory = planned.memory
    steps = tokens / planned.tokens
    watts = planned.chip.watts * planned.devices
    bounds = ("overlapped", "serial")
    embedding = run.model.vocab_size * run.model.d_model
    factor, own = _factors(run, preset)
    return {
        "model": name,
        "source": preset.source,
        "note": preset.note,
        "how": planned.how,
        "mesh": planned.mesh,
        "zero": run.mesh.zero,
        "transport": run.mesh.transport,
        "recomputed": _recomputed(run),
        "capacity_factor": factor,
        "preset_capacity_factor": own,
        "optimizer": run.optimizer.name,
        "batch_size": run.train.batch_size,
        "seq_len": run.train.seq_len,
        "total_parameters": counts.total,
        "published_total": preset.total,
        "active_parameters": counts.active,
        "active_without_embedding": counts.active - embedding,
        "published_active": preset.active,
        "forward_flops_per_token": sum(forward.values()) / 3,
        "ideal_flops_per_token": planned.ideal_flops / planned.tokens,
        "executed_flops_per_token": planned.executed_flops / planned.tokens,
        "memory": {**memory._asdict(), "peak": memory.peak, "short": memory.short},
        "traffic": [
            {"kind": kind, "axes": axes, **t._asdict()}
            for (kind, axes), t in sorted(planned.traffic.items())
        ],
        "seconds": seconds,
        "compile_seconds": planned.compile_seconds,
        "tokens": tokens,
        "watts": planned.chip.watts,
        "mfu": planned.mfu,
        "tokens_per_second": {k: planned.tokens / seconds[k] for k in bounds},
        "days": {k: steps * seconds[k] / 86_400 for k in bounds},
        "megawatt_hours": {k: flops.energy_kwh(steps * seconds[k], watts) / 1e3 for k in bounds},
    }


def report(rows: list[dict], topology: str) -> str:
    """The rows side by side, the first with its traffic, and what to change if it does not fit."""
    first, *others = rows
    chip = chips.chip(topology.split(":")[0])
    lines = [
        f"{topology}: {math.prod(first['mesh'].values())} devices, {chip.flops / 1e12:.0f} TFLOP/s,"
        f" {chip.memory / 2**30:.0f} GiB at {chip.memory_bandwidth / 1e12:.2f} TB/s,"
        f" links {chip.link_bandwidth / 1e9:.0f} GB/s ({chip.source})",
        "",
        markdown.table(
            ["", *(r["model"] for r in rows)],
            ([what, *map(cell, rows)] for what, cell in _CELLS.items()),
        ),
        "",
        _traffic(first),
        "",
    ]
    lines += [f"{r['model']}: {r['note']}" for r in rows if r["note"]]
    if first["memory"]["short"]:
        lines.append(f"{first['model']} is short by {_gib(first['memory']['short'])}. {ADVICE}")
    for other in others:
        ratio = first["forward_flops_per_token"] / other["forward_flops_per_token"]
        spent = first["ideal_flops_per_token"] * first["tokens"]
        spent /= other["ideal_flops_per_token"] * other["tokens"]
        lines.append(
            f"FLOPs per token against {other['model']}: {ratio:.2f}; of the training runs"
            f" ({first['tokens']:.3g} and {other['tokens']:.3g} tokens): {spent:.2f}, which is also"
            " the ratio of energies on equal chips, equally used."
        )
    return "\n".join(lines)


def choices(tried: Choices, fewer: Choices, preset: Preset, topology: str) -> str:
    """Plans of one model, best first, as a table.

    Args:
      tried: runs with their plans.
      fewer: the first with fewer slots an expert, which stand in a table of their own.
      preset: of the model.
      topology: that they are for.
    """
    text = (
        f"{topology}, best first by a step in which nothing overlaps:\n\n"
        f"{_table(tried, preset)}\n\n"
        "Steps and MFU are bounds, see docs/pods.md: of a step in which nothing overlaps, to one in"
        " which all does. MFU is of ideal FLOPs. GiB are those that leave a device in a step."
    )
    return f"{text}\n\n{FEWER}\n\n{_table(fewer, preset)}" if fewer else text


def _table(tried, preset):
    rows = [_choice(run, planned, preset) for run, planned in tried]
    return markdown.table(rows[0], (row.values() for row in rows))


def _choice(run, planned, preset):
    memory, seconds, mfu = planned.memory, planned.seconds, planned.mfu
    short = f", short by {_gib(memory.short)}" if memory.short else ""
    sent: Counter[str] = Counter()
    for (_, axes), traffic in planned.traffic.items():
        sent[axes] += traffic.bytes
    return {
        "by": planned.how,
        "mesh": mesh_text(planned.mesh, run.mesh.zero),
        "recomputed": _recomputed(run),
        "capacity factor": _slots(*_factors(run, preset)),
        "batch": f"{run.train.batch_size:,} x {run.train.seq_len:,}",
        "memory": f"{_gib(memory.peak)} of {_gib(memory.limit)}{short}",
        "compute": f"{seconds['compute']:.3g} s",
        "HBM": f"{seconds['memory']:.3g} s",
        "links": f"{seconds['interconnect']:.3g} s",
        "MFU": f"{mfu['serial']:.0%} to {mfu['overlapped']:.0%}",
        "sent along": ", ".join(f"{axes} {_gib(size)}" for axes, size in sorted(sent.items())),
    }


def mesh_text(mesh: Mapping[str, int], zero: bool) -> str:
    """ "data=16, expert=64, zero": the axes of more than one device."""
    axes = [f"{axis}={n}" for axis, n in mesh.items() if n > 1] or ["one device"]
    return ", ".join(axes + ["zero"] * zero)


def _factors(run, preset):
    """Capacity factors of the run and of its preset; None for dense models."""
    return [one.experts and one.experts.capacity_factor for one in (run.model, preset.model)]


def _slots(factor, own):
    """A capacity factor, and what it means that it is not the preset's; "" if there is none."""
    if factor == own:
        return f"{factor:g}" if factor else ""
    drops = "more" if factor < own else "fewer"
    return f"{factor:g}, not {own:g}: {drops} tokens are dropped"


def _recomputed(run):
    """Which blocks are: "nothing", or the policy of what they keep."""
    return run.mesh.remat_policy if run.model.remat else "nothing"


def _traffic(row):
    return markdown.table(
        ("collective", "axes", "times", "leaves a device, a step"),
        ((t["kind"], t["axes"], f"{t['times']:,}", _gib(t["bytes"])) for t in row["traffic"]),
    )


def _gib(size):
    return f"{size / 2**30:.2f} GiB" if size >= 2**24 else f"{size / 2**10:.1f} KiB"


def _against(got, published):
    return f"{got / 1e9:,.4g}B" + (f" (published {published / 1e9:,.4g}B)" if published else "")


def _fits(r):
    short = r["memory"]["short"]
    limit = r["memory"]["limit"]
    verdict = f"short by {_gib(short)}" if short else "fits"
    return f"{_gib(r['memory']['peak'])} of {_gib(limit)}: {verdict}"


def _bounds(key, unit):
    return lambda r: f"{r[key]['serial']:,.3g} to {r[key]['overlapped']:,.3g}{unit}"


_CELLS = {
    "by": lambda r: {
        "compiled": f"the compiler, in {r['compile_seconds']:.0f} s",
        "refused": "arithmetic, but for the peak: the compiler refused the program",
    }.get(r["how"], "arithmetic"),
    "mesh": lambda r: mesh_text(r["mesh"], r["zero"]),
    "recomputed": lambda r: r["recomputed"],
    "capacity factor": lambda r: _slots(r["capacity_factor"], r["preset_capacity_factor"]),
    "batch": lambda r: f"{r['batch_size']:,} x {r['seq_len']:,}",
    "parameters": lambda r: _against(r["total_parameters"], r["published_total"]),
    "active": lambda r: _against(r["active_parameters"], r["published_active"]),
    "active without embedding": lambda r: f"{r['active_without_embedding'] / 1e9:,.4g}B",
    "forward FLOPs a token, ideal": lambda r: f"{r['forward_flops_per_token'] / 1e9:,.4g}G",
    "training FLOPs a token, ideal": lambda r: f"{r['ideal_flops_per_token'] / 1e9:,.4g}G",
    "training FLOPs a token, executed": lambda r: f"{r['executed_flops_per_token'] / 1e9:,.4g}G",
    "parameters on a device": lambda r: _gib(r["memory"]["parameters"]),
    "optimizer state on a device": lambda r: _gib(r["memory"]["optimizer"]),
    "activations, gradients, buffers": lambda r: _gib(r["memory"]["temporary"]),
    "peak": _fits,
    "step: compute alone": lambda r: f"{r['seconds']['compute']:.3g} s",
    "step: memory alone": lambda r: f"{r['seconds']['memory']:.3g} s",
    "step: interconnect alone": lambda r: f"{r['seconds']['interconnect']:.3g} s",
    "MFU, at most": lambda r: f"{r['mfu']['serial']:.1%} to {r['mfu']['overlapped']:.1%}",
    "tokens a second, at most": _bounds("tokens_per_second", ""),
    "tokens to train": lambda r: f"{r['tokens']:,.3g}",
    "days, at least": _bounds("days", ""),
    "MWh of the chips, at least": lambda r: (
        _bounds("megawatt_hours", "")(r) + f" at {r['watts']:.0f} W"
    ),
}
