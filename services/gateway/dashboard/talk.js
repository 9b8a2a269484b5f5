/** One conversation at a time with a model: asks, relays what streams back, and can be stopped. */

import { chat } from "./api.js";
import { conversation, readChunk } from "./chat.js";
import { duration, plural } from "./format.js";
import { chatModel } from "./select.js";

const BROKEN_OFF = "The answer broke off before its end.";

const seconds = () => performance.now() / 1000;

export class Talk {
  #abort = null;

  constructor({ store, onUnauthorized, onAnswered }) {
    Object.assign(this, { store, onUnauthorized, onAnswered });
  }

  stop() {
    this.#abort?.abort();
  }

  async ask(question) {
    const model = chatModel(this.store.state);
    if (!model) return;
    const messages = conversation(this.store.state.chat.turns, question);
    this.store.dispatch("chatAsk", { text: question, model });
    this.#abort = new AbortController();
    try {
      this.store.dispatch("chatEnd", { stats: await this.#stream(model, messages, this.#abort.signal) });
    } catch (error) {
      this.#explain(error);
    }
    this.onAnswered();
  }

  async #stream(model, messages, signal) {
    const asked = seconds();
    let first = null;
    let tokens = null;
    for await (const event of chat(model, messages, signal)) {
      if (event.comment) this.store.dispatch("chatNote", { note: event.comment });
      if (event.data === "[DONE]") return describe(asked, first, seconds(), tokens);
      if (!event.data) continue;
      const piece = readChunk(JSON.parse(event.data));
      if (piece.error) throw new Error(piece.error);
      tokens = piece.tokens ?? tokens;
      if (!piece.text && !piece.thinking) continue;
      first ??= seconds();
      this.store.dispatch("chatPiece", piece);
    }
    throw new Error(BROKEN_OFF);
  }

  #explain(error) {
    if (error.name === "AbortError") this.store.dispatch("chatEnd", { note: "Stopped." });
    // A TypeError is how a fetch body says that the connection is gone.
    else this.store.dispatch("chatEnd", { error: error instanceof TypeError ? BROKEN_OFF : error.message });
    if (error.status === 401) this.onUnauthorized();
  }
}

function describe(asked, first, ended, tokens) {
  if (first === null) return "The model said nothing.";
  const parts = [`first word after ${duration(first - asked)}`];
  // One token has no speed, and neither has what came in one piece.
  if (tokens > 1 && ended - first > 0.05) parts.push(`${((tokens - 1) / (ended - first)).toFixed(0)} tokens/s`);
  if (tokens) parts.push(plural(tokens, "token"));
  return parts.join(" · ");
}
