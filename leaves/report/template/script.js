// One switch for all code.
const button = document.getElementById("code-switch");
button.addEventListener("click", () => {
  const show = button.getAttribute("aria-pressed") !== "true";
  document.querySelectorAll("details.code").forEach((fold) => { fold.open = show; });
  button.setAttribute("aria-pressed", show);
  button.textContent = show ? "Hide all code" : "Show all code";
});

// The contents: folded on a phone, the current place marked.
if (matchMedia("(max-width: 60rem)").matches) document.getElementById("contents").open = false;
const links = new Map([...document.querySelectorAll("nav li a")].map((link) => [link.hash.slice(1), link]));
const headings = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
let waiting = false;
function markPlace() {
  waiting = false;
  const passed = headings.filter((heading) => heading.getBoundingClientRect().top < innerHeight / 3);
  document.querySelector("nav [aria-current]")?.removeAttribute("aria-current");
  const here = passed.length && links.get(passed[passed.length - 1].id);
  if (!here) return;
  here.setAttribute("aria-current", "true");
  if (!matchMedia("(max-width: 60rem)").matches) here.scrollIntoView({ block: "nearest" });
}
addEventListener("scroll", () => { if (!waiting) { waiting = true; setTimeout(markPlace, 100); } }, { passive: true });
markPlace();

// Tables of numbers sort by a click on a column's name: up, then down.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = Number.parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
};
document.querySelectorAll(".table table:not(.text)").forEach((table) => {
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
