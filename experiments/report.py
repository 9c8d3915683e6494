"""One page of a trained run: its curves, its numbers, and the experts that every token chose.

    python -m experiments.report --workdir=runs/train --out=runs/train.html
    python -m experiments.report --workdir=runs/one --other=runs/two --out=runs/both.html

The page is one file that needs no network. Its text is of the test split; two runs read the same
text, that of the first, so they need one tokenizer.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from experiments import command, sources, traced
from moe import flops, schema, sealed
from moe.batch import Batch
from moe.data import spelling, tokenizer
from moe.errors import UserError
from moe.evaluation import traces
from moe.evaluation.traces import Traces
from moe.explorer import data, page, takers
from moe.explorer.takers import Chosen
from moe.training import metrics, runs
from moe.training.config import RunConfig
from moe.training.runs import LoadedRun

TOKENS = 50_000
RUNNING = ("next_token", "masked_token")  # objectives whose rows are cut from running text
# Of result.json's "test": what each is called on the page.
ROUTING = {
    "dropped": "choices dropped",
    "unrouted": "tokens without an expert",
    "max_load": "largest load over mean",
    "unused": "experts unused",
    "entropy": "router entropy, nats",
    "gate": "mean gate",
    "realised_k": "experts a token, realised",
    "realised_capacity": "slots a choice, realised",
}


def main(workdir: str, other: str, out: str, tokens: int) -> None:
    """Writes the page and says where it is."""
    folders = [pathlib.Path(folder) for folder in (workdir, other) if folder]
    path = pathlib.Path(out)
    schema.require(path.suffix == ".html", f"--out={out} must be the name of an .html file")
    loaded = [runs.load_run(folder) for folder in folders]
    require_same_words(folders, loaded)
    missing = "" if other else dense(loaded[0])
    explored, taken = (None, "") if missing else explorer(folders, loaded, tokens)
    shown = [
        described(name, folder, one.run)
        for name, folder, one in zip(names(folders), folders, loaded, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed.write(path, page.made(shown, explored, missing, taken))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB{missing and '; ' + missing}")


def dense(loaded: LoadedRun) -> str:
    """Why a run without experts has no explorer; "" of others."""
    return "" if loaded.run.model.experts else "A dense model: no expert to choose, no explorer."


def require_same_words(folders: Sequence[pathlib.Path], loaded: Sequence[LoadedRun]) -> None:
    """Refuses two runs whose tokens, or domains that a router reads, are not the same.

    Raises:
      UserError: with both folders.
    """
    first, last = loaded[0].data, loaded[-1].data
    both = " and ".join(map(str, folders))
    schema.require(
        first.sha256.get("tokenizer.json") == last.sha256.get("tokenizer.json"),
        f"{both} have different tokenizers: side by side go runs on the same tokens",
    )
    schema.require(
        first.domain_names == last.domain_names or not loaded[-1].run.model.reads_domains,
        f"{both} have different domains, which a router of {folders[-1]} reads: side by side go"
        " runs on the same data.source",
    )


def explorer(
    folders: Sequence[pathlib.Path], loaded: Sequence[LoadedRun], tokens: int
) -> tuple[dict[str, object], str]:
    """What the page explores, the text and what each run chose; and which expert takes what."""
    text = list(held_out(loaded[0], tokens))
    found = [collected(f, one, text) for f, one in zip(folders, loaded, strict=True)]
    first = loaded[0].data
    spelled = spelling.spelled(tokenizer.load(first.tokenizer_path))
    ids = data.known(found)
    chosen = [
        Chosen(name, one, of.run.model.experts.num_experts)
        for name, one, of in zip(names(folders), found, loaded, strict=True)
        if of.run.model.experts
    ]
    kinds = traced.kinds(found[0], first)
    shown: dict[str, object] = {
        "text": data.text(found, spelled, first.domain_names) | {"kinds": takers.packed(kinds)},
        "runs": [{"name": c.name} | data.choices(c.traces, ids, c.experts) for c in chosen],
    }
    return shown, takers.section(kinds, chosen, documents(loaded[0], text, found[0]))


def documents(loaded: LoadedRun, text: Sequence[Batch], found: Traces) -> np.ndarray:
    """The number of each token's document; rows of running text hold parts of documents."""
    if loaded.run.objective.name in RUNNING:
        return traced.documents(loaded.run, loaded.data, text)
    return found.document_N


