// The study as a rater meets it: instructions, one question after the other, thanks.
"use strict";

const $ = (id) => document.getElementById(id);
const view = new View($("panes"));
const trials = (n) => `${n} question${n === 1 ? "" : "s"}`;
let about, session, at = -1, ready = false, since = 0, turn = 0;

// Kept on this device: which rater its person is in which study. Storage may be forbidden.
const memory = {
  get key() { return `unistep-study-${about.study}`; },
  get() { try { return localStorage.getItem(this.key); } catch { return null; } },
  set(rater) { try { rater ? localStorage.setItem(this.key, rater) : localStorage.removeItem(this.key); } catch {} },
};

// Unlike randomUUID, this is there on pages without TLS too.
function token() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

function screen(id) {
  for (const main of document.querySelectorAll("main")) main.hidden = main.id !== id;
  $(id).querySelector("h1").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function fail(error) {
  $("why").textContent = error.message;
  screen("failed");
}

async function start() {
  try {
    about = await store.about();
    const known = memory.get();
    session = known ? await store.again(known).catch((error) => {
      if (error.status === 400) return null; // nobody of this study
      throw error;
    }) : null;
  } catch (error) {
    return fail(error);
  }
  instructions();
  if (session && open() < 0) return end();
  screen("start");
}

function instructions() {
  document.title = about.title;
  for (const e of document.querySelectorAll("[data-title]")) e.textContent = about.title;
  for (const e of document.querySelectorAll("[data-question]")) e.textContent = about.question;
  for (const list of document.querySelectorAll("[data-criteria]")) {
    list.replaceChildren(...about.criteria.map((text) => element("li", { textContent: text })));
  }
  const beside = [about.low && "the low-quality input", about.high && "the original"].filter(Boolean);
  const many = ["", "", "two", "three", "four", "five", "six", "seven", "eight", "nine"][about.candidates];
  $("kinds").textContent = `${many} restorations of the same picture side by side` +
    (beside.length ? `, and ${beside.join(" and ")} beside them` : "");
  for (const e of document.querySelectorAll("[data-about]")) e.hidden = !about.criteria.length;
  $("tie-said").hidden = $("tie-key").hidden = !about.tie;
  $("more-keys").replaceChildren();
  for (let i = 3; i <= about.candidates; i++) $("more-keys").append(" ", element("kbd", { textContent: i }));
  const n = session ? session.trials.length : about.trials;
  $("count").textContent = trials(n);
  $("again").hidden = $("other").hidden = !session;
  $("name-label").hidden = Boolean(session);
  $("go").textContent = session ? "Go on" : "Start";
  if (session) {
    $("who").textContent = session.name ? `, ${session.name}` : "";
    $("so-far").textContent = `${done()} of ${trials(n)}`;
  }
}

const done = () => session.trials.filter((trial) => trial.choice !== null).length;
const open = () => session.trials.findIndex((trial) => trial.choice === null);

async function begin(event) {
  event.preventDefault();
  $("start-error").textContent = "";
  $("go").disabled = true;
  try {
    session ??= await store.join($("name").value);
    memory.set(session.rater);
    await next();
  } catch (error) {
    $("start-error").textContent = error.message;
  }
  $("go").disabled = false;
}

async function next() {
  at = open();
  if (at < 0) return end();
  await show();
}

async function show() {
  const trial = session.trials[at], mine = ++turn;
  ready = false;
  $("vote-error").textContent = "";
  const answered = done();
  Object.assign($("bar"), { max: session.trials.length, value: answered });
  $("place").textContent = `${answered + 1} of ${session.trials.length}`;
  buttons(trial);
  if ($("vote").hidden) screen("vote");
  // What is compared stands together, also where four pictures make two rows.
  const pictures = [
    trial.low && { label: "Input", alt: "The low-quality input, enlarged", url: store.picture(trial.low) },
    trial.high && { label: "Original", alt: "The original", url: store.picture(trial.high) },
    ...trial.pictures.map((name, i) => ({ label: `${i + 1}`, alt: `Restoration ${i + 1}`, url: store.picture(name) })),
  ].filter(Boolean);
  try {
    await view.show(pictures, trial.width, trial.height);
  } catch {
    if (mine === turn) offer("A picture could not be loaded.", show);
    return;
  }
  if (mine !== turn) return;
  ready = true;
  since = performance.now();
  allow();
  preload();
}

// The next question's pictures, while this one is looked at.
function preload() {
  const following = session.trials.slice(at + 1).find((trial) => trial.choice === null);
  for (const name of following ? [...following.pictures, following.low, following.high] : []) {
    if (name) new Image().src = store.picture(name);
  }
}

function buttons(trial) {
  const two = trial.pictures.length === 2;
  const say = (i) => (two ? `${i + 1} is better` : `${i + 1}`);
  const all = trial.pictures.map((name, i) => choice(say(i), `${i + 1}`, name, "candidate"));
  if (about.tie) all.splice(two ? 1 : all.length, 0, choice("No difference", "0", "tie", "tie"));
  const undo = element("button", { className: "undo", onclick: takeBack }, "Undo ", element("kbd", { textContent: "U" }));
  $("choices").replaceChildren(undo, ...all);
  $("choices").classList.toggle("many", !two);
  allow();
}

function choice(text, key, name, className) {
  const shown = text === key ? [text] : [text, " ", element("kbd", { textContent: key })];
  const button = element("button", { className, onclick: () => vote(name) }, ...shown);
  if (text === key) button.setAttribute("aria-label", `${key} is the best`);
  return button;
}

function allow() {
  for (const button of $("choices").children) {
    button.disabled = button.className === "undo" ? before() < 0 : !ready;
  }
}

// Answers go in the order of the questions: the last one is that before the open one.
function before() {
  const first = open();
  return (first < 0 ? session.trials.length : first) - 1;
}

async function vote(name) {
  if (!ready) return;
  ready = false;
  allow();
  const seconds = (performance.now() - since) / 1000;
  await send({ trial: session.trials[at].trial, choice: name, seconds }, at);
}

async function takeBack() {
  const last = before();
  if (last < 0 || (!ready && !$("vote").hidden)) return;
  ready = false;
  allow();
  await send({ trial: session.trials[last].trial, choice: null, seconds: null }, last);
}

// The same id each time that it is tried, so that a vote whose answer was lost is not counted twice.
async function send(vote, index) {
  const whole = { ...vote, rater: session.rater, id: token() };
  const attempt = async () => {
    try {
      await store.vote(whole);
    } catch (error) {
      if ($("vote").hidden) screen("vote");
      offer(`Your answer is not kept yet. ${error.message}`, attempt);
      return;
    }
    $("vote-error").textContent = "";
    session.trials[index].choice = vote.choice;
    await next();
  };
  await attempt();
}

function offer(text, again) {
  const button = element("button", { textContent: "Try again", onclick: () => { $("vote-error").textContent = ""; again(); } });
  $("vote-error").replaceChildren(`${text} `, button);
}

function end() {
  const n = session.trials.length;
  $("answered").textContent = n === 1 ? "the question" : `all ${trials(n)}`;
  $("hand-in").hidden = !store.save;
  $("kept").hidden = Boolean(store.save);
  screen("end");
}

async function somebodyElse() {
  memory.set(null);
  session = null;
  at = -1;
  await start();
}

function element(kind, properties, ...inside) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...inside);
  return made;
}

function key(event) {
  if ($("vote").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat && /^[0-9uU]$/.test(event.key)) return;
  const moves = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
  const trial = session.trials[at];
  if (/^[1-9]$/.test(event.key) && event.key <= trial.pictures.length) vote(trial.pictures[event.key - 1]);
  else if (event.key === "0" && about.tie) vote("tie");
  else if (event.key === "u" || event.key === "U") takeBack();
  else if (event.key === "+" || event.key === "=") view.step(true);
  else if (event.key === "-" || event.key === "−") view.step(false);
  else if (event.key === "f" || event.key === "F") view.fit();
  else if (moves[event.key]) view.pan(...moves[event.key]);
  else return;
  event.preventDefault();
}

$("join").addEventListener("submit", begin);
$("other").addEventListener("click", somebodyElse);
$("next-person").addEventListener("click", somebodyElse);
$("back").addEventListener("click", takeBack);
$("retry").addEventListener("click", start);
$("save").addEventListener("click", () => store.save?.(session));
$("in").addEventListener("click", () => view.step(true));
$("out").addEventListener("click", () => view.step(false));
$("one").addEventListener("click", () => view.natural());
$("fit").addEventListener("click", () => view.fit());
addEventListener("keydown", key);
start();
