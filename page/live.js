// The gateway's numbers: asked for each second, drawn over two minutes.
//
// The gateway sends counters since its start and keeps nothing for us; rates and percentiles are differences made here.

/** Samples kept: two minutes, and the one before them. */
const SAMPLES = 121;
const PERIOD_MS = 1000;
/** An answer that takes longer is none. */
const PATIENCE_MS = 3000;
/** Seconds over which the chart of latency looks back, so that a quiet gateway draws a line too. */
const LATENCY_WINDOW = 10;

const STAGES = [
  ['accept_to_dispatch', 'accepted → handed out'],
  ['dispatch_to_shard', 'handed out → shard'],
  ['shard_to_written', 'shard → written'],
];

// Numbers, without a page

/** Upper bound in µs below which a share of the values lies; null when there are none, Infinity in the last bucket. */
export function percentile(counts, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let left = Math.ceil(total * share);
  const bucket = counts.findIndex((count) => (left -= count) <= 0);
  return bucket === counts.length - 1 ? Infinity : 2 ** bucket;
}

/** What was counted between two samples. */
export function between(before, after) {
  return after.map((count, n) => count - (before?.[n] ?? 0));
}

/** 4 200 µs as `4.2 ms`. */
export function duration(us) {
  if (us === null) return '–';
  if (us === Infinity) return '> 16 s';
  for (const [unit, size] of [['s', 1e6], ['ms', 1e3]]) {
    if (us >= size) return `${short(us / size)} ${unit}`;
  }
  return `${short(us)} µs`;
}

/** Three digits are enough to look at. */
function short(value) {
  return value < 10 && !Number.isInteger(value) ? value.toFixed(1) : String(Math.round(value));
}

/** 12345 as `12,345`, and large ones as `1.23 M`. */
export function amount(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 1e7) return `${(value / 1e6).toPrecision(3)} M`;
  return (value < 10 ? value.toFixed(1).replace('.0', '') : String(Math.round(value))).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** 3723 s as `1 h 2 min`. */
export function span(seconds) {
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const from = units.findIndex(([, size]) => seconds >= size);
  if (from < 0) return '0 s';
  let rest = Math.floor(seconds);
  const parts = units.slice(from, from + 2).map(([unit, size]) => {
    const count = Math.floor(rest / size);
    rest -= count * size;
    return count > 0 ? `${count} ${unit}` : '';
  });
  return parts.filter(Boolean).join(' ');
}

/** The last two minutes. A gap where the gateway did not answer; empty again when it was restarted. */
export class History {
  /** `{ at, stats }`, `stats` null in a gap; oldest first. */
  samples = [];

  add(at, stats) {
    const last = this.samples.findLast((sample) => sample.stats)?.stats;
    if (stats && last && stats.uptime_ms < last.uptime_ms) this.samples = this.samples.map(({ at }) => ({ at, stats: null }));
    this.samples.push({ at, stats });
    if (this.samples.length > SAMPLES) this.samples.shift();
  }

  get last() {
    return this.samples.at(-1)?.stats ?? null;
  }

  /** One value per sample, null in gaps. */
  values(read) {
    return this.samples.map(({ stats }) => (stats ? read(stats) : null));
  }

  /** The growth of a counter a second, by the gateway's own clock. */
  rates(read) {
    return this.samples.map(({ stats }, n) => {
      const before = this.samples[n - 1]?.stats;
      if (!stats || !before || stats.uptime_ms <= before.uptime_ms) return null;
      return ((read(stats) - read(before)) * 1000) / (stats.uptime_ms - before.uptime_ms);
    });
  }

  /** Percentile of a stage over the `seconds` before sample `n`. */
  latency(stage, share, n = this.samples.length - 1, seconds = SAMPLES) {
    const now = this.samples[n]?.stats;
    if (!now) return null;
    const before = this.samples.slice(Math.max(0, n - seconds), n).find((sample) => sample.stats)?.stats;
    return before ? percentile(between(before.stages[stage], now.stages[stage]), share) : null;
  }
}

const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);

// The page

const SVG = 'http://www.w3.org/2000/svg';

/** A card with a number and one or two lines of the last two minutes. */
class Chart {
  #value = element('p', 'value', '–');
  #parts = element('p', 'quiet parts');
  #top = element('span', '', '');
  #svg = document.createElementNS(SVG, 'svg');
  #drawn;
  #format;

  constructor(parent, title, lines = 1, format = amount) {
    this.#format = format;
    this.#svg.setAttribute('viewBox', '0 0 120 40');
    this.#svg.setAttribute('preserveAspectRatio', 'none');
    this.#svg.setAttribute('role', 'img');
    this.#svg.setAttribute('aria-label', `${title}, last two minutes`);
    this.#shape('floor', 'M0 40H120');
    this.#drawn = Array.from({ length: lines }, (_, n) => ({
      area: n === 0 ? this.#shape('area') : null,
      line: this.#shape(n === 0 ? 'line' : 'line two-nd'),
    }));
    const ends = element('p', 'quiet ends');
    ends.append(element('span', '', '2 min'), this.#top);
    const card = element('article', 'card chart');
    card.append(element('h3', '', title), this.#value, this.#parts, this.#svg, ends);
    parent.append(card);
  }

  show(value, parts, ...lines) {
    this.#value.textContent = value;
    this.#parts.replaceChildren(...(Array.isArray(parts) ? parts : [parts]));
    const top = Math.max(0, ...lines.flat().filter(Number.isFinite));
    this.#top.textContent = top > 0 ? `up to ${this.#format(top)}` : '';
    lines.forEach((values, n) => {
      const { line, area } = this.#drawn[n];
      const runs = path(values, top || 1);
      line.setAttribute('d', runs.map((run) => `M${run.map(([x, y]) => `${x} ${y}`).join('L')}`).join(''));
      area?.setAttribute('d', runs.map((run) => `M${run[0][0]} 40L${run.map(([x, y]) => `${x} ${y}`).join('L')}L${run.at(-1)[0]} 40Z`).join(''));
    });
  }

  #shape(kind, d = '') {
    const shape = document.createElementNS(SVG, 'path');
    shape.setAttribute('class', kind);
    shape.setAttribute('d', d);
    this.#svg.append(shape);
    return shape;
  }
}

