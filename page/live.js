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
  ['shard_to_written', 'the write, answers too'],
  ['accept_to_written', 'the whole way'],
];
const SHARES = [['p50', 0.5], ['p90', 0.9], ['p99', 0.99]];

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

/** Time of day, `23:05:09`. */
export function clock(date) {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((value) => String(value).padStart(2, '0')).join(':');
}

/** The end of an axis for values up to `most`: 1, 2 or 5 times a power of ten, so that it seldom moves. */
export function ceiling(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, most)));
  return [1, 2, 5, 10].map((step) => step * power).find((end) => end >= most);
}

/** The powers of ten between which all values lie, two decades at least: the ends of a logarithmic axis. */
export function decades(values) {
  const positive = values.filter((value) => value > 0 && Number.isFinite(value));
  if (positive.length === 0) return [2, 5];
  const low = Math.floor(Math.log10(Math.min(...positive)));
  return [low, Math.max(low + 2, Math.ceil(Math.log10(Math.max(...positive))))];
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

/** An axis of two minutes and the lines over it. */
class Plot {
  element = element('div', 'plot');
  #svg = document.createElementNS(SVG, 'svg');
  #grid = this.#shape('grid');
  #marks = element('div', 'marks quiet');
  #lines;
  #shown;

  /** @param {string[]} lines classes of the lines; what is drawn last lies on top */
  constructor(title, lines) {
    this.#svg.setAttribute('viewBox', '0 0 120 40');
    this.#svg.setAttribute('preserveAspectRatio', 'none');
    this.#svg.setAttribute('role', 'img');
    this.#svg.setAttribute('aria-label', `${title}, last two minutes`);
    this.#marks.setAttribute('aria-hidden', 'true');
    this.#shape('grid floor').setAttribute('d', 'M0 40H120');
    this.#lines = lines.map((kind) => ({ area: kind === 'one' ? this.#shape('area') : null, line: this.#shape(`line ${kind}`) }));
    const ends = element('p', 'quiet ends');
    ends.append(element('span', '', '2 min ago'), element('span', '', 'now'));
    this.element.append(this.#svg, this.#marks, ends);
  }

  /**
   * @param {[number, string][]} marks height on the axis, 0 to 1, and what to call it
   * @param {(number | null)[][]} lines heights, one list a line
   */
  show(marks, lines) {
    const y = (height) => 40 - 40 * Math.min(1, Math.max(0, height));
    const shown = JSON.stringify(marks);
    if (this.#shown !== shown) {
      this.#shown = shown;
      this.#grid.setAttribute('d', marks.map(([height]) => `M0 ${y(height)}H120`).join(''));
      this.#marks.replaceChildren(
        ...marks.map(([height, text]) => {
          const mark = element('span', '', text);
          mark.style.top = `${y(height) * 2.5}%`;
          return mark;
        }),
      );
    }
    lines.forEach((heights, n) => {
      const { line, area } = this.#lines[n];
      const runs = path(heights);
      line.setAttribute('d', runs.map((run) => `M${run.map(([x, y]) => `${x} ${y}`).join('L')}`).join(''));
      area?.setAttribute('d', runs.map((run) => `M${run[0][0]} 40L${run.map(([x, y]) => `${x} ${y}`).join('L')}L${run.at(-1)[0]} 40Z`).join(''));
    });
  }

  #shape(kind) {
    const shape = document.createElementNS(SVG, 'path');
    shape.setAttribute('class', kind);
    this.#svg.append(shape);
    return shape;
  }
}

/** A card with a number and a line of the last two minutes. */
class Chart {
  #value = element('p', 'value', '–');
  #parts = element('p', 'quiet parts');
  #plot;

  constructor(parent, title) {
    this.#plot = new Plot(title, ['one']);
    const card = element('article', 'card chart');
    card.append(element('h3', '', title), this.#value, this.#parts, this.#plot.element);
    parent.append(card);
    this.#plot.show([[1, '1']], []);
  }

  show(value, parts, values) {
    this.#value.textContent = value;
    this.#parts.textContent = parts;
    const end = ceiling(Math.max(0, ...values));
    this.#plot.show([[1, amount(end)]], [values.map((value) => (value === null ? null : value / end))]);
  }
}

/** The percentiles of the whole way, over a logarithmic axis. */
class Percentiles {
  #values;
  #plot = new Plot('Time from acceptance to the client’s socket: p50, p90 and p99', SHARES.map(([name]) => name));

  constructor(parent) {
    const list = element('dl', 'percentiles');
    this.#values = SHARES.map(([name]) => {
      const [row, value] = [element('div', name), element('dd', '', '–')];
      row.append(element('dt', '', name), value);
      list.append(row);
      return value;
    });
    parent.append(list, this.#plot.element);
    this.show(SHARES.map(() => []));
  }

  show(lines) {
    lines.forEach((values, n) => {
      const value = values.at(-1) ?? null;
      this.#values[n].textContent = (Number.isFinite(value) ? '≤ ' : '') + duration(value);
    });
    const [low, high] = decades(lines.flat());
    const height = (us) => (us === null ? null : (Math.log10(us) - low) / (high - low));
    const marks = Array.from({ length: high - low + 1 }, (_, n) => [n / (high - low), duration(10 ** (low + n))]);
    this.#plot.show(marks, lines.map((values) => values.map(height)));
  }
}

/** Points of a line of heights, 0 to 1, that ends at the right; in pieces where they are missing. */
export function path(heights) {
  const left = SAMPLES - 1 - (heights.length - 1);
  const runs = [[]];
  heights.forEach((height, n) => {
    if (height === null) runs.push([]);
    else runs.at(-1).push([left + n, Math.round((40 - 40 * Math.min(1, Math.max(0, height))) * 100) / 100]);
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
  const drops = new Chart(charts, 'Drops a second');
  const way = new Percentiles($('way'));
  const stageRows = STAGES.map(([stage, title]) => {
    const row = element('tr', '');
    const name = element('th', '', title);
    name.scope = 'row';
    const cells = SHARES.map(([, share]) => [share, element('td', '', '–')]);
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
    deliveries.show(now(delivered), `answers included · ${now(history.rates((s) => s.pushes))} pushes/s`, delivered);
    const dropped = history.rates((s) => sum(s.drops));
    drops.show(now(dropped), `${amount(sum(stats.drops))} since the start`, dropped);
    way.show(SHARES.map(([, share]) => history.samples.map((_, n) => history.latency('accept_to_written', share, n, LATENCY_WINDOW))));
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
      delete $('gateway').dataset.stale;
      show();
      say('open', 'live');
    } else {
      silentSince ??= new Date(at);
      $('gateway').dataset.stale = '';
      say('waiting', `no answer since ${clock(silentSince)}; what you see is from before`);
    }
    onstats(stats);
    setTimeout(ask, Math.max(0, PERIOD_MS - (Date.now() - at)));
  };
  ask();
}
