"""What a rule is: the one contract that every rule of this folder fills in.

A rule makes one parameter of step 0 out of a parameter of another run. It is a pure function of
arrays and knows neither files nor paths. A new rule is one new file and one line in
`moe.initialisation.RULES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Rule(NamedTuple):
    """How a parameter comes about.

    `apply(drawn, saved, key)` returns an array of the shape and dtype of `drawn`, which is the
    parameter as training from scratch would draw it. `saved` is the parameter of the other run, in
    float32 as a rule, and None if the rule reads none. `key` is a key of this parameter's own.
    """

    apply: Callable[..., jax.Array]
    reads: bool = True  # does it read a saved parameter?
