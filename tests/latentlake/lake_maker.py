"""Tables of the format that the pipelines write, made by hand, so that no Ray is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from PIL import Image

from latentlake.provenance import FIELD_KEY, Provenance, fingerprint_of, identity_of
from operators.batch import make_batch, take_rows
from operators.batching import form_batches
from operators.chain import Chain
from operators.embedders.base import EmbedderConfig
from operators.embedders.hashing import Config

TEXTS = (
    "parse the options of a command line",
    "run a function every few seconds",
    "compare two strings and ignore their case",
    "open a file and read its lines",
    "compare two files line by line",
    "a row that has no vector",
)
NO_VECTOR = 5
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (10, 20, 230), "orange": (230, 120, 20)}


class LakeMaker:
    """Writes tables into the lake at `uri` with Lance alone."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self.storage_options = storage_options

    def vector_field(self, column: str, config: EmbedderConfig, chain: Chain, dtype: str, metric: str) -> pa.Field:
        provenance = Provenance(
            fingerprint=fingerprint_of(config, chain, dtype),
            identity=identity_of(config, chain, dtype),
            embedder=config.model_dump(mode="json"),
            chain=chain.to_json(),
            dtype=dtype,
            metric=metric,
            run_id="run-1",
        )
        value = pa.float32() if dtype == "float32" else pa.float16()
        return pa.field(column, pa.list_(value, config.dimension), metadata={FIELD_KEY: provenance.to_json().encode()})

    def embed(self, config: EmbedderConfig, chain: Chain, contents: Sequence[Any]) -> np.ndarray:
        batch = chain.run(make_batch([str(i) for i in range(len(contents))], contents), {})
        assert not any(batch["error"]), batch["error"]
        embedder, prepared = config.load("cpu"), config.prepare(batch, "document")
        vectors = np.zeros((len(contents), config.dimension), dtype=np.float32)
        for rows in form_batches(prepared["cost"], config.batch_cost("cpu")):
            vectors[rows] = embedder.embed(take_rows(prepared, rows))
        return vectors

    def write(
        self,
        name: str,
        data: Mapping[str, Any],
        vectors: Mapping[str, tuple[pa.Field, np.ndarray]],
        mode: str = "create",
        no_vector: Sequence[int] = (),
    ) -> Any:
        """Commit one version; `vectors` by column: its field, and float (n, dim) with the rows `no_vector` left null."""
        table = pa.table(data)
        for field, values in vectors.values():
            mask = np.zeros(len(values), dtype=bool)
            mask[list(no_vector)] = True
            flat = pa.array(values.astype(field.type.value_type.to_pandas_dtype()).ravel())
            array = pa.FixedSizeListArray.from_arrays(flat, field.type.list_size, mask=pa.array(mask))
            table = table.append_column(field, array)
        return lance.write_dataset(table, f"{self.uri}/{name}.lance", mode=mode, storage_options=self.storage_options)

    def write_texts(
        self,
        name: str = "notes",
        texts: Sequence[str] = TEXTS,
        *,
        config: EmbedderConfig | None = None,
        chain: Chain | None = None,
        dtype: str = "float32",
        metric: str = "cosine",
        mode: str = "create",
        no_vector: Sequence[int] = (),
        objects: Sequence[str] | None = None,
    ) -> Any:
        """A table of texts with the vector column `words`; each is an object of its own unless `objects` names them."""
        config, chain = config or Config(dim=256), chain or Chain("text")
        vectors = self.embed(config, chain, texts) if texts else np.zeros((0, config.dimension))
        names = [f"doc{row}" for row in range(len(texts))]
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        data = {
            "id": pa.array(names, pa.string()),
            "object_id": pa.array(objects or names, pa.string()),
            "uri": pa.nulls(len(texts), pa.string()),
            "content_hash": pa.array(hashes, pa.string()),
            "object_hash": pa.array(hashes, pa.string()),
            "text": pa.array(texts, pa.string()),
            "length": pa.array([len(text) for text in texts], pa.int64()),
        }
        field = self.vector_field("words", config, chain, dtype, metric)
        return self.write(name, data, {"words": (field, vectors)}, mode, no_vector)

    def write_images(self, folder: Path, name: str = "pictures") -> Any:
        """A table of plain-coloured PNG files in `folder`, with the vector columns `small` and `large`."""
        folder.mkdir(parents=True, exist_ok=True)
        chain, uris = Chain("image"), []
        for colour, value in COLOURS.items():
            path = folder / f"{colour}.png"
            Image.new("RGB", (300, 200), value).save(path)
            uris.append(str(path))
        contents = [Path(uri).read_bytes() for uri in uris]
        hashes = [hashlib.sha256(content).hexdigest() for content in contents]
        names = [Path(uri).name for uri in uris]
        data = {"id": names, "object_id": names, "uri": uris, "content_hash": hashes, "object_hash": hashes}
        columns = {}
        for column, dim in (("small", 32), ("large", 48)):
            config = Config(dim=dim)
            vectors = self.embed(config, chain, contents)
            columns[column] = (self.vector_field(column, config, chain, "float32", "l2"), vectors)
        return self.write(name, data, columns)

    def append_run(self, name: str, run_id: str, summary: Mapping[str, Any]) -> None:
        """Append the first row of a table to it once more, as a commit of the run `run_id`."""
        uri = f"{self.uri}/{name}.lance"
        dataset = lance.dataset(uri)
        fragments = lance.fragment.write_fragments(dataset.to_table(limit=1), uri, schema=dataset.schema)
        properties = {"run_id": run_id, "summary": json.dumps(summary)}
        operation = lance.LanceOperation.Append(fragments)
        transaction = lance.Transaction(dataset.version, operation, transaction_properties=properties)
        lance.LanceDataset.commit(dataset, transaction)
