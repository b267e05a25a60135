// Requests to the server that this page came from.

/** The key that a server may ask for; kept for this tab alone. */
export class Key {
  constructor(field, input) {
    this.field = field;
    this.input = input;
    this.input.value = sessionStorage.getItem("jslm key") ?? "";
    this.field.hidden = !this.input.value;
  }
  ask() {
    this.field.hidden = false;
    this.input.focus();
  }
  onChange(action) {
    this.input.addEventListener("change", () => {
      sessionStorage.setItem("jslm key", this.input.value);
      action();
    });
  }
  headers() {
    return this.input.value ? { Authorization: `Bearer ${this.input.value}` } : {};
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  let message = `the server answers ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* not of this server's making */ }
  throw Object.assign(new Error(message), { status: answer.status });
}

export async function get(path, key) {
  return (await checked(await fetch(path, { headers: key.headers() }))).json();
}

async function request(path, body, key, signal) {
  const headers = { "Content-Type": "application/json", ...key.headers() };
  return checked(await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal }));
}

export async function post(path, body, key, signal) {
  return (await request(path, body, key, signal)).json();
}

/** The events of a server-sent stream, parsed; throws what an error event says. */
export async function* stream(path, body, key, signal) {
  const answer = await request(path, body, key, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server closed the stream before its end");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message);
      yield found;
    }
  }
}
