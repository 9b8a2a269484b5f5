/** The gateway over HTTP: commands, the chat stream, and the API key for both. */

import { readEvents } from "./sse.js";

const KEY = "yard.key";

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail?.message ?? `The gateway answered with status ${status}.`);
    this.status = status;
    this.code = detail?.code ?? null;
  }
}

export function loadKey() {
  return sessionStorage.getItem(KEY);
}

export function saveKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** A WebSocket has no request headers, so the key is sent as a subprotocol, base64url encoded. */
export function protocols(key) {
  if (!key) return ["yard.v1"];
  const raw = String.fromCharCode(...new TextEncoder().encode(key));
  const token = btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return ["yard.v1", `yard.key.${token}`];
}

async function post(path, body, signal) {
  const key = loadKey();
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The gateway cannot be reached. Is Modelyard still running?" });
  }
  if (response.ok) return response;
  const errorBody = await response.json().catch(() => null);
  throw new ApiError(response.status, errorBody?.error);
}

/** `command("model", "start", {model})`: any command of the contract. */
export async function command(noun, verb, body) {
  const response = await post(`/api/command/${noun}/${verb}`, body);
  return response.json();
}

/** The events of a streamed chat completion: `{data}` with JSON text, or `{comment}` while it waits in the queue. */
export async function* chat(model, messages, signal) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  const response = await post("/v1/chat/completions", body, signal);
  yield* readEvents(response.body);
}
