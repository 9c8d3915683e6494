"""One model made smaller: pruned, merged, in fewer bits, and as a dense student."""

from collections.abc import Callable, Iterable

from experiments.claimed import recorded
from moe.analysis import compression, paired
from moe.analysis.claims import BELOW, Finding, Region, Row, difference, share
from moe.analysis.compression import DENSE, WHOLE
from moe.errors import UserError

COMMAND = recorded.command_of("compression")
REAP = "Lasby et al. 2025 (REAP)"
SIZES = (24, 16, 8, 4)  # experts left, of 32
NEARLY_ALL = Region(low=0.9)  # of the gain over dense
QMOE = "Frantar and Alistarh 2023"
Methods = dict[str, dict[int, dict]]  # method -> seed -> measurement


def rows() -> list[Row]:
    """What papers claim of each method."""
    methods = compression.by_method(recorded.looked("compression_cpu/compression.jsonl"))
    return [*_pruned(methods), *_merged(methods), *_fewer_bits(methods), _student(methods)]


def kept(methods: Methods, name: str) -> Finding:
    """The share of the gain over dense that a method keeps."""
    losses = [{s: one["nll"] for s, one in methods[m].items()} for m in (name, WHOLE, DENSE)]
    found = paired.gain_kept(*losses)
    if found is None:
        raise UserError(f"{WHOLE} gains nothing over {DENSE} with some seed, so no share is kept")
    return share(found, "the gain over dense")


def less(methods: Methods, one: str, other: str) -> Finding:
    """The test loss after a method less that after another, over paired seeds."""
    pairs = [(found["nll"], methods[other][seed]["nll"]) for seed, found in methods[one].items()]
    return difference(paired.interval([a - b for a, b in pairs]))


def _left(sizes: Iterable[int], of: Callable[[int], Finding]) -> dict[str, Finding]:
    return {f"{n} left": of(n) for n in sizes}


def _pruned(methods):
    yield Row(
        "REAP is nearly lossless at half of the experts", REAP,
        NEARLY_ALL, _left(SIZES[:2], lambda n: kept(methods, f"prune_reap_{n}")),
        "small experts, trained with a balance loss on tokens enough for each: none is idle, and"
        " nothing is trained afterwards", COMMAND,
    )  # fmt: skip
    yield Row(
        "pruning by REAP beats pruning by use", REAP, BELOW,
        _left(SIZES, lambda n: less(methods, f"prune_reap_{n}", f"prune_use_{n}")),
        "as there down to half, of which the paper speaks; what is left below it is of no use",
        COMMAND,
    )  # fmt: skip
    yield Row(
        "pruning beats merging (theirs: in writing)", REAP, BELOW,
        _left(SIZES, lambda n: less(methods, f"prune_reap_{n}", f"merge_aligned_{n}")),
        "as there down to half; below it a mean of all loses less than the few that are left",
        COMMAND,
    )  # fmt: skip


def _merged(methods):
    aligned = _left(SIZES, lambda n: less(methods, f"merge_aligned_{n}", f"merge_use_{n}"))
    aligned["dense"] = less(methods, "merge_aligned_dense", "merge_use_dense")
    yield Row(
        "aligning hidden units before experts are merged helps", "Li et al. 2023 (M-SMoE)", BELOW,
        aligned, "as there, and far from enough: all of these lose more than the experts gained",
        COMMAND,
    )  # fmt: skip


def _fewer_bits(methods):
    yield Row(
        "QMoE stores experts in less than one bit a weight", QMOE, Region(high=1.0),
        {"with its grids": _bits(methods)},
        "under one bit needs more zeros than these weights have, and rows are so short that the two"
        " numbers of each weigh", COMMAND,
    )  # fmt: skip
    yield Row(
        "QMoE loses little", QMOE, NEARLY_ALL, kept(methods, "qmoe"),
        "its model is worse than the dense one, which is smaller; small weights have little to"
        " spare", COMMAND,
    )  # fmt: skip
    yield Row(
        "4 bits a weight lose nearly nothing (ours by rounding)",
        "Frantar et al. 2022 (GPTQ)", NEARLY_ALL, kept(methods, "int4"),
        "as there; of the methods that save as much it is the only one", COMMAND,
    )  # fmt: skip


def _bits(methods):
    """Bits a weight of the experts, from all bytes; the rest is bfloat16, see `compression`."""
    trained = recorded.runs("compression_cpu")["e32_top2"]
    found = []
    for seed, one in methods["qmoe"].items():
        run = trained[seed]
        k = run["config"]["model"]["experts"]["k"]
        idle = run["total_parameters"] - run["active_parameters"]  # of the experts not chosen
        weights = idle * run["experts"] / (run["experts"] - k)
        rest = methods[WHOLE][seed]["bytes"] * (1 - weights / run["total_parameters"])
        found.append(8 * (one["bytes"] - rest) / weights)
    bits = paired.interval(found)
    return Finding(f"{bits.mean:.3f} ± {bits.half:.3f} bits", *bits.ends)


def _student(methods):
    return Row(
        "a dense student of the same FLOPs keeps about 30% of the gain (28% to 37%)",
        "Fedus et al. 2021", Region(0.28, 0.37), kept(methods, "e32_top2_student"),
        "it keeps more; but what starts from a dense model's weights gains as much: see the control"
        " among the claims of distillation", COMMAND,
    )  # fmt: skip
