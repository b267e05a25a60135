// A person's way through the pairs. Texts are only ever text; which model wrote which is not known here.
const at = (id) => document.getElementById(id);
const REMEMBERED = "jslm-judge-name";
const WORDS = { 1: ["First", "The same", "Second"], 2: ["First, clearly", "First", "The same", "Second", "Second, clearly"] };
let person = "", item = null, answers = {}, busy = false;

function show(id) {
  for (const each of ["begin", "pair", "end"]) at(each).hidden = each !== id;
}

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. What you have answered is kept; try again when it is back.");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function go(request) {
  if (busy) return;
  busy = true;
  at("problem").hidden = true;
  try {
    const found = await request();
    person = found.person;
    remember(person);
    present(found);
  } catch (error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
    if (!item) show("begin");
  } finally {
    busy = false;
  }
}

function present(found) {
  item = found;
  answers = { ...found.answers };
  at("progress").textContent = found.finished
    ? `${found.person}: all ${found.of} answered` : `${found.person}: ${found.done} of ${found.of} answered`;
  if (found.finished) {
    at("waiting").textContent = found.result ? "" : `${found.waiting}. The result is shown when all have.`;
    at("result").replaceChildren(...(found.result || []).map((line) => element("li", line)));
    show("end");
    return;
  }
  for (const id of ["prompt", "left", "right"]) {
    at(id).textContent = found[id];
    at(id).scrollTop = 0;
  }
  at("prompt").previousElementSibling.hidden = !found.prompt;
  at("questions").replaceChildren(...found.questions.map(question));
  const most = WORDS[found.questions[0].grades].length;
  at("keys").textContent = `Keys: 1 to ${most}` + (most === 3 ? ", or ← ↓ →" : "");
  at("back").disabled = found.place === 0;
  show("pair");
  mark();
  scrollTo(0, 0);
}

function question({ name, text, grades }) {
  const group = document.createElement("fieldset");
  group.dataset.name = name;
  const row = element("div", "", "grades");
  WORDS[grades].forEach((word, index) => {
    const button = element("button", word);
    button.type = "button";
    button.append(document.createElement("br"), element("kbd", String(index + 1)));
    button.addEventListener("click", () => choose(name, index - grades));
    row.append(button);
  });
  group.append(element("legend", text), row);
  return group;
}

function element(tag, text, kind) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// The question that a key answers: the first without an answer; when going back over an answered pair, the first.
function active() {
  return item.questions.find(({ name }) => !(name in answers)) || item.questions[0];
}

function mark() {
  for (const group of at("questions").children) {
    const { grades } = item.questions.find(({ name }) => name === group.dataset.name);
    group.classList.toggle("waits", active().name !== group.dataset.name);
    group.querySelectorAll("button").forEach((button, index) =>
      button.setAttribute("aria-pressed", String(answers[group.dataset.name] === index - grades)));
  }
}

function choose(name, grade) {
  if (busy) return;
  // A pair that is answered again is answered as a whole.
  if (item.questions.every((each) => each.name in answers) && item.questions.length > 1) answers = {};
  answers[name] = grade;
  mark();
  if (item.questions.some((each) => !(each.name in answers))) return;
  const { place } = item, given = answers;
  go(() => ask("api/answer", { person, place, answers: given }));
}

function back() {
  if (item && !item.finished && item.place > 0) go(() => ask(`api/item?person=${encodeURIComponent(person)}&place=${item.place - 1}`));
}

const ARROWS = { ArrowLeft: -1, ArrowDown: 0, ArrowRight: 1 };
addEventListener("keydown", (event) => {
  if (!item || item.finished || at("pair").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const { name, grades } = active();
  let grade = null;
  if (/^[1-9]$/.test(event.key) && Number(event.key) <= 2 * grades + 1) grade = Number(event.key) - 1 - grades;
  // In a text that scrolls the arrows are its own.
  else if (grades === 1 && event.key in ARROWS && !event.target.closest(".text")) grade = ARROWS[event.key];
  if (grade !== null) {
    event.preventDefault();
    choose(name, grade);
  } else if (event.key === "Backspace") {
    event.preventDefault();
    back();
  }
});
at("back").addEventListener("click", back);
at("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = at("name").value;
  go(() => ask(`api/item?person=${encodeURIComponent(name)}`));
});

function remember(name) {
  try { localStorage.setItem(REMEMBERED, name); } catch { /* A browser that keeps nothing asks again. */ }
}
try { at("name").value = localStorage.getItem(REMEMBERED) || ""; } catch { /* as above */ }
show("begin");
at("name").focus();
