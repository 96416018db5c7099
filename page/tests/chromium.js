// Just enough of Chromium's DevTools protocol, spoken over its pipe, to do what a person does. No package needed.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const RECIPE = fileURLToPath(new URL('../../tests/services/chromium.sh', import.meta.url));
const PROGRAM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const PATIENCE_MS = 20_000;

export const isInstalled = () => existsSync(PROGRAM);

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until the answer is true. */
export async function eventually(what, probe) {
  const begun = Date.now();
  for (let last; ; await sleep(50)) {
    last = await probe();
    if (last) return last;
    if (Date.now() - begun > PATIENCE_MS) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
  }
}

/** One Chromium with a profile of its own, and with these flags beside the usual ones. */
export class Browser {
  #folder = mkdtempSync(join(tmpdir(), 'halley-chromium-'));
  #child;
  #id = 0;
  #calls = new Map();
  #pages = new Map();

  constructor(...more) {
    const flags = [...execFileSync(RECIPE, ['flags'], { encoding: 'utf8' }).split('\n').filter(Boolean), ...more];
    this.#child = spawn(PROGRAM, [...flags, '--remote-debugging-pipe', `--user-data-dir=${this.#folder}`, 'about:blank'], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    });
    let rest = Buffer.alloc(0);
    this.#child.stdio[4].on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1)) this.#hear(JSON.parse(rest.subarray(0, end)));
    });
    this.#child.stdio[3].on('error', () => {});
    this.#child.on('exit', () => {
      for (const { reject } of this.#calls.values()) reject(new Error('Chromium ended'));
      this.#calls.clear();
    });
  }

  call(method, params = {}, sessionId = undefined) {
    return new Promise((resolve, reject) => {
      const id = ++this.#id;
      this.#calls.set(id, { resolve, reject, method });
      this.#child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  #hear({ id, result, error, method, params, sessionId }) {
    const call = this.#calls.get(id);
    if (call) {
      this.#calls.delete(id);
      if (error) call.reject(new Error(`${call.method}: ${error.message}`));
      else call.resolve(result);
    } else if (method) {
      this.#pages.get(sessionId)?.event(method, params);
    }
  }

  async page(url) {
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page((method, params) => this.call(method, params, sessionId));
    this.#pages.set(sessionId, page);
    await page.open(url);
    return page;
  }

  async close() {
    const ended = new Promise((resolve) => this.#child.on('exit', resolve));
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.call('Browser.close').catch(() => {});
      await Promise.race([ended, sleep(5000).then(() => this.#child.kill('SIGKILL'))]);
    }
    // Its helpers may still be writing.
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}

/** One tab. */
class Page {
  /** What went wrong in it, but for a server that was away. */
  errors = [];
  /** Every address it asked. */
  asked = new Set();
  #call;

  constructor(call) {
    this.#call = call;
  }

  event(method, params) {
    if (method === 'Runtime.exceptionThrown') this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === 'Log.entryAdded' && params.entry.level === 'error' && params.entry.source !== 'network') this.errors.push(params.entry.text);
    if (method === 'Network.requestWillBeSent') this.asked.add(params.request.url);
    if (method === 'Network.webSocketCreated') this.asked.add(params.url);
  }

  async open(url) {
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await this.#call(`${domain}.enable`);
    await this.#call('Page.navigate', { url });
    await eventually(`${url} is loaded`, () => this.eval("document.readyState === 'complete' && location.href !== 'about:blank'"));
  }

  /** Value of an expression, or of the promise it gives. */
  async eval(expression) {
    const { result, exceptionDetails } = await this.#call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  text(selector) {
    return this.eval(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`);
  }

  texts(selector) {
    return this.eval(`[...document.querySelectorAll(${JSON.stringify(selector)})].map((element) => element.innerText)`);
  }

  /** Waits for a text. */
  async sees(selector, pattern) {
    let last;
    try {
      return await eventually(`${selector} is like ${pattern}`, async () => pattern.test((last = await this.text(selector))) && last);
    } catch (error) {
      throw new Error(`${error.message}; it is ${JSON.stringify(last)}`);
    }
  }

  /** A click of the mouse in its middle. */
  async click(selector) {
    const at = await this.eval(`(() => {
      const element = document.querySelector(${JSON.stringify(selector)});
      element.scrollIntoView({ block: 'center' });
      const { x, y, width, height } = element.getBoundingClientRect();
      return { x: x + width / 2, y: y + height / 2 };
    })()`);
    for (const type of ['mousePressed', 'mouseReleased']) {
      await this.#call('Input.dispatchMouseEvent', { type, ...at, button: 'left', clickCount: 1 });
    }
  }

  /** Types into a field in the place of what is there. */
  async fill(selector, text) {
    await this.eval(`(() => { const field = document.querySelector(${JSON.stringify(selector)}); field.focus(); field.select(); })()`);
    await this.type(text);
  }

  /** Types into what has the keyboard. */
  type(text) {
    return text === '' ? this.press('Delete', 46) : this.#call('Input.insertText', { text });
  }

  async press(key, code) {
    const text = key === 'Enter' ? '\r' : undefined;
    await this.#call('Input.dispatchKeyEvent', { type: 'keyDown', key, code: key, windowsVirtualKeyCode: code, text });
    await this.#call('Input.dispatchKeyEvent', { type: 'keyUp', key, code: key, windowsVirtualKeyCode: code });
  }

  async look({ width, height, mobile = false, dark = false }) {
    await this.#call('Emulation.setDeviceMetricsOverride', { width, height, mobile, deviceScaleFactor: mobile ? 1.5 : 1 });
    await this.#call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }] });
    await sleep(200);
  }

  /** The whole page, or what is on the screen. */
  async screenshot(file, whole = true) {
    const { data } = await this.#call('Page.captureScreenshot', { format: 'png', captureBeyondViewport: whole });
    writeFileSync(file, Buffer.from(data, 'base64'));
  }
}
