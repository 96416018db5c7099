/**
 * A client of goim's protocol over WebSocket, for browsers and for anything else that has a `WebSocket`.
 *
 * One file, no dependencies, no build step: copy it. It needs nothing of the page around it.
 *
 *     import { Client } from './goim.js';
 *
 *     const client = new Client('ws://127.0.0.1:3102/sub', {
 *       mid: 1, key: 'phone-1', rooms: ['live://1000'], accepts: [1000],
 *       onmessage: ({ op, text }) => console.log(op, text),
 *       onstate: (state) => console.log(state.name, state.why ?? ''),
 *     });
 *     client.connect();
 *     await client.send('hello');          // to everybody in the first room, oneself included
 *     await client.join('live://2000');    // beside the first one
 *
 * What it takes care of: the login; the frames of a batch (operation 9) and of a message that holds several; heartbeats,
 * and a server that stops answering them; coming back after a loss, with exponential back-off and full jitter, in the
 * rooms it was in; and close codes that say not to come back, or not so soon.
 *
 * A frame: packLen i32, headerLen i16 = 16, ver i16, op i32, seq i32, body; all big-endian.
 */

/** Operations. A reply has the number of its request plus one, and its seq. */
export const OP = Object.freeze({
  HEARTBEAT: 2,
  SEND: 4,
  SEND_REPLY: 5,
  DISCONNECT: 6,
  AUTH: 7,
  AUTH_REPLY: 8,
  RAW: 9,
  CHANGE_ROOM: 12,
  SUBSCRIBE: 14,
  UNSUBSCRIBE: 16,
  // Halley's own; goim does not know them.
  JOIN_ROOM: 2_000_000_000,
  LEAVE_ROOM: 2_000_000_002,
});

const HEADER_LEN = 16;

/** Longest body that a server takes from a client, bytes. */
export const BODY_MAX = 4096;

/** A `delay_ms` of the server beyond this is not believed. */
const DELAY_MAX_MS = 10 * 60_000;

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder();

/** Bytes that are no frames. */
export class WireError extends Error {
  name = 'WireError';
}

/**
 * One frame as bytes.
 *
 * @param {number} op
 * @param {number} seq
 * @param {string | Uint8Array} [body]
 * @param {number} [ver]
 * @returns {Uint8Array}
 */
export function encode(op, seq, body = '', ver = 1) {
  const bytes = typeof body === 'string' ? utf8.encode(body) : body;
  const frame = new Uint8Array(HEADER_LEN + bytes.length);
  const view = new DataView(frame.buffer);
  view.setInt32(0, frame.length);
  view.setInt16(4, HEADER_LEN);
  view.setInt16(6, ver);
  view.setInt32(8, op);
  view.setInt32(12, seq);
  frame.set(bytes, HEADER_LEN);
  return frame;
}

/**
 * All frames of one WebSocket message, those inside a batch (operation 9) one by one in their place.
 *
 * @param {ArrayBuffer | Uint8Array} message
 * @returns {{ ver: number, op: number, seq: number, body: Uint8Array }[]}
 * @throws {WireError} when the message does not consist of whole frames; then none of them is returned
 */
export function decode(message) {
  return [...framesOf(message instanceof Uint8Array ? message : new Uint8Array(message), false)];
}

function* framesOf(bytes, inBatch) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length; ) {
    const rest = bytes.length - at;
    if (rest < HEADER_LEN) throw new WireError(`${rest} bytes behind the last frame`);
    const packLen = view.getInt32(at);
    if (packLen < HEADER_LEN || packLen > rest) throw new WireError(`packLen ${packLen}, ${rest} bytes are there`);
    if (view.getInt16(at + 4) !== HEADER_LEN) throw new WireError(`headerLen ${view.getInt16(at + 4)}`);
    const body = bytes.subarray(at + HEADER_LEN, at + packLen);
    const op = view.getInt32(at + 8);
    if (op !== OP.RAW) {
      yield { ver: view.getInt16(at + 6), op, seq: view.getInt32(at + 12), body };
    } else if (inBatch) {
      throw new WireError('a batch inside a batch');
    } else {
      yield* framesOf(body, true);
    }
    at += packLen;
  }
}

