"use strict";
// A plot: shares with their intervals, over the axis that a reader chooses.

const SIZE = { height: 340, left: 44, right: 16, top: 14, bottom: 42 };

class Plot {
  constructor(block) {
    this.block = block;
    this.axis = 0;
    this.hidden = new Set([...block.series.keys()].filter((index) => !block.series[index].shown));
    this.root = element("figure", "", { class: "plot" });
    this.frame = element("div", "", { class: "frame" });
    this.root.append(...this.axisChoice(), this.frame, this.legend());
    this.frame.addEventListener("pointermove", (event) => this.point(event));
    this.frame.addEventListener("pointerleave", () => this.leave());
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  axisChoice() {
    const { axes, title } = this.block;
    if (axes.length < 2) return [];
    const choice = element("div", "", { class: "choice", role: "group" });
    choice.setAttribute("aria-label", `${title}: axis`);
    for (const [index, axis] of axes.entries()) {
      const button = element("button", axis.name, { type: "button", "aria-pressed": !index });
      button.addEventListener("click", () => {
        this.axis = index;
        for (const one of choice.children) one.setAttribute("aria-pressed", one === button);
        this.draw();
      });
      choice.append(button);
    }
    return [choice];
  }

  legend() {
    const list = element("ul", "", { class: "legend" });
    for (const [index, series] of this.block.series.entries()) {
      const button = element("button", "", { type: "button", "aria-pressed": series.shown });
      const line = svg("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" });
      line.append(svg("path", { d: "M1 5H21" }), shape(series.colour, 11, 5));
      line.setAttribute("class", `series c${series.colour % 10} ${series.role}`);
      button.append(line, series.name);
      button.addEventListener("click", () => {
        this.hidden[this.hidden.has(index) ? "delete" : "add"](index);
        button.setAttribute("aria-pressed", !this.hidden.has(index));
        this.draw();
      });
      const item = element("li");
      item.append(button);
      list.append(item);
    }
    return list;
  }

  get shown() {
    return this.block.series.map((series, index) => ({ series, index }))
      .filter(({ index }) => !this.hidden.has(index));
  }

  /** Where a share over a value lies, in pixels. */
  scales() {
    const { log } = this.block.axes[this.axis];
    const points = this.shown.flatMap(({ series }) => series.points);
    const along = log ? Math.log : (value) => value;
    const xs = points.map((one) => along(one.at[this.axis]));
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const pad = (right - left || 1) * 0.05;
    const low = Math.max(0, Math.floor(Math.min(...points.map((one) => one.scale[1])) * 20) / 20);
    const high = Math.min(1, Math.ceil(Math.max(...points.map((one) => one.scale[2])) * 20) / 20);
    const width = this.width - SIZE.left - SIZE.right;
    const height = SIZE.height - SIZE.top - SIZE.bottom;
    return {
      x: (v) => SIZE.left + (width * (along(v) - left + pad)) / (right - left + 2 * pad || 1),
      y: (v) => SIZE.top + (height * (high - v)) / (high - low || 1),
      ends: log ? [Math.exp(left), Math.exp(right)] : [left, right],
      shares: [low, high],
    };
  }

  draw() {
    this.width = this.frame.clientWidth;
    if (!this.width) return;
    if (!this.shown.length) return this.frame.replaceChildren();
    const { title, axes } = this.block;
    const { x, y, ends, shares } = (this.placed = this.scales());
    const drawing = svg("svg", { viewBox: `0 0 ${this.width} ${SIZE.height}`, role: "img" });
    drawing.setAttribute("aria-label", `${title}, over ${axes[this.axis].label}`);
    const foot = SIZE.height - SIZE.bottom;
    for (const value of steps(...shares)) {
      drawing.append(
        svg("path", { class: "grid", d: `M${SIZE.left} ${y(value)}H${this.width - SIZE.right}` }),
        svg("text", { x: SIZE.left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)),
      );
    }
    for (const value of this.ticks(ends)) {
      drawing.append(
        svg("path", { class: "tick", d: `M${x(value)} ${foot}v5` }),
        svg("text", { x: x(value), y: foot + 19, "text-anchor": "middle" }, short(value)),
      );
    }
    const middle = (SIZE.left + this.width - SIZE.right) / 2;
    const label = { class: "label", x: middle, y: SIZE.height - 4, "text-anchor": "middle" };
    drawing.append(svg("text", label, axes[this.axis].label));
    const inOrder = [...this.shown].sort((a, b) => rank(a) - rank(b)); // what stands out comes last
    for (const { series } of inOrder) drawing.append(this.line(series, x, y));
    this.frame.replaceChildren(drawing);
  }

