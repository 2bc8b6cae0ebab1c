// Sessions of logins, and how to end them.
import { ask, get } from "./api.js";
import { consumerLink } from "./consumers.js";
import { element } from "./dom.js";
import { heading, moment, named, quiet, table } from "./parts.js";

const PLACES = {
  __proto__: null,
  cookies: "Sessions are in the cookies of browsers. Those that this gateway has seen recently are listed; the others end with all of their subject.",
  redis: "Sessions are in Redis. They end on all gateways.",
};

const button = (text, act, label) => {
  const made = element("button", { type: "button", "aria-label": label }, text);
  made.addEventListener("click", act);
  return made;
};

/** Asks whether to end sessions, and does. The dialog is not part of the page, which is loaded again while it is open. */
function confirm(question, what) {
  const failed = element("p", { class: "bad", role: "alert" });
  const act = async () => {
    try {
      await ask(["sessions", "end"], {}, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(what) });
    } catch (error) {
      failed.replaceChildren(`✕ ${error.reason ?? error.message}`);
      return;
    }
    dialog.close();
    dispatchEvent(new Event("refined"));
  };
  const dialog = element("dialog", { id: "confirm", "aria-labelledby": "confirm-title" }, element("h2", { id: "confirm-title" }, "End sessions"),
    element("p", {}, question), failed, element("div", { class: "filters" }, button("End", act), button("Cancel", () => dialog.close())));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

const who = (session) => [session.user, session.user !== session.subject && element("div", { class: "quiet" }, session.subject)];

function ends(middleware, session) {
  const { key, provider, subject, user } = session;
  return element("div", { class: "filters" },
    button("End", () => confirm(`End the session of ${user} that began ${new Date(session.began).toLocaleString()}?`, { middleware, session: key }), `End the session of ${user} of ${session.began}`),
    button("End all", () => confirm(`End all sessions of ${user} that have begun until now?`, { middleware, provider, subject }), `End all sessions of ${user}, that of ${session.began} among them`));
}

/** Returns a form that ends sessions which are not listed. */
function subjects({ middleware, providers }, number) {
  const subject = element("input", { type: "text", id: `subject-${number}`, autocomplete: "off", spellcheck: "false", required: true });
  const choose = element("select", { id: `provider-${number}` }, providers.map((name) => element("option", { value: name }, name)));
  const form = element("form", { class: "filters" }, element("label", {}, "Subject ", subject), providers.length > 1 && element("label", {}, "Provider ", choose),
    element("button", { type: "submit" }, "End all sessions"));
  form.addEventListener("submit", () => confirm(`End all sessions of the subject ${subject.value} that have begun until now?`, { middleware, provider: choose.value, subject: subject.value }));
  return form;
}

function group(one, number) {
  const { middleware, place, sessions, hasMore, error } = one;
  const several = one.providers?.length > 1;
  return [
    heading(named("http", "middlewares", middleware)),
    error ? element("p", { class: "banner bad" }, `✕ ${error}`) : quiet(PLACES[place]),
    sessions?.length > 0 && table(`Sessions of ${middleware}`, [
      ["User", who], ...(several ? [["Provider", (session) => session.provider]] : []), ["Consumer", (session) => (session.consumer ? consumerLink(session.consumer) : "")],
      ["Signed in", (session) => moment(session.began)], ["Extended", (session) => moment(session.extended)], ["Ends", (session) => moment(session.ends)],
      ["Actions", (session) => ends(middleware, session)],
    ], sessions),
    sessions?.length === 0 && quiet("None."), hasMore && quiet(`The latest ${sessions.length} are listed.`),
    !error && subjects(one, number),
  ];
}

/** Shows the sessions. */
export async function sessions() {
  const all = await get("sessions");
  return { title: "Sessions", content: all.length ? all.flatMap(group) : [quiet("No middleware has sessions (oidc).")] };
}
