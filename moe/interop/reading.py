"""Checkpoints in, tensor by tensor: no host holds more than one of them and a shard of ours."""

import collections
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from moe import models, paths
from moe.config import ModelConfig
from moe.interop import files, rules
from moe.interop.families import FAMILIES
from moe.interop.family import Family, Fields
from moe.interop.rules import Rule
from moe.schema import one_of, require

Parameters = dict[str, Any]


def load(
    folder: str | os.PathLike,
    *,
    ignore: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
) -> tuple[ModelConfig, Parameters]:
    """(config, params) of a published checkpoint, laid out on the current mesh.

    Computed in float32, which the config's `dtype` changes; experts drop nothing.

    Args:
      folder: with config.json and safetensors.
      ignore: fields of config.json that are known to change nothing.
      given: fields that config.json lacks, as old files do.

    Raises:
      UserError: for a field, a tensor or a file that is missing, unknown or wrong, by its name.
    """
    root = pathlib.Path(os.path.expanduser(folder))
    content = files.read_json(root / "config.json")
    family = family_of(content, root)
    config = read_config(content, family, str(root / "config.json"), ignore, given)
    found = _without_idle(root, family, config, files.tensors(root))
    ours = _fitting(family, config, found)
    shapes = models.parameter_shapes(config)
    named = paths.named(shapes)
    _check(root, ours, named, found)
    _check_dtypes(root, content, found, family.float32)
    _check_copies(root, ours, found)
    read = [rule for rule in ours if not rule.copy]
    rows = tqdm.tqdm(read, desc=f"reading {root.name}", unit="parameter", disable=None)
    made = {rule.ours: _read(rule, named[rule.ours], found) for rule in rows}
    return config, jax.tree_util.tree_map_with_path(lambda path, _: made[paths.name(path)], shapes)


def family_of(content: dict[str, Any], root: pathlib.Path) -> Family:
    """The family that a config.json names.

    Raises:
      UserError: if it is none of ours.
    """
    kind = content.get("model_type")
    one_of(f"{root / 'config.json'}: model_type", kind, FAMILIES)
    return FAMILIES[str(kind)]


def read_config(
    content: dict[str, Any],
    family: Family,
    where: str,
    ignore: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """The model that a config.json describes.

    Raises:
      UserError: for a field that is missing, unknown, or asks for what is not computed here.
    """
    fields = Fields(content, where, ignore, given)
    config = family.config(fields)
    fields.finish()
    return config


def _without_idle(root, family, config, found):
    """The tensors that something computes with; the others must be what they have to be."""
    idle = {
        name: made
        for pattern, made in family.beside.items()
        for name in found
        if re.fullmatch(pattern, name)
    }
    for name, made in idle.items():
        require(
            made is None or np.allclose(files.read(name, found[name]), made(config), rtol=1e-2),
            f"{root}: {name} is not what config.json makes it",
        )
    return {name: tensor for name, tensor in found.items() if name not in idle}


def _fitting(family: Family, config: ModelConfig, found: Collection[str]) -> list[Rule]:
    """The rules of the layout that most of these tensors have."""
    candidates = [make(config) for make in family.layouts.values()]
    return max(candidates, key=lambda ours: len(rules.by_tensor(ours).keys() & set(found)))


def _check(root, ours, shapes, found):
    """Refuses a checkpoint with a tensor too many, too few or of another shape."""
    left = sorted(set(shapes) - {rule.ours for rule in ours})
    require(not left, f"{root}: no rule fills {files.some(left)}")
    wanted = rules.by_tensor(ours)
    copies = {name for name, readers in wanted.items() if readers[0].rule.copy}
    missing = sorted(set(wanted) - set(found) - copies)
    require(not missing, f"{root} has no {files.some(missing)}, which its config.json asks for")
    extra = sorted(set(found) - set(wanted))
    require(not extra, f"{root} has {files.some(extra)}, of which its config.json knows nothing")
    for name in sorted(wanted.keys() & found.keys()):
        rule = wanted[name][0].rule
        want = rule.shape(shapes[rule.ours].shape)
        require(
            found[name].shape == want,
            f"{root}: {name} is {list(found[name].shape)}, and config.json makes it {list(want)}",
        )


def _check_copies(root, ours, found):
    """Refuses a copy of a tensor that is another."""
    original = {rule.ours: rule.theirs for rule in ours if not rule.copy}
    for rule in ours:
        if rule.copy and rule.theirs in found:
            name = original[rule.ours]
            one, two = (files.read(n, found[n]) for n in (name, rule.theirs))
            require(
                np.array_equal(one, two),
                f"{root}: {rule.theirs} is not {name}, whose copy config.json makes it",
            )


def _check_dtypes(root, content, found, float32):
    """Refuses a tensor whose dtype is not that of config.json, or of the others."""
    said = content.get("dtype", content.get("torch_dtype"))
    counts = collections.Counter(tensor.dtype for tensor in found.values())
    want = said or counts.most_common(1)[0][0]
    for name, tensor in found.items():
        kept = tensor.dtype == "float32" and re.search(float32, name)
        require(
            tensor.dtype == want or bool(kept),
            f"{root}: {name} is {tensor.dtype}, and"
            f" {'config.json says' if said else 'most are'} {want}",
        )


def _read(rule: Rule, shape: jax.ShapeDtypeStruct, found: dict[str, files.Tensor]) -> jax.Array:
    """One parameter, laid out as its shape says; a shard at a time is made on the host."""
    names = dict(rule.names())

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        stacked, inner = index[: len(rule.stacked)], index[len(rule.stacked) :]
        ranges = [range(n)[part] for n, part in zip(rule.stacked, stacked, strict=True)]
        size = [len(range(n)[part]) for n, part in zip(shape.shape, index, strict=True)]
        made = np.empty(size, shape.dtype)
        for at in np.ndindex(*(len(r) for r in ranges)):
            name = names[tuple(r[i] for r, i in zip(ranges, at, strict=True))]
            made[at] = rule.read(files.read(name, found[name]), shape.shape)[inner]
        return made

    if shape.sharding is None:
        return jnp.asarray(shard(tuple(slice(None) for _ in shape.shape)))
    return _by_shards(shape, shard)


def _by_shards(shape, shard):
    """An array made of its shards, one after the other; equal ones are made once."""
    mesh = jax.sharding.get_mesh()
    layout = jax.sharding.NamedSharding(mesh, shape.sharding.spec)
    devices = collections.defaultdict(list)
    for device, index in layout.addressable_devices_indices_map(shape.shape).items():
        assert index is not None
        devices[tuple((part.start, part.stop) for part in index)].append((device, index))
    placed = []
    for same in devices.values():
        made = shard(same[0][1])
        placed += [jax.device_put(made, device).block_until_ready() for device, _ in same]
    return jax.make_array_from_single_device_arrays(shape.shape, layout, placed)
