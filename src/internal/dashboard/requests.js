// Requests as they end: those that are kept, then those of the stream.
import { ask, page } from "./api.js";
import { element } from "./dom.js";
import { link, nested, quiet, search, seconds, table, tableRow } from "./parts.js";
import { refine, remember } from "./router.js";

const SHOWN = 100;
const MAX_PER_SECOND = 100;
// Milliseconds between two changes of the table, and until the stream is opened again.
const DRAWN = 250;
const RETRIED = 2000;

/** Returns how to keep requests. */
export const off = () => quiet("Requests are shown while the gateway keeps some of them: ", element("code", {}, "api.requests.size"), " and ",
  element("code", {}, "api.requests.maxMemory"), " must be above 0, such as 4096 requests in 8388608 bytes.");

/** Returns the status of a request and its reason. */
export const outcome = (request) => element("span", { class: request.status >= 500 ? "bad" : request.status >= 400 ? "warn" : "good" },
  request.status || "none", request.reason && ` ${request.reason}`);

/** Returns the time of day, with the date unless it is today. */
function clock(time) {
  const at = new Date(time);
  const isToday = at.toDateString() === new Date().toDateString();
  return element("time", { datetime: time, title: at.toLocaleString() }, isToday ? at.toLocaleTimeString() : at.toLocaleString());
}

const COLUMNS = [
  ["Request", (row) => link(["requests", row.id], `${row.method} ${row.host}${row.path}`)], ["Time", (row) => clock(row.time)],
  ["Status", outcome], ["Response from", (row) => row.origin],
  ["Router", (row) => nested(row.router).map((name) => element("div", {}, link(["http", "routers", name], name)))],
  ["Duration", (row) => seconds(row.durationMs)],
];

const ended = (request) => new Date(request.time).getTime() + request.durationMs;

/** Reads the JSON lines of a response. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const all = (rest + value).split("\n");
    rest = all.pop();
    for (const line of all) if (line) yield JSON.parse(line);
  }
}

/** Keeps a table current. */
class Feed {
  constructor(query, parts) {
    this.query = query;
    this.parts = parts;
    this.isPaused = query.live === "no";
    this.rows = new Map();
    this.missed = 0;
  }

  add(request) {
    const wanted = (this.query.search ?? "").toLowerCase();
    const fits = [request.host, request.path, request.router ?? ""].some((text) => text.toLowerCase().includes(wanted));
    if (!fits || this.rows.has(request.id)) return;
    this.rows.set(request.id, { at: ended(request), row: tableRow(COLUMNS, request) });
    // More come between two changes of the table than it shows.
    if (this.rows.size > 2 * SHOWN) this.trim();
    this.drawn ??= setTimeout(() => this.draw(), DRAWN);
  }

  trim() {
    this.rows = new Map([...this.rows].sort(([, one], [, other]) => other.at - one.at).slice(0, SHOWN));
  }

  /** Shows the newest rows. Those that stay are not moved, so they keep the focus. */
  draw() {
    clearTimeout(this.drawn);
    this.drawn = undefined;
    this.trim();
    const { body, panel, none, told } = this.parts;
    const shown = new Set([...this.rows.values()].map(({ row }) => row));
    for (const row of [...body.children]) if (!shown.has(row)) row.remove();
    [...shown].forEach((row, index) => {
      if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
    });
    panel.hidden = shown.size === 0;
    none.hidden = shown.size > 0;
    told.textContent = `${shown.size} shown${this.missed ? `, ${this.missed} missed` : ""}`;
  }

  say(text) {
    if (this.parts.state.textContent !== text) this.parts.state.textContent = text;
  }

  /** Adds the requests that are kept. */
  async load() {
    const { filter, search: wanted } = this.query;
    const { data } = await page(["requests"], { filter, search: wanted, per_page: SHOWN });
    for (const request of data) this.add(request);
  }

  /** Follows the stream until it is stopped. */
  async follow() {
    const { filter } = this.query;
    const control = new AbortController();
    this.control = control;
    const { signal } = control;
    while (!signal.aborted) {
      try {
        // The stream is open before the list is read, so that none is lost between them.
        const response = await ask(["requests", "stream"], { filter, rate: this.query.rate || MAX_PER_SECOND }, { signal });
        await this.load();
        if (signal.aborted) break;
        this.say("Live");
        for await (const line of lines(response)) this.take(line);
        this.say("The gateway has ended the stream. Trying again.");
      } catch (error) {
        if (signal.aborted) break;
        this.say(`${error.reason ?? error.message}. Trying again.`);
        // Too many follow the stream: the list is shown meanwhile.
        if (error.status === 503) await this.load().catch(() => {});
      }
      await new Promise((resolve) => setTimeout(resolve, RETRIED));
    }
  }

  take(line) {
    if (line.missed) {
      this.missed += line.missed;
      this.drawn ??= setTimeout(() => this.draw(), DRAWN);
    } else this.add(line);
  }

  /** Follows or stops, as the user and the visibility of the page demand. */
  update() {
    const wanted = !this.isPaused && !document.hidden;
    if (!wanted) {
      this.control?.abort();
      this.control = undefined;
    } else if (!this.control) {
      this.say("Connecting");
      this.follow();
    }
    if (this.isPaused) this.say("Paused");
    this.parts.pause.textContent = this.isPaused ? "Continue" : "Pause";
  }

  pause() {
    this.isPaused = !this.isPaused;
    this.query.live = this.isPaused ? "no" : "";
    remember({ live: this.query.live });
    this.update();
  }
}

/** Shows requests as they end. */
export async function requests(query) {
  let kept = [];
  let wrong = "";
  try {
    kept = (await page(["requests"], { search: query.search, filter: query.filter, per_page: SHOWN })).data;
  } catch (error) {
    if (error.status === 404) return { title: "Requests", every: 0, content: [off()] };
    if (error.status !== 400) throw error;
    wrong = error.reason;
  }
  const panel = table("Requests, newest first", COLUMNS, []);
  const parts = {
    panel, body: panel.querySelector("tbody"), none: quiet("No requests fit."), state: element("span", { role: "status", id: "state" }),
    told: element("span", { class: "quiet", id: "told" }), pause: element("button", { type: "button", id: "pause" }, "Pause"),
  };
  const filter = element("input", { type: "text", id: "filter", value: query.filter ?? "", placeholder: "status >= 500", spellcheck: "false",
    "aria-invalid": wrong ? "true" : undefined, "aria-describedby": wrong ? "wrong" : undefined });
  filter.addEventListener("change", () => refine({ filter: filter.value }));
  const form = (...more) => element("form", { class: "filters", role: "search" }, search("Search hosts, paths and routers", query.search ?? ""),
    element("label", {}, "Expression ", filter), more);
  if (wrong) return { title: "Requests", every: 0, content: [form(), element("p", { class: "banner bad", role: "alert", id: "wrong" }, `✕ ${wrong}`)] };
  const feed = new Feed({ ...query }, parts);
  kept.forEach((request) => feed.add(request));
  feed.draw();
  const update = () => feed.update();
  parts.pause.addEventListener("click", () => feed.pause());
  document.addEventListener("visibilitychange", update);
  update();
  return {
    title: "Requests",
    every: 0,
    leave: () => {
      document.removeEventListener("visibilitychange", update);
      clearTimeout(feed.drawn);
      feed.control?.abort();
    },
    content: [form(parts.pause, parts.state, parts.told), panel, parts.none],
  };
}
