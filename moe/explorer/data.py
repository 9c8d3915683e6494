"""Traces as compact arrays for a browser: the text once, and the choices of each run on it.

Letters as in `moe.evaluation.traces`. Arrays are compressed, in base64; gates are hundredths.
"""

import base64
import gzip
from collections.abc import Mapping, Sequence

import numpy as np

from moe import schema
from moe.evaluation.traces import Traces
from moe.explorer import words

STEPS = 100  # of a gate


def packed(array: np.ndarray) -> dict:
    """An array of integers from 0 on, of the smallest type that holds it, for JSON.

    "kind" is the JavaScript class of the elements, "data" what gzip makes of them, in base64.
    """
    kind = np.min_scalar_type(int(array.max(initial=0)))
    schema.require(
        int(array.min(initial=0)) >= 0 and kind.itemsize <= 4,
        f"the page takes integers from 0 to 2^32 - 1, not {array.min()} to {array.max()}",
    )
    little = np.ascontiguousarray(array, kind.newbyteorder("<"))
    squeezed = gzip.compress(little.tobytes(), mtime=0)
    return {
        "kind": f"Uint{8 * kind.itemsize}Array",
        "shape": list(array.shape),
        "data": base64.b64encode(squeezed).decode(),
    }


def text(traces: Sequence[Traces], spelled: Mapping[int, bytes], domains: Sequence[str]) -> dict:
    """What all runs have read, and the words that it, or what they thought came next, is made of.

    Args:
      traces: of each run on the same text.
      spelled: bytes of token ids; an id that is missing stands for nothing.
      domains: names.
    """
    first = traces[0]
    read = [one.token_N for one in traces]
    schema.require(
        all(np.array_equal(one, read[0]) for one in read), "the runs have not read the same text"
    )
    ids = known(traces)
    spellings = [spelled.get(int(i), b"") for i in ids]
    start_N = np.diff(first.document_N, prepend=-1) != 0
    return {
        "ids": packed(ids),
        "shown": [words.visible(one) for one in spellings],
        "bytes": [one.decode("latin-1") for one in spellings],  # a character for a byte
        "token": packed(np.searchsorted(ids, first.token_N)),
        "start": packed(np.flatnonzero(start_N)),
        "domain": packed(first.domain_N[start_N]),
        "domains": list(domains),
    }


def known(traces: Sequence[Traces]) -> np.ndarray:
    """The token ids that were read or predicted, in order."""
    met = [ids for one in traces for ids in (one.token_N, one.predicted_N)]
    return np.unique(np.concatenate(met))


def choices(traces: Traces, ids: np.ndarray, experts: int) -> dict:
    """What one run chose.

    Args:
      traces: of it.
      ids: `known` of all runs.
      experts: E, of a layer.
    """
    scale = max(1.0, float(traces.gate_LNK.max()))
    return {
        "experts": experts,
        "scale": scale / STEPS,
        "expert": packed(np.moveaxis(traces.expert_LNK, -1, 1)),  # [L, K, N]
        "gate": packed(np.rint(np.moveaxis(traces.gate_LNK, -1, 1) * (STEPS / scale)).astype(int)),
        "predicted": packed(np.searchsorted(ids, traces.predicted_N)),
    }
