"""Times programs side by side, so that noise falls on all alike."""

import functools
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import jax

from moe.batch import Batch
from moe.training.step import State

LARGE = {"cpu": 2048}  # the side of a square product that shows a machine's speed
OTHERWISE = 8192

Name = TypeVar("Name", bound=Hashable)  # of a call


def advance(
    states: dict[str, State],
    name: str,
    train_step: Callable[[State, Batch], tuple[State, dict]],
    inputs: Batch,
) -> tuple[State, dict]:
    """One step of the state of this name, whose memory it takes; what it made."""
    made = train_step(states[name], inputs)
    states[name] = made[0]
    return made


def large_product(dtype: str) -> tuple[Callable[[], jax.Array], float]:
    """A plain large product, whose speed is the unit of floors; and its FLOPs."""
    side = LARGE.get(jax.default_backend(), OTHERWISE)
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    return functools.partial(jax.jit(jax.numpy.matmul).lower(a, a).compile(), a, a), 2.0 * side**3


def interleaved(
    calls: Mapping[Name, Callable], rounds: int, what: str, settled: bool = False
) -> dict[Name, list[float]]:
    """Seconds of each call in each round, after one round that is not counted.

    Args:
      calls: name -> a function without arguments that returns arrays, which are waited for.
      rounds: how often each is called; within a round one after the other.
      what: the progress bar's words.
      settled: each is called twice in a row, and the second is counted: the first finds caches and
        memory as another program left them, which may be far larger.
    """
    import tqdm  # which `within` does without

    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in tqdm.trange(rounds + 1, desc=what, leave=False):
        for name, call in calls.items():
            if settled:
                jax.block_until_ready(call())
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    return {name: taken[1:] for name, taken in seconds.items()}


def within(calls: Mapping[Name, Callable], rounds: int, limit: float) -> dict[Name, list[float]]:
    """As `interleaved`, without a progress bar, and no new round after `limit` seconds.

    One round is counted in any case.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    until = time.perf_counter() + limit
    for turn in range(rounds):
        if turn and time.perf_counter() > until:
            break
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    return seconds
