"""How fast, and how evenly, do models with more and fewer experts write?

    python -m experiments.serving --config=configs/serving.py:demo

Trains the models of the config, as `experiments.scaling` does, prunes those with experts by REAP,
and lets all of one seed continue the same test text, a step of each in turn, so that what else the
machine does falls on all alike. A dense step always does the same work: its spread is the
machine's. A step holds one call from Python and the way of its tokens to the host, as where text is
streamed; and between two steps of a model others have had the caches.

Decoding runs with the `grouped` dispatcher, whose experts `dispatch.blocks` computes. Shapes are
static, so most of a step's work does not depend on the routing:
- with fewer choices in a batch than experts it is a turn of a loop for each choice, wherever they
  go; only caches can tell whether two share an expert;
- otherwise every expert computes its slots, full or empty, and what overflows takes turns of a
  loop, as many as the routing asks for. These alone vary.
Experts lie on one device: what a mesh would wait for is counted, not timed. Resumable.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import command, compression, looks, records, scaling, study, timing
from moe import decoding, flops, generation, schema
from moe.adapt import observing
from moe.analysis import decode_loads, serving
from moe.config import ModelConfig
from moe.data import batches, prepare
from moe.sampling import Sampling

Texts = list[list[int]]


# What numbers depend on, beside models, seed and batch.
FIELDS = (
    *("batches", "calibration_batches", "devices", "prompts", "pruned_by", "rounds", "sets"),
    *("temperature", "test_batches", "tokens"),
)


class Served(NamedTuple):
    """A model that writes."""

    model: ModelConfig
    weights: tuple[dict, dict]
    known: dict  # about it, whatever the batch
    device_LE: dict[str, np.ndarray]  # placement -> where experts lie


def measured(config: ConfigDict, runs: records.Runs, root: pathlib.Path) -> list[dict]:
    """A record of every model, batch size and seed."""
    found = looks.measured(root / "serving.jsonl", _looks(config, runs, root))
    return [
        {"seed": one["seed"], "batch": one["batch"], "model": name, **numbers}
        for one in found
        for name, numbers in one["models"].items()
    ]


def _looks(config, runs, root) -> Iterator[looks.Look]:
    opened = functools.lru_cache(maxsize=1)(functools.partial(models, config, runs, root))
    texts = functools.cache(functools.partial(rows, config, runs))
    asked = {"models": ",".join(runs), **{name: str(config[name]) for name in FIELDS}}
    for seed in study.seeds_of(config):
        for batch in config.batches:

            def look(seed=seed, batch=batch) -> dict:
                return {"models": side_by_side(config, batch, opened(seed), texts())}

            yield {"seed": seed, "batch": batch} | asked, look


def rows(config: ConfigDict, runs: records.Runs) -> Texts:
    """Rows of test text, as long as the longest prompt, as many as all sets need.

    Raises:
      UserError: if the split has too few.
    """
    data = prepare.prepare(next(iter(runs.values())).data)
    longest = max(config.prompts)
    number = config.sets * max(config.batches)
    row_N = batches.eval_rows(data, "test", longest, number)
    schema.require(
        len(row_N) == number,
        f"the test split has {len(row_N)} prompts of {longest} tokens, {number} are needed: lower"
        " sets or batches",
    )
    return data.tokens["test"][row_N[:, None] * longest + np.arange(longest)].tolist()


def prompts(config: ConfigDict, texts: Texts, batch: int) -> list[Texts]:
    """The sets of a batch size: beginnings of rows, each another one, of lengths that differ.

    The first of a set is the longest, so that programs of one shape fit all sets.
    """
    shortest, longest = config.prompts
    length_B = longest - np.arange(batch) % (longest - shortest + 1)
    sets = [texts[i * batch : (i + 1) * batch] for i in range(config.sets)]
    return [[row[:n] for row, n in zip(some, length_B, strict=True)] for some in sets]


def models(
    config: ConfigDict, runs: records.Runs, root: pathlib.Path, seed: int
) -> dict[str, Served]:
    """Those of one seed, as they were trained and pruned."""
    found = {}
    for variant in runs:
        path = records.folder(root, variant, seed)
        looks.require_checkpoint(path)
        trained, seen, judge = compression.trained_of(path, config)
        for name, made in _sizes(config, variant, trained, seen).items():
            nll = observing.loss(made._replace(model=decoding.dropless(made.model)), judge)
            weights = decoding.prepare(made.model, made.params, made.router_state)
            known = about(made.model) | {"of": variant, "nll": nll}
            where = _placements(made, seen, config.devices)
            found[name] = Served(made.model, weights, known, where)
    return found


def _sizes(config, variant, trained, seen):
    """name -> the model, whole and with fewer experts."""
    found = {variant: trained}
    if trained.model.experts is None:
        return found
    for share in config.pruned_by:
        number = trained.model.experts.num_experts // share
        made = compression.changed(trained, seen, "prune_reap", number)
        found[f"{variant}_pruned{number}"] = made
    return found


def about(model: ModelConfig) -> dict[str, int]:
    """The size of a model."""
    size = flops.parameters(model)
    experts = model.experts.num_experts if model.experts else 0
    return {"experts": experts, "total": size.total, "active": size.active}


def _placements(made, seen, devices):
    if made.model.experts is None:
        return {}
    used = observing.observe(made, seen, observing.use)
    return decode_loads.placements(used.tokens, devices)


def side_by_side(
    config: ConfigDict, batch: int, found: dict[str, Served], texts: Texts
) -> dict[str, dict]:
    """How long every model's steps take, and what they ask of experts.

    Args:
      config: of the study.
      batch: texts that are written at once.
      found: the models.
      texts: of `rows`.
    """
    sets = prompts(config, texts, batch)
    taken = [seconds(config, found, some) for some in sets]
    numbers = {}
    for name, one in found.items():
        seconds_RT = np.concatenate([times[name] for times in taken], axis=1)
        numbers[name] = one.known | serving.spread(seconds_RT, batch)
        if one.model.experts is not None:
            numbers[name] |= _loads(config, one, sets, seconds_RT)
    return numbers


def seconds(config: ConfigDict, found: dict[str, Served], some: Texts) -> dict[str, np.ndarray]:
    """seconds_RT: of each model's steps with the same texts, in every round."""
    rounds = []
    for _ in range(config.rounds):
        calls = {
            name: functools.partial(
                next, generation.stream(one.model, one.weights, **_asked(config, some))
            )
            for name, one in found.items()
        }
        rounds.append(timing.interleaved(calls, config.tokens, f"writing {len(some)} texts"))
    return {name: np.array([times[name] for times in rounds]) for name in found}


