// The page in real browsers, on the real gateway. Screenshots are left in target/page/.
//
// Needs the built program (target/debug/halley, or what HALLEY names) and Chromium (tests/services/chromium.sh install).

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { connect } from 'node:net';
import test from 'node:test';

import { OP, encode } from '../goim.js';
import { Browser, eventually, isInstalled, sleep } from './chromium.js';
import { Gateway, root } from './gateway.js';

const PICTURES = `${root}target/page`;

// Where it has to run it fails without a browser; elsewhere it says that it did not run.
const skip = process.env.CI !== 'true' && !isInstalled() && 'no Chromium: tests/services/chromium.sh install';
/** Tenths of a second for which numbers are made; two minutes fill the charts of the pictures. */
const TICKS = Number(process.env.TICKS ?? 60);
const TIMEOUT_MS = 180_000 + TICKS * 200;

async function logIn(page, mid, key, rooms) {
  await page.fill('#mid', String(mid));
  await page.fill('#key', key);
  await page.fill('#rooms', rooms);
  await page.press('Enter', 13);
  await page.sees('#state', /^connected as user \d+, key \w+$/);
}

const messages = (page) => page.texts('#messages li:not(.event) .words');
const received = (page, text) => eventually(text, async () => (await messages(page)).some((words) => words.includes(text)));
const count = async (page, text) => (await messages(page)).filter((words) => words.includes(text)).length;

