// Where the page's answers go: to the server that it came from.
"use strict";

globalThis.store = {
  async about() {
    return ask("study");
  },
  join: (name) => ask("join", { name }),
  again: (rater) => ask("again", { rater }),
  vote: (vote) => ask("vote", vote),
  picture: (name) => `picture/${name}.png`,
  save: null,
};

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not answer. Is it running, and are you connected to it?");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.error ?? `error ${answer.status}`), { status: answer.status });
  return found;
}
