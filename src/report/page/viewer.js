'use strict';
// Looks into the maps of a viewer. Its data lies in a script of JSON; embed.rs says how maps are packed.

const NOT_FINITE = 65535;
const MASK_OPACITY = 0.72;

const unbase64 = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

// The codes of a map: the inverse of `embed::codes`.
async function unpack(text, width, height) {
  const zlib = new DecompressionStream('deflate');
  const writer = zlib.writable.getWriter();
  const written = writer.write(unbase64(text)).then(() => writer.close());
  const count = width * height;
  const planes = new Uint8Array(2 * count);
  const reader = zlib.readable.getReader();
  for (let at = 0; ;) {
    const { done, value } = await reader.read();
    if (done) break;
    planes.set(value, at);
    at += value.length;
  }
  await written;
  const codes = new Uint16Array(count);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const folded = planes[i] | planes[count + i] << 8;
      const rest = folded >>> 1 ^ -(folded & 1);
      const left = x ? codes[i - 1] : 0;
      const above = y ? codes[i - width] : 0;
      const corner = x && y ? codes[i - width - 1] : 0;
      codes[i] = rest + left + above - corner;
    }
  }
  return codes;
}

// With a true minus.
const fixed = (value, decimals) => value.toFixed(decimals).replace('-', '\u2212');

function percent(share) {
  if (share > 0 && share < 0.001) return '< 0.1 %';
  if (share < 1 && share > 0.9995) return '> 99.9 %';
  return (100 * share).toFixed(1) + ' %';
}

// The share of a sample below a value, from its quantiles at equal steps.
function below(quantiles, value) {
  const last = quantiles.length - 1;
  if (value <= quantiles[0]) return 0;
  if (value >= quantiles[last]) return 1;
  let [low, high] = [0, last];
  while (high - low > 1) {
    const middle = low + high >> 1;
    if (quantiles[middle] <= value) low = middle; else high = middle;
  }
  return (low + (value - quantiles[low]) / (quantiles[high] - quantiles[low])) / last;
}

function inSample(quantiles, value) {
  if (value === null) return 'not finite';
  const share = below(quantiles, value);
  if (share === 0) return 'below all of the fitted sample';
  if (share === 1) return 'above all of the fitted sample';
  return 'percentile ' + percent(share).replace(' %', '') + ' of the fitted sample';
}

