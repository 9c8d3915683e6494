"""What does a device hold if experts of other domains rest in the host's memory, and what for?

    python -m experiments.hosted --config=configs/hosted.py:demo

One model with PanGu-Sigma's router (`rre`), trained in three ways of as many steps: on all domains
at once, in rounds of one domain's text with all experts on the device, and in the same rounds with
only that domain's experts there (`moe.ensemble.hosted`). The last two must agree to the bit. Each
way of a seed is measured once; one that is interrupted begins anew.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks, study
from moe import evaluation, hlo, schema
from moe.adapt import domains
from moe.analysis import hosted as tables
from moe.config import ModelConfig
from moe.data import prepare
from moe.data.prepared import Prepared
from moe.ensemble import hosted
from moe.training import loop, step
from moe.training.config import RunConfig

WAYS = {"mixed": None, "here": False, "hosted": True}  # way -> do experts rest with the host?
UNTIMED = 2  # rounds, in which programs are compiled and memory is found


def run_of(config: ConfigDict, seed: int) -> RunConfig:
    """The run of all domains at once."""
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    model = study.with_experts("model", ConfigDict({"experts": {}}), base.model, config)
    return dataclasses.replace(base, model=model).replace(train={"seed": seed})


def turns(shares: np.ndarray, rounds: int) -> list[int]:
    """Whose text each round reads: at any time each domain is within a round of its share."""
    read = np.zeros(len(shares))
    found = []
    for number in range(1, rounds + 1):
        domain = int(np.argmax(shares * number - read))
        read[domain] += 1
        found.append(domain)
    return found


def trained(run: RunConfig, steps: int, host: bool | None) -> dict:
    """Trains, and says what it took and what came out.

    Args:
      run: of all domains.
      steps: in a round.
      host: experts rest in the host's memory; None: all are trained at once.
    """
    data = prepare.prepare(run.data)
    state = step.init(run.task.model, run.tx, run.train.seed, data.tokens["train"])
    if host is None:
        state, found = _mixed(run, data, state)
    else:
        state, found = _rounds(run, data, state, steps, host)
    result = evaluation.EVALUATORS[run.objective.objective.result](run, data, "test")
    sums = sum(float(np.abs(x).sum(dtype=np.float64)) for x in jax.tree.leaves(state.params))
    return found | {"nll": result.evaluate(state)["test_nll"], "absolute_sum": sums}


def _mixed(run, data, state):
    """All experts, text of all domains."""
    program = loop.compiled(run, state, data)
    found = {**_bytes(state, []), "temporary": hlo.temporary_bytes(program)}
    times = []
    for i in tqdm.trange(run.train.steps, mininterval=5):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, loop.batch(run, data, i)))
        times.append(time.perf_counter() - began)
    return state, found | {"ms": 1e3 * float(np.median(times))}


def _rounds(run, data, state, steps, host):
    """Text of one domain at a time, by its own experts."""
    names = run.data.source
    parts = [_part(run, name, data) for name in names]
    texts = [prepare.prepare(part.data) for part in parts]
    at_rest = hosted.apart(state, len(names), host)
    del state
    read = np.zeros(len(names), int)
    program = None
    found: dict = {}
    times = []
    for domain in tqdm.tqdm(turns(data.shares, run.train.steps // steps), mininterval=5):
        began = time.perf_counter()
        state = hosted.fetched(at_rest, domain)
        if program is None:
            program = loop.compiled(parts[domain], state, texts[domain])
            others = [g for d, g in enumerate(at_rest.groups) if host or d != domain]
            found = {**_bytes(state, others), "temporary": hlo.temporary_bytes(program)}
        for _ in range(steps):
            batch = loop.batch(parts[domain], texts[domain], int(read[domain]))
            state, _ = program(state, batch)
            read[domain] += 1
        at_rest = hosted.stored(at_rest, domain, state)
        jax.block_until_ready(at_rest.groups)
        times.append((time.perf_counter() - began) / steps)
    return hosted.whole(at_rest), found | {"ms": 1e3 * float(np.median(times[UNTIMED:]))}


def _part(run: RunConfig, name: str, data: Prepared) -> RunConfig:
    """The run of one domain's experts, in the tokens of all."""
    assert isinstance(run.model, ModelConfig)
    part = dataclasses.replace(run, model=domains.sub_model(run.model))
    return part.replace(data={"source": (name,), "tokenizer": str(data.tokenizer_path)})


def _bytes(state, others):
    """What lies where while a step is made: the state of the step, and experts that rest."""
    held = hosted.held([state, others])
    host = held.pop(hosted.HOST, 0)
    return {"device": sum(held.values()), "host": host}


def _looks(config) -> Iterator[looks.Look]:
    for seed in study.seeds_of(config):
        run = run_of(config, seed)
        for way, host in WAYS.items():

            def look(run=run, host=host) -> dict:
                return trained(run, config.round, host)

            yield {"seed": seed, "way": way, "steps": run.train.steps, "round": config.round}, look


def main(config: ConfigDict, workdir: str) -> None:
    """Trains in all ways, and reports."""
    run = run_of(config, 0)
    schema.require(
        run.train.steps % config.round == 0,
        f"config.round={config.round} must divide train.steps={run.train.steps}",
    )
    domains.group_size(run.model)
    root = pathlib.Path(workdir or f"runs/{config.name}")
    root.mkdir(parents=True, exist_ok=True)
    found = looks.measured(root / "hosted.jsonl", _looks(config))
    looks.report(root, "hosted", tables.table(found), tables.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/hosted.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
