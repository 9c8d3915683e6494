"""How small can a trained model with experts be made, and what does it lose?

    python -m experiments.compression --config=configs/compression.py:demo

Trains the models of the config, as `experiments.scaling` does, and dense students of the one with
experts, as `experiments.distillation` does; changes the one with experts by every method; and
prints test losses over bytes, and over the tokens that all write in a second side by side.
Resumable.
"""

import functools
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments import command, distillation, looks, records, scaling, sources, study, timing
from moe import adapt, decoding, flops, generation
from moe.adapt import banks, integers, observing, packed, ternary
from moe.adapt.banks import Trained
from moe.analysis import compression
from moe.training import runs as folders

STORED = 2  # bytes of a number, bfloat16
TEXTS = 32
ROUNDS = 5


def measured(config: ConfigDict, runs: records.Runs, root: pathlib.Path) -> list[dict]:
    """Loss, bytes and speed of every method and seed."""
    opened = functools.lru_cache(maxsize=1)(functools.partial(trained_of, config=config))
    found = looks.measured(root / "compression.jsonl", _looks(config, runs, root, opened))
    if not config.timed_tokens:
        return found
    taken = looks.measured(root / "speed.jsonl", _speeds(config, runs, root, opened))
    speeds = {one["seed"]: one["tokens_per_second"] for one in taken}
    return [one | {"tokens_per_second": speeds[one["seed"]][one["method"]]} for one in found]


def _looks(config, runs, root, opened) -> Iterator[looks.Look]:
    for of, path in looks.folders(runs, root, study.seeds_of(config)):
        for method in _methods(config, runs, of["variant"]):

            def look(path=path, method=method) -> dict:
                looks.require_checkpoint(path)
                trained, seen, judge = opened(path)
                made = made_by(config, method, trained, seen)
                how = config.methods[method].how if method in config.methods else ""
                size = stored_bytes(made, expert_bytes(made, how))
                return {"nll": observing.loss(made, judge), "bytes": size}

            kept = {"seed": of["seed"], "steps": of["steps"], "method": method}
            yield kept | {"how": _how(config, method), **_text(config)}, look


def _how(config, method):
    """What a method does."""
    return str(dict(config.methods[method])) if method in config.methods else ""


def _text(config):
    """How much is looked at, and how much is judged by."""
    return {"calibration": config.calibration_batches, "batches": config.test_batches}


def _speeds(config, runs, root, opened) -> Iterator[looks.Look]:
    """All methods of a seed side by side, so that noise falls on all alike."""
    for seed in study.seeds_of(config):

        def look(seed=seed) -> dict:
            found = {}
            for variant in runs:
                path = records.folder(root, variant, seed)
                looks.require_checkpoint(path)
                trained, seen, _ = opened(path)
                for method in _methods(config, runs, variant):
                    found[method] = made_by(config, method, trained, seen)
            return {"tokens_per_second": tokens_per_second(found, config.timed_tokens)}

        every = [m for variant in runs for m in _methods(config, runs, variant)]
        methods = "; ".join(f"{method} {_how(config, method)}" for method in every)
        yield {"seed": seed, "tokens": config.timed_tokens, "methods": methods}, look


def _methods(config, runs, variant):
    """What is done to a variant: nothing to dense ones, which are the baseline and students."""
    if runs[variant].model.experts is None:
        return [variant]
    return [compression.WHOLE, *config.methods]


def trained_of(path: pathlib.Path, config: ConfigDict) -> tuple[Trained, list, list]:
    """A trained model, text to look at, and text to judge it by."""
    loaded = folders.load_run(path)
    source = loaded.run.source(loaded.data)
    seen = list(source.held_out("validation", config.calibration_batches))
    return sources.trained(loaded), seen, list(source.held_out("test", config.test_batches))


def made_by(config: ConfigDict, method: str, trained: Trained, seen: list) -> Trained:
    """The model after a method of the config, or as it is."""
    if method not in config.methods:
        return trained
    return changed(trained, seen, **config.methods[method])


def changed(trained: Trained, seen: list, how: str, experts: int = 0) -> Trained:
    """The model after a method of `adapt.METHODS`."""

    def look(measure: observing.Measure, model: Trained) -> Any:
        return observing.observe(model, seen, measure)

    return adapt.METHODS[how].apply(trained, adapt.Ask(look, experts=experts))


def expert_bytes(made: Trained, how: str) -> float | None:
    """Bytes of the experts, if the method stores them in a way of its own."""
    if how in integers.KINDS:
        return integers.size(made, how)
    if how == "qmoe":
        found = packed.rates_of(ternary.layers_of(made))
        return found["bits_with_grids"] * found["weights"] / 8
    return None


def stored_bytes(made: Trained, of_experts: float | None) -> float:
    """Bytes of all parameters, in bfloat16 but for experts that are stored otherwise."""
    total = STORED * flops.parameters(made.model).total
    if of_experts is None:
        return float(total)
    sizes = [w.size for bank in banks.of(made) for w in bank["experts"].values()]
    return total - STORED * sum(sizes) + of_experts


def tokens_per_second(found: dict[str, Trained], tokens: int) -> dict[str, float]:
    """Of `TEXTS` texts that each model writes at once, in turn; medians of some rounds."""
    calls = {name: _writing(made, tokens) for name, made in found.items()}
    seconds = timing.interleaved(calls, ROUNDS, "writing side by side")
    return {name: TEXTS * tokens / statistics.median(taken) for name, taken in seconds.items()}


def _writing(made, tokens):
    weights = decoding.prepare(made.model, made.params, made.router_state)
    prompts = [[0, 1 + i % (made.model.vocab_size - 1)] for i in range(TEXTS)]
    return functools.partial(generation.generate, made.model, weights, prompts, tokens)


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study, changes, measures, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs, seeds = scaling.variants(config), study.seeds_of(config)
    study.run(runs, root, seeds, config.jobs, timed=False)
    runs |= distillation.students(config, runs, root)
    study.run(runs, root, seeds, config.jobs, timed=False)
    found = measured(config, runs, root)
    looks.report(root, "compression", compression.table(found), compression.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/compression.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
