import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { createStore } from "../../services/gateway/dashboard/store.js";
import { Talk } from "../../services/gateway/dashboard/talk.js";

const piece = (content) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`;
const realFetch = globalThis.fetch;
let store, talk, asked, locked;

beforeEach(() => {
  globalThis.sessionStorage = { getItem: () => "secret" };
  store = createStore(() => {});
  store.dispatch("snapshot", { models: { demo: { name: "demo" } } });
  locked = false;
  talk = new Talk({ store, onUnauthorized: () => (locked = true), onAnswered: () => {} });
});

afterEach(() => {
  globalThis.fetch = realFetch;
  delete globalThis.sessionStorage;
});

function answerWith(body, init) {
  globalThis.fetch = async (path, options) => {
    asked = { path, headers: options.headers, body: JSON.parse(options.body) };
    return new Response(typeof body === "function" ? body(options.signal) : body, init);
  };
}

const last = () => store.state.chat.turns.at(-1);

test("an answer streams in and ends with how fast it was", async () => {
  answerWith(`: 2nd in line\n\n${piece("Hel")}${piece("lo")}data: {"choices":[],"usage":{"completion_tokens":2}}\n\ndata: [DONE]\n\n`);
  await talk.ask("hi");
  assert.deepEqual([last().text, last().error, store.state.chat.busy], ["Hello", null, false]);
  assert.match(last().stats, /^first word after .* · 2 tokens$/);
  assert.equal(asked.headers.Authorization, "Bearer secret");
  assert.deepEqual(asked.body.messages, [{ role: "user", content: "hi" }]);
});

test("an answer that ends without its end mark is not taken for a whole one", async () => {
  answerWith(piece("Hel"));
  await talk.ask("hi");
  assert.deepEqual([last().text, last().error], ["Hel", "The answer broke off before its end."]);
});

test("an error inside the stream is shown after what was said", async () => {
  answerWith(`${piece("Hel")}data: {"error":{"message":"The engine died."}}\n\n`);
  await talk.ask("hi");
  assert.deepEqual([last().text, last().error], ["Hel", "The engine died."]);
});

test("a refusal shows its own sentence, and a missing key locks the page", async () => {
  answerWith('{"error":{"message":"No valid key."}}', { status: 401 });
  await talk.ask("hi");
  assert.deepEqual([last().error, locked, store.state.chat.busy], ["No valid key.", true, false]);
});

test("stop keeps what was said so far", async () => {
  answerWith((signal) => new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(piece("Hel")));
      signal.addEventListener("abort", () => controller.error(signal.reason));
    },
  }));
  const asking = talk.ask("hi");
  while (!last()?.text) await new Promise((resolve) => setTimeout(resolve, 1));
  talk.stop();
  await asking;
  assert.deepEqual([last().text, last().note, last().error], ["Hel", "Stopped.", null]);
});
