"""The training loop: batch, step, and now and then a log line, an evaluation, a checkpoint."""

import contextlib
import json
import pathlib

import jax
import numpy as np
import tqdm

from moe import config as configs
from moe import estimate, legacy, sharding
from moe import routing as routers
from moe.data import batches, masking, prepare
from moe.dispatch import grouped
from moe.evaluation import text
from moe.training import checkpoint, files, metrics, observing, step
from moe.training.config import RunConfig


def train(run: RunConfig, workdir: pathlib.Path, name: str = "train", bar: int = 0) -> dict:
    """Trains to the last step, or from the last checkpoint on, and writes result.json.

    Args:
      run: the configuration.
      workdir: gets config.json, data.json, metrics.jsonl, checkpoints/ and result.json.
      name: what the progress bar shows.
      bar: the line of the progress bar, when several processes share a terminal.

    Returns:
      The result: test loss in nats, bits per byte, router statistics, seconds of training. A
      finished run is not run again: its result is read.

    Raises:
      ValueError: if the workdir was made by another config or on other data, the mesh does not
        divide the run, the data is too small for it, or another process trains in the workdir.
      FloatingPointError: if the validation loss, or the state that is to be saved, is not finite.
    """
    files.commit()  # of the code that is running, whatever is committed meanwhile
    done = workdir / "result.json"
    if files.all_gather(done.exists())[0]:
        claim_workdir(run, workdir)
        return json.loads(done.read_text())
    mesh, data = setup(run)  # a refused run leaves no trace
    with files.alone(workdir / "train.lock", "training in"):
        claim_workdir(run, workdir, data)
        with sharding.on(mesh, run.layout):
            result = _train(run, workdir, data, name, bar)
        if jax.process_index() == 0:
            files.write(done, json.dumps(result) + "\n")
        files.barrier(f"{done} was written")
    return result


def setup(run: RunConfig, data=None):
    """The mesh and the data of a run.

    Args:
      data: what `prepare.prepare(run.data)` gave, if it is at hand.

    Raises:
      ValueError: if it cannot be run to its end on them.
    """
    mesh = mesh_of(run)
    estimate.check_state(run, mesh)
    data = data or prepare.prepare(run.data)
    for split, least in (("train", run.train.batch_size), ("validation", 1), ("test", 1)):
        batches.check(data, split, run.train.seq_len, least)
    check_domains(run.model, data)
    return mesh, data


def check_domains(model, data) -> None:
    """Refuses data with more domains than the router knows.

    Raises:
      ValueError: with both numbers.
    """
    if not model.reads_domains:
        return
    experts = model.experts
    known, names = experts.routing.domains(experts), data.domain_names
    configs.require(
        len(names) <= known,
        f"experts.router={experts.router!r} has experts for {known} domains, and the data has"
        f" {len(names)}:"
        f" {', '.join(names)}",
    )


def claim_workdir(run: RunConfig, workdir: pathlib.Path, data=None) -> None:
    """Makes the workdir this run's, on this data, or refuses one that is another's.

    Neither where the data lies (data.json says what it is) nor the mesh, on which no result
    depends (but for a buffer that is too small), is part of what a run is: it may go on elsewhere.
    """
    files.check_or_write(workdir / "config.json", _fingerprint(run), "config", _fingerprint_of_file)
    if data is not None:
        hint = " (`code` is the library of this very Python)" if "code" in run.data.source else ""
        files.check_or_write(workdir / "data.json", identity(data), "data" + hint)


def _fingerprint(run):
    what = configs.to_dict(run.replace(data={"cache_dir": "", "prepared_dir": ""}))
    del what["mesh"]
    return what


def _fingerprint_of_file(content):
    """Fields that came later have their defaults, which do what was done before.

    What a router does not read was once allowed to stand there.
    """
    content = legacy.run_config(content)
    experts = content["model"].get("experts")
    for name in set(configs.COMMON) & set(experts or ()):
        if name not in routers.ROUTERS[experts["router"]].common:
            experts[name] = 0.0
    return _fingerprint(configs.from_config_dict(RunConfig, content))


