"""How tokens travel. `DISPATCHERS` is the whole list.

One of `SLOTTED` is a pair of pure functions over one group layout:
`dispatch(x_GSD, slots) -> x_GECD` and `combine(y_GECD, slots, tokens=S) -> y_GSD`, where an empty
slot carries zeros and a dropped choice returns zeros. All agree in values and in every
gradient; `oracle` is the slow, obvious one the others are tested against.

`grouped` has no slots and drops nothing: `apply(x_GSD, choice, weights, activation)` is the whole
way there and back.
"""

from moe.dispatch import einsum, gather, grouped, oracle

SLOTTED = {"oracle": oracle, "einsum": einsum, "gather": gather}
DISPATCHERS = {**SLOTTED, "grouped": grouped}
