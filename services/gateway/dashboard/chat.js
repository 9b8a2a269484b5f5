/** The "try it" conversation: its part of the state, and what of it is sent to the model. Pure. */

export const emptyChat = { model: null, turns: [], busy: false };

function changeLast(state, change) {
  const { turns } = state.chat;
  if (turns.length === 0) return state;
  const last = { ...turns.at(-1), ...change(turns.at(-1)) };
  return { ...state, chat: { ...state.chat, turns: [...turns.slice(0, -1), last] } };
}

export const chatHandlers = {
  chatModel(state, { model }) {
    return { ...state, chat: { ...state.chat, model } };
  },

  chatAsk(state, { text, model }) {
    const question = { role: "user", text };
    const answer = { role: "assistant", model, text: "", thinking: "", note: null, error: null, stats: null };
    return { ...state, chat: { ...state.chat, busy: true, turns: [...state.chat.turns, question, answer] } };
  },

  chatPiece(state, { text = "", thinking = "" }) {
    return changeLast(state, (turn) => ({
      text: turn.text + text,
      thinking: turn.thinking + thinking,
      note: null,
    }));
  },

  chatNote(state, { note }) {
    return changeLast(state, () => ({ note }));
  },

  chatEnd(state, { error = null, stats = null, note = null }) {
    const ended = changeLast(state, () => ({ error, stats, note }));
    return { ...ended, chat: { ...ended.chat, busy: false } };
  },

  chatClear(state) {
    return { ...state, chat: { ...emptyChat, model: state.chat.model } };
  },
};

/** The messages for the model. A question that got no answer is left out: templates want roles to alternate. */
export function conversation(turns, question) {
  const messages = [];
  for (let index = 0; index + 1 < turns.length; index += 2) {
    const [asked, answered] = [turns[index], turns[index + 1]];
    if (!answered.text) continue;
    messages.push({ role: "user", content: asked.text }, { role: "assistant", content: answered.text });
  }
  return [...messages, { role: "user", content: question }];
}

/** What one chunk of a chat completion stream says, in the words of this page. */
export function readChunk(chunk) {
  const delta = chunk.choices?.[0]?.delta ?? {};
  return {
    text: delta.content ?? "",
    thinking: delta.reasoning_content ?? delta.reasoning ?? "",
    tokens: chunk.usage?.completion_tokens ?? null,
    error: chunk.error?.message ?? null,
  };
}
