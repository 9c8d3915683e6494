"""Checkpoints out, as transformers reads them."""

import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from moe import models, paths
from moe.config import ModelConfig
from moe.interop import files, rules
from moe.interop.families import FAMILIES
from moe.interop.reading import Parameters, read_config
from moe.schema import one_of, require

MAX_FILE_BYTES = 5 * 10**9


def save(
    folder: str | os.PathLike,
    config: ModelConfig,
    params: Parameters,
    family: str,
    *,
    layout: str | None = None,
    dtype: str = "float32",
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Writes config.json and safetensors that transformers loads.

    Args:
      folder: is made; must not have a checkpoint.
      config, params: of the model.
      family: of `FAMILIES`.
      layout: of the family's; the first if None.
      dtype: of the tensors: float32, bfloat16 or float16.
      max_file_bytes: of each file.

    Raises:
      UserError: for a model that is not one of the family, or a folder with a checkpoint.
    """
    one_of("family", family, FAMILIES)
    one_of("dtype", dtype, files.DTYPES.values())
    made = FAMILIES[family]
    layout = layout or next(iter(made.layouts))
    one_of("layout", layout, made.layouts)
    content = _content(config, family, dtype)
    named = paths.named(params)
    ours = made.layouts[layout](config)
    _check(config, ours, named)
    root = pathlib.Path(os.path.expanduser(folder))
    taken = [name for name in ("config.json", files.SINGLE, files.INDEX) if (root / name).exists()]
    require(not taken, f"{root} has {files.some(taken)} already: name another folder")
    root.mkdir(parents=True, exist_ok=True)
    files.write(root, _tensors(ours, named, dtype), max_file_bytes)
    (root / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _check(config, ours, named):
    """Refuses parameters that are not the model's, and rules that leave some out."""
    shapes = {path: x.shape for path, x in paths.named(models.parameter_shapes(config)).items()}
    found = {path: x.shape for path, x in named.items()}
    wrong = sorted(
        path for path in shapes.keys() | found.keys() if shapes.get(path) != found.get(path)
    )
    require(not wrong, f"the parameters are not those of the config: {files.some(wrong)} differ")
    left = sorted(set(shapes) - {rule.ours for rule in ours})
    require(not left, f"this family's files have no place for {files.some(left)}")


def _content(config, family, dtype):
    """config.json, if it says all of what the model is.

    Raises:
      UserError: if not: what reads it back is another model.
    """
    made = FAMILIES[family]
    has = config.experts is not None
    require(
        has == made.experts,
        f"family={family!r} has {'' if made.experts else 'no '}experts, and the model has"
        f" {'some' if has else 'none'}: name another of {', '.join(FAMILIES)}",
    )
    content = made.fields(config) | {"architectures": [made.architecture], "model_type": family}
    ours = _computed(config)
    again = read_config(content, made, "config.json")
    for name, value in _computed(again).items():
        require(
            ours.get(name) == value,
            f"family={family!r} has no {name}={ours.get(name)!r}, only {value!r}: its config.json"
            " cannot say it",
        )
    return content | {"dtype": dtype}


def _computed(config):
    """The fields that say what is computed, and not how, or how it is trained."""
    dense = config.dense_layers > 0
    own = vars(config) | {
        "dense_activation": (config.dense_activation or config.activation) if dense else "",
        "d_ff": config.d_ff if dense else 0,
    }
    for how in ("dtype", "remat", "scan_unroll", "init_scale", "num_kv_heads"):
        own.pop(how)
    own["kv_heads"] = config.kv_heads
    if "encoder_layers" in own:
        own["encoder_layers"] = config.encoder_layers or config.num_layers
    if config.experts is None:
        own["moe_every"] = 1  # how layers are scanned
    experts = own.pop("experts")
    if experts:
        names = ["num_experts", "d_ff", "k", "router", "shared_experts", "dropless"]
        if not experts.dropless:
            names += ["capacity_factor", "eval_capacity_factor", "expert_capacity", "group_size"]
        own |= {f"experts.{name}": getattr(experts, name) for name in names}
        own["experts.options"] = _gates(experts)
    return own


def _gates(experts):
    """The options, with what None means."""
    options = vars(experts.options).copy()
    if options.get("normalise_gates", 0) is None:
        options["normalise_gates"] = experts.k > 1
    return options


def _tensors(made, named, dtype) -> Iterator[tuple[str, np.ndarray]]:
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    for name, readers in rules.by_tensor(rule for rule in made if not rule.copy).items():
        in_order = sorted(readers, key=lambda reader: reader.rule.part)
        parts = [np.asarray(named[reader.rule.ours])[reader.at] for reader in in_order]
        yield name, readers[0].rule.write(parts).astype(kind)
