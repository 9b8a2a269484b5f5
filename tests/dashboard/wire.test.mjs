import assert from "node:assert/strict";
import { test } from "node:test";

import { protocols } from "../../services/gateway/dashboard/api.js";
import { backoff } from "../../services/gateway/dashboard/feed.js";
import { readEvents, takeEvents } from "../../services/gateway/dashboard/sse.js";

test("only complete events are taken; the rest stays buffered", () => {
  const { events, rest } = takeEvents('data: {"a":1}\n\n: 2nd in line\n\ndata: half');
  assert.deepEqual(events, [{ data: '{"a":1}' }, { comment: "2nd in line" }]);
  assert.equal(rest, "data: half");
});

test("several data lines, both line ends, event names and empty comments", () => {
  const { events } = takeEvents("event: x\r\ndata: a\r\ndata:b\r\n\r\n:\n\n");
  assert.deepEqual(events, [{ data: "a\nb" }]);
});

test("a stream may be split anywhere, also inside a character, and end without a blank line", async () => {
  const bytes = new TextEncoder().encode("data: größe\r\n\r\ndata: [DONE]");
  for (let cut = 1; cut < bytes.length; cut += 1) {
    const stream = new ReadableStream({
      start(controller) {
        controller.enqueue(bytes.slice(0, cut));
        controller.enqueue(bytes.slice(cut));
        controller.close();
      },
    });
    const events = [];
    for await (const event of readEvents(stream)) events.push(event.data);
    assert.deepEqual(events, ["größe", "[DONE]"]);
  }
});

test("a reader that stops early closes the stream", async () => {
  let cancelled = false;
  const stream = new ReadableStream({
    pull: (controller) => controller.enqueue(new TextEncoder().encode("data: x\n\n")),
    cancel() {
      cancelled = true;
    },
  });
  for await (const event of readEvents(stream)) if (event) break;
  assert.equal(cancelled, true);
});

test("the reconnect back-off doubles up to ten seconds", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 50].map(backoff), [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
});

test("a key is sent as a subprotocol that is a legal token", () => {
  assert.deepEqual(protocols(null), ["yard.v1"]);
  const [version, token] = protocols("kéy?>~~~");
  assert.equal(version, "yard.v1");
  assert.match(token, /^yard\.key\.[A-Za-z0-9_-]+$/);
  assert.equal(Buffer.from(token.slice("yard.key.".length), "base64url").toString(), "kéy?>~~~");
});
