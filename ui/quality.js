// The report of the index that the value names: fetched when the tab is first looked at, as it is not there before.
const body = element.querySelector(".report");
let cell = null; // the cell of the matrix that is open: its items

const load = async () => {
  const key = props.value;
  if (!key || body.dataset.key === key) return;
  body.dataset.key = key;
  try {
    const html = await server.report(key);
    if (key !== props.value) return load();
    cell = null;
    body.innerHTML = html ?? "<p>This index is no longer open here. Reload the page.</p>"; // words in it are escaped
  } catch (error) {
    console.warn(error);
    delete body.dataset.key;
    body.innerHTML = "<p>The figures could not be loaded. Reload the page to try again.</p>";
  }
};

const open = async (button) => {
  const [label, predicted] = button.dataset.cell.split(" ").map(Number);
  for (const other of body.querySelectorAll("[data-cell]"))
    other.setAttribute("aria-pressed", other.dataset.cell === button.dataset.cell);
  cell = { key: props.value, wanted: button.dataset.cell };
  const found = await server.cell(cell.key, label, predicted);
  if (!found || cell?.wanted !== button.dataset.cell) return;
  cell.items = found.items;
  body.querySelector(".cell-items").innerHTML = found.html;
  trigger("chosen", { key: cell.key, items: cell.items });
};

element.addEventListener("click", (event) => {
  const at = (selector) => event.target.closest(selector);
  if (at("[data-cell]")) open(at("[data-cell]"));
  if (at("[data-item]")) trigger("pick", { item: Number(at("[data-item]").dataset.item) }), go(".results-query");
  if (at("[data-show]")) trigger("shown", { key: cell.key, items: cell.items }), go(".map-frame");
  exported(event, (format) =>
    at(".cell-items")
      ? server.export_items(cell.key, cell.items, null, format)
      : server.export_table(props.value, at("[data-table]").dataset.table, format));
});

watch("value", load);
load();
