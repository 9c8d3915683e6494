"""Which parameters a fine-tuned model changes (Zoph et al. 2022, "ST-MoE", section 5.2).

`SUBSETS` names the patterns of those that stay as they are, for `optimizer.frozen`: they get no
gradient, no optimizer state and no weight decay.
"""

from collections.abc import Iterable

from moe import models, paths
from moe.config import ModelConfig

SUBSETS: dict[str, tuple[str, ...]] = {
    "all": (),
    "non_moe": (r".*/moe/.*",),  # all but experts and routers
    "moe": (r"(?!.*/moe/).*",),
    "attention": (r"(?!.*/(attention|cross)/).*",),
    "ffn": (r"(?!.*/ffn/).*",),  # of dense layers
}


def trained(model: ModelConfig, frozen: Iterable[str]) -> tuple[int, int]:
    """(parameters that are trained, parameters).

    Args:
      model: the config of the model.
      frozen: patterns of those that are not, see `moe.paths`.
    """
    sizes = {path: x.size for path, x in paths.named(models.parameter_shapes(model)).items()}
    still = tuple(frozen)
    moving = (size for path, size in sizes.items() if not paths.matches(still, path))
    return sum(moving), sum(sizes.values())


def subsets_of(model: ModelConfig) -> list[str]:
    """The subsets that a model has: each trains something, and all but "all" not everything."""
    found = []
    for name, frozen in SUBSETS.items():
        moving, every = trained(model, frozen)
        if name == "all" or 0 < moving < every:
            found.append(name)
    return found
