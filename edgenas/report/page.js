"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // plotly offers by default to send a chart's data to its makers' cloud: never here
  const config = { displaylogo: false, responsive: true, showSendToCloud: false,
    plotlyServerURL: "", modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]] };

  // "var(--name)" anywhere in a figure becomes the colour that the page's style gives it now
  const coloured = (value, style) => {
    if (typeof value === "string") {
      const found = /^var\((--[a-z0-9]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
    }
    return value;
  };

  const draw = (id) => {
    const place = document.getElementById(id);
    const figure = coloured(figures[id], getComputedStyle(document.documentElement));
    const narrow = window.matchMedia("(max-width: 600px)").matches;
    return Plotly.react(place, figure.data, figure.layout,
      { ...config, displayModeBar: narrow ? false : "hover" }).then(() => {
        if (place.dataset.linked) return;
        place.dataset.linked = "1";
        place.on("plotly_click", (event) => {  // an exported model's point leads to its section
          const section = document.getElementById("model-" + event.points[0].customdata);
          if (section) section.scrollIntoView({ behavior: "smooth" });
        });
      });
  };

  const all = () => Promise.all(Object.keys(figures).map(draw)).then(() => {
    document.documentElement.dataset.plots = String(Object.keys(figures).length);
  });
  all();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
})();
