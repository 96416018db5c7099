// The person's half of the page: log in, listen, talk, push. The gateway's half is live.js, the protocol goim.js.

import { Client, OP } from './goim.js';
import { amount, clock, duration, span, startLive } from './live.js';

/** Messages kept on the page. */
const SHOWN_MAX = 500;
/** More often than the gateway needs, so that the count of people is fresh. */
const HEARTBEAT_MS = 5000;
/** Of a longer message only the beginning is shown, until somebody asks for all. */
const WORDS_MAX = 240;

const $ = (id) => document.getElementById(id);
const words = (id) => $(id).value.split(/[\s,]+/).filter(Boolean);

/** Milliseconds since 1970, in fractions. */
const now = () => performance.timeOrigin + performance.now();

/** Who speaks, as others see it, and from which device. */
let name = '';
let identity = '';
let config = null;
let client = null;

// Log in and out

$('mid').value = 1 + Math.floor(Math.random() * 999);
$('key').value = `web-${Math.random().toString(36).slice(2, 8)}`;

$('login').addEventListener('submit', async (event) => {
  event.preventDefault();
  // Whoever is quicker than the first answer of the gateway waits for it.
  if (!$('url').value) await readConfig().catch(() => {});
  if (!$('url').value) return showState({ name: 'closed', why: 'the gateway does not say where its WebSocket is', code: 1006 });
  const mid = $('mid').value;
  name = `user ${mid}`;
  const key = $('key').value;
  proposeRoom(words('rooms')[0]);
  identity = `${name}, key ${key.length > 24 ? `${key.slice(0, 23)}…` : key}`;
  client?.close();
  client = new Client($('url').value, {
    mid,
    key,
    rooms: words('rooms'),
    accepts: words('accepts').map(Number),
    heartbeatMs: HEARTBEAT_MS,
    onstate: showState,
    onmessage: showMessage,
    onpeople: (count) => {
      people = count;
      showRooms();
    },
  });
  client.connect();
});

// A browser points at what is wrong only where it can be seen.
$('login').addEventListener('invalid', ({ target }) => $('more').contains(target) && ($('more').open = true), true);
$('leave').addEventListener('click', () => client.close());
$('retry').addEventListener('click', () => client.connect());
// The network is back: no reason to wait longer.
addEventListener('online', () => client?.state.name === 'waiting' && client.connect());

let countdown = null;
let people = null;
/** Since when there is no connection, and how often it was tried since. */
let lost = null;

function showState(state) {
  clearInterval(countdown);
  const { name, why, code } = state;
  const left = name === 'closed' && code === 1000;
  if (name === 'waiting') lost ??= { at: now(), attempts: 0 };
  else if (name === 'connecting' && lost) lost.attempts++;
  const shown = $('state');
  shown.dataset.state = left ? 'idle' : name;
  if (name === 'waiting') {
    // Announced once, without the seconds.
    const seconds = cell('', '');
    seconds.setAttribute('aria-hidden', 'true');
    const tick = () => (seconds.textContent = ` in ${Math.max(0, Math.ceil((state.until - Date.now()) / 1000))} s`);
    tick();
    countdown = setInterval(tick, 250);
    const line = cell('', 'reconnecting');
    line.append(seconds, `, attempt ${lost.attempts + 1}, because: ${why} (${code})`);
    shown.replaceChildren(line);
  } else {
    shown.textContent = {
      idle: 'not connected',
      connecting: lost ? `connecting, attempt ${lost.attempts}` : 'connecting',
      open: `connected as ${identity}`,
      closed: left ? 'logged out' : `closed for good because: ${why} (${code})`,
    }[name];
  }
  const away = name === 'idle' || name === 'closed';
  $('login').hidden = !away;
  $('inside').hidden = away;
  $('leave').hidden = away;
  $('retry').hidden = name !== 'waiting';
  for (const control of $('inside').querySelectorAll('input, button')) control.disabled = name !== 'open';
  if (name !== 'open') people = null;
  if (name === 'waiting') addEvent(`${why} (${code}); attempt ${lost.attempts + 1} in ${duration(Math.max(0, state.until - Date.now()) * 1000)}`);
  else if (name === 'open') addEvent(lost ? `connected after ${duration((now() - lost.at) * 1000)}, at attempt ${lost.attempts}; what was sent meanwhile is lost` : 'connected');
  else if (why && !left) addEvent(`${why} (${code})`);
  if (name === 'open' || away) lost = null;
  note('');
  showRooms();
  // The form that had the keyboard is gone, or was disabled for a while.
  const focused = document.activeElement;
  if (name === 'open' && (focused === document.body || $('login').contains(focused))) $('chat-text').focus({ preventScroll: true });
}

