// The dashboard works without this: it keeps open pages fresh, shows events live, and leads to screens by keys.

import { EventStream } from "../stream/events/client.js";

const base = document.body.dataset.base;
const content = document.getElementById("content");

// Pages that are looked at ask for themselves again, unless somebody is about to do something there.

const EVERY = 5000;
const isBusy = () => content.contains(document.activeElement) && document.activeElement.matches("input, select, textarea, button");

async function refresh() {
  if (document.hidden || isBusy()) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("content");
    if (!fresh || isBusy()) return;
    const places = [...content.querySelectorAll(".table")].map((table) => table.scrollLeft);
    if (!("refresh" in fresh.dataset)) clearInterval(again);
    content.replaceChildren(...fresh.childNodes);
    content.querySelectorAll(".table").forEach((table, at) => (table.scrollLeft = places[at] ?? 0));
    content.classList.remove("stale");
  } catch {
    content.classList.add("stale");
  }
}

document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

const again = "refresh" in content.dataset ? setInterval(refresh, EVERY) : null;

// Keys: 1 to 7 lead to the screens, / to the search.

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const screen = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
  if (screen) screen.click();
  if (event.key === "/") {
    event.preventDefault();
    const search = document.querySelector("[data-search], form[role=search] input");
    if (search) search.focus();
    else location.href = `${base}/event`;
  }
});

// Live.

const MOST = 200;
const live = document.getElementById("live");

/** As text, always: what a user wrote is no HTML. */
function cell(row, text, name) {
  const made = row.insertCell();
  made.textContent = text;
  made.title = text;
  if (name) made.className = name;
  return made;
}

function link(id) {
  const made = document.createElement("a");
  made.href = `${base}/event/${encodeURIComponent(id)}`;
  made.className = "id";
  made.title = id;
  made.textContent = `…${id.slice(-12)}`;
  return made;
}

function payload(event) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const whole = document.createElement("pre");
  summary.textContent = JSON.stringify(event.payload).slice(0, 160);
  details.append(summary, whole);
  details.addEventListener("toggle", () => (whole.textContent = JSON.stringify(event, null, 2)), { once: true });
  return details;
}

function show(rows, event) {
  const row = rows.insertRow(0);
  row.className = "new";
  cell(row, event.ts.slice(11, 23)).title = event.ts;
  cell(row, event.kind);
  cell(row, event.keys.join(", "));
  cell(row, (event.changed ?? []).join(", ") || "–");
  cell(row, "").append(link(event.event_id));
  cell(row, "", "text").append(payload(event));
  while (rows.rows.length > MOST) rows.deleteRow(-1);
}

if (live) {
  const rows = live.tBodies[0];
  const status = document.getElementById("live-status");
  const pause = document.getElementById("live-pause");
  const filter = document.getElementById("live-filter");
  let held = [];
  const isPaused = () => pause.getAttribute("aria-pressed") === "true";
  const stream = new EventStream(`${base}/stream`, {
    cursor: live.dataset.cursor,
    onStatus: (now) => {
      status.textContent = now;
      status.classList.toggle("good", now === "open");
    },
  });
  stream.subscribe("*", (event) => {
    if (!isPaused()) return show(rows, event);
    held = [...held.slice(1 - MOST), event];
    pause.textContent = `Resume (${held.length})`;
  });
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!isPaused()));
    pause.textContent = isPaused() ? "Resume" : "Pause";
    if (!isPaused()) held.splice(0).forEach((event) => show(rows, event));
  });
  filter.addEventListener("submit", (event) => {
    event.preventDefault();
    const { model, key } = Object.fromEntries(new FormData(filter));
    rows.replaceChildren();
    stream.select({ models: model ? [model] : [], keys: key.trim() ? [key.trim()] : [] });
  });
}
