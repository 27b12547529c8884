"use strict";
// The page around the packed network: drawing, the layers' pictures, one unit, flipped bits.
const element = (id) => document.getElementById(id);
const given = JSON.parse(element("data").textContent);

function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

function loadNetwork(base64) {
  try {
    return Packed.load(bytes(base64).buffer);
  } catch (error) {
    element("failed").textContent = error.message;
    element("failed").hidden = false;
    throw error;
  }
}

const network = loadNetwork(given.network);
const twin = given.twin && loadNetwork(given.twin);

(() => {
  const [channels, height, width] = network.shape, colour = channels === 3;
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const count = (number) => number.toLocaleString("en-US");
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
  const signed = (number, digits = 0) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(digits);
  const plain = (number) => String(number).replace("-", "−");

  function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  // State ---------------------------------------------------------------------------------------------------------
  let pixels = new Uint8Array(height * width * channels); // the network's input: (row, column, channel)
  let clean = null, values = null; // values without and with flipped bits
  let broken = network, share = 0, seed = 1;
  let chosen = null, twinValues = null, twinLater = 0;

  // Drawing -------------------------------------------------------------------------------------------------------
  const pad = element("pad"), zoom = Math.max(1, Math.round(280 / Math.max(height, width)));
  pad.width = width * zoom;
  pad.height = height * zoom;
  const pen = pad.getContext("2d", { willReadFrequently: true });
  let picture = false; // whether the pad shows a picture instead of strokes alone
  let cursor = [Math.floor(height / 2), Math.floor(width / 2)];
  const brush = () => pad.width / (Math.max(height, width) <= 16 ? 7 : 11);
  const ink = () => (colour ? element("colour").value : "#fff");

  function clear() {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, pad.width, pad.height);
    picture = false;
  }

  function stroke(points) {
    pen.strokeStyle = pen.fillStyle = ink();
    pen.lineWidth = brush();
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (points.length === 1) pen.lineTo(points[0][0] + 0.01, points[0][1]);
    pen.stroke();
  }

  // The mean of each square of zoom x zoom points.
  function shrink(context) {
    const data = context.getImageData(0, 0, pad.width, pad.height).data, out = new Uint8Array(height * width * channels);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const sum = [0, 0, 0];
        for (let i = 0; i < zoom; i++)
          for (let j = 0, at = 4 * ((y * zoom + i) * pad.width + x * zoom); j < zoom; j++, at += 4)
            for (let c = 0; c < 3; c++) sum[c] += data[at + c];
        const mean = sum.map((total) => total / zoom ** 2), to = (y * width + x) * channels;
        if (channels === 3) for (let c = 0; c < 3; c++) out[to + c] = Math.round(mean[c]);
        else out.fill(Math.round(mean[0] === mean[1] && mean[1] === mean[2] ? mean[0] : grey(mean)), to, to + channels);
      }
    return out;
  }

  const grey = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b;

  // Strokes moved and scaled to the frame, as data sets of digits have them: small images are filled, larger ones have a
  // border and the centre of mass in the middle.
  function fitted() {
    const data = pen.getImageData(0, 0, pad.width, pad.height).data;
    let left = Infinity, right = -1, top = Infinity, bottom = -1, mass = 0, sx = 0, sy = 0;
    for (let y = 0; y < pad.height; y++)
      for (let x = 0; x < pad.width; x++) {
        const value = data[4 * (y * pad.width + x)];
        if (value < 40) continue;
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y);
        mass += value;
        sx += value * x;
        sy += value * y;
      }
    if (right < 0) return pen;
    const small = Math.max(height, width) <= 16, w = right - left + 1, h = bottom - top + 1;
    const box = Math.min(pad.width, pad.height) * (small ? 1 : 20 / 28), scale = Math.min(box / Math.max(w, h), 4);
    const [cx, cy] = small ? [left + w / 2, top + h / 2] : [sx / mass, sy / mass];
    const canvas = make("canvas", { width: pad.width, height: pad.height }), context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, pad.width, pad.height);
    context.setTransform(scale, 0, 0, scale, pad.width / 2 - scale * cx, pad.height / 2 - scale * cy);
    context.drawImage(pad, 0, 0);
    context.resetTransform();
    return context;
  }

  function takeDrawing() {
    pixels = shrink(!colour && !picture && element("fit").checked ? fitted() : pen);
    update();
  }

  function show(image) { // pixels onto the pad
    const canvas = make("canvas");
    paintPixels(canvas, image);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(canvas, 0, 0, pad.width, pad.height);
    picture = true;
  }

  function paintPixels(canvas, image) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), data = context.createImageData(width, height);
    for (let p = 0; p < height * width; p++) {
      for (let c = 0; c < 3; c++) data.data[4 * p + c] = image[p * channels + (channels === 3 ? c : 0)];
      data.data[4 * p + 3] = 255;
    }
    context.putImageData(data, 0, 0);
  }

  function take(image) {
    pixels = image;
    show(image);
    update();
  }

  async function takeFile(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    } catch {
      element("pad-help").textContent = `${file.name || "It"} cannot be read as a picture.`;
      return;
    }
    const canvas = make("canvas", { width, height }), context = canvas.getContext("2d", { willReadFrequently: true });
    const scale = Math.max(width / bitmap.width, height / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    context.imageSmoothingEnabled = scale !== 1;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
    const data = context.getImageData(0, 0, width, height).data, image = new Uint8Array(height * width * channels);
    for (let p = 0; p < height * width; p++) {
      const rgb = [data[4 * p], data[4 * p + 1], data[4 * p + 2]], same = rgb[0] === rgb[1] && rgb[1] === rgb[2];
      for (let c = 0; c < channels; c++)
        image[p * channels + c] = channels === 3 ? rgb[c] : same ? rgb[0] : Math.round(grey(rgb));
    }
    take(image);
  }

  function point(event) {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) * (pad.width / box.width), (event.clientY - box.top) * (pad.height / box.height)];
  }

  let last = null, untouched = true;
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    if (untouched) clear(); // the first stroke replaces the first picture
    untouched = false;
    stroke([(last = point(event))]);
    schedule(takeDrawing);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) stroke([last, (last = point(part))]);
    schedule(takeDrawing);
  });
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => { last = null; });
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) {
      cursor = [Math.min(Math.max(cursor[0] + step[0], 0), height - 1), Math.min(Math.max(cursor[1] + step[1], 0), width - 1)];
      element("pad-help").textContent = `Row ${cursor[0]}, column ${cursor[1]}. Space paints, Delete clears.`;
    } else if (event.key === " ") {
      if (untouched) clear();
      untouched = false;
      stroke([[(cursor[1] + 0.5) * zoom, (cursor[0] + 0.5) * zoom]]);
      takeDrawing();
    } else if (event.key === "Delete" || event.key === "Backspace") element("clear").click();
    else return;
    event.preventDefault();
  });
  element("clear").addEventListener("click", () => { clear(); untouched = false; takeDrawing(); });
  element("fit").addEventListener("change", takeDrawing);
  element("file").addEventListener("change", (event) => event.target.files[0] && takeFile(event.target.files[0]));
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) takeFile(file);
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); pad.classList.add("over"); });
  document.addEventListener("dragleave", () => pad.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    pad.classList.remove("over");
    if (event.dataTransfer.files[0]) takeFile(event.dataTransfer.files[0]);
  });
  element("fit-label").hidden = colour;
  element("colour-label").hidden = !colour;

  // The first picture, where no example is given: a digit, a shirt or a ship.
  function firstDrawing() {
    clear();
    const at = (points) => points.map(([x, y]) => [x * pad.width, y * pad.height]);
    if (colour) {
      const shapes = [
        ["#9cc4e4", [[0, 0], [1, 0], [1, 1], [0, 1]]], ["#274f78", [[0, 0.66], [1, 0.66], [1, 1], [0, 1]]],
        ["#5b2c22", [[0.08, 0.56], [0.94, 0.56], [0.82, 0.76], [0.18, 0.76]]], ["#e8e8e4", [[0.3, 0.38], [0.66, 0.38], [0.66, 0.57], [0.3, 0.57]]],
        ["#b33a2b", [[0.42, 0.2], [0.52, 0.2], [0.52, 0.39], [0.42, 0.39]]],
      ];
      for (const [fill, outline] of shapes) {
        pen.fillStyle = fill;
        pen.beginPath();
        at(outline).forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
        pen.fill();
      }
    } else if (network.classes.includes("3")) {
      const arc = (cy, r, from, to) => Array.from({ length: 25 }, (_, i) => {
        const t = from + ((to - from) * i) / 24;
        return [0.47 + r * 1.1 * Math.cos(t), cy + r * Math.sin(t)];
      });
      stroke(at([...arc(0.32, 0.18, -2.6, 1.5), ...arc(0.68, 0.19, -1.5, 2.6)]));
    } else {
      pen.fillStyle = "#c8c8c8";
      pen.beginPath();
      at([[0.38, 0.1], [0.62, 0.1], [0.95, 0.25], [0.88, 0.45], [0.74, 0.38], [0.74, 0.92], [0.26, 0.92], [0.26, 0.38], [0.12, 0.45], [0.05, 0.25]])
        .forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.fill();
      picture = true;
    }
    takeDrawing();
  }

  for (const [i, sample] of given.samples.entries()) {
    const image = bytes(sample.pixels), canvas = make("canvas");
    paintPixels(canvas, image);
    const button = make("button", { type: "button", title: sample.name }, canvas);
    button.setAttribute("aria-label", `example ${i + 1}: ${sample.name}`);
    button.addEventListener("click", () => { untouched = false; take(image); });
    element("samples").append(button);
  }

  // Running -------------------------------------------------------------------------------------------------------
  const waiting = new Set();
  function schedule(work) { // at most once per frame
    if (!waiting.size) requestAnimationFrame(() => { const now = [...waiting]; waiting.clear(); now.forEach((one) => one()); });
    waiting.add(work);
  }

  function update() {
    const start = performance.now();
    values = Packed.run(broken, pixels);
    const milliseconds = performance.now() - start;
    clean = share ? Packed.run(network, pixels) : values;
    twinValues = null;
    showAnswer(milliseconds);
    if (share) showDamage();
    redraw();
  }

  // The answer stands at once; the layers in view follow, some 8 ms of them per frame, and then the chosen unit. The
  // others are drawn when they come into view.
  let turn = 0, unitStale = false, frame = 0;
  function redraw() {
    for (const stage of stages) stage.stale = true;
    unitStale = true;
    frame ||= requestAnimationFrame(() => paint(performance.now() + 8));
  }

  function paint(until) {
    frame = 0;
    for (let i = 0; i < stages.length; i++) {
      const stage = stages[(turn + i) % stages.length];
      if (!stage.visible || !stage.stale) continue;
      stage.draw();
      if (performance.now() < until) continue;
      turn = (turn + i + 1) % stages.length;
      frame = requestAnimationFrame(() => paint(performance.now() + 8));
      return;
    }
    if (unitStale) showUnit();
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const stage = stages.find((one) => one.body === target);
      stage.visible = isIntersecting;
      if (isIntersecting && stage.stale && values) stage.draw();
    }
  }, { rootMargin: "200px" });

  const rows = network.classes.map((label) => {
    const bar = make("div", { className: "bar" }), value = make("td"), head = make("th", { scope: "row" }, label);
    const row = make("tr", {}, head, make("td", {}, bar), value);
    element("logits").tBodies[0].append(row);
    return { row, bar, value };
  });

  function showAnswer(milliseconds) {
    const logits = Packed.logits(network, values), top = Packed.best(logits);
    const before = Packed.best(Packed.logits(network, clean));
    const low = Math.min(...logits), high = Math.max(...logits);
    const rest = [...logits.keys()].filter((i) => i !== top).reduce((a, b) => (logits[b] > logits[a] ? b : a), top ? 0 : 1);
    const answer = element("class");
    if (answer.textContent !== network.classes[top]) answer.textContent = network.classes[top];
    element("ahead").textContent = network.classes.length < 2 ? "" :
      `${(logits[top] - logits[rest]).toPrecision(3)} ahead of ${network.classes[rest]}` +
      (before === top ? "" : `; without flips: ${network.classes[before]}`);
    rows.forEach(({ row, bar, value }, i) => {
      row.className = i === top ? "top" : "";
      bar.style.width = `${high > low ? (100 * (logits[i] - low)) / (high - low) : 0}%`;
      value.textContent = signed(logits[i], 2);
    });
    element("speed").textContent = `${milliseconds.toFixed(1)} ms for this picture, in this browser`;
  }

  // The layers ----------------------------------------------------------------------------------------------------
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const word = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;
  let palette = {};
  function readColours() {
    for (const name of ["plus", "minus", "zero", "lost", "gained", "card"]) palette[name] = rgb(style(`--${name}`));
    palette.warm = rgb(style("--predicted"));
    for (const name of ["ink", "muted", "line", "measured", "predicted", "select"]) palette[name] = style(`--${name}`);
  }

  const SHOWN = ["image_conv2d", "conv2d", "real_conv2d", "quantize", "max_pool2d", "add"];
  const shownNodes = network.nodes.slice(0, -1).filter((node) => SHOWN.includes(node.op));

  // Units as shares from -1 to 1: their levels, or their numbers relative to the largest of the layer.
  function unitsOf(value) {
    if (value.kind === "levels") return Packed.levels(value);
    let most = 1e-30;
    for (let i = 0; i < value.data.length; i++) most = Math.max(most, Math.abs(value.data[i]));
    return Float32Array.from(value.data, (number) => number / most);
  }

  function shade(unit) {
    if (unit === 1) return palette.plus;
    if (unit === -1) return palette.minus;
    if (unit === 0) return palette.zero;
    const end = unit > 0 ? palette.plus : palette.minus, t = Math.abs(unit);
    return palette.zero.map((from, i) => Math.round(from + (end[i] - from) * t));
  }

  function diverging(part) { // negative numbers in another hue
    return palette.zero.map((from, i) => Math.round(from + ((part > 0 ? palette.plus : palette.warm)[i] - from) * Math.abs(part)));
  }

  class Stage {
    constructor(node) {
      this.node = node;
      this.size = network.sizes[node.name];
      this.canvas = make("canvas", { className: "maps" });
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", node.name);
      this.facts = make("p", { className: "facts" });
      this.body = make("section", { className: "stage" },
        make("h2", {}, node.name, make("small", {}, this.describe())), this.facts, this.canvas);
      this.body.setAttribute("aria-label", node.name);
      if (node.tensors.low && node.op !== "quantize") {
        this.margins = make("canvas", { className: "margins" });
        this.margins.setAttribute("role", "img");
        this.margins.setAttribute("aria-label", `${node.name}: sums minus thresholds of every filter`);
        this.strongest = make("div", { className: "strongest" });
        this.strongest.setAttribute("role", "group");
        this.strongest.setAttribute("aria-label", `${node.name}: the filters that answered`);
        const text = this.size.height * this.size.width > 1 ? "one bar per filter, over all positions" : "one bar per unit";
        this.body.append(this.strongest, this.margins, make("p", { className: "hint" },
          "Sums above and below the ", make("span", { className: "predicted" }, "threshold"), `: ${text}.`));
        this.margins.addEventListener("click", (event) => {
          const box = this.margins.getBoundingClientRect();
          const c = Math.floor(((event.clientX - box.left) / box.width) * this.size.channels);
          this.pickFilter(Math.min(Math.max(c, 0), this.size.channels - 1));
        });
      }
      this.canvas.addEventListener("click", (event) => this.click(event));
    }

    describe() {
      const { node, size } = this, o = node.options, form = `${size.height} × ${size.width} × ${size.channels}`;
      const flat = size.height * size.width === 1;
      if (node.levels || node.filters) {
        const of = `${count(node.fanIn)} ${node.op === "conv2d" ? "inputs" : node.op === "image_conv2d" ? "pixels" : "numbers"}`;
        return flat ? `${count(node.filters)} units of ${of}` : `${count(node.filters)} filters of ${o.kernel.join(" × ")}, ${of} each → ${form}`;
      }
      if (node.op === "max_pool2d") return `the largest of ${o.size.join(" × ")} → ${form}`;
      return `${node.op} → ${form}`;
    }

    value() { return values[this.node.name]; }
    margin(sums, y, x, c) { // how far a sum is on the side of +1
      const s = sums.data[(y * sums.width + x) * sums.channels + c], { low, flip } = this.node.tensors;
      return flip.data[c] ? low.data[c] - s : s - low.data[c];
    }

    layout() {
      const { height: h, width: w, channels: n } = this.size, room = Math.max(this.body.clientWidth - 34, 120);
      const ratio = Math.min(Math.ceil(window.devicePixelRatio || 1), 3);
      const gap = h * w === 1 ? 1 : Math.max(2, Math.min(5, Math.round(room / 200)));
      const wanted = h * w === 1 ? 14 : Math.max(36, Math.min(72, room / 11));
      let unit = Math.max(1, Math.round(wanted / Math.max(h, w)));
      while (unit > 1 && unit * w + gap > room) unit--;
      const columns = Math.max(1, Math.min(n, Math.floor((room + gap) / (unit * w + gap))));
      return { h, w, n, unit: unit * ratio, gap: gap * ratio, columns, ratio, rows: Math.ceil(n / columns) };
    }

    // A new image to draw into, if the page's width has changed; the sizes are read once, as reading them lays out.
    place() {
      if (this.placedFor === laidOut) return;
      this.placedFor = laidOut;
      const { h, w, n, unit, gap, columns, rows: lines, ratio } = (this.placed = this.layout());
      const wide = columns * (w * unit + gap) - gap, tall = lines * (h * unit + gap) - gap;
      Object.assign(this.canvas, { width: wide, height: tall });
      this.canvas.style.width = `${wide / ratio}px`;
      this.image = this.canvas.getContext("2d").createImageData(wide, tall);
      this.paints = new Int32Array(h * w * n);
      if (!this.margins) return;
      const dots = window.devicePixelRatio || 1;
      this.box = [this.margins.clientWidth, this.margins.clientHeight];
      Object.assign(this.margins, { width: Math.round(this.box[0] * dots), height: Math.round(this.box[1] * dots) });
      this.margins.getContext("2d").scale(dots, dots);
    }

    draw() {
      this.stale = false;
      this.place();
      const value = this.value(), units = unitsOf(value), before = share ? unitsOf(clean[this.node.name]) : units;
      const { h, w, n, unit, gap, columns } = this.placed, { canvas, image, paints } = this, wide = canvas.width;
      const context = canvas.getContext("2d");
      const words = new Int32Array(image.data.buffer), levels = value.kind === "levels";
      const colours = [palette.minus, palette.zero, palette.plus].map(word);
      const [gained, lost] = [word(palette.gained), word(palette.lost)];
      let plus = 0;
      for (let c = 0; c < n; c++) {
        const left = (c % columns) * (w * unit + gap), top = Math.floor(c / columns) * (h * unit + gap);
        for (let y = 0, at = c; y < h; y++)
          for (let x = 0; x < w; x++, at += n) {
            const now = units[at];
            let paint = levels ? colours[now + 1] : word(diverging(now));
            if (levels && before[at] !== now) paint = now > before[at] ? gained : lost;
            plus += now > 0;
            if (paints[at] === paint) continue; // as it was
            paints[at] = paint;
            for (let i = 0; i < unit; i++) {
              const from = (top + y * unit + i) * wide + left + x * unit;
              words.fill(paint, from, from + unit);
            }
          }
      }
      context.putImageData(image, 0, 0);
      this.outline(context);
      const changed = share && levels ? `; ${percent(Packed.changedShare(value, clean[this.node.name]))} changed` : "";
      const facts = `${count(units.length)} ${levels ? (value.nonzero ? "ternary levels" : "bits") : value.kind === "sums" ? "sums" : "numbers"}, ${percent(plus / units.length, 0)} ${levels ? "are +1" : "positive"}${changed}`;
      if (this.facts.textContent !== facts) {
        this.facts.textContent = facts;
        canvas.setAttribute("aria-label", `${this.node.name}: ${facts}`);
      }
      if (this.margins) this.drawMargins();
    }

    outline(context) {
      if (!chosen || chosen.stage !== this) return;
      const { h, w, unit, gap, columns, ratio } = this.placed, { y, x, c } = chosen;
      const left = (c % columns) * (w * unit + gap), top = Math.floor(c / columns) * (h * unit + gap);
      context.strokeStyle = palette.select;
      context.lineWidth = ratio;
      context.strokeRect(left - ratio / 2, top - ratio / 2, w * unit + ratio, h * unit + ratio);
      context.lineWidth = 2 * ratio;
      if (h * w > 1) context.strokeRect(left + x * unit, top + y * unit, unit, unit);
    }

    drawMargins() {
      const sums = this.value().source, { h, w, n } = this.placed, root = Math.sqrt(this.node.fanIn);
      const lowest = new Float64Array(n).fill(Infinity), highest = new Float64Array(n).fill(-Infinity), where = new Int32Array(n);
      for (let y = 0; y < h; y++)
        for (let x = 0; x < w; x++)
          for (let c = 0; c < n; c++) {
            const m = this.margin(sums, y, x, c);
            if (m < lowest[c]) lowest[c] = m;
            if (m > highest[c]) { highest[c] = m; where[c] = y * w + x; }
          }
      this.where = where;
      const { box } = this, context = this.margins.getContext("2d");
      context.clearRect(0, 0, box[0], box[1]);
      const limits = [...lowest, ...highest].map(Math.abs).filter(Number.isFinite).sort((a, b) => a - b);
      const most = limits[Math.floor(0.98 * (limits.length - 1))] || root, zero = box[1] / 2, step = box[0] / n;
      const at = (m) => zero - Math.max(-1.05, Math.min(1.05, m / most)) * (zero - 3);
      const minus = `rgb(${palette.minus})`, plus = `rgb(${palette.plus})`, flat = h * w === 1;
      for (let c = 0; c < n; c++) {
        const x = c * step + step * 0.12, wide = Math.max(step * 0.76, 1);
        const [a, b] = flat ? [Math.min(lowest[c], 0), Math.max(highest[c], 0)] : [lowest[c], highest[c]];
        context.fillStyle = plus;
        if (b > 0) context.fillRect(x, at(b), wide, at(Math.max(a, 0)) - at(b));
        context.fillStyle = minus;
        if (a < 0) context.fillRect(x, at(Math.min(b, 0)), wide, at(a) - at(Math.min(b, 0)));
        if (chosen && chosen.stage === this && chosen.c === c) {
          context.strokeStyle = palette.select;
          context.lineWidth = 2;
          context.strokeRect(x - 1, at(b) - 1, wide + 2, at(a) - at(b) + 2);
        }
      }
      context.fillStyle = palette.predicted;
      context.fillRect(0, zero - 0.5, box[0], 1);
      [...highest.keys()].sort((a, b) => highest[b] - highest[a]).slice(0, 5).forEach((c, i) => this.showAnswer(i, c, signed(highest[c])));
    }

    // The button of a filter that answered; the five buttons stay, their words change.
    showAnswer(i, c, beyond) {
      if (!this.strongest.firstChild) this.strongest.append("answered most:");
      let button = this.strongest.children[i];
      if (!button) {
        button = make("button", { type: "button" }, "", make("b"));
        button.addEventListener("click", () => this.pickFilter(Number(button.value)));
        this.strongest.append(button);
      }
      if (button.value === String(c) && button.lastChild.textContent === beyond) return;
      button.value = c;
      button.firstChild.data = `filter ${c} `;
      button.lastChild.textContent = beyond;
      button.setAttribute("aria-label", `filter ${c}, ${beyond} beyond its threshold`);
    }

    pickFilter(c) {
      const at = this.where[c];
      choose(this, Math.floor(at / this.size.width), at % this.size.width, c, true);
    }

    click(event) {
      const { h, w, n, unit, gap, columns, ratio } = this.placed, box = this.canvas.getBoundingClientRect();
      const px = ((event.clientX - box.left) * this.canvas.width) / box.width, py = ((event.clientY - box.top) * this.canvas.height) / box.height;
      const column = Math.min(Math.floor(px / (w * unit + gap)), columns - 1), line = Math.floor(py / (h * unit + gap));
      const c = line * columns + column;
      if (c < 0 || c >= n) return;
      const x = Math.floor((px - column * (w * unit + gap)) / unit), y = Math.floor((py - line * (h * unit + gap)) / unit);
      choose(this, Math.min(Math.max(y, 0), h - 1), Math.min(Math.max(x, 0), w - 1), c, true);
    }
  }

  const inputStage = {
    canvas: make("canvas", { className: "maps" }),
    draw() {
      this.stale = false;
      paintPixels(this.canvas, pixels);
      this.canvas.style.width = `${Math.max(1, Math.round(112 / Math.max(height, width))) * width}px`;
      this.canvas.style.imageRendering = "pixelated";
    },
  };
  inputStage.canvas.setAttribute("role", "img");
  inputStage.canvas.setAttribute("aria-label", "the image that the network reads");
  let laidOut = 0; // counts changes of the page's width
  const stages = [inputStage, ...shownNodes.map((node) => new Stage(node))];
  const flow = element("flow");
  const first = make("section", { className: "stage picture" },
    make("h2", {}, "input", make("small", {}, `${height} × ${width}${colour ? " × 3" : ""} pixels of 8 bits`)), inputStage.canvas);
  first.setAttribute("aria-label", "input");
  inputStage.body = first;
  flow.append(first);
  for (const stage of stages.slice(1)) {
    const source = stage.node.inputs[0], size = network.sizes[source];
    const words = { image: "pixels", levels: size.ternary ? "ternary levels" : "bits", sums: "sums", real: "numbers" };
    const amount = count(size.height * size.width * size.channels);
    flow.append(make("div", { className: "wire" }, `${amount} ${words[size.kind]}`), stage.body);
  }
  element("key-zero").hidden = !Object.values(network.sizes).some((size) => size.ternary);
  const lastSize = network.sizes[network.nodes.at(-1).inputs[0]];
  flow.append(make("div", { className: "wire" }, `${count(lastSize.channels)} sums, scaled: the logits`));

  for (const stage of stages) observer.observe(stage.body);

  // One unit ------------------------------------------------------------------------------------------------------
  const [unitLayer, unitC, unitY, unitX] = ["layer", "c", "y", "x"].map((name) => element(`unit-${name}`));
  for (const [i, stage] of stages.entries()) if (i) unitLayer.append(make("option", { value: i }, stage.node.name));

  function choose(stage, y, x, c, open) {
    const previous = chosen?.stage;
    chosen = { stage, y, x, c };
    if (open) element("unit").classList.add("open");
    unitLayer.value = stages.indexOf(stage);
    for (const [input, size, at] of [[unitC, stage.size.channels, c], [unitY, stage.size.height, y], [unitX, stage.size.width, x]]) {
      input.max = size - 1;
      input.value = at;
      input.disabled = size === 1;
    }
    if (values) {
      if (previous && previous !== stage) previous.draw();
      stage.draw();
      showUnit();
    }
  }

  function fromInputs() {
    const stage = stages[unitLayer.value], within = (input, size) => Math.min(Math.max(Math.trunc(input.valueAsNumber) || 0, 0), size - 1);
    choose(stage, within(unitY, stage.size.height), within(unitX, stage.size.width), within(unitC, stage.size.channels), true);
  }
  for (const input of [unitLayer, unitC, unitY, unitX]) input.addEventListener("change", fromInputs);
  element("close").addEventListener("click", () => element("unit").classList.remove("open"));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") element("unit").classList.remove("open"); });

  function showUnit() {
    unitStale = false;
    if (!chosen || !element("unit").clientHeight) return;
    const { stage, y, x, c } = chosen, { node } = stage, value = values[node.name];
    const flat = stage.size.height * stage.size.width === 1;
    element("unit-title").textContent = flat ? `${node.name}, unit ${c}` : `${node.name}, filter ${c} at row ${y}, column ${x}`;
    const body = element("unit-body");
    body.replaceChildren();
    if (node.filters) showProduct(body, stage, value);
    else if (node.op === "max_pool2d") showPool(body, node, value);
    else showNumber(body, node, value);
  }

  // The levels or numbers in a window: one entry per tap and channel; null outside the image.
  function patchOf(node, source, y, x, c) {
    const o = node.options, [kh, kw] = o.kernel, depth = node.depth, found = [];
    const offset = Math.floor(c / (node.filters / (o.groups ?? 1))) * depth;
    for (let i = 0; i < kh; i++)
      for (let j = 0; j < kw; j++) {
        const row = y * o.stride[0] - o.padding[0] + i * o.dilation[0], column = x * o.stride[1] - o.padding[1] + j * o.dilation[1];
        const outside = row < 0 || column < 0 || row >= source.height || column >= source.width;
        for (let k = 0; k < depth; k++) {
          if (outside) found.push(o.pad_value ? 1 : null);
          else if (source.kind === "levels") found.push(Packed.level(source, row, column, offset + k));
          else {
            const number = source.data[(row * source.width + column) * source.channels + offset + k];
            found.push(source.kind === "image" ? o.multiplier * number + o.shift : number);
          }
        }
      }
    return found;
  }

  function showProduct(body, stage, value) {
    const { y, x, c } = chosen, { node } = stage, source = values[node.inputs[0]], sums = value.source ?? value;
    const patch = patchOf(node, source, y, x, c), d = node.fanIn;
    const now = broken.nodes.find((one) => one.name === node.name);
    const filter = (now.levels ?? now.tensors.weight.data).subarray(c * d, (c + 1) * d);
    const products = patch.map((number, i) => (number === null ? null : number * filter[i]));
    const digital = source.kind === "levels" && node.levels;
    body.append(make("div", { className: "operands" },
      tiles("filter", node, filter, node.levels ? "levels" : "numbers"),
      tiles(source.kind === "image" ? `pixels ${scaleText(node)}` : "inputs", node, patch, { levels: "levels", image: "pixels" }[source.kind] ?? "numbers"),
      tiles("filter × inputs", node, products, digital ? "levels" : "numbers")));
    const sum = sums.data[(y * sums.width + x) * sums.channels + c], real = sums.kind === "real";
    const text = make("p", { className: "sum" });
    if (digital) {
      const agree = products.filter((p) => p === 1).length, differ = products.filter((p) => p === -1).length;
      text.append(`${count(agree)} agree − ${count(differ)} disagree = `, make("b", {}, plain(sum)));
    } else text.append("sum of the products = ", make("b", {}, real ? plain(sum.toPrecision(4)) : plain(sum)));
    body.append(text);
    const facts = make("dl");
    const fact = (name, ...texts) => facts.append(make("dt", {}, name), make("dd", {}, ...texts));
    if (node.tensors.low) thresholdFacts(fact, node, sum, c, Packed.level(value, y, x, c));
    if (node.levels) {
      const plus = filter.reduce((n, w) => n + (w > 0), 0), zeros = filter.reduce((n, w) => n + (w === 0), 0);
      fact("filter", `${count(d)} levels, ${percent(plus / (d - zeros || 1), 0)} of ${zeros ? `${count(d - zeros)} not 0` : "them"} +1`);
    }
    const outside = patch.filter((number) => number === null).length;
    if (outside) fact("padding", `${count(outside)} of ${count(d)} inputs are outside the image`);
    if (digital) fact("random signs", `0 ± ${Math.sqrt(products.filter(Boolean).length).toFixed(1)} = √${count(products.filter(Boolean).length)}`);
    if (share && value !== clean[node.name]) {
      const before = clean[node.name], was = (before.source ?? before).data[(y * sums.width + x) * sums.channels + c];
      fact("without flips", `${plain(was)}${before.kind === "levels" ? `, level ${signed(Packed.level(before, y, x, c))}` : ""}`);
    }
    twinFacts(fact, node, sums, y, x, c);
    const line = make("canvas", { className: "line" });
    body.append(line, facts);
    drawLine(line, node, sums, c, sum, digital);
  }

  const scaleText = (node) => `${node.options.multiplier === 1 ? "" : `× ${node.options.multiplier} `}${node.options.shift < 0 ? "−" : "+"} ${Math.abs(node.options.shift)}`.replace("+ 0", "");
  const pixelRange = (node) => Math.max(Math.abs(node.options.shift), Math.abs(255 * node.options.multiplier + node.options.shift));
  const largest = (numbers) => numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 1e-30);

  function thresholdFacts(fact, node, sum, c, level) {
    const { low, high, flip } = node.tensors, t = low.data[c];
    const side = high ? `between ${plain(t)} and ${plain(high.data[c])}` : `${sum < t ? "<" : "≥"} threshold ${plain(t)}`;
    fact("level", make("b", {}, level ? signed(level) : "0"), high ? ` (0 ${side})` : ` because ${plain(sum)} ${side}`,
      flip.data[c] ? "; this channel is negated, because its batch norm has a negative scale" : "");
  }

  function twinFacts(fact, node, sums, y, x, c) {
    if (!twin) return;
    if (!twinValues) {
      fact("float twin", "…");
      clearTimeout(twinLater);
      twinLater = setTimeout(() => { twinValues = Packed.run(twin, pixels); showUnit(); }, 150);
      return;
    }
    const other = twinValues[node.name];
    if (!other || other.height !== sums.height || other.width !== sums.width || other.channels !== sums.channels) {
      fact("float twin", "has no such unit");
      return;
    }
    const at = (y * sums.width + x) * sums.channels + c, numbers = (other.source ?? other).data;
    if (!numbers) return;
    fact("float twin", make("b", {}, plain(numbers[at].toPrecision(4))), ` (${signed(standardised(numbers, at), 2)} sd of this layer; here ${signed(standardised(sums.data, at), 2)} sd)`);
    fact("layer and twin", `r = ${correlation(sums.data, numbers).toFixed(2).replace("-", "−")} over ${count(numbers.length)} sums`);
  }

  function moments(numbers) {
    let sum = 0, squares = 0;
    for (const number of numbers) { sum += number; squares += number * number; }
    const mean = sum / numbers.length;
    return [mean, Math.sqrt(Math.max(squares / numbers.length - mean * mean, 1e-30))];
  }

  function standardised(numbers, at) {
    const [mean, sd] = moments(numbers);
    return (numbers[at] - mean) / sd;
  }

  function correlation(a, b) {
    const [ma, sa] = moments(a), [mb, sb] = moments(b);
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += (a[i] - ma) * (b[i] - mb);
    return sum / a.length / sa / sb;
  }

  // One tile per channel; for images of three channels one tile in colour.
  function tiles(title, node, numbers, look) {
    const most = look === "levels" ? 1 : look === "pixels" ? pixelRange(node) : largest(numbers);
    const [kh, kw] = node.options.kernel, depth = node.depth;
    const inColour = depth === 3 && look === "pixels", number = (k, i, j) => numbers[(i * kw + j) * depth + k];
    const shown = inColour ? 1 : depth;
    const columns = Math.max(1, Math.min(shown, Math.ceil(Math.sqrt((shown * kh) / kw) * 1.05))), lines = Math.ceil(shown / columns);
    const gap = kh * kw > 1 ? 1 : 0, room = depth * kh * kw > 700 ? 320 : 100;
    const cell = Math.max(1, Math.min(24, Math.floor((room / columns - gap) / kw)));
    const canvas = make("canvas", { width: columns * (kw * cell + gap) - gap, height: lines * (kh * cell + gap) - gap });
    const context = canvas.getContext("2d");
    for (let k = 0; k < shown; k++)
      for (let i = 0; i < kh; i++)
        for (let j = 0; j < kw; j++) {
          const one = number(k, i, j), part = Math.max(-1, Math.min(1, one / most)), light = (v) => Math.round(127.5 * (1 + v / most));
          const fill = look === "pixels" ? (inColour ? [0, 1, 2].map((c) => light(number(c, i, j))) : [light(one), light(one), light(one)]) : look === "levels" ? shade(part) : diverging(part);
          context.fillStyle = one === null ? "transparent" : `rgb(${fill})`;
          context.fillRect((k % columns) * (kw * cell + gap) + j * cell, Math.floor(k / columns) * (kh * cell + gap) + i * cell, cell, cell);
        }
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${title}: ${depth} channels of ${kh} × ${kw}`);
    return make("figure", {}, make("figcaption", {}, title), canvas);
  }

  // The sums of this filter (or of the layer, where a filter has one), the threshold, this sum, and random signs.
  function drawLine(canvas, node, sums, c, sum, digital) {
    const flat = sums.height * sums.width === 1, mine = [];
    for (let i = flat ? 0 : c; i < sums.data.length; i += flat ? 1 : sums.channels) mine.push(sums.data[i]);
    const low = node.tensors.low?.data[c], ratio = window.devicePixelRatio || 1, box = [canvas.clientWidth || 320, canvas.clientHeight || 105];
    Object.assign(canvas, { width: box[0] * ratio, height: box[1] * ratio });
    const context = canvas.getContext("2d"), root = Math.sqrt(node.fanIn);
    context.scale(ratio, ratio);
    const edges = [...mine, sum, ...(digital ? [-2.5 * root, 2.5 * root] : [])], finite = Number.isFinite(low) && Math.abs(low) < 1e9;
    if (finite && low >= 2 * Math.min(...edges) && low <= 2 * Math.max(...edges)) edges.push(low);
    const [from, to] = [Math.min(...edges), Math.max(...edges)], span = to - from || 1, floor = box[1] - 18;
    const at = (s) => 6 + ((s - from) / span) * (box[0] - 12), bins = 32, counts = new Array(bins).fill(0);
    for (const s of mine) counts[Math.min(bins - 1, Math.floor(((s - from) / span) * bins))]++;
    const most = Math.max(...counts), wide = (box[0] - 12) / bins, top = 16;
    context.fillStyle = `rgb(${palette.minus})`;
    counts.forEach((n, i) => context.fillRect(6 + i * wide, floor - ((floor - top) * n) / most, wide - 1, ((floor - top) * n) / most));
    if (digital) {
      context.strokeStyle = palette.muted;
      context.setLineDash([3, 3]);
      context.beginPath();
      for (let i = 0; i <= 80; i++) {
        const s = from + (span * i) / 80;
        context.lineTo(at(s), floor - 0.85 * (floor - top) * Math.exp((-s * s) / (2 * node.fanIn)));
      }
      context.stroke();
      context.setLineDash([]);
    }
    context.font = "11px system-ui, sans-serif";
    const mark = (s, colour, text, y) => {
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(at(s), y + 2);
      context.lineTo(at(s), floor);
      context.stroke();
      const size = context.measureText(text).width;
      context.fillText(text, Math.min(Math.max(at(s) - size / 2, 2), box[0] - size - 2), y);
    };
    context.fillStyle = palette.line;
    context.fillRect(0, floor, box[0], 1);
    if (finite && low >= from && low <= to) mark(low, palette.predicted, "", top - 4);
    mark(sum, palette.measured, "", top - 4);
    context.fillStyle = palette.muted;
    context.fillText(plain(Math.round(from)), 2, box[1] - 4);
    const end = plain(Math.round(to));
    context.fillText(end, box[0] - context.measureText(end).width - 2, box[1] - 4);
    const legend = [["this sum", palette.measured], ...(finite ? [["threshold", palette.predicted]] : []), ...(digital ? [["random signs", palette.muted]] : [])];
    let left = 2;
    for (const [text, colour] of legend) {
      context.fillStyle = colour;
      context.fillText(`${text === "random signs" ? "┄" : "┃"} ${text}`, left, 10);
      left += context.measureText(`┃ ${text}`).width + 12;
    }
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${flat ? "sums of the layer" : "sums of this filter"}, from ${Math.round(from)} to ${Math.round(to)}; this sum is ${sum}${finite ? `, the threshold ${low}` : ""}`);
  }

  function showPool(body, node, value) {
    const { y, x, c } = chosen, source = values[node.inputs[0]], o = node.options, found = [];
    for (let i = 0; i < o.size[0]; i++)
      for (let j = 0; j < o.size[1]; j++) {
        const row = y * o.stride[0] - o.padding[0] + i, column = x * o.stride[1] - o.padding[1] + j;
        const outside = row < 0 || column < 0 || row >= source.height || column >= source.width;
        found.push(outside ? null : source.kind === "levels" ? Packed.level(source, row, column, c) : source.data[(row * source.width + column) * source.channels + c]);
      }
    const levels = value.kind === "levels", flipped = levels && node.tensors.flip.data[c];
    body.append(make("div", { className: "operands" }, tiles("window", { options: { kernel: o.size }, depth: 1 }, found, levels ? "levels" : "numbers")));
    const result = levels ? signed(Packed.level(value, y, x, c)) : plain(value.data[(y * value.width + x) * value.channels + c].toPrecision(4));
    body.append(make("p", { className: "sum" }, flipped ? "largest level, negated: " : "the largest: ", make("b", {}, result)));
    if (flipped) body.append(make("p", { className: "hint" }, "This channel's batch norm has a negative scale, so its maximum is negated after the pool."));
  }

  function showNumber(body, node, value) {
    const { y, x, c } = chosen, facts = make("dl"), at = (y * value.width + x) * value.channels + c;
    const fact = (name, ...texts) => facts.append(make("dt", {}, name), make("dd", {}, ...texts));
    if (value.source) {
      const number = value.source.data[at];
      fact("input", plain(Number(number.toPrecision(5))));
      thresholdFacts(fact, node, Number(number.toPrecision(5)), c, Packed.level(value, y, x, c));
    } else fact("value", plain(value.data[at].toPrecision(5)));
    body.append(facts);
  }

  // Flipped bits --------------------------------------------------------------------------------------------------
  let counting = 0;
  function breakIt() {
    broken = share ? Packed.flip(network, share, seed) : network;
    element("share-text").textContent = percent(share);
    element("redraw").disabled = element("restore").disabled = !share;
    element("damage").hidden = !share;
    element("flip-help").hidden = share > 0;
    for (const key of document.querySelectorAll(".key-flip")) key.hidden = !share;
    update();
  }

  function showDamage() {
    const found = Packed.predict(network, clean, values, share), angle = (cosine) => `${((Math.acos(cosine) * 180) / Math.PI).toFixed(1)}°`;
    element("angle").replaceChildren(
      `${count(broken.flipped)} of ${count(broken.total)} bits are flipped. Filters turn by `,
      make("b", { className: "measured" }, angle(1 - (2 * broken.flipped) / broken.total)), ", theory ", make("b", { className: "predicted" }, angle(1 - 2 * share)), ".");
    const body = element("changes").tBodies[0];
    body.replaceChildren(...network.nodes.filter((node) => values[node.name].source).map((node) => make("tr", {},
      make("th", { scope: "row" }, node.name),
      make("td", { className: "predicted" }, node.name in found.shares ? percent(found.shares[node.name]) : "–"),
      make("td", { className: "measured" }, percent(Packed.changedShare(values[node.name], clean[node.name]))))));
    const run = ++counting, stays = element("stays"), theory = found.stays === null ? [] : [make("b", { className: "predicted" }, percent(found.stays, 0)), " if changes were independent, "];
    const label = network.classes[Packed.best(Packed.logits(network, clean))];
    const say = (text) => stays.replaceChildren(`“${label}” survives: `, ...theory, make("b", { className: "measured" }, text));
    say("counting …");
    const wanted = Packed.best(Packed.logits(network, clean));
    let kept = 0, draws = 0;
    const draw = () => {
      if (run !== counting || !share) return;
      const until = performance.now() + 30;
      while (performance.now() < until && draws < DRAWS)
        kept += Packed.best(Packed.logits(network, Packed.run(Packed.flip(network, share, 1000003 * ++draws + seed), pixels))) === wanted;
      if (draws < DRAWS) setTimeout(draw, 20);
      else say(`${percent(kept / draws, 0)} of ${DRAWS} draws`);
    };
    setTimeout(draw, 250);
  }

  const DRAWS = 40;
  element("share").addEventListener("input", (event) => { share = event.target.valueAsNumber / 100; schedule(breakIt); });
  element("redraw").addEventListener("click", () => { seed++; breakIt(); });
  element("restore").addEventListener("click", () => { element("share").value = 0; share = 0; breakIt(); });

  // Start ---------------------------------------------------------------------------------------------------------
  document.querySelector("main").hidden = false;
  readColours();
  const start = stages.find((stage) => stage.node?.filters) ?? stages[1];
  if (start) choose(start, Math.floor(start.size.height / 2), Math.floor(start.size.width / 2), 0, false);
  Packed.run(network, pixels); // the first run compiles
  if (given.samples.length) take(bytes(given.samples[0].pixels));
  else firstDrawing();
  start?.draw();
  paint(Infinity);
  if (start?.where) start.pickFilter(start.where.length && Number(start.strongest.querySelector("button").textContent.match(/\d+/)[0]));
  element("unit").classList.remove("open");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); });
  let seen = flow.clientWidth;
  new ResizeObserver(() => {
    if (flow.clientWidth === seen) return;
    seen = flow.clientWidth;
    laidOut++;
    schedule(redraw);
  }).observe(flow);
  document.documentElement.dataset.ready = "";
})();
