"use strict";
// Runs overlaid: a colour and a shape per run.
page.start((data) => {
  const { number } = page;
  const looks = data.runs.map((text, i) => ({ text, ...charts.look(i) }));
  for (const [id, { title, rows }] of Object.entries(data.layers)) {
    const band = [...new Set(rows.map((row) => row.layer))];
    const lane = (i) => (i - (looks.length - 1) / 2) * 9;
    const digits = title.includes("degrees") ? 2 : 3;
    charts.draw(id, {
      label: `${title} of each layer in each run, measured and predicted`,
      step: Math.max(26, 9 * looks.length + 8),
      x: { title }, y: { band },
      legend: [...looks.map((look) => ({ ...look, dash: null })), { text: "predicted", shape: "tick", colour: "var(--muted)" }],
      marks: looks.flatMap((look, i) => {
        const own = { rows: rows.filter((row) => row.run === look.text), y: "layer", lane: lane(i), colour: look.colour, shape: look.shape };
        return [
          { kind: "tick", ...own, x: "predicted", size: 4.5 },
          { kind: "point", ...own, x: "measured", tip: (row) => [`${row.layer}, ${row.run}`, `measured ${number(row.measured, digits)}`, `predicted ${number(row.predicted, digits)}`] },
        ];
      }),
    });
  }
  page.drawTraining(data.training);
});
