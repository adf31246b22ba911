"use strict";
// The browser of problems: a list by outcome, and one problem with its candidates beside what a
// method made of them.

const ROW = 46; // pixels, as .row of page.css

/** Whether a sample has an outcome of a method; of `now` see `facts`. */
const OUTCOMES = {
  "every problem": () => true,
  "majority wrong → right": (now) => now.majority !== "r" && now.own === "r",
  "majority right → wrong": (now) => now.majority === "r" && now.own !== "r",
  "all candidates wrong → right": (now) => !now.first.includes("r") && now.own === "r",
  right: (now) => now.own === "r",
  wrong: (now) => now.own === "w",
  "nobody right": (now) => !now.everybody.includes("r"),
  "no answer": (now) => "nf".includes(now.own), // as tables count it: who failed has none
  cut: (now) => now.cut,
};

const MARKS = { r: "right", w: "wrong", n: "no answer", f: "failed" };
const ORDER = ["1st", "2nd", "3rd"];
const nth = (index) => ORDER[index] ?? `${index + 1}th`;
const POOLS = {
  weak: "of the weaker model",
  foreign: "of another problem",
  truncated: "read without its end",
  corrupted: "read with another answer",
};

/** The marks of a sample as a method sees them: of the first k, their majority, its own. */
function facts(run, sample, number) {
  const method = run.methods[number];
  const k = method?.k ?? run.headline;
  const majority = sample.majorities[run.ks.indexOf(k)];
  const own = sample.methods[number] ?? majority;
  const lower = (marks) => marks.toLowerCase();
  return {
    k,
    first: lower(sample.candidates.slice(0, k)),
    majority: lower(majority),
    own: lower(own),
    cut: own !== lower(own),
    everybody: lower(sample.candidates + sample.methods),
  };
}

/** The text that a search looks in. */
function searched(run, index) {
  const { problem, gold, candidates, methods } = textsOf(run, index);
  const solutions = [...candidates, ...methods].flatMap(({ text, answer }) => [text, answer ?? ""]);
  return [problem, gold, ...solutions].join("\n").toLowerCase();
}

