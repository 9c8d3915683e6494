"""A model that reads and writes text: of a run's folder, or of a published checkpoint."""

import os
import pathlib

from moe import interop, schema, sealed
from moe.data import tokenizer
from moe.evaluation.few_shot import Reader
from moe.evaluation.likelihood import Words
from moe.training import runs

PUBLISHED = 2048  # tokens that a published model is given at once, if nothing is said


def reader(folder: str | os.PathLike, longest: int = 0) -> Reader:
    """The model in a folder, whichever kind of the two it is.

    Args:
      folder: a run's workdir, or config.json, tokenizer.json and safetensors of a checkpoint.
      longest: tokens that it reads at once; 0 is the length it was trained on, of a published one
        `PUBLISHED`.

    Raises:
      UserError: if it is neither.
    """
    root = pathlib.Path(os.path.expanduser(folder))
    if published(root):
        return _of_checkpoint(root, longest or PUBLISHED)
    run, data, state = runs.load_run(root)
    schema.require(
        not run.model.reads_domains,
        f"experts.router={run.model.experts and run.model.experts.router!r} reads domains, and"
        " questions come from none: evaluate a model with another router",
    )
    found = tokenizer.load(data.tokenizer_path)
    words = words_of(found, [data.doc_id])
    length = longest or run.train.seq_len
    return Reader(run.model, state.params, state.router_state, words, length)


def published(folder: pathlib.Path) -> bool:
    """Is it a checkpoint as Hugging Face publishes them? Their config.json names a model_type."""
    path = folder / "config.json"
    schema.require(
        path.exists(), f"{folder} has no config.json: it is no run's folder, no checkpoint"
    )
    return "model_type" in sealed.read_json(path)


def words_of(found, start: list[int]) -> Words:
    """How a `tokenizers.Tokenizer` reads and writes."""
    return Words(lambda text: found.encode(text, add_special_tokens=False).ids, found.decode, start)


def _of_checkpoint(root, longest):
    import tokenizers

    path = root / "tokenizer.json"
    schema.require(path.exists(), f"{root} has no tokenizer.json: text cannot be read")
    found = tokenizers.Tokenizer.from_file(str(path))
    config, params = interop.load(root)
    start = found.encode("").ids or [_end(root)]
    return Reader(config, params, {}, words_of(found, start), longest)


def _end(root):
    """The token after which another text begins, for tokenizers that put nothing before a text."""
    end = sealed.read_json(root / "config.json").get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    schema.require(
        isinstance(end, int),
        f"{root / 'config.json'} has no eos_token_id, and the tokenizer puts nothing before a text:"
        " what does a text begin with?",
    )
    return end
