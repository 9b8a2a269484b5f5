/** An escaping tagged template: everything that is put in is text, unless it came out of `html` itself. */

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;", "`": "&#96;" };

class Html {
  constructor(text) {
    this.text = text;
  }

  toString() {
    return this.text;
  }
}

export function escape(value) {
  return String(value).replace(/[&<>"'`]/g, (char) => ENTITIES[char]);
}

function fill(value) {
  if (value === null || value === undefined || value === false || value === true) return "";
  if (value instanceof Html) return value.text;
  if (Array.isArray(value)) return value.map(fill).join("");
  return escape(value);
}

/** Values in attributes are safe only between quotes. */
export function html(strings, ...values) {
  return new Html(strings.reduce((text, part, index) => text + fill(values[index - 1]) + part));
}