test('two people in a room, on a gateway that is restarted', { skip, timeout: TIMEOUT_MS }, async (t) => {
  mkdirSync(PICTURES, { recursive: true });
  const gateway = await new Gateway().start();
  const [left, right] = [new Browser(), new Browser()];
  let slow = null;
  t.after(() => Promise.all([left.close(), right.close(), slow?.destroy(), gateway.stop()]));
  // The way in is the bare address, by number or by name.
  const byName = gateway.http.replace('127.0.0.1', 'localhost');
  const [ann, bob] = await Promise.all([left.page(gateway.http), right.page(`${byName}/_`)]);
  await ann.look({ width: 1280, height: 900 });

  await ann.sees('#about', /shards · up/);
  await ann.screenshot(`${PICTURES}/before-login.png`);

  await t.test('log in by keyboard, and see each other', async () => {
    assert.equal(await ann.eval('location.pathname'), '/_/');
    await logIn(ann, 1, 'ann', 'live://1000');
    await logIn(bob, 2, 'bob', 'live://1000 live://1001');
    await ann.sees('#memberships .first', /live:\/\/1000 · 2/);
    await bob.sees('#memberships .first', /live:\/\/1000 · 2/);
    assert.deepEqual(await bob.texts('#memberships li button:first-child'), ['live://1000 · 2 here', 'live://1001']);
  });

  await t.test('what each says, and what HTTP says, reaches both once', async () => {
    // The keyboard is where one goes on.
    await ann.type('hello from Ann');
    await ann.press('Enter', 13);
    await bob.fill('#chat-text', 'hello from Bob');
    await bob.click('#chat .main');
    await received(ann, 'hello from Bob');
    await ann.fill('#body', 'pushed by Ann');
    await ann.click('#push > button');
    await ann.sees('#push-note', /^accepted in/);
    await gateway.push('room?operation=1000&type=live&room=1000', 'plain, from a backend');
    const all = ['hello from Ann', 'hello from Bob', 'pushed by Ann', 'plain, from a backend'];
    for (const page of [ann, bob]) {
      for (const text of all) await received(page, text);
    }
    await sleep(300);
    for (const page of [ann, bob]) {
      for (const text of all) assert.equal(await count(page, text), 1, text);
      assert.equal(await page.text('#count'), '4');
    }
    assert.match(await bob.text('#messages li:nth-child(2)'), /chat\s+user 1 +hello from Ann\s+[\d.]+ (µs|ms)/);
    assert.match(await bob.text('#messages .own'), /you +hello from Bob/);
    // No time of sending, no latency.
    const last = '#messages li:last-child';
    assert.deepEqual([await ann.text(`${last} .op`), await ann.text(`${last} .words`), await ann.text(`${last} .ms`)], ['1000', 'plain, from a backend', '']);
  });

  await t.test('devices, users and everybody', async () => {
    for (const [to, target, text, receivers] of [
      ['keys', 'ann', 'to a device', [ann]],
      ['mids', '2', 'to a user', [bob]],
      ['all', null, 'to everybody', [ann, bob]],
    ]) {
      await ann.click(`[name=to][value=${to}]`);
      if (target) await ann.fill('#target', target);
      await ann.fill('#body', text);
      await ann.click('#push > button');
      for (const page of receivers) await received(page, text);
      assert.equal(await count(ann, text) + (await count(bob, text)), receivers.length, text);
    }
    await ann.click('[name=to][value=keys]');
    await ann.fill('#target', 'bob nobody');
    await ann.click('#push > button');
    await ann.sees('#push-note', /nobody is there for nobody/);
    await ann.click('[name=to][value=room]');
  });

  await t.test('rooms are joined and left', async () => {
    await ann.fill('#join-room', 'live://2000');
    await ann.press('Enter', 13);
    await eventually('two rooms', async () => (await ann.texts('#memberships li')).length === 2);
    await gateway.push('room?operation=1000&type=live&room=2000', 'in the second room');
    await received(ann, 'in the second room');
    assert.equal(await count(bob, 'in the second room'), 0);
    // Speak there for a moment, then leave it.
    await ann.click('#memberships li:nth-child(2) button');
    await ann.sees('#memberships .first', /live:\/\/2000 · 1/);
    await ann.click('#memberships .first button + button');
    await ann.sees('#memberships', /^live:\/\/1000 · 2 here\s+×$/);
    // The last one left and entered again: the count is of now.
    await ann.click('#memberships .first button + button');
    await eventually('no room', async () => (await ann.texts('#memberships li')).length === 0);
    await ann.fill('#join-room', 'live://1000');
    await ann.press('Enter', 13);
    await ann.sees('#memberships', /^live:\/\/1000 · 2 here\s+×$/);
    await gateway.push('room?operation=1000&type=live&room=2000', 'not for Ann');
    await ann.fill('#chat-text', 'after all that');
    await ann.press('Enter', 13);
    for (const page of [ann, bob]) await received(page, 'after all that');
    assert.equal(await count(ann, 'not for Ann'), 0);
  });

  await t.test('the numbers are live', async () => {
    const values = () => ann.texts('.chart .value');
    for (let n = 0; n < TICKS; n++) {
      const burst = 1 + Math.round(6 * (1 + Math.sin(n / 9)));
      for (let i = 0; i < burst; i++) await gateway.push('room?operation=1000&type=live&room=1001', `tick ${n}`);
      await sleep(100);
      if (n === 30) {
        const [connections, rooms, deliveries, drops] = await values();
        assert.deepEqual([connections, rooms, drops], ['2', '2', '0']);
        assert.ok(Number(deliveries) > 0, deliveries);
      }
    }
    assert.match(await ann.text('#charts'), /2 WebSocket · 0 TCP · 2 logged in/);
    assert.match(await ann.text('#stages'), /the whole way\s+[\d.]+ [µm]?s\s+[\d.]+ [µm]?s\s+[\d.]+ [µm]?s$/);
    for (const share of ['p50', 'p90', 'p99']) {
      assert.match(await ann.text(`.percentiles .${share} dd`), /^≤ [\d.]+ [µm]?s$/);
      assert.match(await ann.eval(`document.querySelector('#way .line.${share}').getAttribute('d')`), /^M[\d.]+ [\d.]+L/, `${share} is drawn`);
    }
    const marks = await ann.texts('#way .marks span');
    assert.ok(marks.length >= 3 && marks.every((mark) => /^10?0? [µm]?s$/.test(mark)), `${marks}`);
  });

  await t.test('a reader that takes nothing is seen in the drops', async () => {
    slow = connect(gateway.ports['comet.tcp.bind'], '127.0.0.1');
    slow.on('error', () => {});
    slow.write(encode(OP.AUTH, 1, JSON.stringify({ mid: 3, key: 'slow', room_id: 'live://3000', platform: 'tcp', accepts: [] })));
    await ann.sees('#charts', /2 WebSocket · 1 TCP · 3 logged in/);
    slow.pause();
    const large = 'x'.repeat(60_000);
    for (let n = 0; n < 200; n++) await gateway.push('room?operation=1000&type=live&room=3000', large);
    await ann.sees('#drops', /^slow consumer\s+\d+$/);
    await eventually('the chart', async () => Number((await ann.texts('.chart .parts'))[3].replace(',', '').split(' ')[0]) > 0);
    const line = await ann.eval("document.querySelectorAll('#charts .line')[3].getAttribute('d')");
    assert.ok(/ (\d|[12]\d|3[0-8])(\.\d+)?\b/.test(line), `it rises: ${line}`);
  });

  await t.test('it fits a screen and a phone, by day and by night', async () => {
    await ann.screenshot(`${PICTURES}/desktop-light.png`);
    await ann.look({ width: 1280, height: 900, dark: true });
    await ann.screenshot(`${PICTURES}/desktop-dark.png`);
    await ann.look({ width: 320, height: 640, mobile: true });
    assert.equal(await ann.eval('document.documentElement.scrollWidth'), 320, 'nothing sticks out');
    for (const dark of [false, true]) {
      await ann.look({ width: 390, height: 844, mobile: true, dark });
      assert.equal(await ann.eval('document.documentElement.scrollWidth'), 390, 'nothing sticks out');
      await ann.screenshot(`${PICTURES}/phone-${dark ? 'dark' : 'light'}.png`);
    }
    await ann.look({ width: 1280, height: 900 });
  });

  await t.test('a restart is told, and waited out', async () => {
    await gateway.stop();
    for (const page of [ann, bob]) await page.sees('#state', /^reconnecting in \d+ s, attempt \d+, because: \S.* \(10\d\d\)$/);
    await eventually('the reason and the first pause', async () => (await ann.texts('#messages .event .words')).some((words) => /^the server is going away \(1001\); attempt 1 in [\d.]+ [µm]?s$/.test(words)));
    await eventually('an attempt that failed', async () => (await ann.texts('#messages .event .words')).some((words) => /^could not connect \(1006\); attempt 2 in [\d.]+ [µm]?s$/.test(words)));
    await ann.sees('#live-state', /no answer since/);
    await ann.eval('scrollTo(0, 0)');
    await ann.screenshot(`${PICTURES}/away.png`, false);
    await gateway.start();
    for (const page of [ann, bob]) {
      await page.sees('#state', /^connected as user \d+, key \w+$/);
      await page.sees('#messages li:last-child .words', /^connected after [\d.]+ m?s, at attempt \d+; what was sent meanwhile is lost$/);
    }
    await ann.sees('#live-state', /^live$/);
    await ann.sees('#memberships .first', /live:\/\/1000 · 2/);
    await ann.screenshot(`${PICTURES}/back.png`, false);
    await bob.fill('#chat-text', 'we are back');
    await bob.press('Enter', 13);
    await received(ann, 'we are back');
  });

  await t.test('a newer login with the key ends the older one for good', async () => {
    const again = await right.page(`${gateway.http}/_/`);
    await logIn(again, 1, 'ann', 'live://1000');
    await ann.sees('#state', /^closed for good because: replaced by a newer login with the same key \(4409\)$/);
    assert.equal(await ann.eval("document.querySelector('#login').hidden"), false);
    await sleep(1500);
    assert.match(await ann.text('#state'), /^closed for good/);
    await again.click('#leave');
    await again.sees('#state', /^logged out$/);
    await ann.screenshot(`${PICTURES}/closed.png`, false);
    assert.deepEqual(again.errors, []);
  });

  for (const page of [ann, bob]) {
    assert.deepEqual(page.errors, []);
    const elsewhere = [...page.asked].filter((url) => !['127.0.0.1', 'localhost'].includes(new URL(url).hostname));
    assert.deepEqual(elsewhere, [], 'it asks nobody but the gateway');
  }
});

