"""Do experts that compete learn vowels in half the epochs of one network? And what does EM buy?

    python -m experiments.mixture_1991 --config=configs/mixture_1991.py:demo

The task and the table of Jacobs et al. (1991), with a sweep of learning rates for both sides; then
networks, mixtures and hierarchies on tables of numbers, and EM against gradients from the same
starts. Resumable. Needs the extra `vowels`.
"""

import pathlib

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks
from experiments.mixture_parts import held_out, starts
from experiments.mixture_parts import vowels as learning
from moe.analysis import mixture_1991 as tables
from moe.analysis import mixture_fits, mixture_regions, plots
from moe.analysis.mixture_regions import Region
from moe.data import vowels


def regions(config: ConfigDict, found: vowels.Vowels, records: list[dict]) -> list[Region]:
    """The models of the published reading, of the first seed, each at its best rate."""
    v = config.vowels
    reading = v.published
    train, _ = learning.splits(found, v.readings[reading])
    sweeps = tables.sweeps(records)
    made = []
    for name in v.models:
        rate = tables.best_rate(sweeps[reading, name, tables.COMPETITIVE])
        if rate is not None:
            model = learning.sizes(v, reading, name)
            asked = (learning.seeds(config), rate, v.criterion, v.most_epochs)
            done = learning.learned(model, tables.COMPETITIVE, train, *asked)
            made.append(Region(name, model, jax.tree.map(lambda w: w[0], done.params)))
    return made


def main(config: ConfigDict, workdir: str) -> None:
    """Trains, fits, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    root.mkdir(parents=True, exist_ok=True)
    found = vowels.read()
    records = learning.measured(config, root, found)
    plots.save(mixture_regions.drawn(found, regions(config, found, records)), root / "regions.png")
    parts = (
        tables.table(records),
        mixture_fits.held_out(held_out.measured(config, root)),
        mixture_fits.starts(starts.measured(config, root)),
    )
    looks.report(root, "mixture_1991", "\n\n".join(parts), tables.drawn(records), of="vowels.jsonl")
    for name in ("held_out.jsonl", "starts.jsonl", "regions.png"):
        print(root / name)


if __name__ == "__main__":
    CONFIG = command.config("configs/mixture_1991.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
