import assert from "node:assert/strict";
import { test } from "node:test";

import { escape, html } from "../../services/gateway/dashboard/html.js";

test("text is escaped, in elements and in quoted attributes", () => {
  const evil = `"><script>alert('x')</script>&\``;
  const text = String(html`<p title="${evil}">${evil}</p>`);
  assert.ok(!text.includes("<script"));
  const safe = "&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&#96;";
  assert.equal(text, `<p title="${safe}">${safe}</p>`);
});

test("nested html is not escaped again, also in lists", () => {
  const items = ["a", "<b>"].map((item) => html`<li>${item}</li>`);
  assert.equal(String(html`<ul>${items}</ul>`), "<ul><li>a</li><li>&lt;b&gt;</li></ul>");
});

test("strings in a list are escaped too", () => {
  assert.equal(String(html`${["<", [">"]]}`), "&lt;&gt;");
});

test("an object with the shape of Html is escaped as text", () => {
  assert.equal(String(html`${{ text: "<b>", toString: () => "<i>" }}`), "&lt;i&gt;");
});

test("null, undefined and booleans render as nothing; zero as a number", () => {
  assert.equal(String(html`${null}${undefined}${false}${true}${0}`), "0");
});

test("escape takes any value", () => {
  assert.equal(escape(5), "5");
  assert.equal(escape("<"), "&lt;");
});
