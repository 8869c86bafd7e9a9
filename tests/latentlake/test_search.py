"""Search, against distances that numpy and scikit-learn compute."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from lake_maker import COLOURS, NO_VECTOR, TEXTS, LakeMaker
from PIL import Image
from sklearn.feature_extraction.text import HashingVectorizer

import latentlake
from latentlake.provenance import FIELD_KEY
from latentlake.query import QueryModels, encode_image, location_field, relocate
from operators.batch import RowError, make_batch
from operators.chain import Chain, Step
from operators.decode import find_decoder
from operators.embedders import hashing, sentence_transformers, torchvision
from operators.errors import FingerprintMismatch, ModelNotFound, NotFound, SpecError


@pytest.fixture
def notes(shared_lake: str) -> latentlake.Table:
    return latentlake.connect(shared_lake).open("notes")


@pytest.fixture
def pictures(shared_lake: str) -> latentlake.Table:
    return latentlake.connect(shared_lake).open("pictures")


def hash_words(texts: list[str], dim: int = 256) -> np.ndarray:
    return (
        HashingVectorizer(n_features=dim, norm=None, alternate_sign=False, token_pattern=r"(?u)\w+")
        .transform(texts)
        .toarray()
    )


def distances(metric: str, vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    if metric == "l2":
        return ((vectors - query) ** 2).sum(axis=1)
    if metric == "dot":
        return 1 - vectors @ query
    return 1 - vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_text_search_equals_numpy(maker: LakeMaker, metric: str, dtype: str):
    maker.write_texts(metric=metric, dtype=dtype, no_vector=[NO_VECTOR])
    query = "compare the lines of two files"
    result = latentlake.connect(maker.uri).open("notes").search(query, k=10)
    expected = distances(metric, hash_words(list(TEXTS[:NO_VECTOR])), hash_words([query])[0])
    found = {row["id"]: row["_distance"] for row in result}
    assert found == pytest.approx({f"doc{i}": d for i, d in enumerate(expected)}, abs=1e-5)  # no row without a vector
    assert [row["_distance"] for row in result] == sorted(found.values())


def test_default_columns_of_a_result(notes: latentlake.Table):
    result = notes.search("compare", k=1)
    assert result.to_arrow().column_names == ["id", "object_id", "uri", "text", "length", "_distance"]


def test_chosen_columns(notes: latentlake.Table):
    result = notes.search("compare", k=2, columns=["words", "text", "_distance", "text"])
    assert result.to_arrow().column_names == ["words", "text", "_distance"]
    with pytest.raises(NotFound, match="no column 'txt'"):
        notes.search("compare", columns=["txt"])


def test_k_and_where(notes: latentlake.Table):
    assert [row["id"] for row in notes.search("compare two strings", k=1)] == ["doc2"]
    assert [row["id"] for row in notes.search("compare two strings", k=1, where="id != 'doc2'")] == ["doc4"]
    assert len(notes.search("compare", where="length < 0")) == 0
    for k in (0, -1):
        with pytest.raises(SpecError, match="k is"):
            notes.search("compare", k=k)


def test_a_str_is_always_text_and_a_path_a_file(
    notes: latentlake.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("doc2").write_text(TEXTS[2])
    by_file = notes.search(Path("doc2"), k=1).to_list()[0]
    assert (by_file["id"], by_file["_distance"]) == ("doc2", pytest.approx(0, abs=1e-6))
    as_text = notes.search("doc2", k=5).to_list()
    assert as_text[0]["_distance"] > 0.5
    with pytest.raises(SpecError, match="cannot read the query's file 'absent'"):
        notes.search(Path("absent"))


def test_vectors(notes: latentlake.Table):
    vector = hash_words([TEXTS[1]])[0]
    for query in (vector, vector.astype(np.float32), vector.tolist()):
        assert notes.search(query, k=1).to_list()[0]["id"] == "doc1"


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(255), r"shape \(256,\); this one is \(255,\)"),
        (np.ones((1, 256)), r"this one is \(1, 256\)"),
        ([], r"this one is \(0,\)"),
        (np.full(256, np.nan), "not finite"),
        (np.full(256, np.inf), "not finite"),
        (np.zeros(256), "all zeros"),
        ([None] * 255 + ["a"], "numbers only"),
    ],
)
def test_bad_vectors(notes: latentlake.Table, vector: Any, message: str):
    with pytest.raises(SpecError, match=message):
        notes.search(vector)


def test_a_zero_vector_is_fine_for_l2(maker: LakeMaker):
    maker.write_texts(metric="l2")
    assert len(latentlake.connect(maker.uri).open("notes").search(np.zeros(256))) == len(TEXTS)


@pytest.mark.parametrize(
    ("query", "message"), [("", "empty"), ("  \n", "empty"), ("?!", "all zeros"), ("\ud800", "surrogate")]
)
def test_queries_without_content(notes: latentlake.Table, query: str, message: str):
    with pytest.raises(SpecError, match=message):
        notes.search(query)


@pytest.mark.parametrize("query", [b"bytes", 5, {"a": 1}])
def test_queries_of_no_known_type(notes: latentlake.Table, query: Any):
    with pytest.raises(SpecError, match="cannot be of type"):
        notes.search(query)


def test_more_like_a_row(maker: LakeMaker):
    maker.write_texts(texts=[*TEXTS, TEXTS[0]], no_vector=[NO_VECTOR])
    table = latentlake.connect(maker.uri).open("notes")
    result = table.search(id="doc4", k=2, columns=["text"])
    assert result.to_arrow().column_names == ["text", "_distance"]
    vectors = hash_words([*TEXTS[:4], TEXTS[0]])
    expected = sorted(distances("cosine", vectors, hash_words([TEXTS[4]])[0]))[:2]
    assert [row["_distance"] for row in result] == pytest.approx(expected, abs=1e-6)
    assert table.search(id="doc0", k=1).to_list()[0]["id"] == "doc6"  # an equal row, and not itself
    with pytest.raises(NotFound, match="no row 'it's'"):
        table.search(id="it's")
    with pytest.raises(SpecError, match="'doc5' has no vector"):
        table.search(id=f"doc{NO_VECTOR}")


def test_one_thing_is_searched_for(notes: latentlake.Table):
    for arguments in ({}, {"query": "a", "id": "doc1"}):
        with pytest.raises(SpecError, match="a query or `id=`"):
            notes.search(**arguments)


def test_image_queries(pictures: latentlake.Table, tmp_path: Path):
    path = tmp_path / "query.png"
    Image.new("RGB", (64, 64), COLOURS["orange"]).save(path)
    for query in (path, Image.open(path), Image.open(path).convert("RGBA")):
        best = pictures.search(query, k=4, column="small").to_list()
        assert best[0]["id"] == "orange.png"
        assert best[0]["_distance"] == pytest.approx(0, abs=1e-6)
        assert len(best) == 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "F", "CMYK"])
def test_an_image_in_memory_is_decoded_like_its_file(mode: str):
    pixels = np.random.default_rng(0).integers(0, 255, size=(12, 17, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    if mode in ("I", "I;16", "F"):
        image = Image.fromarray((pixels[..., 0].astype({"I": "int32", "I;16": "uint16", "F": "float32"}[mode])) * 200)
    image = image if image.mode == mode else image.convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF" if mode in ("I", "I;16", "F", "CMYK") else "PNG")
    decoded = find_decoder("image").decode(make_batch(["memory", "file"], [encode_image(image), file.getvalue()]))
    assert list(decoded["error"]) == [None, None]
    assert np.array_equal(np.asarray(decoded["image"][0]), np.asarray(decoded["image"][1]))


def test_an_image_in_memory_is_turned_as_its_exif_says():
    image = Image.new("RGB", (4, 8), "white")
    image.putpixel((0, 0), (255, 0, 0))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(file, "PNG", exif=exif)
    decoded = find_decoder("image").decode(make_batch(["a", "b"], [encode_image(Image.open(file)), file.getvalue()]))
    assert decoded["image"][0].size == (8, 4)
    assert np.array_equal(np.asarray(decoded["image"][0]), np.asarray(decoded["image"][1]))


def test_a_file_that_is_no_image(pictures: latentlake.Table, tmp_path: Path):
    path = tmp_path / "query.png"
    path.write_text("text")
    with pytest.raises(SpecError, match="does not pass the preprocessing of column 'small': decode: not an image"):
        pictures.search(path, column="small")


def test_a_modality_that_does_not_fit(notes: latentlake.Table, pictures: latentlake.Table):
    with pytest.raises(SpecError, match=r"column 'small' takes images: a Path, or a PIL image.*\n.*pathlib\.Path"):
        pictures.search("red.png", column="small")
    with pytest.raises(SpecError, match="column 'words' takes text"):
        notes.search(Image.new("RGB", (4, 4)))


def test_the_column_is_found_where_only_one_fits(pictures: latentlake.Table):
    assert len(pictures.search(np.ones(48), k=2)) == 2
    with pytest.raises(SpecError, match=r"2 of them fit.*small \(image, 32 numbers\), large \(image, 48 numbers\)"):
        pictures.search(Image.new("RGB", (4, 4)))
    for query in ("text", np.ones(47)):
        with pytest.raises(SpecError, match="none of them fits"):
            pictures.search(query)
    with pytest.raises(SpecError, match="2 of them fit"):
        pictures.search(id="red.png")
    with pytest.raises(NotFound, match=r"no vector column 'smal'. Did you mean 'small'\?"):
        pictures.search(id="red.png", column="smal")


def test_the_query_goes_through_the_chain_as_a_query(maker: LakeMaker):
    steps = (Step("truncate_text", {"max_chars": 12}), Step("drop_short_text", {"min_chars": 10}))
    maker.write_texts(texts=["compare two strings", "parse arguments"], chain=Chain("text", steps))
    table = latentlake.connect(maker.uri).open("notes")
    cut = table.search("compare two of the things", k=1).to_list()[0]  # cut to "compare two " like the documents
    assert cut["_distance"] == pytest.approx(0, abs=1e-6)
    assert len(table.search("parse", k=1)) == 1  # short texts are dropped among documents only


def test_a_query_that_is_cut_is_told(maker: LakeMaker, caplog: pytest.LogCaptureFixture):
    maker.write_texts(config=hashing.Config(dim=256, max_words=3))
    table = latentlake.connect(maker.uri).open("notes")
    table.search("open a file")
    assert not caplog.messages
    table.search("open a file and more")
    assert caplog.messages == ["the query has 5 tokens, more than column 'words' takes; it was cut"]


def test_a_mismatched_fingerprint_is_refused(maker: LakeMaker):
    dataset = maker.write_texts()
    stored = json.loads(dataset.schema.field("words").metadata[FIELD_KEY])
    stored["fingerprint"], stored["identity"]["revision"] = "0" * 32, "abc"
    field = dataset.schema.field("words").with_metadata({FIELD_KEY: json.dumps(stored).encode()})
    table = dataset.to_table()
    position = table.column_names.index("words")
    lance.write_dataset(table.set_column(position, field, table["words"]), dataset.uri, mode="overwrite")
    with pytest.raises(FingerprintMismatch, match=r'this query has .*\n.*revision \("?abc"? -> null\)') as caught:
        latentlake.connect(maker.uri).open("notes").search("compare")
    assert "connect(uri, models={'words': PATH})" in str(caught.value)
    rows = latentlake.connect(maker.uri).open("notes").search(hash_words(["compare"])[0])
    assert len(rows) == len(TEXTS)  # the reader's own vector is the reader's business


def test_a_model_is_loaded_once_a_lake(shared_lake: str, monkeypatch: pytest.MonkeyPatch):
    loads = []
    load = hashing.Config.load
    monkeypatch.setattr(hashing.Config, "load", lambda self, device, _: loads.append(device) or load(self, device))
    lake = latentlake.connect(shared_lake)
    for _ in range(2):
        lake.open("notes").search("compare")
    assert loads == ["auto"]


def test_the_reader_says_where_a_model_lies(tmp_path: Path):
    text = sentence_transformers.Config(model="/gone/model", revision="abc")
    image = torchvision.Config(model="resnet18", weights="/gone/weights.pth")
    assert (location_field(text), location_field(image), location_field(hashing.Config())) == ("model", "weights", None)
    for key in ("abc", "minilm", "/gone/model"):
        assert relocate(text, "minilm", {key: "/here"}).model == "/here"
    assert relocate(text, "minilm", {"abc": "/first", "minilm": "/second", "/gone/model": "/third"}).model == "/first"
    assert relocate(text, "other", {"minilm": "/here"}) == text
    moved = relocate(image, "column", {"/gone/weights.pth": "/here.pth"})
    assert (moved.model, moved.weights) == ("resnet18", "/here.pth")
    assert relocate(hashing.Config(), "words", {"words": "/here"}) == hashing.Config()


def test_a_model_that_is_gone_says_how_to_name_another_place(notes: latentlake.Table):
    config = sentence_transformers.Config(model="/gone/model").model_dump(mode="json")
    gone = replace(notes.provenance("words"), embedder=config)
    with pytest.raises(ModelNotFound, match=r"/gone/model[\s\S]*connect\(uri, models=\{'words': PATH\}\)"):
        QueryModels({}).embed("notes", "words", gone, "compare")


def test_an_empty_table(maker: LakeMaker):
    maker.write_texts(texts=[])
    table = latentlake.connect(maker.uri).open("notes")
    assert (len(table.search("compare")), table.count()) == (0, 0)
    with pytest.raises(NotFound, match="no row"):
        table.search(id="doc0")


def test_queries_are_embedded_together_as_they_are_alone(notes: latentlake.Table):
    stored, models = notes.provenance("words"), QueryModels({})
    texts = ["compare two files", "a", *(f"word {'and more ' * n}" for n in range(200))]
    together = models.embed_many("notes", "words", stored, texts)
    assert (together.dtype, together.shape) == (np.float32, (202, 256))
    np.testing.assert_array_equal(together, hash_words(texts))
    assert models.embed_many("notes", "words", stored, []).shape == (0, 256)


def test_the_query_at_fault_is_named(notes: latentlake.Table, monkeypatch: pytest.MonkeyPatch):
    stored = notes.provenance("words")
    with pytest.raises(SpecError, match="query 1 does not pass the preprocessing of column 'words': decode: empty"):
        QueryModels({}).embed_many("notes", "words", stored, ["compare", "", "open"])
    prepare = hashing.Config.prepare

    def refuse(self: hashing.Config, batch: Any, role: Any) -> Any:
        if "open" in batch["text"]:
            raise RowError("no token in it")
        return prepare(self, batch, role)

    monkeypatch.setattr(hashing.Config, "prepare", refuse)
    with pytest.raises(SpecError, match="model of column 'words' cannot take query 2: no token in it"):
        QueryModels({}).embed_many("notes", "words", stored, ["compare", "run", "open"])


def test_a_table_embeds_queries_of_one_kind(notes: latentlake.Table, tmp_path: Path):
    vectors = notes.embed(["compare two files", "open"], "words")
    np.testing.assert_allclose(vectors, hash_words(["compare two files", "open"]), atol=1e-6)
    (tmp_path / "q.txt").write_text("open")
    np.testing.assert_array_equal(notes.embed([tmp_path / "q.txt"], "words"), vectors[1:])
    assert notes.embed([], "words").shape == (0, 256)
    with pytest.raises(SpecError, match="all of one kind; these are file, text"):
        notes.embed(["open", tmp_path / "q.txt"], "words")
