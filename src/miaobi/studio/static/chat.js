// What the dialogue cannot do by markup alone: keys of the composer, files that are
// dropped or pasted, and staying at the end of what is being written. The state lies in
// the address and on the server; a draft lies in this tab.

const composer = () => document.getElementById("composer");
const message = () => document.getElementById("message");
const draftKey = () => `draft ${location.pathname}`;

// Enter sends, Shift+Enter breaks the line, and nothing is sent while an input method
// composes (Safari ends the composition before the key: 229).
document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.("[data-enter]")) return;
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  event.target.form.requestSubmit();
});

// An answer is being written: Enter waits for its end, and the text stays.
document.addEventListener("htmx:confirm", (event) => {
  const isSending = event.target === composer() && event.detail.verb === "post";
  if (isSending && composer().querySelector(".halt")) event.preventDefault();
});

// What was sent is taken out of the composer; what was typed meanwhile stays.
let sent = "";
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target === composer()) sent = message().value;
});
document.addEventListener("chat:sent", () => {
  sessionStorage.removeItem(draftKey());
  const { value } = message();
  message().value = value.startsWith(sent) ? value.slice(sent.length) : value;
  chosen = [];
  keepFiles();
  following = true;
  message().focus();
});
document.addEventListener("chat:settings", () => {
  document.getElementById("settings").showPopover();
  document.querySelector("#settings [aria-invalid]")?.focus();
});

// Drafts.
document.addEventListener("input", (event) => {
  if (event.target === message()) sessionStorage.setItem(draftKey(), message().value);
});

// Files: chosen, dropped or pasted; the form's own field holds them.
let chosen = [];
function keepFiles() {
  const field = document.getElementById("files");
  const chips = document.getElementById("chips");
  if (!field) return;
  const transfer = new DataTransfer();
  for (const file of chosen) transfer.items.add(file);
  field.files = transfer.files;
  chips.replaceChildren(
    ...chosen.map((file) => {
      const chip = document.createElement("span");
      const remove = document.createElement("button");
      chip.className = "chip";
      chip.append(file.name, remove);
      remove.type = "button";
      remove.className = "plain slim";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `${chips.dataset.remove} ${file.name}`);
      remove.addEventListener("click", () => {
        chosen = chosen.filter((other) => other !== file);
        keepFiles();
        message().focus();
      });
      return chip;
    }),
  );
}
function add(files) {
  chosen = [...chosen, ...files];
  keepFiles();
}
document.addEventListener("change", (event) => {
  if (event.target.id === "files") add(event.target.files);
});
document.addEventListener("dragover", (event) => {
  if (composer() && event.dataTransfer.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!composer() || !event.dataTransfer.files.length) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.target !== message() || !event.clipboardData.files.length) return;
  event.preventDefault();
  add(event.clipboardData.files);
});

// The dialogue stays at its end while the reader is there.
let following = true;
const turns = () => document.querySelector("[data-follow]");
function toEnd() {
  const list = turns();
  if (list && following) list.scrollTop = list.scrollHeight;
}
document.addEventListener(
  "scroll",
  (event) => {
    if (!event.target.matches?.("[data-follow]")) return;
    const { scrollHeight, scrollTop, clientHeight } = event.target;
    following = scrollHeight - scrollTop - clientHeight < 48;
  },
  true,
);
new MutationObserver(toEnd).observe(document.body, {
  childList: true,
  characterData: true,
  subtree: true,
});
window.addEventListener("resize", toEnd);
document.addEventListener("toggle", toEnd, true); // the settings take room beside it

// What is put in by morphing leaves alone what was typed since it was asked for, and what
// the stream of an answer has put in since.
const unsent = new Set(); // settings that were changed since they were last sent
document.addEventListener("input", (event) => {
  if (event.target.form?.id === "sheet") unsent.add(event.target);
});
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.matches("#sheet, #composer")) unsent.clear();
});
const isTyped = (node) =>
  node.id === "message" || node === document.activeElement || unsent.has(node);
const isLive = (node) => node.dataset?.live !== undefined;
const { defaults } = window.Idiomorph;
defaults.callbacks.beforeNodeMorphed = (before, after) => {
  if (isTyped(before)) keepTyped(before, after);
  if (before.id === "chips" || before.id === "files") return false;
  return !(isLive(before) && isLive(after));
};
function keepTyped(before, after) {
  if (before.id !== after.id) return;
  if (before.matches("textarea")) after.textContent = before.value;
  if (before.matches("input")) after.setAttribute("value", before.value);
}

// Settings: a slider says its value.
document.addEventListener("input", (event) => {
  const output = event.target.closest(".field")?.querySelector("output");
  if (output) output.value = event.target.value;
});

// Copying a message: its text as it reads.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy-text]");
  if (!button) return;
  await navigator.clipboard.writeText(
    document.getElementById(button.dataset.copyText).innerText,
  );
  const title = button.title;
  button.title = button.dataset.copied;
  button.classList.add("copied");
  setTimeout(() => {
    button.title = title;
    button.classList.remove("copied");
  }, 1500);
});

// Another conversation, or another branch: the list closes, and the place that the
// address names is shown, or the end.
document.addEventListener("click", (event) => {
  const past = event.target.closest("#past");
  if (past?.matches(":popover-open") && event.target.closest("a")) past.hidePopover();
});
let isArriving = false;
document.addEventListener("htmx:pushedIntoHistory", () => {
  isArriving = true;
});
document.addEventListener("htmx:afterSettle", () => {
  if (isArriving) arrive();
  isArriving = false;
});
function arrive() {
  const query = new URLSearchParams(location.search);
  const turn = document.getElementById(`turn-${query.get("turn")}`);
  const earlier = turn && !turn.matches(".last") ? turn : null;
  const place = document.querySelector(".sides, .editing, .wording") ?? earlier;
  following = !place && !query.has("rename");
  place?.scrollIntoView({ block: "nearest" });
  toEnd();
}
function restore() {
  const draft = sessionStorage.getItem(draftKey());
  if (draft && message() && !message().value) message().value = draft;
  arrive();
}
restore();
document.addEventListener("htmx:historyRestore", restore);
