/** Paints panels: each only after a change of the state that it needs, at most once a frame. */

import { render } from "./morph.js";

const NEAR_PX = 24;

const pick = (state, path) => path.split(".").reduce((value, name) => value?.[name], state);

export function atBottom(element) {
  return element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX;
}

export class Painter {
  #painted = new Map();
  #scheduled = false;

  /** `panels`: element id -> view module with `needs` and `view`. */
  constructor(panels, getState) {
    this.panels = Object.entries(panels);
    this.getState = getState;
  }

  schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.paint(this.getState());
    });
  }

  paint(state) {
    for (const [id, panel] of this.panels) {
      const parts = panel.needs.map((path) => pick(state, path));
      const last = this.#painted.get(id);
      if (last && parts.every((part, index) => part === last[index])) continue;
      this.#painted.set(id, parts);
      paintPanel(document.getElementById(id), panel.view(state), state);
    }
  }
}

function paintPanel(root, markup, state) {
  const scroller = root.querySelector("[data-scroll]");
  const wasAtBottom = !scroller || atBottom(scroller);
  render(root, markup);
  const current = root.querySelector("[data-scroll]");
  if (!current) return;
  const follows = current.dataset.scroll === "logs" ? state.logs.follow : wasAtBottom;
  if (follows) current.scrollTop = current.scrollHeight;
}
