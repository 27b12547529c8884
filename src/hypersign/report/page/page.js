"use strict";
// What every page does: reads its data, folds parts on a phone, shows terms, keeps itself fresh during training.
const page = (() => {
  const element = (id) => document.getElementById(id);

  async function unpack(id) {
    const packed = Uint8Array.from(atob(element(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // The playground is a page of its own; it starts when its part is opened.
  element("play")?.addEventListener("toggle", async () => {
    const frame = element("play-frame");
    if (element("play").open && !frame.srcdoc) frame.srcdoc = await unpack("play-page");
  });

  // Parts: on a phone only the first ones are open; a link to a folded part opens it; print shows all of them.
  const parts = [...document.querySelectorAll("details.part")];
  if (matchMedia("(max-width: 46rem)").matches) {
    for (const part of parts) if (part.dataset.phone === "folded") part.open = false;
  }
  function reveal() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  }
  addEventListener("hashchange", reveal);
  element("contents").addEventListener("click", (event) => {
    if (event.target.hash && event.target.hash === location.hash) reveal();
  });
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = parts.filter((part) => !part.open && part.id !== "play");
    for (const part of folded) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of folded) part.open = false; });

  // The contents show where the reader is.
  const links = new Map([...document.querySelectorAll("#contents a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const part of parts) seen.observe(part);

  // Terms: a link to its definition, which also appears beside the link under the pointer or the focus.
  const tip = Object.assign(document.createElement("div"), { className: "term-tip", id: "term-tip" });
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  element("main").append(tip);
  let shown = null;
  function show(link) {
    const definition = document.querySelector(`${link.hash} dd`);
    if (!definition) return;
    hide();
    shown = link;
    tip.textContent = definition.textContent;
    tip.hidden = false;
    link.setAttribute("aria-describedby", "term-tip");
    const [at, size] = [link.getBoundingClientRect(), tip.getBoundingClientRect()];
    tip.style.left = `${Math.max(6, Math.min(at.left, innerWidth - size.width - 8))}px`;
    tip.style.top = `${at.bottom + size.height + 6 > innerHeight ? at.top - size.height - 4 : at.bottom + 4}px`;
  }
  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }
  for (const link of document.querySelectorAll("a.term")) {
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(link); });
    link.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && event.relatedTarget !== tip) hide();
    });
    link.addEventListener("focus", () => show(link));
    link.addEventListener("blur", hide);
    link.addEventListener("click", (event) => { // the definition is shown here; no jump to the end of the page
      event.preventDefault();
      event.stopPropagation();
      show(link);
    });
  }
  tip.addEventListener("pointerleave", hide);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, { passive: true });

  // Numbers as the tables write them.
  const number = (value, digits) => value == null ? "–" : value.toFixed(digits).replace("-", "−");
  const percent = (value) => value == null ? "–" : `${(100 * value).toFixed(1)} %`;
  const bytes = (value) => {
    for (const [size, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
      if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
    }
    return `${value} B`;
  };
  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
  };

  // Training curves: `series` names the line that a row belongs to.
  function drawTraining(training) {
    const titles = { loss: "loss", accuracy: "share of correct decisions", flipped: "share", angle: "degrees", rate: "learning rate" };
    for (const [name, rows] of Object.entries(training)) {
      if (!rows.length) continue;
      const series = [...new Set(rows.map((row) => row.series))];
      const last = Math.max(...rows.map((row) => row.epoch));
      const looks = series.map((text, i) => ({ text, ...charts.look(i), line: true }));
      const every = Math.ceil(last / 8);
      charts.draw(`training-${name}`, {
        label: `${titles[name]} by epoch, one line for each of: ${series.join(", ")}`,
        height: 150,
        x: { title: "epoch", whole: true, grid: false, pad: .02 },
        y: { title: "", log: name === "rate" || name === "flipped" },
        legend: series.length > 1 ? looks : [],
        marks: series.flatMap((text, i) => {
          const own = rows.filter((row) => row.series === text);
          const line = { x: "epoch", y: "value", colour: looks[i].colour };
          return [
            { kind: "line", rows: own, ...line, dash: looks[i].dash, tip: (row) => [`epoch ${row.epoch}`, `${text}: ${Number(row.value.toPrecision(4))}`] },
            ...(series.length > 1 ? [{ kind: "point", rows: own.filter((row) => row.epoch % every === i % every), ...line, shape: looks[i].shape, size: 3.5 }] : []),
          ];
        }),
      });
    }
  }

  // A page that is written during training opens its newer version. It keeps its place.
  function keepFresh(seconds) {
    if (!seconds) return;
    const place = sessionStorage.getItem("hypersign-place");
    if (place) scrollTo({ top: Number(place), behavior: "instant" });
    setTimeout(() => {
      try { sessionStorage.setItem("hypersign-place", String(scrollY)); } catch { /* a file without storage */ }
      location.reload();
    }, 1000 * seconds);
  }

  async function start(draw) {
    try {
      await draw(JSON.parse(await unpack("data")));
    } catch (error) {
      console.error(error);
      element("no-charts").hidden = false;
      return;
    }
    if (location.hash) reveal();
    document.documentElement.dataset.ready = "true";
  }

  return { element, start, number, percent, bytes, median, drawTraining, keepFresh };
})();
