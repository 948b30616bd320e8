// Runs once, as the body of a plain function with element, trigger, props, server and watch: hence the async wrapper.
(async () => {
  const find = (selector) => element.querySelector(selector);
  const plot = find(".map-plot"), frame = find(".map-frame"), tip = find(".map-tip"), note = find(".map-note");
  const framed = window.self !== window.top;
  const touch = matchMedia("(pointer: coarse)").matches;
  const root = (window.gradio_config?.root || document.baseURI).replace(/\/?$/, "/");
  const address = (path) => new URL(path, root).href;

  const tell = (sentence) => {
    note.textContent = sentence;
    note.hidden = !sentence;
  };

  const hasWebGL = () => {
    const context = document.createElement("canvas").getContext("webgl");
    context?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow about 16 contexts a page
    return Boolean(context);
  };

  const loadPlotly = () =>
    window.Plotly ||
    new Promise((resolve, reject) => {
      // Not through gr.HTML's head=: if that fails, this code never runs and the map stays silent.
      const script = document.createElement("script");
      script.src = address(props.plotly);
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.min.js could not be loaded"));
      document.head.append(script);
    });

  const fetchPoints = async (described) => {
    const response = await fetch(address(described.points));
    if (!response.ok) throw new Error(`the points could not be loaded (${response.status})`);
    return decode(await response.arrayBuffer(), described);
  };

  const decode = (buffer, { count, origin, step }) => {
    const real = (steps, start) => Float32Array.from(steps, (value) => start + step * value);
    const Labels = buffer.byteLength === 5 * count ? Uint8Array : Uint16Array;
    return {
      x: real(new Uint16Array(buffer, 0, count), origin[0]),
      y: real(new Uint16Array(buffer, 2 * count, count), origin[1]),
      label: new Labels(buffer, 4 * count, count),
    };
  };

  const itemsByClass = (label, classes) => {
    const sizes = new Uint32Array(classes);
    label.forEach((c) => sizes[c]++);
    const groups = Array.from(sizes, (size) => new Uint32Array(size));
    sizes.fill(0);
    label.forEach((c, item) => (groups[c][sizes[c]++] = item));
    return groups;
  };

  const describe = async (key) => (props.first?.key === key ? props.first : server.describe(key));

  // The map on screen: its description, its points, and the items of each class. The value may change to another.
  let map, points, groups, classes, home;

  const open = (described, fetched) => {
    [map, points] = [described, fetched];
    groups = itemsByClass(points.label, map.looks.length);
    classes = groups.map((_, c) => c);
    home = { x: range(points.x), y: range(points.y) };
  };

  const range = (values) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) (low = Math.min(low, value)), (high = Math.max(high, value));
    const margin = 0.04 * (high - low) || 1;
    return [low - margin, high + margin];
  };

  const load = async () => {
    const described = await describe(props.value.key);
    return [described, await fetchPoints(described)];
  };

  let Plotly;
  try {
    const loading = Promise.all([loadPlotly(), load()]);
    loading.catch(() => {}); // handled below, unless there is no WebGL and nobody waits for it
    if (!hasWebGL()) {
      tell("The map needs WebGL, which this browser does not offer. All searches work without the map.");
      return;
    }
    const [plotly, loaded] = await loading;
    Plotly = plotly;
    open(...loaded);
  } catch (error) {
    console.warn(error);
    tell("The map could not be loaded. Reload the page to try again; all searches work without it.");
    return;
  }

  // Drawing -----------------------------------------------------------------------------------------------------
  const REACH = 12; // pixels from a point that still mean it
  const pick = (items, values) => Float32Array.from(items, (item) => values[item]);

  const pointSize = () => {
    const share = (plot.clientWidth * plot.clientHeight) / map.count;
    return Math.min(8, Math.max(3, 0.6 * Math.sqrt(share)));
  };

  const classTrace = (items, c) => ({
    type: "scattergl",
    mode: "markers",
    name: map.classes[c] ?? "",
    x: pick(items, points.x),
    y: pick(items, points.y),
    customdata: items,
    hoverinfo: "none", // events, but no label of Plotly's
    marker: { size: pointSize(), color: map.looks[c].color, symbol: map.looks[c].symbol, opacity: 0.8 },
  });

  const layout = () => {
    const axis = { showgrid: false, zeroline: false, showticklabels: false, ticks: "" };
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 },
      xaxis: { ...axis, range: [...home.x] },
      yaxis: { ...axis, range: [...home.y], scaleanchor: "x" },
      dragmode: "pan",
      hovermode: "closest",
      hoverdistance: REACH,
      showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
    };
  };

  const config = {
    displayModeBar: false, // its buttons are ours: real buttons, and none that sends data to Plotly's cloud
    plotlyServerURL: "",
    scrollZoom: false,
    doubleClick: false, // a double click is two picks; the reset button resets
    showTips: false,
  };

  const draw = () => Plotly.react(plot, groups.map(classTrace), layout(), config); // newPlot would drop the listeners

  // Marks -------------------------------------------------------------------------------------------------------
  const place = (item) => [points.x[item], points.y[item]];

  // Not traces of Plotly's: with every new mark it would draw all points again, 0.1 s and more at 60,000.
  const overlay = find(".map-marks");
  const STAR = "M0-10 2.9-3.3 9.5-3.1 4.3 1.1 5.9 8.1 0 4.2-5.9 8.1-4.3 1.1-9.5-3.1-2.9-3.3z";
  let marks = { neighbors: [], query: null };

  const valueMarks = () => {
    const { query = null, position = null, neighbors = [] } = props.value || {};
    return { neighbors: Array.from(neighbors, place), query: query === null ? position : place(query) };
  };

  const screen = () => {
    const { xaxis, yaxis, _size } = plot._fullLayout; // their ranges follow a drag, their scales only its end
    const share = (value, [low, high]) => (value - low) / (high - low);
    return ([x, y]) => [
      _size.l + share(x, xaxis.range) * xaxis._length,
      _size.t + (1 - share(y, yaxis.range)) * yaxis._length,
    ];
  };

  const paintMarks = () => {
    const at = screen();
    const shape = (name, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      return node;
    };
    const move = (point) => `translate(${at(point).map((value) => value.toFixed(1)).join(",")})`;
    const nodes = marks.neighbors.map((point) => shape("circle", { r: 6.5, transform: move(point) }));
    if (marks.query) nodes.push(shape("path", { d: STAR, transform: move(marks.query) }));
    overlay.replaceChildren(...nodes);
  };

  const mark = (wanted) => {
    marks = wanted;
    paintMarks();
    performance.mark("map-marked");
  };

  const markValue = () => mark(valueMarks());

  // The value marks its own map, which may be another than the one on screen.
  const follow = async () => {
    if (props.value.key === map.key) return markValue();
    mark({ neighbors: [], query: null });
    const { key } = props.value;
    try {
      const loaded = await load();
      if (props.value.key !== key) return; // another change came meanwhile, and is followed already
      open(...loaded);
      forgetTiles();
      fillLegend();
      await draw();
      measure();
      noteZoom();
      markValue();
      tell("");
    } catch (error) {
      console.warn(error);
      tell("The new map could not be loaded. Reload the page to try again; all searches work without it.");
    }
  };

  const choose = (item) => {
    // At once, before the server answers. Its answer may equal the present value, which no watch would report.
    if (item === props.value?.query) markValue();
    else mark({ neighbors: [], query: place(item) });
    trigger("pick", { item });
  };

  // Plotly tells of the point that was under the mouse when it last looked, which a quick hand has left by now.
  const nearest = (event) => {
    const box = plot.getBoundingClientRect(), at = screen();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let best = null, least = REACH ** 2;
    for (let item = 0; item < map.count; item++) {
      if (!shown.has(points.label[item])) continue;
      const [x, y] = at(place(item));
      const distance = (x - left) ** 2 + (y - top) ** 2;
      if (distance <= least) [best, least] = [item, distance];
    }
    return best;
  };

  const clicked = ({ event, points: [under] }) => {
    const item = event?.clientX === undefined ? under.customdata : nearest(event);
    if (item !== null) choose(item);
  };

  // Legend ------------------------------------------------------------------------------------------------------
  const shown = new Set();
  const chips = [];
  let allChip, filterTimer;

  const count = () => {
    const n = classes.reduce((sum, c) => sum + (shown.has(c) ? groups[c].length : 0), 0);
    find(".map-count").textContent = `${n.toLocaleString("en")} of ${map.count.toLocaleString("en")} points`;
  };

  const filter = () => {
    chips.forEach((chip, c) => chip.setAttribute("aria-pressed", shown.has(c)));
    allChip.setAttribute("aria-pressed", shown.size === classes.length);
    count();
    clearTimeout(filterTimer); // a double click is two clicks first: redraw once
    filterTimer = setTimeout(() => {
      const visible = classes.map((c) => shown.has(c));
      Plotly.restyle(plot, { visible }, classes).then(() => performance.mark("map-filtered"));
    }, 30);
  };

  const showAll = () => {
    classes.forEach((c) => shown.add(c));
    filter();
  };

  const showOnly = (c) => {
    if (shown.size === 1 && shown.has(c)) return showAll();
    shown.clear();
    shown.add(c);
    filter();
  };

  const toggle = (c) => {
    shown.has(c) ? shown.delete(c) : shown.add(c);
    filter();
  };

  const makeChip = (name, swatch) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.innerHTML = swatch; // ours; the name is data, and only ever text
    chip.append(Object.assign(document.createElement("span"), { textContent: name }));
    find(".map-legend").append(chip);
    return chip;
  };

  const addChip = (name, c) => {
    const chip = makeChip(name, map.looks[c].swatch);
    chip.title = `${groups[c].length.toLocaleString("en")} points. Double-click or Shift-click: only this class`;
    chip.addEventListener("click", (event) => (event.shiftKey ? showOnly(c) : toggle(c)));
    chip.addEventListener("dblclick", (event) => event.shiftKey || showOnly(c));
    chips.push(chip);
  };

  const fillLegend = () => {
    const legend = find(".map-legend");
    legend.replaceChildren();
    legend.hidden = map.classes.length < 2;
    chips.length = 0;
    shown.clear();
    classes.forEach((c) => shown.add(c));
    allChip = makeChip("All", "");
    allChip.addEventListener("click", showAll);
    map.classes.forEach(addChip);
    for (const chip of [allChip, ...chips]) chip.setAttribute("aria-pressed", true);
    count();
  };

  // View --------------------------------------------------------------------------------------------------------
  let wanted = null; // ranges to be drawn in the next frame

  const current = () => {
    const { xaxis, yaxis } = plot._fullLayout; // the only place where Plotly keeps the drawn ranges and sizes
    return wanted || { x: xaxis.range.map(Number), y: yaxis.range.map(Number) };
  };

  const show = (ranges) => {
    hideTip();
    if (!wanted) requestAnimationFrame(() => {
      const { x, y } = wanted;
      wanted = null;
      Plotly.relayout(plot, { "xaxis.range": x, "yaxis.range": y }).then(noteZoom);
    });
    wanted = ranges;
  };

  const zoomed = () => current().x[1] - current().x[0] < 0.97 * fullWidth;

  const noteZoom = () => frame.classList.toggle("zoomed", zoomed());

  const zoom = (factor, left = plot.clientWidth / 2, top = plot.clientHeight / 2) => {
    const { x, y } = current();
    const width = (x[1] - x[0]) * factor;
    if (width > 3 * fullWidth || width < 1e-4 * fullWidth) return;
    const stretch = ([low, high], share) => {
      const fixed = low + share * (high - low);
      return [fixed + (low - fixed) * factor, fixed + (high - fixed) * factor];
    };
    show({ x: stretch(x, left / plot.clientWidth), y: stretch(y, 1 - top / plot.clientHeight) });
  };

  const pan = (right, down) => {
    const { x, y } = current();
    const dx = (right / plot.clientWidth) * (x[1] - x[0]), dy = (down / plot.clientHeight) * (y[1] - y[0]);
    show({ x: x.map((value) => value - dx), y: y.map((value) => value + dy) });
  };

  const inPlot = (event) => {
    const box = plot.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  const reset = () => show({ x: [...home.x], y: [...home.y] });

  let fullWidth = 1;
  const measure = () => {
    const scale = Math.max((home.x[1] - home.x[0]) / plot.clientWidth, (home.y[1] - home.y[0]) / plot.clientHeight);
    fullWidth = scale * plot.clientWidth;
  };

  const onWheel = (event) => {
    // Within another page the wheel scrolls that page; with Ctrl, which is also what a touchpad's pinch sends, it zooms.
    if (framed && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    const turned = Math.max(-100, Math.min(100, event.deltaY * lines));
    zoom(Math.exp(turned * (event.ctrlKey ? 0.006 : 0.002)), ...inPlot(event));
  };

  // Fingers: two pinch, one pans once the map is zoomed (before that it scrolls the page). A tap becomes a mouse click.
  const fingers = new Map();

  const onFinger = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = inPlot(event);
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (!other && !frame.classList.contains("zoomed")) return;
    if (!other && !before.moving && Math.hypot(now[0] - before[0], now[1] - before[1]) < 6) return;
    fingers.set(event.pointerId, Object.assign(now, { moving: true }));
    if (!other) return pan(now[0] - before[0], now[1] - before[1]);
    const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    zoom(apart(before, other) / apart(now, other), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  };

  const listenToFingers = () => {
    frame.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") fingers.set(event.pointerId, inPlot(event));
    });
    frame.addEventListener("pointermove", onFinger);
    for (const name of ["pointerup", "pointercancel"])
      window.addEventListener(name, (event) => fingers.delete(event.pointerId));
    // Plotly knows no pinch and swallows taps: it may not see touches, only the mouse events that follow a tap.
    plot.addEventListener("touchstart", (event) => event.stopPropagation(), { capture: true, passive: true });
  };

  // Tooltip -----------------------------------------------------------------------------------------------------
  const PAGES = 64;
  const tiles = new Map(); // item -> [page, place on it]
  const pages = [];
  let hovered = null, asked = null;

  const keep = async (answer) => {
    const picture = new Image();
    picture.src = answer.image;
    await picture.decode();
    const page = { ...answer, picture };
    answer.items.forEach((item, place) => tiles.set(item, [page, place]));
    if (pages.push(page) > PAGES) for (const item of pages.shift().items) tiles.delete(item);
  };

  const forgetTiles = () => {
    hideTip();
    tiles.clear();
    pages.length = 0;
  };

  const askForTile = async (item) => {
    if (asked !== null || tiles.has(item)) return; // one request at a time; the last hovered item is asked for next
    asked = item;
    try {
      const { key } = map;
      const answer = await server.thumbnails(key, item);
      if (answer?.items && key === map.key) await keep(answer);
    } catch (error) {
      console.warn(error);
      return; // the label stays, without a picture
    } finally {
      asked = null;
    }
    if (hovered === null) return;
    if (tiles.has(hovered)) paintTile(hovered);
    else if (hovered !== item) askForTile(hovered);
  };

  const paintTile = (item) => {
    const canvas = tip.querySelector("canvas");
    const found = tiles.get(item);
    canvas.classList.toggle("waiting", !found);
    if (!found) {
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    const [{ tile, columns, picture }, place] = found;
    const side = tile * Math.max(2, Math.floor(112 / tile)); // a whole multiple keeps small pixels square
    canvas.width = canvas.height = tile;
    canvas.style.width = canvas.style.height = `${side}px`;
    canvas.classList.toggle("pixels", tile <= 32);
    const left = (place % columns) * tile, top = Math.floor(place / columns) * tile;
    canvas.getContext("2d").drawImage(picture, left, top, tile, tile, 0, 0, tile, tile);
    placeTip(item);
  };

  const placeTip = (item) => {
    if (touch) return; // in its corner: beside the finger it would cover the marks it is about
    const { xaxis, yaxis } = plot._fullLayout;
    const [left, top] = [xaxis.l2p(points.x[item]), yaxis.l2p(points.y[item])];
    const before = left + 16 + tip.offsetWidth > frame.clientWidth;
    tip.style.left = `${Math.max(4, before ? left - 16 - tip.offsetWidth : left + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(top - tip.offsetHeight / 2, frame.clientHeight - tip.offsetHeight - 4))}px`;
  };

  const hideTip = () => {
    hovered = null;
    tip.hidden = true;
    frame.classList.remove("hot");
  };

  const showTip = (item) => {
    hovered = item;
    tip.querySelector("strong").textContent = map.classes[points.label[item]] ?? "";
    tip.querySelector("span").textContent = `item ${item}`;
    tip.hidden = false;
    frame.classList.add("hot");
    paintTile(item);
    placeTip(item);
    setTimeout(() => hovered === item && askForTile(item), 40); // not for points that the mouse only passes
  };

  // Together ----------------------------------------------------------------------------------------------------
  const listen = () => {
    plot.on("plotly_hover", (event) => showTip(event.points[0].customdata));
    plot.on("plotly_unhover", hideTip);
    plot.on("plotly_click", clicked);
    plot.on("plotly_afterplot", paintMarks);
    plot.on("plotly_relayouting", paintMarks);
    plot.on("plotly_relayout", noteZoom);
    plot.on("plotly_webglcontextlost", () => tell("The graphics card dropped the map. Reload the page to see it again."));
    frame.addEventListener("wheel", onWheel, { passive: false });
    const tools = { in: () => zoom(0.6), out: () => zoom(1 / 0.6), reset };
    for (const button of element.querySelectorAll("[data-tool]"))
      button.addEventListener("click", tools[button.dataset.tool]);
    listenToFingers();
    watch("value", follow);
    new ResizeObserver(resize).observe(plot);
  };

  const resize = () => {
    const { width, height } = plot._fullLayout;
    if (!plot.clientWidth || (plot.clientWidth === width && plot.clientHeight === height)) return;
    measure();
    hideTip();
    Plotly.Plots.resize(plot);
  };

  const hint = () => {
    const wheel = framed ? "Ctrl + scroll to zoom" : "Scroll to zoom";
    find(".map-hint").textContent = touch
      ? "Tap a point to search. Pinch to zoom."
      : `Click a point to search. ${wheel}.`;
  };

  try {
    hint();
    fillLegend();
    await draw();
    measure();
    listen();
    tell("");
    await follow();
    performance.mark("map-drawn");
  } catch (error) {
    console.error(error);
    tell("The map could not be drawn in this browser. All searches work without it.");
  }
})();