class Browser {
  constructor(go) {
    this.go = go;
    this.found = [];
    at("list").addEventListener("scroll", () => this.drawRows());
    new ResizeObserver(() => this.drawRows()).observe(at("list"));
    at("method").addEventListener("change", () => go({ method: at("method").value }));
    for (const id of ["outcome", "size", "repeat"]) {
      at(id).addEventListener("change", () => go({ [id]: at(id).value, problem: "" }));
    }
    let waiting = 0;
    at("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => go({ text: at("search").value, problem: "" }), 150);
    });
    at("filter").addEventListener("submit", (event) => event.preventDefault());
  }

  /** Shows what the address asks for. */
  show(number, asked) {
    this.number = number;
    this.run = DATA.runs[number];
    this.offer(asked);
    this.filter(asked);
    const index = this.found.findIndex((one) => this.is(one, asked));
    this.here = index < 0 && asked.has("problem") ? this.bring(asked) : Math.max(0, index);
    this.drawList();
    this.drawSample();
  }

  is(index, asked) {
    const { id, repeat } = this.run.samples[index];
    return id === asked.get("problem") && (asked.get("at") ?? `${repeat}`) === `${repeat}`;
  }

  /** A problem that is asked for by name comes first in the list, whatever the filter says. */
  bring(asked) {
    const index = this.run.samples.findIndex((_, one) => this.is(one, asked));
    if (index >= 0) this.found.unshift(index);
    return 0;
  }

  offer(asked) {
    const { methods, samples } = this.run;
    const sizes = [...new Set(samples.map(({ size }) => size))];
    sizes.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const repeats = [...new Set(samples.map(({ repeat }) => `${repeat}`))];
    const majority = `maj@${this.run.headline}`;
    choices("method", methods.length ? methods.map(({ name }) => name) : [majority], asked);
    if (!asked.has("method")) at("method").value = this.run.chosen ?? majority;
    choices("outcome", DATA.outcomes, asked);
    choices("size", ["", ...sizes.filter(Boolean)], asked, "size");
    choices("repeat", ["", ...repeats], asked, "repeat");
    at("size-field").hidden = sizes.length < 2;
    at("repeat-field").hidden = repeats.length < 2;
    if (document.activeElement !== at("search")) at("search").value = asked.get("text") ?? "";
    this.method = methods.findIndex(({ name }) => name === at("method").value);
  }

  filter(asked) {
    const { run, number, method } = this;
    const has = OUTCOMES[at("outcome").value];
    const [size, repeat] = [at("size").value, at("repeat").value];
    const text = (asked.get("text") ?? "").trim().toLowerCase();
    this.found = [];
    for (const [index, sample] of run.samples.entries()) {
      if (size && sample.size !== size) continue;
      if (repeat && `${sample.repeat}` !== repeat) continue;
      if (!has(facts(run, sample, method))) continue;
      if (text && !`${sample.id}\n${searched(number, index)}`.toLowerCase().includes(text)) continue;
      this.found.push(index);
    }
    const [some, all] = [this.found.length, run.samples.length].map(whole);
    const repeats = !at("repeat-field").hidden;
    at("count").textContent = `${some} of ${all} ${repeats ? "samples" : "problems"}`;
  }

  drawList() {
    at("rows").style.height = `${ROW * this.found.length}px`;
    const list = at("list");
    const top = ROW * this.here;
    if (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight) {
      list.scrollTop = top - list.clientHeight / 3;
    }
    this.drawRows();
  }

  /** Only the rows that can be seen are elements. */
  drawRows() {
    if (!this.run) return;
    const list = at("list");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4;
    const rows = this.found.slice(first, last).map((index, i) => this.row(index, first + i));
    at("rows").replaceChildren(...rows);
    list.setAttribute("aria-activedescendant", `row-${this.here}`);
  }

  row(index, place) {
    const sample = this.run.samples[index];
    const now = facts(this.run, sample, this.method);
    const made = element("a", "", { class: "row", id: `row-${place}`, role: "option" });
    made.href = `#${this.address(index)}`;
    made.setAttribute("aria-selected", place === this.here);
    made.style.top = `${ROW * place}px`;
    const marks = element("span", "", { class: "pips" });
    marks.append(...[...now.first].map((mark) => pip(mark)), element("b", "→"), pip(now.own));
    const repeat = this.several ? ` · repeat ${sample.repeat + 1}` : "";
    const words = element("span", sample.id, { class: "id" });
    const size = element("span", `${sample.size}${repeat}`.replace(/^ · /, ""), { class: "size" });
    made.append(words, size, marks);
    return made;
  }

  get several() {
    return !at("repeat-field").hidden;
  }

  address(index) {
    const { id, repeat } = this.run.samples[index];
    const asked = new URLSearchParams(location.hash.slice(1));
    asked.set("view", "problems");
    asked.set("problem", id);
    asked.delete("at");
    if (this.several) asked.set("at", repeat);
    return asked;
  }

  move(by) {
    const place = Math.max(0, Math.min(this.found.length - 1, this.here + by));
    if (this.found.length) location.replace(`#${this.address(this.found[place])}`);
  }

  nextMethod() {
    const { methods } = this.run;
    const { name } = methods[(this.method + 1) % methods.length] ?? {};
    if (name) this.choose(name);
  }

  /** Another method of the same sample: of this problem in this repeat. */
  choose(method) {
    const { id, repeat } = this.run.samples[this.found[this.here]] ?? {};
    this.go({ method, problem: id, at: this.several ? repeat : undefined });
  }

  drawSample() {
    const index = this.found[this.here];
    if (index === undefined) {
      const words = "No problem is like this. Choose another outcome or text.";
      at("sample").replaceChildren(element("p", words, { class: "nothing" }));
      return;
    }
    const sample = this.run.samples[index];
    const whole = textsOf(this.number, index);
    at("sample").replaceChildren(
      ...this.head(sample, whole),
      this.methodChoice(sample),
      this.sides(sample, whole),
    );
  }

  head(sample, { problem, gold, votes, candidates }) {
    const now = facts(this.run, sample, this.method);
    const right = [...now.first].filter((mark) => mark === "r").length;
    const vote = candidates[votes[this.run.ks.indexOf(now.k)]]?.answer;
    const title = element("h3", sample.id);
    if (this.several) title.append(` · repeat ${sample.repeat + 1}`);
    const list = element("dl", "", { class: "outcome" });
    const fact = (name, value, mark) => {
      const row = element("div");
      const said = element("dd", value, mark ? { "data-mark": mark } : {});
      row.append(element("dt", name), said);
      list.append(row);
    };
    fact("gold", gold);
    fact(`majority of ${now.k}`, vote ?? "none", now.majority);
    fact("right candidates", `${right} of ${now.first.length}`);
    if (sample.size) fact("size", sample.size);
    return [title, element("p", problem, { class: "problem text", tabindex: "0" }), list];
  }

  methodChoice(sample) {
    const choice = element("div", "", { class: "methods", role: "group", "aria-label": "Methods" });
    for (const [index, { name }] of this.run.methods.entries()) {
      const mark = sample.methods[index];
      const button = element("button", "", { type: "button", "aria-pressed": index === this.method });
      button.append(pip(mark.toLowerCase()), name);
      button.addEventListener("click", () => this.choose(name));
      choice.append(button);
    }
    return choice;
  }

  /** What was read, in order, beside what was made of it. */
  sides(sample, whole) {
    const { candidates, weak, methods } = whole;
    const answer = methods[this.method];
    const used = answer?.used ?? [];
    const made = element("div", "", { class: "sides" });
    const [left, right] = [element("section"), element("section")];
    if (used.length) {
      left.append(element("h2", `Read, in this order (${used.length})`), cards(used.map((one, i) => {
        const pool = answer.pools[i] ?? "own";
        const read = pool === "weak" ? weak[one] : pool === "foreign" ? null : candidates[one];
        return card(`${nth(i)} · candidate ${one + 1}`, read, POOLS[pool]);
      })));
    }
    const own = used.filter((_, i) => !["weak", "foreign"].includes(answer.pools[i]));
    const others = [...candidates.keys()].filter((one) => !own.includes(one));
    if (others.length) {
      const words = used.length ? "Candidates that it did not read" : "Candidates";
      const rest = element("details");
      rest.open = !used.length;
      rest.append(element("summary", `${words} (${others.length})`));
      rest.append(cards(others.map((one) => card(`Candidate ${one + 1}`, candidates[one]))));
      left.append(rest);
    }
    if (answer) {
      const { name } = this.run.methods[this.method];
      right.append(element("h2", used.length ? "Refinement" : "Answer"), card(name, answer));
    }
    made.append(left, right);
    return made;
  }
}

