// The scorecard's filters: by paper and by verdict, without a server. A link to a claim opens its fold-out.
(() => {
  "use strict";

  function choice(label, values, changed) {
    const wrap = document.createElement("label"), select = document.createElement("select");
    ["all", ...values].forEach((value) => select.append(new Option(value, value)));
    select.addEventListener("change", changed);
    wrap.append(`${label} `, select);
    return [wrap, select];
  }

  function prepare(table) {
    const rows = [...table.tBodies];
    const known = (key) => [...new Set(rows.map((row) => row.dataset[key]))];
    const said = document.createElement("span");
    said.setAttribute("role", "status");
    const show = () => {
      let n = 0;
      rows.forEach((row) => {
        row.hidden = [["paper", paper], ["verdict", verdict]].some(([key, s]) => s.value !== "all" && s.value !== row.dataset[key]);
        n += !row.hidden;
      });
      said.textContent = `${n} of ${rows.length} shown`;
    };
    const [paperLabel, paper] = choice("Paper", known("paper"), show);
    const [verdictLabel, verdict] = choice("Verdict", known("verdict"), show);
    const bar = document.createElement("p");
    bar.className = "filters";
    bar.append(paperLabel, verdictLabel, said);
    table.closest(".scroll").before(bar);
    show();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("table.scorecard").forEach(prepare);
    const reveal = () => document.getElementById(location.hash.slice(1))?.querySelector("table.scorecard details")?.setAttribute("open", "");
    window.addEventListener("hashchange", reveal);
    reveal();
  });
})();
