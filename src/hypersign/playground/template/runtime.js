"use strict";
// Runs a packed network on its bits. Levels are packed along the channels in 32-bit words: bit 1 is -1, bit 0 is +1.
// Integers are exact. Float32 operations round (Math.fround) where the Python runtime rounds, so logits are equal.
const Packed = (() => {
  const { fround, imul, min, max, ceil, floor } = Math;

  // The file ------------------------------------------------------------------------------------------------------
  const ARRAYS = { U64: Uint32Array, I32: Int32Array, F32: Float32Array, BOOL: Uint8Array }; // U64: two words, low first

  function read(buffer) {
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    const graph = JSON.parse(header.__metadata__.hypersign);
    const tensors = {};
    delete header.__metadata__;
    for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
      const at = name.lastIndexOf(".");
      const data = new ARRAYS[dtype](buffer.slice(8 + length + start, 8 + length + end));
      (tensors[name.slice(0, at)] ??= {})[name.slice(at + 1)] = { data, shape, packed: dtype === "U64" };
    }
    return { graph, tensors };
  }

  // Bits ----------------------------------------------------------------------------------------------------------
  function popcount(x) {
    x -= (x >>> 1) & 0x55555555;
    x = (x & 0x33333333) + ((x >>> 2) & 0x33333333);
    return imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }

  const wordsFor = (channels) => ceil(channels / 32);

  function channelMask(channels) {
    const mask = new Uint32Array(wordsFor(channels)).fill(0xffffffff);
    if (channels % 32) mask[mask.length - 1] = 2 ** (channels % 32) - 1;
    return mask;
  }

  // Filters as levels -1, 0, +1 in the file's order (filter, kernel row, kernel column, channel).
  function unpackLevels({ data, shape }, d) {
    const filters = shape.at(-2), row = 2 * shape.at(-1), levels = new Int8Array(filters * d);
    const plane = shape.length === 3 ? filters * row : 0;
    for (let f = 0; f < filters; f++)
      for (let i = 0; i < d; i++) {
        const word = f * row + (i >>> 5), bit = i & 31;
        const zero = plane && !((data[plane + word] >>> bit) & 1);
        levels[f * d + i] = zero ? 0 : 1 - 2 * ((data[word] >>> bit) & 1);
      }
    return levels;
  }

  // Filters as words, one row of words per tap. With groups, or with zeros, a second plane marks what counts.
  function layFilters(levels, filters, taps, channels, groups, ternary) {
    const depth = channels / groups, words = wordsFor(channels), size = taps * words;
    const sign = new Uint32Array(filters * size), nonzero = ternary || groups > 1 ? new Uint32Array(filters * size) : null;
    let i = 0;
    for (let f = 0; f < filters; f++) {
      const offset = floor(f / (filters / groups)) * depth;
      for (let t = 0; t < taps; t++)
        for (let c = offset; c < offset + depth; c++, i++) {
          const word = f * size + t * words + (c >>> 5), bit = 1 << (c & 31);
          if (levels[i] < 0) sign[word] |= bit;
          if (nonzero && levels[i]) nonzero[word] |= bit;
        }
    }
    return { sign, nonzero };
  }

  // Values: {height, width, channels} and kind "image" (data), "levels" (sign, nonzero or null), "sums" or "real" (data).
  function makeLevels(height, width, channels, ternary) {
    const size = height * width * wordsFor(channels);
    return {
      kind: "levels", height, width, channels,
      sign: new Uint32Array(size), nonzero: ternary ? new Uint32Array(size) : null,
    };
  }

  function numbers(kind, height, width, channels) {
    const size = height * width * channels;
    return { kind, height, width, channels, data: kind === "real" ? new Float32Array(size) : new Int32Array(size) };
  }

  // The level at a position: -1, 0 or +1.
  function level(value, y, x, c) {
    const word = (y * value.width + x) * wordsFor(value.channels) + (c >>> 5), bit = c & 31;
    if (value.nonzero && !((value.nonzero[word] >>> bit) & 1)) return 0;
    return 1 - 2 * ((value.sign[word] >>> bit) & 1);
  }

  // All levels, in the order (row, column, channel).
  function levels(value) {
    const n = value.channels, words = wordsFor(n), out = new Int8Array(value.height * value.width * n);
    for (let p = 0, i = 0; p < value.height * value.width; p++)
      for (let c = 0; c < n; c++, i++) {
        const word = p * words + (c >>> 5), bit = c & 31;
        out[i] = value.nonzero && !((value.nonzero[word] >>> bit) & 1) ? 0 : 1 - 2 * ((value.sign[word] >>> bit) & 1);
      }
    return out;
  }

  function threshold(x, { low, high, flip }) {
    const y = makeLevels(x.height, x.width, x.channels, Boolean(high)), words = wordsFor(x.channels);
    for (let p = 0, i = 0; p < x.height * x.width; p++)
      for (let c = 0; c < x.channels; c++, i++) {
        const minus = x.data[i] < low.data[c], word = p * words + (c >>> 5), bit = 1 << (c & 31);
        if (!high) {
          if (minus !== Boolean(flip.data[c])) y.sign[word] |= bit;
        } else if (minus || x.data[i] >= high.data[c]) {
          y.nonzero[word] |= bit;
          if (minus !== Boolean(flip.data[c])) y.sign[word] |= bit;
        }
      }
    y.source = x; // what was compared with the thresholds
    return y;
  }

  // Windows -------------------------------------------------------------------------------------------------------
  function outputSize(length, kernel, stride, padding, dilation, ceilMode) {
    const space = length + 2 * padding - dilation * (kernel - 1) - 1;
    const count = floor(space / stride) + 1;
    return ceilMode && space % stride && count * stride < length + padding ? count + 1 : count;
  }

  function outputs(x, size, o, dilation = [1, 1]) {
    return [x.height, x.width].map((length, axis) =>
      outputSize(length, size[axis], o.stride[axis], o.padding[axis], dilation[axis], o.ceil_mode));
  }

  // Calls visit(output position, taps inside the image: count, their numbers, their pixels) for each window.
  function eachWindow(x, o, height, width, visit) {
    const [kh, kw] = o.kernel, taps = new Int32Array(kh * kw), pixels = new Int32Array(kh * kw);
    for (let y = 0; y < height; y++)
      for (let z = 0; z < width; z++) {
        let count = 0;
        for (let i = 0; i < kh; i++) {
          const row = y * o.stride[0] - o.padding[0] + i * o.dilation[0];
          if (row < 0 || row >= x.height) continue;
          for (let j = 0; j < kw; j++) {
            const column = z * o.stride[1] - o.padding[1] + j * o.dilation[1];
            if (column < 0 || column >= x.width) continue;
            taps[count] = i * kw + j;
            pixels[count++] = row * x.width + column;
          }
        }
        visit(y * width + z, count, taps, pixels);
      }
  }

  // Products ------------------------------------------------------------------------------------------------------
  function convolveBits(x, node, planes) {
    const o = node.options, [height, width] = outputs(x, o.kernel, o, o.dilation);
    const y = numbers("sums", height, width, node.filters), words = wordsFor(x.channels);
    const taps = o.kernel[0] * o.kernel[1], size = taps * words, { sign, nonzero } = planes;
    const full = channelMask(x.channels), patch = new Uint32Array(size), counts = new Uint32Array(size);
    const plain = !nonzero && !x.nonzero;
    eachWindow(x, o, height, width, (at, count, tapOf, pixelOf) => {
      patch.fill(0); // +1 where the window leaves the image
      if (!plain) for (let i = 0; i < size; i++) counts[i] = o.pad_value ? full[i % words] : 0;
      for (let v = 0; v < count; v++)
        for (let k = 0; k < words; k++) {
          const to = tapOf[v] * words + k, from = pixelOf[v] * words + k;
          patch[to] = x.sign[from];
          if (!plain) counts[to] = x.nonzero ? x.nonzero[from] : full[k];
        }
      const inside = count === taps || o.pad_value;
      for (let f = 0, base = 0; f < node.filters; f++, base += size) {
        let differ = 0, used = (o.pad_value ? taps : count) * x.channels;
        if (!plain) {
          used = 0;
          for (let i = 0; i < size; i++) {
            const both = nonzero ? counts[i] & nonzero[base + i] : counts[i];
            used += popcount(both);
            differ += popcount((patch[i] ^ sign[base + i]) & both);
          }
        } else if (inside) {
          for (let i = 0; i < size; i++) differ += popcount(patch[i] ^ sign[base + i]);
        } else {
          for (let v = 0; v < count; v++)
            for (let i = tapOf[v] * words, end = i + words; i < end; i++) differ += popcount(patch[i] ^ sign[base + i]);
        }
        y.data[at * node.filters + f] = used - 2 * differ;
      }
    });
    return y;
  }

  function convolveImage(x, node, levels) {
    const o = node.options, [height, width] = outputs(x, o.kernel, o, o.dilation), depth = x.channels;
    const y = numbers("sums", height, width, node.filters), d = o.kernel[0] * o.kernel[1] * depth;
    const patch = new Int32Array(d);
    eachWindow(x, o, height, width, (at, count, tapOf, pixelOf) => {
      patch.fill(0);
      for (let v = 0; v < count; v++)
        for (let c = 0; c < depth; c++)
          patch[tapOf[v] * depth + c] = o.multiplier * x.data[pixelOf[v] * depth + c] + o.shift;
      for (let f = 0, i = 0; f < node.filters; f++) {
        let sum = 0;
        for (let k = 0; k < d; k++, i++) sum += patch[k] * levels[i];
        y.data[at * node.filters + f] = sum;
      }
    });
    return y;
  }

  // Sums in float64, tap by tap and channel by channel, each rounded to float32 once.
  function convolveReal(x, node, weight) {
    const o = node.options, [height, width] = outputs(x, o.kernel, o, o.dilation), depth = x.channels / o.groups;
    const y = numbers("real", height, width, node.filters), d = o.kernel[0] * o.kernel[1] * depth;
    const perGroup = node.filters / o.groups;
    eachWindow(x, o, height, width, (at, count, tapOf, pixelOf) => {
      for (let f = 0; f < node.filters; f++) {
        const offset = floor(f / perGroup) * depth;
        let sum = 0;
        for (let v = 0; v < count; v++) {
          const from = pixelOf[v] * x.channels + offset, to = f * d + tapOf[v] * depth;
          for (let c = 0; c < depth; c++) sum += x.data[from + c] * weight[to + c];
        }
        y.data[at * node.filters + f] = sum;
      }
    });
    return y;
  }

  // Pools ---------------------------------------------------------------------------------------------------------
  function eachPool(x, o, visit) {
    const [height, width] = outputs(x, o.size, o);
    for (let y = 0; y < height; y++)
      for (let z = 0; z < width; z++) {
        const top = y * o.stride[0] - o.padding[0], left = z * o.stride[1] - o.padding[1];
        visit(y * width + z, top, left);
      }
    return [height, width];
  }

  function inside(x, o, top, left, visit) {
    for (let i = max(top, 0); i < min(top + o.size[0], x.height); i++)
      for (let j = max(left, 0); j < min(left + o.size[1], x.width); j++) visit(i * x.width + j);
  }

  function poolLevels(x, node) {
    const o = node.options, words = wordsFor(x.channels), flip = node.tensors.flip.data;
    const [height, width] = outputs(x, o.size, o), y = makeLevels(height, width, x.channels, Boolean(x.nonzero));
    const mask = new Uint32Array(words);
    flip.forEach((on, c) => { if (on) mask[c >>> 5] |= 1 << (c & 31); });
    eachPool(x, o, (at, top, left) => {
      for (let k = 0; k < words; k++) {
        let minus = 0xffffffff, plus = 0;
        inside(x, o, top, left, (p) => {
          const sign = x.sign[p * words + k], counts = x.nonzero ? x.nonzero[p * words + k] : 0xffffffff;
          minus &= sign & counts;
          plus |= counts & ~sign;
        });
        if (y.nonzero) {
          const counts = minus | plus;
          y.nonzero[at * words + k] = counts;
          y.sign[at * words + k] = (minus ^ mask[k]) & counts;
        } else y.sign[at * words + k] = minus ^ mask[k];
      }
    });
    return y;
  }

  function poolNumbers(x, o, combine, finish) {
    const [height, width] = outputs(x, o.size, o), y = numbers(x.kind, height, width, x.channels);
    eachPool(x, o, (at, top, left) => {
      for (let c = 0; c < x.channels; c++) {
        let total = null;
        inside(x, o, top, left, (p) => {
          const number = x.data[p * x.channels + c];
          total = total === null ? number : combine(total, number);
        });
        y.data[at * x.channels + c] = finish(total, top, left);
      }
    });
    return y;
  }

  function meanDivisor(x, o) {
    const along = (start, axis) => {
      const length = axis ? x.width : x.height, stop = min(start + o.size[axis], length + o.padding[axis]);
      return o.count_include_pad ? stop - start : min(stop, length) - max(start, 0);
    };
    return (top, left) => along(top, 0) * along(left, 1);
  }

  // Operations ----------------------------------------------------------------------------------------------------
  function each(x, kind, number) {
    const y = numbers(kind, x.height, x.width, x.channels);
    for (let i = 0, c = 0; i < y.data.length; i++, c = c + 1 === x.channels ? 0 : c + 1) y.data[i] = number(x.data[i], c, i);
    return y;
  }

  const thresholded = (y, node) => (node.tensors.low ? threshold(y, node.tensors) : y);

  const OPERATIONS = {
    image_conv2d: (node, x) => thresholded(convolveImage(x, node, node.levels), node),
    conv2d: (node, x) => thresholded(convolveBits(x, node, node.planes), node),
    real_conv2d: (node, x) => convolveReal(x, node, node.levels ?? node.tensors.weight.data),
    pixels: (node, x) => {
      const [low, high] = node.pixelRange, scale = fround((high - low) / 255), shift = fround(low);
      return each(x, "real", (number) => fround(fround(number * scale) + shift));
    },
    unpack: (node, x) => {
      const y = numbers("real", x.height, x.width, x.channels);
      for (let p = 0, i = 0; p < x.height * x.width; p++)
        for (let c = 0; c < x.channels; c++, i++) y.data[i] = level(x, floor(p / x.width), p % x.width, c);
      return y;
    },
    affine: (node, x) => {
      const scale = node.tensors.scale.data, shift = node.tensors.shift.data;
      return each(x, "real", (number, c) => fround(fround(fround(number) * scale[c]) + shift[c]));
    },
    clip: (node, x) => {
      const low = fround(node.options.low ?? -Infinity), high = fround(node.options.high ?? Infinity);
      return each(x, "real", (number) => min(max(number, low), high));
    },
    centre: (node, x) => {
      const mean = fround(x.data.reduce((sum, number) => sum + number, 0) / x.data.length);
      return each(x, "real", (number) => fround(number - mean));
    },
    quantize: (node, x) => threshold(x, node.tensors),
    max_pool2d: (node, x) => x.kind === "levels" ? poolLevels(x, node) : poolNumbers(x, node.options, max, (number) => number),
    avg_pool2d: (node, x) => {
      const divisor = meanDivisor(x, node.options);
      return poolNumbers(x, node.options, (a, b) => fround(a + b), (sum, top, left) => fround(sum / divisor(top, left)));
    },
    add: (node, a, b) => each(a, "real", (number, c, i) => fround(number + b.data[i])),
    concat: (node, ...values) => {
      const { height, width } = values[0], channels = values.reduce((sum, x) => sum + x.channels, 0);
      const y = numbers("real", height, width, channels);
      let first = 0;
      for (const x of values) {
        for (let p = 0; p < height * width; p++)
          for (let c = 0; c < x.channels; c++) y.data[p * channels + first + c] = x.data[p * x.channels + c];
        first += x.channels;
      }
      return y;
    },
  };

  function kindOf({ op, tensors }, x) {
    if (tensors.low) return "levels";
    if (op === "max_pool2d") return x.kind;
    return op === "conv2d" || op === "image_conv2d" ? "sums" : "real";
  }

  // Networks ------------------------------------------------------------------------------------------------------
  function load(buffer) {
    const { graph, tensors } = read(buffer);
    const [channels, height, width] = graph.shape, sizes = { input: { kind: "image", height, width, channels } };
    const nodes = graph.nodes.map((entry) => {
      if (!(entry.op in OPERATIONS)) throw new Error(`the page cannot run the operation ${entry.op}`);
      const node = { ...entry, tensors: tensors[entry.name] ?? {}, pixelRange: graph.pixel_range };
      const x = sizes[node.inputs[0]], o = node.options, weight = node.tensors.weight;
      let size = x;
      if (weight) {
        const groups = o.groups ?? 1, taps = o.kernel[0] * o.kernel[1], depth = x.channels / groups;
        node.filters = weight.packed ? weight.shape.at(-2) : weight.shape[0];
        node.depth = depth;
        node.fanIn = taps * depth;
        if (weight.packed) {
          node.levels = unpackLevels(weight, node.fanIn);
          node.ternary = weight.shape.length === 3;
          if (node.op === "conv2d")
            node.planes = layFilters(node.levels, node.filters, taps, x.channels, groups, node.ternary);
        }
        const [rows, columns] = outputs(x, o.kernel, o, o.dilation);
        size = { height: rows, width: columns, channels: node.filters };
      } else if (node.op === "concat") {
        size = { ...x, channels: node.inputs.reduce((sum, name) => sum + sizes[name].channels, 0) };
      } else if (o.size) {
        const [rows, columns] = outputs(x, o.size, o);
        size = { height: rows, width: columns, channels: x.channels };
      }
      const ternary = Boolean(node.tensors.high) || (node.op === "max_pool2d" && x.ternary);
      sizes[node.name] = { ...size, kind: kindOf(node, x), ternary };
      return node;
    });
    return { shape: graph.shape, classes: graph.classes, nodes, sizes };
  }

  // Runs a network on 8-bit pixels in the order (row, column, channel); returns every value by the name of its node.
  function run(network, pixels) {
    const [channels, height, width] = network.shape;
    const values = { input: { kind: "image", height, width, channels, data: pixels } };
    for (const node of network.nodes)
      values[node.name] = OPERATIONS[node.op](node, ...node.inputs.map((name) => values[name]));
    return values;
  }

  const logits = (network, values) => values[network.nodes.at(-1).name].data;

  function best(numbers) {
    let at = 0;
    for (let i = 1; i < numbers.length; i++) if (numbers[i] > numbers[at]) at = i;
    return at;
  }

  // Flipped bits --------------------------------------------------------------------------------------------------
  function random(seed) { // mulberry32: numbers in (0, 1)
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
  }

  // A copy of the network in which each weight of -1 or +1 is negated with probability p.
  function flip(network, p, seed) {
    const next = random(seed);
    let flipped = 0, total = 0;
    const nodes = network.nodes.map((node) => {
      if (!node.levels) return node;
      const levels = node.levels.slice(), copy = { ...node, levels };
      for (let i = -1; p > 0;) {
        i += 1 + (p < 1 ? floor(Math.log(next()) / Math.log(1 - p)) : 0);
        if (!(i < levels.length)) break;
        flipped += Math.abs(levels[i]);
        levels[i] = -levels[i];
      }
      for (const number of levels) total += Math.abs(number);
      if (node.planes) {
        const x = network.sizes[node.inputs[0]], taps = node.options.kernel[0] * node.options.kernel[1];
        copy.planes = layFilters(levels, node.filters, taps, x.channels, node.options.groups, node.ternary);
      }
      return copy;
    });
    return { ...network, nodes, flipped, total };
  }

  // The share of units whose level differs.
  function changedShare(a, b) {
    let differ = 0;
    for (let i = 0; i < a.sign.length; i++)
      differ += popcount((a.sign[i] ^ b.sign[i]) | (a.nonzero ? a.nonzero[i] ^ b.nonzero[i] : 0));
    return differ / (a.height * a.width * a.channels);
  }

  function normal(x) { // the normal distribution function, with an error below 1e-7
    const t = 1 / (1 + 0.3275911 * Math.abs(x) / Math.SQRT2);
    const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    const upper = (tail * Math.exp((-x * x) / 2)) / 2;
    return x > 0 ? 1 - upper : upper;
  }

  // Prediction: what flipped weights change, one layer at a time. `values` are those without flips, `found` those with.
  //
  // A product x w changes its sign with probability P = p + q - 2 p q, where q is the share of the layer's inputs that
  // changed. A sum s of n products -1 or +1 then has mean (1 - 2 P) s and variance 4 P (1 - P) n, and stays s with
  // probability (1 - P)^n; otherwise it is nearly normal. A sum of pixels has the sum of their squares in place of n.
  // Returns the share of changed levels by node, and the probability that the class stays (null: no prediction).
  function predict(network, values, found, p) {
    const shares = {}, spreads = {};
    for (const node of network.nodes) {
      const x = values[node.inputs[0]], y = values[node.name];
      if (!["conv2d", "image_conv2d"].includes(node.op) || node.ternary || x.nonzero || y.nonzero) continue;
      const q = x.kind === "levels" ? changedShare(x, found[node.inputs[0]]) : 0, P = p + q - 2 * p * q;
      const sizes = sizesOfSums(node, x, y.source ?? y);
      if (y.kind === "levels") shares[node.name] = predictedShare(node, y.source, P, sizes);
      else spreads[node.name] = { keep: 1 - 2 * P, spread: Math.sqrt(4 * P * (1 - P) * sizes.squares[0]) };
    }
    return { shares, stays: classStays(network, values, spreads) };
  }

  // For each position the number of products that are not 0, and the sum of their squares.
  function sizesOfSums(node, x, sums) {
    const o = node.options, squares = new Float64Array(sums.height * sums.width), counts = squares.slice();
    eachWindow(x, o, sums.height, sums.width, (at, count, taps, pixels) => {
      if (x.kind === "levels") counts[at] = squares[at] = o.pad_value ? node.fanIn : count * node.depth;
      else
        for (let v = 0; v < count; v++)
          for (let c = 0; c < x.channels; c++) {
            const number = o.multiplier * x.data[pixels[v] * x.channels + c] + o.shift;
            squares[at] += number * number;
            counts[at] += number !== 0;
          }
    });
    return { squares, counts };
  }

  function predictedShare(node, sums, P, { squares, counts }) {
    const low = node.tensors.low.data, n = sums.channels, keep = 1 - 2 * P, bits = node.op === "conv2d";
    let total = 0;
    for (let at = 0, i = 0; at < squares.length; at++) {
      const none = (1 - P) ** counts[at], rest = 1 - none, variance = 4 * P * (1 - P) * squares[at];
      if (!(rest > 0)) { i += n; continue; }
      for (let c = 0; c < n; c++, i++) {
        const s = sums.data[i], mean = ((keep - none) * s) / rest;
        const sd = Math.sqrt(max((variance + keep * keep * s * s - none * s * s) / rest - mean * mean, 1e-9));
        // Sums of bits are all even or all odd: the limit is half-way between the two next to the threshold.
        const limit = !bits ? low[c] - 0.5 : (low[c] ^ s) & 1 ? low[c] : low[c] - 1;
        const below = normal((limit - mean) / sd);
        total += rest * (s < low[c] ? 1 - below : below);
      }
    }
    return total / sums.data.length;
  }

  // The probability that the largest of independent normal logits stays the largest.
  function classStays(network, values, spreads) {
    const last = network.nodes.at(-1), from = spreads[last.inputs[0]];
    if (last.op !== "affine" || !from) return null;
    const sums = values[last.inputs[0]].data, scale = last.tensors.scale.data, shift = last.tensors.shift.data;
    const means = Array.from(sums, (s, c) => scale[c] * from.keep * s + shift[c]);
    const spread = Array.from(sums, (s, c) => Math.abs(scale[c]) * from.spread);
    const top = best(logits(network, values));
    if (!(spread[top] > 0)) return 1;
    let stays = 0;
    for (let k = 0; k < 200; k++) {
      const z = -5 + (k + 0.5) / 20, t = means[top] + z * spread[top];
      let others = 1;
      means.forEach((m, c) => { if (c !== top) others *= spread[c] > 0 ? normal((t - m) / spread[c]) : Number(t > m); });
      stays += (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI) / 20) * others;
    }
    return stays;
  }

  return { load, run, logits, best, level, levels, flip, predict, changedShare, outputs, OPERATIONS: Object.keys(OPERATIONS) };
})();
