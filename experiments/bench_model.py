"""How fast are whole models? Training beside its own matrix products, decoding beside dense.

    python -m experiments.bench_model --config=configs/bench_model.py [--peers]

Training: the step of each variant, matched in FLOPs, in turn with the others; beside it its matrix
products at the speed of a plain large one, measured in the same run, and its floor, which is the
time of its own products, each shape by itself. With --peers the study `llama` also has the whole
steps of Hugging Face's models of the same sizes, if they are installed.

Decoding: one token of each text in a batch, with half of the cache filled; models whose tokens meet
as many parameters.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import baselines, command, peers, scaling, timing
from moe import counting, decoding, flops, hlo, models, schema, sealed
from moe.analysis import dispatching
from moe.batch import Batch
from moe.config import ModelConfig, MoEConfig
from moe.training import files, step
from moe.training.config import RunConfig

PEERED = "llama"  # the study whose models others have, too


def batch(run: RunConfig) -> Batch:
    """Random tokens, one document a row."""
    t = run.train
    rng = np.random.default_rng(0)
    shape = (t.batch_size, t.seq_len)
    tokens, targets = rng.integers(1, run.model.vocab_size, (2, *shape)).astype(np.int32)
    ones = np.ones(shape, np.int32)
    place = np.broadcast_to(np.arange(shape[1]), shape)
    place = place.astype(np.int32)
    return jax.tree.map(jnp.asarray, Batch(tokens, targets, ones, place))


def floor(run: RunConfig, rounds: int, what: str) -> float:
    """Seconds of the matrix products of a training step, each shape by itself.

    Those of attention are our own, whatever kernel computes it.
    """
    t = run.train
    step_ = step.of_run(flops.countable(run))
    state = jax.eval_shape(lambda: step.init(run.task.model, run.tx, t.seed))
    found = counting.products(step_, state, run.task.batch_shapes(t.batch_size, t.seq_len))
    calls: dict[counting.Product, Callable[[], jax.Array]] = {}
    for product in found:
        draw = [jax.random.normal(jax.random.key(0), shape, dtype) for shape, dtype in product.of]
        dot = functools.partial(
            jax.lax.dot_general,
            dimension_numbers=product.dimensions,
            precision=product.precision,
            preferred_element_type=product.gives,
        )
        calls[product] = functools.partial(jax.jit(dot), *draw)
    taken = timing.interleaved(calls, rounds, f"products of {what}")
    return sum(times * float(np.median(taken[product])) for product, times in found.items())


def training(name: str, config: ConfigDict, rounds: int, with_peers: bool) -> list[dict]:
    """One row for each variant of a study, and for each of its peers."""
    runs = scaling.variants(config)
    states = {}
    temporary = {}
    calls: dict[str, Callable] = {}
    product, product_flops = timing.large_product(config.base.model.dtype)
    calls["product"] = product
    for variant, run in runs.items():
        states[variant] = step.init(run.task.model, run.tx, 0)
        fn = step.make_train_step(run.task, run.tx, 0, run.train.accumulate)
        compiled = fn.lower(states[variant], batch(run)).compile()
        temporary[variant] = hlo.temporary_bytes(compiled)
        calls[variant] = functools.partial(timing.advance, states, variant, compiled, batch(run))
    found = _peers(runs) if with_peers else {}
    taken = timing.interleaved(calls | found, rounds, f"training {name}")
    seconds = {variant: float(np.median(times)) for variant, times in taken.items()}
    speed = product_flops / seconds["product"]
    rows = [_peer_row(name, peer, seconds) for peer in found]
    for variant, run in runs.items():
        t = run.train
        executed = flops.of_run(run).total
        tokens = t.batch_size * t.seq_len
        least = floor(run, rounds, variant)
        row = {
            "what": "training",
            "model": name,
            "variant": variant,
            "tokens": tokens,
            "executed_flops": executed,
            "seconds": seconds[variant],
            "large_product_flops_per_second": speed,
            "floor_seconds": least,
            "ratio_to_dense": seconds[variant] / seconds["dense"],
            "ratio_to_products": seconds[variant] * speed / executed,
            "ratio_to_floor": seconds[variant] / least,
            "temporary_bytes": temporary[variant],
        }
        rows.append(row)
    return rows


def _peers(runs):
    """The steps of other people's models: of the first run of each number of experts."""
    sizes = {run.model.experts and run.model.experts.num_experts: run for run in runs.values()}
    found: dict[str, Callable] = {}
    for run in sizes.values():
        found |= peers.steps(run)
    return found


