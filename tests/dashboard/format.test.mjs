import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ago, bytes, clock, count, duration, percent, plainText, plural, speed, splitError,
} from "../../services/gateway/dashboard/format.js";

test("bytes use binary units and stay short", () => {
  const cases = [
    [0, "0 B"], [1023, "1023 B"], [1024, "1.0 KiB"], [1536, "1.5 KiB"], [1024 ** 2 - 1, "1.0 MiB"],
    [99.95 * 1024 ** 2, "100 MiB"], [48.2 * 1024 ** 3, "48.2 GiB"], [2 * 1024 ** 4, "2.0 TiB"], [5000 * 1024 ** 5, "5000 PiB"],
  ];
  for (const [value, expected] of cases) assert.equal(bytes(value), expected);
});

test("an unknown value is empty, never zero", () => {
  for (const nothing of [null, undefined, NaN, Infinity]) {
    assert.equal(bytes(nothing), "");
    assert.equal(speed(nothing), "");
    assert.equal(duration(nothing), "");
    assert.equal(count(nothing), "");
    assert.equal(percent(nothing, 10), null);
  }
  assert.equal(percent(1, 0), null);
});

test("speed is bytes a second", () => {
  assert.equal(speed(48.2 * 1024 ** 2), "48.2 MiB/s");
});

test("durations show the two largest units", () => {
  const cases = [
    [0, "0.0 s"], [0.42, "0.4 s"], [9.94, "9.9 s"], [9.96, "10 s"], [59.6, "1 min"], [60, "1 min"], [125, "2 min 5 s"],
    [3600, "1 h"], [3725, "1 h 2 min"], [90_000, "1 d 1 h"], [-3, "0.0 s"],
  ];
  for (const [value, expected] of cases) assert.equal(duration(value), expected);
});

test("ago is 'just now' for the first seconds and for a clock that is ahead", () => {
  assert.equal(ago(100, 103), "just now");
  assert.equal(ago(100, 90), "just now");
  assert.equal(ago(100, 170), "1 min 10 s ago");
});

test("percent is clamped to 0 and 100", () => {
  assert.equal(percent(1, 4), 25);
  assert.equal(percent(9, 4), 100);
  assert.equal(percent(-1, 4), 0);
});

test("large counts are rounded", () => {
  const cases = [[0, "0"], [9999, "9999"], [48_211, "48k"], [999_499, "999k"], [999_500, "1.0M"], [2_340_000, "2.3M"], [3_298_534_883, "3.3B"]];
  for (const [value, expected] of cases) assert.equal(count(value), expected);
});

test("plural", () => {
  assert.equal(plural(1, "slot"), "1 slot");
  assert.equal(plural(0, "slot"), "0 slots");
  assert.equal(plural(2, "entry", "entries"), "2 entries");
});

test("clock shows local hours, minutes and seconds", () => {
  assert.equal(clock(new Date(2026, 0, 2, 3, 4, 5).getTime() / 1000), "03:04:05");
});

test("terminal escape sequences are removed from engine output", () => {
  assert.equal(plainText("\u001b[1;32mok\u001b[0m done"), "ok done");
  assert.equal(plainText("\u001b]0;title\u0007text"), "text");
});

test("an error is a sentence and the engine's last lines", () => {
  assert.deepEqual(splitError("No memory.\nline 1\nline 2\n"), { sentence: "No memory.", lines: "line 1\nline 2" });
  assert.deepEqual(splitError("No memory."), { sentence: "No memory.", lines: "" });
  assert.deepEqual(splitError(null), { sentence: "", lines: "" });
});
