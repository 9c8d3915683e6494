"""How many experts? The grid of cells, and laws of the loss fitted to it, with intervals.

    python -m experiments.laws --config=configs/laws.py:demo
    python -m experiments.laws --clark=curves.csv.gz    # our fitter on Clark et al. 2022's runs
    python -m experiments.laws --synthetic=100        # and on laws whose coefficients are known
    python -m experiments.laws --rates=cells.csv      # the rule for learning rates that pilots give
    python -m experiments.laws --config=configs/laws.py:foretold --foretell   # before it is run

The file is `data/curves.csv.gz` of google-deepmind/scaling_laws_for_routing.
"""

import math
import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, grid
from moe import schema
from moe.analysis import (
    cells,
    fitting,
    law_plots,
    law_tables,
    learning_rates,
    markdown,
    plots,
    published,
)
from moe.analysis.laws import LAWS

ROOT = pathlib.Path(__file__).parents[1]  # of the clone
DRAWS = 1000  # of the bootstrap
JOINT = "kaplan"  # the law that optima are read off: it fits best
FORETELLING = (JOINT, "ludziejewski", "abnar")  # laws of size, experts and tokens
HEAD = ("router", "coefficient", "published", "ours", "95%", "inside")


def clark_table(path: str, draws: int = DRAWS) -> str:
    """Published coefficients beside ours, in Markdown, and how many are inside our intervals."""
    rows = []
    for router, theirs in published.clark(path).items():
        fitted = fitting.fit(LAWS["clark"], theirs)
        drawn = fitting.bootstrap(fitted, theirs, fitting.of_cells(range(len(theirs.loss))), draws)
        for name, said in published.CLARK[router].items():
            low, high = fitting.interval(drawn, name)
            ours = fitted.coefficients[name]
            inside = "yes" if low <= said <= high else "NO"
            rows.append(
                (router, name, f"{said:g}", f"{ours:.4g}", f"{low:.4g} to {high:.4g}", inside)
            )
        last = f"{len(theirs.loss)} runs, root mean square {fitted.rmse:.4f} nats"
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


def report(rows: list[dict], root: pathlib.Path, draws: int) -> None:
    """Fits every law, writes answers.md and the figures, says where they are.

    Args:
      rows: of the grid.
      root: where to write.
      draws: of the bootstrap of each law.
    """
    answers = [law_tables.answer(name, rows, draws) for name in LAWS]
    best = next(one for one in answers if one.name == JOINT)
    limits = memories(best)
    parts = {
        "Laws": law_tables.forms_table(answers, cells.noise(rows)),
        "Coefficients": law_tables.coefficients_table(answers),
        f"The best number of experts, by {JOINT}": law_tables.optima_table(best, limits),
        "What experts gain over dense, nats": law_tables.gains_table(rows),
    }
    if any(row["unique_tokens"] < row["tokens"] for row in rows):
        parts["Text that is read again"] = law_tables.repeated_table(rows)
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in parts.items())
    (root / "answers.md").write_text(text + "\n")
    figures = {
        "experts.png": law_plots.experts_figure(best),
        "best.png": law_plots.best_figure(best, limits),
        "gains.png": law_plots.gains_figure(rows),
        "fits.png": law_plots.fits_figure(answers),
    }
    for name, drawn in figures.items():
        plots.save(drawn, root / name)
    print(f"{text}\n")
    for name in ("answers.md", *figures):
        print(root / name)


def memories(one: law_tables.Answer) -> tuple[float, float]:
    """Parameters that there may be: any number, and a thirtieth of the largest model's."""
    return math.inf, max(row["total"] for row in one.rows) / 30


def foretell(config: ConfigDict, root: pathlib.Path, draws: int = DRAWS) -> str:
    """What laws of the recorded grid say of this config's cells; what came of those that were run.

    Args:
      config: with `recorded`, the cells.csv of the grid.
      root: the folder of the config's own runs, of which there may be none.
      draws: of the bootstrap of each law.

    Raises:
      UserError: if there is no recorded grid.
    """
    path = ROOT / config.recorded
    schema.require(
        bool(config.recorded) and path.exists(),
        f"config.recorded={config.recorded!r} must be the cells.csv of a grid, in the clone",
    )
    rows = cells.read(path)
    own = root / "cells.csv"
    run = {_which(row): row for row in (cells.read(own) if own.exists() else ())}
    asked = [run.get(_which(row), row) for row in grid.planned(config)]
    answers = [law_tables.answer(name, rows, draws) for name in FORETELLING]
    return law_tables.foretold_table(answers, asked, cells.noise(rows))


def _which(row):
    return row["cell"], row["steps"], row["seed"]


def train(config: ConfigDict, workdir: str) -> None:
    """Trains what is not trained yet, writes cells.csv, and reports on it or on a recorded grid."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    grid.run(config, root)
    print(root / "cells.csv")
    path = ROOT / config.recorded if config.recorded else root / "cells.csv"
    if config.draws:
        schema.require(path.exists(), f"{path} is not recorded: config.draws=0 leaves it out")
        print(f"laws of {path}:")
        report(cells.read(path), root, config.draws)


def main(
    config: ConfigDict, workdir: str, clark: str, synthetic: int, rates: str = "",
    foretold: bool = False,
) -> None:  # fmt: skip
    """The oracles, the rule or what laws foretell if they are asked for, else the grid."""
    if clark:
        print(clark_table(clark))
    if synthetic:
        print(synthetic_table(synthetic))
    if rates:
        print(learning_rates.table(cells.read(rates)))
    if foretold:
        print(foretell(config, pathlib.Path(workdir or f"runs/{config.name}")))
    if not (clark or synthetic or rates or foretold):
        train(config, workdir)


if __name__ == "__main__":
    CONFIG = command.config("configs/laws.py:demo", "The grid.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The grid's folder; default runs/<config.name>.")
    CLARK = flags.DEFINE_string("clark", "", "The runs of Clark et al. 2022, a file of yours.")
    SYNTHETIC = flags.DEFINE_integer("synthetic", 0, "So many made-up studies of each law.")
    RATES = flags.DEFINE_string("rates", "", "A pilots' cells.csv, to print the rule it gives.")
    FORETELL = flags.DEFINE_bool("foretell", False, "What laws of config.recorded say of cells.")
    command.run(
        lambda: main(
            CONFIG.value, WORKDIR.value, CLARK.value, SYNTHETIC.value, RATES.value, FORETELL.value
        )
    )