// Rooms

function showRooms() {
  const list = $('memberships');
  const open = client?.state.name === 'open';
  const rooms = client?.rooms ?? [];
  const counts = people === null ? '' : ` · ${people} here`;
  // Only what changed is touched, or the keyboard's focus would be lost with every heartbeat.
  const key = JSON.stringify([rooms, client?.firstRoom, open]);
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(
      ...rooms.map((room) => {
        const first = room === client.firstRoom;
        const item = document.createElement('li');
        item.classList.toggle('first', first);
        const speak = button(room, first ? `You speak in ${room}` : `Speak in ${room}`, () => client.speakIn(room));
        speak.setAttribute('aria-pressed', String(first));
        item.append(speak, button('×', `Leave ${room}`, () => leave(room)));
        for (const control of item.children) control.disabled = !open;
        return item;
      }),
    );
  }
  const first = list.querySelector('.first button');
  if (first) {
    first.textContent = client.firstRoom + counts;
    first.title = people === null ? `You speak in ${client.firstRoom}` : `You speak in ${client.firstRoom}, ${people} are there`;
  }
  $('chat-text').placeholder = client?.firstRoom ? `Say something in ${client.firstRoom}` : 'Join a room to speak';
}

function button(text, title, act) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.title = title;
  if (text === '×') made.setAttribute('aria-label', title);
  made.addEventListener('click', () => attempt(async () => {
    await act();
    await countAnew();
  }));
  return made;
}

/** The count is of the first room: with another one it is not known until a heartbeat has told. */
async function countAnew() {
  people = null;
  people = await client.heartbeat();
}

/** Leaves a room; the next one becomes the one to speak in. */
async function leave(room) {
  await client.leave(room);
  const [next] = client.rooms;
  if (client.firstRoom === null && next) await client.speakIn(next);
}

$('join').addEventListener('submit', (event) => {
  event.preventDefault();
  const room = $('join-room').value.trim();
  if (room === '') return;
  attempt(async () => {
    const first = client.firstRoom;
    await client.join(room);
    $('join-room').value = '';
    if (client.firstRoom !== first) await countAnew();
  });
});

/** Does something with the client and says what went wrong. */
async function attempt(act) {
  try {
    await act();
    note('');
  } catch (error) {
    note(error.message);
  }
  showRooms();
}

function note(text) {
  if ($('client-note').textContent !== text) $('client-note').textContent = text;
}

// Messages

let arrived = 0;
const latencies = [];

/** What this page sends: words, who says them, and when. */
const wrap = (text) => JSON.stringify({ text, from: name || undefined, sent: Math.round(now() * 10) / 10 });

function unwrap(text, body) {
  try {
    const value = JSON.parse(text);
    if (typeof value?.text === 'string' && typeof value.sent === 'number') return value;
  } catch {
    // Not of this page: shown as it is.
  }
  return { text: readable(text, body) };
}

/** What is no text as bytes. */
function readable(text, body) {
  if (!/[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]/.test(text)) return text;
  const bytes = Array.from(body.subarray(0, 32), (byte) => byte.toString(16).padStart(2, '0'));
  return `(${amount(body.length)} bytes) ${bytes.join(' ')}${body.length > bytes.length ? ' …' : ''}`;
}

/** A text, or its beginning and a button for the rest. */
function wordsOf(text) {
  if (text.length <= WORDS_MAX) return [text];
  const begin = document.createTextNode(`${text.slice(0, WORDS_MAX).replace(/[\ud800-\udbff]$/, '')}… `);
  const more = document.createElement('button');
  more.type = 'button';
  more.className = 'link';
  more.textContent = `show all ${amount(text.length)} characters`;
  more.addEventListener('click', () => {
    begin.data = text;
    more.remove();
    $('messages').focus({ preventScroll: true });
    follow(isAtEnd());
  });
  return [begin, more];
}

