"""Published checkpoints against transformers itself, live and in both directions.

    make parity     # in .venv-parity, with torch and transformers beside this code

For each family a random checkpoint is made by transformers (`tests/interop/make_goldens.py`), read
by `moe.interop`, and its logits compared. Then it is written by `moe.interop`, read back by
transformers, and the logits compared again.
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np
import transformers

from experiments import command
from moe import interop, schema
from moe.analysis import markdown
from tests.interop import make_goldens, published

LIMIT = 1e-4  # of the largest difference of logits, float32


def main() -> None:
    """A table of all families.

    Raises:
      UserError: if a difference is above the limit.
    """
    transformers.utils.logging.set_verbosity_error()
    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory() as root:
        for name, config in make_goldens.configs().items():
            model = make_goldens.drawn(config)
            differences = compared(pathlib.Path(root) / name, model)
            worst = float(np.max([worst, *differences]))  # NaN stays
            rows.append([name, config.model_type, *(f"{x:.1e}" for x in differences)])
    columns = ["model", "family", "ours of theirs", "theirs of ours"]
    print(markdown.table(columns, rows))
    print(
        f"transformers {transformers.__version__}, jax {jax.__version__}, {sys.version.split()[0]}"
    )
    schema.require(worst <= LIMIT, f"logits differ by {worst:.1e}, more than {LIMIT:.0e}")


def compared(root: pathlib.Path, model: transformers.PreTrainedModel) -> tuple[float, float]:
    """Largest differences of logits: their checkpoint read here, and ours read there."""
    want, given = make_goldens.computed(model)
    model.save_pretrained(root / "theirs")
    config, params = interop.load(root / "theirs")
    ours = np.abs(published.logits(config, params, given) - want).max()
    interop.save(root / "ours", config, params, model.config.model_type)
    again = type(model).from_pretrained(root / "ours", attn_implementation="eager").eval()
    theirs = np.abs(make_goldens.computed(again)[0] - want).max()
    return float(ours), float(theirs)


if __name__ == "__main__":
    command.run(main)
