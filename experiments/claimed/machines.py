"""What was timed on one machine, and what plans count: numbers without an interval."""

from experiments.claimed import recorded
from experiments.claimed.scaling import GLAM
from moe.analysis.claims import Region, Row, alone

LAYERS = {
    "mixtral_8x7b grouped_hopper": "Mixtral 8x7B",
    "olmoe grouped_hopper": "OLMoE",
    "wide grouped_hopper": "64 experts, top-4",
}
COUNTED = {"glam_64b_64e": "64B/64E", "glam_8b_64e": "8B/64E"}
CELL = (
    "way", "experts", "k", "tokens", "d_model", "d_ff", "dtype", "factor", "loads", "activation",
)  # what is the same work  # fmt: skip
ALIKE = Region(0.95, 1.05)


def rows() -> list[Row]:
    """What papers claim of times and of sizes."""
    return [_dropless(), _gathered(), *_plans()]


def _dropless():
    made = {
        one["cell"]: one for one in recorded.lines("accelerator_h200/rows.jsonl") if "cell" in one
    }
    shares = {
        name: made[cell]["training_tflops"] / made[cell]["training_dense_tflops"]
        for cell, name in LAYERS.items()
    }
    found = {name: alone(f"{share:.2f} of dense's", share) for name, share in shares.items()}
    return Row(
        "layers without drops reach dense's FLOP/s (theirs: of products alone; ours: of layers)",
        "Gale et al. 2022 (MegaBlocks)", Region(low=0.95), found,
        "routing, gathers and groups of uneven size are counted here; the wider an expert, the less"
        " they weigh (one H200)",
        "python -m experiments.accelerator --minutes=2.2 --parts=layers,steps,conformance",
    )  # fmt: skip


def _gathered():
    cells: dict[tuple, dict[str, float]] = {}
    for one in recorded.lines("bench_dispatch_cpu_jax_0_12/rows.jsonl"):
        cells.setdefault(tuple(one[key] for key in CELL), {})[one["program"]] = one["seconds"]
    found = {}
    for (way, experts, *_), seconds in cells.items():
        einsum = [s for program, s in seconds.items() if program.startswith("einsum")]
        if einsum and way == "training":
            share = seconds["gather"] / min(einsum)
            found[f"{experts} experts"] = alone(f"{share:.2f} of the time", share)
    return Row(
        "gathering rows is faster than one-hot products", "Hwang et al. 2022 (Tutel)",
        Region(high=1.0), found,
        "as there, on two cores, beside one-hot products in their best group size",
        "python -m experiments.bench_dispatch --config=configs/bench_dispatch.py",
    )  # fmt: skip


def _plans():
    plans = {model: recorded.lines(f"plans/{model}.jsonl") for model in COUNTED}
    for model, name in COUNTED.items():
        own, _ = plans[model]
        yield Row(
            f"GLaM {name} has {own['published_total'] / 1e9:,.0f}B parameters,"
            f" {own['published_active'] / 1e9:.1f}B active (by 5%)", GLAM, ALIKE,
            {part: _parameters(own, part) for part in ("total", "active")},
            PLANNED[model].format(own["active_without_embedding"] / 1e9), _planned(own),
        )  # fmt: skip
    glam, gpt3 = plans["glam_64b_64e"]
    reads = glam["tokens"] / gpt3["tokens"]
    flops = glam["ideal_flops_per_token"] / gpt3["ideal_flops_per_token"]
    yield Row(
        "GLaM 64B/64E takes half of GPT-3's FLOPs a token (by 0.1)", GLAM, Region(0.4, 0.6),
        alone(f"{flops:.2f} of GPT-3's", flops), "as there, with attention and head counted",
        _planned(glam),
    )  # fmt: skip
    yield Row(
        "GLaM 64B/64E takes a third of GPT-3's energy to train (456 against 1,287 MWh; by 0.1)",
        GLAM, Region(0.23, 0.43),
        alone(f"{flops * reads:.2f} of GPT-3's FLOPs", flops * reads),
        "it reads twice as many tokens: on equal chips, equally used, it takes as much energy; the"
        " third is of newer chips against older ones", _planned(glam),
    )  # fmt: skip


PLANNED = {
    "glam_64b_64e": "as there",
    "glam_8b_64e": "ours counts the embedding among the active ones; without it they are {:.1f}B",
}  # why, with the active parameters but for the embedding


def _parameters(own, part):
    counted = own[f"{part}_parameters"]
    share = counted / own[f"published_{part}"]
    return alone(f"{counted / 1e9:,.1f}B, {share:.2f} of theirs", share)


def _planned(own):
    mesh = f"data={own['mesh']['data']},expert={own['mesh']['expert']}"
    model, topology = own["model"], own["topology"]
    return f"python -m experiments.plan --model={model} --topology={topology} --mesh={mesh} --zero"
