"""Every published claim that this project tested, in one table, from what is recorded.

    python -m experiments.claims

Reads `experiments/results/`, trains nothing, and writes `experiments/CLAIMS.md`.
"""

import types
from collections.abc import Sequence

from experiments import command
from experiments.claimed import (
    abilities,
    compression,
    distillation,
    encoder_decoder,
    laws,
    machines,
    mixture_1991,
    routers,
    scaling,
    specialisation,
    upcycling,
)
from moe import sealed
from moe.analysis import claims

PATH = command.ROOT / "experiments" / "CLAIMS.md"
CLAIMED: tuple[types.ModuleType, ...] = (  # in the order of the table; the headline is the first
    scaling, laws, encoder_decoder, routers, specialisation, abilities, upcycling, distillation,
    compression, mixture_1991, machines,
)  # fmt: skip
HEAD = """# Claims

What papers claim of experts, beside what came out here. `python -m experiments.claims` writes this
file from [results](results/); how each study was made, and more of why, is in
[RESULTS.md](RESULTS.md)."""
LEFT_OUT = """Tested, too, but no recorded file has the numbers, so that RESULTS.md alone has them:
the coefficients of Clark et al. 2022 fitted again to their own runs, and QMoE's rate without its
grids. What was withdrawn there is not here."""


def rows() -> list[claims.Row]:
    """All claims, the headline first."""
    return [row for module in CLAIMED for row in module.rows()]


def text(found: Sequence[claims.Row]) -> str:
    """What the file says of these claims."""
    return f"{HEAD}\n\n{claims.table(found)}\n\n{LEFT_OUT}\n"


def main() -> None:
    """Writes the file and says where it is."""
    sealed.write(PATH, text(rows()))
    print(PATH)


if __name__ == "__main__":
    command.run(main)
