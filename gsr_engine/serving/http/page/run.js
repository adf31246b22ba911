"use strict";
// One run on the page: what the stream brings, as text, tables and a drawing.
// Text never becomes markup.

const at = (id) => document.getElementById(id);

const whole = (number) => number.toLocaleString("en");
const hundredths = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
const seconds = (number) => number.toLocaleString("en", hundredths);
const logprob = (number) => number.toFixed(3).replace("-", "−");
const candidateCount = (number) => (number === 1 ? "1 candidate" : `${whole(number)} candidates`);

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

/** How a solution ends that was going on. */
const CUT = {
  length: "cut at the limit",
  repetition: "cut in a loop",
  timeout: "out of time",
  abort: "stopped",
};

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
    if (!text) return;
    const box = this.part(where);
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 32;
    box.hidden = false;
    box.append(text);
    if (follows) box.scrollTop = box.scrollHeight;
    if (this.root.dataset.state === "waiting") this.enter("writing");
  }

  /** `result`: answer, same_as, tokens, mean_logprob, finish_reason, as the server says them. */
  finish(result) {
    const { answer, tokens, mean_logprob: mean, finish_reason: reason } = result;
    this.result = result;
    this.enter(reason in CUT ? "cut" : "done", CUT[reason] ?? "done");
    this.part(".tokens dd").textContent = whole(tokens);
    this.part(".answer dd").textContent = answer ?? "none stated";
    this.part(".logprob dd").textContent = mean == null ? "–" : logprob(mean);
  }
}

/** What one request has brought so far, and its place on the page. */
class Run {
  constructor(k) {
    const strands = drawStrands("strands", k);
    this.candidates = strands
      .slice(0, k)
      .map((strand, index) => new Solution(`Candidate ${index + 1}`, [strand]));
    this.refined = new Solution("Refined from the candidates", strands.slice(k));
    this.usage = null;
    const items = this.candidates.map((one) => {
      const item = element("li");
      item.append(one.root);
      return item;
    });
    at("candidates").replaceChildren(...items);
    at("refined").replaceChildren(this.refined.root);
    at("agreement").tBodies[0].replaceChildren();
    at("verdict").textContent = "No candidate has stated an answer yet.";
    at("costs").hidden = true;
    at("costs-note").textContent = "Known when the request is finished.";
    say(`Writing ${candidateCount(k)}.`);
  }

  /** Takes one chunk of the stream. */
  take(chunk) {
    const { phase = "refinement", candidate, event, ...result } = chunk.gsr ?? {};
    const { reasoning = "", content = "" } = chunk.choices[0]?.delta ?? {};
    this.usage = chunk.usage ?? this.usage;
    if (event === "phase_started") {
      if (phase === "refinement") this.refined.enter("waiting", "reading the candidates");
    } else if (phase === "candidate") {
      this.candidates[candidate].write(reasoning);
      if (event === "candidate_done") this.finish(this.candidates[candidate], result);
    } else {
      this.refined.write(reasoning, ".thinking");
      this.refined.write(content);
      if (event === "done") this.finish(this.refined, result);
    }
  }

  finish(solution, result) {
    solution.finish(result);
    this.showAgreement();
    if (solution !== this.refined) this.showProgress();
  }

  showProgress() {
    const k = this.candidates.length;
    const count = this.candidates.filter((one) => one.over).length;
    if (count < k) say(`${count} of ${candidateCount(k)} finished.`);
    else say("The candidates are finished. The model reads them and writes the refinement.");
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
    const rows = groups.map(({ answer, members, key }) =>
      agreementRow(answer, members, k, key === same?.key),
    );
    if (refined?.answer != null && !same) rows.push(agreementRow(refined.answer, [], k, true));
    at("agreement").tBodies[0].replaceChildren(...rows);
    for (const [index, one] of this.candidates.entries()) {
      one.root.toggleAttribute("data-same", Boolean(same?.members.includes(index)));
    }
    this.refined.root.toggleAttribute("data-same", refined?.answer != null);
    if (refined) at("verdict").textContent = verdict(refined, groups, same, k);
    else if (groups.length) at("verdict").textContent = "";
  }

  /** The phases that the request reached, and their sums; `elapsed` is in seconds. */
  showCosts(elapsed) {
    const { queue_seconds: queue, peak_pages: pages, ...costs } = this.usage.gsr;
    const known = PHASES.filter(([name]) => name in costs).map(([name, title]) => {
      const { tokens_computed: computed, tokens_reused: reused, seconds: time } = costs[name];
      return { title, numbers: [computed, reused, time] };
    });
    const sums = [0, 1, 2].map((column) =>
      known.reduce((sum, { numbers }) => sum + numbers[column], 0),
    );
    const shown = ([computed, reused, time]) => [whole(computed), whole(reused), seconds(time)];
    const rows = known.map(({ title, numbers }) => row(title, shown(numbers)));
    at("costs").tBodies[0].replaceChildren(...rows);
    at("costs").tFoot.replaceChildren(row("All", shown(sums)));
    at("costs").hidden = false;
    at("costs-note").textContent =
      `${whole(this.usage.completion_tokens)} tokens written. ${seconds(elapsed)} s from request ` +
      `to end, ${seconds(queue)} s of it queued. At most ${whole(pages)} KV pages.`;
  }

  /** The request ended early: whatever was not finished says so. */
  end(state, words) {
    for (const one of [...this.candidates, this.refined]) if (!one.over) one.enter(state, words);
    if (!this.groups.length) at("verdict").textContent = "No candidate stated an answer.";
    if (!this.usage) at("costs-note").textContent = "Not known: the request did not finish.";
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
  const numbers = members.map((index) => index + 1).join(", ");
  const names = numbers ? `candidates ${numbers}` : "no candidate";
  const pips = element("span", "", { class: "pips", role: "img", "aria-label": names });
  for (let index = 0; index < k; index++) {
    pips.append(element("i", "", members.includes(index) ? { "data-on": "" } : {}));
  }
  made.children[1].append(pips);
  made.toggleAttribute("data-same", same);
  return made;
}

/** The refined answer beside the candidates' in one sentence. */
function verdict(refined, groups, same, k) {
  if (refined.answer == null) return "The refinement states no answer.";
  if (!same) return "The refined answer is new: no candidate states it.";
  const count = same.members.length;
  if (count === k && k > 1) return "The refinement and all candidates agree.";
  if (count < groups[0].members.length) return "The refinement agrees with a minority.";
  const tied = groups.filter(({ members }) => members.length === count).length > 1;
  if (tied) return "The refinement takes one of the answers that tie.";
  return k > 1 ? "The refinement agrees with the majority." : "The refinement keeps the answer.";
}

/** The drawing of k strands that begin together and meet. Gives the strands and the end. */
function drawStrands(id, k) {
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const strands = Array.from({ length: k }, (_, index) => {
    const y = k === 1 ? 28 : 4 + (48 * index) / (k - 1);
    return svg("path", { d: `M6 28C60 28 50 ${y} 110 ${y}H170C230 ${y} 220 28 274 28` });
  });
  const begin = svg("circle", { cx: 6, cy: 28, r: 3.5 });
  const end = [svg("path", { d: "M274 28H312" }), svg("circle", { cx: 314, cy: 28, r: 5 })];
  at(id).replaceChildren(...strands, begin, ...end);
  return [...strands, ...end];
}
