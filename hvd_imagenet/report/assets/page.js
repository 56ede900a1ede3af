// Draws the figures in the colours of the theme, and lets arms, views and the theme be chosen.
"use strict";
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const places = [...document.querySelectorAll("[data-plot]")];
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 820px)");
  const touch = matchMedia("(pointer: coarse)");
  const NARROW_HEIGHT = 460;
  // The buttons are named one by one, since Plotly's own choice has one that uploads the figure.
  const BUTTONS = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const CONFIG = { displaylogo: false, typesetMath: false, responsive: true, modeBarButtons: BUTTONS, plotlyServerURL: "" };
  const hidden = new Set();
  let level = "arm";

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);

  // A copy, in which colours named by their variables are those of the theme.
  function coloured(value, style) {
    if (Array.isArray(value)) return value.every((one) => typeof one !== "object") ? value : value.map((one) => coloured(one, style));
    if (value === null || typeof value !== "object") return value;
    const entries = Object.entries(value).map(([key, one]) => {
      const named = /color$/.test(key) && typeof one === "string" && one.startsWith("--");
      return [key, named ? style.getPropertyValue(one).trim() : coloured(one, style)];
    });
    return Object.fromEntries(entries);
  }

  function drawn(trace) {
    const { arm, level: of } = trace.meta;
    return !hidden.has(arm) && (of === null || of === level);
  }

  function draw(place) {
    const style = getComputedStyle(root);
    const { data, layout } = coloured(plots[place.dataset.plot], style);
    for (const trace of data) trace.visible = drawn(trace);
    layout.font.family = getComputedStyle(document.body).fontFamily;
    layout.dragmode = touch.matches ? false : "zoom"; // a finger scrolls the page
    if (narrow.matches) {
      layout.font.size = 12;
      layout.height = Math.min(layout.height, NARROW_HEIGHT);
      Object.assign(layout.margin, { l: 40, r: 6 });
      Object.assign(layout.yaxis, layout.meta.narrow);
    }
    if (touch.matches) layout.margin.t = 34; // where Plotly always shows its buttons
    place.style.minHeight = `${layout.height}px`;
    return Plotly.react(place, data, layout, CONFIG);
  }

  function drawAll() {
    theme.textContent = isDark() ? "Light" : "Dark";
    return Promise.all(places.map(draw));
  }

  // Figures over the epochs show the same stretch of them.
  let following = false;
  function follow(place, change) {
    const range = change["xaxis.range[0]"] !== undefined ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : null;
    if (following || place.layout.xaxis.title.text !== "epoch" || !(range || change["xaxis.autorange"])) return;
    following = true;
    const others = places.filter((other) => other !== place && other.layout.xaxis.title.text === "epoch");
    const changes = range ? { "xaxis.range": range } : { "xaxis.autorange": true };
    Promise.all(others.map((other) => Plotly.relayout(other, { ...changes }))).finally(() => { following = false; });
  }

  function press(button, on) {
    button.setAttribute("aria-pressed", String(on));
  }

  for (const button of document.querySelectorAll("[data-arm]")) {
    button.addEventListener("click", () => {
      const arm = Number(button.dataset.arm);
      if (!hidden.delete(arm)) hidden.add(arm);
      press(button, !hidden.has(arm));
      drawAll();
    });
  }
  const levels = [...document.querySelectorAll("[data-level]")];
  for (const button of levels) {
    button.addEventListener("click", () => {
      level = button.dataset.level;
      for (const one of levels) press(one, one === button);
      drawAll();
    });
  }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    drawAll();
  });
  systemIsDark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);

  drawAll().then(() => {
    for (const place of places) place.on("plotly_relayout", (change) => follow(place, change));
    root.dataset.drawn = "yes";
  });
})();
