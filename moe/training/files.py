"""What decides whose a folder is, and what made a number: locks, configs, the machine."""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import jax

from moe import sealed
from moe.errors import UserError
from moe.training import processes


@contextlib.contextmanager
def lock(path: pathlib.Path) -> Iterator[bool]:
    """Holds a lock file while the block runs; yields False where another process holds it.

    The lock ends with its process, however that ends; the file stays and says nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def alone(path: pathlib.Path, doing: str) -> Iterator[None]:
    """Holds a lock file, or refuses; of several processes that work together the first holds it.

    Args:
      doing: what another process does there, for the error: "training in".

    Raises:
      UserError: in all processes, if another one holds it.
    """
    held = lock(path) if jax.process_index() == 0 else contextlib.nullcontext(True)
    with held as free:
        if not processes.all_gather(free)[0]:
            raise UserError(
                f"another process is {doing} {path.parent}: wait for it, end it, or name another"
                " workdir"
            )
        yield


def check_or_write(path: pathlib.Path, content: dict, owner: str, read: Callable = dict) -> None:
    """Writes `content` to a JSON file, or makes sure that it says the same already.

    Of several processes the first writes, and all make sure.

    Args:
      owner: what the content describes, for the error.
      read: what the file's dictionary means today, if older code may have written it.

    Raises:
      UserError: if the file holds something else; the difference is shown. Or if a process does
        not see the file that the first wrote.
    """
    wanted = json.loads(json.dumps(content))
    require_same(path, wanted, owner, read)  # by all, before one writes
    if jax.process_index() == 0 and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sealed.write_json(path, wanted, indent=2)
    processes.barrier(f"{path} was written")
    if not path.exists():
        raise UserError(f"process 0 wrote {path}, and this process does not see it: name a workdir"
                         " on a disk that all hosts share")  # fmt: skip
    require_same(path, wanted, owner, read)


def remove(*paths: pathlib.Path) -> None:
    """Removes files, if they are there; of several processes the first does, and all wait."""
    if jax.process_index() == 0:
        for path in paths:
            path.unlink(missing_ok=True)
    processes.barrier(f"{paths} were removed")


def require_same(path: pathlib.Path, wanted: dict, owner: str, read: Callable = dict) -> None:
    """Makes sure that a JSON file, if it is there, says what is wanted; see `check_or_write`."""
    lines = against(path, wanted, read)
    if not any(processes.all_gather(bool(lines))):
        return
    raise UserError(
        f"{path.parent} belongs to another {owner}:\n  "
        + "\n  ".join(lines or ["another process says so"])
        + "\nName another workdir, or delete this one to start over."
    )


def against(path: pathlib.Path, wanted: dict, read: Callable = dict) -> list[str]:
    """A line for every leaf in which a JSON file differs; none if it is not there."""
    if not path.exists():
        return []
    return as_json(read(sealed.read_json(path)), wanted)


def as_json(old: dict, new: dict) -> list[str]:
    """`difference` of what they are in a JSON file, where tuples are lists."""
    return difference(*(json.loads(json.dumps(one)) for one in (old, new)))


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """One line for every leaf in which two nested dictionaries differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        missing = "(absent)"
        pairs = ((old.get(k, missing), new.get(k, missing), f"{path}.{k}") for k in keys)
        return [line for a, b, p in pairs for line in difference(a, b, p)]
    return [] if old == new else [f"{path.lstrip('.')}: it has {old!r}, you gave {new!r}"]


def machine() -> dict:
    """The hardware, the versions and the commit behind a number."""
    processor = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "devices": [d.device_kind for d in jax.devices()],
        "processor": processor,
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),  # which pages arrays lie on
        "commit": commit(),
    }


@functools.cache
def commit() -> str:
    """The commit of this code, "-dirty" if files differ from it; "unknown" outside a clone.

    As it was at the first call, which is at the start of a run: what is committed meanwhile did
    not make its numbers.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        folder = pathlib.Path(__file__).parent
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()
