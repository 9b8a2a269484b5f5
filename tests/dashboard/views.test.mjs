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
    results: [{ repo: EVIL, task: EVIL, formats: [EVIL], models: [EVIL], gated: true }],
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

test("no view renders text as markup", () => {
  for (const { view } of views) assert.ok(!String(view(evilState)).includes("<img"), view.name);
});

test("every view can render an empty yard, before and after the first snapshot", () => {
  for (const { view } of views) {
    for (const state of [initialState, { ...initialState, loaded: true }]) assert.doesNotThrow(() => view(state));
  }
});

test("no view has inline styles or handlers, which the content security policy forbids", () => {
  for (const { view } of views) assert.doesNotMatch(String(view(evilState)), /<[^>]*\s(style|on\w+)="/);
});

test("every view needs existing parts of the state", () => {
  const state = { ...initialState, origin: "" };
  for (const { needs } of views) for (const path of needs) assert.ok(path.split(".")[0] in state, path);
});

test("a loading model shows progress where its engine reports it", () => {
  const loading = (progress) => ({
    ...initialState,
    loaded: true,
    models: { m: { name: "m", path: "m" } },
    instances: { i: { instance: "i", model: "m", node: "n", engine: "e", state: "loading", changed_at: 1, progress } },
  });
  const withProgress = views.map(({ view }) => String(view({ ...loading(0.42), origin: "" }))).join("");
  assert.equal(withProgress.match(/42 %/g).length, 2, "at the model and at the instance");
  assert.match(withProgress, /value="0.42"/);
  const without = views.map(({ view }) => String(view({ ...loading(null), origin: "" }))).join("");
  assert.doesNotMatch(without, /NaN|null| %/);
});

test("a download has the buttons of its state and shows its problem", () => {
  const withDownload = (state, more) => ({
    ...initialState, loaded: true,
    downloads: { d: { download: "d", reference: "r", model: "r", state, changed_at: 1, created_at: 1, bytes_done: 0, ...more } },
  });
  const text = (state, more) => String(views[NAMES.indexOf("downloads")].view(withDownload(state, more)));
  const verbs = (state) => [...text(state).matchAll(/data-verb="(\w+)"/g)].map(([, verb]) => verb);
  assert.deepEqual(verbs("transferring"), ["pause", "cancel"]);
  assert.deepEqual(verbs("queued"), ["move", "pause", "cancel"]);
  assert.deepEqual(verbs("paused"), ["resume", "cancel"]);
  assert.deepEqual(verbs("failed"), ["retry", "forget"]);
  assert.deepEqual(verbs("finished"), ["forget"]);
  assert.match(text("transferring", { problem: "The hub <answered> 429." }), /The hub &lt;answered&gt; 429\./);
});

test("empty panels teach the next step", () => {
  const texts = Object.fromEntries(NAMES.map((name, index) => [name, String(views[index].view({ ...initialState, loaded: true }))]));
  assert.match(texts.downloads, /yard pull REPO:QUANT/);
  assert.match(texts.models, /yard pull /);
  assert.match(String(views[NAMES.indexOf("connect")].view({ ...initialState, origin: "http://yard:8080" })), /http:\/\/yard:8080\/v1/);
});

test("a waiting model shows the reason", () => {
  const waiting = { model: "big", reason: "its memory is held by <b>small</b>", since: 990 };
  const state = {
    ...initialState,
    loaded: true,
    now: 1000,
    models: { big: { name: "big" } },
    waiting: { big: waiting },
  };
  const { view } = views[NAMES.indexOf("models")];
  const markup = String(view(state));
  assert.match(markup, /Requested 10 s ago: its memory is held by &lt;b&gt;small/);
  assert.doesNotMatch(String(view({ ...state, waiting: {} })), /Requested/);
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

test("search results show their facts, and an offer what fits", () => {
  const hub = views.find(({ view }) => String(view(initialState)).includes("Find a model"));
  const results = [{ repo: "o/n", task: "text-generation", formats: ["gguf"], downloads: 12_345, n_params: 8e9, models: ["m"] }];
  const listed = String(hub.view({ ...initialState, hub: { results, offer: null } }));
  for (const text of ["o/n", "12k downloads", "8.0B weights", "Here as m."]) assert.ok(listed.includes(text), text);
  const fits = [{ devices: ["GPU-1"], sentence: "fits on it" }, { devices: [], sentence: "does not fit" }];
  const choices = [{ label: "Q4_K_M", reference: "o/n:Q4_K_M", size_bytes: 2 ** 30, is_default: true, fits }];
  const shown = String(hub.view({ ...initialState, hub: { results, offer: { repo: "o/n", choices } } }));
  assert.match(shown, /fit good">fits on it/);
  assert.match(shown, /fit bad">does not fit/);
  assert.match(shown, /data-action="hub-pull"\s+data-reference="o\/n:Q4_K_M"/);
});

test("the library sorts by size in bytes, not by its text", () => {
  const entry = (name, size_bytes, modified_at) => ({ node: "n", store: "s", entry: name, path: name, name, format: "gguf", size_bytes, modified_at, facts: {}, used_by: [] });
  const library = { a: entry("two-mb", 2e6, 3), b: entry("ten-gb", 1e10, 2), c: entry("mid", 5e8, 1) };
  const { view } = views[NAMES.indexOf("library")];
  const order = (sort) => [...String(view({ ...initialState, loaded: true, library, sort })).matchAll(/<th scope="row">(\S+)/g)].map((match) => match[1]);
  assert.deepEqual(order("size"), ["ten-gb", "mid", "two-mb"]);
  assert.deepEqual(order("date"), ["two-mb", "ten-gb", "mid"]);
  assert.deepEqual(order("name"), ["mid", "ten-gb", "two-mb"]);
});

test("a deletion requires confirmation and shows which models use the entry", () => {
  const library = { k: { node: "n", store: "s", entry: "e", path: "m.gguf", name: "m", format: "gguf", size_bytes: 1024, modified_at: 1, facts: {}, used_by: ["chat"] } };
  const { view } = views[NAMES.indexOf("library")];
  const markup = (open) => String(view({ ...initialState, loaded: true, library, open }));
  assert.doesNotMatch(markup(null), /data-action="delete"/);
  assert.match(markup({ entry: "n.s.e", what: "delete" }), /<form[^>]*data-action="delete"[\s\S]*though chat need it/);
});

test("the filter matches names and aliases of models", () => {
  const models = Object.fromEntries([...Array(30).keys()].map((n) => [`m${n}`, { name: `org/m${n}`, aliases: [`a${n}`] }]));
  const { view } = views[NAMES.indexOf("models")];
  const shown = (filter) => [...String(view({ ...initialState, loaded: true, models, filter })).matchAll(/data-model="([^"]*)"/g)].map(([, name]) => name);
  assert.equal(shown("").length, 30);
  assert.deepEqual(shown("ORG A17 "), ["org/m17"]);
  assert.deepEqual(shown("nothing"), []);
  const few = { ...initialState, loaded: true, models: { m: { name: "m" } } };
  assert.doesNotMatch(String(view(few)), /type="search"/, "few models need no filter");
});

test("all active downloads are shown, and the newest ended ones", () => {
  const download = (n, state) => [`d${n}`, { download: `d${n}`, model: `m${n}`, reference: "r", state, created_at: n, changed_at: n, bytes_done: 0 }];
  const numbers = [...Array(40).keys()];
  const downloads = Object.fromEntries(numbers.map((n) => download(n, n < 20 ? "queued" : "finished")));
  const text = String(views[NAMES.indexOf("downloads")].view({ ...initialState, loaded: true, downloads }));
  assert.match(text, /20 running/);
  assert.equal([...text.matchAll(/<li class="card download queued"/g)].length, 20);
  assert.equal([...text.matchAll(/<li class="card download finished"/g)].length, 8);
});
