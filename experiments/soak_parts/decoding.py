"""Token by token, and all at once: every causal router, both families, one device and eight."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.soak_parts.victims import Row
from moe import decoding, models, routing, sharding
from moe.batch import Batch, Inputs
from moe.config import ModelConfig, MoEConfig
from moe.errors import UserError
from moe.models.encoder_decoder import EncoderDecoderConfig

B, T, U = 8, 12, 10
V, E = 64, 8
KNOWN = 5  # tokens of the prompt
CLOSE = 1e-4  # of the largest logit
DRAWN = ("random", "gshard")  # whose choices are no function of the token
MESHES = {"one device": None, "2 x 4": (2, 4)}


def decoded(out: pathlib.Path, number: int) -> Iterator[Row]:
    """Each router that may generate, with so many draws of its parameters and tokens.

    MOE_SIMULATED_DEVICES=8 gives a CPU the devices of the mesh, which is skipped without them.
    """
    del out  # nothing is written
    for seed in range(number):
        for name, config in configs():
            for place, mesh in MESHES.items():
                if mesh and jax.device_count() != 8:
                    yield Row(f"{name}, {place}", "skipped", "no eight devices")
                elif name.endswith(DRAWN):
                    yield Row(f"{name}, {place}", "skipped", "draws, and otherwise each time")
                else:
                    yield _row(f"{name}, {place}", config, mesh, seed)


def configs() -> Iterator[tuple[str, ModelConfig]]:
    """A decoder and, where it can, an encoder-decoder for every causal router; dense ones, too."""
    yield "decoder, dense", _decoder(None)
    yield "encoder-decoder, dense", _both(None)
    for router in routing.ROUTERS:
        for k in (2, 1):
            with contextlib.suppress(UserError):  # some want one choice, or two
                experts = _experts(router, k)
                if experts.causal != "always":
                    break
                yield f"decoder, {router}", _decoder(experts)
                yield f"encoder-decoder, {router}", _both(experts)
                break


def _experts(router, k):
    plain = MoEConfig(num_experts=E, d_ff=16, k=k, router=router, capacity_factor=8.0)
    return dataclasses.replace(plain, eval_capacity_factor=8.0)


def _sizes(experts: MoEConfig | None) -> dict[str, Any]:
    return {
        "vocab_size": V, "num_layers": 4, "moe_every": 2, "d_model": 16, "num_heads": 2,
        "d_head": 8, "d_ff": 32, "dtype": "float32", "experts": experts,
    }  # fmt: skip


def _decoder(experts):
    return ModelConfig(**_sizes(experts))


def _both(experts):
    return EncoderDecoderConfig(**_sizes(experts))


def _row(name, config, mesh, seed):
    on = sharding.on(sharding.make_mesh(*mesh)) if mesh else contextlib.nullcontext()
    with on:
        params = models.init(config, jax.random.key(seed))
        state = jax.tree.map(
            lambda x: sharding.reshard(jnp.asarray(x), "." * x.ndim),
            models.build(config).router_state(seed),
        )
        given = config, params, state, seed
        want_BTV, got_BTV = (np.asarray(way(*given)) for way in (whole, by_token))
    error = np.abs(got_BTV - want_BTV).max() / np.abs(want_BTV).max()
    outcome = "survived" if error < CLOSE else "lost"
    return Row(name, outcome, f"logits differ by {error:.1e} of the largest")


def batch(config: ModelConfig, seed: int) -> Batch:
    """Rows of one document each, and what an encoder reads."""
    rng = np.random.default_rng(seed)

    def part(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = rng.integers(1, V, (B, length)).astype(np.int32)
        place = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
        return ids, np.ones_like(ids), place

    tokens, segment, position = part(T)
    domain = np.zeros_like(tokens)
    encoder = Inputs(*part(U)) if len(config.stacks) > 1 else None
    return Batch(tokens, tokens, segment, position, domain, encoder=encoder)


def whole(config: ModelConfig, params: dict, state: dict, seed: int) -> jax.Array:
    """logits_BTV after the prompt, by one forward pass without drops."""
    given = sharding.shard_batch(batch(config, seed))
    return _forward(decoding.dropless(config), params, state, given)[:, KNOWN - 1 :]


@functools.partial(jax.jit, static_argnums=0)
def _forward(config, params, state, given):
    key = jax.random.key(0)
    return decoding.build(config).apply(params, state, given, key=key, train=False).logits


def by_token(config: ModelConfig, params: dict, state: dict, seed: int) -> jax.Array:
    """The same, by a prompt and then token by token."""
    given = batch(config, seed)
    weights = decoding.prepare(config, params, state)
    placed = sharding.shard_batch(given)
    model = decoding.dropless(config)
    key, doc_id = jax.random.key(0), -1
    domain_B = placed.domain_BT[:, 0] if config.reads_domains else None
    prompt_BT = placed.tokens_BT[:, :KNOWN]
    context = None
    if placed.encoder is not None:
        context = decoding.encode(model, weights, placed.encoder, key)
    now = decoding.prefill(model, weights, prompt_BT, key, T, domain_B, doc_id, context)
    logits = [now.logits_BV]
    for t in range(KNOWN, T):
        now = decoding.advance(model, weights, now, placed.tokens_BT[:, t])
        logits.append(now.logits_BV)
    return jnp.stack(logits, axis=1)
