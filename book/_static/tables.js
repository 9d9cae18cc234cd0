// Tables of results that sort by a click on a heading. Without JavaScript they are the same tables, unsorted.
(() => {
  "use strict";

  const NUMBER = /^[<>≈~[(]?\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?=$|[\s%,;±)\]])/i;
  const MISSING = /^(?:not run\b.*|nan|none|n\/a|[-–—]|)$/i;
  const IS_NUMBER = 0, IS_TEXT = 1, IS_MISSING = 2;
  const alphabetical = new Intl.Collator("en", { numeric: true });

  function textOf(cell) {
    // pandas fills empty cells with a no-break space, and a minus may be typeset
    return cell.textContent.replace(/\s+/g, " ").replace(/\u2212/g, "-").trim();
  }

  /** What a cell sorts by: "0.512 ± 0.031" by 0.512, "40 %" by 40, words by the alphabet. */
  function keyOf(cell) {
    const text = textOf(cell);
    if (MISSING.test(text)) return { kind: IS_MISSING, value: "" };
    const number = NUMBER.exec(text);
    return number ? { kind: IS_NUMBER, value: Number(number[1]) } : { kind: IS_TEXT, value: text };
  }

  /** Numbers before words, and what is missing last whichever the direction (1 upwards, -1 downwards). */
  function compare(a, b, direction) {
    if (a.kind === IS_MISSING || b.kind === IS_MISSING) return (a.kind === IS_MISSING) - (b.kind === IS_MISSING);
    if (a.kind !== b.kind) return direction * (a.kind - b.kind);
    return direction * (a.kind === IS_NUMBER ? a.value - b.value : alphabetical.compare(a.value, b.value));
  }

  function sort(body, column, direction) {
    const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
    rows.sort((a, b) => compare(a.key, b.key, direction)); // stable, says the language
    body.append(...rows.map(({ row }) => row));
  }

  function addButton(table, heading, column) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    if (!textOf(heading)) button.setAttribute("aria-label", `column ${column + 1}`);
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const downwards = heading.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead [aria-sort]").forEach((cell) => cell.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", downwards ? "descending" : "ascending");
      sort(table.tBodies[0], column, downwards ? -1 : 1);
    });
  }

  /** One body of several rows, each with a cell of its own in every column: else an order of rows says nothing. */
  function sortable(table) {
    if (table.tHead?.rows.length !== 1 || table.tBodies.length !== 1 || table.tBodies[0].rows.length < 2) return false;
    const rows = [...table.tBodies[0].rows];
    const plain = rows.every((row) => [...row.cells].every((cell) => cell.rowSpan === 1 && cell.colSpan === 1));
    return plain && rows.every((row) => row.cells.length === rows[0].cells.length);
  }

  document.addEventListener("DOMContentLoaded", () => {
    [...document.querySelectorAll("table.results")].filter(sortable).forEach((table) => {
      [...table.tHead.rows[0].cells].forEach((heading, column) => addButton(table, heading, column));
    });
  });
})();