def _asked(config, some):
    """One token more than is counted: the first waits for the prompts to be read."""
    how = Sampling(temperature=config.temperature)
    return {"prompts": some, "steps": config.tokens + 1, "how": how}


def _loads(config, one, sets, seconds_RT):
    """What the steps that were timed asked of experts."""
    written = [generation.written(one.model, one.weights, **_asked(config, s)) for s in sets]
    chosen = [w.experts[:, :, 1:] for w in written if w.experts is not None]
    chosen_LBTK = np.concatenate(chosen, axis=2)
    count_TLE = decode_loads.per_step(chosen_LBTK, one.known["experts"])
    turn_T = decode_loads.turns(count_TLE, chosen_LBTK.shape[1] * chosen_LBTK.shape[3])
    busiest = {
        how: decode_loads.largest_device(count_TLE, device_LE)
        for how, device_LE in one.device_LE.items()
    }
    return {
        **decode_loads.summary(count_TLE),
        "turns": float(turn_T.mean()),
        "turns_p95": float(np.percentile(turn_T, 95)),
        "follows": serving.follows(seconds_RT, turn_T),
        "busiest_device": busiest,
    }


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study, lets the models write, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs = scaling.variants(config)
    study.run(runs, root, study.seeds_of(config), config.jobs, timed=False)
    found = measured(config, runs, root)
    looks.report(root, "serving", serving.table(found), serving.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/serving.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
