"""Figures in words and tables, for people."""

from index.manifest import Manifest

BANDS = (
    (0.5, "clear, well-separated clusters"),
    (0.25, "some structure, with overlap"),
    (0.0, "weak clusters or heavy overlap"),
    (-1.0, "many items are nearer to another class than to their own"),
)


def silhouette_band(value: float) -> str:
    """What a silhouette says, in words: half-open bands [0.5, 1], [0.25, 0.5), [0, 0.25), below 0."""
    return next(words for least, words in BANDS if value >= least)


def describe_metrics(manifest: Manifest) -> list[tuple[str, str, str]]:
    """Rows (name, value, meaning) of a table of the manifest's metrics, those that do not apply left out."""
    found = manifest.metrics
    sample = "" if found.sample == manifest.count else f", on {found.sample:,} of {manifest.count:,} items"
    band = lambda value: "" if value is None else f": {silhouette_band(value)}"  # noqa: E731
    votes = f"leave-one-out, k={found.k}, votes weighted by exp(similarity / 0.07)"
    figures = [
        ("silhouette, embedding", found.silhouette_embedding, f"cosine{band(found.silhouette_embedding)}"),
        ("silhouette, map", found.silhouette_map, f"euclidean{band(found.silhouette_map)}"),
        ("k-NN accuracy", found.knn_accuracy, votes),
        ("precision@5", found.precision_at_5, "share of the five nearest that are of the same class"),
        ("trustworthiness", found.trustworthiness, "of the map, 15 neighbors: are neighbors on it true ones"),
        (
            "recall@15",
            found.recall_at_15,
            "of the map: share of the 15 true neighbors among the 15 nearest on it",
        ),
        ("raw pixels: k-NN accuracy", found.pixel_knn_accuracy, f"the baseline; {votes}"),
        ("raw pixels: silhouette", found.pixel_silhouette, "the baseline; cosine"),
    ]
    return [(name, f"{value:.4f}", meaning + sample) for name, value, meaning in figures if value is not None]
