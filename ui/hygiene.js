// Pages of findings: asked for when the tab is first looked at, as this is not there before, and again until they come.
const body = element.querySelector(".report");
let kind = "suspects", page = 0, turn = 0, shown = "";

const fill = (html) => {
  if (html === shown) return; // a progress bar that goes on, and a screen reader that need not hear it again
  const held = document.activeElement?.closest(".kinds, .pager") && { ...document.activeElement.dataset };
  shown = body.innerHTML = html; // words in it are escaped
  if (!held || !element.contains(body)) return;
  const again = held.kind ? `[data-kind=${held.kind}]` : ".pager :enabled";
  body.querySelector(again)?.focus({ preventScroll: true });
};

const load = async () => {
  const mine = ++turn, key = props.value;
  try {
    while (key && mine === turn) {
      const found = await server.findings(key, kind, page);
      if (mine !== turn) return;
      fill(found?.html ?? "<p>This index is no longer open here. Reload the page.</p>");
      if (!found?.waiting) return;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  } catch (error) {
    console.warn(error);
    fill("<p>The lists could not be loaded. Reload the page to try again.</p>");
  }
};

element.addEventListener("click", async (event) => {
  const at = (selector) => event.target.closest(selector);
  const wanted = at("[data-item]")?.dataset.item, shows = at("[data-show]")?.dataset.show.split(" ").map(Number);
  if (wanted) trigger("pick", { item: Number(wanted) }), go(".results-query");
  if (shows) trigger("shown", { key: props.value, items: shows }), go(".map-frame");
  if (at("[data-kind]")) (kind = at("[data-kind]").dataset.kind), (page = 0), load();
  if (at("[data-page]")) {
    page = Number(at("[data-page]").dataset.page);
    await load();
    body.scrollIntoView({ block: "start" });
  }
  exported(event, (format) => server.export_findings(props.value, kind, format));
});

watch("value", () => ((page = 0), load()));
load();
