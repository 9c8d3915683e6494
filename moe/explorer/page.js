// The page: what is selected, where one is, and the keys.

const PAGE = 500; // tokens that are shown at once
const byId = (id) => document.getElementById(id);

class Page {
  constructor({ text, runs }) {
    Object.assign(this, { text, here: -1, hits: new Set(), found: [], current: -1, first: 0, label: "" });
    this.panes = runs.map((run, number) => new Pane(run, text, number, this));
    byId("panes").append(...this.panes.map((pane) => pane.root));
    byId("domain").append(...["all", ...text.domains].map((name, i) => make("option", { value: i - 1, textContent: name })));
    byId("numbered").checked = runs.some((run) => run.experts > HUES);
    this.wire();
    this.number();
    this.choose(-1);
  }

  wire() {
    const on = (id, event, action) => byId(id).addEventListener(event, action);
    on("controls", "submit", (event) => event.preventDefault());
    on("domain", "change", () => this.choose(Number(byId("domain").value)));
    on("document", "change", () => this.visit(this.text.start[Number(byId("document").value)]));
    on("before", "click", () => this.turn(-1));
    on("after", "click", () => this.turn(1));
    on("query", "input", () => this.search(byId("query").value));
    on("query", "keydown", (event) => event.key === "Enter" && this.step(event.shiftKey ? -1 : 1));
    on("previous", "click", () => this.step(-1));
    on("next", "click", () => this.step(1));
    on("numbered", "change", () => this.number());
    for (const button of document.querySelectorAll(".takers button")) {
      const at = button.dataset.at.split(" ").map(Number);
      button.addEventListener("click", () => this.take(button.ariaLabel, ...at));
    }
    for (const pane of this.panes) {
      pane.area.addEventListener("mouseover", (event) => this.point(pane, event.target));
      pane.area.addEventListener("focusin", (event) => this.point(pane, event.target));
      pane.area.addEventListener("keydown", (event) => this.walk(pane, event));
    }
    document.addEventListener("keydown", (event) => this.slash(event));
  }

  number() {
    for (const pane of this.panes) pane.area.classList.toggle("numbered", byId("numbered").checked);
  }

  // Shows the text of a domain; -1 is all of it.
  choose(domain) {
    const documents = this.text.documents(domain);
    const options = documents.map((d) => make("option", { value: d, textContent: this.text.title(d) }));
    byId("domain").value = domain;
    byId("document").replaceChildren(...options);
    this.selection = this.text.tokens(documents);
    this.place = new Int32Array(this.text.N).fill(-1);
    this.selection.forEach((token, i) => (this.place[token] = i));
    for (const pane of this.panes) pane.count();
    this.open(0);
  }

  // Shows the page on which a place of the selection lies.
  open(place) {
    this.first = Math.floor(place / PAGE) * PAGE;
    const tokens = this.selection.slice(this.first, this.first + PAGE);
    for (const pane of this.panes) pane.show(tokens);
    this.arrive(tokens.includes(this.here) ? this.here : (tokens[0] ?? -1));
    const pages = Math.max(1, Math.ceil(this.selection.length / PAGE));
    byId("place").textContent = `${this.first / PAGE + 1} of ${pages}`;
    byId("before").disabled = this.first === 0;
    byId("after").disabled = this.first + PAGE >= this.selection.length;
  }

  turn(by) {
    const first = this.first + by * PAGE;
    if (first < 0 || first >= this.selection.length) return false;
    this.open(first);
    return true;
  }

  // Makes a token the one that all panes tell of, the only one that Tab reaches.
  arrive(token) {
    const mark = (on) => {
      for (const pane of this.panes) {
        const span = pane.spans[this.place[this.here] - this.first];
        if (!span) continue;
        span.classList.toggle("here", on);
        span.tabIndex = on ? 0 : -1;
        span.setAttribute("aria-selected", on);
      }
    };
    mark(false);
    this.here = token;
    mark(true);
    if (token >= 0) byId("document").value = this.text.document[token];
    for (const pane of this.panes) pane.tell();
  }