function start(root) {
  const find = selector => root.querySelector(selector);
  const data = JSON.parse(find('script').textContent);
  const { layers, thresholds } = data;
  const maskCanvas = find('canvas.mask');
  const mapCanvas = find('canvas.map');
  const canvases = [maskCanvas, mapCanvas].filter(Boolean);
  const sliders = [...root.querySelectorAll('input[type=range]')];
  const states = [...root.querySelectorAll('.states output')];
  const bars = [...root.querySelectorAll('.shares i')];
  const stateNames = ['certain', 'ambiguous', 'unfamiliar'];
  const pickImage = find('select.image');
  const pickLayer = find('select.layer');
  const spoken = find('.spoken');
  const overlay = document.createElement('canvas');
  for (const { scalar } of layers) if (scalar) scalar.table = unbase64(scalar.colors);

  // What a phone shows between the pictures.
  const firstClasses = Math.max(0, layers.findIndex(({ scalar }) => !scalar));
  let index = -1;
  let maps = [];
  let state = new Uint8Array(0);
  let x = 0;
  let y = 0;
  let speaking = 0;

  const panel = () => data.panels[index];
  const at = () => y * panel().width + x;

  // A number of a map; null where it is not finite.
  function value(layer, pixel) {
    const code = maps[layer][pixel];
    const { low, step } = panel().maps[layer];
    return code === NOT_FINITE ? null : low + code * step;
  }

  const withUnit = (scalar, number) =>
    fixed(number, scalar.decimals) + (scalar.unit ? ' ' + scalar.unit : '');

  function inWords(layer, pixel) {
    const { classes, scalar } = layers[layer];
    if (!scalar) {
      const found = classes[maps[layer][pixel]];
      return found ? found[0] : 'no label';
    }
    const number = value(layer, pixel);
    return number === null ? 'not finite' : withUnit(scalar, number);
  }

  // Which pixels are beyond the thresholds: 0 certain, 1 ambiguous, 2 unfamiliar.
  function drawMask() {
    if (!maskCanvas) return;
    const { width, height } = panel();
    state = new Uint8Array(width * height);
    thresholds.forEach(({ layer, above }, i) => {
      const limit = Number(sliders[i].value);
      const { low, step } = panel().maps[layer];
      const codes = maps[layer];
      for (let p = 0; p < codes.length; p++) {
        const number = low + codes[p] * step;
        if (codes[p] === NOT_FINITE || (above ? number > limit : number < limit)) state[p] = i + 1;
      }
    });
    const counts = [0, 0, 0];
    const pixels = new ImageData(width, height);
    for (let p = 0; p < state.length; p++) {
      const s = state[p];
      counts[s]++;
      if (s === 0) continue;
      pixels.data.set(data.mask[s], 4 * p);
      pixels.data[4 * p + 3] = 255 * MASK_OPACITY;
    }
    overlay.width = width;
    overlay.height = height;
    overlay.getContext('2d').putImageData(pixels, 0, 0);
    const context = maskCanvas.getContext('2d');
    context.drawImage(document.getElementById(root.id + '-' + index), 0, 0, width, height);
    context.drawImage(overlay, 0, 0);
    states.forEach((output, s) => { output.value = percent(counts[s] / state.length); });
    bars.forEach((bar, s) => { bar.style.flexGrow = counts[s]; });
    thresholds.forEach(({ layer }, i) => {
      const limit = withUnit(layers[layer].scalar, Number(sliders[i].value));
      const { quantiles } = layers[layer].scalar;
      const words = sliders[i].previousElementSibling;
      words.querySelector('output').value = limit;
      if (quantiles) words.querySelector('small').textContent = inSample(quantiles, Number(sliders[i].value));
      const share = percent(counts[i + 1] / state.length);
      sliders[i].setAttribute('aria-valuetext', limit + '; ' + stateNames[i + 1] + ': ' + share);
    });
  }

  const place = (scalar, number) =>
    Math.min(1, Math.max(0, (number - scalar.first) / (scalar.last - scalar.first)));

  function drawMap() {
    const layer = Number(pickLayer.value);
    const { classes, scalar, name } = layers[layer];
    const { width, height } = panel();
    const codes = maps[layer];
    const pixels = new ImageData(width, height);
    const counts = new Map();
    for (let p = 0; p < codes.length; p++) {
      let color = [128, 128, 128];
      if (classes) {
        color = classes[codes[p]] ? classes[codes[p]][1] : [0, 0, 0];
        counts.set(codes[p], (counts.get(codes[p]) || 0) + 1);
      } else if (codes[p] !== NOT_FINITE) {
        const step = 3 * Math.round(255 * place(scalar, value(layer, p)));
        color = scalar.table.subarray(step, step + 3);
      }
      pixels.data.set(color, 4 * p);
      pixels.data[4 * p + 3] = 255;
    }
    mapCanvas.getContext('2d').putImageData(pixels, 0, 0);
    mapCanvas.setAttribute('aria-label', name + ' of ' + panel().title);
    find('.view .scale').hidden = !scalar;
    find('.present').hidden = !classes;
    if (scalar) {
      const [first, middle, last] = root.querySelectorAll('.view .scale .ends > *');
      const high = scalar.last > scalar.first;
      find('.view .scale > i').style.background = scalar.gradient;
      [first.textContent, last.textContent] = scalar.ends;
      middle.textContent = (scalar.unit ? scalar.unit + '; ' : '') + (high ? 'bright: high' : 'bright: low');
    } else {
      const present = [...counts].sort((a, b) => b[1] - a[1]).map(([code, count]) => {
        const [label, color] = classes[code] || ['no label', [0, 0, 0]];
        const item = document.createElement('li');
        const swatch = document.createElement('i');
        const share = document.createElement('small');
        swatch.style.background = 'rgb(' + color + ')';
        share.textContent = percent(count / codes.length);
        item.append(swatch, label + ' ', share);
        return item;
      });
      find('.present').replaceChildren(...present);
    }
  }

  function drawPixel() {
    const { width, height, stride } = panel();
    const pixel = at();
    find('.place').textContent = 'row ' + y * stride + ', column ' + x * stride;
    if (maskCanvas) {
      const verdict = find('.verdict');
      verdict.textContent = stateNames[state[pixel]];
      verdict.dataset.state = stateNames[state[pixel]];
    }
    for (const cell of root.querySelectorAll('[data-layer]')) {
      const layer = Number(cell.dataset.layer);
      const { scalar } = layers[layer];
      cell.firstElementChild.textContent = inWords(layer, pixel);
      if (scalar && scalar.quantiles) {
        cell.lastElementChild.textContent = inSample(scalar.quantiles, value(layer, pixel));
      }
    }
    if (maskCanvas) find('.here').textContent = inWords(firstClasses, pixel) + ', ' + stateNames[state[pixel]];
    for (const canvas of canvases) {
      const cross = canvas.nextElementSibling;
      cross.hidden = false;
      cross.style.left = 100 * (x + 0.5) / width + '%';
      cross.style.top = 100 * (y + 0.5) / height + '%';
    }
    const { scalar } = layers[pickLayer.value];
    const marker = find('.marker');
    const number = scalar ? value(Number(pickLayer.value), pixel) : null;
    marker.hidden = number === null;
    if (number !== null) marker.style.left = 100 * place(scalar, number) + '%';
  }

  // For those who listen, once the keys rest.
  function speak() {
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      const words = [...root.querySelectorAll('.readout dl > div')]
        .map(row => row.querySelector('dt').textContent + ': ' + row.querySelector('dd').innerText.replace(/\s+/g, ' '));
      spoken.textContent = words.join('; ');
    }, 200);
  }

  function move(toX, toY) {
    const { width, height } = panel();
    x = Math.min(width - 1, Math.max(0, toX));
    y = Math.min(height - 1, Math.max(0, toY));
    drawPixel();
  }

  async function show(next) {
    const wanted = data.panels[next];
    pickImage.value = next;
    const picture = document.getElementById(root.id + '-' + next);
    wanted.unpacked ??= Promise.all(wanted.maps.map(m => unpack(m.codes, wanted.width, wanted.height)));
    const unpacked = await wanted.unpacked;
    await picture.decode();
    // Another image was chosen meanwhile.
    if (Number(pickImage.value) !== next) return;
    [index, maps] = [next, unpacked];
    find('.note').textContent = wanted.note;
    for (const canvas of canvases) {
      canvas.width = wanted.width;
      canvas.height = wanted.height;
    }
    drawMask();
    drawMap();
    move(wanted.x ?? wanted.width >> 1, wanted.y ?? wanted.height >> 1);
    root.dataset.ready = next;
  }

  const count = data.panels.length;
  const shift = by => show((Number(pickImage.value) + by + count) % count);
  pickImage.addEventListener('change', () => show(Number(pickImage.value)));
  find('.previous').addEventListener('click', () => shift(-1));
  find('.next').addEventListener('click', () => shift(1));
  pickLayer.addEventListener('change', () => { drawMap(); drawPixel(); });
  for (const slider of sliders) {
    slider.addEventListener('input', () => { drawMask(); drawPixel(); });
  }
  for (const canvas of canvases) {
    const point = event => {
      if (index < 0) return;
      const { left, top, width, height } = canvas.getBoundingClientRect();
      move(
        Math.floor((event.clientX - left) / width * canvas.width),
        Math.floor((event.clientY - top) / height * canvas.height));
    };
    canvas.addEventListener('pointerdown', point);
    canvas.addEventListener('pointermove', point);
    canvas.addEventListener('keydown', event => {
      const step = event.shiftKey ? 10 : 1;
      const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
      if (!by || index < 0) return;
      event.preventDefault();
      move(x + by[0], y + by[1]);
      speak();
    });
  }
  for (const button of document.querySelectorAll('.look[data-viewer="' + root.id + '"]')) {
    button.hidden = false;
    button.addEventListener('click', () => {
      show(Number(button.dataset.panel));
      root.scrollIntoView();
      pickImage.focus({ preventScroll: true });
    });
  }
  show(0).catch(error => {
    const problem = find('.problem');
    problem.textContent = 'This browser cannot unpack the maps (' + error.message + '); the pictures below need nothing.';
    problem.hidden = false;
  });
}

document.querySelectorAll('.viewer').forEach(start);
