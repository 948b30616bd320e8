// Runs once, as the body of a plain function with element, trigger, props, server and watch: hence the async wrapper.
(async () => {
  const find = (selector) => element.querySelector(selector);
  const note = find(".map-note");
  const framed = window.self !== window.top;
  const touch = matchMedia("(pointer: coarse)").matches;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const root = (window.gradio_config?.root || document.baseURI).replace(/\/?$/, "/");
  const address = (path) => new URL(path, root).href;
  const whole = (number) => number.toLocaleString("en");

  const tell = (sentence) => {
    note.textContent = sentence;
    note.hidden = !sentence;
  };

  // Loading -----------------------------------------------------------------------------------------------------
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

  const fetchPoints = async ({ points, origin, step }) => {
    const response = await fetch(address(points));
    if (!response.ok) throw new Error(`the points could not be loaded (${response.status})`);
    const buffer = await response.arrayBuffer();
    const real = (steps, start) => Float32Array.from(steps, (value) => start + step * value);
    const n = map.count;
    const x = real(new Uint16Array(buffer, 0, n), origin[0]), y = real(new Uint16Array(buffer, 2 * n, n), origin[1]);
    return { buffer, x, y, home: { x: range(x), y: range(y) } };
  };

  const range = (values) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) (low = Math.min(low, value)), (high = Math.max(high, value));
    const margin = 0.04 * (high - low) || 1;
    return [low - margin, high + margin];
  };

  // The index on screen: its description, the classes of its items, and the layouts that were fetched. All that is
  // drawn follows from these, from the value, and from what is selected. The value may change to another index.
  let map, label, groups, classes;
  const layouts = new Map();

  const open = async (key) => {
    const described = props.first?.key === key ? props.first : await server.describe(key);
    const before = map;
    map = described;
    try {
      const first = await fetchPoints(described.layout);
      const Labels = first.buffer.byteLength === 5 * map.count ? Uint8Array : Uint16Array;
      label = new Labels(first.buffer, 4 * map.count, map.count);
      groups = itemsByClass();
      classes = groups.map((_, c) => c);
      layouts.clear();
      layouts.set(described.layout.name, first);
    } catch (error) {
      map = before;
      throw error;
    }
  };

  const itemsByClass = () => {
    const sizes = new Uint32Array(map.looks.length);
    label.forEach((c) => sizes[c]++);
    const found = Array.from(sizes, (size) => new Uint32Array(size));
    sizes.fill(0);
    label.forEach((c, item) => (found[c][sizes[c]++] = item));
    return found;
  };

  const layoutOf = async (name) => {
    if (!layouts.has(name)) {
      const { key } = map;
      const described = await server.layout(key, name);
      if (!described || key !== map.key) throw new Error(`there is no layout ${name}`);
      layouts.set(name, await fetchPoints(described));
    }
    return layouts.get(name);
  };

  if (!props.value?.key) await new Promise((resolve) => watch("value", () => props.value?.key && resolve()));

  let Plotly;
  try {
    const loading = Promise.all([loadPlotly(), open(props.value.key)]);
    loading.catch(() => {}); // handled below, unless there is no WebGL and nobody waits for it
    if (!hasWebGL()) {
      tell("The map needs WebGL, which this browser does not offer. All searches work without the map.");
      return;
    }
    [Plotly] = await loading;
  } catch (error) {
    console.warn(error);
    tell("The map could not be loaded. Reload the page to try again; all searches work without it.");
    return;
  }

  // Panels: one layout each, side by side -------------------------------------------------------------------------
  const REACH = 12; // pixels from a point that still mean it
  const MORPH = 600; // milliseconds from one layout to the next
  const GRAY = "#9ca3af";
  const STAR = "M0-10 2.9-3.3 9.5-3.1 4.3 1.1 5.9 8.1 0 4.2-5.9 8.1-4.3 1.1-9.5-3.1-2.9-3.3z";
  const SVG = "http://www.w3.org/2000/svg";
  const config = {
    displayModeBar: false, // its buttons are ours: real buttons, and none that sends data to Plotly's cloud
    plotlyServerURL: "",
    scrollZoom: false,
    doubleClick: false, // a double click is two picks; the reset button resets
    showTips: false,
  };

  const makePanel = (node) => {
    const part = (selector) => node.querySelector(selector);
    const plot = part(".map-plot"), frame = part(".map-frame"), overlay = part(".map-marks");
    let name = map.layout.name, points = layouts.get(name);
    let wanted = null; // ranges to be drawn in the next frame
    let fullWidth = 1, turn = 0, echoed = null, lasso = null;

    // Drawing
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
      unselected: { marker: { color: GRAY, opacity: 0.25 } },
      selectedpoints: selectedOf(c),
    });

    const layout = () => {
      const axis = { showgrid: false, zeroline: false, showticklabels: false, ticks: "" };
      return {
        margin: { l: 0, r: 0, t: 0, b: 0 },
        xaxis: { ...axis, range: [...points.home.x] },
        yaxis: { ...axis, range: [...points.home.y], scaleanchor: "x" },
        dragmode: "pan",
        hovermode: "closest",
        hoverdistance: REACH,
        showlegend: false,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
      };
    };

    // newPlot would drop the listeners
    const draw = async () => {
      await Plotly.react(plot, groups.map(classTrace), layout(), config);
      measure();
      noteZoom();
      paint();
    };

    const drawSelection = () => {
      const selectedpoints = classes.map(selectedOf);
      return Plotly.restyle(plot, { selectedpoints }, classes);
    };

    // From one layout to the next along straight lines, in as many steps as the machine manages
    const show = async (next) => {
      const mine = ++turn, target = layouts.get(next);
      hideTip();
      const from = points, free = !zoomed(), start = performance.now();
      [name, points] = [next, { ...target }];
      for (let share = 0; share < 1 && mine === turn; ) {
        share = calm ? 1 : Math.min(1, (performance.now() - start) / MORPH);
        const eased = share * share * (3 - 2 * share);
        const between = (a, b) => Float32Array.from(a, (value, i) => value + eased * (b[i] - value));
        points.x = between(from.x, target.x);
        points.y = between(from.y, target.y);
        const places = { x: groups.map((items) => pick(items, points.x)), y: groups.map((items) => pick(items, points.y)) };
        const ranges = free
          ? { "xaxis.range": between(from.home.x, target.home.x), "yaxis.range": between(from.home.y, target.home.y) }
          : {};
        for (const axis in ranges) ranges[axis] = Array.from(ranges[axis]);
        await Plotly.update(plot, places, ranges, classes);
        paint();
        await new Promise(requestAnimationFrame);
      }
      if (mine !== turn) return;
      points = target;
      measure();
      noteZoom();
      performance.mark("map-layout");
    };

    // Marks: not traces of Plotly's, with which every new mark would draw all points again, 0.1 s and more at 60,000
    const place = (item) => [points.x[item], points.y[item]];

    const screen = () => {
      const { xaxis, yaxis, _size } = plot._fullLayout; // their ranges follow a drag, their scales only its end
      const share = (value, [low, high]) => (value - low) / (high - low);
      return ([x, y]) => [
        _size.l + share(x, xaxis.range) * xaxis._length,
        _size.t + (1 - share(y, yaxis.range)) * yaxis._length,
      ];
    };

    const paint = () => {
      const at = screen();
      const shape = (kind, attributes) => {
        const made = document.createElementNS(SVG, kind);
        for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
        return made;
      };
      const move = (point) => `translate(${at(point).map((value) => value.toFixed(1)).join(",")})`;
      const nodes = marks.neighbors.map((item) => shape("circle", { r: 6.5, transform: move(place(item)) }));
      const query = marks.query === null ? marks.positions?.[name] : place(marks.query);
      if (query) nodes.push(shape("path", { d: STAR, transform: move(query) }));
      if (echoed !== null) nodes.push(shape("circle", { r: 10, class: "echo", transform: move(place(echoed)) }));
      if (lasso) nodes.push(shape("polygon", { points: lasso.join(" "), class: "lasso" }));
      overlay.replaceChildren(...nodes);
    };

    const echo = (item) => {
      echoed = item;
      paint();
    };

    // Plotly tells of the point that was under the mouse when it last looked, which a quick hand has left by now.
    const nearest = (event) => {
      const at = screen(), [left, top] = inPlot(event);
      let best = null, least = REACH ** 2;
      for (let item = 0; item < map.count; item++) {
        const [x, y] = at(place(item));
        const distance = (x - left) ** 2 + (y - top) ** 2;
        if (distance <= least && (!selected || selected[item] || best === null)) [best, least] = [item, distance];
      }
      return best;
    };

    const clicked = ({ event, points: [under] }) => {
      const item = event?.clientX === undefined ? under.customdata : nearest(event);
      if (item !== null) choose(item);
    };

    // View
    const current = () => {
      const { xaxis, yaxis } = plot._fullLayout; // the only place where Plotly keeps the drawn ranges and sizes
      return wanted || { x: xaxis.range.map(Number), y: yaxis.range.map(Number) };
    };

    const look = (ranges) => {
      hideTip();
      if (!wanted) requestAnimationFrame(() => {
        const { x, y } = wanted;
        wanted = null;
        Plotly.relayout(plot, { "xaxis.range": x, "yaxis.range": y }).then(noteZoom);
      });
      wanted = ranges;
    };

    const measure = () => {
      const { x, y } = points.home;
      fullWidth = Math.max((x[1] - x[0]) / plot.clientWidth, (y[1] - y[0]) / plot.clientHeight) * plot.clientWidth;
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
      look({ x: stretch(x, left / plot.clientWidth), y: stretch(y, 1 - top / plot.clientHeight) });
    };

    const pan = (right, down) => {
      const { x, y } = current();
      const dx = (right / plot.clientWidth) * (x[1] - x[0]), dy = (down / plot.clientHeight) * (y[1] - y[0]);
      look({ x: x.map((value) => value - dx), y: y.map((value) => value + dy) });
    };

    const reset = () => look({ x: [...points.home.x], y: [...points.home.y] });

    const inPlot = (event) => {
      const box = plot.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    const resize = () => {
      const { width, height } = plot._fullLayout;
      if (!plot.clientWidth || (plot.clientWidth === width && plot.clientHeight === height)) return;
      measure();
      hideTip();
      Plotly.Plots.resize(plot);
    };

    // Mouse, fingers and keys. Two fingers pinch, one pans once the map is zoomed (before that it scrolls the page).
    const onWheel = (event) => {
      // Within another page the wheel scrolls that page; with Ctrl, which is also what a touchpad's pinch sends, it zooms.
      if (framed && !event.ctrlKey) return;
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
      const turned = Math.max(-100, Math.min(100, event.deltaY * lines));
      zoom(Math.exp(turned * (event.ctrlKey ? 0.006 : 0.002)), ...inPlot(event));
    };

    const fingers = new Map();

    const onFinger = (event) => {
      const before = fingers.get(event.pointerId);
      if (!before || lasso) return;
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

    const onKey = (event) => {
      const moves = { ArrowLeft: [48, 0], ArrowRight: [-48, 0], ArrowUp: [0, 48], ArrowDown: [0, -48] };
      const does = { "+": () => zoom(0.8), "=": () => zoom(0.8), "-": () => zoom(1.25), 0: reset };
      if (event.ctrlKey || event.metaKey || event.altKey || !(moves[event.key] || does[event.key])) return;
      event.preventDefault();
      moves[event.key] ? pan(...moves[event.key]) : does[event.key]();
    };

    // Selecting: a lasso, or the two corners of a box, drawn on a sheet over the plot by mouse, finger or pen
    const sheet = part(".map-sheet");

    const startLasso = (event) => {
      sheet.setPointerCapture(event.pointerId);
      lasso = [inPlot(event)];
    };

    const drawLasso = (event) => {
      if (!lasso) return;
      const [x, y] = inPlot(event), [[left, top]] = lasso;
      if (mode === "box") lasso = [[left, top], [x, top], [x, y], [left, y]];
      else lasso.push([x, y]);
      paint();
    };

    const endLasso = () => {
      const drawn = lasso;
      lasso = null;
      paint();
      if (drawn?.length > 2) select({ items: within(drawn) });
    };

    const within = (polygon) => {
      const at = screen(), found = [];
      for (let item = 0; item < map.count; item++) {
        const [x, y] = at(place(item));
        let inside = false;
        for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
          const [ax, ay] = polygon[i], [bx, by] = polygon[j];
          if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
        }
        if (inside) found.push(item);
      }
      return found;
    };

    const listen = () => {
      plot.on("plotly_hover", (event) => showTip(panel, event.points[0].customdata));
      plot.on("plotly_unhover", hideTip);
      plot.on("plotly_click", clicked);
      plot.on("plotly_afterplot", paint);
      plot.on("plotly_relayouting", paint);
      plot.on("plotly_relayout", noteZoom);
      plot.on("plotly_webglcontextlost", () => tell("The graphics card dropped the map. Reload the page to see it again."));
      frame.addEventListener("wheel", onWheel, { passive: false });
      frame.addEventListener("keydown", onKey);
      frame.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "touch") fingers.set(event.pointerId, inPlot(event));
      });
      frame.addEventListener("pointermove", onFinger);
      for (const kind of ["pointerup", "pointercancel"])
        window.addEventListener(kind, (event) => fingers.delete(event.pointerId));
      // Plotly knows no pinch and swallows taps: it may not see touches, only the mouse events that follow a tap.
      plot.addEventListener("touchstart", (event) => event.stopPropagation(), { capture: true, passive: true });
      sheet.addEventListener("pointerdown", startLasso);
      sheet.addEventListener("pointermove", drawLasso);
      sheet.addEventListener("pointerup", endLasso);
      sheet.addEventListener("pointercancel", () => ((lasso = null), paint()));
      new ResizeObserver(resize).observe(plot);
    };

    const restart = () => {
      turn++;
      name = map.layout.name;
      points = layouts.get(name);
      return draw();
    };

    const tipAt = (item) => screen()(place(item));

    const panel = { node, frame, restart, draw, drawSelection, show, paint, echo, zoom, reset, listen, tipAt, layout: () => name };
    return panel;
  };

  const panels = [];
  const all = (does) => Promise.all(panels.map(does));

  // Marks -------------------------------------------------------------------------------------------------------
  let marks = { neighbors: [], query: null, positions: {} };

  const mark = (wanted) => {
    marks = wanted;
    panels.forEach((panel) => panel.paint());
    performance.mark("map-marked");
  };

  const markValue = () => {
    const { query = null, positions = {}, neighbors = [] } = props.value;
    mark({ query, positions, neighbors });
  };

  const choose = (item) => {
    // At once, before the server answers. Its answer may equal the present value, which no watch would report.
    if (item === props.value.query) markValue();
    else mark({ neighbors: [], query: item, positions: {} });
    trigger("pick", { item });
  };

  // The value marks its own map, which may be another than the one on screen, and may select items.
  let followed = null;

  const follow = async () => {
    if (props.value.key === map.key) {
      markValue();
      followSelection();
      return;
    }
    mark({ neighbors: [], query: null, positions: {} });
    const { key } = props.value;
    try {
      await open(key);
      if (props.value.key !== key) return follow();
      forgetTiles();
      deselect();
      fillLegend();
      await all((panel) => panel.restart());
      panels.forEach(fillControls);
      markValue();
      tell("");
    } catch (error) {
      console.warn(error);
      tell("The new map could not be loaded. Reload the page to try again; all searches work without it.");
    }
  };

  const followSelection = () => {
    const wanted = props.value.selection;
    if (!wanted || wanted.id === followed) return;
    followed = wanted.id;
    chosen = new Set();
    adopt(wanted.items);
  };

  // Selection: what is not selected turns gray, and never disappears ------------------------------------------------
  let selected = null; // a byte for each item, or null: then nothing is gray
  let chosen = new Set(); // classes, while whole classes are selected
  let mode = "pan";
  const chips = [];
  let allChip, drawTimer;

  const selectedOf = (c) => {
    if (!selected) return null;
    const places = [];
    groups[c].forEach((item, place) => selected[item] && places.push(place));
    return places;
  };

  const adopt = (items) => {
    selected = items ? new Uint8Array(map.count) : null;
    items?.forEach((item) => (selected[item] = 1));
    chips.forEach((chip, c) => chip.setAttribute("aria-pressed", chosen.has(c)));
    allChip.setAttribute("aria-pressed", !selected);
    find(".map-legend").classList.toggle("some", chosen.size > 0);
    count();
    fillTable();
    clearTimeout(drawTimer); // a double click is two clicks first: draw once
    drawTimer = setTimeout(() => all((panel) => panel.drawSelection()).then(() => performance.mark("map-selected")), 30);
  };

  const select = ({ items, named = new Set() }) => {
    chosen = named;
    adopt(items);
    trigger("selected", named.size ? { key: map.key, classes: [...named] } : { key: map.key, items });
  };

  const deselect = () => {
    chosen = new Set();
    selected = null;
  };

  const selectNothing = () => {
    deselect();
    adopt(null);
    trigger("selected", { key: map.key, items: null });
  };

  const selectClasses = (named) => {
    if (!named.size || named.size === classes.length) return selectNothing();
    select({ items: [...named].flatMap((c) => Array.from(groups[c])), named });
  };

  const toggle = (c) => {
    const named = new Set(chosen);
    named.has(c) ? named.delete(c) : named.add(c);
    selectClasses(named);
  };

  const count = () => {
    const n = selected ? selected.reduce((sum, value) => sum + value, 0) : map.count;
    find(".map-count").textContent = `${whole(n)} of ${whole(map.count)} points`;
    find(".map-clear").hidden = !selected;
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
    chip.title = `${whole(groups[c].length)} points. Click selects the class, a further click adds another`;
    chip.addEventListener("click", (event) => (event.shiftKey ? selectClasses(new Set([c])) : toggle(c)));
    chips.push(chip);
  };

  const fillLegend = () => {
    const legend = find(".map-legend");
    legend.replaceChildren();
    legend.hidden = map.classes.length < 2;
    chips.length = 0;
    allChip = makeChip("All", "");
    allChip.addEventListener("click", selectNothing);
    map.classes.forEach(addChip);
    adopt(null);
  };

  // "7" is the class 7 where there is one, else item 7; "item 7" and "#7" are always the item.
  const search = (text) => {
    const plain = (words) => words.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");
    const wanted = plain(text);
    if (!wanted) return selectNothing();
    const names = map.classes.map(plain);
    const matching = (test) => new Set(classes.filter((c) => names[c] && test(names[c])));
    const exact = matching((name) => name === wanted);
    const [, number] = text.trim().match(/^(?:item|#)?\s*(\d+)$/i) || [];
    if (exact.size) return selectClasses(exact);
    if (number !== undefined && Number(number) < map.count) return select({ items: [Number(number)] });
    const partly = matching((name) => name.includes(wanted));
    if (partly.size) return selectClasses(partly);
    find(".map-count").textContent = `Nothing here is called ${text.trim().slice(0, 40)}`;
  };

  const setMode = (wanted) => {
    mode = mode === wanted ? "pan" : wanted;
    for (const button of element.querySelectorAll("[data-mode]"))
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
    panels.forEach(({ frame }) => frame.classList.toggle("selecting", mode !== "pan"));
    hideTip();
  };

  // Layouts -----------------------------------------------------------------------------------------------------
  const umaps = () => map.layouts.filter(({ method }) => method === "umap");
  const distinct = (values) => [...new Set(values)].sort((a, b) => a - b);

  const fillControls = (panel) => {
    const part = (selector) => panel.node.querySelector(selector);
    const bar = part(".map-layout"), method = part(".map-method");
    bar.hidden = map.layouts.length < 2;
    if (bar.hidden) return;
    const present = map.layouts.find(({ name }) => name === panel.layout());
    const others = map.layouts.filter(({ method }) => method !== "umap");
    const options = [...(umaps().length ? [["umap", "UMAP"]] : []), ...others.map(({ name, title }) => [name, title])];
    method.replaceChildren(...options.map(([value, text]) => Object.assign(document.createElement("option"), { value, text })));
    method.value = present.method === "umap" ? "umap" : present.name;
    for (const slider of bar.querySelectorAll("label")) slider.hidden = present.method !== "umap";
    if (present.method !== "umap") return;
    const near = distinct(umaps().map(({ n_neighbors }) => n_neighbors));
    const apart = distinct(umaps().filter((one) => one.n_neighbors === present.n_neighbors).map(({ min_dist }) => min_dist));
    setSlider(part(".map-near"), near, present.n_neighbors);
    setSlider(part(".map-apart"), apart, present.min_dist);
  };

  const setSlider = (slider, steps, value) => {
    slider.steps = steps;
    slider.max = steps.length - 1;
    slider.value = steps.indexOf(value);
    slider.disabled = steps.length < 2;
    slider.setAttribute("aria-valuetext", value);
    slider.parentElement.querySelector("output").textContent = value;
  };

  const showLayout = async (panel, name) => {
    try {
      await layoutOf(name);
      const shown = panel.show(name);
      fillControls(panel);
      await shown;
    } catch (error) {
      console.warn(error);
      find(".map-count").textContent = "The layout could not be loaded: try again.";
      fillControls(panel);
    }
  };

  const connectControls = (panel) => {
    const part = (selector) => panel.node.querySelector(selector);
    const last = () => umaps().find(({ name }) => name === panel.layout()) ?? umaps()[0];
    const closest = (near, apart) => {
      const gap = (one) => Math.abs(Math.log(one.n_neighbors / near)) * 10 + Math.abs(one.min_dist - apart);
      return umaps().reduce((best, one) => (gap(one) < gap(best) ? one : best));
    };
    part(".map-method").addEventListener("change", ({ target }) =>
      showLayout(panel, target.value === "umap" ? last().name : target.value));
    part(".map-near").addEventListener("change", ({ target }) =>
      showLayout(panel, closest(target.steps[target.value], last().min_dist).name));
    part(".map-apart").addEventListener("change", ({ target }) =>
      showLayout(panel, closest(last().n_neighbors, target.steps[target.value]).name));
    for (const slider of panel.node.querySelectorAll("input[type=range]"))
      slider.addEventListener("input", () => {
        slider.parentElement.querySelector("output").textContent = slider.steps[slider.value];
      });
  };

  const blank = find(".map-panel").cloneNode(true); // before Plotly fills it

  const addPanel = async (node) => {
    const panel = makePanel(node);
    panels.push(panel);
    await panel.draw();
    panel.listen();
    connectControls(panel);
    fillControls(panel);
    return panel;
  };

  const sideBySide = async () => {
    const button = find("[data-tool=pair]");
    const two = panels.length === 1;
    button.setAttribute("aria-pressed", two);
    find(".map-panels").classList.toggle("two", two);
    if (!two) return panels.pop().node.remove();
    const node = blank.cloneNode(true);
    find(".map-panels").append(node);
    const panel = await addPanel(node);
    node.querySelector(".map-frame").classList.toggle("selecting", mode !== "pan");
    const others = map.layouts.filter(({ name }) => name !== panels[0].layout());
    await showLayout(panel, (others.find(({ method }) => method === "tsne") ?? others[0]).name);
  };

  // Table: every point without seeing or dragging it ----------------------------------------------------------------
  const ROWS = 50;
  let page = 0;

  const rowsOf = () => {
    const items = [];
    for (let item = 0; item < map.count; item++) if (!selected || selected[item]) items.push(item);
    return items;
  };

  const fillTable = () => {
    const table = find(".map-table");
    if (table.hidden) return;
    const items = rowsOf(), pages = Math.max(1, Math.ceil(items.length / ROWS));
    page = Math.min(page, pages - 1);
    const { x, y } = layouts.get(map.layout.name);
    const rows = items.slice(page * ROWS, (page + 1) * ROWS).map((item) => {
      const row = document.createElement("tr");
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: `Item ${item}` });
      button.className = "link";
      button.setAttribute("aria-label", `Search with item ${item}`);
      button.addEventListener("click", () => choose(item));
      const cells = [button, map.classes[label[item]] ?? "", x[item].toFixed(2), y[item].toFixed(2)];
      row.append(...cells.map((content) => {
        const cell = document.createElement("td");
        cell.append(content);
        return cell;
      }));
      return row;
    });
    table.querySelector("tbody").replaceChildren(...rows);
    const start = items.length ? page * ROWS + 1 : 0;
    table.querySelector(".pages").textContent = `${whole(start)} to ${whole(page * ROWS + rows.length)} of ${whole(items.length)}`;
    table.querySelector("[data-page=back]").disabled = page === 0;
    table.querySelector("[data-page=on]").disabled = page === pages - 1;
  };

  const turnPage = (by) => {
    page += by;
    fillTable();
  };

  const showTable = () => {
    const table = find(".map-table"), on = table.hidden;
    table.hidden = !on;
    find(".map-panels").hidden = on;
    find("[data-tool=table]").setAttribute("aria-pressed", on);
    fillTable();
  };

  // Tooltip -----------------------------------------------------------------------------------------------------
  const PAGES = 64;
  const tip = find(".map-tip");
  const tiles = new Map(); // item -> [page, place on it]
  const pages = [];
  let hovered = null, asked = null, over = null;

  const keep = async (answer) => {
    const picture = new Image();
    picture.src = answer.image;
    await picture.decode();
    const sheet = { ...answer, picture };
    answer.items.forEach((item, place) => tiles.set(item, [sheet, place]));
    if (pages.push(sheet) > PAGES) for (const item of pages.shift().items) tiles.delete(item);
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
    const [left, top] = over.tipAt(item), { frame } = over;
    const before = left + 16 + tip.offsetWidth > frame.clientWidth;
    tip.style.left = `${Math.max(4, before ? left - 16 - tip.offsetWidth : left + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(top - tip.offsetHeight / 2, frame.clientHeight - tip.offsetHeight - 4))}px`;
  };

  const hideTip = () => {
    hovered = null;
    tip.hidden = true;
    for (const panel of panels) {
      panel.frame.classList.remove("hot");
      panel.echo(null);
    }
  };

  const showTip = (panel, item) => {
    [hovered, over] = [item, panel];
    panel.frame.append(tip);
    tip.querySelector("strong").textContent = map.classes[label[item]] ?? "";
    tip.querySelector("span").textContent = `item ${item}`;
    tip.hidden = false;
    panel.frame.classList.add("hot");
    for (const other of panels) other.echo(other === panel ? null : item);
    paintTile(item);
    placeTip(item);
    setTimeout(() => hovered === item && askForTile(item), 40); // not for points that the mouse only passes
  };

  // Together ----------------------------------------------------------------------------------------------------
  const listen = () => {
    watch("value", follow);
    const tools = {
      in: () => all((panel) => panel.zoom(0.6)),
      out: () => all((panel) => panel.zoom(1 / 0.6)),
      reset: () => all((panel) => panel.reset()),
      lasso: () => setMode("lasso"),
      box: () => setMode("box"),
      pair: sideBySide,
      table: showTable,
      clear: selectNothing,
    };
    for (const button of element.querySelectorAll("[data-tool]"))
      button.addEventListener("click", tools[button.dataset.tool]);
    find("[data-page=back]").addEventListener("click", () => turnPage(-1));
    find("[data-page=on]").addEventListener("click", () => turnPage(1));
    find(".map-find").addEventListener("keydown", (event) => event.key === "Enter" && search(event.target.value));
    find(".map-find").addEventListener("search", (event) => event.target.value || selectNothing());
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
    await addPanel(find(".map-panel"));
    find("[data-tool=pair]").hidden = map.layouts.length < 2;
    listen();
    tell("");
    await follow();
    performance.mark("map-drawn");
  } catch (error) {
    console.error(error);
    tell("The map could not be drawn in this browser. All searches work without it.");
  }
})();