  // Turns to a token, wherever it is.
  visit(token) {
    if (this.place[token] < 0) this.choose(-1);
    this.here = token;
    this.open(this.place[token]);
    for (const pane of this.panes) {
      const span = pane.spans[this.place[token] - this.first];
      pane.area.scrollTop = span.offsetTop - pane.area.offsetTop - pane.area.clientHeight / 3;
    }
  }

  point(pane, target) {
    const i = pane.spans.indexOf(target);
    if (i >= 0 && pane.shown[i] !== this.here) this.arrive(pane.shown[i]);
  }

  walk(pane, event) {
    const i = pane.spans.indexOf(document.activeElement);
    const to = {
      ArrowLeft: () => i - 1, ArrowRight: () => i + 1, Home: () => 0, End: () => pane.spans.length - 1,
      ArrowUp: () => beside(pane.spans, i, -1), ArrowDown: () => beside(pane.spans, i, 1),
      PageUp: () => -1, PageDown: () => pane.spans.length,
    }[event.key];
    if (i < 0 || !to || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    let next = to();
    if (next < 0 || next >= pane.spans.length) {
      if (!this.turn(next < 0 ? -1 : 1)) return;
      next = next < 0 && event.key !== "PageUp" ? pane.spans.length - 1 : 0;
    }
    pane.spans[next].focus();
  }

  slash(event) {
    if (event.key !== "/" || /^(INPUT|SELECT)$/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    byId("query").focus();
  }

  search(query) {
    this.findings(query ? this.text.find(query) : [], query);
  }

  findWord(word) {
    this.findings(this.text.findWord(word), this.text.shown[word]);
    this.step(1);
  }

  // Goes to what an expert takes of a kind of token.
  take(label, number, layer, expert, way, kind) {
    const pane = this.panes[number];
    pane.turnTo(layer, expert);
    const own = this.text.ofKind(way, kind).filter((token) => pane.run.at(layer, 0, token) === expert);
    this.findings(own.map((token) => [token, token + 1]), label);
    this.step(1);
    pane.spans[this.place[this.here] - this.first].focus();
  }

  findings(found, label) {
    Object.assign(this, { found, label, current: -1 });
    this.hits = new Set(found.flatMap(([first, end]) => Array.from({ length: end - first }, (_, i) => first + i)));
    for (const pane of this.panes) pane.colour();
    this.sayFound();
  }

  sayFound() {
    const at = this.current < 0 ? "" : `${this.current + 1} of `;
    byId("found").textContent = this.label ? `${at}${this.found.length}` : "";
    byId("found").title = this.label;
    for (const id of ["previous", "next"]) byId(id).disabled = this.found.length === 0;
  }

  // The next occurrence, or the one before.
  step(by) {
    const count = this.found.length;
    if (!count) return;
    this.current = this.current < 0 ? (by > 0 ? 0 : count - 1) : (this.current + by + count) % count;
    this.visit(this.found[this.current][0]);
    this.sayFound();
  }
}

// The token on the line above (-1) or below (1) that is nearest.
function beside(spans, i, way) {
  const from = spans[i];
  let best = -1;
  for (let j = i + way; j >= 0 && j < spans.length; j += way) {
    const top = spans[j].offsetTop;
    if (top === from.offsetTop) continue;
    if (best >= 0 && top !== spans[best].offsetTop) break;
    const distance = (one) => Math.abs(spans[one].offsetLeft - from.offsetLeft);
    if (best < 0 || distance(j) < distance(best)) best = j;
  }
  return best < 0 ? i : best;
}

function theme() {
  const button = byId("theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const say = () => {
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", `change to ${dark ? "light" : "dark"}`);
  };
  button.addEventListener("click", () => {
    dark = !dark;
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
    say();
  });
  say();
}

async function start() {
  theme();
  const content = JSON.parse(byId("data").textContent);
  if (content) new Page(await load(content)).sayFound();
  document.body.dataset.ready = "yes";
}

start().catch((error) => {
  byId("failed").textContent = `The explorer cannot run in this browser: ${error.message}`;
  byId("failed").hidden = false;
  throw error;
});
