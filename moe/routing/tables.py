"""Tables from token ids to experts, made once, on the host, before training.

Each maker is (rng, ids, vocab_size, experts) -> int [V]; `ids` is the training text. SciPy is
imported by those that need it: routers without tables do without it.
"""

import numpy as np

WIDTH = 32  # of embeddings
MOST = 2_000_000  # ids of the text that are read for embeddings


def uniform(
    rng: np.random.Generator, ids: np.ndarray | None, vocab_size: int, experts: int
) -> np.ndarray:
    """Every id to an expert drawn uniformly."""
    del ids
    return rng.integers(0, experts, vocab_size)


def balanced(
    rng: np.random.Generator, ids: np.ndarray, vocab_size: int, experts: int
) -> np.ndarray:
    """The most frequent id first, each to an expert that it does not fill beyond its share.

    Which of those is drawn, so that two tables have little in common; if there is none it is the
    expert with the fewest tokens.
    """
    counts = np.maximum(np.bincount(ids, minlength=vocab_size), 1e-3)  # unseen ids are spread, too
    table = np.zeros(vocab_size, np.int64)
    load = np.zeros(experts)
    for token in np.argsort(-counts, kind="stable"):
        open_ = np.flatnonzero(load + counts[token] <= counts.sum() / experts)
        table[token] = rng.choice(open_) if len(open_) else load.argmin()
        load[table[token]] += counts[token]
    return table


def clustered(
    rng: np.random.Generator, ids: np.ndarray, vocab_size: int, experts: int
) -> np.ndarray:
    """k-means of `embeddings`: alike ids to one expert."""
    import scipy.cluster.vq  # takes half a second, and no other table needs it

    points = embeddings(rng, ids, vocab_size)
    _, table = scipy.cluster.vq.kmeans2(points, experts, minit="++", rng=rng)
    return table


def embeddings(rng: np.random.Generator, ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """Singular vectors of positive pointwise mutual information of neighbours, float [V, WIDTH].

    As good as word2vec's where it was compared (Levy and Goldberg 2014).
    """
    import scipy.sparse
    import scipy.sparse.linalg

    ids = ids[:MOST].astype(np.int64)
    pairs = [(ids[:-d], ids[d:]) for d in (1, 2)]
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    shape = (vocab_size, vocab_size)
    count = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape).tocsr()
    count = (count + count.T).tocoo()
    total = count.sum(0)
    information = np.log(count.data * total.sum() / (total[count.row] * total[count.col]))
    positive = scipy.sparse.coo_array((np.maximum(information, 0), (count.row, count.col)), shape)
    width = min(WIDTH, vocab_size - 1)
    u, s, _ = scipy.sparse.linalg.svds(positive.tocsr(), k=width, rng=rng)
    return u * np.sqrt(s)
