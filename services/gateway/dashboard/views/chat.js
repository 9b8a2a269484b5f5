/** "Try it": a small conversation with a model, over the same API that any client uses. */

import { empty, heading } from "../components/panel.js";
import { html } from "../html.js";
import { chatModel, chatModels, modelStatus } from "../selectors.js";

export const needs = ["loaded", "models", "instances", "chat"];

const STARTERS = ["Tell me about the sea in three sentences.", "Why is the sky blue?", "Write a haiku about trains."];

export function view(state) {
  const model = chatModel(state);
  const { turns, busy } = state.chat;
  const canClear = turns.length > 0 && !busy;
  return html`${heading("chat", "Try it")}
    <div class="chat-bar">
      <label><span class="sr">Model</span>
        <select data-change="chatModel" data-value="${model ?? ""}" ${!model && html`disabled`}>
          ${!model && html`<option value="">no model yet</option>`}
          ${chatModels(state).map((spec) => option(spec, model, state))}
        </select>
      </label>
      ${canClear && html`<button type="button" class="small" data-action="chat-clear">New conversation</button>`}
    </div>
    <div class="turns" role="log" aria-label="Conversation" aria-busy="${String(busy)}" data-scroll="chat" tabindex="0">
      ${turns.length === 0 ? emptyState(model) : turns.map(turnView)}
    </div>
    ${form(model, busy)}`;
}

function option(spec, chosen, state) {
  const suffix = modelStatus(state, spec.name).state !== "ready" && " (not loaded)";
  return html`<option value="${spec.name}" ${spec.name === chosen && html`selected`}>${spec.name}${suffix}</option>`;
}

function emptyState(model) {
  if (!model) return empty("No chat model yet", html`<p>As soon as a chat model is here, you can talk to it.</p>`);
  const buttons = STARTERS.map(
    (text) => html`<button type="button" class="starter" data-action="chat-send" data-text="${text}">${text}</button>`,
  );
  return html`<div class="empty"><p class="empty-title">Say hello to ${model}</p>
    <p class="starters">${buttons}</p></div>`;
}

function turnView(turn, index) {
  if (turn.role === "user") return html`<div class="turn user" data-key="${index}"><p>${turn.text}</p></div>`;
  const isWaiting = !turn.text && !turn.error && !turn.stats;
  return html`<div class="turn assistant" data-key="${index}">
    ${turn.thinking && html`<details class="thinking"><summary>Thoughts</summary><p>${turn.thinking}</p></details>`}
    ${turn.text && html`<p>${turn.text}</p>`}
    ${isWaiting && html`<p class="muted waiting-text">${turn.note ?? (turn.thinking ? "Thinking …" : "Waiting for the first word …")}</p>`}
    ${!isWaiting && turn.note && html`<p class="muted">${turn.note}</p>`}
    ${turn.error && html`<p class="problem-text" role="alert">${turn.error}</p>`}
    ${turn.stats && html`<p class="stats muted">${turn.stats}</p>`}
  </div>`;
}

function form(model, busy) {
  return html`<form class="ask" data-action="chat-send">
    <label class="grow"><span class="sr">Message</span>
      <textarea name="prompt" rows="2" required data-enter="submit" ${!model && html`disabled`}
        placeholder="${model ? "Message (Enter sends, Shift+Enter breaks the line)" : "Pull a model first"}"></textarea>
    </label>
    ${busy
      ? html`<button type="button" data-key="stop" class="stop" data-action="chat-stop">Stop</button>`
      : html`<button type="submit" data-key="send" class="primary" ${!model && html`disabled`}>Send</button>`}
  </form>`;
}
