/** Server-sent events from a fetch body; EventSource cannot POST. */

/** Complete events of `buffer`; `rest` is the incomplete remainder. */
export function takeEvents(buffer) {
  // A lone CR at the end may be the first half of a CRLF.
  const blocks = buffer.replace(/\r\n/g, "\n").split("\n\n");
  const rest = blocks.pop();
  return { events: blocks.map(parseEvent).filter(Boolean), rest };
}

function parseEvent(block) {
  const data = [];
  let comment = null;
  for (const line of block.split("\n")) {
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    else if (line.startsWith(":")) comment = line.slice(1).trim();
  }
  if (data.length) return { data: data.join("\n") };
  return comment ? { comment } : null;
}

export async function* readEvents(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      buffer += done ? `${decoder.decode()}\n\n` : decoder.decode(value, { stream: true });
      const { events, rest } = takeEvents(buffer);
      buffer = rest;
      yield* events;
      if (done) return;
    }
  } finally {
    // A reader that stops early closes the connection, which cancels the request.
    reader.cancel().catch(() => {});
  }
}
