"""Three tokens and four experts, small enough to route by hand."""

import functools

import numpy as np

from moe import routing

P = np.array([[[0.1, 0.2, 0.4, 0.3], [0.7, 0.05, 0.05, 0.2], [0.3, 0.28, 0.22, 0.2]]])
LOGITS = np.log(P).astype(np.float32)
MASK = np.ones((1, 3), bool)


def route(name, logits=LOGITS, mask=MASK, k=1, options=None, **more):
    options = routing.ROUTERS[name].options(**(options or {}))
    call = functools.partial(routing.route, name, k=k, options=options, **more)
    return call(logits, mask)


def choice(*args, **kwargs):
    expert_GSK, gate_GSK = route(*args, **kwargs).assignment
    return expert_GSK.tolist(), np.asarray(gate_GSK)
