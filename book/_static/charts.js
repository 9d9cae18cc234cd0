// Interactive charts: the still picture gives way to the chart once Vega, a file of this book, has been read.
(() => {
  "use strict";

  function draw() {
    document.querySelectorAll("figure .chart").forEach((place) => {
      const spec = JSON.parse(place.querySelector("script.vega").textContent);
      const target = document.createElement("div");
      place.append(target);
      window.companionVega(target, spec, { actions: false, renderer: "svg" }).then(
        () => place.parentElement.classList.add("live"),
        () => target.remove(),
      );
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector("figure .chart")) return;
    const script = document.createElement("script");
    script.src = `${document.documentElement.dataset.content_root ?? ""}_static/vega.js`;
    script.addEventListener("load", draw);
    document.head.append(script);
  });
})();
