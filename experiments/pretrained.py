"""Models that one study trains and another goes on from."""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from experiments import scaling, study
from experiments.records import Runs
from moe import initialisation, schema
from moe.training.config import RunConfig


def starts(config: ConfigDict) -> Runs:
    """The models of a study, which is trained first, as runs that start where it ended.

    It lies in a folder of its own, runs/<its name>, as `experiments.few_shot` leaves it.

    Args:
      config: has `pretrained`, the config of that study; `models`, which of its variants; and
        seeds.

    Raises:
      UserError: if it has no such variant or seed.
    """
    seeds, known = study.seeds_of(config), study.seeds_of(config.pretrained)
    schema.require(
        set(seeds) <= set(known),
        f"seeds {list(seeds)} start from pretrained ones, which are {list(known)}: ask for fewer",
    )
    runs = scaling.variants(config.pretrained)
    for name in config.models:
        schema.one_of("models", name, [one for one in runs if "@" not in one])
    root = pathlib.Path(f"runs/{config.pretrained.name}")
    study.run(runs, root, known, config.pretrained.jobs)
    return {name: at_end(runs[name], root / name) for name in config.models}


def at_end(run: RunConfig, folder: pathlib.Path) -> RunConfig:
    """The run, to start where the one of its seed in a folder of a study ended."""
    source = initialisation.InitConfig(workdir=str(folder / "seed{seed}"))
    return dataclasses.replace(run, init_from=source)
