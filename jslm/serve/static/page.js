// The page of `jslm serve`. Text of models and people reaches the page through textContent alone, never as markup.
import { marked } from "./differences.js";
import { drawCurves } from "./curves.js";
import { Key, post, stream, get } from "./api.js";
import { Tokens } from "./tokens.js";

const $ = (id) => document.getElementById(id);
const key = new Key($("key-field"), $("key"));
const numbers = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"];
let models = [];
let running = null; // AbortController of the request under way
let messages = [];

const model = () => models.find((one) => one.id === $("model").value);

function say(text) { $("status").textContent = text; }

function problem(error) {
  if (error.name === "AbortError") return;
  $("problem").textContent = error.message;
  if (error.status === 401) key.ask();
}

// Settings

function showSettings() {
  for (const id of numbers) {
    document.querySelector(`output[for="${id}"]`).textContent =
      id === "top_k" && $(id).value === "0" ? "all" : $(id).value;
  }
}

function useDefaults() {
  const { defaults, max_tokens } = model();
  $("max_tokens").max = Math.max(1, max_tokens);
  for (const id of numbers) {
    $(id).value = id === "max_tokens" ? Math.min(defaults.max_new_tokens, max_tokens) : defaults[id];
  }
  $("seed").value = "";
  showSettings();
}

function settings() {
  const found = { model: model().id, conditions: conditions() };
  for (const id of numbers) found[id] = Number($(id).value);
  if ($("seed").value !== "") found.seed = Number($("seed").value);
  return found;
}

// Conditions: a choice for each that the model was trained with, over all tabs that write

function showConditions() {
  const fields = Object.entries(model().conditions).map(([name, labels]) => {
    const choice = document.createElement("select");
    choice.name = name;
    choice.append(new Option("any", ""), ...labels.map((one) => new Option(one, `=${one}`)));
    const label = document.createElement("label");
    label.append(name, choice);
    return label;
  });
  $("conditions").replaceChildren($("conditions").firstElementChild, ...fields);
  hideConditions();
}

function hideConditions() {
  $("conditions").hidden = !Object.keys(model()?.conditions ?? {}).length || !$("panel-run").hidden;
}

function conditions() {
  const chosen = [...$("conditions").querySelectorAll("select")].filter((choice) => choice.value);
  return Object.fromEntries(chosen.map((choice) => [choice.name, choice.value.slice(1)]));
}

// One request at a time: its buttons, its end, its errors

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
    say(error.name === "AbortError" ? "Stopped." : "");
  } finally {
    running = null;
    startButton.disabled = false;
    stopButton.disabled = true;
  }
}

const stop = () => running?.abort();

// Write

const tokens = new Tokens($("output"), $("tip"), say);

async function write() {
  const prompt = $("prompt").value;
  $("output").replaceChildren();
  const before = document.createElement("span");
  before.className = "prompt";
  before.textContent = prompt;
  $("output").append(before);
  $("again").disabled = $("keep").disabled = true;
  await run($("stop"), $("write"), async (signal) => {
    say("Writing…");
    const started = performance.now();
    let whole = [];
    let count = 0;
    let reason = "";
    const body = { ...settings(), prompt, stream: true, logprobs: 5 };
    for await (const event of stream("v1/completions", body, key, signal)) {
      for (const choice of event.choices) {
        const begin = whole.length;
        // Offsets count characters, and JavaScript's own strings count halves of some.
        whole = whole.concat(Array.from(choice.text));
        count += append(whole, begin, choice.logprobs);
        reason = choice.finish_reason ?? reason;
      }
    }
    const seconds = (performance.now() - started) / 1000;
    const why = reason === "length" ? "the limit or the end of the context" : "the model ended the text";
    say(`${count} tokens in ${seconds.toFixed(1)} s, ${(count / seconds).toFixed(0)} a second; ${why}.`);
  });
  $("again").disabled = $("keep").disabled = false;
}

function append(whole, begin, logprobs) {
  const count = logprobs?.tokens.length ?? 0;
  let at = begin;
  for (let i = 0; i < count; i++) {
    const end = i + 1 < count ? Math.max(at, logprobs.text_offset[i + 1]) : whole.length;
    const text = whole.slice(at, end).join("");
    at = end;
    if (!text) continue; // a part of a character
    const top = Object.entries(logprobs.top_logprobs?.[i] ?? {}).map(([token, logprob]) => [token, Math.exp(logprob)]);
    tokens.add(text, logprobs.tokens[i], Math.exp(logprobs.token_logprobs[i] ?? 0), top);
  }
  if (at < whole.length) $("output").append(whole.slice(at).join(""));
  return count;
}

// Rewrite