def held_out(loaded: LoadedRun, tokens: int) -> Iterator[Batch]:
    """At most so many tokens of the test split, or one batch."""
    run = loaded.run
    number = max(1, tokens // (run.micro_batch * run.train.seq_len))
    return run.source(loaded.data).held_out("test", number)


def collected(folder: pathlib.Path, loaded: LoadedRun, text: Sequence[Batch]) -> Traces:
    """What a run chose.

    Raises:
      UserError: with its folder, if its tokens do not choose.
    """
    try:
        return traces.collect(sources.trained(loaded), text)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def names(folders: Sequence[pathlib.Path]) -> list[str]:
    """The ends of the folders' names, as in a study, or the whole names if the ends are equal."""
    ends = ["/".join(folder.parts[-2:]) for folder in folders]
    return ends if len({*ends}) == len(folders) else [*map(str, folders)]


def described(name: str, folder: pathlib.Path, run: RunConfig) -> page.Run:
    """The run's curves and numbers, as far as it has come."""
    lines = metrics.read(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    return page.Run(name, facts(folder, run), lines)


def facts(folder: pathlib.Path, run: RunConfig) -> dict[str, str]:
    """The table of a run: what it is, what it costs, how it ended."""
    t, model = run.train, run.model
    sizes = flops.parameters(model)
    tokens = t.batch_size * t.seq_len
    found = {"model": f"{run.architecture}, {model.num_layers} layers, {model.d_model} wide"}
    if experts := model.experts:
        found["experts"] = f"{experts.num_experts}, top-{experts.k}, {experts.router}"
    found |= {
        "parameters": f"{sizes.total:,}",
        "parameters that a token meets": f"{sizes.active:,}",
        "training FLOPs a token, ideal": f"{sum(run.task.ideal_flops(t.seq_len).values()):,.0f}",
        "training FLOPs a token, executed": f"{flops.of_run(run).total / tokens:,.0f}",
        "steps": f"{t.steps:,}",
        "tokens a step": f"{tokens:,}",
        "learning rate": f"{run.optimizer.learning_rate:g}",
    }
    return found | scores(folder)


def scores(folder: pathlib.Path) -> dict[str, str]:
    """Of the test split; of a run that is not finished, that it is not."""
    path = folder / "result.json"
    if not path.exists():
        return {"test loss, nats a token": "not finished"}
    result = sealed.read_json(path)
    found = {"training, seconds": f"{result['seconds']:,.0f}"}
    if "test_nll" in result:
        found["test loss, nats a token"] = f"{result['test_nll']:.4f}"
        found["test loss, bits a byte"] = f"{result['test_bits_per_byte']:.4f}"
    for domain, nll in result.get("test_domain_nll", {}).items():
        found[f"test loss, {domain}"] = f"{nll:.4f}"
    test = result.get("test", {})
    return found | {f"test: {said}": f"{test[k]:.4g}" for k, said in ROUTING.items() if k in test}


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", "runs/train", "The run's folder.")
    OTHER = flags.DEFINE_string("other", "", "The folder of a run beside it.")
    OUT = flags.DEFINE_string("out", "runs/report.html", "The page.")
    LIMIT = flags.DEFINE_integer("tokens", TOKENS, "Of held-out text, at most.", 1)
    command.run(lambda: main(WORKDIR.value, OTHER.value, OUT.value, LIMIT.value))
