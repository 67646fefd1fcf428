// One switch for all code.
const button = document.getElementById("code-switch");
button.addEventListener("click", () => {
  const show = button.getAttribute("aria-pressed") !== "true";
  document.querySelectorAll("details.code").forEach((fold) => { fold.open = show; });
  button.setAttribute("aria-pressed", show);
  button.textContent = show ? "Hide all code" : "Show all code";
});

// The contents are folded on a phone, also after a tap on a link, and the current place is marked.
const fold = () => { if (matchMedia("(max-width: 75rem)").matches) document.getElementById("contents").open = false; };
document.querySelector("nav").addEventListener("click", (event) => { if (event.target.closest("li a")) fold(); });
fold();
const links = new Map([...document.querySelectorAll("nav li a")].map((link) => [link.hash.slice(1), link]));
const headings = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
let waiting = false;
function markPlace() {
  waiting = false;
  const passed = headings.filter((heading) => heading.getBoundingClientRect().top < 100);
  document.querySelector("nav [aria-current]")?.removeAttribute("aria-current");
  document.querySelectorAll("nav li.here").forEach((item) => item.classList.remove("here"));
  const here = passed.length && links.get(passed[passed.length - 1].id);
  if (!here) return;
  here.setAttribute("aria-current", "true");
  here.closest("nav > details > ol > li").classList.add("here");
  if (!matchMedia("(max-width: 75rem)").matches) here.scrollIntoView({ block: "nearest" });
}
addEventListener("scroll", () => { if (!waiting) { waiting = true; setTimeout(markPlace, 100); } }, { passive: true });
markPlace();

// A click on a column's name sorts a table of numbers in rising order, a second click in falling order.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = Number.parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
};
document.querySelectorAll(".table table:not(.text, .confusion, .tally)").forEach((table) => {
  const head = table.tHead?.rows[0], body = table.tBodies[0];
  if (!head || !body || body.rows.length < 3 || [...head.cells].some((cell) => cell.colSpan > 1)) return;
  [...head.cells].forEach((cell, column) => {
    const name = cell.textContent.trim() || "name";
    const sorter = Object.assign(document.createElement("button"), { type: "button", className: "sort", textContent: name });
    sorter.addEventListener("click", () => {
      const up = cell.getAttribute("aria-sort") !== "ascending";
      [...head.cells].forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, other) => {
        const a = value(one, column), b = value(other, column);
        if (a === "" || b === "") return (a === "") - (b === "");  // empty cells stay at the end
        return (up ? 1 : -1) * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      });
      body.append(...rows);
    });
    cell.replaceChildren(sorter);
  });
});

// The confusion matrix: a count shows its photos when it is pointed at, tapped or reached by the keyboard.
document.querySelectorAll("table.confusion").forEach((table) => {
  const shown = Object.assign(document.createElement("div"), { className: "cell-photos" });
  shown.setAttribute("aria-live", "polite");
  table.closest(".table").after(shown);
  const show = (event) => {
    const cell = event.target.closest("button");
    if (!cell || cell.getAttribute("aria-pressed") === "true") return;
    table.querySelector("[aria-pressed=true]")?.setAttribute("aria-pressed", "false");
    cell.setAttribute("aria-pressed", "true");
    const text = Object.assign(document.createElement("p"), { textContent: cell.getAttribute("aria-label") });
    shown.replaceChildren(text, cell.nextElementSibling.content.cloneNode(true));
  };
  ["click", "mouseover", "focusin"].forEach((kind) => table.addEventListener(kind, show));
});

// Curves: one button for each model shows and hides its lines.
document.querySelectorAll("figure").forEach((figure) => {
  const lines = [...figure.querySelectorAll("[data-series]")];
  const names = [...new Set(lines.map((line) => line.dataset.series))];
  if (names.length < 2) return;
  const bar = Object.assign(document.createElement("div"), { className: "toggles" });
  names.forEach((name) => {
    const toggle = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    toggle.setAttribute("aria-pressed", "true");
    toggle.addEventListener("click", () => {
      const show = toggle.getAttribute("aria-pressed") !== "true";
      toggle.setAttribute("aria-pressed", show);
      lines.filter((line) => line.dataset.series === name).forEach((line) => { line.style.display = show ? "" : "none"; });
    });
    bar.append(toggle);
  });
  figure.prepend(bar);
});
