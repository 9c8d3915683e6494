"""Few-shot tasks and calibration at equal training FLOPs."""

import math

from experiments.claimed import recorded
from experiments.claimed.scaling import GLAM, SWITCH
from moe.analysis import abilities, paired
from moe.analysis.claims import ABOVE, BELOW, Finding, Region, Row, difference, points

COMMAND = recorded.command_of("few_shot", "abilities.py:cpu")
LABELS = ("boolq", "cb")  # tasks whose answers are labels, not words
OPEN = ("triviaqa", "lambada")  # tasks whose answers are written
CHANCE = "every model is near chance, a dense one of ten times the FLOPs too"


def rows() -> list[Row]:
    """What is claimed of the longest runs with 32 experts."""
    return [*_of_tasks(), _calibrated()]


def _of_tasks():
    found = recorded.looked("abilities_cpu/few_shot.jsonl")
    steps = max(one["steps"] for one in found)
    found = [one for one in found if one["steps"] == steps]
    words = [one for one in found if one["task"] not in LABELS]
    beat = "experts beat dense of the same FLOPs zero-, one- and few-shot"
    return [
        Row(f"{beat}: share that is right", GLAM, ABOVE,
            _by_shots(found, abilities.accuracy, points), CHANCE, COMMAND),
        Row(f"{beat}: bits a byte of the right answer", GLAM, BELOW,
            _by_shots(found, abilities.bits, _bits),
            "two tasks whose answers are labels rule the mean; there experts say less of the right"
            " one, and on one of them so does dense at ten times the FLOPs", COMMAND),
        Row(f"{beat}: the same on tasks whose answers are words", GLAM, BELOW,
            _by_shots(words, abilities.bits, _bits),
            "as there, by less than dense at ten times the FLOPs; the tasks were parted after the"
            " numbers were seen", COMMAND),
        Row("experts help knowledge more than reasoning (theirs: after fine-tuning)", SWITCH,
            ABOVE, _knowledge(found),
            "no open answer of any model was right, so that there is nothing to compare", COMMAND),
    ]  # fmt: skip


def _calibrated():
    """32 experts against the dense model of ten times the FLOPs."""
    table = abilities.by_run(recorded.looked("abilities_cpu/calibration.jsonl"))
    steps = max(steps for _, steps in table)
    experts, larger = (table[name, steps] for name in ("e32_top2", "dense_10x"))
    errors = [[runs[seed][0]["ece"] for seed in sorted(experts)] for runs in (experts, larger)]
    change = paired.interval([a - b for a, b in zip(*errors, strict=True)])
    return Row(
        "sparse models are as well calibrated as dense ones of ten times the FLOPs (by 0.002)",
        "Srivastava et al. 2022",
        Region(high=0.002),
        difference(change, "expected calibration error"),
        "the error of experts is the smaller on average, but seeds of the large dense model"
        " differ; all are small, and chance alone makes 0.0015",
        recorded.command_of("calibration", "abilities.py:cpu"),
    )


def _by_shots(found, number, shown):
    """32 experts less dense, by number of examples."""
    made = {}
    for shots in sorted({one["shots"] for one in found}):
        table = abilities.by_run(one for one in found if one["shots"] == shots)
        (key,) = (key for key in table if key[0] == "e32_top2")
        change = abilities.against_dense(table, key, number)
        made[f"{shots}-shot"] = shown(change)
    return made


def _bits(change):
    return difference(change, "bits a byte")


def _knowledge(found):
    best = max(abilities.accuracy(one) for one in found if one["task"] in OPEN)
    return Finding(f"the most that any model has right: {best:.1%}", math.nan, math.nan)
