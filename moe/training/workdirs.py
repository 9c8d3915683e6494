"""Whose a workdir is: one config's, on one data set."""

import pathlib

from moe import legacy, schema, sealed
from moe.data.prepared import Prepared
from moe.errors import UserError
from moe.training import checksums, files, folders, processes
from moe.training.config import RunConfig

OWN = ("config.json", "data.json", "metrics.jsonl", "rewinds.json")  # of a run, beside checkpoints


def claim(run: RunConfig, workdir: pathlib.Path, data: Prepared | None = None) -> None:
    """Makes the workdir this run's, on this data, or refuses one that is another's.

    Neither where the data lies (data.json says what it is) nor the mesh or how layers are scanned,
    on which no result depends (but for a buffer that is too small), is part of what a run is: it
    may go on elsewhere. Nor is what it does when it diverges: it may go on and skip. A workdir
    without checkpoint or result is nobody's.

    Raises:
      UserError: if it is another's, or has checkpoints and does not say whose.
    """
    saved = processes.all_gather(folders.exists(workdir) or checksums.any_of(workdir))[0]
    ended = processes.all_gather((workdir / "result.json").exists())[0]
    for name, needed in (("config.json", saved or ended), ("data.json", saved)):
        schema.require(
            not needed or (workdir / name).exists(),
            f"{workdir} has checkpoints or a result but no {name}, so nobody knows what they are"
            f" of: {sealed.MEND}",
        )
    if not (saved or ended) and processes.first_says(lambda: _of_another(run, workdir, data)):
        files.remove(*(workdir / name for name in OWN))
    files.check_or_write(workdir / "config.json", fingerprint(run), "config", fingerprint_of_file)
    if data is not None:
        hint = " (`code` is the library of this very Python)" if "code" in run.data.source else ""
        files.check_or_write(workdir / "data.json", identity(data), "data" + hint)


def _of_another(run, workdir, data):
    """Did another run begin here, or this one on other data? What cannot be read says nothing."""
    try:
        lines = files.against(workdir / "config.json", fingerprint(run), fingerprint_of_file)
        if data is not None:
            lines += files.against(workdir / "data.json", identity(data))
    except UserError:
        return True
    return bool(lines)


def fingerprint(run: RunConfig) -> dict:
    """What decides a run's result, as config.json holds it."""
    what = schema.to_dict(run.replace(data=dict.fromkeys(run.data.PLACES, "")))
    del what["mesh"]
    what["model"].pop("scan_unroll", None)  # a choice of speed
    del what["train"]["on_divergence"]  # the result counts what it did
    return what


def fingerprint_of_file(content: dict) -> dict:
    """That of a config.json; fields that came later have their defaults, which change nothing."""
    content = legacy.run_config(content)
    return fingerprint(schema.from_config_dict(RunConfig, content))


def identity(data: Prepared) -> dict:
    """What was trained on: the same config gives other text under another Python's library."""
    return {"tokens": {split: len(stream) for split, stream in data.tokens.items()},
            "sha256": data.sha256}  # fmt: skip
