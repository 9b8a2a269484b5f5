import assert from "node:assert/strict";
import { test } from "node:test";

import { initialState } from "../../services/gateway/dashboard/store.js";

const EVIL = `<img src=x onerror=alert(1)>"'`;
const NAMES = ["alerts", "chat", "connect", "devices", "downloads", "hub", "instances", "key", "library", "logs", "models", "toasts", "top"];
const views = await Promise.all(NAMES.map((name) => import(`../../services/gateway/dashboard/views/${name}.js`)));

const evilState = {
  ...initialState,
  loaded: true,
  origin: EVIL,
  models: { m: { name: EVIL, aliases: [EVIL], mode: EVIL, source: { quant: EVIL } }, c: { name: `${EVIL}2`, aliases: [] } },
  instances: {
    a: { instance: EVIL, model: EVIL, node: EVIL, engine: EVIL, state: "failed", error: `${EVIL}\n${EVIL}`, changed_at: 1 },
    b: { instance: "b", model: EVIL, node: EVIL, engine: EVIL, state: EVIL, changed_at: 2, engine_pid: 7, reserved: [{ device: EVIL, predicted_bytes: 1 }] },
  },
  waiting: { m: { model: EVIL, reason: EVIL, since: 1 } },
  nodes: { n: { node: EVIL, version: EVIL, engines: [{ engine: EVIL, version: EVIL }, { engine: EVIL, problem: EVIL }], workers: [{ worker: EVIL, model: EVIL, memory_bytes: 1 }] } },
  devices: { d: { node: EVIL, device: EVIL, kind: EVIL, name: EVIL, memory_total_bytes: 2, memory_used_bytes: 1, processes: [{ pid: 7, instance: "b" }], simulated: true, throttled_by: [EVIL], temperature_c: 50 } },
  adapters: { a: { node: EVIL, adapter: EVIL, problem: EVIL } },
  activity: { b: { instance: "b", sampled_at: 9, completion_tokens_per_s: 3, prompt_tokens_per_s: 1, kv_used_ratio: 0.5 } },
  trends: { b: { completion_tokens_per_s: [[8, 1], [9, 2]] } },
  downloads: { d: { download: EVIL, reference: EVIL, model: `${EVIL}3`, state: "failed", error: { message: EVIL }, changed_at: 1, created_at: 1, bytes_done: 0 } },
  alert_states: {
    a: { alert: EVIL, rule: EVIL, labels: { node: EVIL }, state: "firing", severity: EVIL, sentence: EVIL, since: 1 },
    b: { alert: "b", rule: EVIL, labels: {}, state: "firing", severity: "info", sentence: EVIL, since: 1, silenced: "s" },
  },
  silences: { s: { silence: "s", reason: EVIL, until: 9 } },
  hub: {
    found: [{ repo: EVIL, task: EVIL, formats: [EVIL], models: [EVIL], gated: true }],
    offer: { repo: EVIL, mode: EVIL, architecture: EVIL, license: EVIL, problem: EVIL, choices: [{ label: EVIL, reference: EVIL, models: [EVIL], fits: [{ sentence: EVIL }] }] },
  },
  library: { e: { node: EVIL, store: EVIL, entry: EVIL, path: EVIL, name: EVIL, format: EVIL, size_bytes: 1, modified_at: 1, facts: { quant: EVIL, architecture: EVIL }, used_by: [EVIL], verified: EVIL, description: EVIL, description_revision: EVIL, problem: EVIL, mmproj: EVIL } },
  stores: { s: { node: EVIL, store: EVIL, path: EVIL, total_bytes: 2, free_bytes: 1, used_bytes: 1, problem: EVIL } },
  trash: { t: { node: EVIL, store: EVIL, item: EVIL, name: EVIL, path: EVIL, size_bytes: 1, trashed_at: 1 } },
  jobs: { j: { job: EVIL, kind: EVIL, node: EVIL, store: EVIL, subject: EVIL, state: "running", bytes_done: 1, bytes_total: 2 } },
  logs: { instance: EVIL, lines: [{ at: 1, text: EVIL, id: 0 }], next: 1, follow: true },
  chat: { model: null, busy: false, turns: [{ role: "user", text: EVIL }, { role: "assistant", text: EVIL, thinking: EVIL, note: EVIL, error: EVIL, stats: EVIL }] },
  toasts: [{ id: 1, tone: "bad", text: EVIL }],
};

