"""What a training step must keep, read and send, by arithmetic on shapes and shardings.

Rough where a compiler decides (activations), exact where layouts do (state, slots). `sizes` is
always a mesh's axis -> size, `state` a `step.State` of shapes with shardings.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moe import hlo, paths, sharding
from moe.config import ModelConfig
from moe.layers import attention_kernels, dot_product
from moe.training import step
from moe.training.config import RunConfig

Sizes = Mapping[str, int]  # of the mesh: axis -> devices along it


def bytes_per_device(tree: Any) -> float:
    """Of arrays, or shapes, that carry their shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def trained(run: RunConfig, params: dict) -> dict[str, Any]:
    """The parameters that get a gradient, by path."""
    frozen = run.frozen
    return {p: x for p, x in paths.named(params).items() if not paths.matches(frozen, p)}


class _Part(NamedTuple):
    """A stack of the model, and what one device has of a micro-batch in it."""

    name: str  # of the stack, "" of a model with one
    model: ModelConfig
    length: int  # T
    tokens: float
    read: int = 0  # U, of the encoder that it reads
    fused: bool = False  # does a kernel compute attention, and keep no scores?

    @property
    def rows(self) -> float:
        """Sequences."""
        return self.tokens / self.length

    @property
    def slots(self) -> float:
        """Slots that the tokens bring to the experts of one layer."""
        experts = self.model.experts
        assert experts is not None  # asked of models with experts
        if experts.dropless:
            return self.tokens * experts.k
        S = experts.tokens_per_group(self.length)
        return self.tokens / S * experts.slots(S, train=True) * experts.num_experts


def _parts(run, sizes):
    """The stack with the head first."""
    rows = run.micro_batch / sizes["data"] / sizes["expert"]
    lengths = run.positions
    return [
        _Part(
            name=name,
            model=stack,
            length=lengths[name],
            tokens=rows * lengths[name],
            read=lengths["encoder"] if name == "decoder" else 0,
            fused=run.mesh.attention != "plain" and _fuses(stack, lengths[name]),
        )
        for name, stack in run.model.stacks.items()
    ]


def _fuses(model, length):
    """Does a kernel fit a stack on `target.platform()`?"""
    shape = (1, length, model.num_heads, model.d_head)
    q_BTNH = jax.ShapeDtypeStruct(shape, model.dtype)
    how = model.attention
    return attention_kernels.choose("auto", q_BTNH, model.position, how) != "plain"


def _width(run):
    """Bytes of a number in the arithmetic."""
    return jnp.dtype(run.model.dtype).itemsize


def activations(run: RunConfig, sizes: Sizes) -> float:
    """Bytes kept for the backward pass at its peak, roughly: what products read and make."""
    parts = _parts(run, sizes)
    width = _width(run)
    kept, blocks = 0.0, []
    for part in parts:
        m = part.model
        layers, block = _layers(part, sizes["model"], width)
        blocks.append(block)
        if not run.model.remat:
            kept += layers
        elif run.mesh.remat_policy == "products":
            kept += layers - m.num_layers * _scores(part, sizes["model"], width)
        else:
            kept += m.num_layers / m.moe_every * part.tokens * m.d_model * width
    if run.model.remat:
        kept += max(blocks)
    head = parts[0].tokens * run.model.vocab_size / sizes["model"] * (4 + 4)
    return max(kept + head, *blocks)


def _layers(part, model, width):
    """Bytes that all layers of a stack keep, and those of one block."""
    m, t = part.model, part.tokens
    heads = m.num_heads * m.d_head / model
    attend = t * (3 * m.d_model + 4 * heads) * width + _scores(part, model, width)
    if part.read:
        keys = 2 * m.kv_heads * m.d_head / model
        attend += (t * (m.d_model + 2 * heads) + part.rows * part.read * keys) * width
    dense = t * (m.d_model + 3 * m.d_ff / model) * width
    layers = m.num_layers * attend + (m.num_layers - m.moe_layers) * dense
    block = m.moe_every * attend + (m.moe_every - bool(m.experts)) * dense
    if m.experts:
        experts = part.slots * (2 * m.d_model + 3 * m.experts.d_ff / model) * width
        layers = layers + m.moe_layers * experts
        block = block + experts
    return layers, block


def _scores(part, model, width):
    """Bytes of what attention of one layer weighs values by."""
    m, T = part.model, part.length
    pairs = T * T if not m.causal else sum((b - a) * b for a, b in dot_product.blocks(T))
    pairs *= not part.fused
    return part.tokens * (pairs / T + part.read) * m.num_heads / model * (4 + width)


def _passes(run):
    """How often a layer's products run in a step: forward, again if recomputed, backward."""
    again = run.model.remat and run.mesh.remat_policy == "full"
    return 2 + again + (run.train.accumulate > 1)


