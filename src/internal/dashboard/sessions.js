// Sessions of logins, and how to end them.
import { get } from "./api.js";
import { consumerLink } from "./consumers.js";
import { element } from "./dom.js";
import { button, confirm } from "./operator.js";
import { heading, moment, named, quiet, table } from "./parts.js";

const PLACES = {
  __proto__: null,
  cookies: "Sessions are in the cookies of browsers. Those that this gateway has seen recently are listed; the others end with all of their subject.",
  redis: "Sessions are in Redis. They end on all gateways.",
};

const end = (question, body) => confirm({ title: "End sessions", question, verb: "End", path: ["sessions", "end"], body });

const who = (session) => [session.user, session.user !== session.subject && element("div", { class: "quiet" }, session.subject)];

function ends(middleware, session) {
  const { key, provider, subject, user } = session;
  return element("div", { class: "filters" },
    button("End", () => end(`End the session of ${user} that began ${new Date(session.began).toLocaleString()}?`, { middleware, session: key }), `End the session of ${user} of ${session.began}`),
    button("End all", () => end(`End all sessions of ${user} that have begun until now?`, { middleware, provider, subject }), `End all sessions of ${user}, that of ${session.began} among them`));
}

/** Returns a form that ends sessions which are not listed. */
function subjects({ middleware, providers }, number) {
  const subject = element("input", { type: "text", id: `subject-${number}`, autocomplete: "off", spellcheck: "false", required: true });
  const choose = element("select", { id: `provider-${number}` }, providers.map((name) => element("option", { value: name }, name)));
  const form = element("form", { class: "filters" }, element("label", {}, "Subject ", subject), providers.length > 1 && element("label", {}, "Provider ", choose),
    element("button", { type: "submit" }, "End all sessions"));
  form.addEventListener("submit", () => end(`End all sessions of the subject ${subject.value} that have begun until now?`, { middleware, provider: choose.value, subject: subject.value }));
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
