// One run: its layer, the text in the colours of its experts, its experts and their words.

const HUES = 8; // .c0 to .c7
const HATCHES = 4; // .h0 to .h3
const FEWEST = 10; // occurrences of a word whose share is shown, as in OLMoE's analysis
const LONGEST = 10; // words of a list

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The classes of an expert: a colour, and a hatch for each eight of them.
function paint(expert, experts) {
  if (expert >= experts) return "none";
  return `c${expert % HUES} h${Math.floor(expert / HUES) % HATCHES}`;
}

class Pane {
  constructor(run, text, number, page) {
    Object.assign(this, { run, text, page, layer: 0, selected: -1, spans: [], shown: [] });
    this.root = document.getElementById("pane").content.cloneNode(true).firstElementChild;
    const [name, slider, output, told, area, experts, tops] = [
      ".name", ".layer input", ".layer output", ".told", ".text", ".experts", ".tops",
    ].map((which) => this.root.querySelector(which));
    Object.assign(this, { slider, output, told, area, tops });
    name.textContent = run.name;
    slider.max = run.L - 1;
    slider.disabled = run.L === 1;
    slider.addEventListener("input", () => this.toLayer(Number(slider.value)));
    this.loads = this.choiceOfExperts(experts, `expert-${number}`);
    this.paints = Array.from({ length: run.experts + 1 }, (_, e) => `token ${paint(e, run.experts)}`);
  }

  choiceOfExperts(parent, name) {
    const option = (expert, ...said) => {
      const radio = make("input", { type: "radio", name, value: expert, checked: expert < 0 });
      radio.addEventListener("change", () => this.select(expert));
      parent.append(make("label", {}, radio, ...said));
      return radio;
    };
    option(-1, "all");
    return Array.from({ length: this.run.experts }, (_, expert) => {
      const swatch = make("span", { className: `swatch ${paint(expert, this.run.experts)}`, textContent: expert });
      const share = make("span", { className: "share" });
      const bar = make("span", { className: "load" });
      const radio = option(expert, swatch, share, bar);
      return { radio, share, bar };
    });
  }

  // Puts these tokens on the page.
  show(tokens) {
    this.shown = tokens;
    const parts = [];
    this.spans = tokens.map((token, i) => {
      const document = this.text.document[token];
      if (i === 0 || document !== this.text.document[token - 1]) parts.push(this.heading(document));
      const span = make("span", { textContent: this.text.word(token), tabIndex: -1 });
      span.setAttribute("role", "option");
      parts.push(span);
      if (this.text.bytes[this.text.token[token]].includes("\n")) parts.push(make("br"));
      return span;
    });
    this.area.replaceChildren(...parts);
    this.area.scrollTop = 0;
    this.colour();
  }

  heading(number) {
    const said = `document ${number} · ${this.text.domainOf(number)}`;
    const made = make("div", { className: "piece", textContent: said });
    made.setAttribute("role", "presentation");
    return made;
  }

  toLayer(layer) {
    this.layer = layer;
    this.colour();
    this.count();
    this.tell();
  }

  // As if the layer and the expert had been chosen by hand.
  turnTo(layer, expert) {
    this.slider.value = layer;
    this.toLayer(layer);
    this.loads[expert].radio.click();
  }

  select(expert) {
    this.selected = expert;
    this.colour();
    this.list();
  }

  colour() {
    const { run, layer, selected } = this;
    const { here, hits } = this.page;
    this.output.textContent = `${layer} of 0–${run.L - 1}`;
    this.area.setAttribute("aria-label", `text of ${run.name}, MoE layer ${layer}`);
    this.spans.forEach((span, i) => {
      const token = this.shown[i];
      const expert = run.at(layer, 0, token);
      let name = this.paints[expert];
      if (selected >= 0 && !run.has(layer, token, selected)) name += " dim";
      if (hits.has(token)) name += " hit";
      if (token === here) name += " here";
      if (span.className !== name) span.className = name;
      span.dataset.e = expert < run.experts ? expert : "–";
    });
  }

