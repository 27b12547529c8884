// The forecast: what each format of each layer does, and a chooser that predicts any of them together.
function drawForecast(forecast, byLayer) {
  const { element, number, percent, bytes } = page;
  const looks = new Map(forecast.formats.map((name, i) => [name, charts.look(i)]));
  const kinds = { weights: forecast.formats.filter((name) => !name.startsWith("inputs:")), inputs: forecast.formats.filter((name) => name.startsWith("inputs:")) };
  const sides = ["repaired", "raw"].filter((side) => forecast.laws[side]);
  let side = sides[0];

  function drawEffects() {
    const rows = forecast.layers.flatMap((layer) => Object.entries(layer[side]).map(([format, effect]) => ({
      layer: layer.name, format, ...effect, changed: 1 - effect.agreement,
      low: Math.max(0, 1 - effect.agreement - effect.agreement_error), high: Math.min(1, 1 - effect.agreement + effect.agreement_error),
    })));
    if (!rows.length) return charts.note("forecast-effects", "No layer was measured.");
    // Where hardly a decision changes, the logits still tell the layers apart.
    const decides = Math.max(...rows.map((row) => row.changed)) >= .01;
    if (!decides) {
      for (const row of rows) Object.assign(row, { changed: 1 - row.r, low: Math.max(0, 1 - row.r - row.r_error), high: 1 - row.r + row.r_error });
    }
    const formats = forecast.formats.filter((format) => rows.some((row) => row.format === format));
    const lane = (i) => (i - (formats.length - 1) / 2) * 7;
    charts.draw("forecast-effects", {
      ...byLayer, label: "Share of decisions that change with one layer quantized, for each layer and format",
      step: Math.max(24, 7 * formats.length + 8),
      x: decides ? { title: "decisions that change, ± one standard error", zero: true, format: (value) => `${Number((100 * value).toPrecision(3))} %` }
        : { title: "change of the logits, 1 − r (decisions hardly change)", zero: true },
      y: { band: [...new Set(rows.map((row) => row.layer))] },
      legend: formats.map((text) => ({ text, ...looks.get(text), dash: null })),
      marks: formats.flatMap((format, i) => {
        const own = { rows: rows.filter((row) => row.format === format), y: "layer", lane: lane(i), colour: looks.get(format).colour, shape: looks.get(format).shape };
        return [
          { kind: "rule", ...own, x: "low", x2: "high", width: 1.2, opacity: .6 },
          {
            kind: "point", ...own, x: "changed", size: 4,
            tip: (row) => [`${row.layer}, ${format}`, ...(row.destroyed ? ["destroyed: r of the logits below .6"] : [
              `${percent(1 - row.agreement)} ± ${percent(row.agreement_error)} of decisions change`, `r of the logits ${number(row.r, 3)} ± ${number(row.r_error, 3)}`])],
          },
        ];
      }),
    });
  }

  // The combination law; docs/forecast.md derives it.
  function predict(changes) {
    const law = forecast.laws[side];
    const picks = changes.map(({ layer, format }) => law.changes.findIndex((change) => change.layer === layer && change.format === format));
    if (picks.includes(-1)) return null;
    let sum = 0, squares = 0;
    for (const i of picks) squares += law.products[i][i];
    for (const i of picks) for (const j of picks) sum += law.products[i][j];
    const error = Math.log1p(Math.max(sum, 0)) / 2;
    const largest = Math.max(0, ...picks.map((i) => Math.log1p(law.products[i][i]) / 2));
    const crowd = largest ? Math.max(error / largest, .3) : 1;
    const coherence = squares ? Math.max(sum / squares, .1) : 1;
    const r = picks.length ? Math.exp(-law.factor * error ** law.power * crowd ** law.crowding * coherence ** law.coherence) : 1;
    const { curve, bias, spread } = law;
    const at = Math.max(1, curve.r.findIndex((value) => value >= r));
    const part = Math.min(1, Math.max(0, (r - curve.r[at - 1]) / (curve.r[at] - curve.r[at - 1])));
    const agreement = curve.agreement[at - 1] + part * (curve.agreement[at] - curve.agreement[at - 1]);
    const n = forecast.decisions;
    return picks.length
      ? { r, agreement: Math.min(1, agreement - bias.agreement), r_error: -r * Math.log(r) * spread.log_r, error: Math.hypot(spread.agreement, Math.sqrt(agreement * (1 - agreement) / n)) }
      : { r: 1, agreement: 1, r_error: 0, error: 0 };
  }

  function chosen() {
    let size = forecast.other_bytes;
    const changes = [];
    for (const select of document.querySelectorAll("#forecast-chooser select")) {
      const layer = forecast.layers[Number(select.dataset.layer)];
      if (select.dataset.kind === "weights") size += layer.bytes[select.value] ?? NaN;
      if (select.value !== "float") changes.push({ layer: layer.name, format: select.value });
    }
    for (const layer of forecast.layers) if (layer.quantized) size += layer.bytes.float ?? NaN;
    return { size, changes };
  }

  function update() {
    const { size, changes } = chosen();
    const real = forecast.other_bytes + forecast.layers.reduce((sum, layer) => sum + 4 * layer.weights, 0);
    const found = predict(changes);
    const bytesText = Number.isFinite(size) ? `${bytes(size)}, ${(real / size).toFixed(1)} times smaller` : "size unknown";
    element("forecast-words").textContent = !found ? `${bytesText}. This choice was not measured.`
      : found.r < .6 ? `${bytesText}. Predicted: destroyed (r of the logits below .6).`
      : `${bytesText}. Predicted: r of the logits ${number(found.r, 3)} ± ${number(found.r_error, 3)}; ` +
        `${percent(1 - found.agreement)} ± ${percent(found.error)} of decisions change.`;
  }

  function set(format) { // a format for every layer, or an assignment
    for (const select of document.querySelectorAll("#forecast-chooser select[data-kind=weights]")) {
      const wanted = typeof format === "string" ? format : format[forecast.layers[Number(select.dataset.layer)].name] ?? "float";
      if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
    }
    update();
  }

  function makeChooser() {
    const chooser = element("forecast-chooser");
    const usedKinds = Object.entries(kinds).filter(([, formats]) => formats.length);
    const cell = (tag, text, attributes = {}) => Object.assign(document.createElement(tag), { textContent: text, ...attributes });
    chooser.tHead.replaceChildren(document.createElement("tr"));
    chooser.tHead.rows[0].append(cell("th", "Layer", { scope: "col" }), cell("th", "Weights", { scope: "col" }), ...usedKinds.map(([kind]) =>
      cell("th", kind === "weights" ? "Format" : "Inputs", { scope: "col" })));
    chooser.tBodies[0].replaceChildren(...forecast.layers.map((layer, i) => {
      const row = document.createElement("tr");
      row.append(cell("th", layer.name, { scope: "row" }), cell("td", layer.weights.toLocaleString("en")));
      for (const [kind, formats] of usedKinds) {
        const box = document.createElement("td");
        const there = formats.filter((format) => format in layer[side] && (kind === "inputs" || layer.bytes[format] != null));
        if (layer.quantized && kind === "weights" || !there.length) box.textContent = layer.quantized && kind === "weights" ? "as trained" : "–";
        else {
          const select = cell("select", "", { ariaLabel: `${kind === "weights" ? "format" : "inputs"} of ${layer.name}` });
          Object.assign(select.dataset, { layer: i, kind });
          select.append(...["float", ...there].map((format) => cell("option", format.replace("inputs:", ""), { value: format })));
          select.addEventListener("change", update);
          box.append(select);
        }
        row.append(box);
      }
      return row;
    }));
    const presets = [["all float", "float"], ...kinds.weights.slice(0, 4).map((format) => [`all ${format}`, format]), ...(forecast.plan ? [["the plan", forecast.plan.assignment]] : [])];
    element("forecast-presets").replaceChildren(...presets.map(([text, format]) => {
      const button = cell("button", text, { type: "button" });
      button.addEventListener("click", () => set(format));
      return button;
    }));
    set(forecast.plan ? forecast.plan.assignment : kinds.weights[0] ?? "float");
  }

  drawEffects();
  if (element("forecast-chooser")) makeChooser();
  for (const input of document.querySelectorAll("input[name=repair]")) {
    input.addEventListener("change", () => {
      side = input.value;
      drawEffects();
      if (element("forecast-chooser")) makeChooser();
    });
  }
}