async function rewrite() {
  const sentences = $("sentences").value.split("\n").map((line) => line.trim()).filter(Boolean);
  $("rewrites").replaceChildren();
  if (!sentences.length) { say("Nothing to rewrite: type a sentence a line."); return; }
  await run($("rewrite-stop"), $("rewrite"), async (signal) => {
    say(`Rewriting ${sentences.length} sentences…`);
    const answer = await post("v1/rewrite", { model: model().id, sentences, conditions: conditions() }, key, signal);
    for (const { sentence, output, confidence, reason } of answer.rewrites) {
      const item = document.createElement("li");
      const source = document.createElement("div");
      source.className = "source";
      const target = document.createElement("div");
      marked(sentence, output.trim(), source, target);
      const sure = document.createElement("div");
      sure.className = "confidence";
      sure.textContent = confidence === null ? "nothing written" : `confidence ${(100 * confidence).toFixed(0)} %`;
      if (reason) sure.textContent += `; left as it is: ${reason}`;
      item.append(source, target, sure);
      $("rewrites").append(item);
    }
    say(`${sentences.length} rewritten.`);
  });
}

// Chat

function addMessage(role, text) {
  const item = document.createElement("li");
  item.className = role;
  const who = document.createElement("b");
  who.textContent = role === "user" ? "You" : "Model";
  const words = document.createElement("span");
  words.textContent = text;
  words.dir = "auto";
  item.append(who, words);
  $("messages").append(item);
  return words;
}

async function send() {
  const text = $("say").value.trim();
  if (!text || running) return;
  $("say").value = "";
  messages.push({ role: "user", content: text });
  addMessage("user", text);
  const words = addMessage("assistant", "");
  await run($("chat-stop"), $("send"), async (signal) => {
    say("Writing…");
    for await (const event of stream("v1/chat/completions", { ...settings(), messages, stream: true }, key, signal)) {
      for (const choice of event.choices) words.textContent += choice.delta?.content ?? "";
    }
    say("");
  });
  messages.push({ role: "assistant", content: words.textContent });
}

function clearChat() {
  stop();
  messages = [];
  $("messages").replaceChildren();
  $("say").focus();
}

// About the model

async function showRun() {
  const { id } = model();
  $("run-title").textContent = id;
  const rows = $("card").tBodies[0];
  rows.replaceChildren();
  $("curves").replaceChildren();
  try {
    const found = await get(`v1/runs/${encodeURIComponent(id)}`, key);
    for (const [name, value] of Object.entries(found.card)) {
      const row = rows.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      row.insertCell().textContent = typeof value === "number" ? value.toLocaleString("en", { maximumSignificantDigits: 6 }) : value;
    }
    drawCurves($("curves"), found.curves);
  } catch (error) {
    problem(error);
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
  const writes = tab.id === "tab-write" || tab.id === "tab-chat";
  $("settings").hidden = !writes;
  $("main").classList.toggle("wide", !writes);
  hideConditions();
  say("");
  $("problem").textContent = "";
  if (tab.id === "tab-run") showRun();
}

function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = [...document.querySelectorAll("[role=tab]")].filter((tab) => !tab.hidden);
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  choose(next);
  next.focus();
}

function chooseModel() {
  stop();
  const able = { "tab-chat": model().chat, "tab-rewrite": model().rewrites };
  for (const [tab, can] of Object.entries(able)) {
    $(tab).hidden = !can;
    if (!can && $(tab).getAttribute("aria-selected") === "true") choose($("tab-write"));
  }
  useDefaults();
  showConditions();
  clearChatQuietly();
  if ($("tab-run").getAttribute("aria-selected") === "true") showRun();
}

function clearChatQuietly() {
  messages = [];
  $("messages").replaceChildren();
}

async function start() {
  try {
    models = (await get("v1/models", key)).data;
  } catch (error) {
    problem(error);
    return;
  }
  $("model").replaceChildren(...models.map((one) => new Option(one.id, one.id)));
  chooseModel();
  say("");
}

const onCtrlEnter = (id, action) => $(id).addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); action(); }
});

$("model").addEventListener("change", chooseModel);
$("write").addEventListener("click", write);
$("again").addEventListener("click", write);
$("stop").addEventListener("click", stop);
$("keep").addEventListener("click", () => { $("prompt").value = $("output").textContent; $("prompt").focus(); });
$("rewrite").addEventListener("click", rewrite);
$("rewrite-stop").addEventListener("click", stop);
$("send").addEventListener("click", send);
$("chat-stop").addEventListener("click", stop);
$("clear").addEventListener("click", clearChat);
$("defaults").addEventListener("click", useDefaults);
$("settings").addEventListener("input", showSettings);
for (const id of ["settings", "key-field"]) $(id).addEventListener("submit", (event) => event.preventDefault());
onCtrlEnter("prompt", write);
onCtrlEnter("sentences", rewrite);
onCtrlEnter("say", send);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { tokens.hide(); stop(); } });
for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", moveTab);
}
key.onChange(start);
start();
