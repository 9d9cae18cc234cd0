// A cell of a results table opens the runs behind it, and "runs" and "cite" below a table do so for all of it. The runs
// are in a file beside the page (book/_ext/pages.py), which a page from a disk may load as a script, not as data.
(() => {
  "use strict";

  let loaded = null;

  window.companionRuns = (data) => { loaded = data; };

  function withRuns(then) {
    const store = document.querySelector("script.runs");
    if (!loaded && store && !store.dataset.src) loaded = JSON.parse(store.textContent);
    if (loaded || !store) return loaded && then(loaded);
    const script = document.createElement("script");
    script.src = store.dataset.src;
    script.addEventListener("load", () => then(loaded));
    document.head.append(script);
  }

  function element(tag, text, attributes = {}) {
    const made = Object.assign(document.createElement(tag), attributes);
    if (text) made.textContent = text;
    return made;
  }

  function code(text) {
    const box = element("div", "", { className: "copied" });
    const button = element("button", "Copy", { type: "button", className: "copy" });
    button.addEventListener("click", () => {
      navigator.clipboard?.writeText(text).then(() => { button.textContent = "Copied"; });
    });
    box.append(element("pre", text, { tabIndex: 0 }), button);
    return box;
  }

  const COLUMNS = [["run", "run"], ["what", "what"], ["data", "data"], ["device", "device"], ["code", "code"], ["digest", "digest"]];

  function runsTable(names, runs) {
    const table = element("table", "", { className: "runs" });
    const head = table.createTHead().insertRow();
    COLUMNS.forEach(([, title]) => head.append(element("th", title, { scope: "col" })));
    const body = table.createTBody();
    names.slice(0, 100).forEach((name) => {
      const row = body.insertRow();
      COLUMNS.forEach(([key]) => { row.insertCell().textContent = key === "run" ? name : runs[name][key] ?? ""; });
    });
    return table;
  }

  function bibtex(data, set, name, value) {
    return data.bibtex.replace("@KEY", `-${name}-${set.key.slice(0, 8)}`).replace("@ANCHOR", name ? `\\#shown-${name}` : "")
      .replace("@WHAT", name ? `, ${name}` : "")
      .replace("@NOTE", `${value ? `value ${value.replace(/[%#&_$]/g, "\\$&")}; ` : ""}${set.note}`);
  }

  function dialog() {
    let box = document.getElementById("runs-dialog");
    if (!box) {
      box = element("dialog", "", { id: "runs-dialog" });
      box.setAttribute("aria-labelledby", "runs-title");
      box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
      document.body.append(box);
    }
    return box;
  }

  /** What a value is, what was published, the runs behind it, how to make and to cite them. */
  function open(name, place, said) {
    withRuns((data) => {
      const set = data.sets[place];
      if (!set) return;
      const box = dialog(), names = Object.keys(data.runs), mine = set.runs.map((i) => names[i]);
      const close = element("button", "Close", { type: "button", className: "close" });
      close.addEventListener("click", () => box.close());
      box.replaceChildren(close, element("h2", said.title, { id: "runs-title" }));
      const facts = element("dl");
      [["Value", said.value], ["Published", said.published], ["Record set", set.key]].forEach(([term, text]) => {
        if (text) facts.append(element("dt", term), element("dd", text));
      });
      const scroll = element("div", "", { className: "scroll", tabIndex: 0 });
      scroll.append(runsTable(mine, data.runs));
      box.append(facts, element("h3", `${mine.length} run${mine.length === 1 ? "" : "s"}`), scroll);
      if (mine.length > 100) box.append(element("p", "The first 100 are listed; the panel at the foot of the page has all as CSV."));
      box.append(element("h3", "Make it again"), code(set.command));
      box.append(element("h3", "Cite it", { id: "runs-cite" }), code(bibtex(data, set, name, said.value)));
      box.showModal();
      if (said.cite) box.querySelector("#runs-cite").scrollIntoView();
    });
  }

  function ofCell(cell, line) {
    const row = [...cell.parentElement.querySelectorAll("th")].map((th) => th.firstChild?.textContent).join(", ");
    const title = [row, cell.dataset.label].filter(Boolean).join(" – ");
    const value = cell.textContent.trim();
    open(line.dataset.name, cell.dataset.set ?? line.dataset.set, { title, value, published: cell.dataset.published });
  }

  /** The cells of a table are one stop of the tabulator; arrows go from cell to cell. */
  function prepare(block) {
    const line = block.querySelector(".links"), cells = [...block.querySelectorAll("table.results tbody td")];
    if (!line || line.dataset.set === "") return;
    cells.forEach((cell, i) => {
      const button = element("button", "", { type: "button", className: "value", tabIndex: i ? -1 : 0, title: "Runs behind this value" });
      button.append(...cell.childNodes);
      if (button.querySelector("a")) return cell.append(...button.childNodes); // a link stays a link
      cell.append(button);
      button.addEventListener("click", () => ofCell(cell, line));
      button.addEventListener("keydown", (event) => move(event, cell));
    });
  }

  function move(event, cell) {
    const rows = [...cell.closest("table").querySelectorAll("tbody tr")], row = rows.indexOf(cell.parentElement), column = cell.cellIndex;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const next = step && rows[row + step[0]]?.cells[column + step[1]]?.querySelector("button.value");
    if (!next) return;
    event.preventDefault();
    cell.querySelector("button.value").tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".shown").forEach(prepare);
    document.querySelectorAll(".links .opens").forEach((link) => {
      const line = link.closest(".links");
      if (line.dataset.set === "") return;
      link.addEventListener("click", (event) => {
        event.preventDefault();
        withRuns((data) => open(line.dataset.name, line.dataset.set, { title: data.shown[line.dataset.name] || "This page", cite: link.dataset.open === "cite" }));
      });
    });
    // a link to the panel at the foot opens it
    const foot = document.getElementById("behind");
    const reveal = () => { if (foot && location.hash === "#behind") foot.open = true; };
    window.addEventListener("hashchange", reveal);
    reveal();
  });
})();
