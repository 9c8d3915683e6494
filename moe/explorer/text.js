// The text: its documents, what is selected of it, and what is found in it.

const SYMBOLS = { "·": " ", "↵": "\n", "⇥": "\t" }; // of words.py
const BETWEEN = "\uffff"; // between documents when bytes are searched; no byte

class Text {
  constructor(arrays) {
    Object.assign(this, arrays);
    this.N = this.token.length;
    this.document = new Uint32Array(this.N);
    for (let d = 0; d < this.start.length; d++) this.document.fill(d, this.start[d], this.end(d));
  }

  // The token after the last one of a document.
  end(document) {
    return document + 1 < this.start.length ? this.start[document + 1] : this.N;
  }

  word(token) {
    return this.shown[this.token[token]];
  }

  domainOf(document) {
    return this.domains[this.domain[document]];
  }

  // A document as a line of a list.
  title(document) {
    const some = Array.from(this.token.subarray(this.start[document], this.start[document] + 12));
    const words = some.map((id) => this.shown[id]).join("").slice(0, 28);
    return `${document} ${this.domainOf(document)}: ${words}`;
  }

  // The documents of a domain, or all of them for -1.
  documents(domain) {
    const all = Array.from(this.start, (_, d) => d);
    return domain < 0 ? all : all.filter((d) => this.domain[d] === domain);
  }

  // Their tokens, in order.
  tokens(documents) {
    return documents.flatMap((d) => Array.from({ length: this.end(d) - this.start[d] }, (_, i) => this.start[d] + i));
  }

  // The occurrences of a text as [first token, token after the last], wherever tokens are cut.
  // Symbols mean what they stand for, so that what is shown can be found.
  find(query) {
    const { all, at } = this.joined();
    const spelled = query.replace(/[·↵⇥]/g, (symbol) => SYMBOLS[symbol]);
    const wanted = Array.from(new TextEncoder().encode(spelled), (byte) => String.fromCharCode(byte)).join("");
    const found = [];
    let token = 0;
    for (let i = wanted ? all.indexOf(wanted) : -1; i >= 0; i = all.indexOf(wanted, i + 1)) {
      while (at[token + 1] <= i) token++;
      let last = token;
      while (last + 1 < this.N && at[last + 1] < i + wanted.length) last++;
      found.push([token, last + 1]);
    }
    return found;
  }

  // The occurrences of a word of the vocabulary.
  findWord(word) {
    const found = [];
    this.token.forEach((one, i) => {
      if (one === word) found.push([i, i + 1]);
    });
    return found;
  }

  // The tokens of a kind, in one of the ways to sort them.
  ofKind(way, kind) {
    const own = this.kinds.subarray(way * this.N, (way + 1) * this.N);
    return Array.from(own.keys()).filter((token) => own[token] === kind + 1);
  }

  // All bytes, a letter each, and where the bytes of each token begin.
  joined() {
    if (this.cache) return this.cache;
    const at = new Uint32Array(this.N);
    const parts = [];
    let length = 0;
    for (let i = 0; i < this.N; i++) {
      const begins = i > 0 && this.document[i] !== this.document[i - 1];
      if (begins) parts.push(BETWEEN);
      at[i] = length + begins;
      parts.push(this.bytes[this.token[i]]);
      length = at[i] + this.bytes[this.token[i]].length;
    }
    this.cache = { all: parts.join(""), at };
    return this.cache;
  }
}
