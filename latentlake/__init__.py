"""The lake: versioned tables of vectors, and how to read and search them. Loads neither ray nor torch."""

from importlib.metadata import PackageNotFoundError, version

from latentlake.layout import check_layout

# Before our other packages are imported: with another package `operators` on the path, the imports below fail obscurely.
check_layout()

from latentlake.embedders import (  # noqa: E402
    ModelEmbedder,
    MultimodalEmbedder,
    create_audio_embedder,
    create_image_embedder,
    create_multimodal_embedder,
    create_text_embedder,
    get_available_embedders,
)
from latentlake.lake import Lake, connect  # noqa: E402
from latentlake.model_store import fetch_model  # noqa: E402
from latentlake.results import Rows, SearchResult  # noqa: E402
from latentlake.table import Table  # noqa: E402
from latentlake.vectors import Vectors  # noqa: E402
from operators.errors import (  # noqa: E402
    AccountingError,
    BudgetSpent,
    ClusterError,
    CredentialsError,
    FingerprintMismatch,
    GateRefused,
    InvalidSpec,
    JobServerRefused,
    JobServerUnreachable,
    LatentLakeError,
    MissingExtra,
    ModelNotFound,
    NotFound,
    PoolUnschedulable,
    SchemaMismatch,
    SourceError,
    SpecError,
    Unavailable,
    UnknownName,
    Unreadable,
    WriterConflict,
)
from operators.model_files import fetch_with  # noqa: E402

__all__ = [
    "AccountingError",
    "BudgetSpent",
    "ClusterError",
    "CredentialsError",
    "FingerprintMismatch",
    "GateRefused",
    "InvalidSpec",
    "JobServerRefused",
    "JobServerUnreachable",
    "Lake",
    "LatentLakeError",
    "MissingExtra",
    "ModelEmbedder",
    "ModelNotFound",
    "MultimodalEmbedder",
    "NotFound",
    "PoolUnschedulable",
    "Rows",
    "SchemaMismatch",
    "SearchResult",
    "SourceError",
    "SpecError",
    "Table",
    "Unavailable",
    "UnknownName",
    "Unreadable",
    "Vectors",
    "WriterConflict",
    "__version__",
    "connect",
    "create_audio_embedder",
    "create_image_embedder",
    "create_multimodal_embedder",
    "create_text_embedder",
    "get_available_embedders",
]

fetch_with(fetch_model)

try:
    __version__ = version("latentlake")
except PackageNotFoundError:  # the packages alone, as in the working directory of a Ray job
    __version__ = "unknown"