class _Leaf(NamedTuple):
    """A parameter, as ZeRO and the sum of its gradient see it."""

    in_use: float  # bytes on a device while it is used
    shared: tuple[str, ...]  # axes that share it at rest, and gather it for use
    copies: tuple[str, ...]  # axes along which devices hold copies at rest, and sum gradients
    top: bool  # outside the blocks: embedding, head, last norm
    blocks: float  # that lie in one array with it
    times: int  # it is used by two parts of the model that do not wait for each other
    trained: bool  # it has a gradient


def _leaves(run, sizes, state):
    for path, x in jax.tree_util.tree_leaves_with_path(state.params):
        name = paths.name(path)
        own = ("expert",) if "experts" in name else ()  # E's, in use too
        spread = set(jax.tree.leaves(tuple(x.sharding.spec))) - set(own)
        shared = tuple(axis for axis in sharding.TOKENS if axis in spread)
        copies = tuple(axis for axis in sharding.TOKENS if axis not in spread | set(own))
        full = bytes_per_device(x) * math.prod(sizes[axis] for axis in shared)
        exact = any(part in name for part in ("embed", "router", "scale", "relative"))
        embedding = "embed" in name and run.model.tie_embeddings
        yield _Leaf(
            full if exact else full * _width(run) / 4, shared, copies, "block" not in name,
            _blocks(run.model, name), 1 + embedding, not paths.matches(run.frozen, name),
        )  # fmt: skip


def _blocks(model, name):
    """Blocks of the stack that a parameter is of."""
    stack = model.stacks.get(name.partition("/")[0], model)
    return (stack.num_layers - stack.num_dense_layers) / stack.moe_every


def gathered(run: RunConfig, sizes: Sizes, state: step.State) -> float:
    """Bytes of weights that ZeRO has gathered at its peak, with their full gradients."""
    leaves = [leaf for leaf in _leaves(run, sizes, state) if leaf.shared]
    found = 0.0
    for leaf in leaves:  # a recomputed block gathers its own again
        kept = 1 / leaf.blocks if run.model.remat and not leaf.top else 1.0
        found += 2 * kept * leaf.in_use
    return found


def memory_bytes(run: RunConfig, sizes: Sizes, state: step.State, activations: float) -> float:
    """What a device reads and writes in a step, at least.

    State read and written once, gradients written and read once, weights read in every pass,
    activations written and read once.
    """
    weights = sum(leaf.in_use for leaf in _leaves(run, sizes, state))
    gradients = bytes_per_device(trained(run, state.params))
    kept = 2 * bytes_per_device(state) + 2 * gradients
    return kept + (_passes(run) * weights + 2 * activations) * run.train.accumulate


def traffic(run: RunConfig, sizes: Sizes, state: step.State) -> dict[tuple[str, str], hlo.Traffic]:
    """What a step must send at least, by kind and axes, without any compiler's cleverness."""
    n = run.train.accumulate
    width = _width(run)
    passes = _passes(run)
    found: dict[tuple[str, str], hlo.Traffic] = {}

    def add(kind: str, axes: tuple[str, ...], times: int, size: float) -> None:
        devices = math.prod(sizes[a] for a in axes)
        if devices > 1 and times:
            key = kind, "+".join(a for a in axes if sizes[a] > 1)
            old = found.get(key, hlo.Traffic(0, 0.0))
            sent = times * n * hlo.wire_bytes(kind, size, devices)
            found[key] = hlo.Traffic(old.times + times * n, old.bytes + sent)

    for part in _parts(run, sizes):
        m = part.model
        row = part.tokens * m.d_model * width
        slots = part.slots * m.d_model * width if m.experts else 0
        crossings = passes * m.moe_layers
        if run.mesh.transport == "all_gather":
            add("all-gather", ("expert",), crossings, sizes["expert"] * row)
            add("reduce-scatter", ("expert",), crossings, row)
        else:
            add("all-to-all", ("expert",), 2 * crossings, slots)
        attentions = (2 if part.read else 1) * m.num_layers
        add("all-reduce", ("model",), passes * (attentions + m.num_layers - m.moe_layers), row)
        add("all-reduce", ("model",), crossings, slots)
        ends = 1 if part.name == "encoder" else 2  # embedding, and its gradient in the head
        add("all-reduce", ("model",), ends, part.tokens * m.d_model * 4)
    for leaf in _leaves(run, sizes, state):
        size = leaf.in_use
        again = run.model.remat and not leaf.top
        for axis in reversed(leaf.shared):  # see `zero.gathered`
            # The backward pass uses what the pass before it gathered.
            add("all-gather", (axis,), 1 + again + (n > 1), size)
            size /= sizes[axis]
            add("reduce-scatter", (axis,), leaf.trained, size)
        if leaf.trained:
            add("all-reduce", leaf.copies, leaf.times, size)
    return found
