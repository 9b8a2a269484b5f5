/** The "try it" conversation: its part of the state, and the messages sent to the model. Pure. */

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

  chatSend(state, { text, model }) {
    const question = { role: "user", text };
    const reply = { role: "assistant", model, text: "", thinking: "", note: null, error: null, stats: null };
    return { ...state, chat: { ...state.chat, busy: true, turns: [...state.chat.turns, question, reply] } };
  },

  chatDelta(state, { text = "", thinking = "" }) {
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

/** The messages for the model. A turn without an answer is left out: chat templates require alternating roles. */
export function conversation(turns, question) {
  const messages = [];
  for (let index = 0; index + 1 < turns.length; index += 2) {
    const [user, assistant] = [turns[index], turns[index + 1]];
    if (!assistant.text) continue;
    messages.push({ role: "user", content: user.text }, { role: "assistant", content: assistant.text });
  }
  return [...messages, { role: "user", content: question }];
}

/** Text, thinking, token count and error of one chunk of a chat completion stream. */
export function readChunk(chunk) {
  const delta = chunk.choices?.[0]?.delta ?? {};
  return {
    text: delta.content ?? "",
    thinking: delta.reasoning_content ?? delta.reasoning ?? "",
    tokens: chunk.usage?.completion_tokens ?? null,
    error: chunk.error?.message ?? null,
  };
}
