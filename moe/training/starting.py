"""The state of step 0: from scratch, or from the parameters of another run."""

import os
import pathlib

import jax
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from moe import initialisation, paths, schema, sealed, sharding
from moe.data import prepared
from moe.initialisation import mapping
from moe.training import checkpoint, folders, moments, step
from moe.training.config import RunConfig


def scratch(run: RunConfig, data: prepared.Prepared) -> step.State:
    """The state of step 0 as the seed draws it."""
    return step.init(run.task.model, run.tx, run.train.seed, data.tokens["train"])


def shapes(run: RunConfig, data: prepared.Prepared) -> step.State:
    """The shapes of `scratch` and where they lie: nothing is drawn, compiled or held."""
    return jax.tree.map(_placed, jax.eval_shape(lambda: scratch(run, data)))


def _placed(x):
    """A shape with its sharding on the devices of the mesh, or on the first device without one."""
    place: Sharding = SingleDeviceSharding(jax.devices()[0])
    if sharding.current():
        place = NamedSharding(jax.sharding.get_mesh(), x.sharding.spec if x.sharding else P())
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def start(
    run: RunConfig, workdir: pathlib.Path, state: step.State, data: prepared.Prepared
) -> step.State:
    """The state of step 0 of a run that has no checkpoint.

    What it was made of goes into init.json: the step of the other run's checkpoint, and for every
    parameter, and moment, its rule and the saved one.

    Args:
      run: the configuration.
      workdir: of the run.
      state: as the seed draws it.
      data: what it is trained on.

    Raises:
      UserError: if the other run has no checkpoint, or the rules do not fit it.
    """
    if not run.init_from.workdir:
        return state
    source = pathlib.Path(os.path.expanduser(run.init_from.workdir))
    check_tokenizer(run.init_from, source, data)
    drawn = _drawn(run.init_from, state)
    number, origins, saved = _read(run.init_from, source, state, drawn)
    made = {
        path: mapping.make(path, origin, drawn[path], saved.get(origin.saved or ""))
        for path, origin in origins.items()
    }
    if run.init_from.optimizer:
        moments.require_begun(made)
    about = {
        "workdir": str(source),
        "step": number,
        "origins": {path: origin._asdict() for path, origin in origins.items()},
    }
    if jax.process_index() == 0:
        sealed.write_json(workdir / "init.json", about, indent=2)
    return _with_parameters(state, made)


def _drawn(config, state):
    """What may come from elsewhere, by path, as the seed draws it."""
    own = paths.named(_tree(state))
    return own | moments.named(state.optimizer) if config.optimizer else own


def _origins(config, state, checkpoints):
    """Every array's origin, and the shapes of what is saved."""
    shapes = checkpoints.parameters()
    found = mapping.origins(config, paths.named(_tree(state)), shapes)
    if config.optimizer:
        shapes |= checkpoints.parameters("optimizer")
        found |= moments.origins(state.optimizer, found, shapes)
    return found, shapes


def _read(config, source, state, drawn):
    """The step of the other run's checkpoint, every array's origin, and what they read."""

    def read(checkpoints):
        origins, shapes = _origins(config, state, checkpoints)
        saved = checkpoints.load_parameters(_layouts(origins, drawn, shapes))
        return checkpoints.latest, origins, saved

    _require_checkpoint(source)
    return checkpoint.reading(source, read)


def check(run: RunConfig, data: prepared.Prepared) -> None:
    """Refuses a start that cannot be, before anything is drawn or written.

    Raises:
      UserError: see `start`.
    """
    run.init_from.refuse_idle()
    if not run.init_from.workdir:
        return
    source = pathlib.Path(os.path.expanduser(run.init_from.workdir))
    check_tokenizer(run.init_from, source, data)
    shapes = jax.eval_shape(lambda: step.init(run.task.model, run.tx, 0))
    _require_checkpoint(source)
    checkpoint.reading(source, lambda there: _origins(run.init_from, shapes, there))


def _require_checkpoint(workdir):
    schema.require(
        folders.exists(workdir),
        f"init_from.workdir={str(workdir)!r} has no checkpoint: name the folder of a run",
    )


def check_tokenizer(
    config: initialisation.InitConfig, source: pathlib.Path, data: prepared.Prepared
) -> None:
    """Refuses parameters that were trained on the ids of another tokenizer.

    Raises:
      UserError: with what to change.
    """
    path = source / "data.json"
    known = sealed.read_json(path).get("sha256", {}) if path.exists() else {}
    theirs = known.get("tokenizer.json")
    ours = data.sha256.get("tokenizer.json")
    schema.require(
        config.other_tokenizer or theirs is None or theirs == ours,
        f"init_from.workdir={str(source)!r} was trained with another tokenizer than this data has:"
        f" its ids mean other texts. Prepare the data with data.tokenizer=<its tokenizer.json>, or"
        " set init_from.other_tokenizer=True",
    )


def _tree(state):
    """Parameters and the routers' state as one tree."""
    return {**state.params, "router_state": state.router_state}


def _layouts(origins, drawn, saved):
    """How each saved array is to lie: as its parameter where the shapes are equal, else copied."""
    everywhere = NamedSharding(jax.sharding.get_mesh(), P())
    found: dict[str, jax.sharding.Sharding] = {}
    for path, origin in origins.items():
        if origin.saved is not None:
            alike = saved[origin.saved].shape == drawn[path].shape
            found.setdefault(origin.saved, drawn[path].sharding if alike else everywhere)
    return found


def _with_parameters(state, made):
    """The state with other parameters, router state and moments, given by path."""
    tree = jax.tree_util.tree_map_with_path(lambda path, _: made[paths.name(path)], _tree(state))
    router_state = tree.pop("router_state")
    optimizer = moments.replaced(state.optimizer, made)
    return state._replace(params=tree, router_state=router_state, optimizer=optimizer)
