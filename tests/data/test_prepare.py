"""The prepared directory: what is in it, when it is made, and what it refuses."""

import errno
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from moe import sealed
from moe.data import builder, prepare, prepared, splits, tokenizer
from tests.data.toys import config


def read_back(data, split: str) -> list[tuple[str, str]]:
    """(document, source) of a split, from its token stream."""
    trained = tokenizer.load(data.tokenizer_path)
    ids = data.tokens[split]
    domains = data.domains[split]
    starts = [*np.flatnonzero(ids == tokenizer.DOC_ID), len(ids)]
    spans = list(zip(starts[:-1], starts[1:], strict=True))
    assert starts[0] == 0 and all(len(set(domains[a:b])) == 1 for a, b in spans)
    return [(trained.decode(ids[a + 1 : b]), data.domain_names[domains[a]]) for a, b in spans]


def test_streams_hold_every_document_once(data, cache):
    english = builder.documents("encyclopedia_en", cache_dir=cache)
    french = builder.documents("encyclopedia_fr", cache_dir=cache)
    for split in splits.SHARES:
        expected = dict.fromkeys(french[split], "encyclopedia_fr")
        expected |= dict.fromkeys(english[split], "encyclopedia_en")  # the first source keeps it
        got = read_back(data, split)
        assert dict(got) == expected and len(got) == len(expected)
        assert [text for text, _ in got] == sorted(expected, key=splits.digest)


def test_sources_are_interleaved(data):
    english = data.domains["train"] == 0
    halves = np.array_split(english, 2)
    assert np.mean(halves[0]) == pytest.approx(np.mean(halves[1]), abs=0.1)


def test_types_and_counts(data):
    assert data.vocab_size == 300 and data.domain_names == config().source
    assert data.token_bytes.dtype == np.int32
    for split, counts in data.meta["splits"].items():
        ids = data.tokens[split]
        domains = data.domains[split]
        assert ids.dtype == np.uint16 and domains.dtype == np.uint8
        assert isinstance(ids, np.memmap)
        assert counts["tokens"] == len(ids) == len(domains)
        assert counts["documents"] == np.count_nonzero(ids == 0)
        texts = [text for text, _ in read_back(data, split)]
        assert counts["bytes"] == sum(len(text.encode()) for text in texts)
        for index, name in enumerate(data.domain_names):
            here = domains == index
            assert counts["domains"][name]["tokens"] == here.sum()
            assert counts["domains"][name]["documents"] == np.count_nonzero(ids[here] == 0)
            assert counts["domains"][name]["bytes"] == data.token_bytes[ids[here]].sum()


def test_long_documents_are_cut_where_they_are_held_out(data):
    cut = prepare.prepare(config(held_out_tokens=20))
    np.testing.assert_array_equal(cut.tokens["train"], data.tokens["train"])
    for split in ("validation", "test"):
        starts = np.flatnonzero(data.tokens[split] == 0)
        documents = np.split(np.array(data.tokens[split]), starts[1:])
        assert max(map(len, documents)) > 20
        want = np.concatenate([document[:20] for document in documents])
        np.testing.assert_array_equal(cut.tokens[split], want)
        assert len(cut.domains[split]) == len(want)
        assert cut.meta["splits"][split]["bytes"] == cut.token_bytes[want].sum()


def test_prepared_once(data, monkeypatch):
    monkeypatch.setattr(prepare, "_write", None)
    again = prepare.prepare(config())
    assert again.path == data.path and again.sha256 == data.sha256


def test_the_same_config_gives_the_same_bytes(data, tmp_path, cache, monkeypatch):
    (cache / "prepared").rename(tmp_path / "moved")
    again = prepare.prepare(config())
    assert again.meta == data.meta


@pytest.mark.parametrize(
    "change",
    [
        {"source": ("encyclopedia_en",)},
        {"vocab_size": 301},
        {"max_documents": 200},
        {"held_out_tokens": 20},
        {"tokenizer_bytes": 10_000},
    ],
)
def test_every_choice_is_another_directory(data, change):
    assert prepare.prepare(config(**change)).path != data.path


def test_other_documents_are_another_directory(data, monkeypatch):
    monkeypatch.setattr(builder, "source_identity", lambda name, cache_dir: "changed")
    assert prepare.prepare(config()).path != data.path


