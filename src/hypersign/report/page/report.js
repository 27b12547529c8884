"use strict";
// Unpacks the library and the data, and draws the charts. Picking a layer redraws the charts of one layer.
(async () => {
  const element = (id) => document.getElementById(id);

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(element(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  let page;
  try {
    new Function(await unpack("vega"))();
    page = JSON.parse(await unpack("data"));
  } catch (error) {
    console.error(error);
    element("no-charts").hidden = false;
    return;
  }

  // Drawing --------------------------------------------------------------------------------------------
  const views = new Map();
  const turns = new Map();

  // Makes a new element in the chart's box. Charts are drawn asynchronously: an outdated one draws into an element
  // that is no longer in the page.
  function place(id) {
    views.get(id)?.finalize();
    views.delete(id);
    const inner = document.createElement("div");
    element(id).replaceChildren(inner);
    const turn = (turns.get(id) ?? 0) + 1;
    turns.set(id, turn);
    return [inner, () => turns.get(id) === turn];
  }

  function note(id, text) {
    const [inner] = place(id);
    inner.className = "note";
    inner.textContent = text;
  }

  async function draw(id, chart, data, adjust) {
    const style = getComputedStyle(document.documentElement);
    const specification = JSON.parse(JSON.stringify(page.charts[chart]).replace(
      /var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim()));
    for (const set of specification.data) if (set.name in data) set.values = structuredClone(data[set.name]);
    adjust?.(specification);
    const [inner, current] = place(id);
    const drawn = await vegaEmbed(inner, specification, { mode: "vega", renderer: "svg", actions: false });
    if (!current()) return drawn.finalize();
    views.set(id, drawn);
    drawn.view.addEventListener("click", (_event, item) => {
      const at = page.layers.findIndex((layer) => layer.name === item?.datum?.layer);
      if (at >= 0) pick(at, true);
    });
  }

  // Number format of the table -------------------------------------------------------------------
  const number = (value, digits) => value == null ? "–" : value.toFixed(digits);
  const percent = (value) => value == null ? "–" : `${(100 * value).toFixed(1)} %`;

  // Rows of the charts ---------------------------------------------------------------------------------
  function cells({ x, y, counts }) {
    const rows = [];
    counts.forEach((column, i) => column.forEach((count, j) => {
      if (count) rows.push({
        x0: x[i], x1: x[i + 1], y0: y[j], y1: y[j + 1], count,
        x: (x[i] + x[i + 1]) / 2, y: (y[j] + y[j + 1]) / 2,
      });
    }));
    return rows;
  }

  // From the origin to the two corners where the signs differ.
  function quadrants({ x, y }) {
    const [left, right, low, high] = [x[0], x.at(-1), y[0], y.at(-1)];
    return [[right, low], [left, high]].filter(([across, up]) => across * up < 0)
      .map(([across, up]) => ({ x0: 0, x1: across, y0: 0, y1: up }));
  }

  // The part of the regression line inside the histogram.
  function line({ x, y, slope, intercept }) {
    if (slope == null || intercept == null) return [];
    let [from, to] = [x[0], x.at(-1)];
    if (slope) {
      const ends = [(y[0] - intercept) / slope, (y.at(-1) - intercept) / slope].sort((a, b) => a - b);
      [from, to] = [Math.max(from, ends[0]), Math.min(to, ends[1])];
    }
    return from < to ? [from, to].map((at) => ({ x: at, y: intercept + slope * at })) : [];
  }

  // Sets the axes to the range from the first to the last of these values.
  function span(specification, values) {
    for (const scale of specification.scales) {
      if (values[scale.name]) scale.domain = [values[scale.name][0], values[scale.name].at(-1)];
    }
  }

  const pairs = (grid, density) => grid.map((x, i) => ({ x, density: density[i] }));

  function drawProducts(family, products) {
    const id = `heat-${family}`;
    const caption = element(`caption-${family}`);
    if (!products) {
      caption.textContent = "";
      note(id, family === "activations_binarized"
        ? "This layer's inputs are not quantized: there is nothing to compare."
        : "This layer's weights are not quantized: there is nothing to compare.");
      return;
    }
    caption.textContent = `r = ${number(products.r, 3)}, predicted ${number(products.predicted, 3)}; ` +
      `${percent(products.differ)} of signs differ, predicted ${percent(products.predicted_differ)}; ` +
      `slope ${products.slope == null ? "–" : products.slope.toPrecision(3)}`;
    const rows = cells(products);
    if (!rows.length) return note(id, "No pair of dot products was counted.");
    draw(id, "heat", { cells: rows, quadrants: quadrants(products), line: line(products) }, (specification) => {
      const titles = page.families[family];
      for (const axis of specification.axes) axis.title = titles[axis.scale];
      span(specification, { x: products.x, y: products.y });
    });
  }

  function drawAngle({ name, angle }) {
    if (!angle) {
      element("caption-angle").textContent = "";
      return note("angle", `The weights of ${name} are not quantized: there is no angle.`);
    }
    element("caption-angle").textContent = `measured ${number(angle.mean, 2)}° ± ${number(angle.std, 2)}°, ` +
      `peak ${number(angle.peak, 2)}°; predicted ${number(angle.predicted_mean, 2)}° ± ` +
      `${number(angle.predicted_std, 2)}°; from the layer's moments ${number(angle.moments_mean, 2)}°`;
    if (!angle.density.some((height) => height)) return note("angle", "No density was estimated.");
    draw("angle", "density", {
      measured: pairs(angle.grid, angle.density),
      predicted: pairs(angle.predicted_grid ?? angle.grid, angle.predicted_density),
      marks: [{ predicted: angle.predicted_mean, peak: angle.peak, density: Math.max(...angle.density) }],
    });
  }

  function drawWeights({ weights }) {
    const shares = weights.level_shares.filter(([, share]) => share)
      .map(([level, share]) => `${percent(share)} at ${level.replace("-", "−")}`).join(", ");
    element("caption-weights").textContent = `standard deviation ${number(weights.std, 3)}, ` +
      `kurtosis ${number(weights.kurtosis, 2)} (normal: 3)${shares ? `; ${shares}` : ""}`;
    const floor = Math.max(...weights.density) / 1e5;
    const rows = pairs(weights.grid, weights.density).map(({ x, density }) => {
      const normal = weights.std ? Math.exp(-(((x - weights.mean) / weights.std) ** 2) / 2) /
        (weights.std * Math.sqrt(2 * Math.PI)) : null;
      return { x, density: density > floor ? density : null, normal: normal > floor ? normal : null };
    });
    if (!rows.some((row) => row.density)) return note("weights", "No density was estimated.");
    draw("weights", "weights", { density: rows, thresholds: weights.thresholds.map((x) => ({ x })) },
      (specification) => span(specification, { x: weights.grid }));
  }

  function drawFilters({ filters }) {
    element("caption-filters").textContent = `${filters.length} filters`;
    if (!filters.length) return note("filters", "No filter has both an angle and a correlation.");
    const rows = filters.map(([filter, angle, r]) => ({ filter, angle, r }));
    const angles = rows.map((row) => row.angle);
    const [low, high] = [Math.min(...angles), Math.max(...angles)];
    const curve = Array.from({ length: 31 }, (_, i) => low + (high - low) * i / 30)
      .map((degrees) => ({ angle: degrees, r: Math.cos(degrees * Math.PI / 180) }));
    draw("filters", "filters", { filters: rows, curve });
  }

  // The range of the points, with a small margin on both sides.
  function diagonal(rows) {
    const values = rows.flatMap((row) => [row.predicted, row.measured]);
    return [{ at: Math.min(...values) }, { at: Math.max(...values) }];
  }

  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
  };

  function drawPrediction({ name, prediction, components }) {
    if (!element("prediction")) return;
    if (prediction.length) {
      const distance = median(prediction.map((row) => Math.abs(row.predicted - row.measured)));
      element("caption-prediction").textContent = `${prediction.length} filters; median distance ${number(distance, 4)}`;
      draw("prediction", "prediction",
        { scatter: prediction.map((row) => ({ layer: name, ...row })), diagonal: diagonal(prediction) });
    } else {
      element("caption-prediction").textContent = "";
      note("prediction", "No filter has both a measured and a predicted r.");
    }
    if (components.length) {
      const share = components.find((row) => row.series === "inputs' variance").share;
      element("caption-components").textContent = `the first one holds ${percent(share)} of the variance`;
      draw("components", "components", { components });
    } else {
      element("caption-components").textContent = "";
      note("components", "Not computed for this layer: no covariance, or too large a fan-in.");
    }
  }

  // What if --------------------------------------------------------------------------------------------
  const curveOf = (layer, kind, rotation) =>
    layer.what_if.find((curve) => curve.kind === kind && curve.rotation === rotation);

  // The value of a stored curve at `value`, by linear interpolation.
  function read(curve, field, value) {
    const { values } = curve;
    if (value > values.at(-1) + 1e-9) return null;
    const after = Math.max(1, values.findIndex((at) => at >= value - 1e-9));
    const [a, b] = [curve[field][after - 1], curve[field][after]];
    if (a == null || b == null) return Math.abs(values[after] - value) < 1e-9 ? b : null;
    return a + (b - a) * (value - values[after - 1]) / (values[after] - values[after - 1]);
  }

  function choice() {
    const kind = document.querySelector("#what-if input[name=kind]:checked").value;
    const rotation = element("what-if-rotation").checked ? "hadamard" : "none";
    const threshold = Number(element("what-if-threshold").value);
    const levels = page.layers.find((layer) => layer.what_if.length).what_if
      .find((curve) => curve.kind === "levels").values[Number(element("what-if-levels").value)];
    return { kind, rotation, threshold, levels, value: kind === "threshold" ? threshold : levels };
  }

  function drawWhatIf() {
    if (!element("what-if")) return;
    const { kind, rotation, threshold, levels, value } = choice();
    element("what-if-threshold-value").textContent = threshold ? `${threshold.toFixed(2)} σ` : "0: sign";
    element("what-if-levels-value").textContent = String(levels);
    const rows = page.layers.filter((layer) => layer.what_if.length).map((layer) => {
      const curve = curveOf(layer, kind, rotation);
      return {
        layer: layer.name, sign: curveOf(layer, "threshold", "none").r[0], r: read(curve, "r", value),
        angle: read(curve, "angle", value), flips: read(curve, "flips", value),
      };
    }).filter((row) => row.sign != null && row.r != null);
    const what = kind === "levels" ? `${levels} levels` : threshold ? `ternary levels at ${threshold.toFixed(2)} σ` : "signs";
    const where = rotation === "none" ? "" : " in a rotated frame";
    const worst = rows.reduce((least, row) => !least || row.r < least.r ? row : least, null);
    element("what-if-words").textContent = worst
      ? `With ${what}${where}: the median r over layers is ${number(median(rows.map((row) => row.r)), 3)}; ` +
        `the lowest is ${number(worst.r, 3)} in ${worst.layer}, where ${percent(worst.flips)} of signs flip.`
      : `With ${what}${where} no layer has an r.`;
    if (rows.length) draw("what-if-layers", "what_if", { what_if: rows, layers: rows.map(({ layer }) => ({ layer })) }, rowHeight);
    else note("what-if-layers", "No layer has an r.");
    const layer = page.layers[chosen];
    const row = rows.find((each) => each.layer === layer.name);
    element("caption-what-if").textContent = row
      ? `${layer.name}: r = ${number(row.r, 3)}, angle ${number(row.angle, 1)}°, ${percent(row.flips)} of signs flip ` +
        `(with signs r = ${number(row.sign, 3)}); medians over ${curveOf(layer, kind, rotation).filters} filters`
      : layer.name;
    const points = layer.what_if.filter((curve) => curve.kind === kind).flatMap((curve) =>
      curve.values.map((at, i) => ({
        value: at, r: curve.r[i], angle: curve.angle[i],
        rotation: curve.rotation === "none" ? "no rotation" : "Hadamard rotation",
      }))).filter((point) => point.r != null);
    if (!points.length) return note("what-if-curve", "This layer has no covariance to predict from.");
    draw("what-if-curve", "what_if_curve", { curves: points, now: [{ value }] }, (specification) => {
      for (const axis of specification.axes) {
        if (axis.scale === "x" && !axis.grid) {
          axis.title = kind === "threshold" ? "threshold, in σ of the filter (0: sign)" : "levels";
        }
      }
    });
  }

  // Ablation and depth ---------------------------------------------------------------------------------
  function drawAblation() {
    const { changes, logits } = page.ablation;
    if (element("ablation-changes")) {
      const layers = [...new Set(changes.map((row) => row.layer))].map((layer) => ({ layer }));
      if (changes.length) draw("ablation-changes", "changes", { changes, layers, zero: [{ at: 0 }] }, highlight);
      else note("ablation-changes", "No layer was ablated.");
      if (logits.length) draw("ablation-logits", "logits", { logits, diagonal: diagonal(logits) });
      else note("ablation-logits", "No correlation of logits is known.");
    }
    if (element("depth-r")) {
      if (page.depth.length) draw("depth-r", "depth", { depth: page.depth });
      else note("depth-r", "No correlation is known.");
    }
  }

  function drawLayer() {
    const layer = page.layers[chosen];
    drawPrediction(layer);
    for (const family of Object.keys(page.families)) drawProducts(family, layer.products[family]);
    drawAngle(layer);
    drawWeights(layer);
    drawFilters(layer);
  }

  const highlight = (specification) => {
    for (const signal of specification.signals) if (signal.name === "chosen") signal.value = page.layers[chosen].name;
  };

  // The chart beside the angles has a fixed height: few layers share that height, many layers need more.
  const rowHeight = (specification) => {
    highlight(specification);
    const step = specification.signals.find((signal) => signal.name === "y_step");
    step.value = Math.max(28, Math.min(56, 250 / page.layers.length));
  };

  function drawAcross() {
    for (const [chart, adjust] of [["angles", rowHeight], ["correlations", highlight], ["spread"]]) {
      if (page.across[chart].length) draw(`across-${chart}`, chart, page.across, adjust);
      else note(`across-${chart}`, "No layer with quantized weights.");
    }
    if (element("across-scatter")) {
      const rows = page.across.scatter;
      if (rows.length) draw("across-scatter", "scatter", { scatter: rows, diagonal: diagonal(rows) });
      else note("across-scatter", "No filter has both a measured and a predicted r.");
    }
    drawAblation();
    for (const [name, rows] of Object.entries(page.training)) {
      const chart = { loss: "pair", accuracy: "pair", rate: "rate", flipped: "layers_log" }[name] ?? "layers";
      if (rows.length) draw(`training-${name}`, chart, { points: rows });
    }
  }

  // Picking a layer ------------------------------------------------------------------------------------
  const select = element("layer");
  const rows = [...document.querySelectorAll(".pick tbody tr")]; // one row per layer, in one table or two
  let chosen = 0;

  function pick(at, scroll = false) {
    chosen = at;
    const name = page.layers[at].name;
    select.value = String(at);
    element("previous").disabled = at === 0;
    element("next").disabled = at === page.layers.length - 1;
    rows.forEach((row, i) => i % page.layers.length === at
      ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
    element("about").textContent = document.querySelectorAll("#table tbody tr")[at].dataset.about;
    for (const id of ["across-angles", "across-correlations", "ablation-changes"]) views.get(id)?.view.signal("chosen", name).runAsync();
    drawLayer();
    drawWhatIf();
    if (scroll) element("one-layer").scrollIntoView();
  }

  if (page.layers.length) {
    select.addEventListener("change", () => pick(Number(select.value)));
    element("previous").addEventListener("click", () => pick(chosen - 1));
    element("next").addEventListener("click", () => pick(chosen + 1));
    rows.forEach((row, i) => row.addEventListener("click", () => pick(i % page.layers.length, true)));
    if (element("what-if")) {
      const stored = page.layers.find((layer) => layer.what_if.length).what_if.find((curve) => curve.kind === "levels");
      element("what-if-levels").max = String(stored.values.length - 1);
      for (const [id, kind] of [["what-if-threshold", "threshold"], ["what-if-levels", "levels"]]) {
        element(id).addEventListener("input", () => {
          document.querySelector(`#what-if input[value=${kind}]`).checked = true;
          drawWhatIf();
        });
      }
      for (const input of document.querySelectorAll("#what-if input:not([type=range])")) {
        input.addEventListener("change", drawWhatIf);
      }
    }
    drawAcross();
    pick(0);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawAcross(); drawLayer(); drawWhatIf(); });
  } else {
    drawAcross();
  }
  document.documentElement.dataset.ready = "true";
})();
