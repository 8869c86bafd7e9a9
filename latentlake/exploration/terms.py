"""Words that set the texts of a cluster apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TERMS = 8


def top_terms(texts: Sequence[str], labels: np.ndarray, count: int = TERMS) -> dict[int, list[str]]:
    """The terms of each cluster (0 and above) with the highest class-based TF-IDF, highest first.

    c-TF-IDF (Grootendorst, BERTopic, arXiv:2203.05794): the frequency of a term in the cluster's texts, times log(1 + A / f), where
    A is the average number of words per cluster and f the term's frequency in all. Counted by scikit-learn, English stop words
    left out; empty where no text has a word.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{3,}\b")
    kept = np.flatnonzero(labels >= 0)
    try:
        counts = counter.fit_transform([texts[row] for row in kept.tolist()])
    except ValueError:  # scikit-learn's: no word but stop words
        return {}
    clusters = int(labels.max()) + 1
    belongs = csr_matrix((np.ones(len(kept)), (labels[kept], np.arange(len(kept)))), shape=(clusters, len(kept)))
    frequency = np.asarray((belongs @ counts).todense())
    weights = frequency * np.log1p(frequency.sum() / clusters / frequency.sum(axis=0))
    names = counter.get_feature_names_out()
    best = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    return {number: [str(names[at]) for at in best[number] if weights[number, at] > 0] for number in range(clusters)}