def _peer_row(name, peer, seconds):
    return {
        "what": "training",
        "model": name,
        "variant": peer,
        "seconds": seconds[peer],
        "ratio_to_dense": seconds[peer] / seconds["dense"],
    }


def decoding_models(config: ConfigDict) -> dict[str, ModelConfig]:
    """The dense model and those with experts, of equal active size."""
    base = schema.from_config_dict(ModelConfig, config.base, "decoding.base.")
    found = {"dense": base}
    for name, (number, k) in config.experts.items():
        experts = MoEConfig(
            num_experts=number,
            k=k,
            d_ff=base.d_ff // k,
            dispatcher="grouped",
            capacity_factor=0.0,
            eval_capacity_factor=0.0,
        )
        found[name] = dataclasses.replace(base, experts=experts)
    return found


def decoding_rows(config: ConfigDict, rounds: int) -> list[dict]:
    """One row for each model and batch."""
    rows = []
    for size in config.batches:
        calls = {}
        known = decoding_models(config)
        for name, model in known.items():
            calls[name] = _one_token(model, size, config.length)
        taken = timing.interleaved(calls, rounds, f"decoding batch {size}")
        seconds = {name: float(np.median(times)) for name, times in taken.items()}
        rows += [
            {
                "what": "decoding",
                "model": f"batch {size}",
                "variant": name,
                "tokens": size,
                "active_parameters": flops.parameters(model).active,
                "total_parameters": flops.parameters(model).total,
                "seconds": seconds[name],
                "ratio_to_dense": seconds[name] / seconds["dense"],
            }
            for name, model in known.items()
        ]
    return rows


def _one_token(model, size, length):
    """A call that reads one token of each text; the state goes round in one place."""
    weights = decoding.prepare(model, models.init(model, jax.random.key(0)))
    prompt = np.random.default_rng(0).integers(1, model.vocab_size, (size, length // 2))
    state = decoding.prefill(model, weights, jnp.asarray(prompt), jax.random.key(0), length)
    token_B = jnp.asarray(prompt[:, 0], jnp.int32)
    compiled = decoding.advance.lower(model, weights, state, token_B).compile()
    at = state.at
    box = [state]

    def call() -> jax.Array:
        box[0] = compiled(weights, box[0]._replace(at=at + 0), token_B)
        return box[0].logits_BV

    return call


def main(config: ConfigDict, workdir: str, with_peers: bool = False) -> None:
    """Rows and table."""
    if with_peers:
        baselines.require("--peers")
    root = pathlib.Path(workdir or f"runs/{config.name}")
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, study in config.training.items():
        rows += training(name, study, config.rounds, with_peers and name == PEERED)
    rows += decoding_rows(config.decoding, config.rounds)
    sealed.write(root / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    tables = dispatching.models_table(rows), dispatching.models_targets(rows)
    text = "\n\n".join((*tables, str(files.machine()))) + "\n"
    (root / "table.md").write_text(text)
    print(f"\n{text}\n{root}/rows.jsonl, table.md")


if __name__ == "__main__":
    CONFIG = command.config("configs/bench_model.py", "The models.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Where results go; default runs/<config.name>.")
    PEERS = flags.DEFINE_bool("peers", False, "Also Hugging Face's steps, if installed.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value, PEERS.value))