  ticks([least, most]) {
    if (this.block.ticks.length) return this.block.ticks;
    return this.block.axes[this.axis].log ? logSteps(least, most) : steps(least, most);
  }

  line(series, x, y) {
    const group = svg("g", { class: `series c${series.colour % 10} ${series.role}` });
    const points = [...series.points].sort((a, b) => a.at[this.axis] - b.at[this.axis]);
    const path = points.map((one) => `${x(one.at[this.axis])} ${y(one.scale[0])}`).join("L");
    if (points.length > 1) group.append(svg("path", { class: "joined", d: `M${path}` }));
    for (const { at: values, scale: [value, low, high] } of points) {
      const left = x(values[this.axis]);
      if (high > low) {
        group.append(svg("path", { class: "interval", d: `M${left} ${y(low)}V${y(high)}` }));
      }
      group.append(shape(series.colour, left, y(value)));
    }
    return group;
  }

  /** Says what the nearest point is. */
  point(event) {
    const box = this.frame.getBoundingClientRect();
    const { x, y } = this.placed;
    let best = null;
    for (const { series } of this.shown) {
      for (const one of series.points) {
        const left = x(one.at[this.axis]);
        const top = y(one.scale[0]);
        const distance = Math.hypot(left - event.clientX + box.left, top - event.clientY + box.top);
        if (!best || distance < best.distance) best = { distance, one, left, top };
      }
    }
    if (!best || best.distance > 60) return this.leave();
    const { one, left, top } = best;
    const [value, low, high] = one.scale;
    const interval = high > low ? ` [${share(low)}, ${share(high)}]` : "";
    const axes = this.block.axes.map(({ label }, index) => `${short(one.at[index])} ${label}`);
    tip([`${one.label}: ${share(value)}${interval}`, ...axes].join("\n"), left + box.left, top + box.top);
    this.frame.querySelector(".here")?.remove();
    const ring = svg("circle", { class: "here", cx: left, cy: top, r: 8 });
    this.frame.firstElementChild.append(ring);
  }

  leave() {
    tip("");
    this.frame.querySelector(".here")?.remove();
  }
}

const rank = ({ series }) => ["bound", "other", "refined"].indexOf(series.role);

/** The mark of a series: eight shapes, so that nobody has to tell colours apart. */
function shape(index, x, y) {
  const shapes = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8L4.4 3.2H-4.4z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.8L4.4-3.2H-4.4z",
    "M-4.5-1.4h3.1v-3.1h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1z",
    "M-4.4-2.6L0-5L4.4-2.6V2.6L0 5L-4.4 2.6z",
    "M-5-2.5h10v5h-10z",
  ];
  return svg("path", { class: "dot", d: shapes[index % 8], transform: `translate(${x} ${y})` });
}

/** Round values between two, both included where they are round: about five. */
function steps(least, most) {
  const raw = (most - least || 1) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.7);
  const found = [];
  for (let i = Math.ceil(least / step - 1e-9); i * step <= most + 1e-9; i++) found.push(i * step);
  return found;
}

function logSteps(least, most) {
  const found = [];
  for (let power = 10 ** Math.floor(Math.log10(least)); power <= most; power *= 10) {
    for (const one of [1, 2, 5]) {
      if (one * power >= least * 0.97 && one * power <= most * 1.03) found.push(one * power);
    }
  }
  return found.length > 1 ? found : [least, most];
}

function short(number) {
  if (number >= 1e6) return `${+(number / 1e6).toFixed(2)}M`;
  if (number >= 1e4) return `${+(number / 1e3).toFixed(1)}k`;
  return whole(+number.toFixed(number < 10 ? 2 : 0));
}
