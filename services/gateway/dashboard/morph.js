/** Updates an element to new content by changing only the differences: focus, typed text and scrolling stay. */

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null);

/** `markup`: a result of the `html` tag; the content of a template element is inert until it is moved. */
export function render(root, markup) {
  const template = document.createElement("template");
  template.innerHTML = String(markup);
  morphChildren(root, template.content);
}

function morphChildren(parent, target) {
  const nodes = [...target.childNodes];
  const targetKeys = new Set(nodes.map(keyOf).filter(Boolean));
  const hasKey = new Map();
  for (const child of [...parent.childNodes]) {
    const key = keyOf(child);
    if (key !== null && targetKeys.has(key)) hasKey.set(key, child);
    else if (key !== null) child.remove();
  }
  let cursor = parent.firstChild;
  for (const node of nodes) {
    const match = findMatch(node, cursor, hasKey);
    if (match === null) {
      parent.insertBefore(node, cursor);
      continue;
    }
    if (match === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(match, cursor);
    morphNode(match, node);
  }
  while (cursor) {
    const next = cursor.nextSibling;
    cursor.remove();
    cursor = next;
  }
}

function findMatch(node, cursor, hasKey) {
  const key = keyOf(node);
  if (key !== null) {
    const match = hasKey.get(key);
    return match && match.nodeName === node.nodeName ? match : null;
  }
  return cursor && keyOf(cursor) === null && cursor.nodeName === node.nodeName ? cursor : null;
}

function morphNode(node, target) {
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.nodeValue !== target.nodeValue) node.nodeValue = target.nodeValue;
    return;
  }
  morphAttributes(node, target);
  morphChildren(node, target);
  // After a user's choice a select ignores its options' attributes.
  if (node.dataset.value !== undefined && node.value !== node.dataset.value) node.value = node.dataset.value;
}

function morphAttributes(node, target) {
  for (const { name, value } of target.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  for (const { name } of [...node.attributes]) {
    const isSetByUser = name === "open" && node.nodeName === "DETAILS";
    if (!target.hasAttribute(name) && !isSetByUser) node.removeAttribute(name);
  }
}