def mesh_of(run: RunConfig, devices=None):
    """The run's mesh over all devices, or over some.

    Raises:
      ValueError: if it does not fit the devices, does not divide the run, or has no such kernel.
    """
    mesh = sharding.make_mesh(run.mesh.data, run.mesh.expert, run.mesh.model, devices)
    sharding.check(mesh, run.shared())
    grouped.check(run.mesh.implementation)
    return mesh


def identity(data) -> dict:
    """What was trained on: the same config gives other text under another Python's library."""
    return {"tokens": {split: len(stream) for split, stream in data.tokens.items()},
            "sha256": data.sha256}  # fmt: skip


def _train(run, workdir, data, name, line):
    state = step.init(run.model, run.tx, run.train.seed, data.tokens["train"])
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        state, seconds = checkpoints.restore(state) or (state, 0.0)
        train_step, evaluator = compiled(run, state, data), observing.Evaluator(run, data)
        path, first = workdir / "metrics.jsonl", int(state.step)
        with contextlib.closing(metrics.Writer(path, first)) as writer:
            state, seconds = _loop(
                run,
                data,
                state,
                train_step,
                observing.Clock(seconds),
                evaluator,
                writer,
                checkpoints,
                name,
                line,
            )
        checkpoints.save(run.train.steps, state, seconds)
        final = evaluator.score(state, "test", run.train.test_batches)
    return summary(final, seconds, run.train.steps)


def _loop(run, data, state, train_step, clock, evaluator, writer, checkpoints, name, line):
    t, first = run.train, int(state.step)
    bar = tqdm.trange(
        first, t.steps, initial=first, total=t.steps, desc=name, mininterval=5, position=line
    )
    log = observing.Log(writer, run)
    clock.start()
    for i in bar:
        n = i + 1
        judged = n % t.eval_every == 0 or n == t.steps
        if judged:
            clock.stop(state)
            before = evaluator.choices(state)
            clock.start()
        state, measured = train_step(state, batch(run, data, i))
        if n % t.log_every == 0:
            log.write({"step": n, "split": "train", **measured})
        if judged:
            seconds = clock.stop(state)
            scored, found = evaluator.validate(state, before)
            log.write({"step": n, "split": "validation", "seconds": seconds, **found})
            rate = n * t.batch_size * t.seq_len / seconds
            if not np.isfinite(scored.nll):
                raise FloatingPointError(
                    f"{name}: validation loss is {scored.nll} at step {n}. Lower"
                    " optimizer.learning_rate, or raise optimizer.warmup_steps, in a new workdir"
                )
            log.shown |= {"validation": f"{scored.nll:.3f}", "tokens/s": f"{rate:,.0f}"}
            clock.start()
        bar.set_postfix(log.shown, refresh=False)
        if n % t.checkpoint_every == 0:
            writer.flush()
            checkpoints.save(n, state, clock.stop(state))
            clock.start()
    return state, clock.stop(state)


def compiled(run: RunConfig, state, data):
    """The training step, compiled ahead so that no compilation is timed."""
    jitted = step.make_train_step(run.model, run.tx, run.train.seed, run.train.accumulate)
    return jitted.lower(state, batch(run, data, 0)).compile()


def batch(run: RunConfig, data, i: int):
    """The inputs of step i on the devices, a pure function of (seed, i)."""
    t = run.train

    def rows(numbers):
        size = {"batch_size": t.batch_size, "seq_len": t.seq_len}
        made = batches.train_batch(data, **size, seed=t.seed, step=i, numbers=numbers)
        if not run.model.bidirectional:
            return text.inputs(made)
        return text.inputs(made, masking.hidden(t.seed, i, (t.batch_size, t.seq_len))[numbers])

    return sharding.shard_rows(rows, t.batch_size)


def summary(final: text.Score, seconds: float, steps: int) -> dict:
    """result.json: the test score, by document for paired intervals, and what the run took."""
    documents, which_R = np.unique(final.document_R, return_inverse=True)
    return {
        "steps": steps,
        "seconds": seconds,
        "machine": files.machine(),
        "test_nll": final.nll,
        "test_bits_per_byte": final.bits_per_byte,
        "test_domain_nll": final.domain_nll,
        "test": metrics.plain(final.metrics),
        "test_documents": documents.tolist(),
        "test_documents_nll": np.round(np.bincount(which_R, final.nll_R), 3).tolist(),
        "test_documents_tokens": np.bincount(which_R, final.tokens_R).astype(int).tolist(),
    }