function choices(id, values, asked, all = "") {
  const options = values.map((value) => element("option", value || `every ${all}`, { value }));
  if (id === "repeat") {
    for (const one of options.slice(1)) one.textContent = `${Number(one.value) + 1}`;
  }
  at(id).replaceChildren(...options);
  const value = asked.get(id);
  at(id).value = values.includes(value) ? value : values[0];
}

function pip(mark) {
  return element("i", "", { "data-mark": mark, role: "img", "aria-label": MARKS[mark] });
}

function cards(made) {
  const list = element("div", "", { class: "cards" });
  list.append(...made);
  return list;
}

/** One solution; null if the run does not keep it. */
function card(title, solution, note = "") {
  const root = at("card").content.firstElementChild.cloneNode(true);
  root.querySelector("h3").textContent = title;
  const text = root.querySelector(".text");
  text.setAttribute("aria-label", title);
  if (!solution) {
    text.textContent = `A candidate ${note}.`;
    root.querySelector("dl").remove();
    return root;
  }
  const mark = solution.mark.toLowerCase();
  const cut = mark === solution.mark ? "" : `, cut (${solution.finish})`;
  root.dataset.mark = mark;
  root.querySelector(".mark").textContent = `${MARKS[mark]}${cut}${note && `, ${note}`}`;
  text.textContent = solution.error ?? solution.text;
  root.querySelector("dl").append(...factsOf(solution));
  const details = root.querySelector("details");
  details.hidden = !solution.bars;
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length < 2) details.append(drawBars(solution.bars));
  });
  return root;
}

function* factsOf({ answer, tokens, logprob, reward, prompt_tokens: prompt }) {
  const fact = (name, value, kind = "") => {
    const made = element("div", "", { class: kind });
    made.append(element("dt", name), element("dd", value));
    return made;
  };
  yield fact("answer", answer ?? "none stated", "answer");
  yield fact("tokens", whole(tokens));
  if (prompt) yield fact("read", whole(prompt));
  if (logprob !== undefined) yield fact("mean log p", logprob.toFixed(3).replace("-", "−"));
  if (reward !== undefined) yield fact("reward", reward.toFixed(3).replace("-", "−"));
}

/** Log-probabilities as bars that hang: the longer, the less likely was the token. */
function drawBars(bars) {
  const most = Math.max(100, ...bars);
  const made = svg("svg", { class: "bars", viewBox: `0 0 ${bars.length} 40`, role: "img" });
  made.setAttribute("preserveAspectRatio", "none");
  made.setAttribute("aria-label", `the least is ${(-most / 100).toFixed(2)}`);
  const path = bars.map((value, i) => `M${i + 0.5} 0v${((40 * value) / most).toFixed(1)}`).join("");
  made.append(svg("path", { d: path }));
  const figure = element("figure");
  figure.append(made, element("figcaption", `0 above, −${(most / 100).toFixed(2)} below`));
  return figure;
}
