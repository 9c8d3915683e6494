"""Small files that decide whether a run is finished, and whose it is."""

import json
import os
import pathlib
import platform
import subprocess

import jax


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all: a reader, or a crash, never meets half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text)
    new.replace(path)


def claim(path: pathlib.Path, content: dict, owner: str) -> None:
    """Writes `content` to a JSON file, or makes sure that it says the same already.

    Args:
      owner: what the content describes, for the error.

    Raises:
      ValueError: if the file holds something else; the difference is shown.
    """
    wanted = json.loads(json.dumps(content))
    if path.exists():
        lines = difference(json.loads(path.read_text()), wanted)
        if lines:
            raise ValueError(
                f"{path.parent} belongs to another {owner}:\n  " + "\n  ".join(lines)
                + "\nName another workdir, or delete this one to start over."
            )  # fmt: skip
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        write(path, json.dumps(wanted, indent=2) + "\n")


def difference(old, new, path: str = "") -> list[str]:
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
        "commit": COMMIT,
    }


def _commit():
    """The commit of this code, "-dirty" if files differ from it; "unknown" outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        folder = pathlib.Path(__file__).parent
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


COMMIT = _commit()  # of the code as it was imported, whatever is committed while it runs
