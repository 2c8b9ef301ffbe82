// The page: the event stream, navigation, and the Live view.
'use strict';

(() => {
  const { el, bar, find, percent, views } = edge;
  const VIEWS = ['live', 'forget', 'releases', 'audit'];
  let source = null, asset = new URLSearchParams(location.search).get('asset')?.match(/^[\w.-]{1,64}$/)?.[0] ?? '', model = null, lastMessage = performance.now();
  let charts = {}, history = [], classes = [], shown = null, revision = '';

  const pill = (id, words, kind) => { const node = find(id); if (node.textContent !== words) node.textContent = words; node.className = `pill ${kind}`; };
  const banner = (words) => { const node = find('banner'); if (node.textContent !== words) node.textContent = words; };

  // Navigation

  const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : 'live');

  function navigate() {
    VIEWS.forEach((name) => { find(`view-${name}`).hidden = name !== view(); });
    document.querySelectorAll('nav a').forEach((link) => {
      if (link.hash.slice(1) === view()) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
    });
    refresh(true);
  }

  /** Draw again what the state has changed. */
  function refresh(always) {
    if (!edge.state || !model) return;
    const release = edge.state.models[model].release, now = `${model} ${release?.digest} ${edge.state.models[model].jobs.length}`;
    if (view() === 'forget') views.forget(edge.state, model);
    if (view() === 'releases' && (always || revision !== now)) views.releases(model);
    if (view() === 'audit' && (always || revision !== now)) views.audit(model);
    revision = now;
  }

  function models(names) {
    model ??= names[0];
    document.querySelectorAll('.model-choice').forEach((row) => { row.hidden = names.length < 2; });
    document.querySelectorAll('select.model').forEach((select) => {
      if ([...select.options].map((option) => option.value).join() === names.join()) return;
      select.replaceChildren(...names.map((name) => el('option', { value: name }, name)));
      select.onchange = () => { model = select.value; document.querySelectorAll('select.model').forEach((other) => { other.value = model; }); refresh(true); };
    });
  }

  // State

  function onState(state) {
    edge.state = state;
    // Without the broker nothing is known of the agent.
    const known = state.broker.connected, agent = known ? state.agent : 'unknown', clock = known ? state.clock.synchronised : null;
    find('gateway').textContent = state.gateway;
    document.title = `${state.gateway} – edge-agent`;
    pill('pill-agent', `agent ${agent}${known && state.version ? ` ${state.version}` : ''}`, agent === 'online' ? 'good' : 'bad');
    pill('pill-broker', state.broker.connected ? 'broker connected' : 'no broker', state.broker.connected ? 'good' : 'bad');
    pill('pill-clock', clock === true ? 'clock synchronised' : clock === false ? 'clock not synchronised' : 'clock unknown', clock === true ? 'good' : 'warn');
    banner(!state.broker.connected ? `No connection to the broker: ${state.broker.reason}. It is tried again; what is shown is from before.`
      : state.agent === 'offline' ? 'The agent is offline. The broker keeps the windows until it is back.' : '');
    models(Object.keys(state.models));
    knows(state);
    refusals(state.refused);
    refresh(false);
  }

  // Live

  /** What the gateway diagnoses, and what it has forgotten. */
  function knows(state) {
    const rows = Object.entries(state.models).filter(([, of]) => of.release).map(([name, of]) => {
      const gone = of.release.forgotten, hidden = of.masked.filter((one) => !gone.includes(one)), can = of.release.classes.filter((one) => !of.masked.includes(one) && !gone.includes(one));
      return el('span', {}, Object.keys(state.models).length > 1 && el('b', {}, `${name}: `), `Diagnoses ${can.join(', ')}. `,
        hidden.length > 0 && el('b', { class: 'warn' }, `Is forgetting, and names no more: ${hidden.join(', ')}. `),
        gone.length > 0 ? el('b', {}, 'Has forgotten ', el('del', {}, gone.join(', ')), '.') : 'Has forgotten nothing.', ' ');
    });
    if (find('knows').textContent !== rows.map((row) => row.textContent).join('')) find('knows').replaceChildren(...rows);
  }

  function refusals(list) {
    find('refusals').hidden = !list.length;
    const lines = list.slice(-10).reverse().map((one) => `${one.code}: ${one.reason} (${one.topic})`), root = find('refusals').querySelector('ul');
    if ([...root.children].map((item) => item.textContent).join('\n') !== lines.join('\n')) root.replaceChildren(...lines.map((line) => el('li', {}, line)));
  }

  function choose(name) {
    asset = name; history = []; shown = null;
    find('window-about').textContent = 'A window is caught each second, once one comes.';
    find('spectrum').hidden = true;
    find('channels').replaceChildren();
    connect();
  }

  function classesNow() {
    const names = new Set(Object.values(edge.state?.models ?? {}).flatMap((one) => one.release?.classes ?? []));
    const seen = new Set(history.map((row) => row[1])), own = [...names];
    const of = Object.values(edge.state?.models ?? {}).find((one) => [...seen].every((name) => one.release?.classes.includes(name)));
    const known = (of?.release?.classes ?? own).filter((name) => seen.has(name) || !of?.release?.forgotten.includes(name));
    return [...known, ...[...seen].filter((name) => !names.has(name))];
  }

  function onLive(live) {
    const empty = find('live-empty'), body = find('live-body');
    body.hidden = !live.assets.length;
    if (!live.assets.length) {
      empty.className = 'note';
      empty.textContent = edge.state?.broker.connected ? 'No window has been answered since this page was started. Assets appear here with their first diagnosis.' : '';
      return;
    }
    empty.textContent = '';
    if (!live.assets.some((one) => one.name === asset)) {
      choose(live.assets.reduce((best, one) => (one.age_s < best.age_s ? one : best)).name);
      return;
    }
    if (live.asset !== asset) return;
    assets(live.assets);
    answer(live.assets.find((one) => one.name === asset));
    const rates = [['windows', `${live.per_s.toFixed(1)} per second, all assets`],
      ['latency', live.p50_ms == null ? '–' : `${live.p50_ms.toFixed(1)} ms median, ${live.p99_ms.toFixed(1)} ms for the slowest of a hundred`],
      ['refused', `${Object.entries(edge.state?.counters ?? {}).filter(([name]) => name.startsWith('refused_')).reduce((sum, [, count]) => sum + count, 0)} since the start`],
      ['release', edge.state && Object.values(edge.state.models)[0].release?.digest?.slice(0, 12)]];
    find('rates').replaceChildren(...rates.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value ?? '–')]));
    timeline(live);
  }

  function assets(list) {
    const root = find('assets');
    if ([...root.querySelectorAll('input')].map((input) => input.value).join() !== list.map((one) => one.name).join()) {
      root.replaceChildren(root.querySelector('legend'), ...list.map((one) => el('label', {},
        el('input', { type: 'radio', name: 'asset', value: one.name, checked: one.name === asset, onchange: () => choose(one.name) }), el('b', {}, one.name), el('span', {}))));
    }
    root.querySelectorAll('label').forEach((label, index) => {
      const one = list[index];
      label.querySelector('span').textContent = one.age_s > 10 ? `silent for ${Math.round(one.age_s)} s` : `${one.class}, ${percent(one.confidence)}`;
    });
  }

  function answer(one) {
    find('asset-name').textContent = `Diagnosis of ${one.name}`;
    find('answer-class').textContent = one.class;
    const lost = !edge.state?.broker.connected || edge.state.agent !== 'online', old = one.age_s > 10 || lost;
    find('answer').classList.toggle('stale', old);
    find('answer-sure').textContent = !old ? `${percent(one.confidence)} sure` : `${Math.round(one.age_s)} s ago; ${lost ? 'no connection since' : 'no window since'}`;
    find('answer-most').textContent = `The ${one.top.length} most probable classes`;
    const words = { unusual: 'unlike all training windows', flat: 'a channel is constant', clipped: 'a channel is clipped', gap: 'windows are missing', repeat: 'sent before' };
    find('answer-flags').replaceChildren(...one.flags.map((flag) => el('li', { class: 'pill warn' }, words[flag] ?? flag)));
    find('answer-top').tBodies[0].replaceChildren(...one.top.map(([name, share]) => el('tr', {}, el('th', { scope: 'row' }, name), el('td', { class: 'number' }, percent(share)), el('td', {}, bar(share)))));
  }

  function timeline(live) {
    const before = history.length ? history.at(-1)[5] : -Infinity, now = performance.now() / 1000;
    live.history.forEach(([age, name, confidence, count, unusual]) => {
      const at = Math.round(now + age);
      if (history.length && history.at(-1)[5] >= at) history.pop();
      if (at >= before - 2) history.push([age, name, confidence, count, unusual, at]);
    });
    history = history.filter((row) => row[5] >= now - live.history_s);
    const names = classesNow();
    if (!charts.lanes || names.join('\n') !== classes.join('\n')) {
      classes = names;
      charts.lanes?.remove(); charts.confidence?.remove();
      charts.lanes = edge.lanes(find('chart-lanes'), classes, live.history_s);
      charts.confidence = edge.confidence(find('chart-confidence'), live.history_s);
    }
    const ages = history.map((row) => Math.min(0, row[5] - now));
    charts.lanes.set([ages, ...classes.map((name, index) => history.map((row) => (row[1] === name ? index : null)))]);
    charts.confidence.set([ages, history.map((row) => row[2]), history.map((row) => (row[4] ? row[2] : null))]);
    const last = history.at(-1), unusual = history.filter((row) => row[4]).length, lately = history.filter((row) => row[5] >= now - 60);
    const odd = lately.reduce((sum, row) => sum + row[4], 0), all = lately.reduce((sum, row) => sum + row[3], 0);
    find('unusual').textContent = `Of the ${all} windows of the last minute ${odd} were unlike all training windows (marked red): what is diagnosed of those may be anything.`;
    find('unusual').className = `small ${odd > all / 2 ? 'warn' : ''}`;
    if (last) {
      charts.lanes.describe(`diagnosis second by second; now ${last[1]}; in the last minutes ${[...new Set(history.map((row) => row[1]))].join(', ')}`);
      charts.confidence.describe(`confidence, now ${percent(last[2])}; ${unusual} seconds with unusual windows`);
    }
  }

  function onWindow(picture) {
    if (picture.asset !== asset) return;
    const fresh = !shown || shown.channels.join('\n') !== picture.channels.join('\n'), about = picture.diagnosis;
    shown = picture;
    const ms = picture.samples[0].map((_, index) => (1000 * index) / picture.rate_hz);
    find('window-about').textContent = `${picture.channels.length} channels in ${picture.unit}, ${ms.length} samples at ${picture.rate_hz} Hz${picture.rpm ? `, shaft at ${picture.rpm.toFixed(0)} rpm` : ''}`
      + (about ? `; answered ${about.class}, ${percent(about.confidence)} sure` : '');
    find('spectrum').hidden = false;
    if (fresh) channels(picture);
    picture.samples.forEach((samples, index) => {
      const rms = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
      const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0), words = `rms ${rms.toPrecision(3)}, peak ${peak.toPrecision(3)} ${picture.unit}`;
      charts.channels[index].set([ms, samples]);
      charts.channels[index].describe(`${picture.channels[index]}: ${words}`);
      charts.captions[index].textContent = words;
    });
    drawSpectrum();
  }

  function channels(picture) {
    charts.channels?.forEach((chart) => chart.remove());
    charts.captions = picture.channels.map(() => el('span'));
    const roots = picture.channels.map(() => el('div'));
    find('channels').replaceChildren(...roots.map((root, index) => el('div', {}, el('h4', {}, picture.channels[index], charts.captions[index]), root)));
    charts.channels = roots.map((root, index) => edge.channel(root, picture.channels[index]));
    const select = find('spectrum-channel');
    select.replaceChildren(el('option', { value: 'mean' }, 'mean of all'), ...picture.channels.map((name, index) => el('option', { value: index }, name)));
    select.onchange = drawSpectrum;
    charts.faults ??= { at: [] };
    charts.spectrum ??= edge.spectrum(find('chart-spectrum'), charts.faults);
  }

  function drawSpectrum() {
    const which = find('spectrum-channel').value, { envelope, hz, faults, harmonics } = shown;
    const amplitude = which === 'mean' ? hz.map((_, bin) => envelope.reduce((sum, row) => sum + row[bin], 0) / envelope.length) : envelope[which];
    charts.faults.at = Object.entries(faults).flatMap(([name, base]) => Array.from({ length: name === 'FTF' ? 1 : harmonics }, (_, index) => ({ hz: base * (index + 1), name: index ? `${index + 1}× ${name}` : name })));
    charts.spectrum.set([hz, amplitude]);
    const list = Object.entries(faults).map(([name, base]) => `${name} ${base.toFixed(1)} Hz`).join(', ');
    const top = amplitude.reduce((best, value, bin) => (value > amplitude[best] ? bin : best), 1);
    find('spectrum-about').textContent = list ? `Fault frequencies at ${shown.rpm.toFixed(0)} rpm: ${list}; the spectrum has a line every ${(hz[1] - hz[0]).toFixed(1)} Hz` : 'The release’s card names no bearing, or nobody says how fast the shaft turns: no fault frequencies are marked.';
    charts.spectrum.describe(`envelope spectrum, largest line at ${hz[top].toFixed(0)} Hz. ${list}`);
  }

  // The stream

  function connect() {
    source?.close();
    source = new EventSource(`events?${new URLSearchParams({ asset })}`);
    const on = (name, handle) => source.addEventListener(name, (event) => { lastMessage = performance.now(); handle(JSON.parse(event.data)); });
    on('state', onState);
    on('live', onLive);
    on('window', onWindow);
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) explain(source.url); };
  }

  /** An event source does not tell why it was turned away. */
  async function explain(url) {
    const stop = new AbortController(), answer = await fetch(url, { signal: stop.signal }).catch(() => null);
    if (answer && !answer.ok) banner(`This page is not served: ${(await answer.json().catch(() => ({}))).reason ?? `status ${answer.status}`}. It is tried again.`);
    stop.abort();
  }

  // A browser opens six connections to a host, and each stream holds one: only the tab that is seen has one.
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) source?.close();
    else { lastMessage = performance.now(); connect(); }
  });

  setInterval(() => {
    if (document.hidden || performance.now() - lastMessage < 5000) return;
    if (source?.readyState !== EventSource.CLOSED) banner('The page’s own service does not answer. It is tried again.');
    pill('pill-agent', 'agent unknown', 'bad'); pill('pill-broker', 'broker unknown', 'bad'); pill('pill-clock', 'clock unknown', 'bad');
    if (source?.readyState === EventSource.CLOSED) connect();
  }, 1000);

  addEventListener('hashchange', navigate);
  navigate();
  if (!document.hidden) connect();
})();
