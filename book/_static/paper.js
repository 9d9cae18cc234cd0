// Paper is white: a page in dark mode is printed in the colours of light mode, and is dark again afterwards.
(() => {
  "use strict";

  const root = document.documentElement;

  function onScreen() {
    if (root.dataset.mode !== "auto") return root.dataset.mode;
    return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  window.matchMedia("print").addEventListener("change", (paper) => {
    root.dataset.theme = paper.matches ? "light" : onScreen();
  });
})();
