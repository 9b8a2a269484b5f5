/** A state as a coloured label; the text carries the meaning without the colour. */

import { html } from "../html.js";

const STATES = {
  starting: ["Starting", "busy"],
  loading: ["Loading", "busy"],
  probing: ["Trying a first request", "busy"],
  ready: ["Ready", "good"],
  draining: ["Finishing its work", "busy"],
  stopping: ["Stopping", "busy"],
  stopped: ["Stopped", "calm"],
  failed: ["Failed", "bad"],
  queued: ["Waiting its turn", "calm"],
  paused: ["Paused", "calm"],
  resolving: ["Looking up files", "busy"],
  transferring: ["Downloading", "busy"],
  finished: ["Done", "good"],
  cancelled: ["Cancelled", "calm"],
};

export function stateBadge(state) {
  const [label, tone] = STATES[state] ?? [state, "calm"];
  return html`<span class="badge ${tone}">${label}</span>`;
}
