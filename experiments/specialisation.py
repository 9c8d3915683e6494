"""What do experts specialise in: syntax, topics, languages? Those of top-k, and those in pools.

    python -m experiments.specialisation --config=configs/specialisation.py:demo

Opens the models of another study, which are trained first if they are not there, trains models
whose documents have pools of experts (`moe.routing.emo`) at the same FLOPs, and traces what every
test token chooses. Each measure stands beside its null, with an interval. Resumable.
"""

import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from experiments import (
    command,
    horizons,
    looks,
    pretrained,
    records,
    scaling,
    study,
    trace_measures,
    traced,
)
from moe.analysis import choices, expert_claims, specialists
from moe.training import folders as checkpoints
from moe.training import metrics


class Model(NamedTuple):
    """A variant, and the study that trained it."""

    name: str
    runs: records.Runs
    root: pathlib.Path

    def folder(self, seed: int) -> pathlib.Path:
        """Its workdir."""
        return records.folder(self.root, self.name, seed)

    def earlier(self, seed: int) -> dict[int, pathlib.Path]:
        """Step -> where that earlier checkpoint lies: its own, or of a run that it went on from."""
        found: dict[int, pathlib.Path] = {}
        for name, run in self.runs.items():
            steps = run.train.steps
            shorter = records.variant_of(name) == self.name and horizons.heir_of(name, self.runs)
            if shorter or name == self.name:
                last = run.optimizer.stable_steps(steps) if shorter else steps - 1
                path = records.folder(self.root, name, seed)
                found |= {step: path for step in checkpoints.steps_in(path) if step <= last}
        return dict(sorted(found.items()))


def models(config: ConfigDict, root: pathlib.Path) -> list[Model]:
    """All models, trained."""
    pretrained.starts(config)
    before = scaling.variants(config.pretrained)
    own = scaling.variants(config)
    study.run(own, root, study.seeds_of(config), config.jobs, timed=False)
    place = pathlib.Path(f"runs/{config.pretrained.name}")
    found = [Model(name, before, place) for name in config.models]
    return found + [Model(name, own, root) for name in own if "@" not in name]


def measured(config: ConfigDict, found: list[Model], root: pathlib.Path) -> list[dict]:
    """The measures of every model, of each seed and of each pair of seeds."""
    return looks.measured(root / "specialisation.jsonl", _looks(config, found))


def _looks(config, found) -> Iterator[looks.Look]:
    seeds = study.seeds_of(config)
    size = {"batches": config.test_batches, "draws": config.draws}
    opened = functools.lru_cache(maxsize=4)(
        functools.partial(traced.of_run, number=config.test_batches)
    )
    labels = functools.cache(lambda: traced.labels(opened(found[0].folder(seeds[0]))))
    for model in found:
        of = {"variant": model.name, "steps": model.runs[model.name].train.steps, **size}
        for seed in seeds:
            given = config.draws, model, seed, opened, labels
            yield of | {"seed": seed}, functools.partial(_of_one, *given)
        for pair in itertools.combinations(seeds, 2):
            one, other = (model.folder(seed) for seed in pair)
            of_both = of | {"seeds": " and ".join(map(str, pair))}
            yield of_both, functools.partial(_of_two, one, other, opened)


def _of_one(draws, model, seed, opened, labels):
    path = model.folder(seed)
    own = opened(path)
    found = trace_measures.of_labels(own, labels(), draws)
    found |= trace_measures.of_choices(own, draws)
    for step, folder in model.earlier(seed).items():
        found |= trace_measures.saturated(opened(folder, at=step), own, step)
    return {"measures": found, "over_time": choices.over_time(metrics.read(path / "metrics.jsonl"))}


def _of_two(one, other, opened):
    return {"measures": trace_measures.matched(opened(one), opened(other))}


def main(config: ConfigDict, workdir: str) -> None:
    """Trains, traces, measures, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    found = measured(config, models(config, root), root)
    text = f"{specialists.text(found)}\n\n{expert_claims.text(found)}"
    looks.report(root, "specialisation", text, specialists.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/specialisation.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
