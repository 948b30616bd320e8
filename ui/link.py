"""Links to what is on screen: the parameters of the page's address."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from embedding.image import QueryError
from index.query import DEFAULT_K, Answer, Query, query_class, query_item, whole_k
from index.store import Index


@dataclass(frozen=True)
class Linked:
    """What an address asks for: a query, None if it names none that there is, and k.

    `ignored` has a sentence for each parameter that says nothing here.
    """

    query: Query | None
    k: int
    ignored: tuple[str, ...] = ()


def read_link(index: Index, parameters: Mapping[str, str]) -> Linked:
    """The query that `?item=42`, or `?label=Sneaker&seed=7`, and `&k=5` stand for."""
    ignored = []
    query, k = None, DEFAULT_K
    try:
        k = whole_k(parameters.get("k"))
    except QueryError as error:
        ignored.append(str(error))
    try:
        if "item" in parameters:
            query = query_item(index, parameters["item"])
        elif "label" in parameters:
            query = query_class(index, parameters["label"], parameters.get("seed"))
    except QueryError as error:
        ignored.append(str(error))
    return Linked(query, k, tuple(ignored))


def view_tag() -> str:
    """For the page's head: `?view=map` shows the map alone, `?view=search` all but the map, by style.css."""
    return (
        "<script>document.documentElement.dataset.view ="
        ' new URLSearchParams(location.search).get("view") ?? "";</script>'
    )


def link_to(answer: Answer) -> str | None:
    """The parameters of an address that shows the answer; None for a new image, which no address holds."""
    if answer.query.item is None:
        return None
    return urlencode({"item": answer.query.item, "k": len(answer.neighbors)})
