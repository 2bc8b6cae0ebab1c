// Asks the API.
const root = document.body.dataset.api;

/** An answer other than 200. */
export class ApiError extends Error {
  constructor(path, status, text) {
    super(`${path}: ${status} ${text}`);
    this.status = status;
    /** What the API says about it. */
    this.reason = text;
    try {
      this.reason = JSON.parse(text).message ?? text;
    } catch {
      // Not from the API.
    }
  }
}

const encode = (path) => path.map((part) => encodeURIComponent(part)).join("/");

/** Sends a request to these parts of a path. Any status other than 200 is an error. */
export async function ask(path, query = {}, options = {}) {
  const values = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const text = new URLSearchParams(values).toString();
  const response = await fetch(`${root}/${encode(path)}${text ? `?${text}` : ""}`, options);
  if (!response.ok) throw new ApiError(path.join("/"), response.status, (await response.text()).slice(0, 300));
  return response;
}

/** Returns the JSON below these parts of a path, and the number of the next page (1 after the last). */
export async function page(path, query = {}) {
  const response = await ask(path, query);
  return { data: await response.json(), next: Number(response.headers.get("X-Next-Page") ?? 1) };
}

export const get = async (...path) => (await page(path)).data;

/** Returns what exists, or undefined. */
export async function maybe(...path) {
  try {
    return await get(...path);
  } catch (error) {
    if (error.status === 404) return undefined;
    throw error;
  }
}

/** Returns all pages of a list, up to a limit. */
export async function all(path, query = {}, limit = 20_000) {
  const items = [];
  for (let number = 1; items.length < limit;) {
    const { data, next } = await page(path, { ...query, page: number, per_page: 500 });
    items.push(...data);
    if (next <= number) break;
    number = next;
  }
  return items;
}
