"""Every kind of query ends in an answer, or in a sentence."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from embedding.encoder import Dinov2Encoder
from index.query import (
    QueryError,
    answer,
    filled_classes,
    find_class,
    query_class,
    query_image,
    query_item,
    whole_k,
)
from index.store import Index
from tests.pictures import photo_of, seven

FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def test_indexed_query_never_finds_itself(sample: Index) -> None:
    for item in range(0, 5000, 333):
        assert item not in [found.item for found in answer(sample, query_item(sample, item), 50).neighbors]


def test_same_seed_gives_the_same_item(sample: Index) -> None:
    items = [query_class(sample, "4", seed).item for seed in range(20)]
    assert items == [query_class(sample, "4", seed).item for seed in range(20)]
    assert len(set(items)) > 10
    assert {sample.class_of(item) for item in items} == {"4"}


def test_without_a_seed_the_item_varies(sample: Index) -> None:
    assert len({query_class(sample, "4").item for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("T-shirt/top", 0), ("tshirt", 0), ("T - shirt / top", 0), ("tshirt top", 0), ("shirt", 6),
        ("ankle-boot", 9), ("ankle_boot", 9), ("AnkleBoot", 9), ("sneakers", 7), ("Trousers", 1), (" bag", 8),
    ],
)  # fmt: skip
def test_near_miss_names_its_class(asked: str, meant: int) -> None:
    assert find_class(FASHION, asked) == meant


@pytest.mark.parametrize("asked", ["hat", "s", "", None, "-", "!!", 3, 2.5, [], {"a": 1}, "x" * 5000])
def test_unknown_class_is_answered_with_the_list(asked: object) -> None:
    with pytest.raises(QueryError, match=r"the classes are T-shirt/top, .*, Ankle boot\.$") as caught:
        find_class(FASHION, asked)
    assert len(str(caught.value)) < 300


def test_class_names_that_differ_in_signs_only_stay_apart() -> None:
    assert find_class(("C", "C++", "C#"), "C++") == 1
    assert find_class(("1", "10", "100"), 10) == 1


@pytest.mark.parametrize(
    "item", [5000, -1, 10**30, "x", None, 2.5, float("nan"), float("inf"), True, [], {}, "9" * 400]
)
def test_item_that_is_none_is_refused(sample: Index, item: object) -> None:
    with pytest.raises(QueryError, match=r"item"):
        query_item(sample, item)


def test_item_may_arrive_as_text_or_float(sample: Index) -> None:
    assert query_item(sample, "12").item == query_item(sample, 12.0).item == 12


@pytest.mark.parametrize(
    ("given", "used"), [(10, 10), (0, 1), (-1, 1), (2.5, 2), (10**9, 50), ("7", 7), (1e300, 50), (None, 10)]
)
def test_k_is_cut_to_what_can_be_shown(given: object, used: int) -> None:
    assert whole_k(given) == used


@pytest.mark.parametrize("given", ["many", float("nan"), float("inf"), True, []])
def test_k_that_is_no_number_is_refused(given: object) -> None:
    with pytest.raises(QueryError, match="k must be a whole number"):
        whole_k(given)


@pytest.mark.parametrize("seed", ["a", -1, 1.5, float("nan")])
def test_bad_seed_is_refused(sample: Index, seed: object) -> None:
    with pytest.raises(QueryError, match="seed"):
        query_class(sample, "4", seed)


def test_k_neighbors_come_best_first(sample: Index) -> None:
    for k in (1, 10, 50):
        similarities = [found.similarity for found in answer(sample, query_item(sample, 9), k).neighbors]
        assert len(similarities) == k
        assert similarities == sorted(similarities, reverse=True)


def test_vote_shares_add_up_and_are_of_the_neighbors(sample: Index) -> None:
    for item in range(0, 5000, 777):
        found = answer(sample, query_item(sample, item), 10)
        assert sum(share for _, share in found.vote) == pytest.approx(1)
        assert {label for label, _ in found.vote} == {neighbor.label for neighbor in found.neighbors}
        assert [share for _, share in found.vote] == sorted((share for _, share in found.vote), reverse=True)


def test_indexed_query_lies_at_its_own_point(sample: Index) -> None:
    assert answer(sample, query_item(sample, 42)).position == tuple(sample.map[42].tolist())


def test_new_image_lies_among_its_15_neighbors_whatever_k(sample: Index, encoder: Dinov2Encoder) -> None:
    query = query_image(sample, seven(), encoder)
    items = [found.item for found in answer(sample, query, 15).neighbors]
    due = np.median(sample.map[items], axis=0)
    for k in (1, 10, 50):
        assert np.allclose(answer(sample, query, k).position, due)


def test_photo_of_an_item_finds_its_class(sample: Index, encoder: Dinov2Encoder) -> None:
    right = 0
    items = range(20, 5000, 100)
    for item in items:
        photo = photo_of(Image.open(BytesIO(sample.images[item])))
        found = answer(sample, query_image(sample, photo, encoder), 20)
        right += found.vote[0][0] == sample.labels[item]
    assert right / len(items) > 0.9


def test_sketched_seven_is_a_seven(sample: Index, encoder: Dinov2Encoder) -> None:
    found = answer(sample, query_image(sample, seven(), encoder, "sketch"))
    assert sample.manifest.classes[found.vote[0][0]] == "7"
    assert found.query.item is None
    assert found.query.image.size == (28, 28)
    assert found.milliseconds.keys() == {"prepare", "embed", "search"}


@pytest.mark.parametrize("ground", ["white", "black", "gray"])
def test_blank_sketch_is_refused(sample: Index, encoder: Dinov2Encoder, ground: str) -> None:
    with pytest.raises(QueryError, match="The sketch is blank"):
        query_image(sample, Image.new("RGB", (280, 280), ground), encoder, "sketch")


def test_empty_sheet_of_glass_is_refused(sample: Index, encoder: Dinov2Encoder) -> None:
    with pytest.raises(QueryError, match="blank"):
        query_image(sample, Image.new("RGBA", (280, 280), (0, 0, 0, 0)), encoder, "sketch")
    with pytest.raises(QueryError, match="flat color"):
        query_image(sample, Image.new("RGB", (1, 1), "red"), encoder)


def test_only_classes_with_items_are_offered(sample: Index) -> None:
    assert filled_classes(sample) == tuple("0123456789")
