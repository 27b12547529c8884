"use strict";
// The report's charts. Picking a layer redraws the charts of one layer.
page.start((data) => {
  const { element, number, percent, median } = page;
  const { draw, note, look } = charts;
  const layerNames = (data.layers ?? []).map((layer) => layer.name);
  const lookOf = new Map(layerNames.map((name, i) => [name, look(i)]));
  const FAMILIES = {
    weights: { colour: "var(--weights)", shape: "circle" },
    activations: { colour: "var(--activations)", shape: "square" },
    both: { colour: "var(--both)", shape: "triangle" },
  };
  let chosen = 0;

  // Rows of the charts ---------------------------------------------------------------------------------
  function cells({ x, y, counts }) {
    const rows = [];
    counts.forEach((column, i) => column.forEach((count, j) => {
      if (count) rows.push({ x0: x[i], x1: x[i + 1], y0: y[j], y1: y[j + 1], count, log: Math.log(count) });
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

  const pairs = (grid, density) => grid.map((x, i) => ({ x, density: density[i] }));

  // The line on which measured and predicted agree.
  function diagonal(rows) {
    const values = rows.flatMap((row) => [row.predicted, row.measured]);
    return { kind: "line", rows: [Math.min(...values), Math.max(...values)].map((at) => ({ at })), x: "at", y: "at", colour: "var(--predicted)", width: 1.5, dash: "5 4" };
  }

  // One layer ------------------------------------------------------------------------------------------
  const say = (words, caption = "") => {
    element("view-words").textContent = words;
    element("caption-view").textContent = caption;
  };

  function drawProducts(family, products) {
    if (!products) {
      say(data.families[family].title);
      return note("view", family === "activations_binarized"
        ? "This layer's inputs are not quantized: there is nothing to compare."
        : "This layer's weights are not quantized: there is nothing to compare.");
    }
    say(`${data.families[family].title}: how often each pair of dot products occurs; the sign differs in the shaded quarters`,
      `r = ${number(products.r, 3)}, predicted ${number(products.predicted, 3)}; ${percent(products.differ)} of signs differ` +
      `${products.training_differ == null ? "" : `, ${percent(products.training_differ)} on training images`}`);
    const rows = cells(products);
    if (!rows.length) return note("view", "No pair of dot products was counted.");
    const most = Math.max(...rows.map((row) => row.log), 1e-9);
    const box = { x0: "x0", x1: "x1", y0: "y0", y1: "y1" };
    draw("view", {
      label: `Two-dimensional histogram of ${data.families[family].title.toLowerCase()}, ${layerNames[chosen]}`,
      height: 290,
      x: { title: data.families[family].x, domain: [products.x[0], products.x.at(-1)], grid: false },
      y: { title: data.families[family].y, domain: [products.y[0], products.y.at(-1)], grid: false },
      marks: [
        { kind: "rect", name: "quadrants", rows: quadrants(products), ...box, colour: "var(--differ)", opacity: .14 },
        {
          kind: "rect", name: "cells", rows, ...box, colour: "var(--measured)", shade: (row) => (.12 + .88 * row.log / most).toFixed(2),
          tip: (row) => [`${row.count.toLocaleString("en")} pairs`, `across ${((row.x0 + row.x1) / 2).toPrecision(3)}, up ${((row.y0 + row.y1) / 2).toPrecision(3)}`],
        },
        { kind: "line", rows: line(products), x: "x", y: "y", colour: "var(--predicted)" },
      ],
    });
  }

  function drawAngle({ name, angle }) {
    if (!angle) {
      say("Angle of each filter");
      return note("view", `The weights of ${name} are not quantized: there is no angle.`);
    }
    say("Angle between each latent filter and its levels; the vertical line is the predicted mean",
      `measured ${number(angle.mean, 2)}° ± ${number(angle.std, 2)}°` +
      (angle.predicted_mean == null ? "" : `; predicted ${number(angle.predicted_mean, 2)}° ± ${number(angle.predicted_std, 2)}°`) +
      (angle.moments_mean == null ? "" : `; from its moments ${number(angle.moments_mean, 2)}°`));
    if (!angle.density.some((height) => height)) return note("view", "No density was estimated.");
    const measured = pairs(angle.grid, angle.density);
    draw("view", {
      label: `Density of the angles of ${name}, measured and predicted`,
      height: 260,
      x: { title: "angle (degrees)", grid: false, pad: 0 }, y: { title: "density per degree", zero: true },
      legend: [{ text: "measured", colour: "var(--measured)", line: true }, { text: "predicted", colour: "var(--predicted)", dash: "5 4", line: true }],
      marks: [
        { kind: "area", rows: measured, x: "x", y: "density", colour: "var(--measured)", opacity: .15 },
        { kind: "line", rows: measured, x: "x", y: "density", colour: "var(--measured)", tip: (row) => [`${row.x.toFixed(2)}°`, `density ${Number(row.density.toPrecision(3))}`] },
        { kind: "line", rows: pairs(angle.predicted_grid ?? angle.grid, angle.predicted_density), x: "x", y: "density", colour: "var(--predicted)", dash: "5 4", width: 1.5 },
        { kind: "rule", rows: angle.predicted_mean == null ? [] : [{ x: angle.predicted_mean }], x: "x", colour: "var(--predicted)", width: 1.5 },
      ],
    });
  }

  function drawWeights({ name, weights }) {
    const shares = weights.level_shares.filter(([, share]) => share)
      .map(([level, share]) => `${percent(share)} at ${level.replace("-", "−")}`).join(", ");
    say("Latent weights on a log scale; dashed: the normal distribution; vertical lines: thresholds",
      `standard deviation ${number(weights.std, 3)}, kurtosis ${number(weights.kurtosis, 2)} (normal: 3)${shares ? `; ${shares}` : ""}`);
    const floor = Math.max(...weights.density) / 1e5;
    const rows = pairs(weights.grid, weights.density).map(({ x, density }) => {
      const normal = weights.std ? Math.exp(-(((x - weights.mean) / weights.std) ** 2) / 2) /
        (weights.std * Math.sqrt(2 * Math.PI)) : null;
      return { x, density: density > floor ? density : null, normal: normal > floor ? normal : null };
    });
    if (!rows.some((row) => row.density)) return note("view", "No density was estimated.");
    draw("view", {
      label: `Density of the latent weights of ${name}, on a logarithmic scale, with thresholds`,
      height: 260,
      x: { title: "latent weight", domain: [weights.grid[0], weights.grid.at(-1)], grid: false }, y: { title: "density", log: true },
      marks: [
        { kind: "line", rows, x: "x", y: "normal", colour: "var(--muted)", dash: "5 4", width: 1.2 },
        { kind: "line", rows, x: "x", y: "density", colour: "var(--measured)", tip: (row) => [`weight ${row.x.toFixed(3)}`, `density ${Number(row.density.toPrecision(3))}`] },
        { kind: "rule", name: "thresholds", rows: weights.thresholds.map((x) => ({ x })), x: "x", colour: "var(--predicted)", width: 1.5 },
      ],
    });
  }

  function drawFilters({ name, filters }) {
    say("One point per filter; dashed: r = cos(angle), which holds for inputs that vary equally in all directions", `${filters.length} filters`);
    if (!filters.length) return note("view", "No filter has both an angle and a correlation.");
    const rows = filters.map(([filter, angle, r]) => ({ filter, angle, r }));
    const angles = rows.map((row) => row.angle);
    const [low, high] = [Math.min(...angles), Math.max(...angles)];
    const curve = Array.from({ length: 31 }, (_, i) => low + (high - low) * i / 30)
      .map((degrees) => ({ angle: degrees, r: Math.cos(degrees * Math.PI / 180) }));
    draw("view", {
      label: `Correlation against angle, one point per filter of ${name}, and the curve r = cos angle`,
      height: 270,
      x: { title: "angle (degrees)" }, y: { title: "r, weights binarized" },
      marks: [
        { kind: "line", rows: curve, x: "angle", y: "r", colour: "var(--predicted)", dash: "5 4", width: 1.5 },
        { kind: "point", rows, x: "angle", y: "r", colour: "var(--measured)", opacity: .75, shape: "circle", size: 3.5, tip: (row) => [`filter ${row.filter}`, `${row.angle.toFixed(2)}°`, `r = ${row.r.toFixed(3)}`] },
      ],
    });
  }

  // r of each filter, measured against predicted, in each family that has a prediction.
  function drawPrediction({ name, prediction }) {
    const families = Object.keys(FAMILIES).filter((family) => prediction.some((row) => row.family === family));
    say("r of each filter on test images, against r predicted");
    if (!families.length) return note("view", "No filter has both a measured and a predicted r.");
    element("caption-view").textContent = families.map((family) => {
      const rows = prediction.filter((row) => row.family === family);
      return `${family}: ${rows.length} filters, median distance ${number(median(rows.map((row) => Math.abs(row.predicted - row.measured))), 4)}`;
    }).join("; ");
    draw("view", {
      label: `Measured against predicted correlation, one point per filter of ${name}, and the diagonal`,
      height: 290,
      x: { title: "r predicted" }, y: { title: "r measured" },
      legend: families.length > 1 ? families.map((family) => ({ text: family, ...FAMILIES[family] })) : [],
      marks: [diagonal(prediction), ...families.map((family) => ({
        kind: "point", rows: prediction.filter((row) => row.family === family), x: "predicted", y: "measured", opacity: .75, size: 3.5,
        ...FAMILIES[family], tip: (row) => [`filter ${row.filter}, ${family}`, `predicted ${row.predicted.toFixed(4)}`, `measured ${row.measured.toFixed(4)}`],
      }))],
    });
  }

  function drawComponents({ name, components }) {
    say("How much of the inputs' variance and of the filters is in the k directions in which the inputs vary most");
    if (!components.length) return note("view", "Not computed for this layer: no covariance, or too large a fan-in.");
    const first = components.find((row) => row.series === "inputs' variance");
    if (first) element("caption-view").textContent = `the first direction holds ${percent(first.share)} of the variance`;
    const series = [...new Set(components.map((row) => row.series))];
    draw("view", {
      label: `Shares of variance and of filters in the leading principal components, ${name}`,
      height: 260,
      x: { title: "leading directions of the inputs", log: true, grid: false, ticks: [...new Set(components.map((row) => row.k))] },
      y: { title: "share", domain: [0, 1], format: (value) => `${Math.round(100 * value)} %` },
      legend: series.map((text, i) => ({ text, ...look(i), line: true })),
      marks: series.flatMap((text, i) => {
        const own = { rows: components.filter((row) => row.series === text), x: "k", y: "share", colour: look(i).colour };
        return [
          { kind: "line", ...own, dash: look(i).dash },
          { kind: "point", ...own, shape: look(i).shape, size: 3.5, tip: (row) => [text, `k = ${row.k}`, percent(row.share)] },
        ];
      }),
    });
  }

  const VIEWS = { prediction: drawPrediction, angle: drawAngle, filters: drawFilters, weights: drawWeights, components: drawComponents };

  function drawNumbers({ numbers }) {
    const columns = data.columns.filter(([key]) => numbers.some((row) => row[key] != null));
    const table = element("numbers");
    const cell = (tag, text, attributes = {}) => Object.assign(document.createElement(tag), { textContent: text, ...attributes });
    const head = document.createElement("tr");
    head.append(cell("th", "r", { scope: "col" }), ...columns.map(([key, title]) => cell("th", title, { scope: "col", className: key === "independent" ? "reference" : "" })));
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...numbers.map((row) => {
      const made = document.createElement("tr");
      made.append(cell("th", row.family, { scope: "row" }), ...columns.map(([key]) => cell("td", number(row[key], 4) + (key === "measured" && row.error != null ? ` ± ${number(row.error, 4)}` : ""), { className: key === "independent" ? "reference" : "" })));
      if (row.mark) made.cells[1].append(" ", cell("span", row.mark === "above" ? "▲" : "▼", { className: "arrow", title: `${row.mark} prediction` }));
      return made;
    }));
    table.hidden = !numbers.length;
  }

  function drawLayer() {
    const layer = data.layers[chosen];
    const view = document.querySelector(".views input:checked").value;
    if (VIEWS[view]) VIEWS[view](layer);
    else drawProducts(view, layer.products[view]);
  }

  // Across layers --------------------------------------------------------------------------------------
  const byLayer = { chosen: layerNames[0], pick: (name) => pickName(name) };

  function drawAcross() {
    const { angles, correlations, spread, scatter } = data.across;
    const empty = "No layer with quantized weights.";
    if (angles.length) {
      draw("across-angles", {
        ...byLayer, label: "Angle of each layer, measured with its spread, and predicted", step: Math.max(24, Math.min(44, 200 / angles.length)),
        x: { title: "angle (degrees)" }, y: { band: angles.map((row) => row.layer) },
        marks: [
          { kind: "rect", rows: angles.filter((row) => row.predicted_low != null), x: "predicted", x0: "predicted_low", x1: "predicted_high", y: "layer", thick: 13, colour: "var(--predicted)", opacity: .3 },
          { kind: "tick", rows: angles, x: "predicted", y: "layer", colour: "var(--predicted)", size: 9 },
          { kind: "rule", rows: angles, x: "low", x2: "high", y: "layer", colour: "var(--measured)" },
          {
            kind: "point", name: "measured", rows: angles, x: "mean", y: "layer", colour: "var(--measured)", shape: "circle", size: 5,
            tip: (row) => [row.layer, `measured ${number(row.mean, 2)}° ± ${number(row.std, 2)}°`,
              ...(row.predicted == null ? [] : [`predicted ${number(row.predicted, 2)}° ± ${number(row.predicted_std, 2)}°`]),
              ...(row.moments == null ? [] : [`from its moments ${number(row.moments, 2)}°`])],
          },
        ],
      });
    } else note("across-angles", empty);
    if (correlations.length) {
      const lanes = { weights: -10, activations: 0, both: 10 };
      const families = Object.keys(FAMILIES).filter((family) => correlations.some((row) => row.family === family));
      draw("across-correlations", {
        ...byLayer, label: "Correlation of dot products for each layer, measured and predicted", step: Math.max(34, Math.min(40, 220 / layerNames.length)),
        x: { title: "r" }, y: { band: [...new Set(correlations.map((row) => row.layer))] },
        legend: [...families.map((family) => ({ text: family, ...FAMILIES[family] })), { text: "predicted", shape: "tick", colour: "var(--muted)" },
          ...(correlations.some((row) => row.independent != null) ? [{ text: "if inputs were independent", shape: "cross", colour: "var(--line-strong)" }] : [])],
        marks: families.flatMap((family) => {
          const own = { rows: correlations.filter((row) => row.family === family), y: "layer", lane: lanes[family], ...FAMILIES[family] };
          return [
            { kind: "rule", ...own, rows: own.rows.filter((row) => row.predicted != null), x: "predicted", x2: "measured", width: 1.5, opacity: .5 },
            { kind: "point", ...own, x: "independent", colour: "var(--line-strong)", shape: "cross", size: 3 },
            { kind: "tick", ...own, x: "predicted", size: 6 },
            {
              kind: "point", name: family, ...own, x: "measured",
              tip: (row) => [`${row.layer}, ${family}`, `measured ${number(row.measured, 3)}`,
                ...(row.training == null ? [] : [`from training images ${number(row.training, 3)}`]), `predicted ${number(row.predicted, 3)}`,
                ...(row.independent == null ? [] : [`if inputs were independent ${number(row.independent, 3)}`])],
            },
          ];
        }),
      });
    } else note("across-correlations", empty);
    if (spread.length) {
      draw("across-spread", {
        ...byLayer, label: "Spread of the angle against fan-in, with a guide of slope -1/2", height: 225,
        x: { title: "fan-in d", log: true, pad: .12 }, y: { title: "std of the angle (degrees)", log: true, pad: .1 },
        legend: [{ text: "measured", colour: "var(--measured)", shape: "circle" }, { text: "predicted", colour: "var(--predicted)", shape: "cross" }],
        marks: [
          { kind: "line", rows: spread, x: "fan_in", y: "guide", colour: "var(--muted)", dash: "5 4", width: 1.2 },
          { kind: "point", rows: spread, x: "fan_in", y: "predicted", colour: "var(--predicted)", shape: "cross" },
          { kind: "point", rows: spread, x: "fan_in", y: "std", colour: "var(--measured)", shape: "circle", tip: (row) => [row.layer, `fan-in ${row.fan_in.toLocaleString("en")}`, `measured ${number(row.std, 3)}°`, `predicted ${number(row.predicted, 3)}°`] },
          // Names end below their points, under the guide; there is no room to the left of the smallest fan-in.
          { kind: "text", rows: spread.filter((row) => row.label), x: "fan_in", y: "std", text: "label", anchor: (row) => row === spread[0] ? "start" : "end", dx: (row) => row === spread[0] ? 8 : -8, dy: (row) => row === spread[0] ? -8 : 14 },
        ],
      });
    } else note("across-spread", empty);
    if (scatter.length) {
      const names = [...new Set(scatter.map((row) => row.layer))];
      draw("across-scatter", {
        ...byLayer, label: "Measured against predicted correlation, one point per filter, and the diagonal", height: 235,
        x: { title: "r predicted" }, y: { title: "r measured" },
        legend: names.length < 25 ? names.map((text) => ({ text, ...lookOf.get(text), dash: null })) : [],
        marks: [diagonal(scatter), ...names.map((name) => ({
          kind: "point", rows: scatter.filter((row) => row.layer === name), x: "predicted", y: "measured", opacity: .75, size: 3.5,
          colour: lookOf.get(name).colour, shape: lookOf.get(name).shape,
          tip: (row) => [`${row.layer}, filter ${row.filter}`, `predicted ${row.predicted.toFixed(4)}`, `measured ${row.measured.toFixed(4)}`],
        }))],
      });
    } else note("across-scatter", "No filter has both a measured and a predicted r.");
  }

  // Ablation and depth ---------------------------------------------------------------------------------
  const SIDES = { weights: FAMILIES.weights, inputs: FAMILIES.activations };

  function drawAblation() {
    const { changes, logits } = data.ablation;
    const legend = Object.entries(SIDES).map(([text, own]) => ({ text: `${text} back to float`, ...own }));
    if (changes.length) {
      draw("ablation-changes", {
        ...byLayer, label: "Change of the loss with one layer back to float, for each layer", step: 32, legend,
        x: { title: "change of loss, ± one standard error", zero: true }, y: { band: [...new Set(changes.map((row) => row.layer))] },
        marks: [
          { kind: "rule", rows: [{ x: 0 }], x: "x", colour: "var(--muted)", dash: "4 4", width: 1.2 },
          ...Object.entries(SIDES).flatMap(([side, own], i) => {
            const at = { rows: changes.filter((row) => row.side === side), y: "layer", lane: 10 * i - 5, ...own };
            return [
              { kind: "rule", ...at, x: "low", x2: "high" },
              { kind: "point", name: side, ...at, x: "loss", tip: (row) => [`${row.layer}, ${side} back to float`, `loss ${row.loss < 0 ? "−" : "+"}${Math.abs(row.loss).toFixed(4)}`, `accuracy ${row.accuracy < 0 ? "−" : "+"}${Math.abs(row.accuracy).toFixed(2)} points`] },
            ];
          }),
        ],
      });
    } else note("ablation-changes", "No layer was ablated.");
    if (logits.length) {
      draw("ablation-logits", {
        ...byLayer, label: "Correlation of logits with one layer back to float, measured and predicted", height: 230, legend,
        x: { title: "r of the logits, predicted" }, y: { title: "r of the logits, measured" },
        marks: [diagonal(logits), ...Object.entries(SIDES).map(([side, own]) => ({
          kind: "point", name: side, rows: logits.filter((row) => row.side === side), x: "predicted", y: "measured", ...own, size: 5,
          tip: (row) => [`${row.layer}, ${side}`, `predicted ${number(row.predicted, 3)}`, `measured ${number(row.measured, 3)}`],
        }))],
      });
    } else note("ablation-logits", "No correlation of logits is known.");
    const { depth } = data;
    if (!depth.length) return note("depth-r", "No correlation is known.");
    const series = [...new Set(depth.map((row) => row.series))];
    const looks = { "all, measured": { colour: "var(--measured)", shape: "circle", dash: "" }, "all, training images": { colour: "var(--predicted)", shape: "cross", dash: "5 4" }, alone: { colour: "var(--muted)", shape: "square", dash: "2 3" } };
    const names = [...new Set(depth.map((row) => row.layer))];
    draw("depth-r", {
      ...byLayer, label: "Correlation of each layer's dot products with those of the float replica", height: 250,
      x: { domain: [-.3, names.length - .7], ticks: names.map((_, i) => i).filter((i) => i % Math.ceil(names.length / 8) === 0), format: (i) => names[i].split(".").at(-1), grid: false },
      y: { title: "r with the float replica", zero: true },
      legend: series.map((text) => ({ text, ...looks[text], line: true })),
      marks: series.flatMap((text) => {
        const own = { rows: depth.filter((row) => row.series === text), x: (row) => names.indexOf(row.layer), y: "r", ...looks[text] };
        return [{ kind: "line", ...own }, { kind: "point", ...own, tip: (row) => [row.layer, text, `r = ${number(row.r, 3)}`] }];
      }),
    });
  }

  // Positions ------------------------------------------------------------------------------------------
  function drawPositions() {
    const { name, r, predicted } = data.positions[Number(element("positions-layer").value)];
    const pairs = r.flatMap((row, head) => row.map((value, t) => [value, predicted[head][t]])).filter(([a, b]) => a != null && b != null);
    const gaps = pairs.map(([a, b]) => Math.abs(a - b));
    element("positions-words").textContent = pairs.length ? `median distance from the prediction ${number(median(gaps), 4)}, largest ${number(Math.max(...gaps), 4)}` : "";
    if (!pairs.length) return note("positions-r", "No correlation is known.");
    const heads = r.map((row, head) => ({ text: r.length > 1 ? `head ${head + 1}` : "all units", ...look(head), rows: row.map((value, t) => ({ t, r: value, predicted: predicted[head][t] })) }));
    draw("positions-r", {
      label: `r of ${name} at each position, measured and predicted`, height: 290,
      x: { title: "position", grid: false }, y: { title: "r" },
      legend: heads.map(({ text, colour }) => ({ text, colour, line: true })),
      marks: heads.flatMap(({ text, colour, rows }) => [
        { kind: "line", rows, x: "t", y: "predicted", colour, dash: "3 3", width: 1 },
        { kind: "line", rows, x: "t", y: "r", colour, width: 1.4, tip: (row) => [`${text}, position ${row.t}`, `measured ${number(row.r, 3)}`, `predicted ${number(row.predicted, 3)}`] },
      ]),
    });
  }

  // What if --------------------------------------------------------------------------------------------
  const KINDS = {
    threshold: "weights: ternary threshold, σ", levels: "weights: number of levels",
    "input threshold": "inputs: ternary threshold, σ", "input levels": "inputs: number of levels",
  };
  const curveOf = (layer, kind, rotation) => layer.what_if.find((curve) => curve.kind === kind && curve.rotation === rotation);

  // The value of a stored curve at `value`, by linear interpolation.
  function read(curve, field, value) {
    if (!curve?.[field].length || value > curve.values.at(-1) + 1e-9) return null;
    const { values } = curve;
    const after = Math.max(1, values.findIndex((at) => at >= value - 1e-9));
    const [a, b] = [curve[field][after - 1], curve[field][after]];
    if (a == null || b == null) return Math.abs(values[after] - value) < 1e-9 ? b : null;
    return a + (b - a) * (value - values[after - 1]) / (values[after] - values[after - 1]);
  }

  const changes = (kind) => kind.endsWith("levels");

  // The slider moves along thresholds, or from one stored number of levels to the next.
  function setSlider() {
    const kind = element("what-if-kind").value;
    const slider = element("what-if-value");
    const { values } = data.layers.flatMap((layer) => layer.what_if).find((curve) => curve.kind === kind);
    Object.assign(slider, changes(kind) ? { min: 0, max: values.length - 1, step: 1, value: 1 }
      : { min: 0, max: 1.5, step: .05, value: .6 });
    drawWhatIf();
  }

  function drawWhatIf() {
    if (!element("what-if")) return;
    const kind = element("what-if-kind").value;
    const field = element("what-if-field").value;
    const rotated = element("what-if-rotation");
    rotated.disabled = kind.startsWith("input");
    const rotation = rotated.checked && !rotated.disabled ? "hadamard" : "none";
    const at = Number(element("what-if-value").value);
    const value = changes(kind) ? data.layers.flatMap((layer) => layer.what_if).find((curve) => curve.kind === kind).values[at] : at;
    element("what-if-value-words").textContent = changes(kind) ? `${value} levels` : value ? `${value.toFixed(2)} σ` : "0: sign";
    const now = kind.startsWith("input") ? "input threshold" : "threshold";
    const rows = data.layers.filter((layer) => curveOf(layer, kind, rotation)).map((layer) => {
      const curve = curveOf(layer, kind, rotation);
      return {
        layer: layer.name, sign: read(curveOf(layer, now, "none"), field, 0), r: read(curve, field, value),
        angle: read(curve, "angle", value), flips: read(curve, "flips", value),
      };
    }).filter((row) => row.sign != null && row.r != null);
    const what = (changes(kind) ? `${value} levels` : value ? `ternary levels at ${value.toFixed(2)} σ` : "signs") + (kind.startsWith("input") ? " of the inputs" : "");
    const where = rotation === "none" ? "" : " in a rotated frame";
    const worst = rows.reduce((least, row) => !least || row.r < least.r ? row : least, null);
    const flips = (row) => row.flips == null ? "" : `, ${percent(row.flips)} of signs flip`;
    element("what-if-words").textContent = worst
      ? `With ${what}${where}: the median r over layers is ${number(median(rows.map((row) => row.r)), 3)}; ` +
        `the lowest is ${number(worst.r, 3)} in ${worst.layer}${worst.flips == null ? "" : `, where ${percent(worst.flips)} of signs flip`}.`
      : `With ${what}${where} no layer has an r.`;
    const title = `r, ${field} binarized, median over filters`;
    if (rows.length) {
      draw("what-if-layers", {
        ...byLayer, chosen: layerNames[chosen], label: "Predicted correlation of each layer, with signs and with the levels chosen",
        step: Math.max(24, Math.min(44, 190 / rows.length)),
        x: { title }, y: { band: rows.map((row) => row.layer) },
        marks: [
          { kind: "rule", rows, x: "sign", x2: "r", y: "layer", colour: "var(--predicted)", width: 1.5, opacity: .5 },
          { kind: "tick", rows, x: "sign", y: "layer", colour: "var(--muted)", size: 8 },
          {
            kind: "point", rows, x: "r", y: "layer", colour: "var(--predicted)", shape: "circle", size: 5,
            tip: (row) => [row.layer, `with signs ${number(row.sign, 3)}`, `with these ${number(row.r, 3)}`, `angle ${number(row.angle, 1)}°${flips(row)}`],
          },
        ],
      });
    } else note("what-if-layers", "No layer has an r.");
    const layer = data.layers[chosen];
    const row = rows.find((each) => each.layer === layer.name);
    element("caption-what-if").textContent = row
      ? `${layer.name}: r = ${number(row.r, 3)}, angle ${number(row.angle, 1)}°${flips(row)} ` +
        `(with signs r = ${number(row.sign, 3)}); medians over ${curveOf(layer, kind, rotation).filters} filters`
      : layer.name;
    const points = layer.what_if.filter((curve) => curve.kind === kind && curve[field].length).flatMap((curve) =>
      curve.values.map((at, i) => ({ value: at, r: curve[field][i], angle: curve.angle[i], rotation: curve.rotation }))).filter((point) => point.r != null);
    if (!points.length) return note("what-if-curve", "This layer has no covariance to predict from.");
    const series = [["none", "no rotation"], ["hadamard", "Hadamard rotation"]].filter(([key]) => points.some((point) => point.rotation === key));
    draw("what-if-curve", {
      label: "Predicted correlation of the layer against threshold or number of levels", height: 220,
      x: { title: KINDS[kind], grid: false, pad: .02 },
      y: { title: "r, median" },
      legend: series.length > 1 ? series.map(([, text], i) => ({ text, ...look(3 * i), line: true })) : [],
      marks: [
        { kind: "rule", rows: [{ value }], x: "value", colour: "var(--predicted)", width: 1.5 },
        ...series.flatMap(([key, text], i) => {
          const own = { rows: points.filter((point) => point.rotation === key), x: "value", y: "r", colour: look(3 * i).colour };
          return [
            { kind: "line", ...own, dash: look(3 * i).dash },
            { kind: "point", ...own, shape: look(3 * i).shape, size: 3.5, tip: (point) => [text, `at ${Number(point.value.toPrecision(3))}`, `r = ${number(point.r, 3)}`, `angle ${number(point.angle, 1)}°`] },
          ];
        }),
      ],
    });
  }

  function startWhatIf() {
    const curves = data.layers.flatMap((layer) => layer.what_if);
    const fill = (id, options) => element(id).replaceChildren(...options.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
    fill("what-if-kind", Object.entries(KINDS).filter(([kind]) => curves.some((curve) => curve.kind === kind)));
    fill("what-if-field", Object.keys(FAMILIES).filter((field) => curves.some((curve) => curve[field].length)).map((field) => [field, field]));
    element("what-if-kind").addEventListener("change", setSlider);
    element("what-if-field").addEventListener("change", drawWhatIf);
    element("what-if-value").addEventListener("input", drawWhatIf);
    element("what-if-rotation").addEventListener("change", drawWhatIf);
    setSlider();
  }

  // Picking a layer ------------------------------------------------------------------------------------
  const select = element("layer");
  const rows = [...document.querySelectorAll("#table tbody tr")];

  function pick(at) {
    chosen = at;
    const { name, about } = data.layers[at];
    select.value = String(at);
    element("previous").disabled = at === 0;
    element("next").disabled = at === layerNames.length - 1;
    rows.forEach((row, i) => i === at ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
    element("about").textContent = about;
    byLayer.chosen = name;
    for (const id of ["across-angles", "across-correlations", "ablation-changes", "forecast-effects"]) charts.choose(id, name);
    drawNumbers(data.layers[at]);
    drawLayer();
    drawWhatIf();
  }

  // From a chart or the table: the panel comes into view where it is not beside what was clicked.
  function pickName(name) {
    const at = layerNames.indexOf(name);
    if (at < 0) return;
    pick(at);
    const { top, bottom } = element("one-layer").getBoundingClientRect();
    if (top > innerHeight - 120 || bottom < 120) element("one-layer").scrollIntoView({ block: "nearest" });
  }

  if (layerNames.length) {
    select.addEventListener("change", () => pick(Number(select.value)));
    element("previous").addEventListener("click", () => pick(chosen - 1));
    element("next").addEventListener("click", () => pick(chosen + 1));
    rows.forEach((row, i) => row.addEventListener("click", () => pickName(layerNames[i])));
    for (const input of document.querySelectorAll(".views input")) input.addEventListener("change", drawLayer);
    if (element("what-if")) startWhatIf();
    drawAcross();
    if (data.forecast) drawForecast(data.forecast, byLayer);
    drawAblation();
    pick(0);
  }
  if (element("positions-layer")) {
    element("positions-layer").addEventListener("change", drawPositions);
    drawPositions();
  }
  page.drawTraining(data.training);
  page.keepFresh(data.reload_seconds);
});
