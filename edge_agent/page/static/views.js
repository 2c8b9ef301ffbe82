// The views that do not change with each window: Forget, Releases, Audit.
'use strict';

(() => {
  const { el, percent, short, headline, story } = edge;
  const find = (id) => document.getElementById(id);
  const open = new Set(); // commands whose story is unfolded
  const asked = new Map(); // commands from here that the agent has not answered yet: id -> {name, until}
  const ANSWER_MS = 10000;

  async function ask(path, options) {
    let answer;
    try {
      answer = await fetch(path, { signal: AbortSignal.timeout(ANSWER_MS), ...options });
    } catch (error) {
      throw new Error(error.name === 'TimeoutError' ? `no answer within ${ANSWER_MS / 1000} s; are many tabs of this page open?` : 'the page cannot be reached');
    }
    const content = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(content.reason ? `${content.code ? `${content.code}: ` : ''}${content.reason}` : `status ${answer.status}`);
    return content;
  }
  const query = (fields) => new URLSearchParams(fields).toString();

  // Forget

  function classes(state, model) {
    const of = state.models[model], release = of.release;
    const table = find('forget-classes'), acting = find('forget-acting'), ways = state.acting;
    table.hidden = !release;
    if (!release) {
      acting.className = 'note warn';
      acting.textContent = 'No release has been announced yet: the agent is not running, or has not reached the broker.';
      return;
    }
    acting.className = 'note';
    acting.textContent = ways.signed_only ? 'This gateway takes signed commands only: edge-agent unlearn CLASS --key operator.pem'
      : ways.token || ways.proxy ? '' : 'Nobody may ask through this page: set page.token_file or page.user_header. From a shell: edge-agent unlearn CLASS';
    const there = state.broker.connected && state.agent === 'online', may = (ways.token || ways.proxy) && there;
    if (!there) { acting.className = 'note warn'; acting.textContent = `${state.broker.connected ? 'The agent is offline' : 'The broker is out of reach'}: nothing can be asked for now. What is shown is from before.`; }
    const busy = new Set(of.jobs.filter((job) => ['accepted', 'executing'].includes(job.status)).flatMap((job) => job.classes));
    const rows = release.classes.map((name) => {
      const gone = release.forgotten.includes(name), masked = of.masked.includes(name);
      const words = gone ? 'forgotten' : busy.has(name) ? 'being forgotten' : masked ? 'masked' : 'known';
      const cached = of.cached?.[name] ?? (of.cached ? 0 : '–');
      const button = !gone && !busy.has(name) && may && el('button', { type: 'button', 'data-key': name, onclick: () => openDialog(model, name, cached) }, 'Forget ', el('span', { class: 'hidden' }, name), '…');
      return el('tr', {}, el('th', { scope: 'row' }, name), el('td', {}, String(cached)), el('td', { class: gone ? 'good' : busy.has(name) ? 'warn' : '' }, words), el('td', {}, button || ''));
    });
    keepFocus(table, () => table.tBodies[0].replaceChildren(...rows));
  }

  /** Replace content without losing the keyboard's place; never does it move on to another class. */
  function keepFocus(root, replace) {
    const held = root.contains(document.activeElement), key = document.activeElement.dataset.key;
    replace();
    if (held) ([...root.querySelectorAll('[data-key]')].find((one) => one.dataset.key === key) ?? find('main')).focus();
  }

  function openDialog(model, name, cached) {
    const dialog = find('ask'), typed = find('ask-typed'), send = find('ask-send'), token = find('ask-token-row');
    find('ask-title').textContent = `Forget ${name}?`;
    find('ask-about').textContent = `The gateway masks the class at once, edits its model on the ${cached} cached windows, and then destroys them and every release that knows the class. This cannot be undone.`;
    find('ask-typed-label').textContent = `Type ${name} to confirm`;
    find('ask-problem').textContent = '';
    token.hidden = !edge.state.acting.token;
    typed.value = ''; send.disabled = true;
    typed.oninput = () => { send.disabled = typed.value !== name; };
    find('ask-cancel').onclick = () => dialog.close();
    dialog.querySelector('form').onsubmit = async (event) => {
      event.preventDefault();
      if (typed.value !== name) return;
      send.disabled = true;
      const headers = { 'Content-Type': 'application/json' };
      if (!token.hidden) headers.Authorization = `Bearer ${find('ask-token').value}`;
      const body = JSON.stringify({ model, classes: name, typed: typed.value, reason: find('ask-reason').value });
      try {
        const { id, valid_s: validS } = await ask('api/forget', { method: 'POST', headers, body });
        open.add(id);
        asked.set(id, { model, name, until: new Date(Date.now() + 1000 * validS) });
        jobs(edge.state, model);
        find('ask-token').value = '';
        dialog.close();
      } catch (error) {
        find('ask-problem').textContent = error.message;
        send.disabled = false;
      }
    };
    dialog.showModal();
    typed.focus();
  }

  const drawn = new Map(); // id -> {job as it was, element}

  function jobs(state, model) {
    const of = state.models[model], root = find('jobs'), shown = [...of.jobs, ...of.rejected];
    shown.forEach((job) => asked.delete(job.id));
    const waiting = [...asked.values()].filter((one) => one.model === model).map((one) => el('p', { class: 'note warn' }, one.until > Date.now()
      ? `The command to forget ${one.name} was sent; the agent has not answered yet. Void at ${one.until.toLocaleTimeString()}.`
      : `The agent has not answered the command to forget ${one.name}, which is void now.`));
    const elements = shown.map((job) => {
      const key = `${model} ${job.id}`, text = JSON.stringify(job) + of.certificates.includes(job.classes.join(','));
      if (drawn.get(key)?.text !== text) drawn.set(key, { text, element: card(model, job, of) });
      return drawn.get(key).element;
    });
    elements.unshift(...waiting);
    if (!elements.length) root.replaceChildren(el('p', { class: 'note' }, 'No class has been forgotten here, and none is being forgotten.'));
    else if (elements.some((element, index) => root.children[index] !== element) || root.children.length !== elements.length) keepFocus(root, () => root.replaceChildren(...elements));
  }

  function card(model, job, of) {
    const [words, kind] = headline(job), name = job.classes.join(','), certified = of.certificates.includes(name) && job.status === 'successful';
    const details = el('details', { class: 'card job', open: open.has(job.id) || ['accepted', 'executing'].includes(job.status) },
      el('summary', { 'data-key': job.id }, el('b', {}, job.classes.join(' + ')), el('span', { class: kind }, words), el('span', { class: 'small' }, job.status === 'executing' ? `${job.phase}, ${percent(job.progress)}` : job.heard ? new Date(job.heard).toLocaleString() : '')));
    const fill = async () => {
      if (details.dataset.filled) return;
      details.dataset.filled = 'yes';
      let content = null, problem = null;
      if (certified) {
        try { ({ content, problem } = await ask(`api/verify?${query({ model, classes: name })}`)); } catch (error) { problem = error.message; }
      }
      try { details.append(...story(job, content)); } catch { details.append(el('p', { class: 'note bad' }, 'This command’s numbers are not as the agent writes them; they cannot be shown.')); }
      if (certified) details.append(certificate(model, name));
      if (problem) details.append(el('p', { class: 'note bad' }, `certificate: ${problem}`));
    };
    details.addEventListener('toggle', () => { if (details.open) { open.add(job.id); fill(); } else open.delete(job.id); });
    if (details.open) fill();
    return details;
  }

  function certificate(model, name) {
    const verdict = el('span', { role: 'status' });
    const verify = async () => {
      verdict.className = ''; verdict.textContent = ' …';
      try {
        const answer = await ask(`api/verify?${query({ model, classes: name })}`);
        verdict.className = answer.verified ? 'good' : 'bad';
        verdict.textContent = answer.verified ? ` ✓ of this command, not a byte was changed since it was signed with the key that the gateway announces (${answer.key})` : ` ✗ ${answer.problem}`;
      } catch (error) {
        verdict.className = 'bad'; verdict.textContent = ` ✗ ${error.message}`;
      }
    };
    return el('p', {}, el('button', { type: 'button', onclick: verify }, 'Verify the certificate'), ' ', el('a', { href: `api/certificate?${query({ model, classes: name })}`, download: `${name}.json` }, 'Download it'), verdict);
  }

  // Releases

  async function releases(model) {
    const root = find('releases');
    try {
      const { line, problems } = await ask(`api/releases?${query({ model })}`);
      if (!line.length) { root.replaceChildren(el('p', { class: 'note warn' }, 'No release has been announced yet.')); return; }
      root.replaceChildren(...problems.map((words) => el('p', { class: 'note bad' }, words)), el('ol', { class: 'line', reversed: true }, ...line.map(release)));
    } catch (error) {
      root.replaceChildren(el('p', { class: 'note bad' }, error.message));
    }
  }

  function release(row) {
    const card = row.card, forgotten = card.forgotten ?? [], edit = row.edit ?? {}, losses = Object.entries(edit.gate_classes ?? {}).sort((one, other) => other[1].predicted_loss - one[1].predicted_loss);
    const facts = [
      ['digest', el('code', {}, row.digest)], ['name', card.name], ['classes', card.classes && `${card.classes.length - forgotten.length} of ${card.classes.length}`],
      ['has forgotten', forgotten.join(', ')], ['accuracy when trained', card.metrics?.test_accuracy && `${card.metrics.test_accuracy} % on test windows`],
      ['edited on', edit.windows && `${edit.windows} windows in ${edit.steps} steps; ${percent(edit.flip_rate)} flipped in probing`],
      ['predicted loss', losses.length && `${percent(losses[0][1].predicted_loss)} at most, of ${losses[0][0]}`],
      ['took', edit.job_s && `${edit.job_s.toFixed(1)} s`],
      ['knew', row.knew.join(', ')], ['made by command', row.command], ['certificate of', row.issued?.utc],
    ].filter(([, value]) => value);
    return el('li', {}, el('div', { class: 'card' },
      el('h3', {}, row.forgot ? `forgot ${row.forgot.join(', ')}` : 'trained', ' ', row.live ? el('span', { class: 'pill good' }, 'live') : el('span', { class: 'pill' }, row.stored ? 'stored, sealed' : 'destroyed')),
      el('dl', { class: 'figures' }, ...facts.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]))));
  }

  // Audit

  async function audit(model, before) {
    const verdict = find('audit-verdict'), body = find('audit-rows').tBodies[0], more = find('audit-more');
    try {
      const log = await ask(`api/audit?${query(before ? { model, before } : { model })}`);
      verdict.className = `note ${log.verified ? 'good' : 'bad'}`;
      verdict.textContent = log.verified
        ? `✓ ${log.count} rows: each follows the one before, none was changed${log.published ? ', and none is missing at the end' : ''}. Checked just now.`
        : `✗ ${log.problem}`;
      const rows = log.rows.map((row) => el('tr', {}, el('td', {}, String(row.n)), el('td', {}, row.time.utc ?? '', row.time.synchronised === false && el('br'), row.time.synchronised === false && el('span', { class: 'small' }, 'clock not synchronised')),
        el('td', {}, row.event), el('td', {}, el('code', {}, JSON.stringify(row.content)))));
      if (!before) body.replaceChildren(...rows); else body.append(...rows);
      const last = log.rows.at(-1);
      more.hidden = !last || last.n <= 1;
      more.onclick = () => audit(model, last.n);
    } catch (error) {
      verdict.className = 'note bad';
      verdict.textContent = error.message;
      if (!before) body.replaceChildren();
      more.hidden = true;
    }
  }

  Object.assign(edge, { find, views: { forget: (state, model) => { classes(state, model); jobs(state, model); }, releases, audit }, short });
})();
