"""How small can a trained model with experts be made, and what does it lose?

    python -m experiments.compression --config=configs/compression.py:demo

Trains the models of the config, as `experiments.scaling` does, changes the one with experts by
every method, and prints its test loss over its bytes and over the tokens it writes in a second.
Resumable.
"""

import functools
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks, records, scaling, study
from moe import adapt, decoding, flops, generation
from moe.adapt import banks, integers, observing, packed, ternary
from moe.adapt.banks import Trained
from moe.analysis import compression
from moe.batch import Batch
from moe.training import runs as folders

STORED = 2  # bytes of a number, bfloat16
TEXTS = 32
ROUNDS = 5


def measured(config: ConfigDict, runs: records.Runs, root: pathlib.Path) -> list[dict]:
    """Loss and bytes of every method and seed."""
    return looks.measured(root / "compression.jsonl", _looks(config, runs, root))


def _looks(config, runs, root) -> Iterator[looks.Look]:
    opened = functools.lru_cache(maxsize=1)(functools.partial(trained_of, config=config))
    for of, path in looks.folders(runs, root, study.seeds_of(config)):
        for method in _methods(config, of["variant"]):

            def look(path=path, method=method) -> dict:
                looks.require_checkpoint(path)
                return _judged(config, method, *opened(path))

            kept = {"seed": of["seed"], "steps": of["steps"], "method": method}
            yield kept | {"batches": config.test_batches}, look


def _methods(config, variant):
    """What is done to a variant: nothing to the dense one."""
    if variant == compression.DENSE:
        return [compression.DENSE]
    return [compression.WHOLE, *config.methods]


def trained_of(path: pathlib.Path, config: ConfigDict) -> tuple[Trained, list[Batch], list[Batch]]:
    """A trained model, text to look at, and text to judge it by."""
    loaded = folders.load_run(path)
    source = loaded.run.source(loaded.data)
    trained = Trained(loaded.run.model, loaded.params, loaded.state.router_state)
    seen = list(source.held_out("validation", config.calibration_batches))
    return trained, seen, list(source.held_out("test", config.test_batches))


def _judged(config, method, trained, seen, judge):
    made = trained
    stored = None
    if method in config.methods:
        asked = config.methods[method]
        made = changed(trained, seen, **asked)
        stored = expert_bytes(made, asked["how"])
    found = {"nll": observing.loss(made, judge), "bytes": stored_bytes(made, stored)}
    if config.timed_tokens:
        found["tokens_per_second"] = tokens_per_second(made, config.timed_tokens)
    return found


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


def tokens_per_second(made: Trained, tokens: int) -> float:
    """Of `TEXTS` texts that are written at once; the median of some rounds."""
    weights = decoding.prepare(made.model, made.params, made.router_state)
    prompts = [[0, 1 + i % (made.model.vocab_size - 1)] for i in range(TEXTS)]

    def write() -> None:
        generation.generate(made.model, weights, prompts, tokens)

    write()  # compiles
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        write()
        seconds.append(time.perf_counter() - begin)
    return TEXTS * tokens / statistics.median(seconds)


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study, changes, measures, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs = scaling.variants(config)
    study.run(runs, root, study.seeds_of(config), config.jobs)
    found = measured(config, runs, root)
    looks.report(root, "compression", compression.table(found), compression.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/compression.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