test('what arrives stays readable', { skip, timeout: TIMEOUT_MS }, async (t) => {
  const gateway = await new Gateway().start();
  const browser = new Browser();
  t.after(() => Promise.all([browser.close(), gateway.stop()]));
  const page = await browser.page(`${gateway.http}/_/`);
  const last = '#messages li:last-child .words';

  // Rooms that HTTP could not push to are not entered.
  await page.fill('#rooms', 'live://1 nonsense');
  await page.press('Enter', 13);
  await sleep(200);
  assert.equal(await page.text('#state'), 'not connected');
  await logIn(page, 1, 'a', 'live://1');
  await page.fill('#join-room', 'a room');
  await page.press('Enter', 13);
  await sleep(200);
  assert.equal((await page.texts('#memberships li')).length, 1);

  // The room one speaks in is the one proposed to push to.
  assert.equal(await page.eval("document.querySelector('#target').value"), 'live://1');

  const push = (body) => gateway.push('room?operation=1000&type=live&room=1', body);
  await push(Uint8Array.of(0, 255, 10, 65));
  await page.sees(last, /^\(4 bytes\) 00 ff 0a 41$/);
  await push('<b>two</b>\nlines');
  await page.sees(last, /^<b>two<\/b>\nlines$/);
  await push('word '.repeat(1000));
  await page.sees(last, /… show all 5,000 characters$/);
  assert.ok((await page.text(last)).length < 300);
  await page.click(`${last} button`);
  await page.sees(last, /^(word ?){1000}$/);

  // Who reads further up, here the long one, stays there and hears of what is new.
  const read = await page.eval("document.querySelector('#messages').scrollTop");
  for (let n = 0; n < 200; n++) await push(`number ${n}`);
  await page.sees('#newer', /^↓ 200 new$/);
  assert.equal(await page.eval("document.querySelector('#messages').scrollTop"), read);
  await page.click('#newer');
  await eventually('the end', () => page.eval("document.querySelector('#newer').hidden"));
  await push('the last');
  await page.sees(last, /^the last$/);
  await page.look({ width: 390, height: 844, mobile: true });
  await eventually('still at the end', () => page.eval("(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 8)(document.querySelector('#messages'))"));
  await page.eval("document.querySelector('#messages').scrollTop -= 100");
  await sleep(100);
  await push('out of sight');
  await page.sees('#newer', /^↓ 1 new$/);
  assert.equal(await page.text('#count'), '205');
  assert.deepEqual(page.errors, []);
});

test('with a token configured everybody may watch and only who has it may push', { skip, timeout: TIMEOUT_MS }, async (t) => {
  const gateway = await new Gateway('logic.push.tokens=sesame').start();
  const browser = new Browser();
  t.after(() => Promise.all([browser.close(), gateway.stop()]));
  const page = await browser.page(`${gateway.http}/_/`);
  await page.sees('#live-state', /^live$/);
  await eventually('the field is there', () => page.eval("!document.querySelector('#token-label').hidden"));
  // Who logs in before the gateway has said where its WebSocket is was told to fill in a hidden field.
  await page.eval("document.querySelector('#url').value = ''");
  await logIn(page, 1, 'a', 'live://1000');
  await page.click('#push > button');
  await page.sees('#push-note', /token is missing or wrong/);
  await page.fill('#token', 'sesame');
  await page.click('#push > button');
  await page.sees('#push-note', /^accepted in/);
  await received(page, 'Hello');
  assert.equal(await page.eval('JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])'), '[{},{},""]');
  assert.deepEqual(page.errors, []);
});
