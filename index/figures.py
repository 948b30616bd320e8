"""Figures in words and tables, for people."""

from index.manifest import Evaluation, Manifest, Votes

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


def describe_evaluation(manifest: Manifest) -> list[tuple[str, str, str]]:
    """Rows (name, value, meaning) of what held-out items showed; none if there was no evaluation."""
    found = manifest.evaluation
    if found is None:
        return []
    votes, (low, high) = found.votes, found.interval
    judged = f"{votes.items:,} items of {found.source.id}, split {found.source.split}, k={votes.k}"
    rows = [
        (
            "held out: k-NN accuracy",
            f"{votes.accuracy:.4f}",
            f"{judged}; {low:.4f} to {high:.4f} in 95 % of resamples",
        )
    ]
    for baseline in found.baselines:
        beside = f"the baseline; the embedding has {baseline.embedding:.4f} on these {baseline.queries:,}"
        if baseline.items != manifest.count:
            beside += f", by {baseline.items:,} items"
        rows.append((f"held out: {baseline.name}", f"{baseline.accuracy:.4f}", beside))
    return rows + _caveats(found)


def describe_classes(manifest: Manifest) -> list[tuple[str, int, str, str, str, str]]:
    """A row for each class: name, support, precision, recall and both silhouettes, leave-one-out."""
    if manifest.quality is None:
        return []
    silhouettes = {row.label: row for row in manifest.quality.silhouettes}
    shown = lambda value: "" if value is None else f"{value:.4f}"  # noqa: E731
    rows = []
    for row in manifest.quality.votes.classes:
        spread = silhouettes.get(row.label)
        spaces = (spread.embedding, spread.map) if spread else (None, None)
        figures = (shown(value) for value in (row.precision, row.recall, *spaces))
        rows.append((manifest.classes[row.label], row.support, *figures))
    return rows


def worst_confusions(votes: Votes, classes: tuple[str, ...], limit: int = 5) -> list[str]:
    """The most frequent mistakes in words, such as "173 of 1,000 Shirt were taken for T-shirt/top"."""
    support = {row.label: row.support for row in votes.classes}
    wrong = [(count, true, predicted) for true, predicted, count in votes.confusion if true != predicted]
    return [
        f"{count:,} of {support[true]:,} {classes[true]} were taken for {classes[predicted]}"
        for count, true, predicted in sorted(wrong, key=lambda row: (-row[0], row[1:]))[:limit]
    ]


def _caveats(found: Evaluation) -> list[tuple[str, str, str]]:
    counts = (
        (
            "held out: in the index too",
            found.leaks,
            "near-duplicates of indexed ones, judged like all others",
        ),
        ("held out: unknown classes", found.unknown, "left out, for their class is not in the index"),
    )
    return [(name, f"{count:,}", meaning) for name, count, meaning in counts if count]