function showMessage({ op, seq, body, text }) {
  const message = unwrap(text, body);
  const item = document.createElement('li');
  const own = op === OP.SEND_REPLY && seq !== 0;
  item.classList.toggle('own', own);
  const what = cell('words', '');
  if (message.from || own) what.append(cell('who', `${own ? 'you' : message.from}  `));
  what.append(...wordsOf(message.text || '(empty)'));
  const late = cell('ms', '');
  if (message.sent) {
    const us = (now() - message.sent) * 1000;
    late.textContent = us < -1000 ? 'other clock' : duration(Math.max(us, 0));
    late.title = 'from the sender’s clock to this one';
    if (us >= -1000) summarise(us);
  }
  item.append(time(), cell('op', op === OP.SEND_REPLY ? 'chat' : String(op)), what, late);
  append(item);
  $('count').textContent = String(++arrived);
}

/** Half of the last hundred were faster than this. */
function summarise(us) {
  latencies.push(us);
  if (latencies.length > 100) latencies.shift();
  const sorted = [...latencies].sort((a, b) => a - b);
  $('latency-summary').textContent = ` · median ${duration(Math.max(0, sorted[sorted.length >> 1]))}`;
}

function addEvent(text) {
  const item = document.createElement('li');
  item.className = 'event';
  item.append(time(), cell('op', ''), cell('words', text));
  append(item);
}

/** Rows that wait to be shown: a busy room brings thousands a second, and the page is laid out once for many. */
let waiting = [];

function append(item) {
  if (waiting.length === 0) setTimeout(flush, 30);
  waiting.push(item);
  if (waiting.length > SHOWN_MAX) waiting.shift();
}

function flush() {
  const list = $('messages');
  list.append(...waiting);
  // Who reads further up is left there.
  if (!following) unseen += waiting.length;
  waiting = [];
  while (list.childElementCount > SHOWN_MAX) list.firstElementChild.remove();
  stay();
  showUnseen();
}

/** The end of the list is in sight, and stays there until somebody scrolls up. */
let following = true;
let scrolled = 0;
let width = 0;
let unseen = 0;

function showUnseen() {
  $('newer').hidden = unseen === 0;
  $('newer').textContent = `↓ ${amount(unseen)} new`;
}

$('newer').addEventListener('click', () => {
  follow(true);
  stay();
  $('messages').focus({ preventScroll: true });
});

function isAtEnd() {
  const list = $('messages');
  return list.scrollHeight - list.scrollTop - list.clientHeight < 8;
}

function follow(yes) {
  following = yes;
  $('messages').classList.toggle('following', yes);
  if (yes) unseen = 0;
  showUnseen();
}

function stay() {
  if (following) $('messages').scrollTop = $('messages').scrollHeight;
}

follow(true);
$('messages').addEventListener('scroll', ({ target: list }) => {
  if (isAtEnd()) follow(true);
  else if (list.scrollTop < scrolled && list.clientWidth === width) follow(false);
  else stay(); // nobody scrolled up: the list was laid out anew
  scrolled = list.scrollTop;
});

// A phone that is turned; it takes more than one step to lay the list out.
new ResizeObserver(([{ target: list }]) => {
  width = list.clientWidth;
  stay();
  requestAnimationFrame(stay);
}).observe($('messages'));

function time() {
  const made = document.createElement('time');
  const moment = new Date();
  made.dateTime = moment.toISOString();
  made.textContent = `${clock(moment)}.${Math.floor(moment.getMilliseconds() / 100)}`;
  return made;
}

function cell(kind, content) {
  const made = document.createElement('span');
  made.className = kind;
  made.textContent = content;
  return made;
}

$('chat').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('chat-text').value;
  if (text === '') return;
  attempt(async () => {
    const said = client.send(wrap(text));
    $('chat-text').value = '';
    try {
      await said;
    } catch (error) {
      $('chat-text').value ||= text;
      throw error;
    }
  });
});

// Push over HTTP

