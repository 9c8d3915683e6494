"""Models with experts that a study makes of dense ones that it trained, by `experiments.adapt`."""

import pathlib
import shutil
from collections.abc import Sequence

from experiments import adapt, looks
from moe import schema, sealed

LAST = "adapted.json"  # the last file that is written
UNASKED = {"moe_every": 1, "packed": "", "devices": 1, "of_domains": ()}


def upcycled(
    sources: Sequence[pathlib.Path], out: pathlib.Path, *,
    experts: int, k: int, seed: int, parts: int = 1, share: float = 0.0,
) -> None:  # fmt: skip
    """Writes the model that parents become, unless it is there.

    Args:
      sources: the parents' workdirs.
      out: its own.
      experts, k, seed, parts, share: as of `adapt.Ask`.

    Raises:
      UserError: if it was made otherwise, or a parent has no checkpoint.
    """
    first, *others = map(str, sources)
    numbers = {"experts": experts, "k": k, "seed": seed, "parts": parts, "share": share}
    asked = numbers | {"parents": others}
    if (out / LAST).exists():
        _require_same(out, asked)
        return
    shutil.rmtree(out, ignore_errors=True)  # it was interrupted
    for source in sources:
        looks.require_checkpoint(source)
    adapt.adapted(
        first, str(out), "upcycle", 1, "", adapt.USUAL, **numbers, **UNASKED, parents=tuple(others)
    )


def _require_same(out, asked):
    """Refuses what an earlier config made."""
    was = sealed.read_json(out / LAST)
    other = {name: was[name] for name in asked if was[name] != asked[name]}
    schema.require(
        not other, f"{out} was made with {other}: delete it, and runs that began with it, or use"
        " another --workdir",
    )  # fmt: skip
