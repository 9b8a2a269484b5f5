/** Wires the page: the feed updates the store, the store repaints panels, DOM events call actions. */

import { createActions } from "./actions.js";
import { command, loadKey, protocols } from "./api.js";
import { Feed } from "./feed.js";
import { atBottom, Painter } from "./paint.js";
import { createStore } from "./store.js";
import { ChatSession } from "./chat_session.js";
import * as accounts from "./views/accounts.js";
import { METRICS, SPAN_S } from "./trends.js";
import * as alerts from "./views/alerts.js";
import * as chat from "./views/chat.js";
import * as connect from "./views/connect.js";
import * as devices from "./views/devices.js";
import * as downloads from "./views/downloads.js";
import * as hub from "./views/hub.js";
import * as instances from "./views/instances.js";
import * as key from "./views/key.js";
import * as library from "./views/library.js";
import * as logs from "./views/logs.js";
import * as models from "./views/models.js";
import * as toasts from "./views/toasts.js";
import * as top from "./views/top.js";

const PANELS = { top, alerts, connect, key, models, downloads, hub, chat, devices, library, accounts, instances, logs, toasts };
const FROM_GATEWAY = ["snapshot", "delta", "log", "broker"];
const USAGE_EVERY_MS = 15_000;
const WEEK_S = 6 * 86_400;
const TOAST_MS = { good: 3_000, bad: 9_000 };

const painter = new Painter(PANELS, () => ({ ...store.state, origin: location.origin }));
const store = createStore(() => painter.schedule());

let toastCount = 0;
function toast(tone, text) {
  const id = (toastCount += 1);
  store.dispatch("toast", { id, tone, text });
  setTimeout(() => store.dispatch("dismiss", { id }), TOAST_MS[tone]);
}

function setConnection(connection) {
  const locked = connection.status === "locked";
  document.body.classList.toggle("locked", locked);
  document.body.classList.toggle("stale", connection.status !== "open");
  store.dispatch("connection", { ...connection, refused: locked && loadKey() !== null });
  if (connection.status !== "open") return;
  if (store.state.logs.instance) feed.send({ type: "logs", instance: store.state.logs.instance });
}

function lock() {
  feed.close();
  setConnection({ status: "locked" });
}

function showError(error) {
  if (error.status === 401) lock();
  else toast("bad", error.message);
}

async function refreshUsage() {
  if (document.hidden || store.state.connection.status !== "open") return;
  // Usage is optional: an unreachable monitor shows no error.
  const report = await command("usage", "query", {}).catch(() => null);
  if (report) store.dispatch("usage", report);
  const week = await command("usage", "query", { step: "day", last_s: WEEK_S }).catch(() => null);
  if (week) store.dispatch("week", week);
}

async function loadHistory() {
  // Points before the snapshot; later ones arrive with the feed.
  const query = { names: METRICS, since: Date.now() / 1000 - SPAN_S, step_s: 10 };
  const history = await command("metrics", "query", query).catch(() => null);
  if (history) store.dispatch("history", history);
}

const feed = new Feed({
  url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`,
  protocols: () => protocols(loadKey()),
  onStatus: setConnection,
  onMessage(message) {
    if (message.error) toast("bad", message.error.message);
    else if (FROM_GATEWAY.includes(message.type)) store.dispatch(message.type, message.data);
    // The first snapshot shows that the key was accepted.
    if (message.type === "snapshot") refreshUsage().then(loadHistory);
  },
});
const chatSession = new ChatSession({ store, onUnauthorized: lock, onAnswer: refreshUsage });
const actions = createActions({ store, feed, chatSession, toast, showError });

document.addEventListener("click", (event) => {
  const element = event.target.closest("button[data-action]");
  if (element && element.getAttribute("aria-disabled") !== "true") actions[element.dataset.action](element.dataset);
});

document.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  actions[form.dataset.action](Object.fromEntries(new FormData(form)), form);
});

document.addEventListener("change", ({ target }) => {
  if (target.dataset.change) actions[target.dataset.change]({ value: target.value });
});

document.addEventListener("input", ({ target }) => {
  if (target.dataset.input) actions[target.dataset.input]({ value: target.value });
});

document.addEventListener("keydown", (event) => {
  const submits = event.target.dataset?.enter === "submit" && event.key === "Enter";
  // During IME composition Enter picks a word.
  if (!submits || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  event.target.form.requestSubmit();
});

// Scroll events do not bubble, but they can be captured.
document.addEventListener(
  "scroll",
  ({ target }) => {
    if (target.dataset?.scroll === "logs") store.dispatch("follow", { follow: atBottom(target) });
  },
  true,
);

window.addEventListener("online", () => feed.connect());
setInterval(() => store.dispatch("tick", { now: Date.now() / 1000 }), 1000);
setInterval(refreshUsage, USAGE_EVERY_MS);

store.dispatch("tick", { now: Date.now() / 1000 });
store.dispatch("hasKey", { hasKey: loadKey() !== null });
feed.connect();
