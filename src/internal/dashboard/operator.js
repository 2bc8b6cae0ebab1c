// What operators change, after a confirmation.
import { ask } from "./api.js";
import { element } from "./dom.js";

/** Returns a button that does something. */
export const button = (text, act, label) => {
  const made = element("button", { type: "button", "aria-label": label }, text);
  made.addEventListener("click", act);
  return made;
};

/**
 * Asks whether to do something, and does: `body`, or what it returns then, goes to the API at `path`. `fields` are shown below the question.
 * `told` returns what to say about the answer, if anything.
 * The dialog is not part of the page, which is loaded again while it is open.
 */
export function confirm({ title, question, verb, path, method = "POST", fields, body, told }) {
  const failed = element("p", { class: "bad", role: "alert" });
  const act = async () => {
    let text;
    try {
      const answer = await ask(path, {}, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(typeof body === "function" ? body() : body) });
      text = told?.(await answer.json());
    } catch (error) {
      failed.replaceChildren(`✕ ${error.reason ?? error.message}`);
      return;
    }
    if (text === undefined) dialog.close();
    else {
      const close = button("Close", () => dialog.close());
      content.replaceChildren(element("p", { role: "status" }, text), element("div", { class: "filters" }, close));
      close.focus();
    }
    dispatchEvent(new Event("refined"));
  };
  const content = element("div", {}, element("p", {}, question), fields, failed, element("div", { class: "filters" }, button(verb, act), button("Cancel", () => dialog.close())));
  const dialog = element("dialog", { id: "confirm", "aria-labelledby": "confirm-title" }, element("h2", { id: "confirm-title" }, title), content);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
