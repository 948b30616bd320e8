"""Tables as files: CSV and Parquet, made here and saved by the browser."""

import base64
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from index.store import Index
from ui.map import Maps, for_browsers

FORMATS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}

EXPORT_BUTTONS = (
    '<span class="export" role="group" aria-label="Save this as a file">'
    '<button type="button" class="link" data-export="csv">CSV</button>'
    '<button type="button" class="link" data-export="parquet">Parquet</button></span>'
)

# For js_on_load: saves the file that `ask(format)` gets from the server, if the click was on a button above
EXPORT_SCRIPT = """
const exported = async (event, ask) => {
  const button = event.target.closest("[data-export]");
  if (!button) return;
  const file = await ask(button.dataset.export);
  if (!file) return;
  const bytes = Uint8Array.from(atob(file.data), (character) => character.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: file.type }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
"""


def item_export(maps: Maps) -> Callable:
    """The function that browsers ask for items of an index as a file, with similarities if they have some."""

    def export_items(key: object, items: object, similarities: object, format: object) -> dict | None:
        index = maps.index(key)
        if index is None or not isinstance(items, list) or len(items) > index.manifest.count:
            return None
        if not all(type(item) is int and 0 <= item < index.manifest.count for item in items):
            return None
        table = item_table(index, np.array(items, np.int64))
        if isinstance(similarities, list) and len(similarities) == len(items):
            if not all(isinstance(value, int | float) for value in similarities):
                return None
            table = table.add_column(1, "similarity", pa.array(similarities, pa.float64()))
        return table_file(table, "items", format)

    return for_browsers(export_items)


def item_table(index: Index, items: NDArray[np.int64]) -> pa.Table:
    """What is known of items (m,), without their images and embeddings, in the given order."""
    classes = np.array(index.manifest.classes, dtype=object)
    columns = {"item": pa.array(items), "source_row": pa.array(index.source_rows[items])}
    if index.manifest.source.labeled:
        columns["label"] = pa.array(classes[index.labels[items]])
    if index.predicted is not None and index.predicted_share is not None:
        columns["predicted"] = pa.array(classes[index.predicted[items]])
        columns["predicted_share"] = pa.array(index.predicted_share[items])
    for name, points in index.coordinates.items():
        columns |= {f"{name}_{axis}": pa.array(points[items, place]) for place, axis in enumerate("xy")}
    return pa.table(columns)


def table_file(table: pa.Table, name: str, format: object) -> dict[str, str] | None:
    """A table as a file for the browser: name, media type, base64 data; None for an unknown format."""
    if format not in FORMATS:
        return None
    buffer = BytesIO()
    if format == "csv":
        pyarrow.csv.write_csv(table, buffer)
    else:
        pq.write_table(table, buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"name": f"{name}.{format}", "type": FORMATS[str(format)], "data": data}