def test_a_preparation_that_dies_leaves_nothing(cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "write_meta", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(config())
    assert list((cache / "prepared").iterdir()) == []
    assert prepare.prepare(config()).meta["splits"]["train"]["documents"] > 500


def test_the_first_of_two_processes_wins(tmp_path):
    final = tmp_path / "prepared" / "x"
    with prepared.writing(final) as slow:
        (slow / "who").write_text("slow")
        with prepared.writing(final) as fast:
            (fast / "who").write_text("fast")
    assert (final / "who").read_text() == "fast"
    assert [p.name for p in final.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["train.npy", "tokenizer.json", "test_domain.npy"])
def test_damage_is_an_error_that_names_the_file(data, name):
    content = bytearray((data.path / name).read_bytes())
    content[-1] ^= 1
    (data.path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged: {name}"):
        prepare.prepare(config())
    (data.path / name).unlink()
    with pytest.raises(ValueError, match=f"damaged: {name}"):
        prepared.load(data.path)


def test_incomplete_or_foreign_directories(data, tmp_path):
    with pytest.raises(ValueError, match="no complete prepared data"):
        prepared.load(tmp_path / "nowhere")
    meta = data.path / "meta.json"
    sealed.write_json(meta, data.meta | {"format": 0})
    with pytest.raises(ValueError, match="has format 0; this code reads 1"):
        prepared.load(data.path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '"checksum"', "{" * 10**5])
def test_a_description_that_is_none(data, text):
    (data.path / "meta.json").write_text(text)
    with pytest.raises(ValueError, match=r"meta.json is damaged .*prepare the data again"):
        prepared.load(data.path)


def test_a_flipped_bit_in_the_description_is_seen(data):
    """It says which token starts a document."""
    meta = data.path / "meta.json"
    meta.write_text(meta.read_text().replace('"doc_id": 0', '"doc_id": 1'))
    with pytest.raises(ValueError, match="meta.json is damaged .it is not what was written"):
        prepared.load(data.path)


def test_what_a_killed_preparation_left_is_removed(tmp_path):
    """And not what another one is writing."""
    with prepared.writing(tmp_path / "slow"):
        (tmp_path / ".partial-killed" / "data").mkdir(parents=True)
        (tmp_path / ".partial-killed" / "lock").touch()
        with prepared.writing(tmp_path / "fast"):
            assert not (tmp_path / ".partial-killed").exists()
            assert len(list(tmp_path.glob(".partial-*"))) == 2


def test_a_full_disk_is_told(tmp_path):
    with (
        pytest.raises(ValueError, match="could not be prepared: .*No space left.* Make room in"),
        prepared.writing(tmp_path / "x"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_carried_directory_opens_without_tfds(data, tmp_path):
    data.path.rename(tmp_path / "carried")
    program = (
        "import sys; from moe.data import prepared; data = prepared.load(sys.argv[1]);"
        "assert data.vocab_size == 300;"
        "assert not {'tensorflow_datasets', 'tokenizers', 'jax', 'grain'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "carried")]
    with subprocess.Popen(command, cwd=pathlib.Path(prepared.__file__).parents[2]) as process:
        assert process.wait() == 0


def test_prepared_dir_is_used_if_it_fits(data, tmp_path, monkeypatch):
    data.path.rename(tmp_path / "carried")
    monkeypatch.setattr(builder, "documents", None)
    monkeypatch.setattr(builder, "source_identity", None)
    carried = prepare.prepare(config(prepared_dir=str(tmp_path / "carried")))
    assert carried.sha256 == data.sha256
    with pytest.raises(ValueError, match="prepared with vocab_size=300"):
        prepare.prepare(config(prepared_dir=str(tmp_path / "carried"), vocab_size=400))


def test_a_large_vocabulary_is_stored_wider():
    class Large:
        def encode_batch_fast(self, texts, add_special_tokens):
            return [type("Encoding", (), {"ids": [65_536]}) for _ in texts]

    ids, domains = prepare._encode(Large(), [("a", 0), ("b", 3)], "train", 65_537, 0)
    assert ids.dtype == np.uint32 and ids.tolist() == [0, 65_536, 0, 65_536]
    assert domains.tolist() == [0, 0, 3, 3]


def test_chunks_keep_all_documents_in_order(monkeypatch):
    monkeypatch.setattr(prepare, "_CHUNK", 5)
    members = [("abc", 0), ("def", 1), ("ghijklm", 0), ("n", 1)]
    chunks = list(prepare._chunks(members, "test"))
    assert [len(chunk) for chunk in chunks] == [2, 1, 1] and sum(chunks, []) == members


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "code"}, "give a tuple"),
        ({"source": ()}, "give a tuple"),
        ({"source": ("code", "code")}, "must differ"),
        ({"vocab_size": 256}, "below 257"),
        ({"max_documents": -1}, "max_documents"),
        ({"tokenizer_bytes": 0}, "tokenizer_bytes"),
        ({"text_key": "body"}, "only 'text'"),
        ({"doc_token": "</s>"}, "data.doc_token='</s>' does nothing without a tokenizer given"),
        ({"tokenizer": "t.json", "tokenizer_bytes": 9}, "tokenizer_bytes=9 does nothing with a to"),
    ],
)
def test_config_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_meta_is_readable(data):
    meta = json.loads((data.path / "meta.json").read_text())
    assert meta["source"] == list(config().source) and meta["vocab_size"] == 300
    assert set(meta["files"]) == {p.name for p in data.path.iterdir()} - {"meta.json"}


def test_unknown_source(cache):
    with pytest.raises(ValueError, match="Unknown source 'nonesuch'"):
        prepare.prepare(config(source=("nonesuch",)))


def test_vocabulary_too_large(cache):
    with pytest.raises(ValueError, match="supports only"):
        prepare.prepare(config(vocab_size=60_000))
    assert list((cache / "prepared").iterdir()) == []
