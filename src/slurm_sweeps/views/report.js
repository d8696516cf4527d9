"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const table = JSON.parse(document.getElementById("table").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

// --- figures: drawn when they come near, and anew when dark and light change ---

function buildTemplate() {
  const ink = dark.matches ? "#e4e8ee" : "#1c2330";
  const grid = dark.matches ? "#2c333d" : "#e6e9ee";
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, tickcolor: grid };
  return {
    layout: {
      font: { color: ink, size: 12, family: "system-ui, Segoe UI, Roboto, sans-serif" },
      xaxis: axis,
      yaxis: axis,
      hoverlabel: { align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: dark.matches ? "#6b7482" : "#9aa2ad" },
    },
  };
}

function unpack(trace) {
  if (!trace.packed) return trace;
  const { packed, ...rest } = trace;
  const text = [];
  for (let at = 0; at < packed.length; at += 2) {
    for (let count = 0; count < packed[at + 1]; count += 1) text.push(packed[at]);
  }
  return { ...rest, text };
}

function draw(place) {
  const figure = figures[place.dataset.figure];
  const layout = { ...structuredClone(figure.layout), template: buildTemplate() };
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: place.dataset.figure === "importance" ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };
  Plotly.newPlot(place, structuredClone(figure.data).map(unpack), layout, config);
  place.dataset.drawn = "yes";
}

const places = [...document.querySelectorAll(".figure")];
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    }
  },
  { rootMargin: "600px" },
);
for (const place of places) {
  place.style.minHeight = `${figures[place.dataset.figure].layout.height}px`;
  watcher.observe(place);
}
dark.addEventListener("change", () => places.filter((place) => place.dataset.drawn).forEach(draw));
window.addEventListener("beforeprint", () => places.filter((place) => !place.dataset.drawn).forEach(draw));

// --- the table of trials ---

const state = { column: 0, down: false, shown: 50, sorted: false };
const body = document.querySelector("#trials tbody");

function format(value) {
  if (value === null) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  return String(Number(value.toPrecision(4))).replace("e+", "e");
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null) return 1; // what is missing comes last in both directions
  if (b === null) return -1;
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : 1;
  return state.down ? -order : order;
}

function choose() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = document.getElementById("status").value;
  const rows = table.rows.filter(
    (row) =>
      (!status || row[1] === status) &&
      words.every((word) => row.some((cell) => String(cell).toLowerCase().includes(word))),
  );
  return state.sorted ? rows.sort((a, b) => compare(a[state.column], b[state.column])) : rows;
}

function fill() {
  const rows = choose();
  body.replaceChildren(
    ...rows.slice(0, state.shown).map((row) => {
      const line = document.createElement("tr");
      if (row[0] === table.best) line.className = "best";
      row.forEach((value, at) => {
        const cell = document.createElement("td");
        if (table.columns[at].number) cell.className = "number";
        if (at === 1) {
          const dot = document.createElement("span");
          dot.className = "dot";
          dot.style.background = table.colors[value];
          cell.append(dot);
        }
        cell.append(format(value));
        if (typeof value === "string" && value.length > 40) cell.title = value;
        line.append(cell);
      });
      return line;
    }),
  );
  document.getElementById("count").textContent = `${Math.min(state.shown, rows.length)} of ${rows.length}`;
  document.getElementById("more").hidden = rows.length <= state.shown;
}

function sortBy(at) {
  state.down = state.sorted && state.column === at ? !state.down : false;
  state.column = at;
  state.sorted = true;
  document.querySelectorAll("#trials th").forEach((head, index) => {
    const arrow = index === at ? (state.down ? " ▼" : " ▲") : "";
    head.textContent = table.columns[index].name + arrow;
    head.ariaSort = index === at ? (state.down ? "descending" : "ascending") : "none";
  });
  fill();
}

if (body) {
  const head = document.querySelector("#trials thead tr");
  table.columns.forEach((column, at) => {
    const cell = document.createElement("th");
    cell.textContent = column.name;
    cell.tabIndex = 0;
    if (column.number) cell.className = "number";
    cell.addEventListener("click", () => sortBy(at));
    cell.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sortBy(at);
    });
    head.append(cell);
  });
  for (const id of ["filter", "status"]) {
    document.getElementById(id).addEventListener("input", () => {
      state.shown = 50;
      fill();
    });
  }
  document.getElementById("more").addEventListener("click", () => {
    state.shown += 200;
    fill();
  });
  fill();
}
