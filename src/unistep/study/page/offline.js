// Where the answers go on a page without a server: they stay on this device until they are saved as a file.
"use strict";

(() => {
  const held = JSON.parse(document.getElementById("held").textContent);
  const place = `unistep-study-${held.about.study}-answers`;
  let raters = {};
  try { raters = JSON.parse(localStorage.getItem(place)) ?? {}; } catch {}

  function keep() {
    try { localStorage.setItem(place, JSON.stringify(raters)); } catch {}
  }

  // A number from 0 to n - 1, all equally likely.
  function draw(n) {
    const most = Math.floor(2 ** 32 / n) * n, drawn = new Uint32Array(1);
    do crypto.getRandomValues(drawn); while (drawn[0] >= most);
    return drawn[0] % n;
  }

  function shuffled(list) {
    const out = [...list];
    for (let i = out.length - 1; i > 0; i--) {
      const j = draw(i + 1);
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }

  function deal() {
    const asked = shuffled(held.items).slice(0, held.per_rater ?? held.items.length);
    const trials = asked.map((item) => item.id), half = Math.floor(trials.length / 2);
    for (const id of shuffled(trials.slice(0, half)).slice(0, held.repeats)) {
      trials.splice(half + 1 + draw(trials.length - half), 0, `${id}~2`);
    }
    const items = Object.fromEntries(held.items.map((item) => [item.id, item]));
    return trials.map((trial) => {
      const item = items[trial.replace("~2", "")];
      return { ...item, trial, pictures: shuffled(item.pictures), choice: null };
    });
  }

  globalThis.store = {
    about: async () => held.about,
    async join(name) {
      const rater = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
      raters[rater] = { rater, name, trials: deal(), votes: [] };
      keep();
      return structuredClone(raters[rater]);
    },
    async again(rater) {
      if (!raters[rater]) throw Object.assign(new Error("expected a rater of this page"), { status: 400 });
      return structuredClone(raters[rater]);
    },
    async vote({ rater, trial, choice, id, seconds }) {
      const found = raters[rater].trials.find((one) => one.trial === trial);
      found.choice = choice;
      raters[rater].votes.push({ trial, choice, shown: found.pictures, id, seconds });
      keep();
    },
    picture: (name) => held.pictures[name],
    save(session) {
      const all = Object.values(raters).map(({ rater, name, trials, votes }) =>
        ({ rater, name, trials: trials.map(({ trial }) => trial), votes }));
      const file = new Blob([JSON.stringify({ format: 1, study: held.about.study, raters: all })], { type: "application/json" });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(file);
      link.download = `answers-${session.rater.slice(0, 8)}.json`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    },
  };
})();
