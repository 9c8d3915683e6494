"""Which experts share a device, so that few tokens leave theirs, or none waits for another.

A token lies on the device that reads its row. If devices read different text (here: each its own
domains), an expert belongs where most of the tokens lie that choose it. With as many experts on
every device this is an assignment, which has an exact best. Where devices read all alike, no
placement is better than another: whatever an expert's device, the same share of tokens is
elsewhere.

Counted are choices whose expert lies elsewhere: the rows that must travel, there and back. The
dispatchers of this codebase send buffers of a fixed size, which hold them whatever their number
(`buffer_bytes`, what a compiled mesh sends); a transport of variable size would send just these
(`row_bytes`).

Devices wait for the one with the most tokens: `even` spreads the experts that are used most.

Letters of this file: Z devices.
"""

import numpy as np
from scipy import optimize

from moe import schema
from moe.adapt import banks, prune
from moe.adapt.banks import Trained
from moe.config import ModelConfig


def by_device(count_XLE: np.ndarray, devices: int) -> np.ndarray:
    """count_LZE: choices of each expert by tokens of each device, where domain x lies on x mod Z.

    Args:
      count_XLE: choices of each expert by tokens of each domain, of `observing.use`.
      devices: Z.

    Raises:
      UserError: for more devices than domains.
    """
    domains, L, E = count_XLE.shape
    schema.require(
        1 <= devices <= domains,
        f"expected from 1 to {domains} devices, one a domain; got {devices}",
    )
    count_LZE = np.zeros((L, devices, E))
    for domain, count_LE in enumerate(count_XLE):
        count_LZE[:, domain % devices] += count_LE
    return count_LZE


def best(count_LZE: np.ndarray) -> np.ndarray:
    """device_LE: the placement with the fewest choices that leave, in each layer by itself.

    Args:
      count_LZE: of `by_device`.

    Raises:
      UserError: if the devices do not divide the experts.
    """
    _, Z, E = count_LZE.shape
    _check(E, Z)
    each = E // Z
    return np.stack(
        [
            optimize.linear_sum_assignment(count_ZE.repeat(each, 0).T, maximize=True)[1] // each
            for count_ZE in count_LZE
        ]
    )


def even(count_LE: np.ndarray, devices: int) -> np.ndarray:
    """device_LE: as many experts on each device, and about as many tokens.

    The most used expert first, each to the device with the fewest tokens yet that has a place for
    it (longest processing time first, Graham 1969, with as many places everywhere).

    Args:
      count_LE: tokens of each expert, of `observing.use`.
      devices: Z.

    Raises:
      UserError: if the devices do not divide the experts.
    """
    _check(count_LE.shape[1], devices)
    return np.stack([_even(count_E, devices) for count_E in count_LE])


def _even(count_E, Z):
    device_E = np.zeros(len(count_E), int)
    load_Z = np.zeros(Z)
    places_Z = np.full(Z, len(count_E) // Z)
    for e in np.argsort(-count_E, kind="stable"):
        device = np.where(places_Z > 0, load_Z, np.inf).argmin()
        device_E[e] = device
        load_Z[device] += count_E[e]
        places_Z[device] -= 1
    return device_E


def drawn(layers: int, experts: int, devices: int, rng: np.random.Generator) -> np.ndarray:
    """device_LE: a placement drawn from all."""
    _check(experts, devices)
    return np.stack([rng.permutation(experts) % devices for _ in range(layers)])


def as_it_is(layers: int, experts: int, devices: int) -> np.ndarray:
    """device_LE of a model that was trained on such a mesh: experts in turn."""
    _check(experts, devices)
    return np.tile(np.arange(experts) // (experts // devices), (layers, 1))


def _check(E, Z):
    schema.require(E % Z == 0, f"{Z} devices do not divide {E} experts: use a divisor")


def leaving(count_LZE: np.ndarray, device_LE: np.ndarray) -> float:
    """The share of choices whose expert is not on the token's device."""
    stays_LZE = device_LE[:, None] == np.arange(count_LZE.shape[1])[None, :, None]
    return 1 - float(count_LZE[stays_LZE].sum() / count_LZE.sum())


def row_bytes(model: ModelConfig, share: float, itemsize: int) -> float:
    """Bytes of a token that leave its device in one layer, if this share of its choices does.

    Args:
      model: has experts.
      share: of `leaving`.
      itemsize: bytes of one number.
    """
    return 2 * share * banks.experts(model).k * model.d_model * itemsize


def buffer_bytes(model: ModelConfig, devices: int, factor: float, itemsize: int) -> float:
    """The same of buffers that hold `factor` times what tokens choose on average."""
    return factor * row_bytes(model, (devices - 1) / devices, itemsize)


def placed(trained: Trained, device_LE: np.ndarray) -> Trained:
    """The same model with its experts in the order of their devices, as a mesh lays them out."""
    banks.experts(trained.model)
    return prune.keep(trained, np.argsort(device_LE, axis=1, kind="stable"))
