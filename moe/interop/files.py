"""The files of a published checkpoint: config.json and safetensors, one file or several.

Read as data only: what is pickled is refused, and no name in an index leaves the folder.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from moe.errors import UserError
from moe.schema import require

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
CONVERT = (
    "in an environment of its own with torch and transformers, run once\n"
    '  python -c "import sys; from transformers import {auto} as m;'
    ' m.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])" {folder} NEW_FOLDER\n'
    "and name NEW_FOLDER"
)


class Tensor(NamedTuple):
    """One tensor of a file, not read yet."""

    file: pathlib.Path
    shape: tuple[int, ...]
    dtype: str


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      UserError: if it is not there, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: name the folder of a published checkpoint") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no JSON: {error}. Fetch it again") from error
    require(isinstance(content, dict), f"{path} holds no object of names and values")
    return content


def tensors(folder: pathlib.Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name; of each file only its header is read.

    Raises:
      UserError: for a folder without safetensors, a damaged file, or an index that is not that of
        the files; with the file.
    """
    if not (folder / INDEX).exists():
        _refuse_pickled(folder)
        return {name: tensor for name, tensor in _header(folder / SINGLE)}
    require(
        not (folder / SINGLE).exists(),
        f"{folder} has both {SINGLE} and {INDEX}: nobody knows which is meant; remove one",
    )
    index = read_json(folder / INDEX).get("weight_map")
    require(isinstance(index, dict), f"{folder / INDEX} has no weight_map")
    assert isinstance(index, dict)
    found: dict[str, Tensor] = {}
    for file in sorted(set(map(str, index.values()))):
        require(
            pathlib.PurePath(file).name == file and "\\" not in file,
            f"{folder / INDEX} names {file!r}, which is not a file of its own folder",
        )
        found |= dict(_header(folder / file))
    for name, file in index.items():
        there = name in found and found[name].file.name == file
        require(there, f"{folder / INDEX} promises {name} in {file}, which does not have it")
    extra = sorted(set(found) - set(index))
    require(not extra, f"{folder / INDEX} does not name {some(extra)}, which its files have")
    return found


def _refuse_pickled(folder):
    """Says what to do with a folder that has no safetensors."""
    require(folder.is_dir(), f"there is no folder {folder}")
    if (folder / SINGLE).exists():
        return
    pickled = [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]
    require(
        not pickled,
        f"{folder} has {some(pickled)}, which are pickled: to read one is to run what it says. "
        + CONVERT.format(auto=_auto_class(folder), folder=folder),
    )
    raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}")


def _auto_class(folder):
    """The class of transformers that loads it."""
    path = folder / "config.json"
    config = read_json(path) if path.exists() else {}
    seq2seq = config.get("is_encoder_decoder", False)
    return "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"


def _opened(path):
    import ml_dtypes  # noqa: F401, with it NumPy knows bfloat16
    import safetensors

    try:
        return safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}. Fetch it again") from error


def _header(path) -> Iterator[tuple[str, Tensor]]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118, it is no dictionary
            part = file.get_slice(name)
            dtype = part.get_dtype()
            require(
                dtype in DTYPES,
                f"{path} has {name} in {dtype}: expected one of {', '.join(DTYPES)}",
            )
            yield name, Tensor(path, tuple(part.get_shape()), DTYPES[dtype])


def read(name: str, tensor: Tensor) -> np.ndarray:
    """The numbers of one tensor."""
    with _opened(tensor.file) as file:
        return file.get_tensor(name)


def write(
    folder: pathlib.Path, parts: Iterable[tuple[str, np.ndarray]], max_file_bytes: int
) -> None:
    """Writes tensors in their order, a new file whenever one is full, and the index of several.

    Args:
      folder: that exists.
      parts: name and array; one file's are held in memory.
      max_file_bytes: of each file, but for a tensor that is larger.
    """
    files: list[list[str]] = []
    held: dict[str, np.ndarray] = {}
    total = 0
    for name, x in parts:
        if held and x.nbytes + sum(y.nbytes for y in held.values()) > max_file_bytes:
            files.append(_write(folder, len(files), held))
            held = {}
        held[name] = x
        total += x.nbytes
    files.append(_write(folder, len(files), held))
    if len(files) == 1:
        (folder / _part(0)).rename(folder / SINGLE)
        return
    index: dict[str, str] = {}
    for i, names in enumerate(files):
        last = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
        (folder / _part(i)).rename(folder / last)
        index |= dict.fromkeys(names, last)
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")


def _part(i):
    return f".partial-{i}.safetensors"


def _write(folder, i, held):
    from safetensors import numpy

    numpy.save_file(held, folder / _part(i), metadata={"format": "pt"})
    return list(held)


def some(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
