"""Small packages with a few fake documents in them."""

import dataclasses
import hashlib
import zipfile

from moe.data import packages, prepare

WORDS = ("expert", "router", "token", "gate", "sparse", "dense", "layer", "model", "loss", "step")
FRENCH = ("jeton", "mot", "texte", "porte", "choisit", "deux", "experts", "parmi", "seize", "et")


def articles(words: tuple[str, ...], count: int) -> dict:
    """Titles and summaries, all different, with a word order that varies."""
    return {
        f"Title {i}": {
            "title": f"Title {i}",
            "extract": " ".join(words[(i * k + k * k) % len(words)] for k in range(20)) + f" é{i}.",
        }
        for i in range(count)
    }


def write_wheel(path, files: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def pin(monkeypatch, name: str, path) -> None:
    """Makes the file at `path` the expected one for the package called `name`."""

    package = dataclasses.replace(
        packages.PACKAGES[name], sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
    monkeypatch.setitem(packages.PACKAGES, name, package)


def config(**changes) -> prepare.DataConfig:
    fields = {"source": ("encyclopedia_en", "encyclopedia_fr"), "vocab_size": 300}
    return prepare.DataConfig(**{**fields, **changes})
