"use strict";
// Elements, the data of the page, and tables. Text never becomes markup.

const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

const whole = (number) => number.toLocaleString("en");
const share = (number) => number.toFixed(3);

function fill(made, text, attributes) {
  if (text !== "") made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
const element = (name, text = "", attributes = {}) =>
  fill(document.createElement(name), text, attributes);
const svg = (name, attributes = {}, text = "") =>
  fill(document.createElementNS(SVG, name), text, attributes);

const read = (id) => JSON.parse(at(id).textContent);
const DATA = read("data");

/** The texts of samples, read when they are first looked at. */
const texts = new Map();
function textsOf(run, index) {
  const id = `texts-${run}-${index}`;
  if (!texts.has(id)) texts.set(id, read(id));
  return texts.get(id);
}

/** A table; the cells of a column with bars share one scale. */
function drawTable(block, run) {
  const table = element("table");
  const head = element("tr");
  head.append(...block.columns.map((column) => element("th", column, { scope: "col" })));
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  const scales = block.rows.flat().flatMap(({ scale }) => scale ?? []);
  const least = Math.max(0, Math.min(...scales) - 0.02);
  const most = Math.min(1, Math.max(...scales) + 0.02);
  for (const cells of block.rows) {
    const row = element("tr");
    for (const [index, cell] of cells.entries()) {
      const made = index ? element("td") : element("th", "", { scope: "row" });
      if (cell.scale) made.append(drawScale(cell.scale, least, most));
      made.append(cell.shown ? linkTo(cell, run) : cell.text);
      if (cell.scale) made.className = "scaled";
      row.append(made);
    }
    table.tBodies[0].append(row);
  }
  const scrolled = element("div", "", { class: "scrolled", tabindex: "0", role: "region" });
  scrolled.setAttribute("aria-label", block.title);
  scrolled.append(table);
  return scrolled;
}

function linkTo({ text, shown }, run) {
  const chosen = new URLSearchParams({ view: "problems", run, ...shown });
  return element("a", text, { href: `#${chosen}` });
}

/** A share as a dot on its interval. */
function drawScale([value, low, high], least, most) {
  const x = (one) => (100 * (one - least)) / (most - least || 1);
  const made = svg("svg", { class: "scale", viewBox: "-4 0 108 12", "aria-hidden": "true" });
  made.append(
    svg("path", { class: "rail", d: "M0 6H100" }),
    svg("path", { class: "interval", d: `M${x(low)} 6H${x(high)}` }),
    svg("circle", { cx: x(value), cy: 6, r: 3.5 }),
  );
  return made;
}

/** What a reader points at, in words. */
function tip(words, left = 0, top = 0) {
  const box = at("tip");
  box.hidden = !words;
  if (!words) return;
  box.textContent = words;
  const { offsetWidth: width, offsetHeight: height } = box;
  const right = document.documentElement.clientWidth - width - 8;
  box.style.left = `${Math.max(8, Math.min(left - width / 2, right))}px`;
  box.style.top = `${top - height - 14 < 4 ? top + 18 : top - height - 14}px`;
}
