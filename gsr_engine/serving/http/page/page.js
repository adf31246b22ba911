"use strict";
// What a person does: chooses, solves, stops, gives a key.

const UNKNOWN_KEY = "The server does not know this key.";

let model = null;
let stopping = null;

const say = (words) => (at("status").textContent = words);
const complain = (words) => (at("error").textContent = words);

/** Shows the results, or what the page says before there are any. */
function show(results) {
  at("results").hidden = !results;
  at("idle").hidden = results;
}

function draw(k) {
  for (const shown of document.querySelectorAll(".k")) shown.textContent = k;
  drawStrands("strands", k);
  drawStrands("idle-strands", k);
}

function payload(k, seed) {
  const gsr = { k, stream: "all" };
  if (!at("layout-field").hidden) gsr.layout = at("layout").value;
  if (!model.gsr.answer_form) gsr.template = "gsr"; // one that asks for answers in a fixed form
  return JSON.stringify({
    model: model.id,
    messages: [{ role: "user", content: at("problem").value }],
    max_tokens: at("tokens").valueAsNumber,
    seed,
    stream: true,
    stream_options: { include_usage: true },
    gsr,
  });
}

/** Swaps Solve and Stop, and takes the focus along. */
function busy(controller) {
  stopping = controller;
  const [shown, hidden] = controller ? [at("stop"), at("solve")] : [at("solve"), at("stop")];
  const focused = document.activeElement === hidden;
  shown.hidden = false;
  hidden.hidden = true;
  if (focused) shown.focus();
}

async function solve() {
  if (stopping || (!model && !(await connect()))) return;
  const k = at("k").valueAsNumber;
  const [drawn] = crypto.getRandomValues(new Uint32Array(1));
  const seed = at("seed").value === "" ? drawn : at("seed").valueAsNumber;
  const began = performance.now();
  let run = null;
  complain("");
  say("Sent.");
  show(false);
  draw(k);
  busy(new AbortController());
  try {
    const body = payload(k, seed);
    const { signal } = stopping;
    const response = await ask("v1/chat/completions", { method: "POST", body, signal });
    run = new Run(k);
    show(true);
    for await (const chunk of chunksOf(response)) run.take(chunk);
    const elapsed = (performance.now() - began) / 1000;
    if (run.usage) run.showCosts(elapsed);
    const answer = run.refined.result?.answer;
    const found = answer == null ? "" : ` The refined answer is ${answer}`;
    say(`Done in ${seconds(elapsed)} s with seed ${seed}.${found}`);
  } catch (error) {
    const stopped = error.name === "AbortError";
    run?.end(stopped ? "stopped" : "failed", stopped ? "stopped" : "not finished");
    say(stopped ? "Stopped." : "");
    if (error.status === 401) askForKey(UNKNOWN_KEY);
    else if (!stopped) complain(error.message);
  } finally {
    busy(null);
  }
}

function askForKey(note = "") {
  at("key-note").textContent = note;
  at("key").value = "";
  at("key-dialog").showModal();
}

/** Learns what is served; false if the server did not say. */
async function connect() {
  try {
    const { data } = await (await ask("v1/models")).json();
    [model] = data;
  } catch (error) {
    if (error.status === 401) askForKey(sessionStorage.getItem(KEY) ? UNKNOWN_KEY : "");
    else complain(error.message);
    return false;
  }
  complain("");
  at("model").textContent = model.id;
  document.title = `${model.id}: selfRef`;
  showChoices();
  return true;
}

function limit(input, most) {
  input.max = most;
  if (input.validity.rangeOverflow) input.value = most;
}

/** The layouts that the checkpoint claims, the bounds of the server, and examples. */
function showChoices() {
  const { layouts, max_k: mostCandidates, max_tokens: mostTokens } = model.gsr;
  limit(at("k"), Math.min(16, mostCandidates));
  limit(at("tokens"), Math.min(model.max_model_len, mostTokens ?? Infinity));
  draw(at("k").valueAsNumber);
  at("layout").replaceChildren(...layouts.map((layout) => element("option", layout)));
  at("layout-field").hidden = layouts.length < 2;
  const nano = model.id.split("/").pop() === "nano";
  at("examples").replaceChildren(
    ...Object.entries(nano ? PUZZLES : PROBLEMS).map(([problem, title]) => {
      const button = element("button", title, { type: "button" });
      button.addEventListener("click", () => {
        at("problem").value = problem;
        at("problem").focus();
      });
      return button;
    }),
  );
  at("examples").hidden = false;
}

// Held-out puzzles of the model in the box, and how people write them. Its candidates often
// disagree, and of the last one they are mostly all wrong.
const PUZZLES = {
  "g2f1e3d2c2b3a0×₁4×₂2": "2132230 × 4 × 2 in base 5",
  "h3g3f0e1d3c0b3a4×₁2×₂3": "33013034 × 2 × 3 in base 5",
  "g2f3e2d4c4b3a4×₁2×₂3×₃2": "2324434 × 2 × 3 × 2 in base 5",
  "g1f2e2d4c2b4a2×₁(1+2)×₂(1+1)×₃(1+1)": "1224242 × (1+2) × (1+1) × (1+1) in base 5",
};
const PROBLEMS = {
  ["A shop sells pens at 3 for 2 euros and notebooks at 4 euros each. Ada buys 12 pens and " +
  "5 notebooks and pays with a 50 euro note. How much does she get back?"]: "Pens and notebooks",
};

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  solve();
});
at("stop").addEventListener("click", () => stopping?.abort());
at("k").addEventListener("input", () => {
  if (!stopping && at("k").checkValidity()) draw(at("k").valueAsNumber);
});
document.addEventListener("keydown", (event) => {
  const asked = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if (asked && !stopping && !at("key-dialog").open) at("form").requestSubmit();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value);
  at("key-dialog").close();
  connect();
});
at("key-cancel").addEventListener("click", () => at("key-dialog").close());

draw(at("k").valueAsNumber);
at("problem").focus();
connect();
