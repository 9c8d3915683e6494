"""Every figure of recorded results, drawn again from the records; nothing is trained.

    python -m experiments.gallery

docs/gallery.md shows them all, with a sentence each.
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from experiments import balance, capacity, command, laws, precision, routers
from moe.analysis import (
    abilities,
    cells,
    compression,
    distillation,
    efficiency,
    law_plots,
    law_tables,
    mixture_1991,
    plots,
    specialists,
    upcycling,
)
from moe.analysis.laws import LAWS

RESULTS = pathlib.Path(__file__).parent / "results"
DRAWS = 500  # of the law's bootstrap, as in `configs/laws.py`
# Drawn by their study alone: of trained models, which records do not hold.
OF_MODELS = ("mixture_1991_cpu/regions.png",)
# Where the log of each variant of the balance study lies: three are runs of the routers' study.
BALANCE = {
    "balance": "balance_cpu/balance",
    "balance_and_z": "routers_cpu/decoder/top_2",
    "balance_x10": "balance_cpu/balance_x10",
    "neither": "balance_cpu/neither",
    "sigmoid": "balance_cpu/sigmoid",
    "sigmoid_bias": "routers_cpu/decoder/sigmoid_2",
    "sigmoid_loss": "routers_cpu/decoder/sigmoid_2_loss",
    "sigmoid_loss_x10": "balance_cpu/sigmoid_loss_x10",
    "z": "balance_cpu/z",
}


class Drawing(NamedTuple):
    """Where a figure comes from; files lie below `RESULTS`."""

    figure: str
    function: Callable[..., Any]  # from the records of each file to a figure
    records: tuple[str, ...]


def _loads(*logs):
    """Of the variants of BALANCE."""
    named = zip(BALANCE, logs, strict=True)
    return plots.balance_figure({name: [r for r in log if "load_LE" in r] for name, log in named})


def _compressed(found, speeds):
    """Losses and sizes, with the speeds of each seed."""
    of_seed = {one["seed"]: one["tokens_per_second"] for one in speeds}
    timed = [one | {"tokens_per_second": of_seed[one["seed"]][one["method"]]} for one in found]
    return compression.drawn(timed)


def _experts(rows):
    return law_plots.experts_figure(_law(rows))


def _best(rows):
    one = _law(rows)
    return law_plots.best_figure(one, laws.memories(one))


def _law(rows):
    return law_tables.answer(laws.JOINT, rows, DRAWS)


def _fits(rows):
    return law_plots.fits_figure([law_tables.answer(name, rows, 0) for name in LAWS])


def _routers(folder, baseline):
    function = functools.partial(plots.routers_figure, baseline=baseline)
    return Drawing(f"{folder}/routers.png", function, (f"{folder}/results.jsonl",))


def _one(figure, function, records="results.jsonl"):
    """Of one file in the figure's folder."""
    return Drawing(figure, function, (f"{pathlib.PurePosixPath(figure).parent}/{records}",))


DRAWINGS = (
    _one("scaling_demo/scaling.png", plots.scaling_figure),
    _one("scaling_cpu/scaling.png", plots.scaling_figure),
    _one("scaling_cpu_tied/scaling.png", plots.scaling_figure),
    Drawing(
        "data_efficiency_cpu/efficiency.png",
        efficiency.figure_of,
        ("scaling_cpu/results.jsonl",),
    ),
    _one("laws_cpu/experts.png", _experts, "cells.csv"),
    _one("laws_cpu/best.png", _best, "cells.csv"),
    _one("laws_cpu/gains.png", law_plots.gains_figure, "cells.csv"),
    _one("laws_cpu/fits.png", _fits, "cells.csv"),
    _one("encoder_decoder_cpu/efficiency.png", efficiency.figure_of),
    Drawing(
        "abilities_cpu/few_shot.png",
        abilities.few_shot_figure,
        ("abilities_cpu/few_shot.jsonl", "abilities_cpu/results.jsonl"),
    ),
    _one("abilities_cpu/calibration.png", abilities.reliability_figure, "calibration.jsonl"),
    Drawing(
        "compression_cpu/compression.png",
        _compressed,
        ("compression_cpu/compression.jsonl", "compression_cpu/speed.jsonl"),
    ),
    _one("upcycling_pilots/upcycling.png", upcycling.drawn),
    _one("upcycling_cpu/upcycling.png", upcycling.drawn),
    _one(
        "distillation_cpu/distillation.png",
        functools.partial(distillation.drawn, dense="dense"),
    ),
    _one("specialisation_cpu/specialisation.png", specialists.drawn, "specialisation.jsonl"),
    _routers("routers_cpu/decoder", routers.BASELINE),
    _routers("routers_cpu/masked", routers.BASELINE),
    _routers("balance_cpu", balance.BASELINE),
    Drawing(
        "balance_cpu/balance.png",
        _loads,
        tuple(f"{folder}/seed0/metrics.jsonl" for folder in BALANCE.values()),
    ),
    _routers("capacity_cpu", capacity.BASELINE),
    _one("capacity_cpu/capacity.png", plots.capacity_figure),
    _routers("precision_cpu", precision.BASELINE),
    _one("bench_dispatch_cpu/dispatch.png", plots.dispatch_figure, "rows.jsonl"),
    _one("bench_dispatch_cpu_jax_0_12/dispatch.png", plots.dispatch_figure, "rows.jsonl"),
    _one("expert_parallel_cpu/scaling.png", plots.weak_scaling_figure, "rows.jsonl"),
    _one("expert_parallel_tpu/scaling.png", plots.weak_scaling_figure, "rows.jsonl"),
    _one("mixture_1991_cpu/mixture_1991.png", mixture_1991.drawn, "vowels.jsonl"),
)


def draw(drawing: Drawing, out: pathlib.Path) -> pathlib.Path:
    """Draws a figure; returns its file, as far below `out` as the recorded one below `RESULTS`."""
    path = out / drawing.figure
    path.parent.mkdir(parents=True, exist_ok=True)
    plots.save(drawing.function(*map(_read, drawing.records)), path)
    return path


def _read(name):
    """The records of a file; those of `experiments.looks` with what they are of."""
    if name.endswith(".csv"):
        return cells.read(RESULTS / name)
    lines = [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]
    return [line["of"] | line["found"] if {*line} == {"of", "found"} else line for line in lines]


def main(out: str) -> None:
    """Draws all."""
    for drawing in DRAWINGS:
        print(draw(drawing, pathlib.Path(out)))


if __name__ == "__main__":
    OUT = flags.DEFINE_string("out", str(RESULTS), "Where figures go.")
    command.run(lambda: main(OUT.value))