const TARGETS = {
  room: ['Rooms', 'live://1000'],
  keys: ['Device keys', ''],
  mids: ['Users', ''],
  all: [null, ''],
};

/** Whoever has not chosen another room pushes to the one they speak in. */
function proposeRoom(room) {
  const before = TARGETS.room[1];
  TARGETS.room[1] = room ?? before;
  if (target() === 'room' && $('target').value === before) $('target').value = TARGETS.room[1];
  else if (typed.room === before) typed.room = TARGETS.room[1];
}

const target = () => $('push').elements.to.value;
const typed = {};
let targeted = 'room';

$('push').addEventListener('change', (event) => {
  if (event.target.name !== 'to') return;
  typed[targeted] = $('target').value;
  targeted = target();
  const [label, proposal] = TARGETS[targeted];
  $('target-label').hidden = label === null;
  $('target-name').textContent = label ?? '';
  $('target').value = typed[targeted] ?? (targeted === 'keys' ? $('key').value : targeted === 'mids' ? $('mid').value : proposal);
});

$('push').addEventListener('submit', async (event) => {
  event.preventDefault();
  const say = (text, bad = false) => {
    $('push-note').textContent = text;
    $('push-note').classList.toggle('bad', bad);
  };
  try {
    const begun = performance.now();
    const headers = $('token').value ? { Authorization: `Bearer ${$('token').value}` } : {};
    const urls = pushUrls();
    const body = $('timed').checked ? wrap($('body').value) : $('body').value;
    let absent = [];
    for (const url of urls) {
      const response = await fetch(url, { method: 'POST', headers, body });
      const answer = await response.json();
      if (answer.code !== 0) throw new Error(answer.code === -401 ? 'refused: the token is missing or wrong' : `refused: ${answer.message} (${answer.code})`);
      absent = absent.concat(answer.data?.offline ?? []);
    }
    const taken = `accepted in ${duration((performance.now() - begun) * 1000)}`;
    say(absent.length > 0 ? `${taken}; nobody is there for ${absent.join(', ')}` : taken);
  } catch (error) {
    say(error instanceof TypeError ? 'the gateway did not answer' : error.message, true);
  }
});

/** One URL; for rooms one a type, as the API wants them. */
function pushUrls() {
  const to = target();
  const query = new URLSearchParams({ operation: $('operation').value });
  if (to === 'all') return [`/goim/push/all?${query}`];
  const values = words('target');
  if (values.length === 0) throw new Error(`${TARGETS[to][0].toLowerCase()} are missing`);
  if (to !== 'room') {
    for (const value of values) query.append(to, value);
    return [`/goim/push/${to}?${query}`];
  }
  const types = new Map();
  for (const value of values) {
    const [, type, room] = /^(.+?):\/\/(.+)$/.exec(value) ?? [];
    if (!room) throw new Error(`${value} is no room: type://name`);
    types.set(type, [...(types.get(type) ?? []), room]);
  }
  return [...types].map(([type, rooms]) => {
    const one = new URLSearchParams(query);
    one.set('type', type);
    for (const room of rooms) one.append('room', room);
    return `/goim/push/room?${one}`;
  });
}

// The gateway

/** Asked again after each silence: what answers then may be another one, on another port. */
async function readConfig() {
  const answer = await fetch('config.json', { cache: 'no-store' });
  if (!answer.ok) return;
  config = await answer.json();
  // A browser lets a page of HTTPS open no WebSocket without TLS.
  const [scheme, port] = location.protocol === 'https:' ? ['wss', config.wss_port] : ['ws', config.websocket_port];
  if (!$('url').value && port) $('url').value = `${scheme}://${location.hostname}:${port}${config.websocket_path}`;
  $('token-label').hidden = $('token-help').hidden = !config.push_token;
}

let silent = true;
startLive((stats) => {
  if (stats && silent) readConfig().catch(() => (silent = true));
  silent = !stats;
  if (config && stats) {
    $('about').textContent = `${config.version} · ${config.driver} · ${config.shards} ${config.shards === 1 ? 'shard' : 'shards'} · up\u00a0${span(stats.uptime_ms / 1000).replaceAll(' ', '\u00a0')}`;
  }
});
showState({ name: 'idle' });
