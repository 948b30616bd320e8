// Runs once, as the body of a plain function with element, trigger, props, server and watch: hence the async wrapper.
(async () => {
  const find = (selector) => element.querySelector(selector);
  const all = (selector) => [...element.querySelectorAll(selector)];
  const number = (value) => value.toLocaleString("en");
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const press = (button, pressed) => button.setAttribute("aria-pressed", pressed);

  // What is on screen: an index by its key, its overview, and which of its items, in what order, from where.
  let key, overview;
  let label = null, order = "random", seed = 42, page = 0;

  const nameOf = (c) => (c === null ? "" : overview.classes[c].name);

  const swatchOf = (c) => {
    const holder = document.createElement("span");
    if (c !== null) holder.innerHTML = overview.classes[c].swatch; // ours; names are data, and only ever text
    return holder.firstChild ?? "";
  };

  // Classes -----------------------------------------------------------------------------------------------------
  const percent = (share) => {
    if (share > 0 && share < 0.001) return "<0.1 %";
    return `${(100 * share).toFixed(1)} %`;
  };

  const classRow = ({ name, count, color }, c, largest) => {
    const button = make("button", { type: "button", title: name }, swatchOf(c), make("span", { textContent: name }));
    const bar = make("span", { className: "explore-length" });
    bar.style.cssText = `width: ${(100 * count) / largest}%; background: ${color}`;
    const row = make(
      "tr", {},
      make("th", { scope: "row" }, button),
      make("td", { textContent: number(count) }),
      make("td", { textContent: percent(count / overview.count) }),
      make("td", {}, bar),
    );
    row.dataset.label = c;
    row.addEventListener("click", () => filter(label === c ? null : c));
    return row;
  };

  const fillClasses = () => {
    const { classes, note, count } = overview;
    const largest = Math.max(1, ...classes.map((each) => each.count));
    find(".explore").classList.toggle("plain", !classes.length);
    find(".explore-chart").hidden = !classes.length;
    find(".explore-classes .explore-note").textContent = note;
    find(".explore-classes .explore-note").hidden = !note;
    find("tbody").replaceChildren(...classes.map((each, c) => classRow(each, c, largest)));
    const button = make("button", { type: "button" }, make("span", { textContent: "All classes" }));
    const cells = [number(count), "100 %", ""].map((textContent) => make("td", { textContent }));
    const total = make("tr", {}, make("th", { scope: "row" }, button), ...cells);
    total.addEventListener("click", () => filter(null));
    find("tfoot").replaceChildren(total);
  };

  const markClass = () => {
    for (const row of all("tbody tr")) press(row.querySelector("button"), Number(row.dataset.label) === label);
    const total = find("tfoot button");
    if (total) press(total, label === null);
    find(".explore-classes").classList.toggle("filtered", label !== null);
  };

  const filter = (wanted) => {
    [label, page] = [wanted, 0];
    show();
  };

  // Samples -----------------------------------------------------------------------------------------------------
  const grid = find(".explore-grid"), note = find(".explore-samples > .explore-note");

  const tell = (sentence) => {
    note.textContent = sentence;
    note.hidden = !sentence;
  };

  const picture = (tile) =>
    make("img", { src: tile.image, alt: "", className: overview.crisp ? "pixels" : "", draggable: false });

  /** A button with an item's picture, class and number, or its similarity in place of the number. */
  const tileOf = ({ similarity, ...tile }) => {
    const name = nameOf(tile.label);
    const near = similarity === undefined ? "" : similarity.toFixed(3);
    const button = make(
      "button", { type: "button", className: "explore-tile", title: name },
      picture(tile),
      make("span", { className: "explore-name" }, swatchOf(tile.label), make("span", { textContent: name })),
      make("span", { className: "explore-number", textContent: near || `item ${tile.item}` }),
    );
    const spoken = near ? `, similarity ${near}` : "";
    button.setAttribute("aria-label", `${name || "Image"}, item ${tile.item}${spoken}: look closer`);
    button.addEventListener("click", () => open(tile.item));
    return button;
  };

  let pages = 1;
  const isPage = (target) => target >= 0 && target < pages;

  const fillPager = ({ total, first, tiles }) => {
    const range = tiles.length
      ? `${number(first + 1)} to ${number(first + tiles.length)} of ${number(total)}`
      : "0 items";
    for (const place of all(".explore-range")) place.textContent = range;
    // Not disabled: a button that is loses the focus of whoever turns pages with it.
    for (const button of all("[data-step]"))
      button.setAttribute("aria-disabled", !isPage(page + Number(button.dataset.step)));
    find(".explore-more").hidden = pages === 1;
  };

  const fillHead = () => {
    const title = label === null ? "All items" : nameOf(label);
    find(".explore-bar h3").replaceChildren(swatchOf(label), make("span", { textContent: title, title }));
    for (const button of all("[data-order]")) press(button, button.dataset.order === order);
    find(".explore-seed").hidden = order !== "random";
    find(".explore-seed input").value = seed;
  };

  let asked = 0;
  const show = async () => {
    const turn = ++asked;
    markClass();
    fillHead();
    grid.classList.add("waiting");
    let found;
    try {
      found = await server.samples({ key, label, seed: order === "random" ? seed : null, page });
    } catch (error) {
      console.warn(error);
    }
    if (turn !== asked) return; // something else is wanted by now
    grid.classList.remove("waiting");
    if (!found?.tiles) return tell("The items could not be loaded. Reload the page to try again.");
    grid.replaceChildren(...found.tiles.map(tileOf));
    pages = found.pages;
    fillPager(found);
    tell(found.total ? "" : "No item is in this class.");
    performance.mark("explore-drawn");
  };

  const turnPage = async (button) => {
    const target = page + Number(button.dataset.step);
    if (!isPage(target)) return;
    page = target;
    await show();
    if (button.closest(".explore-more")) grid.querySelector("button")?.focus(); // the page starts up there
  };

  const reorder = (wanted) => {
    [order, page] = [wanted, 0];
    show();
  };

  const shuffle = (wanted = Math.floor(10_000 * Math.random())) => {
    [seed, page] = [wanted, 0];
    show();
  };

  const readSeed = (field) => {
    const wanted = Number(field.value.trim() || NaN);
    if (Number.isInteger(wanted) && wanted >= 0 && wanted < 2 ** 32) return shuffle(wanted);
    field.value = seed;
  };

  const arrange = () => {
    const width = grid.clientWidth;
    const columns = [12, 8, 6, 4, 3].find((columns) => width / columns >= 104) ?? 3; // full rows: 48 tiles a page
    if (width) grid.style.setProperty("--columns", columns);
  };

  // One item ----------------------------------------------------------------------------------------------------
  const dialog = find("dialog"), canvas = find(".explore-stage canvas"), where = find(".explore-where canvas");
  const touch = matchMedia("(pointer: coarse)").matches;
  let item, sets, values, channel, view; // view: the side of the shown part and its center, in pixels of the image

  const decode = (pixels) => {
    const data = Uint8Array.from(atob(pixels.codes), (letter) => letter.charCodeAt(0)).buffer;
    const Codes = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[pixels.bytes];
    return { ...pixels, codes: new Codes(data) };
  };

  const pixels = () => sets[values];

  const at = (c, x, y) => {
    const { levels, codes, width, height } = pixels();
    return levels[codes[(c * height + y) * width + x]];
  };

  // A channel is a number, "color" or "gray". Gray has no values of the model's: it receives colors.
  const channels = () => {
    if (pixels().channels === 1) return [0];
    return values === "stored" ? ["color", 0, 1, 2, "gray"] : ["color", 0, 1, 2];
  };

  const channelName = (c) => ({ color: "Color", gray: "Gray" })[c] ?? ["R", "G", "B"][c];

  const valuesAt = (x, y) => {
    if (channel === "color") return [0, 1, 2].map((c) => at(c, x, y));
    if (channel === "gray") return [Math.round(0.299 * at(0, x, y) + 0.587 * at(1, x, y) + 0.114 * at(2, x, y))];
    return [at(channel, x, y)];
  };

  const rangeOf = (c) => pixels().ranges[typeof c === "number" ? c : 0];

  /** A value of channel c as 0 to 255 between its least and greatest possible value. */
  const shade = (value, c) => {
    const [low, high] = rangeOf(c);
    return Math.max(0, Math.min(255, Math.round((255 * (value - low)) / (high - low))));
  };

  const colorAt = (x, y) => {
    const found = valuesAt(x, y);
    if (channel === "color") return found.map((value, c) => shade(value, c));
    return Array(3).fill(shade(found[0], channel));
  };

  const linear = (part) => (part <= 10 ? part / 3295 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  // Whichever of black and white has the greater contrast, 4.6 at least, by the WCAG's luminance
  const inkOn = ([r, g, b]) =>
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.179 ? "#000" : "#fff";

  /** A value as text, with a true minus sign, and none before a zero. */
  const written = (value, decimals = 2) =>
    values === "stored" ? String(value) : value.toFixed(decimals).replace(/^-(?=[\d.]*[1-9])/, "−").replace("-", "");

  // The whole picture, drawn once for every choice of values and channel; the stage shows a part of it.
  let whole;
  const paintWhole = () => {
    const { width, height } = pixels();
    whole = make("canvas", { width, height });
    const image = new ImageData(width, height);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) image.data.set([...colorAt(x, y), 255], 4 * (y * width + x));
    whole.getContext("2d").putImageData(image, 0, 0);
  };

  const longest = () => Math.max(pixels().width, pixels().height);

  // The sides of the shown part, in pixels of the image, from everything to a few.
  const steps = () => [longest(), 112, 56, 28, 14, 7].filter((side, i) => !i || side < longest());

  const clamp = (start, length) => {
    if (length <= view.side) return Math.floor((length - view.side) / 2); // centered
    return Math.max(0, Math.min(length - view.side, Math.round(start)));
  };

  const corner = () => [clamp(view.x - view.side / 2, pixels().width), clamp(view.y - view.side / 2, pixels().height)];

  const FONT = "ui-sans-serif, system-ui, sans-serif";
  const LEAST_FONT = 7.5; // CSS pixels

  /** The largest type in which numbers as long as `longest`, on `lines` lines, fit into a cell; 0 if it is too small. */
  const typeSize = (context, cell, longest, lines) => {
    context.font = `100px ${FONT}`;
    const width = context.measureText(longest).width / 100;
    const size = Math.min(14, (0.86 * cell) / width, (0.86 * cell) / (1.1 * lines));
    return size >= LEAST_FONT ? size : 0;
  };

  /** The type of the numbers in cells of this side: its size, 0 for none, and how many decimals fit. */
  const lettering = (context, cell) => {
    const lines = channel === "color" ? 3 : 1;
    if (values === "stored") return { size: typeSize(context, cell, "888", lines), decimals: 0, lines };
    const size = typeSize(context, cell, "−8.88", lines);
    return size ? { size, decimals: 2, lines } : { size: typeSize(context, cell, "−8.8", lines), decimals: 1, lines };
  };

  const paint = () => {
    const { width, height } = pixels();
    const box = canvas.clientWidth;
    if (!box) return;
    const density = window.devicePixelRatio || 1;
    canvas.width = canvas.height = Math.round(box * density);
    const context = canvas.getContext("2d");
    context.scale(density, density);
    const [left, top] = corner(), cell = box / view.side;
    const x0 = Math.max(0, left), y0 = Math.max(0, top);
    const wide = Math.min(width - x0, view.side), high = Math.min(height - y0, view.side);
    context.imageSmoothingEnabled = false;
    context.drawImage(whole, x0, y0, wide, high, (x0 - left) * cell, (y0 - top) * cell, wide * cell, high * cell);
    const { size, decimals, lines } = lettering(context, cell);
    if (size) writeValues(context, { x0, y0, wide, high, left, top, cell, size, decimals, lines });
    tellView(left, top, size);
    paintWhere(left, top);
  };

  const writeValues = (context, { x0, y0, wide, high, left, top, cell, size, decimals, lines }) => {
    context.font = `${size}px ${FONT}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let y = y0; y < y0 + high; y++)
      for (let x = x0; x < x0 + wide; x++) {
        context.fillStyle = inkOn(colorAt(x, y));
        valuesAt(x, y).forEach((value, line) => {
          const down = (y - top + 0.52) * cell + (line - (lines - 1) / 2) * 1.1 * size;
          context.fillText(written(value, decimals), (x - left + 0.5) * cell, down);
        });
      }
  };

  const pannable = () => longest() > view.side;

  const tellView = (left, top, lettered) => {
    const { width, height } = pixels();
    const part = pannable()
      ? `columns ${Math.max(0, left)} to ${Math.min(width, left + view.side) - 1}, rows ${Math.max(0, top)} to ` +
        `${Math.min(height, top + view.side) - 1} of ${width} x ${height} pixels`
      : `${width} x ${height} pixels`;
    canvas.setAttribute("aria-label", `${nameOf(sets.label) || "Image"}, item ${item}: ${part}`);
    canvas.classList.toggle("pannable", pannable());
    const sides = steps();
    for (const [act, stuck] of [["out", view.side === sides[0]], ["in", view.side === sides.at(-1)]])
      find(`[data-act=${act}]`).setAttribute("aria-disabled", stuck);
    canvas.classList.toggle("small", !lettered);
    if (!lettered) rest = `${touch ? "Tap" : "Click"} a place to read its values.`;
    else if (!pannable()) rest = "";
    else rest = touch ? "Drag to move." : "Drag, or use the arrow keys, to move.";
    readOut(null);
  };

  let rest = "";
  const readOut = (event) => {
    const spot = event && under(event);
    const parts = spot && valuesAt(...spot).map((value, c) => (channel === "color" ? `${channelName(c)} ` : "") + written(value));
    find(".explore-readout").textContent = spot ? `column ${spot[0]}, row ${spot[1]}: ${parts.join(", ")}` : rest;
  };

  /** The pixel under a pointer. */
  const under = (event) => {
    const box = canvas.getBoundingClientRect(), cell = box.width / view.side, [left, top] = corner();
    const x = left + Math.floor((event.clientX - box.left) / cell), y = top + Math.floor((event.clientY - box.top) / cell);
    return x >= 0 && y >= 0 && x < pixels().width && y < pixels().height ? [x, y] : null;
  };

  const paintWhere = (left, top) => {
    find(".explore-where").hidden = !pannable();
    const { width, height } = pixels(), scale = 112 / longest(), density = window.devicePixelRatio || 1;
    where.width = Math.round(width * scale * density);
    where.height = Math.round(height * scale * density);
    where.style.width = `${width * scale}px`;
    const context = where.getContext("2d");
    context.scale(scale * density, scale * density);
    context.drawImage(whole, 0, 0);
    const frame = [left, top, view.side, view.side];
    for (const [color, line] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = color;
      context.lineWidth = line / scale;
      context.strokeRect(...frame);
    }
  };

  // Moving about ------------------------------------------------------------------------------------------------
  const look = (x, y) => {
    const { width, height } = pixels();
    const within = (value, length) =>
      length <= view.side ? length / 2 : Math.max(view.side / 2, Math.min(length - view.side / 2, value));
    view.x = within(x, width);
    view.y = within(y, height);
    paint();
  };

  const zoom = (step) => {
    const sides = steps();
    const wanted = sides[sides.indexOf(view.side) + step];
    if (!wanted) return;
    view.side = wanted;
    look(view.x, view.y);
  };

  /** Shows as much around a pixel as can be read; nothing to do where all can. */
  const closeUp = ([x, y]) => {
    if (!canvas.classList.contains("small")) return;
    const context = canvas.getContext("2d");
    const readable = (side) => side < view.side && lettering(context, canvas.clientWidth / side).size;
    view.side = steps().find(readable) ?? steps().at(-1);
    look(x + 0.5, y + 0.5);
  };

  const onKey = (event) => {
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(view.side / 4));
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if ((right || down) && pannable()) look(view.x + right * step, view.y + down * step);
    else if (event.key === "+" || event.key === "=") zoom(1);
    else if (event.key === "-") zoom(-1);
    else if (event.key === "Enter") closeUp([Math.floor(view.x), Math.floor(view.y)]);
    else return;
    event.preventDefault();
  };

  let dragged = false;
  const drag = (surface, move) => {
    let from = null;
    surface.addEventListener("pointerdown", (event) => {
      dragged = false;
      if (event.button || !sets || !pannable()) return;
      surface.setPointerCapture(event.pointerId);
      from = { left: event.clientX, top: event.clientY, x: view.x, y: view.y };
      move(event, from);
    });
    surface.addEventListener("pointermove", (event) => from && move(event, from));
    for (const name of ["pointerup", "pointercancel"]) surface.addEventListener(name, () => (from = null));
  };

  const dragStage = (event, from) => {
    const cell = canvas.clientWidth / view.side;
    dragged ||= Math.hypot(event.clientX - from.left, event.clientY - from.top) > 4;
    look(from.x - (event.clientX - from.left) / cell, from.y - (event.clientY - from.top) / cell);
  };

  const dragWhere = (event) => {
    const box = where.getBoundingClientRect(), scale = longest() / Math.max(box.width, box.height);
    look((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
  };

  // Choices -----------------------------------------------------------------------------------------------------
  const scaleRow = (c) => {
    const [low, high] = rangeOf(c);
    const color = channel === "color" ? ["#f00", "#0f0", "#00f"][c] : "#fff";
    const ramp = make("span", { className: "explore-ramp" });
    ramp.style.background = `linear-gradient(to right, #000, ${color})`;
    const ends = [low, (low + high) / 2, high].map((value) =>
      make("span", { textContent: values === "stored" ? String(Math.round(value)) : written(value) }),
    );
    return make("div", {}, ramp, make("div", { className: "explore-ends" }, ...ends));
  };

  const fillChoices = () => {
    const choices = channels();
    if (!choices.includes(channel)) channel = choices[0];
    for (const button of all("[data-values]")) press(button, button.dataset.values === values);
    find(".explore-channels").hidden = choices.length === 1;
    if (find(".explore-channels").dataset.of !== choices.join()) {
      find(".explore-channels").dataset.of = choices.join();
      find(".explore-channels").replaceChildren(...choices.map(channelButton));
    }
    for (const button of all(".explore-channels button")) press(button, button.textContent === channelName(channel));
    find(".explore-scale").replaceChildren(...(channel === "color" ? [0, 1, 2] : [channel]).map(scaleRow));
    find(".explore-hint").textContent = explained();
  };

  const channelButton = (c) => {
    const button = make("button", { type: "button", textContent: channelName(c) });
    button.addEventListener("click", () => {
      channel = c;
      repaint();
    });
    return button;
  };

  const explained = () => {
    if (values === "stored") return { gray: "Gray is 0.299 R + 0.587 G + 0.114 B.", color: "Each pixel has R, G, B." }[channel] ?? "";
    const { stored, received } = sets;
    const resized = stored.width !== received.width || stored.height !== received.height;
    const size = resized ? `Resized from ${stored.width} x ${stored.height} to ${received.width} x ${received.height}, then ` : "";
    const steps = channel === "color" ? "normalized, each channel by its own mean and deviation" : `normalized to ${formula()}`;
    const alike = received.alike ? " All three channels are the same." : "";
    return `${size}${steps}.${alike}`.replace(/^./, (letter) => letter.toUpperCase());
  };

  /** How a channel is normalized, told by what black and white become. */
  const formula = () => {
    const [low, high] = rangeOf(channel), deviation = 1 / (high - low);
    return `(value / 255 − ${(-low * deviation).toFixed(3)}) / ${deviation.toFixed(3)}`;
  };

  const repaint = () => {
    fillChoices();
    paintWhole();
    look(view.x, view.y);
  };

  const stageNote = (sentence) => {
    const place = find(".explore-stage .explore-note");
    place.textContent = sentence;
    place.hidden = !sentence;
    canvas.classList.toggle("covered", Boolean(sentence));
  };

  /** How much to show of an image: all, or as much as of `before`, other values of it, if those were shown. */
  const sideAfter = (before) => {
    const sawAll = !before || view.side === Math.max(before.width, before.height);
    return !sawAll && steps().includes(view.side) ? view.side : longest();
  };

  /** Shows the stored or the received values, and the same part of the image as before. */
  const take = (wanted) => {
    const before = view && pixels();
    values = wanted;
    const { width, height } = pixels();
    const [x, y] = before ? [(view.x * width) / before.width, (view.y * height) / before.height] : [width / 2, height / 2];
    view = { x, y, side: sideAfter(before) };
    stageNote("");
    repaint();
  };

  let wantedValues;
  const choose = async (wanted) => {
    const chosen = item;
    wantedValues = wanted;
    if (wanted === "received" && !sets.received) {
      const found = await server.received({ key, item }).catch(() => null);
      if (chosen !== item || wantedValues !== wanted || !dialog.open) return;
      if (!found?.pixels) return wait(found, chosen);
      sets.received = decode(found.pixels);
    }
    take(wanted);
  };

  const wait = (found, chosen) => {
    for (const button of all("[data-values]")) press(button, button.dataset.values === "received");
    for (const place of all(".explore-scale, .explore-hint")) place.replaceChildren(); // those of the other values
    stageNote(found?.reason ?? "The values could not be loaded. Try again.");
    const still = () => chosen === item && dialog.open && wantedValues === "received";
    if (found?.loading) setTimeout(() => still() && choose("received"), 1500);
  };

  const fact = (name, ...value) => [make("dt", { textContent: name }), make("dd", {}, ...value)];

  const fillFacts = (found) => {
    const name = nameOf(found.label);
    find("#explore-title").replaceChildren(swatchOf(found.label), make("span", { textContent: name || `Item ${found.item}` }));
    find("dl").replaceChildren(
      ...fact("Item", String(found.item)),
      ...fact("Source row", `${found.source_row}, split ${overview.split}`),
      ...fact("Size", `${found.pixels.width} x ${found.pixels.height} pixels, ${found.pixels.channels === 1 ? "gray" : "color"}`),
    );
    const tiles = found.neighbors.map(tileOf);
    find(".explore-strip").replaceChildren(...tiles);
    find(".explore-near").hidden = !tiles.length;
  };

  let opening;
  const open = async (wanted) => {
    opening = wanted;
    const found = await server.inspect({ key, item: wanted }).catch(() => null);
    if (wanted !== opening) return; // another one was clicked meanwhile
    if (!found?.pixels) {
      const sentence = "The item could not be loaded. Reload the page to try again.";
      return dialog.open ? stageNote(sentence) : tell(sentence);
    }
    item = wanted;
    sets = { label: found.label, stored: decode(found.pixels) };
    view = null;
    channel = undefined;
    wantedValues = "stored";
    fillFacts(found);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    find("#explore-title").focus();
    take("stored");
    performance.mark("explore-opened");
  };

  const search = () => {
    dialog.close();
    trigger("pick", { item });
  };

  // Together ----------------------------------------------------------------------------------------------------
  const listen = () => {
    for (const button of all("[data-order]")) button.addEventListener("click", () => reorder(button.dataset.order));
    for (const button of all("[data-step]")) button.addEventListener("click", () => turnPage(button));
    for (const button of all("[data-values]")) button.addEventListener("click", () => choose(button.dataset.values));
    const acts = { shuffle: () => shuffle(), close: () => dialog.close(), search, in: () => zoom(1), out: () => zoom(-1) };
    for (const [act, run] of Object.entries(acts)) find(`[data-act=${act}]`).addEventListener("click", run);
    find(".explore-seed input").addEventListener("change", (event) => readSeed(event.target));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside the dialog
    canvas.addEventListener("keydown", onKey);
    canvas.addEventListener("click", (event) => {
      const spot = !dragged && under(event);
      if (spot) closeUp(spot);
    });
    for (const name of ["pointermove", "pointerdown"]) canvas.addEventListener(name, readOut);
    canvas.addEventListener("pointerleave", () => readOut(null));
    drag(canvas, dragStage);
    drag(where, dragWhere);
    new ResizeObserver(arrange).observe(grid);
    new ResizeObserver(() => dialog.open && sets && paint()).observe(find(".explore-stage"));
    watch("value", follow);
  };

  /** Shows the index that the value names, from its beginning. */
  const follow = async () => {
    const wanted = props.value?.key;
    if (!wanted || wanted === key) return;
    key = wanted;
    const found = await server.overview({ key: wanted }).catch(() => null);
    if (key !== wanted) return;
    if (!found?.classes) {
      key = undefined;
      return tell("The data set could not be loaded. Reload the page to try again.");
    }
    dialog.close();
    overview = found;
    [label, page] = [null, 0];
    fillClasses();
    await show();
  };

  listen();
  await follow();
})();