/** Close codes that are not simply "come back": what to do, and words for people. */
const CODES = new Map([
  [1000, ['again', 'closed by the server']],
  [1001, ['again', 'the server is going away']],
  [1002, ['never', 'protocol violation']],
  [1003, ['never', 'data of the wrong kind']],
  [1005, ['again', 'closed without a reason']],
  [1006, ['again', 'the connection was lost']],
  [1007, ['never', 'bad UTF-8']],
  [1008, ['slowly', 'a limit was broken']],
  [1009, ['never', 'a message was too big']],
  [1011, ['again', 'server error']],
  [1013, ['slowly', 'the server is overloaded']],
  [4401, ['never', 'the login was refused']],
  [4403, ['never', 'not permitted']],
  [4408, ['again', 'the server waited too long for us']],
  [4409, ['never', 'replaced by a newer login with the same key']],
  [4410, ['again', 'the token expired']],
  [4413, ['again', 'we read too slowly']],
  [4420, ['never', 'closed by the operator']],
]);

/**
 * What the end of a connection asks for.
 *
 * `told` is the body of an operation 6 that came before the close; where the two differ it wins, because it knows this
 * case and the code only its kind.
 *
 * @param {number} code of the WebSocket close
 * @param {string} [reason] of the WebSocket close
 * @param {{ code?: number, reason?: string, reconnect?: boolean, delay_ms?: number } | null} [told]
 * @returns {{ code: number, again: boolean, slowly: boolean, delayMs: number, why: string }}
 */
export function verdict(code, reason = '', told = null) {
  const known = Number.isInteger(told?.code) ? told.code : code;
  const [advice, words] = CODES.get(known) ?? ['again', `closed with code ${known}`];
  const said = told?.reason || reason;
  const delay = told?.delay_ms;
  return {
    code: known,
    again: typeof told?.reconnect === 'boolean' ? told.reconnect : advice !== 'never',
    slowly: advice === 'slowly',
    delayMs: Number.isFinite(delay) && delay > 0 ? Math.min(delay, DELAY_MAX_MS) : 0,
    why: said && !words.includes(said) ? `${words}: ${said}` : words,
  };
}

/**
 * How long to wait before coming back: anything up to a bound that doubles with each attempt ("full jitter"), so that
 * the clients of a server that went away do not all return in the same moment.
 *
 * @param {number} attempt 0 for the first
 * @param {{ baseMs: number, factor: number, capMs: number }} bounds
 * @param {() => number} [random] from 0 to below 1
 * @returns {number} milliseconds
 */
export function backoff(attempt, { baseMs, factor, capMs }, random = Math.random) {
  return random() * Math.min(capMs, baseMs * factor ** attempt);
}

const DEFAULTS = {
  /** User: a number, or text, which a number above 2^53 has to be. */
  mid: 0,
  /** Device; one connection per key. Empty: the server makes one up, anew for each connection. */
  key: '',
  /** Rooms, the first one first: chat goes there and heartbeats count there. More than one needs Halley. */
  rooms: [],
  /** Operations of pushes to keys, users and everybody that shall arrive. Rooms do not ask. */
  accepts: [],
  platform: 'web',
  /** Called before each login; what it returns (or promises) goes into the login's body: a fresh token, say. */
  credentials: null,
  /** Pause between heartbeats; the server gives up after a multiple of what it tells in /goim/nodes/weighted. */
  heartbeatMs: 25_000,
  /** Longest wait for the login, for a heartbeat and for every other answer. */
  answerMs: 10_000,
  /** Bounds of the back-off. */
  backoff: { baseMs: 500, factor: 2, capMs: 30_000 },
  /** Added to it when the server asks for mercy (1008, 1013). */
  slowMs: 15_000,
  /** A connection that held this long was a good one: the next loss begins at attempt 0 again. */
  stableMs: 10_000,
  /** `({ op, seq, body, text })` for every message; `body` is bytes, `text` the same as UTF-8. */
  onmessage: null,
  /** `(state)` whenever {@link Client.state} changes. */
  onstate: null,
  /** `(people)` in the first room, with each heartbeat. */
  onpeople: null,
  // What a test replaces.
  WebSocket: globalThis.WebSocket,
  random: Math.random,
  now: () => Date.now(),
  setTimeout: (call, ms) => setTimeout(call, ms),
  clearTimeout: (id) => clearTimeout(id),
};

/** One device, over as many connections as it takes. */
export class Client {
  #url;
  #options;
  #state = { name: 'idle' };
  #socket = null;
  /** The first room, or null. */
  #first;
  #others;
  #seq = 0;
  /** Requests without an answer, by seq. */
  #pending = new Map();
  /** What an operation 6 said. */
  #told = null;
  #attempt = 0;
  #openedAt = 0;
  /** The one timer: deadline of the login, next heartbeat, or next attempt. */
  #timer = null;

