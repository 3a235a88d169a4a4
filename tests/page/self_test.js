'use strict';
// Uses the page as a reader would. The test puts its numbers in the place of the word below.
(async () => {
  const expected = EXPECTED;
  const faults = [];
  const check = (what, found, wanted) => {
    if (JSON.stringify(found) !== JSON.stringify(wanted)) faults.push(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
  };
  const root = document.querySelector('.viewer');
  const find = selector => root.querySelector(selector);
  const until = async what => { while (!what()) await new Promise(resolve => setTimeout(resolve, 20)); };
  const [width, height] = expected.size;
  const mask = find('canvas.mask');
  const map = find('canvas.map');
  const pixels = canvas => canvas.getContext('2d').getImageData(0, 0, width, height).data;
  const pixel = (canvas, x, y) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data];
  const shown = layer => find(`[data-layer="${layer}"] span`).textContent;
  const pointAt = (canvas, x, y) => {
    const { left, top, width: w, height: h } = canvas.getBoundingClientRect();
    const at = { clientX: left + (x + 0.5) / width * w, clientY: top + (y + 0.5) / height * h, bubbles: true };
    canvas.dispatchEvent(new PointerEvent('pointermove', at));
  };
  const press = (key, shiftKey) => mask.dispatchEvent(new KeyboardEvent('keydown', { key, shiftKey, bubbles: true }));
  const share = count => {
    const s = count / (width * height);
    return s > 0 && s < 0.001 ? '< 0.1 %' : (100 * s).toFixed(1) + ' %';
  };
  const states = () => [...root.querySelectorAll('.states output')].map(output => output.value);

  try {
    await until(() => root.dataset.ready === '0');
    check('width of the window', innerWidth, expected.width);
    check('what is wider than the window', document.documentElement.scrollWidth <= innerWidth, true);
    check('dark paper', getComputedStyle(document.body).backgroundColor === 'rgb(20, 24, 27)', expected.dark);

    // Point.
    pointAt(map, 20, 30);
    check('place', find('.place').textContent, 'row 30, column 20');
    check('class', shown(0), 'road <&> "lane"');
    check('entropy', shown(1), expected.entropy);
    check('density', shown(2), expected.density);
    check('percentile', find('[data-layer="2"] small').textContent, 'percentile 25.0 of the fitted sample');
    check('verdict', find('.verdict').textContent, 'unfamiliar');
    pointAt(map, 63, 47);
    check('no label', shown(0), 'no label');
    check('not finite', shown(2), 'not finite');
    check('its verdict', find('.verdict').textContent, 'unfamiliar');
    pointAt(map, 5, 0);
    check('no number', shown(1), 'not finite');

    // Keys.
    pointAt(map, 40, 30);
    mask.focus();
    check('focus', document.activeElement, mask);
    press('ArrowRight', false);
    press('ArrowDown', true);
    press('ArrowUp', false);
    check('after keys', find('.place').textContent, 'row 39, column 41');
    await until(() => find('.spoken').textContent !== '');
    check('spoken', find('.spoken').textContent.startsWith('Place: row 39, column 41; Verdict: ambiguous; Predicted class: road'), true);

    // The mask, before and after a slider is moved.
    check('shares', states(), expected.counts.map(share));
    const before = pixels(mask);
    const certain = pixel(mask, 60, 20);
    const [ambiguous, unfamiliar] = root.querySelectorAll('input[type=range]');
    check('slider', Math.abs(ambiguous.value - 1.25) < 1e-6, true);
    ambiguous.value = 0.5;
    ambiguous.dispatchEvent(new Event('input', { bubbles: true }));
    check('moved shares', states(), expected.moved.map(share));
    const after = pixels(mask);
    let changed = 0;
    for (let i = 0; i < after.length; i += 4) changed += after[i] !== before[i] || after[i + 1] !== before[i + 1];
    check('changed pixels', changed, expected.counts[0] - expected.moved[0]);
    const turned = pixel(mask, 60, 20);
    check('turned to amber', turned[0] > certain[0] - 30 && turned[1] > certain[1] + 20 && turned[2] < certain[2], true);
    unfamiliar.value = unfamiliar.min;
    unfamiliar.dispatchEvent(new Event('input', { bubbles: true }));
    check('nothing unfamiliar but what is no number', states()[2], share(1));

    // Maps: bright where there is reason to worry.
    const layer = find('select.layer');
    const light = ([r, g, b]) => r + g + b;
    check('entropy', light(pixel(map, 20, 47)) > light(pixel(map, 20, 2)) + 300, true);
    layer.value = 2;
    layer.dispatchEvent(new Event('change'));
    check('density', light(pixel(map, 1, 30)) > light(pixel(map, 60, 30)) + 100, true);
    layer.value = 0;
    layer.dispatchEvent(new Event('change'));
    check('classes', [pixel(map, 3, 3), pixel(map, 3, 40)], [[70, 130, 180, 255], [128, 64, 128, 255]]);
    check('legend', find('.present').children.length, 3);

    // Another image.
    document.querySelectorAll('.look')[1].click();
    await until(() => root.dataset.ready === '1');
    check('note', find('.note').textContent, 'note of second.png');
    pointAt(mask, 0, 0);
    check('entropy of the second', shown(1), (2 * 11 / 47).toFixed(3) + ' nats');
  } catch (error) {
    faults.push(String(error));
  }
  const verdict = document.createElement('output');
  verdict.id = 'verdict';
  verdict.textContent = faults.join('; ') || 'all is well';
  document.body.append(verdict);
})();
