"""The files between the rounds: candidates, what the ranker says of them, what is fused."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from experiments import looks, records, sources
from experiments.records import Runs
from moe import schema, sealed
from moe.adapt.banks import Trained
from moe.analysis import blender as tables
from moe.data import candidates, prepare, tokenizer
from moe.data.candidates import Candidates
from moe.data.prepared import Prepared
from moe.ensemble import blender
from moe.evaluation import chrf
from moe.training import runs as folders
from moe.training.config import RunConfig

SPLITS = ("train", "validation", "test")
ASKED = "asked.json"  # the last file of a folder of candidates


def opened(root: pathlib.Path, name: str, seed: int) -> Trained:
    """A run's model."""
    path = records.folder(root, name, seed)
    looks.require_checkpoint(path)
    return sources.trained(folders.load_run(path))


def write_candidates(config: ConfigDict, runs: Runs, root: pathlib.Path, seeds: range) -> None:
    """Writes the candidates of all splits, by seed, if they are not there.

    Raises:
      UserError: if those that are there were asked for otherwise.
    """
    asked = {"inputs": config.inputs.to_dict(), "models": [*config.variants]}
    base = next(iter(runs.values()))
    for seed in seeds:
        folder = root / "candidates" / f"seed{seed}"
        if (folder / ASKED).exists():
            was = sealed.read_json(folder / ASKED)
            schema.require(
                was == asked, f"{folder} was made with {was}: delete it with rankers and fusers, or"
                " use another --workdir",
            )  # fmt: skip
            continue
        models = [opened(root, name, seed) for name in config.variants]
        data = prepare.prepare(base.data)
        for split in SPLITS:
            found = of_models(config, base, data, models, split)
            candidates.write(folder, split, found)
        sealed.write_json(folder / ASKED, asked)


def of_models(
    config: ConfigDict, base: RunConfig, data: Prepared, models: list[Trained], split: str
) -> Candidates:
    """What each model writes after the inputs of a split, and its quality.

    Raises:
      UserError: if models may have read the text that is for ranker and fuser.
    """
    inputs = config.inputs
    training = split == "train"
    read = base.train.unique_tokens
    schema.require(read > 0, "base.train.unique_tokens=0 leaves no text unread: set it to a part")
    first = read + 1 if training else 0
    length = inputs.length + inputs.written
    tokens_XT, document_X = candidates.windows(data, split, length, inputs.of_document, first)
    if training:
        mixed = np.random.default_rng(0).permutation(len(tokens_XT))[: inputs.train]
        tokens_XT, document_X = tokens_XT[mixed], document_X[mixed]
    input_XZ, reference_XY = np.split(tokens_XT, [inputs.length], axis=1)
    made = [blender.continued(one, input_XZ, inputs.written, data.doc_id) for one in models]
    qualities = [quality(data, one, reference_XY) for one in made]
    return Candidates(input_XZ, reference_XY, np.stack(made, 1), np.stack(qualities, 1), document_X)


def quality(data: Prepared, written_XY: np.ndarray, reference_XY: np.ndarray) -> np.ndarray:
    """chrF of texts, [X]."""
    words = tokenizer.load(data.tokenizer_path)

    def texts(ids_XY: np.ndarray) -> list[str]:
        return words.decode_batch([ids[ids != candidates.NONE].tolist() for ids in ids_XY])

    return chrf.chrf(texts(written_XY), texts(reference_XY))


def ranked(root: pathlib.Path, ranker: str, seed: int, split: str) -> np.ndarray:
    """M_XNN of the candidates of a split, from the file if it is there.

    Args:
      root: the study's folder.
      ranker: the name of its run.
      seed: of all.
      split: of `SPLITS`.
    """
    path = root / "ranked" / ranker / f"seed{seed}" / f"{split}.npy"
    if not path.exists():
        found = candidates.read(str(root / "candidates" / f"seed{seed}"), split)
        M_XNN = blender.compared(opened(root, ranker, seed), found)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".part.npy")
        np.save(scratch, M_XNN)
        scratch.replace(path)
    return np.load(path)


def write_chosen(
    config: ConfigDict, root: pathlib.Path, ranker: str, seeds: range
) -> dict[str, str]:
    """Writes what fusers read, if it is not there; their folders, by the kind of fuser."""
    chosen = {kind: root / "chosen" / f"{ranker}_{kind}" for kind in tables.FUSERS}
    for seed in seeds:
        for number, split in enumerate(SPLITS):
            found = candidates.read(str(root / "candidates" / f"seed{seed}"), split)
            score_XN = blender.max_logits(ranked(root, ranker, seed, split))
            noise_XN = np.random.default_rng((seed, number)).random(score_XN.shape)
            for kind, by_XN in zip(tables.FUSERS, (score_XN, noise_XN), strict=True):
                best_XK = np.argsort(-by_XN, axis=1, kind="stable")[:, : config.fused]
                folder = chosen[kind] / f"seed{seed}"
                if not (folder / f"{split}.npz").exists():
                    candidates.write(folder, split, found.chosen(best_XK))
    return {kind: str(folder / "seed{seed}") for kind, folder in chosen.items()}
