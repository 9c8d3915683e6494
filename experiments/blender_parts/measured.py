"""The quality of what every way chooses or writes, by test document."""

import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from experiments import looks, study
from experiments.blender_parts import trained, written
from experiments.records import Runs
from moe.analysis import blender as tables
from moe.data import candidates, prepare
from moe.data.candidates import Candidates
from moe.ensemble import blender


def measured(
    config: ConfigDict, runs: Runs, root: pathlib.Path, chosen: dict[str, str]
) -> list[dict]:
    """What came of every seed.

    Args:
      config: of the study.
      runs: all of them.
      root: its folder.
      chosen: the best run of each of `RANKER` and `tables.FUSERS`.
    """
    return looks.measured(root / "blender.jsonl", _looks(config, runs, root, chosen))


def _looks(config, runs, root, chosen) -> Iterator[looks.Look]:
    data = prepare.prepare(next(iter(runs.values())).data)
    names = tuple(config.variants)
    for seed in study.seeds_of(config):

        def look(seed=seed) -> dict:
            folder = str(root / "candidates" / f"seed{seed}")
            found = candidates.read(folder, "test")
            M_XNN = written.ranked(root, chosen[trained.RANKER], seed, "test")
            models = [written.opened(root, name, seed) for name in names]
            log_p_NNX = np.array(
                [[blender.mean_log_p(one, found, n) for n in range(len(names))] for one in models]
            )
            quality = dict(zip(names, found.quality_XN.T, strict=True))
            quality |= of_choices(found, M_XNN, log_p_NNX, seed)
            for kind in tables.FUSERS:
                fuser = written.opened(root, chosen[kind], seed)
                read = candidates.read(_folder(root, chosen, kind, seed), "test")
                made_XY = blender.fused(fuser, read, data.doc_id)
                quality[kind] = written.quality(data, made_XY, found.reference_XY)
            of_validation = candidates.read(folder, "validation").quality_XN.mean(0)
            validation = dict(zip(names, of_validation.tolist(), strict=True))
            best = found.quality_XN == found.quality_XN.max(1, keepdims=True)
            shares = dict(zip(names, best.mean(0).tolist(), strict=True))
            of_documents = by_document(found.document_X, quality)
            return {"validation": validation, "best": shares, **of_documents}

        yield {"seed": seed, "models": ",".join(names), **chosen}, look


def _folder(root, chosen, kind, seed):
    return str(root / "chosen" / f"{chosen[trained.RANKER]}_{kind}" / f"seed{seed}")


def of_choices(
    found: Candidates, M_XNN: np.ndarray, log_p_NNX: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """The quality of the candidate that each way chooses, [X]; of a random one what is expected.

    Args:
      found: the candidates.
      M_XNN: what the ranker says.
      log_p_NNX: what each model says of each candidate: nats of a token.
      seed: of the order in which candidates meet in the bubble pass.
    """
    quality_XN = found.quality_XN
    order_XN = np.random.default_rng(seed).permuted(
        np.broadcast_to(np.arange(quality_XN.shape[1]), quality_XN.shape), axis=1
    )
    choices = {
        tables.ORACLE: quality_XN.argmax(1),
        tables.OWN: np.diagonal(log_p_NNX).argmax(1),
        tables.ALL: log_p_NNX.mean(0).argmax(0),
        tables.RANKER: blender.max_logits(M_XNN).argmax(1),
        tables.WINS: blender.most_wins(M_XNN),
        tables.BUBBLE: blender.bubble(blender.of_matrix(M_XNN), order_XN),
    }
    of_X = np.arange(len(quality_XN))
    return {tables.RANDOM: quality_XN.mean(1)} | {
        way: quality_XN[of_X, choice_X] for way, choice_X in choices.items()
    }


def by_document(document_X: np.ndarray, quality: dict[str, np.ndarray]) -> dict:
    """Sums over the inputs of each document, and how many it has."""
    number_X = np.unique(document_X, return_inverse=True)[1]
    sums = {way: np.bincount(number_X, x).round(6).tolist() for way, x in quality.items()}
    return {"inputs": np.bincount(number_X).tolist(), "sums": sums}
