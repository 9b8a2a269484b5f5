import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { createStore } from "../../services/gateway/dashboard/store.js";
import { ChatSession } from "../../services/gateway/dashboard/chat_session.js";

const chunk = (content) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`;
const realFetch = globalThis.fetch;
let store, chatSession, request, locked;

beforeEach(() => {
  globalThis.sessionStorage = { getItem: () => "secret" };
  store = createStore(() => {});
  store.dispatch("snapshot", { models: { demo: { name: "demo" } } });
  locked = false;
  chatSession = new ChatSession({ store, onUnauthorized: () => (locked = true), onAnswer: () => {} });
});

afterEach(() => {
  globalThis.fetch = realFetch;
  delete globalThis.sessionStorage;
});

function respondWith(body, init) {
  globalThis.fetch = async (path, options) => {
    request = { path, headers: options.headers, body: JSON.parse(options.body) };
    return new Response(typeof body === "function" ? body(options.signal) : body, init);
  };
}

const last = () => store.state.chat.turns.at(-1);

test("an answer streams in and ends with its statistics", async () => {
  respondWith(`: 2nd in line\n\n${chunk("Hel")}${chunk("lo")}data: {"choices":[],"usage":{"completion_tokens":2}}\n\ndata: [DONE]\n\n`);
  await chatSession.send("hi");
  assert.deepEqual([last().text, last().error, store.state.chat.busy], ["Hello", null, false]);
  assert.match(last().stats, /^first word after .* · 2 tokens$/);
  assert.equal(request.headers.Authorization, "Bearer secret");
  assert.deepEqual(request.body.messages, [{ role: "user", content: "hi" }]);
});

test("an answer without [DONE] is an error", async () => {
  respondWith(chunk("Hel"));
  await chatSession.send("hi");
  assert.deepEqual([last().text, last().error], ["Hel", "The answer ended before it was complete."]);
});

test("an error event in the stream keeps the text before it", async () => {
  respondWith(`${chunk("Hel")}data: {"error":{"message":"The engine died."}}\n\n`);
  await chatSession.send("hi");
  assert.deepEqual([last().text, last().error], ["Hel", "The engine died."]);
});

test("a refusal shows its error message, and a missing key locks the page", async () => {
  respondWith('{"error":{"message":"No valid key."}}', { status: 401 });
  await chatSession.send("hi");
  assert.deepEqual([last().error, locked, store.state.chat.busy], ["No valid key.", true, false]);
});

test("stop keeps the text so far", async () => {
  respondWith((signal) => new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(chunk("Hel")));
      signal.addEventListener("abort", () => controller.error(signal.reason));
    },
  }));
  const sending = chatSession.send("hi");
  while (!last()?.text) await new Promise((resolve) => setTimeout(resolve, 1));
  chatSession.stop();
  await sending;
  assert.deepEqual([last().text, last().note, last().error], ["Hel", "Stopped.", null]);
});
