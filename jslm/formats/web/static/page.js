// The page of an exported model. Text of models and people reaches the page through textContent alone, never as markup.
import { marked } from "./differences.js";
import { Engine } from "./engine.js";
import { Tokens } from "./tokens.js";

const $ = (id) => document.getElementById(id);
const numbers = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"];
const engine = new Engine();
const tokens = new Tokens($("output"), $("tip"), say);
let card; // model.json, without its vocabulary
let running = null; // AbortController of the work under way

function say(text) { $("status").textContent = text; }

function problem(error) { $("problem").textContent = error.message; }

// Settings

function showSettings() {
  for (const id of numbers) {
    document.querySelector(`output[for="${id}"]`).textContent = id === "top_k" && $(id).value === "0" ? "all" : $(id).value;
  }
}

function useDefaults() {
  $("max_tokens").max = Math.max(1, card.context - 1);
  for (const id of numbers) $(id).value = card.defaults[id];
  $("seed").value = "";
  showSettings();
}

function settings() {
  const found = Object.fromEntries(numbers.map((id) => [id, Number($(id).value)]));
  const seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 32) : Math.abs(Math.trunc(Number($("seed").value)));
  return { ...found, seed };
}

// Conditions: a choice for each that the model was trained with and that is not built in

function showConditions() {
  const fields = card.conditions.map(({ name, labels }) => {
    const choice = document.createElement("select");
    choice.name = name;
    choice.append(new Option("any", "-1"), ...labels.map((one, index) => new Option(one, index)));
    const label = document.createElement("label");
    label.append(name, choice);
    return label;
  });
  $("conditions").replaceChildren($("conditions").firstElementChild, ...fields);
}

const labels = () => [...$("conditions").querySelectorAll("select")].map((choice) => Number(choice.value));

// One work at a time: its buttons, its end, its errors

async function run(stopButton, startButton, work) {
  if (running) return;
  running = new AbortController();
  $("problem").textContent = "";
  startButton.disabled = true;
  stopButton.disabled = false;
  try {
    await work(running.signal);
  } catch (error) {
    problem(error);
    say("");
  } finally {
    running = null;
    startButton.disabled = false;
    stopButton.disabled = true;
  }
}

const stop = () => running?.abort();

// Write

const ENDS = { stop: "the model ended the text.", length: "the limit or the end of the context.", stopped: "stopped." };

async function write() {
  if (running) return;
  const prompt = $("prompt").value;
  const before = document.createElement("span");
  before.className = "prompt";
  before.textContent = prompt;
  $("output").replaceChildren(before);
  $("again").disabled = $("keep").disabled = true;
  await run($("stop"), $("write"), async (signal) => {
    const asked = settings();
    say("Writing…");
    const found = await engine.run("write", { prompt, settings: asked, labels: labels() }, { tokens: append }, signal);
    const seconds = (found.readMs + found.writeMs) / 1000;
    // The first token comes with the prompt.
    const rate = found.count > 1 ? `, ${((1000 * (found.count - 1)) / found.writeMs).toFixed(0)} a second` : "";
    const seed = asked.temperature > 0 ? ` Seed ${asked.seed}.` : "";
    say(`${found.count} tokens in ${seconds.toFixed(1)} s${rate}; ${ENDS[found.end]}${seed}`);
  });
  $("again").disabled = $("keep").disabled = false;
}

function append(found) {
  for (const { text, shown, logprob, top } of found) {
    // A part of a character has no text yet.
    if (text) tokens.add(text, shown, Math.exp(logprob), top.map(([one, value]) => [one, Math.exp(value)]));
  }
}

// Rewrite

async function rewrite() {
  if (running) return;
  const sentences = $("sentences").value.split("\n").filter((line) => line.trim());
  $("rewrites").replaceChildren();
  if (!sentences.length) { say("Nothing to rewrite: type a sentence a line."); return; }
  await run($("rewrite-stop"), $("rewrite"), async (signal) => {
    say(`Rewriting ${sentences.length === 1 ? "a sentence" : `${sentences.length} sentences`}…`);
    const started = performance.now();
    const { end } = await engine.run("rewrite", { sentences, labels: labels() }, { rewrite: addRewrite }, signal);
    const count = $("rewrites").childElementCount;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    say(end === "stopped" ? `Stopped after ${count}.` : `${count} rewritten in ${seconds} s.`);
  });
}

function addRewrite({ source, output, confidence, changed, reason }) {
  const item = document.createElement("li");
  const [before, after, sure] = ["source", "target", "confidence"].map((name) => {
    const part = document.createElement("div");
    part.className = name;
    part.dir = name === "confidence" ? "" : "auto";
    item.append(part);
    return part;
  });
  marked(source, output, before, after);
  const words = [confidence === null ? "nothing written" : `confidence ${(100 * confidence).toFixed(0)} %`];
  if (!changed) words.push(`left as it is: ${reason}`);
  sure.textContent = words.join("; ");
  $("rewrites").append(item);
}

// About the model

function showAbout() {
  const rows = $("card").tBodies[0];
  rows.replaceChildren();
  for (const [name, value] of card.about) {
    const row = rows.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = value;
  }
}

// Tabs

function choose(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  const writes = tab.id === "tab-write";
  $("settings").hidden = !writes;
  $("main").classList.toggle("wide", !writes);
  $("conditions").hidden = !card.conditions.length || tab.id === "tab-about";
  say("");
  $("problem").textContent = "";
}

function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = [...document.querySelectorAll("[role=tab]")].filter((tab) => !tab.hidden);
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  choose(next);
  next.focus();
}

// Start

function showProgress({ loaded, total }) {
  $("progress").value = loaded / total;
  const [part, whole] = [loaded, total].map((bytes) => (bytes / 1e6).toFixed(1));
  $("loaded").textContent = loaded < total ? `Loading the model: ${part} of ${whole} MB` : "Starting the model…";
}

async function keepForOffline() {
  try {
    await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    $("offline").textContent = "Its files are kept in this browser: it opens without a network from now on.";
  } catch {
    // No service workers in private windows, nor on plain http beyond this machine.
    $("offline").textContent = "This browser keeps no files of this page: it needs the network each time.";
  }
}

async function start() {
  try {
    card = await engine.run("open", {}, { progress: showProgress });
  } catch (error) {
    $("loading").hidden = true;
    problem(error);
    return;
  }
  document.title = $("name").textContent = card.name;
  useDefaults();
  showConditions();
  showAbout();
  $("loading").hidden = true;
  $("tabs").hidden = $("main").hidden = false;
  $("tab-rewrite").hidden = !card.rewrite;
  const beams = card.rewrite?.settings.beams;
  if (beams) $("greedily").textContent = `The model was made to search with ${beams} beams; this page writes greedily, and is less sure.`;
  choose($(card.rewrite ? "tab-rewrite" : "tab-write"));
  await keepForOffline();
}

const onCtrlEnter = (id, action) => $(id).addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); action(); }
});

$("write").addEventListener("click", write);
$("again").addEventListener("click", write);
$("stop").addEventListener("click", stop);
$("keep").addEventListener("click", () => { $("prompt").value = $("output").textContent; $("prompt").focus(); });
$("rewrite").addEventListener("click", rewrite);
$("rewrite-stop").addEventListener("click", stop);
$("defaults").addEventListener("click", useDefaults);
$("settings").addEventListener("input", showSettings);
$("settings").addEventListener("submit", (event) => event.preventDefault());
onCtrlEnter("prompt", write);
onCtrlEnter("sentences", rewrite);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { tokens.hide(); stop(); } });
for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", moveTab);
}
start();