/** Points of a line that ends at the right, in pieces where values are missing. */
export function path(values, top) {
  const left = SAMPLES - 1 - (values.length - 1);
  const runs = [[]];
  values.forEach((value, n) => {
    if (value === null) runs.push([]);
    else runs.at(-1).push([left + n, Math.round((40 - 38 * Math.min(1, value / top)) * 100) / 100]);
  });
  return runs.filter((run) => run.length > 0).map((run) => (run.length > 1 ? run : [[run[0][0] - 0.5, run[0][1]], run[0]]));
}

function element(name, kind, text = '') {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
}

/** Rows of a list of counts, largest first. */
function rows(list, counts) {
  const entries = Object.entries(counts).filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a);
  const row = ([name, count]) => {
    const made = element('div', '');
    made.append(element('dt', '', name.replaceAll('_', ' ')), element('dd', '', amount(count)));
    return made;
  };
  list.replaceChildren(...(entries.length > 0 ? entries : [['nothing', 0]]).map(row));
}

/**
 * Fills the gateway's half of the page, for as long as it lives.
 *
 * @param {(stats: object | null) => void} onstats with each answer, null without one
 */
export function startLive(onstats) {
  const $ = (id) => document.getElementById(id);
  const history = new History();
  const charts = $('charts');
  const connections = new Chart(charts, 'Connections');
  const rooms = new Chart(charts, 'Rooms');
  const deliveries = new Chart(charts, 'Deliveries a second');
  const pushes = new Chart(charts, 'Pushes a second');
  const drops = new Chart(charts, 'Drops a second');
  const latency = new Chart(charts, 'Time to write', 2, duration);
  const stageRows = STAGES.map(([stage, title]) => {
    const row = element('tr', '');
    const name = element('th', '', title);
    name.scope = 'row';
    const cells = [0.5, 0.99, 0.999].map((share) => [share, element('td', '', '–')]);
    row.append(name, ...cells.map(([, cell]) => cell));
    $('stages').append(row);
    return { stage, cells };
  });

  const show = () => {
    const stats = history.last;
    const now = (rates) => amount(rates.at(-1) ?? null);
    const { tcp, websocket } = stats.connections;
    connections.show(amount(tcp + websocket), `${amount(websocket)} WebSocket · ${amount(tcp)} TCP · ${amount(stats.open)} logged in`, history.values((s) => s.connections.tcp + s.connections.websocket));
    rooms.show(amount(stats.rooms), 'with anybody in them', history.values((s) => s.rooms));
    const delivered = history.rates((s) => s.deliveries);
    deliveries.show(now(delivered), `${amount(stats.deliveries)} since the start`, delivered);
    const pushed = history.rates((s) => s.pushes);
    pushes.show(now(pushed), `${amount(stats.pushes)} since the start`, pushed);
    const dropped = history.rates((s) => sum(s.drops));
    drops.show(now(dropped), `${amount(sum(stats.drops))} since the start`, dropped);
    const over = (share) => history.samples.map((_, n) => history.latency('shard_to_written', share, n, LATENCY_WINDOW));
    const [half, most] = [over(0.5), over(0.99)];
    latency.show(duration(most.at(-1)), [element('span', 'key-one', 'p99'), ' and ', element('span', 'key-two', 'p50'), ` of ${LATENCY_WINDOW} s`], most, half);
    for (const { stage, cells } of stageRows) {
      for (const [share, cell] of cells) cell.textContent = duration(history.latency(stage, share));
    }
    rows($('drops'), stats.drops);
    rows($('bad'), stats.bad_input);
  };

  const say = (state, words) => {
    const line = $('live-state');
    if (line.textContent === words) return; // said already: nothing to announce
    line.dataset.state = state;
    line.textContent = words;
  };

  let silentSince = null;
  const ask = async () => {
    const at = Date.now();
    let stats = null;
    try {
      const answer = await fetch('stats', { signal: AbortSignal.timeout(PATIENCE_MS), cache: 'no-store' });
      if (answer.ok) stats = await answer.json();
    } catch {
      // Said below.
    }
    history.add(at, stats);
    if (stats) {
      silentSince = null;
      show();
      say('open', 'live');
    } else {
      silentSince ??= new Date(at);
      say('waiting', `no answer since ${silentSince.toLocaleTimeString()}; what you see is from before`);
    }
    onstats(stats);
    setTimeout(ask, Math.max(0, PERIOD_MS - (Date.now() - at)));
  };
  ask();
}
