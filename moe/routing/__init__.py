"""Who goes where. `ROUTERS` is the whole list: a new router is one file and one line here.

A router's `choose(logits_GSE, mask_GS, k, key)` is a pure function to a `Choice`.
"""

from collections.abc import Callable
from typing import NamedTuple

from moe.routing import assignment, random, top_k


class Router(NamedTuple):
    """What the layer, the config and the tests must know of a router."""

    choose: Callable[..., assignment.Choice]
    learned: bool  # owns a matrix of router weights, has balance and z losses
    causal: bool  # no token's expert depends on later tokens
    random: bool  # draws from the key, in evaluation too


ROUTERS = {
    "top_k": Router(top_k.choose, learned=True, causal=True, random=False),
    "random": Router(random.choose, learned=False, causal=True, random=True),
}