  /**
   * @param {string} url such as `ws://127.0.0.1:3102/sub`
   * @param {Partial<typeof DEFAULTS>} [options]
   */
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = { ...DEFAULTS, ...options, backoff: { ...DEFAULTS.backoff, ...options.backoff } };
    const [first = null, ...others] = this.#options.rooms;
    this.#first = first;
    this.#others = new Set(others);
  }

  /**
   * What is true now:
   * `{name: 'idle'}`;
   * `{name: 'connecting', attempt}`;
   * `{name: 'open', since}`;
   * `{name: 'waiting', why, code, attempt, until}`: tries again at `until` (ms since 1970);
   * `{name: 'closed', why, code}`: for good, or until {@link connect} is called.
   */
  get state() {
    return this.#state;
  }

  /** Rooms, the first one first. */
  get rooms() {
    return [...(this.#first === null ? [] : [this.#first]), ...this.#others];
  }

  /** The room that {@link send} speaks to, or null. */
  get firstRoom() {
    return this.#first;
  }

  /** Connects; when it waits for the next attempt, at once. */
  connect() {
    if (this.#state.name === 'connecting' || this.#state.name === 'open') return;
    if (this.#state.name !== 'waiting') this.#attempt = 0;
    this.#begin();
  }

  /** Leaves, and stays away. */
  close() {
    this.#drop();
    this.#enter({ name: 'closed', why: 'you left', code: 1000 });
  }

  /**
   * Sends any operation and waits for its answer.
   *
   * @param {number} op
   * @param {string | Uint8Array} [body] at most {@link BODY_MAX} bytes
   * @returns {Promise<Uint8Array>} body of the answer
   */
  request(op, body = '') {
    return new Promise((resolve, reject) => {
      if (this.#state.name !== 'open') throw new Error('not connected');
      this.#ask(op, body, resolve, reject);
    });
  }

  /** Says something to everybody in the first room. */
  async send(body) {
    const answer = await this.request(OP.SEND, body);
    if (answer.length === 0 && body.length > 0) throw new Error('nobody got it: you speak in no room, or chat is off');
  }

  /** People in the first room, over the whole cluster. */
  async heartbeat() {
    const body = await this.request(OP.HEARTBEAT);
    const people = body.length >= 4 ? new DataView(body.buffer, body.byteOffset).getInt32(0) : 0;
    this.#options.onpeople?.(people);
    return people;
  }

  /** Enters a room: as the first one when there is none, else beside it. */
  async join(room) {
    if (this.rooms.includes(room)) return;
    const asFirst = this.#first === null;
    const answer = await this.request(asFirst ? OP.CHANGE_ROOM : OP.JOIN_ROOM, room);
    if (fromUtf8.decode(answer) !== room) throw new Error(`${room} was refused`);
    if (asFirst) this.#first = room;
    else this.#others.add(room);
  }

  /** Leaves a room. */
  async leave(room) {
    if (room === this.#first) {
      await this.request(OP.CHANGE_ROOM);
      this.#first = null;
    } else if (this.#others.has(room)) {
      await this.request(OP.LEAVE_ROOM, room);
      this.#others.delete(room);
    }
  }

  /** Makes a room the first one; the one that was stays beside it. */
  async speakIn(room) {
    const before = this.#first;
    if (room === before) return;
    const answer = await this.request(OP.CHANGE_ROOM, room);
    if (fromUtf8.decode(answer) !== room) throw new Error(`${room} was refused`);
    this.#first = room;
    this.#others.delete(room);
    if (before !== null) await this.join(before);
  }

  // A connection, from its begin to its end

  async #begin() {
    this.#drop();
    this.#told = null;
    this.#enter({ name: 'connecting', attempt: this.#attempt });
    const state = this.#state;
    const { WebSocket, answerMs, credentials } = this.#options;
    this.#after(answerMs, () => this.#lose('no answer to the login'));
    let more, socket;
    try {
      more = await credentials?.();
      if (this.#state !== state) return;
      socket = new WebSocket(this.#url);
    } catch (error) {
      if (this.#state === state) this.#lose(error.message);
      return;
    }
    this.#socket = socket;
    socket.binaryType = 'arraybuffer';
    // Of a socket that was given up, nothing is heard.
    const ours = (handler) => (event) => socket === this.#socket && handler(event);
    let opened = false;
    socket.onopen = ours(() => {
      opened = true;
      this.#logIn(more);
    });
    socket.onmessage = ours((event) => this.#message(event.data));
    socket.onclose = ours(({ code, reason }) => {
      const end = verdict(code, reason, this.#told);
      // Nothing was lost that never was; browsers do not tell whether nobody listens or the upgrade was refused.
      this.#end(opened || code !== 1006 ? end : { ...end, why: 'could not connect' });
    });
  }

  #logIn(more) {
    const { mid, key, platform, accepts } = this.#options;
    const login = { mid, key, room_id: this.#first ?? undefined, platform, accepts, features: ['reasons'] };
    if (this.#others.size > 0) login.rooms = [...this.#others];
    // As a number on the wire, which goim asks for, all digits of it.
    const body = JSON.stringify({ ...login, ...more }).replace(/^\{"mid":"(0|[1-9]\d*)"/, '{"mid":$1');
    this.#socket.send(encode(OP.AUTH, ++this.#seq, body));
  }

  #message(data) {
    let frames;
    try {
      if (typeof data === 'string') throw new WireError('text');
      frames = decode(data);
    } catch (error) {
      // What broke will break again, so not at once.
      this.#lose(`the server sent something that is no frame (${error.message})`, true);
      return;
    }
    const socket = this.#socket;
    for (const frame of frames) {
      if (socket !== this.#socket) return; // a handler left
      this.#frame(frame);
    }
  }

  #frame({ op, seq, body }) {
    if (op === OP.DISCONNECT) {
      this.#told = parse(body);
      return;
    }
    if (op === OP.AUTH_REPLY) {
      if (this.#state.name === 'connecting') this.#opened();
      return;
    }
    const asked = this.#pending.get(seq);
    if (asked?.reply === op) {
      this.#pending.delete(seq);
      this.#options.clearTimeout(asked.timer);
      asked.resolve(body);
      // The sender's own copy of what it said is a message too.
      if (op !== OP.SEND_REPLY || body.length === 0) return;
    }
    this.#options.onmessage?.({ op, seq, body, text: fromUtf8.decode(body) });
  }

  #opened() {
    this.#openedAt = this.#options.now();
    this.#enter({ name: 'open', since: this.#openedAt });
    if (this.#state.name === 'open') this.#beat();
  }

  /** Asks at once and then again and again: the answer keeps both sides sure of each other. */
  #beat() {
    this.#options.clearTimeout(this.#timer);
    this.#timer = null;
    const socket = this.#socket;
    this.heartbeat().then(
      () => {
        if (socket === this.#socket) this.#after(this.#options.heartbeatMs, () => this.#beat());
      },
      () => {
        if (socket === this.#socket) this.#lose('no answer to a heartbeat');
      },
    );
  }

  #ask(op, body, resolve, reject) {
    const bytes = typeof body === 'string' ? utf8.encode(body) : body;
    if (bytes.length > BODY_MAX) throw new RangeError(`${bytes.length} bytes, at most ${BODY_MAX} can be sent`);
    this.#seq = (this.#seq % 0x7fff_ffff) + 1; // never 0, which is a push's
    const seq = this.#seq;
    const timer = this.#options.setTimeout(() => {
      this.#pending.delete(seq);
      reject(new Error('no answer'));
    }, this.#options.answerMs);
    this.#pending.set(seq, { reply: op + 1, resolve, reject, timer });
    this.#socket.send(encode(op, seq, bytes));
  }

  /** Gives the connection up from this side. */
  #lose(why, slowly = false) {
    this.#end({ code: 1006, again: true, slowly, delayMs: 0, why });
  }

  /** The connection is over: wait and come back, or stay away. */
  #end({ code, again, slowly, delayMs, why }) {
    const { now, stableMs, slowMs, random } = this.#options;
    if (this.#state.name === 'open' && now() - this.#openedAt >= stableMs) this.#attempt = 0;
    this.#drop();
    if (!again) {
      this.#enter({ name: 'closed', why, code });
      return;
    }
    const attempt = this.#attempt++;
    const wait = delayMs + (slowly ? slowMs : 0) + backoff(attempt, this.#options.backoff, random);
    this.#after(wait, () => this.#begin());
    this.#enter({ name: 'waiting', why, code, attempt, until: now() + wait });
  }

  /** Forgets the socket, the timer and everything that waits for an answer. */
  #drop() {
    this.#options.clearTimeout(this.#timer);
    this.#timer = null;
    const socket = this.#socket;
    this.#socket = null;
    // One that is closed already ignores it.
    socket?.close(1000);
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject, timer } of pending) {
      this.#options.clearTimeout(timer);
      reject(new Error('the connection ended'));
    }
  }

  #after(ms, call) {
    this.#options.clearTimeout(this.#timer);
    this.#timer = this.#options.setTimeout(call, ms);
  }

  #enter(state) {
    this.#state = state;
    this.#options.onstate?.(state);
  }
}

/** JSON of an operation 6, or null when it is none. */
function parse(body) {
  try {
    const value = JSON.parse(fromUtf8.decode(body));
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}
