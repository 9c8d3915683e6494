"use strict";
// The page's data as typed arrays.
// N tokens, L MoE layers, K choices of a token, E experts of a layer.

const KINDS = { Uint8Array, Uint16Array, Uint32Array };

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new KINDS[packed.kind](await new Response(stream).arrayBuffer());
}

async function unpackAll(object) {
  const values = Object.values(object).map((value) => (value && value.kind ? unpack(value) : value));
  const found = await Promise.all(values);
  return Object.fromEntries(Object.keys(object).map((key, i) => [key, found[i]]));
}

class Choices {
  // What one run chose.
  constructor(arrays, shape) {
    Object.assign(this, arrays);
    [this.L, this.K, this.N] = shape;
  }

  // The k-th choice of a token; `experts` where there is none.
  at(layer, k, token) {
    return this.expert[(layer * this.K + k) * this.N + token];
  }

  // [[expert, gate], ...] of a token.
  chosen(layer, token) {
    const found = [];
    for (let k = 0; k < this.K; k++) {
      const expert = this.at(layer, k, token);
      const gate = this.gate[(layer * this.K + k) * this.N + token] * this.scale;
      if (expert < this.experts) found.push([expert, gate]);
    }
    return found;
  }

  has(layer, token, expert) {
    for (let k = 0; k < this.K; k++) if (this.at(layer, k, token) === expert) return true;
    return false;
  }
}

async function load(content) {
  const text = new Text(await unpackAll(content.text));
  const arrays = await Promise.all(content.runs.map(unpackAll));
  const runs = arrays.map((found, i) => new Choices(found, content.runs[i].expert.shape));
  return { text, runs };
}
