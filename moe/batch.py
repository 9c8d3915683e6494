"""What one step reads: the type that data, models and objectives share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # data is read where there is no jax
    import jax


class Inputs(NamedTuple):
    """What an encoder reads, int32 [B, U]; fields as of `Batch`."""

    tokens_BU: jax.Array | np.ndarray
    segment_BU: jax.Array | np.ndarray
    position_BU: jax.Array | np.ndarray


class Batch(NamedTuple):
    """Rows of text, int32 [B, T], or of the patches of images.

    A field that an objective does not need may be None. `segment_BT` numbers the documents in a row
    from 1 and is 0 at padding, where all else is 0. `position_BT` counts from 0 in each document,
    or from the row's start if that is later. `domain_BT` says where each token's document comes
    from, or what its image shows. `loss_mask_BT` is nonzero where the target counts; None counts
    every real token. With an `encoder`, all else is of the decoder, and a segment sees the inputs
    of the same number. `patches_BTI` are the pixels of images, float32: there a token is a patch,
    and ids are 0.
    """

    tokens_BT: jax.Array | np.ndarray
    targets_BT: jax.Array | np.ndarray
    segment_BT: jax.Array | np.ndarray
    position_BT: jax.Array | np.ndarray
    domain_BT: jax.Array | np.ndarray | None = None
    loss_mask_BT: jax.Array | np.ndarray | None = None
    encoder: Inputs | None = None
    patches_BTI: jax.Array | np.ndarray | None = None

    @property
    def counted_BT(self) -> jax.Array | np.ndarray:
        """True where a target counts: at real tokens, and where the loss mask says so."""
        real_BT = self.segment_BT > 0
        if self.loss_mask_BT is None:
            return real_BT
        return real_BT & (self.loss_mask_BT > 0)