  // Loads, and words by expert, of the selected tokens.
  count() {
    const { run, layer, text } = this;
    const loads = new Uint32Array(run.experts + 1);
    for (const token of this.page.selection) for (let k = 0; k < run.K; k++) loads[run.at(layer, k, token)]++;
    const choices = loads.subarray(0, run.experts).reduce((sum, load) => sum + load, 0) || 1;
    const most = Math.max(...loads.subarray(0, run.experts), 1);
    this.loads.forEach(({ share, bar }, expert) => {
      share.textContent = percent(loads[expert] / choices);
      bar.style.width = `${(2.5 * loads[expert]) / most}rem`;
    });
    this.list();
  }

  list() {
    if (this.selected < 0) {
      const said = "Choose an expert to see its words, and the tokens that chose it.";
      this.tops.replaceChildren(make("p", { textContent: said }));
      return;
    }
    const words = this.words();
    const often = [...words].sort((a, b) => b.count - a.count);
    const own = words.filter((word) => word.all >= FEWEST).sort((a, b) => b.over - a.over || b.count - a.count);
    this.tops.replaceChildren(
      make("p", { textContent: `Expert ${this.selected} in MoE layer ${this.layer}, as any of a token's choices:` }),
      this.table("Most often", often),
      this.table(`Above their share, of ${FEWEST} or more`, own),
    );
  }

  // What the expert reads: how often, of how many, and how many times its share of the text.
  words() {
    const { run, layer, text, selected } = this;
    const all = new Uint32Array(text.shown.length);
    const here = new Uint32Array(text.shown.length);
    let chosen = 0;
    for (const token of this.page.selection) {
      all[text.token[token]]++;
      if (!run.has(layer, token, selected)) continue;
      here[text.token[token]]++;
      chosen++;
    }
    const base = chosen / this.page.selection.length;
    const made = Array.from(here, (count, word) => ({ word, count, all: all[word], over: count / all[word] / base }));
    return made.filter(({ count }) => count > 0);
  }

  table(title, words) {
    const head = ["token", "count", "of its", "× share"].map((textContent) => make("th", { scope: "col", textContent }));
    const rows = words.slice(0, LONGEST).map(({ word, count, all, over }) => {
      const button = make("button", { type: "button", textContent: this.text.shown[word] });
      button.setAttribute("aria-label", `find the token ${this.text.shown[word]}`);
      button.addEventListener("click", () => this.page.findWord(word));
      const cells = [count, percent(count / all), over.toFixed(2)].map((textContent) => make("td", { textContent }));
      return make("tr", {}, make("td", {}, button), ...cells);
    });
    const made = make("table", {}, make("caption", { textContent: title }));
    made.append(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
    return made;
  }

  // What is known of the token that is pointed at.
  tell() {
    const token = this.page.here;
    const i = this.shown.indexOf(token);
    if (i < 0) {
      this.told.textContent = "";
      return;
    }
    const { run, text, layer } = this;
    const chosen = run.chosen(layer, token);
    const said = chosen.map(([expert, gate]) => `expert ${expert} with gate ${gate.toFixed(2)}`).join(", ") || "no expert";
    this.spans[i].setAttribute("aria-label", `${text.word(token)}: ${said}`);
    this.told.replaceChildren(
      make("div", {}, make("span", { className: this.paints[run.at(layer, 0, token)], textContent: text.word(token) })),
      make("div", {}, ...chosen.map((one) => this.gate(...one)), chosen.length ? "" : "no expert"),
      make("div", { className: "faint", textContent: this.aside(token) }),
    );
  }

  gate(expert, gate) {
    const swatch = make("span", { className: `swatch ${paint(expert, this.run.experts)}`, textContent: expert });
    return make("span", { className: "chosen" }, swatch, `gate ${gate.toFixed(2)}`);
  }

  // Id, bytes, what the run thought comes next, and first choices in all layers.
  aside(token) {
    const { run, text } = this;
    const word = text.token[token];
    const bytes = Array.from(text.bytes[word], (letter) => letter.charCodeAt(0).toString(16).padStart(2, "0"));
    const first = Array.from({ length: run.L }, (_, layer) => run.at(layer, 0, token));
    const choices = first.map((expert) => (expert < run.experts ? expert : "–")).join(" ");
    const document = text.document[token];
    return `document ${document}, ${text.domainOf(document)}; id ${text.ids[word]}, bytes ${bytes.join(" ")}; `
      + `predicts ${text.shown[run.predicted[token]]}; first choices by layer: ${choices}`;
  }
}
