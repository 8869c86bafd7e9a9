"""Our embedders as models of MTEB, and retrieval tasks of MTEB from data of yours, without a download.

mteb.evaluate(as_mteb_model(create_text_embedder("minilm")), local_retrieval("mine", corpus, queries, judgements), cache=None)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.errors import MissingExtra, SpecError

if TYPE_CHECKING:
    from latentlake.embedders import ModelEmbedder
    from operators.embedders.base import Role

INPUTS = (
    "audio",
    "image",
    "text",
)  # columns of MTEB's batches; of several that a joint model takes the first is embedded
SPLIT = "test"


class MtebModel:
    """A `ModelEmbedder` by MTEB's protocol of an encoder. Queries get the model's query prompt, everything else that of documents."""

    def __init__(self, embedder: ModelEmbedder, name: str, meta: Any) -> None:
        self.embedder = embedder
        self.name = name
        self.mteb_model_meta = meta

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **settings: Any,
    ) -> np.ndarray:
        """Vectors float32 (n, dim) of batches of inputs. MTEB's `settings` (batch size, progress) do not apply: see `ModelEmbedder`."""
        role: Role = "query" if getattr(prompt_type, "value", prompt_type) == "query" else "document"
        found = [self.embedder.embed_batch(values_of(batch, self.embedder), role) for batch in inputs]
        return np.concatenate(found) if found else np.zeros((0, self.embedder.dimension), dtype=np.float32)

    def similarity(self, first: Any, second: Any) -> Any:
        """Cosines of all pairs, a tensor (n, m)."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(first, second)

    def similarity_pairwise(self, first: Any, second: Any) -> Any:
        """Cosines of pairs, a tensor (n,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(first, second)


def values_of(batch: Mapping[str, Any], embedder: ModelEmbedder) -> list[Any]:
    """The inputs of a batch that the embedder takes. Raises `SpecError`."""
    for name in INPUTS:
        if name in batch and name in embedder.modalities:
            sounds = name == "audio"
            return [(one["array"], one["sampling_rate"]) if sounds else one for one in batch[name]]
    raise SpecError(f"the task gives {', '.join(batch)}; the model takes {', '.join(sorted(embedder.modalities))}.")


def as_mteb_model(embedder: ModelEmbedder, name: str | None = None) -> MtebModel:
    """An embedder as a model that `mteb.evaluate` takes. `name` is "organisation/model"; the family and the model by default.

    Raises `MissingExtra`.
    """
    library = mteb()
    config = embedder.config
    model = str(getattr(config, "model", "")).rstrip("/").rsplit("/", 1)[-1] or config.family
    called = name or f"latentlake/{model}"
    meta = library.models.ModelMeta.create_empty(
        {
            "name": called,
            "revision": str(getattr(config, "revision", None) or "local"),
            "embed_dim": embedder.dimension,
            "modalities": sorted(embedder.modalities),
            "similarity_fn_name": "cosine",
        }
    )
    return MtebModel(embedder, called, meta)


def local_retrieval(
    name: str, corpus: Mapping[str, str], queries: Mapping[str, str], judgements: Mapping[str, Mapping[str, int]]
) -> Any:
    """A retrieval task of MTEB: texts of documents and of queries by id, and grades by query and document.

    `latentlake.evaluation.judgements` reads queries and judgements from files. Raises `MissingExtra`.
    """
    library = mteb()
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    kept = {query: text for query, text in queries.items() if query in judgements}
    described = library.TaskMetadata(
        name=name,
        description=f"{name}, of {len(corpus)} documents and {len(kept)} queries.",
        dataset={"path": "local", "revision": "local"},
        type="Retrieval",
        category="t2t",
        eval_splits=[SPLIT],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = described
        data_loaded: bool = False

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            if self.data_loaded:
                return
            self.corpus = {SPLIT: {document: {"text": text} for document, text in corpus.items()}}
            self.queries = {SPLIT: dict(kept)}
            self.relevant_docs = {SPLIT: {query: dict(judgements[query]) for query in kept}}
            self.data_loaded = True

    return LocalRetrieval()


def mteb() -> Any:
    """The library. Raises `MissingExtra`."""
    try:
        import mteb as library
    except ImportError as failure:
        raise MissingExtra("models of MTEB need mteb: pip install 'latentlake[mteb]'") from failure
    return library
