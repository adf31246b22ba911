"use strict";
// One run on the page: what the stream brings, as text, tables and a drawing.
// Text never becomes markup.

const at = (id) => document.getElementById(id);

const whole = (number) => number.toLocaleString("en");
const seconds = (number) => number.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const logprob = (number) => number.toFixed(3).replace("-", "−");
const candidates = (number) => (number === 1 ? "1 candidate" : `${whole(number)} candidates`);

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const row = (name, cells) => {
  const made = element("tr");
  made.append(element("th", name, { scope: "row" }), ...cells.map((cell) => element("td", cell)));
  return made;
};

const ENDS = { length: "cut at the limit", repetition: "cut in a loop", timeout: "out of time", abort: "stopped" };

/** A candidate or the refined solution: its text while it is written, then what is known of it. */
class Solution {
  constructor(title, strand) {
    this.root = at("solution").content.firstElementChild.cloneNode(true);
    this.strand = strand;
    this.part("h3").textContent = title;
    for (const text of this.root.querySelectorAll(".text")) text.setAttribute("aria-label", title);
    this.result = null;
  }

  part(selector) {
    return this.root.querySelector(selector);
  }

  get over() {
    return !["waiting", "writing"].includes(this.root.dataset.state);
  }

  enter(state, words = state) {
    this.root.dataset.state = state;
    this.part(".state").textContent = words;
    for (const mark of this.strand) mark.dataset.state = state;
  }

  write(text, where = ".written") {
    const box = this.part(where);
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 32;
    box.hidden = false;
    box.append(text);
    if (follows) box.scrollTop = box.scrollHeight;
    if (this.root.dataset.state === "waiting") this.enter("writing");
  }

  /** `result` has answer, same_as, tokens, mean_logprob and stop_reason, as the server says them. */
  finish(result) {
    this.result = result;
    const cut = result.stop_reason in ENDS;
    this.enter(cut ? "cut" : "done", ENDS[result.stop_reason] ?? "done");
    this.part(".answer dd").textContent = result.answer ?? "none stated";
    this.part(".tokens dd").textContent = whole(result.tokens);
    this.part(".logprob dd").textContent = result.mean_logprob == null ? "–" : logprob(result.mean_logprob);
  }
}

/** What one request has brought so far, and its place on the page. */
class Run {
  constructor(k) {
    const strands = drawStrands(k);
    this.candidates = Array.from({ length: k }, (_, index) => new Solution(`Candidate ${index + 1}`, [strands[index]]));
    this.refined = new Solution("Refinement", strands.slice(k));
    this.usage = null;
    at("candidates").replaceChildren(
      ...this.candidates.map((one) => {
        const item = element("li");
        item.append(one.root);
        return item;
      }),
    );
    at("refined").replaceChildren(this.refined.root);
    for (const part of ["#agreement tbody", "#costs tbody", "#costs tfoot", "#costs-note", "#verdict"]) {
      document.querySelector(part).replaceChildren();
    }
    at("results").hidden = false;
    say(`Writing ${candidates(k)}.`);
  }

  /** Takes one chunk of the stream. */
  take(chunk) {
    const { phase, candidate, event, ...result } = chunk.gsr ?? {};
    const delta = chunk.choices[0]?.delta ?? {};
    if (phase === "candidate") {
      const solution = this.candidates[candidate];
      if (delta.reasoning) solution.write(delta.reasoning);
      if (event === "candidate_done") this.finish(solution, result);
    } else {
      if (delta.reasoning) this.refined.write(delta.reasoning, ".thinking");
      if (delta.content) this.refined.write(delta.content);
      if (event === "refinement_done") this.finish(this.refined, result);
    }
    this.usage = chunk.usage ?? this.usage;
  }

  finish(solution, result) {
    solution.finish(result);
    this.showAgreement();
    const count = this.candidates.filter((one) => one.over).length;
    if (solution === this.refined) return;
    const all = count === this.candidates.length;
    if (all) this.refined.enter("waiting", "reading the candidates");
    say(all ? `All candidates are finished. Refining.` : `${count} of ${candidates(this.candidates.length)} finished.`);
  }

