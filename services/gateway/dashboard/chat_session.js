/** One streamed chat at a time: sends a message, dispatches the deltas, and can be stopped. */

import { chat } from "./api.js";
import { conversation, readChunk } from "./chat.js";
import { duration, plural } from "./format.js";
import { chatModel } from "./selectors.js";

const INCOMPLETE = "The answer ended before it was complete.";

const seconds = () => performance.now() / 1000;

export class ChatSession {
  #abort = null;

  constructor({ store, onUnauthorized, onAnswer }) {
    Object.assign(this, { store, onUnauthorized, onAnswer });
  }

  stop() {
    this.#abort?.abort();
  }

  async send(question) {
    const model = chatModel(this.store.state);
    if (!model) return;
    const messages = conversation(this.store.state.chat.turns, question);
    this.store.dispatch("chatSend", { text: question, model });
    this.#abort = new AbortController();
    try {
      this.store.dispatch("chatEnd", { stats: await this.#stream(model, messages, this.#abort.signal) });
    } catch (error) {
      this.#showError(error);
    }
    this.onAnswer();
  }

  async #stream(model, messages, signal) {
    const sentAt = seconds();
    let firstAt = null;
    let tokens = null;
    for await (const event of chat(model, messages, signal)) {
      if (event.comment) this.store.dispatch("chatNote", { note: event.comment });
      if (event.data === "[DONE]") return describe(sentAt, firstAt, seconds(), tokens);
      if (!event.data) continue;
      const delta = readChunk(JSON.parse(event.data));
      if (delta.error) throw new Error(delta.error);
      tokens = delta.tokens ?? tokens;
      if (!delta.text && !delta.thinking) continue;
      firstAt ??= seconds();
      this.store.dispatch("chatDelta", delta);
    }
    throw new Error(INCOMPLETE);
  }

  #showError(error) {
    if (error.name === "AbortError") this.store.dispatch("chatEnd", { note: "Stopped." });
    // A fetch body rejects with a TypeError when the connection is lost.
    else this.store.dispatch("chatEnd", { error: error instanceof TypeError ? INCOMPLETE : error.message });
    if (error.status === 401) this.onUnauthorized();
  }
}

function describe(sentAt, firstAt, endedAt, tokens) {
  if (firstAt === null) return "The model sent an empty answer.";
  const parts = [`first word after ${duration(firstAt - sentAt)}`];
  const streamS = endedAt - firstAt;
  // A single token or a single delta has no rate.
  if (tokens > 1 && streamS > 0.05) parts.push(`${((tokens - 1) / streamS).toFixed(0)} tokens/s`);
  if (tokens) parts.push(plural(tokens, "token"));
  return parts.join(" · ");
}
