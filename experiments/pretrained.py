"""Models that a study of what comes after training starts from: those of another study."""

import pathlib

from ml_collections import ConfigDict

from experiments import records, scaling, study


def trained(config: ConfigDict) -> tuple[records.Runs, pathlib.Path]:
    """Trains what is left of a study, all of it and as `experiments.few_shot` does.

    Args:
      config: of that study, as of `configs/abilities.py`.

    Returns:
      Its runs, and its folder.
    """
    runs = scaling.variants(config)
    root = pathlib.Path(f"runs/{config.name}")
    study.run(runs, root, study.seeds_of(config), config.jobs)
    return runs, root


def workdir(root: pathlib.Path, name: str) -> str:
    """Where a run starts that continues one of its study's: that of its own seed."""
    return str(root / name / "seed{seed}")