  /** The different answers, the most frequent first: which candidates state them, and who else. */
  get groups() {
    const groups = new Map();
    for (const [index, one] of this.candidates.entries()) {
      if (one.result?.answer == null) continue;
      const key = one.result.same_as ?? index;
      if (!groups.has(key)) groups.set(key, { key, answer: one.result.answer, members: [] });
      groups.get(key).members.push(index);
    }
    return [...groups.values()].sort((a, b) => b.members.length - a.members.length);
  }

  showAgreement() {
    const { groups } = this;
    const refined = this.refined.result;
    const same = groups.find((group) => group.key === refined?.same_as);
    const k = this.candidates.length;
    const rows = groups.map((group) => agreementRow(group.answer, group.members, k, group === same));
    if (refined?.answer != null && !same) rows.push(agreementRow(refined.answer, [], k, true));
    document.querySelector("#agreement tbody").replaceChildren(...rows);
    for (const [index, one] of this.candidates.entries()) {
      one.root.toggleAttribute("data-same", Boolean(same?.members.includes(index)));
    }
    this.refined.root.toggleAttribute("data-same", refined?.answer != null);
    if (refined) at("verdict").textContent = verdict(refined, groups, same, k);
  }

  showCosts(elapsed) {
    const { phases, queue_seconds: queue, peak_pages: pages } = this.usage.gsr;
    const known = PHASES.filter(([name]) => name in phases);
    const numbers = (phase) => [whole(phase.tokens_computed), whole(phase.tokens_reused), seconds(phase.seconds)];
    const sum = (field) => known.reduce((total, [name]) => total + phases[name][field], 0);
    const total = Object.fromEntries(["tokens_computed", "tokens_reused", "seconds"].map((field) => [field, sum(field)]));
    document
      .querySelector("#costs tbody")
      .replaceChildren(...known.map(([name, title]) => row(title, numbers(phases[name]))));
    document.querySelector("#costs tfoot").replaceChildren(row("All", numbers(total)));
    at("costs-note").textContent =
      `${whole(this.usage.completion_tokens)} tokens written. ${seconds(elapsed)} s from request to end, ` +
      `${seconds(queue)} s of it queued. At most ${whole(pages)} KV pages.`;
  }

  /** The request ended early: whatever was not finished says so. */
  end(state, words) {
    for (const one of [...this.candidates, this.refined]) if (!one.over) one.enter(state, words);
  }
}

const PHASES = [
  ["candidate_prefill", "Read the problem"],
  ["candidate_decode", "Write candidates"],
  ["refine_prefill", "Read candidates"],
  ["refine_decode", "Write refinement"],
];

function agreementRow(answer, members, k, same) {
  const made = row(answer, ["", members.length ? `${members.length} of ${k}` : "new"]);
  const names = members.length ? `candidates ${members.map((index) => index + 1).join(", ")}` : "no candidate";
  const pips = element("span", "", { class: "pips", role: "img", "aria-label": names });
  for (let index = 0; index < k; index++) {
    pips.append(element("i", "", members.includes(index) ? { "data-on": "" } : {}));
  }
  made.children[1].append(pips);
  made.toggleAttribute("data-same", same);
  return made;
}

function verdict(refined, groups, same, k) {
  if (refined.answer == null) return "The refinement states no answer.";
  if (!same) return "The refined answer is new: no candidate states it.";
  const count = same.members.length;
  if (count === k) return k === 1 ? "The refinement keeps the answer." : "The refinement and all candidates agree.";
  if (count < groups[0].members.length) return "The refinement takes an answer of a minority.";
  const tied = groups.filter((group) => group.members.length === count).length > 1;
  return tied ? "The refinement takes one of the answers that tie." : "The refinement agrees with the majority.";
}

/** The head's drawing: k strands that begin together and meet. Gives the k strands and the end. */
function drawStrands(k) {
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const strands = Array.from({ length: k }, (_, index) => {
    const y = k === 1 ? 28 : 4 + (48 * index) / (k - 1);
    return svg("path", { d: `M6 28C60 28 50 ${y} 110 ${y}H170C230 ${y} 220 28 274 28` });
  });
  const last = svg("path", { d: "M274 28H312" });
  const end = svg("circle", { cx: 314, cy: 28, r: 5 });
  at("strands").replaceChildren(...strands, last, svg("circle", { cx: 6, cy: 28, r: 3.5 }), end);
  at("k-shown").textContent = k;
  return [...strands, last, end];
}
