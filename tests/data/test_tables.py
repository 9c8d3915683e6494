"""Small tables: what is read of a package's files, and of Praat's table of vowels."""

import gzip
import sys
import types

import numpy as np
import pytest

from moe.data import packages, tables, vowels
from tests.data import test_packages

CARS = b"8,307.0,130.0,3504.0,12.0,70,1,chevrolet chevelle,18.0\n4,97,88,2130,14.5,71,3,a,27.0\n"
WINES = b"1,2,3,4,5,6,7,8,9,10,11,12,13,2\n" + b"0,0,0,0,0,0,0,0,0,0,0,0,0,1\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two rows of each table."""
    path = tmp_path / "mlxtend.whl"
    files = {"autompg.csv.gz": gzip.compress(CARS), "wine.csv": WINES}
    test_packages.zip_of(path, {f"mlxtend/data/data/{name}": text for name, text in files.items()})
    monkeypatch.setattr(packages, "fetch", lambda name, cache_dir=None: path)


def test_tables_are_numbers_and_classes(package):
    x_RI, y_RO = tables.read("autompg")
    assert x_RI.tolist() == [[8, 307, 130, 3504, 12, 70, 1], [4, 97, 88, 2130, 14.5, 71, 3]]
    assert y_RO.tolist() == [[18], [27]]
    x_RI, y_RO = tables.read("wine")
    assert x_RI.shape == (2, 13) and y_RO.tolist() == [[0, 0, 1], [0, 1, 0]]
    with pytest.raises(ValueError, match="table='iris' is not one of 'autompg', 'wine'"):
        tables.read("iris")


def praat(monkeypatch, text):
    """A module `parselmouth` that knows one table."""

    def call(*words):
        if words == (vowels.TABLE,):
            return "the table"
        assert words == ("the table", "List", False)
        return text

    module = types.ModuleType("parselmouth")
    module.praat = types.SimpleNamespace(call=call)
    monkeypatch.setitem(sys.modules, "parselmouth", module)


def rows(*spoken):
    head = "\t".join(vowels.COLUMNS)
    return "\n".join([head, *("\t".join(map(str, ("m", "m", *row))) for row in spoken)])


def test_four_vowels_of_75_speakers(monkeypatch):
    spoken = [
        (1, "iy", "i", 160, 240, 2280, 2850),
        (1, "eh", r"\ef", 161, 490, 1870, 2420),
        (75, "ah", r"\vt", 144, 590, 1250, 2620),
        (76, "iy", "i", 300, 300, 3000, 3500),
    ]
    praat(monkeypatch, rows(*spoken))
    found = vowels.read()
    np.testing.assert_allclose(found.formant_RI, [[0.24, 2.28], [0.59, 1.25]])
    assert [list(vowels.VOWELS)[place] for place in found.vowel_R] == ["i", "ʌ"]
    assert found.speaker_R.tolist() == [1, 75]


def test_what_is_wrong_with_praat_is_said(monkeypatch):
    praat(monkeypatch, "Speaker\tVowel\n1\tiy")
    with pytest.raises(ValueError, match="the table has columns .'Speaker', 'Vowel'., not"):
        vowels.read()
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    with pytest.raises(ValueError, match="pip install praat-parselmouth, or the extra `vowels`"):
        vowels.read()
