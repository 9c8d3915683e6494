"""What do experts buy on images, and with how few slots do trained ones still see?

    python -m experiments.vision --config=configs/vision.py:demo

A study as those of `experiments.scaling`, resumable: a dense transformer, V-MoE and Soft MoE at
equal executed FLOPs. Then every V-MoE is evaluated on the test images at each capacity of the
config, its slots taken by probability (Riquelme et al. 2021, section 4) and by position. Position
is the place in the image, the same for all images of a batch (`moe.dispatch.groups`), and both
choices of a patch come before the next patch. It is no order of the paper's: without priority that
gives slots image by image, to all first choices before any second one. So what priority gains here
is due in part to serving first choices first.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks, records, scaling, study
from moe import evaluation
from moe import flops as counted
from moe.analysis import vision
from moe.routing import ranked
from moe.training import runs as folders
from moe.training.config import RunConfig

ORDERS = {vision.POSITION: False, vision.PRIORITY: True}


def measured(config: ConfigDict, runs: records.Runs, root: pathlib.Path) -> list[dict]:
    """Accuracy on test images and FLOPs of every V-MoE, seed, order and capacity."""
    opened = functools.lru_cache(maxsize=1)(folders.load_run)
    return looks.measured(root / "vision.jsonl", _looks(config, runs, root, opened))


def _looks(config, runs, root, opened) -> Iterator[looks.Look]:
    for of, path in looks.folders(runs, root, study.seeds_of(config)):
        if not ordered(runs[of["variant"]]):
            continue
        for order in ORDERS:
            for factor in config.factors:

                def look(path=path, order=order, factor=factor) -> dict:
                    looks.require_checkpoint(path)
                    return seen(opened(path), factor, ORDERS[order])

                yield {**of, "order": order, "factor": factor}, look


def ordered(run: RunConfig) -> bool:
    """Are there slots that may be taken by probability?"""
    experts = run.model.experts
    return experts is not None and isinstance(experts.options, ranked.Options)


def seen(loaded: folders.LoadedRun, factor: float, priority: bool) -> dict:
    """What a trained model makes of the test images at a capacity."""
    run = with_capacity(loaded.run, factor, priority)
    found = evaluation.EVALUATORS["loss"](run, loaded.data, "test").evaluate(loaded.state)
    cost = counted.evaluating(run.model, run.micro_batch, run.train.seq_len, run.objective)
    numbers = {name: float(found[name]) for name in ("accuracy", "nll", "dropped")}
    return numbers | {"flops": cost.total / run.micro_batch}


def with_capacity(run: RunConfig, factor: float, priority: bool) -> RunConfig:
    """The run with another capacity in evaluation, and another order of slots."""
    experts = run.model.experts
    assert experts is not None and isinstance(experts.options, ranked.Options)  # `ordered`
    options = dataclasses.replace(experts.options, batch_priority=priority)
    other = dataclasses.replace(experts, eval_capacity_factor=factor, options=options)
    return run.replace(model={"experts": other})


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study, evaluates, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs = scaling.variants(config)
    trained = study.run(runs, root, study.seeds_of(config), config.jobs, timed=False)
    found = measured(config, runs, root)
    text = vision.table(trained)
    if found:
        text += f"\n\n{vision.capacity_table(found)}"
    looks.report(root, "vision", text, vision.drawn(trained, found), of="results.jsonl")


if __name__ == "__main__":
    CONFIG = command.config("configs/vision.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
