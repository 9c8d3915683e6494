"""How many experts? The grid of cells, and laws of the loss fitted to it, with intervals.

    python -m experiments.laws --config=configs/laws.py:demo
    python -m experiments.laws --clark=curves.csv.gz    # our fitter on Clark et al. 2022's runs
    python -m experiments.laws --synthetic=100        # and on laws whose coefficients are known

The file is `data/curves.csv.gz` of google-deepmind/scaling_laws_for_routing.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, grid
from moe.analysis import fitting, markdown, published
from moe.analysis.laws import LAWS
from moe.training import files

DRAWS = 1000  # of the bootstrap
HEAD = ("router", "coefficient", "published", "ours", "95%", "inside")


def clark_table(path: str, draws: int = DRAWS) -> str:
    """Published coefficients beside ours, in Markdown, and how many are inside our intervals."""
    rows = []
    for router, cells in published.clark(path).items():
        fitted = fitting.fit(LAWS["clark"], cells)
        drawn = fitting.bootstrap(fitted, cells, fitting.of_cells(range(len(cells.loss))), draws)
        for name, theirs in published.CLARK[router].items():
            low, high = fitting.interval(drawn, name)
            ours = fitted.coefficients[name]
            inside = "yes" if low <= theirs <= high else "NO"
            rows.append(
                (router, name, f"{theirs:g}", f"{ours:.4g}", f"{low:.4g} to {high:.4g}", inside)
            )
        last = f"{len(cells.loss)} runs, root mean square {fitted.rmse:.4f} nats"
        rows.append((router, "", "", last, "", ""))
    within = sum(row[-1] == "yes" for row in rows)
    asked = sum(bool(row[1]) for row in rows)
    return f"{markdown.table(HEAD, rows)}\n\n{within} of {asked} inside ({draws} draws of cells)."


def synthetic_table(number: int, draws: int = 200) -> str:
    """How often the intervals hold the coefficient that runs were made from, by law."""
    rows = []
    for name, truth in published.TRUTHS.items():
        found = published.coverage(LAWS[name], truth, number, draws)
        rows += [(name, c, f"{truth[c]:g}", f"{n} of {number}") for c, n in found.items()]
    return markdown.table(("law", "coefficient", "true", "inside"), rows)


def train(config: ConfigDict, workdir: str) -> None:
    """Trains what is not trained yet, and writes cells.csv."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    rows = grid.run(config, root)
    files.write(root / "cells.csv", grid.table(rows))
    print(root / "cells.csv")


def main(config: ConfigDict, workdir: str, clark: str, synthetic: int) -> None:
    """The oracles if they are asked for, else the grid."""
    if clark:
        print(clark_table(clark))
    if synthetic:
        print(synthetic_table(synthetic))
    if not (clark or synthetic):
        train(config, workdir)


if __name__ == "__main__":
    CONFIG = command.config("configs/laws.py:demo", "The grid.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The grid's folder; default runs/<config.name>.")
    CLARK = flags.DEFINE_string("clark", "", "The runs of Clark et al. 2022, a file of yours.")
    SYNTHETIC = flags.DEFINE_integer("synthetic", 0, "So many made-up studies of each law.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value, CLARK.value, SYNTHETIC.value))
