// The story of one forget command, on the page and in the report that `edge-agent report` writes.
'use strict';

(() => {
  /** An element; text is always text, so that no name or reason that comes from outside is ever markup. */
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    Object.entries(attributes).forEach(([key, value]) => {
      if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
      else if (value === true) node.setAttribute(key, '');
      else if (value !== false && value != null) node.setAttribute(key, value);
    });
    node.append(...children.filter((child) => child != null && child !== false));
    return node;
  }

  const PHASES = ['masked', 'probing', 'editing', 'gating', 'exporting', 'verifying', 'shadowing', 'committing', 'erasing', 'done'];
  const percent = (share) => (share == null ? '–' : `${(100 * share).toFixed(share > 0 && share < 0.1 ? 2 : 1)} %`);
  const seconds = (value) => (value == null ? '–' : value < 120 ? `${value.toFixed(1)} s` : `${(value / 60).toFixed(1)} min`);
  const short = (digest) => (digest ? digest.slice(0, 12) : '–');

  function bar(share) {
    const fill = el('div'), node = el('div', { class: 'bar', 'aria-hidden': 'true' }, fill);
    fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    return node;
  }

  function phases(job) {
    const shown = PHASES.filter((name) => name !== 'shadowing' || job.phase === 'shadowing' || job.metrics.shadow);
    const at = shown.indexOf(job.phase), over = job.status === 'successful';
    return el('ol', { class: 'phases', 'aria-label': 'Phases' }, ...shown.map((name, index) => el('li', {
      class: over || index < at ? 'past' : '', 'aria-current': !over && index === at ? 'step' : null,
    }, name)));
  }

  function facts(job) {
    const metrics = job.metrics, rows = [
      ['windows', metrics.windows], ['flip rate', percent(metrics.flip_rate)],
      ['steps', metrics.steps && `${metrics.steps}, the best was ${metrics.chosen_step}`],
      ['time of the edit', seconds(metrics.edit_s)], ['time of the job', seconds(metrics.job_s ?? metrics.child_s)],
      ['memory of the job', metrics.child_peak_mib && `${metrics.child_peak_mib.toFixed(0)} MiB at most`],
      ['release', job.release_after && `${short(job.release_before)} → ${short(job.release_after)}`], ['command', job.id],
    ].filter(([, value]) => value != null && value !== '–');
    return el('dl', { class: 'figures' }, ...rows.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, String(value))]));
  }

  function course(job) {
    const root = el('div'), curve = job.metrics.curve;
    const data = [0, 1, 2].map((column) => curve.map((row) => row[column])), last = curve.at(-1);
    const words = `share of the windows that are still answered ${job.classes.join('+')}, by step: at step ${curve[0][0]} `
      + `${percent(curve[0][1])}, at step ${last[0]} ${percent(last[1])}; of those held out ${percent(last[2])}`;
    const table = el('details', {}, el('summary', {}, 'as a table'), el('table', { class: 'bars' },
      el('thead', {}, el('tr', {}, ...['step', 'edited on', 'held out'].map((name) => el('th', { scope: 'col' }, name)))),
      el('tbody', {}, ...curve.map((row) => el('tr', {}, el('td', {}, String(row[0])), el('td', {}, percent(row[1])), el('td', {}, percent(row[2])))))));
    // Drawn once it has a width: what lies in a closed <details> has none.
    queueMicrotask(() => edge.steps(root, words, ['edited on', 'held out'], data));
    return el('div', {}, el('h3', {}, 'Windows still answered with the class, by step'),
      el('p', { class: 'small' }, 'solid: windows that the edit saw; dashed: held out from it'), root, table);
  }

  function flips(job) {
    const rows = Object.entries(job.metrics.flipped_to).sort((one, other) => other[1] - one[1]);
    const total = rows.reduce((sum, [, count]) => sum + count, 0);
    return el('div', {}, el('h3', {}, 'Where the probed windows flipped to'), el('table', { class: 'bars' },
      el('thead', { class: 'hidden' }, el('tr', {}, ...['class', 'windows', 'share'].map((name) => el('th', { scope: 'col' }, name)))),
      el('tbody', {}, ...rows.map(([name, count]) => el('tr', {}, el('th', { scope: 'row' }, name),
        el('td', { class: 'number' }, String(count)), el('td', {}, bar(count / total)))))));
  }

  function others(job) {
    const rows = Object.entries(job.metrics.gate_classes), names = ['class', 'dreams before', 'after', 'borders kept', 'predicted loss'];
    return el('div', {}, el('h3', {}, 'The classes that stay, by their dreams'), el('div', { class: 'wide', tabindex: '0', role: 'group', 'aria-label': 'classes that stay' }, el('table', { class: 'bars' },
      el('thead', {}, el('tr', {}, ...names.map((name) => el('th', { scope: 'col' }, name)))),
      el('tbody', {}, ...rows.map(([name, of]) => el('tr', {}, el('th', { scope: 'row' }, name),
        ...[of.named_before, of.named_after, of.border_kept, of.predicted_loss].map((share) => el('td', { class: 'number' }, percent(share)))))))));
  }

  function gate(job) {
    return el('div', {}, el('h3', {}, 'The gate'), el('ul', { class: 'reasons' }, ...job.metrics.gate.map((reason) =>
      el('li', { class: reason.passed ? '' : 'bad' }, `${reason.passed ? '✓' : '✗'} ${reason.words}`))));
  }

  function erased(content) {
    const row = (one, left) => {
      const about = Object.entries(one).filter(([key]) => key !== 'what' && key !== 'how').map(([key, value]) => `${key} ${key === 'digest' ? short(value) : value}`);
      return el('li', { class: left ? 'warn' : '' }, `${left ? 'not destroyed: ' : ''}${one.what}${about.length ? ` (${about.join(', ')})` : ''}: ${one.how}`);
    };
    const clock = content.issued.synchronised ? '' : ' (by a clock that was not synchronised)';
    return el('div', {}, el('h3', {}, 'What was destroyed'),
      el('ul', {}, ...content.destroyed.map((one) => row(one, false)), ...content.not_destroyed.map((one) => row(one, true))),
      el('p', { class: 'small' }, `Certificate of ${content.issued.utc}${clock}; row ${content.audit.n} of the audit log.`));
  }

  const HEADLINES = {
    successful: ['forgotten', 'good'], failed: ['not forgotten', 'bad'], rejected: ['refused', 'bad'],
    accepted: ['waits', 'warn'], executing: ['being forgotten', 'warn'],
  };

  /** What the headline of a command says, and how it is coloured. */
  const headline = (job) => HEADLINES[job.status] ?? [job.status, ''];

  /** Everything that is known of a command; `content` is that of its certificate, if it has one. */
  function story(job, content) {
    const metrics = job.metrics ?? {}, whole = { ...job, metrics }, parts = [];
    if (job.status !== 'rejected') parts.push(phases(whole));
    if (job.status === 'executing') parts.push(el('p', {}, `${percent(job.progress)}${job.eta_s ? `, about ${seconds(job.eta_s)} left` : ''}`, bar(job.progress)));
    if (job.reason) parts.push(el('p', { class: 'note bad' }, `${job.code ? `${job.code}: ` : ''}${job.reason}`));
    const columns = [Object.keys(metrics).length && facts(whole), metrics.curve?.length && course(whole), metrics.flipped_to && flips(whole),
      metrics.gate && gate(whole), metrics.gate_classes && others(whole), content && erased(content)].filter(Boolean);
    return [...parts, el('div', { class: 'columns' }, ...columns)];
  }

  Object.assign(edge, { el, bar, percent, seconds, short, headline, story });
})();
