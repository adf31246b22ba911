"use strict";
// The page: which run and which view, as the address says; the figures; the keyboard.

/** Changes the address; everything that is shown follows from it. */
function go(changes) {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === undefined) asked.delete(name);
    else asked.set(name, value);
  }
  location.replace(`#${asked}`);
}

const browser = new Browser((changes) => go({ view: "problems", ...changes }));
let shownRun = null;

function show() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = Math.min(DATA.runs.length - 1, Math.max(0, Math.trunc(asked.get("run")) || 0));
  const problems = asked.has("problem") || asked.get("view") === "problems";
  if (number !== shownRun) showRun(number);
  at("figures").hidden = problems;
  at("problems").hidden = !problems;
  for (const link of document.querySelectorAll("nav a")) {
    const chosen = (link.dataset.view === "problems") === problems;
    link.toggleAttribute("aria-current", chosen);
    const query = new URLSearchParams({ view: link.dataset.view });
    if (number) query.set("run", number);
    link.href = `#${query}`;
  }
  if (problems) browser.show(number, asked);
}

function showRun(number) {
  shownRun = number;
  tip("");
  const run = DATA.runs[number];
  at("run").value = number;
  at("lead").textContent = run.lead;
  document.title = `${run.name}: selfRef`;
  at("blocks").replaceChildren(...sections(run, number));
  at("facts").replaceChildren(
    ...run.facts.map(({ name, value }) => {
      const row = element("div");
      row.append(element("dt", name), element("dd", value));
      return row;
    }),
  );
}

/** A section for each title; neighbours of one title share it, and what is folded has its own. */
function sections(run, number) {
  const made = [];
  for (const block of run.blocks) {
    let section = made.at(-1);
    if (block.folded) {
      section = element("details");
      section.append(element("summary", block.title));
      made.push(section);
    } else if (section?.dataset.title !== block.title) {
      section = element("section");
      section.dataset.title = block.title;
      section.append(element("h2", block.title));
      made.push(section);
    }
    section.append(block.kind === "Plot" ? new Plot(block).root : drawTable(block, number));
    if (block.note) section.append(element("p", block.note, { class: "note" }));
  }
  return made;
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) typing.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    if (at("problems").hidden) go({ view: "problems" });
    requestAnimationFrame(() => at("search").focus());
    return;
  }
  if (at("problems").hidden) return;
  const listed = document.activeElement === at("list");
  const steps = { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1 };
  if (listed) Object.assign(steps, { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 });
  if (event.key in steps) {
    event.preventDefault();
    browser.move(steps[event.key]);
  } else if (event.key === "m") browser.nextMethod();
});

at("run").replaceChildren(
  ...DATA.runs.map(({ name }, number) => element("option", name, { value: number })),
);
if (DATA.overview) at("overview").append(...sections({ blocks: [DATA.overview] }, 0));
at("run-field").hidden = DATA.runs.length < 2;
at("run").addEventListener("change", () => {
  const view = at("problems").hidden ? "figures" : "problems";
  location.hash = `#${new URLSearchParams({ view, run: at("run").value })}`;
});
if (DATA.shortened) {
  at("shortened").hidden = false;
  at("shortened").textContent =
    `These runs are long: texts are shortened to ${whole(DATA.shortened)} characters here. ` +
    "samples.jsonl has all of them.";
}
window.addEventListener("hashchange", show);
show();