test("no view lets text become markup", () => {
  for (const { view } of views) assert.ok(!String(view(evilState)).includes("<img"), view.name);
});

test("every view can show an empty yard, before and after the first snapshot", () => {
  for (const { view } of views) {
    for (const state of [initialState, { ...initialState, loaded: true }]) assert.doesNotThrow(() => view(state));
  }
});

test("no view needs what the content security policy forbids", () => {
  for (const { view } of views) assert.doesNotMatch(String(view(evilState)), /<[^>]*\s(style|on\w+)="/);
});

test("every view names parts of the state that exist", () => {
  const state = { ...initialState, origin: "" };
  for (const { needs } of views) for (const path of needs) assert.ok(path.split(".")[0] in state, path);
});

test("a loading model shows how far it is where its engine tells", () => {
  const coming = (progress) => ({
    ...initialState,
    loaded: true,
    models: { m: { name: "m", path: "m" } },
    instances: { i: { instance: "i", model: "m", node: "n", engine: "e", state: "loading", changed_at: 1, progress } },
  });
  const told = views.map(({ view }) => String(view({ ...coming(0.42), origin: "" }))).join("");
  assert.equal(told.match(/42 %/g).length, 2, "at the model and at the instance");
  assert.match(told, /value="0.42"/);
  const untold = views.map(({ view }) => String(view({ ...coming(null), origin: "" }))).join("");
  assert.doesNotMatch(untold, /NaN|null| %/);
});

test("a download offers what can be done with it, and tells why nothing arrives", () => {
  const one = (state, more) => ({
    ...initialState, loaded: true,
    downloads: { d: { download: "d", reference: "r", model: "r", state, changed_at: 1, created_at: 1, bytes_done: 0, ...more } },
  });
  const text = (state, more) => String(views[NAMES.indexOf("downloads")].view(one(state, more)));
  const verbs = (state) => [...text(state).matchAll(/data-verb="(\w+)"/g)].map(([, verb]) => verb);
  assert.deepEqual(verbs("transferring"), ["pause", "cancel"]);
  assert.deepEqual(verbs("queued"), ["move", "pause", "cancel"]);
  assert.deepEqual(verbs("paused"), ["resume", "cancel"]);
  assert.deepEqual(verbs("failed"), ["retry", "forget"]);
  assert.deepEqual(verbs("finished"), ["forget"]);
  assert.match(text("transferring", { problem: "The hub <answered> 429." }), /The hub &lt;answered&gt; 429\./);
});

test("an empty yard teaches the next step", () => {
  const texts = Object.fromEntries(NAMES.map((name, index) => [name, String(views[index].view({ ...initialState, loaded: true }))]));
  assert.match(texts.downloads, /yard pull REPO:QUANT/);
  assert.match(texts.models, /yard pull /);
  assert.match(String(views[NAMES.indexOf("connect")].view({ ...initialState, origin: "http://yard:8080" })), /http:\/\/yard:8080\/v1/);
});

test("a model that cannot be had yet says why", () => {
  const wait = { model: "big", reason: "its memory is held by <b>small</b>", since: 990 };
  const state = {
    ...initialState,
    loaded: true,
    now: 1000,
    models: { big: { name: "big" } },
    waiting: { big: wait },
  };
  const { view } = views[NAMES.indexOf("models")];
  const markup = String(view(state));
  assert.match(markup, /Asked for 10 s ago: its memory is held by &lt;b&gt;small/);
  assert.doesNotMatch(String(view({ ...state, waiting: {} })), /Asked for/);
});

test("a refused model shows why it cannot run, and when requests are accepted again", () => {
  const refused = { error: "It cannot run here: it needs <b>9 GiB</b>.", retry_at: 1005 };
  const state = {
    ...initialState,
    loaded: true,
    now: 1000,
    models: { big: { name: "big" } },
    waiting: { big: { model: "big", reason: "it needs 9 GiB", since: 990, refused } },
  };
  const { view } = views[NAMES.indexOf("models")];
  const markup = String(view(state));
  assert.match(markup, /It cannot run here: it needs &lt;b&gt;9 GiB/);
  assert.match(markup, /in 5.0 s/);
  assert.match(markup, /Try again/);
  assert.doesNotMatch(markup, /Read its log/);
});

test("a search is shown with what is known, and an offer with what fits", () => {
  const hub = views.find(({ view }) => String(view(initialState)).includes("Find a model"));
  const found = [{ repo: "o/n", task: "text-generation", formats: ["gguf"], downloads: 12_345, n_params: 8e9, models: ["m"] }];
  const listed = String(hub.view({ ...initialState, hub: { found, offer: null } }));
  for (const word of ["o/n", "12k downloads", "8.0B weights", "Here as m."]) assert.ok(listed.includes(word), word);
  const fits = [{ devices: ["GPU-1"], sentence: "fits on it" }, { devices: [], sentence: "does not fit" }];
  const choices = [{ label: "Q4_K_M", reference: "o/n:Q4_K_M", size_bytes: 2 ** 30, is_default: true, fits }];
  const shown = String(hub.view({ ...initialState, hub: { found, offer: { repo: "o/n", choices } } }));
  assert.match(shown, /fit good">fits on it/);
  assert.match(shown, /fit bad">does not fit/);
  assert.match(shown, /data-action="hub-pull"\s+data-reference="o\/n:Q4_K_M"/);
});

test("the library sorts by bytes and not by how they are written", () => {
  const entry = (name, size_bytes, modified_at) => ({ node: "n", store: "s", entry: name, path: name, name, format: "gguf", size_bytes, modified_at, facts: {}, used_by: [] });
  const library = { a: entry("two-mb", 2e6, 3), b: entry("ten-gb", 1e10, 2), c: entry("mid", 5e8, 1) };
  const { view } = views[NAMES.indexOf("library")];
  const order = (sort) => [...String(view({ ...initialState, loaded: true, library, sort })).matchAll(/<th scope="row">(\S+)/g)].map((match) => match[1]);
  assert.deepEqual(order("size"), ["ten-gb", "mid", "two-mb"]);
  assert.deepEqual(order("date"), ["two-mb", "ten-gb", "mid"]);
  assert.deepEqual(order("name"), ["mid", "ten-gb", "two-mb"]);
});

test("a deletion asks first, and says who needs the model", () => {
  const library = { k: { node: "n", store: "s", entry: "e", path: "m.gguf", name: "m", format: "gguf", size_bytes: 1024, modified_at: 1, facts: {}, used_by: ["chat"] } };
  const { view } = views[NAMES.indexOf("library")];
  const markup = (open) => String(view({ ...initialState, loaded: true, library, open }));
  assert.doesNotMatch(markup(null), /data-action="delete"/);
  assert.match(markup({ entry: "n.s.e", what: "delete" }), /<form[^>]*data-action="delete"[\s\S]*though chat need it/);
});

test("among many models words find some, by name and alias", () => {
  const models = Object.fromEntries([...Array(30).keys()].map((n) => [`m${n}`, { name: `org/m${n}`, aliases: [`a${n}`] }]));
  const { view } = views[NAMES.indexOf("models")];
  const shown = (filter) => [...String(view({ ...initialState, loaded: true, models, filter })).matchAll(/data-model="([^"]*)"/g)].map(([, name]) => name);
  assert.equal(shown("").length, 30);
  assert.deepEqual(shown("ORG A17 "), ["org/m17"]);
  assert.deepEqual(shown("nothing"), []);
  const few = { ...initialState, loaded: true, models: { m: { name: "m" } } };
  assert.doesNotMatch(String(view(few)), /type="search"/, "what is seen at a glance needs no search");
});

test("every download that is not over is shown, and the newest of those that are", () => {
  const one = (n, state) => [`d${n}`, { download: `d${n}`, model: `m${n}`, reference: "r", state, created_at: n, changed_at: n, bytes_done: 0 }];
  const numbers = [...Array(40).keys()];
  const downloads = Object.fromEntries(numbers.map((n) => one(n, n < 20 ? "queued" : "finished")));
  const text = String(views[NAMES.indexOf("downloads")].view({ ...initialState, loaded: true, downloads }));
  assert.match(text, /20 running/);
  assert.equal([...text.matchAll(/<li class="card download queued"/g)].length, 20);
  assert.equal([...text.matchAll(/<li class="card download finished"/g)].length, 8);
});
