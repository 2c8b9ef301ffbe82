// Charts: thin wrappers about uPlot that follow the page's width and colours, and say in words what they show.
'use strict';

window.edge = (() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const color = (index) => css(`--c${index % 8}`);
  const all = new Set();

  /** A chart in `root`; `options(width)` are uPlot's, made again when the colours change. */
  class Chart {
    constructor(root, label, options, data) {
      this.root = root; this.options = options; this.data = data;
      root.setAttribute('role', 'img');
      this.describe(label);
      this.build();
      this.observer = new ResizeObserver(() => this.resize());
      this.observer.observe(root);
      all.add(this);
    }
    build() {
      if (this.plot) this.plot.destroy();
      const width = Math.max(120, this.root.clientWidth || 300);
      this.plot = new uPlot({ width, legend: { show: false }, ...this.options() }, this.data, this.root);
    }
    describe(label) { this.root.setAttribute('aria-label', label); }
    set(data) { this.data = data; this.plot.setData(data); }
    resize() {
      const width = this.root.clientWidth;
      if (width && width !== this.plot.width) this.plot.setSize({ width, height: this.plot.height });
    }
    remove() { this.observer.disconnect(); this.plot.destroy(); all.delete(this); }
  }

  ['(prefers-color-scheme: dark)', 'print'].forEach((media) => matchMedia(media).addEventListener('change', () => all.forEach((chart) => chart.build())));

  const axis = (more = {}) => ({
    stroke: css('--faint'), grid: { stroke: css('--line'), width: 1 }, ticks: { stroke: css('--line'), width: 1 },
    font: '12px system-ui, sans-serif', ...more,
  });
  const minutes = (_, ages) => ages.map((age) => (age === 0 ? 'now' : `${Math.round(age / 6) / 10} min`));
  const percents = (_, shares) => shares.map((share) => `${Math.round(share * 100)} %`);
  const still = { show: true, points: { show: false }, drag: { x: false, y: false } };

  /** One row of points per class over the last minutes: what was diagnosed when. */
  function lanes(root, classes, historyS) {
    const options = () => ({
      height: 60 + 22 * classes.length, cursor: still,
      scales: { x: { time: false, range: [-historyS, 0] }, y: { range: [-0.5, classes.length - 0.5], dir: -1 } },
      axes: [
        axis({ values: minutes, incrs: [60, 120, 300], space: 40 }),
        axis({ size: 110, splits: () => classes.map((_, index) => index), values: (_, rows) => rows.map((row) => (classes[row] ?? '').slice(0, 14)) }),
      ],
      series: [{}, ...classes.map((name, index) => ({
        label: name, stroke: color(index), paths: () => null,
        points: { show: true, size: 7, fill: color(index), stroke: color(index), width: 0 },
      }))],
    });
    return new Chart(root, 'no diagnosis yet', options, [[], ...classes.map(() => [])]);
  }

  /** Confidence over the last minutes, unusual windows marked. */
  function confidence(root, historyS) {
    const options = () => ({
      height: 150, cursor: still,
      scales: { x: { time: false, range: [-historyS, 0] }, y: { range: [0, 1.02] } },
      axes: [axis({ values: minutes, incrs: [60, 120, 300], space: 40 }), axis({ size: 110, values: percents, incrs: [0.25, 0.5, 1], space: 20 })],
      series: [
        {},
        { label: 'mean', stroke: css('--fill'), width: 2, spanGaps: true, points: { show: false } },
        { label: 'unusual', stroke: css('--bad'), paths: () => null, points: { show: true, size: 8, fill: css('--bad'), width: 0 } },
      ],
    });
    return new Chart(root, 'no diagnosis yet', options, [[], [], []]);
  }

  /** One channel of a window over time in ms. */
  function channel(root, label) {
    const options = () => ({
      height: 110, cursor: { show: false },
      scales: { x: { time: false } },
      axes: [axis({ size: 24, values: (_, times) => times.map((ms, index) => (index === times.length - 1 ? `${ms} ms` : ms)) }), axis({ size: 46 })],
      series: [{}, { stroke: css('--fill'), width: 1, points: { show: false } }],
    });
    return new Chart(root, label, options, [[], []]);
  }

  /** A spectrum, with vertical marks at `faults.at` [{hz, name}]. */
  function spectrum(root, faults) {
    const mark = (plot) => {
      const { ctx, bbox } = plot, names = [...new Set(faults.at.map((one) => one.name.split(' ').pop()))];
      const ends = {}; // of each kind's last label
      ctx.save();
      ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textAlign = 'center';
      faults.at.forEach(({ hz, name }) => {
        const x = plot.valToPos(hz, 'x', true), kind = names.indexOf(name.split(' ').pop());
        if (!(x >= bbox.left && x <= bbox.left + bbox.width)) return;
        ctx.strokeStyle = ctx.fillStyle = color(kind + 1);
        ctx.lineWidth = devicePixelRatio;
        ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
        ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
        if (x - (ends[kind] ?? -Infinity) < ctx.measureText(name).width / 2) return; // no room beside the one before
        ends[kind] = x + ctx.measureText(name).width / 2;
        ctx.fillText(name, x, bbox.top - (4 + 13 * kind) * devicePixelRatio);
      });
      ctx.restore();
    };
    const options = () => ({
      height: 300, cursor: { ...still, points: { show: true } }, padding: [58, 12, 0, 0],
      scales: { x: { time: false } },
      axes: [axis({ label: 'Hz', labelSize: 18, labelFont: '12px system-ui, sans-serif' }), axis({ size: 60 })],
      series: [{}, { stroke: css('--fill'), fill: `${css('--fill')}33`, width: 1.5, points: { show: false } }],
      hooks: { draw: [mark] },
    });
    return new Chart(root, 'no window yet', options, [[], []]);
  }

  /** Lines over the edit's steps; shares of 0 to 1. */
  function steps(root, label, names, data) {
    const options = () => ({
      height: 220, cursor: still,
      scales: { x: { time: false }, y: { range: [0, 1.02] } },
      axes: [axis({ label: 'step', labelSize: 18, labelFont: '12px system-ui, sans-serif' }), axis({ size: 60, values: percents, incrs: [0.25, 0.5, 1], space: 20 })],
      series: [{}, ...names.map((name, index) => ({ label: name, stroke: color(index), width: 2, dash: index ? [6, 4] : undefined, points: { show: false } }))],
    });
    return new Chart(root, label, options, data);
  }

  return { Chart, lanes, confidence, channel, spectrum, steps, color };
})();
