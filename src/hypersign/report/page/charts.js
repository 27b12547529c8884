"use strict";
// Charts as SVG. Their colours are CSS properties of the page, so dark mode and print need no redrawing. A chart is
// drawn when its box first has a width, and again when the width changes: folded parts of the page draw on opening.
const charts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const SHAPES = ["circle", "square", "triangle", "diamond", "down", "plus", "cross"];
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "5 2 1 2", "12 4", "3 2"];

  function node(name, attributes = {}, parent = null) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) if (value != null) made.setAttribute(key, value);
    parent?.append(made);
    return made;
  }

  // The outline of a mark of radius r around (x, y).
  function shape(kind, x, y, r) {
    const line = (...points) => `M${points.map(([a, b]) => `${(x + a * r).toFixed(1)} ${(y + b * r).toFixed(1)}`).join("L")}Z`;
    switch (kind) {
      case "square": return line([-.9, -.9], [.9, -.9], [.9, .9], [-.9, .9]);
      case "triangle": return line([0, -1.2], [1.1, .8], [-1.1, .8]);
      case "down": return line([0, 1.2], [1.1, -.8], [-1.1, -.8]);
      case "diamond": return line([0, -1.3], [1.1, 0], [0, 1.3], [-1.1, 0]);
      case "plus": return line([-.35, -1.2], [.35, -1.2], [.35, -.35], [1.2, -.35], [1.2, .35], [.35, .35], [.35, 1.2],
        [-.35, 1.2], [-.35, .35], [-1.2, .35], [-1.2, -.35], [-.35, -.35]);
      case "cross": return line([-1.1, -.6], [-.6, -1.1], [0, -.5], [.6, -1.1], [1.1, -.6], [.5, 0], [1.1, .6], [.6, 1.1],
        [0, .5], [-.6, 1.1], [-1.1, .6], [-.5, 0]);
      default: return `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
    }
  }

  // The look of the i-th of several series: every two differ in shape or dash even without colour.
  const look = (i) => ({
    colour: `var(--series-${i % 7})`, shape: SHAPES[(i + Math.floor(i / 7)) % 7], dash: DASHES[(i + Math.floor(i / 7)) % 7],
  });

  // Scales -----------------------------------------------------------------------------------------------
  function steps(low, high, count) {
    const raw = (high - low) / Math.max(count, 1) || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw * .999);
  }

  function ticks(low, high, count) {
    const step = steps(low, high, count);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
    return found;
  }

  function logTicks(low, high, count) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const factor of [1, 2, 5]) found.push(factor * 10 ** power);
    }
    const inside = found.filter((value) => value >= low * .999 && value <= high * 1.001);
    const decades = inside.filter((value) => Math.abs(Math.log10(value) % 1) < 1e-6);
    const shown = inside.length > count && decades.length > 1 ? decades : inside;
    const every = Math.ceil(shown.length / Math.max(count, 1));
    return shown.filter((_, i) => i % every === 0);
  }

  function scale(axis, values, from, to, count) {
    const known = values.filter((value) => Number.isFinite(value) && (!axis.log || value > 0));
    let [low, high] = axis.domain ?? [Math.min(...known), Math.max(...known)];
    if (axis.zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
    if (!(low < high)) {
      const around = axis.log ? low / 2 : Math.abs(low) / 10 || 1;
      [low, high] = axis.log ? [low / 2, high * 2] : axis.zero ? [0, around] : [low - around, high + around];
    }
    const place = axis.log ? Math.log10 : (value) => value;
    if (!axis.domain && axis.pad !== 0) {
      const margin = (place(high) - place(low)) * (axis.pad ?? .04);
      [low, high] = axis.log
        ? [10 ** (Math.log10(low) - margin), 10 ** (Math.log10(high) + margin)]
        : [axis.zero && low === 0 ? 0 : low - margin, axis.zero && high === 0 ? 0 : high + margin];
    }
    const map = (value) => from + (place(value) - place(low)) / (place(high) - place(low)) * (to - from);
    const marks = axis.ticks ?? (axis.log ? logTicks : ticks)(low, high, count);
    return { map, low, high, ticks: axis.whole ? marks.filter(Number.isInteger) : marks };
  }

  function words(axis, tick, all) {
    if (axis.format) return axis.format(tick);
    if (tick && (Math.abs(tick) >= 1e5 || Math.abs(tick) < 1e-3)) return tick.toExponential(0).replace("-", "−").replace("+", "");
    const digits = axis.log ? null : Math.max(0, ...all.map((value) => (String(value).split(".")[1] ?? "").length));
    return (digits == null ? String(Number(tick.toPrecision(3))) : tick.toFixed(digits)).replace("-", "−");
  }

  // Tooltip of the points ----------------------------------------------------------------------------------
  const tip = document.createElement("div");
  tip.className = "point-tip";
  tip.hidden = true;

  function showTip(event, lines) {
    tip.replaceChildren(...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })));
    tip.hidden = false;
    if (!tip.isConnected) document.body.append(tip);
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6))}px`;
    tip.style.top = `${event.clientY + height + 26 > innerHeight ? event.clientY - height - 12 : event.clientY + 16}px`;
  }

  // Draws one chart into `box`. The chart has axes `x` and `y`, a list of `marks`, and may have a `legend`.
  //   axis: {title, domain, log, zero, pad, ticks, whole, format, grid}; y may have `band`, the names of its rows
  //   mark: {kind: line | area | point | rule | tick | rect | text, rows, x, y, ..., colour, tip}
  // Where a mark's row has `layer`, a click on it calls `pick(layer)`.
  function render(box, chart) {
    const width = Math.floor(box.clientWidth);
    if (width < 40) return;
    const { x, y, marks } = chart;
    const band = y.band;
    const step = band ? chart.step ?? 30 : 0;
    const get = (row, field) => typeof field === "function" ? field(row) : row[field];
    const values = (axis, fields) => [
      ...marks.flatMap((mark) => mark.free?.includes(axis) ? [] : (mark.rows ?? []).flatMap((row) => fields.map((field) =>
        mark[field] == null ? null : get(row, mark[field])))),
    ].filter((value) => typeof value === "number");
    const labelSize = 12;
    const narrow = width < 420;
    let left;
    if (band) left = Math.min(narrow ? 96 : 132, 16 + 6.6 * Math.max(...band.map((name) => name.length)));
    const top = 8, bottom = (x.title ? 22 : 4) + 20;
    const height = band ? band.length * step + top + bottom : chart.height ?? 260;
    const yScale = band ? null : scale(y, values("y", ["y", "y2", "y0", "y1"]), height - bottom, top, y.count ?? 5);
    const yWords = yScale?.ticks.map((tick) => words(y, tick, yScale.ticks));
    left ??= (y.title ? 20 : 4) + 10 + 6.6 * Math.max(...yWords.map((text) => text.length), 1);
    const right = width - (chart.right ?? 14);
    const xScale = scale(x, values("x", ["x", "x2", "x0", "x1"]), left, right, x.count ?? Math.max(3, Math.floor((right - left) / 90)));
    const root = node("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": chart.label });
    if (chart.tall) root.style.maxHeight = `${height}px`;
    const inside = (value, { low, high }) => value >= Math.min(low, high) - 1e-9 && value <= Math.max(low, high) + 1e-9;
    const bandAt = (name) => top + (band.indexOf(name) + .5) * step;

    // Axes and grid
    const frame = node("g", { class: "frame" }, root);
    for (const tick of xScale.ticks) {
      const at = xScale.map(tick);
      if (x.grid !== false) node("line", { class: "grid", x1: at, x2: at, y1: top, y2: height - bottom }, frame);
      node("text", { class: "tick", x: at, y: height - bottom + 16, "text-anchor": "middle" }, frame).textContent = words(x, tick, xScale.ticks);
    }
    if (x.title) node("text", { class: "title", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, frame).textContent = x.title;
    if (band) {
      for (const name of band) {
        const at = bandAt(name);
        const row = node("rect", { class: "row", x: 0, y: at - step / 2, width, height: step, rx: 4, "data-layer": name }, root);
        if (chart.pick) row.classList.add("picks");
        if (chart.chosen === name) row.classList.add("chosen");
        const most = Math.floor((left - 12) / 6.6);
        const text = node("text", { class: "tick name", x: left - 8, y: at + 4, "text-anchor": "end" }, frame);
        text.textContent = name.length > most ? `…${name.slice(name.length - most + 1)}` : name;
      }
      root.append(frame);
    } else {
      for (const [i, tick] of yScale.ticks.entries()) {
        const at = yScale.map(tick);
        if (y.grid !== false) node("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }, frame);
        node("text", { class: "tick", x: left - 6, y: at + 4, "text-anchor": "end" }, frame).textContent = yWords[i];
      }
      if (y.title) {
        node("text", { class: "title", transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, frame)
          .textContent = y.title;
      }
    }
    node("line", { class: "axis", x1: left, x2: right, y1: height - bottom, y2: height - bottom }, frame);

    // Marks
    const targets = [];
    const yOf = (row, mark, field = "y") => band ? bandAt(get(row, mark[field])) + (mark.lane ?? 0) : yScale.map(get(row, mark[field]));
    const remember = (mark, row, at, up) => {
      if (mark.tip || row.layer) targets.push({ at, up, row, mark });
    };
    for (const mark of marks) {
      const group = node("g", { class: `mark ${mark.kind}${mark.name ? ` ${mark.name}` : ""}`, opacity: mark.opacity }, root);
      const rows = (mark.rows ?? []).filter((row) => ["x", "y", "x2", "x0", "x1", "y0", "y1"].every((field) => {
        if (mark[field] == null) return true;
        const value = get(row, mark[field]);
        return typeof value === "string" || Number.isFinite(value) && !((field[0] === "x" ? x : y).log && value <= 0);
      }));
      const colour = (row) => typeof mark.colour === "function" ? mark.colour(row) : mark.colour;
      if (mark.kind === "line" || mark.kind === "area") {
        const points = rows.map((row) => [xScale.map(get(row, mark.x)), yOf(row, mark)]);
        if (!points.length) continue;
        let path = `M${points.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L")}`;
        if (mark.kind === "area") {
          const base = Math.min(height - bottom, yScale.map(Math.max(0, yScale.low)));
          path += `L${points.at(-1)[0].toFixed(1)} ${base}L${points[0][0].toFixed(1)} ${base}Z`;
        }
        node("path", {
          d: path, fill: mark.kind === "area" ? mark.colour : "none", stroke: mark.kind === "area" ? null : mark.colour,
          "stroke-width": mark.width ?? 2, "stroke-dasharray": mark.dash || null, "stroke-linejoin": "round",
        }, group);
        if (mark.tip) rows.forEach((row, i) => remember(mark, row, ...points[i]));
        continue;
      }
      for (const row of rows) {
        const at = mark.x == null ? (left + right) / 2 : xScale.map(get(row, mark.x));
        const up = mark.y == null ? (top + height - bottom) / 2 : yOf(row, mark);
        if (mark.kind === "point") {
          const kind = typeof mark.shape === "function" ? mark.shape(row) : mark.shape;
          node("path", {
            d: shape(kind, at, up, mark.size ?? 4.5), fill: mark.hollow ? "var(--card)" : colour(row), stroke: mark.hollow ? colour(row) : null,
            "stroke-width": mark.hollow ? 1.6 : null, class: "dot",
          }, group);
        } else if (mark.kind === "tick") {
          node("line", { x1: at, x2: at, y1: up - (mark.size ?? 7), y2: up + (mark.size ?? 7), stroke: colour(row), "stroke-width": mark.width ?? 2.5 }, group);
        } else if (mark.kind === "rule") {
          const ends = mark.x == null ? { x1: left, x2: right, y1: up, y2: up }
            : mark.y == null ? { x1: at, x2: at, y1: top, y2: height - bottom }
            : mark.y2 != null ? { x1: at, x2: at, y1: up, y2: yOf(row, mark, "y2") }
            : { x1: at, x2: xScale.map(get(row, mark.x2)), y1: up, y2: up };
          node("line", { ...ends, stroke: colour(row), "stroke-width": mark.width ?? 2, "stroke-dasharray": mark.dash || null }, group);
        } else if (mark.kind === "rect") {
          const [x0, x1] = [xScale.map(get(row, mark.x0)), xScale.map(get(row, mark.x1))];
          const [y0, y1] = band ? [up - mark.thick / 2, up + mark.thick / 2] : [yScale.map(get(row, mark.y0)), yScale.map(get(row, mark.y1))];
          node("rect", {
            x: Math.min(x0, x1), width: Math.abs(x1 - x0), y: Math.min(y0, y1), height: Math.abs(y1 - y0),
            fill: colour(row), "fill-opacity": mark.shade ? mark.shade(row) : null, "shape-rendering": mark.shade ? "crispEdges" : null,
          }, group);
          if (mark.tip) remember(mark, row, (x0 + x1) / 2, (y0 + y1) / 2);
          continue;
        } else if (mark.kind === "text") {
          node("text", { class: "label", x: at + (mark.dx?.(row) ?? 0), y: up + (mark.dy?.(row) ?? 0), "text-anchor": mark.anchor?.(row) ?? "middle" }, group)
            .textContent = get(row, mark.text);
          continue;
        }
        if (inside(get(row, mark.x) ?? xScale.low, xScale)) remember(mark, row, at, up);
      }
    }

    // Pointer: the nearest point's numbers; a click picks its layer.
    const nearest = (event) => {
      const rect = root.getBoundingClientRect();
      const ratio = width / rect.width;
      const [across, up] = [(event.clientX - rect.left) * ratio, (event.clientY - rect.top) * ratio];
      let best = null, least = 24 ** 2;
      for (const target of targets) {
        const far = (target.at - across) ** 2 + (target.up - up) ** 2;
        if (far < least) [best, least] = [target, far];
      }
      return best;
    };
    root.addEventListener("pointermove", (event) => {
      const found = nearest(event);
      if (found?.mark.tip) showTip(event, found.mark.tip(found.row));
      else tip.hidden = true;
      root.classList.toggle("over", Boolean(chart.pick && (found?.row.layer || event.target.dataset?.layer)));
    });
    root.addEventListener("pointerleave", () => { tip.hidden = true; });
    if (chart.pick) {
      root.addEventListener("click", (event) => {
        const name = event.target.dataset?.layer ?? nearest(event)?.row.layer;
        if (name != null) chart.pick(name);
      });
    }
    box.replaceChildren(...(chart.legend?.length ? [legend(chart.legend)] : []), root);
  }

  // Names of the series, each with its colour, shape and dash.
  function legend(entries) {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const entry of entries) {
      const item = document.createElement("li");
      const sample = node("svg", { viewBox: "0 0 26 12", width: 26, height: 12, "aria-hidden": "true" });
      if (entry.line !== false && (entry.dash != null || entry.line)) {
        node("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: entry.colour, "stroke-width": 2, "stroke-dasharray": entry.dash || null }, sample);
      }
      if (entry.shape === "tick") node("line", { x1: 13, x2: 13, y1: 0, y2: 12, stroke: entry.colour, "stroke-width": 2.5 }, sample);
      else if (entry.shape) node("path", { d: shape(entry.shape, 13, 6, 4), fill: entry.colour }, sample);
      item.append(sample, entry.text);
      list.append(item);
    }
    return list;
  }

  // Drawing ------------------------------------------------------------------------------------------------
  const shown = new Map(); // box -> the chart in it
  const watcher = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const state = shown.get(target);
      if (state && Math.floor(target.clientWidth) !== state.width) redraw(target, state);
    }
  });

  function redraw(box, state) {
    state.width = Math.floor(box.clientWidth);
    if (state.width >= 40) render(box, state.chart);
  }

  function draw(id, chart) {
    const box = document.getElementById(id);
    if (!box) return;
    const state = { chart, width: -1 };
    if (!shown.has(box)) watcher.observe(box);
    shown.set(box, state);
    redraw(box, state);
  }

  function note(id, text) {
    const box = document.getElementById(id);
    if (!box) return;
    shown.delete(box);
    watcher.unobserve(box);
    box.replaceChildren(Object.assign(document.createElement("p"), { className: "note", textContent: text }));
  }

  // Marks the row of a layer in a chart that has rows.
  function choose(id, layer) {
    const box = document.getElementById(id);
    const state = box && shown.get(box);
    if (!state) return;
    state.chart.chosen = layer;
    for (const row of box.querySelectorAll(".row")) row.classList.toggle("chosen", row.dataset.layer === layer);
  }

  return { draw, note, choose, look, legend, DASHES, SHAPES };
})();
