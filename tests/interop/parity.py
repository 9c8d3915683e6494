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
from moe import interop, models, schema
from moe.analysis import markdown
from moe.batch import Batch, Inputs
from tests.interop import make_goldens

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
    ours = np.abs(logits(config, params, given) - want).max()
    interop.save(root / "ours", config, params, model.config.model_type)
    again = type(model).from_pretrained(root / "ours", attn_implementation="eager").eval()
    theirs = np.abs(make_goldens.computed(again)[0] - want).max()
    return float(ours), float(theirs)


def logits(config: object, params: dict, given: dict[str, np.ndarray]) -> np.ndarray:
    """[B, T, V] of rows that are one document each.

    Args:
      config, params: of `interop.load`.
      given: `input_ids`, and `decoder_input_ids` of a model with an encoder.
    """
    inputs = placed(given["input_ids"])
    batch = Batch(inputs[0], *inputs)
    if "decoder_input_ids" in given:
        own = placed(given["decoder_input_ids"])
        batch = Batch(own[0], *own, encoder=Inputs(*inputs))
    model = models.build(config)

    def forward(params: dict, batch: Batch) -> jax.Array:
        return model.apply(params, {}, batch, key=jax.random.key(0), train=False).logits

    return np.asarray(jax.jit(forward)(params, batch))


def placed(ids_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With segments and positions."""
    position_BT = np.broadcast_to(np.arange(ids_BT.shape[1]), ids_BT.shape)
    return ids_BT, np.ones_like(ids_BT), position_BT


if __name__ == "__main__":
    command.run(main)
