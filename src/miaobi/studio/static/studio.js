// What a page cannot do by markup alone. No state lives here that the address or the
// server should keep.

const root = document.documentElement;

// Theme: the system's, or as chosen; the server reads the cookie and writes data-theme.
function isDark() {
  if (root.dataset.theme) return root.dataset.theme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}
for (const button of document.querySelectorAll("[data-theme-toggle]")) {
  button.setAttribute("aria-pressed", isDark());
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    document.cookie = `miaobi_theme=${root.dataset.theme}; path=/studio; max-age=31536000; samesite=strict`;
    button.setAttribute("aria-pressed", isDark());
  });
}

// Menus are <details>: a click elsewhere or Escape closes them.
function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(except)) menu.open = false;
  }
}
document.addEventListener("click", (event) => closeMenus(event.target));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeMenus(null);
});

// Copy: the button says that it is done.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = button.dataset.copyFrom
    ? document.getElementById(button.dataset.copyFrom)
    : button.closest(".code").querySelector("pre");
  await copy(source.innerText);
  const before = button.textContent;
  button.textContent = button.dataset.copy;
  setTimeout(() => {
    button.textContent = before;
  }, 1500);
});

// The clipboard belongs to secure pages; a server that others reach by http has none.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = document.createElement("textarea");
  box.value = text;
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  box.remove();
}

// Toasts: what was done goes by itself, an error stays until it is read.
document.addEventListener("click", (event) => {
  event.target.closest("[data-dismiss]")?.closest(".toast").remove();
});
const toasts = document.getElementById("toasts");
new MutationObserver((changes) => {
  for (const toast of changes.flatMap((change) => [...change.addedNodes])) {
    if (toast.matches?.(".toast:not(.error)")) setTimeout(() => toast.remove(), 6000);
  }
}).observe(toasts, { childList: true });

// Without an answer from the server there is nothing to swap: say so once.
document.addEventListener("htmx:sendError", () => {
  const text = root.lang.startsWith("zh")
    ? "服务器没有应答。请检查服务器是否仍在运行，然后重试。"
    : "The server does not answer. Check that it is running, then try again.";
  notify(text);
});

function notify(text) {
  if ([...toasts.children].some((toast) => toast.innerText.includes(text))) return;
  const toast = document.createElement("div");
  toast.className = "toast error";
  toast.setAttribute("role", "alert");
  toast.innerHTML = "<p></p><button type='button' class='plain slim' data-dismiss>×</button>";
  toast.firstChild.textContent = text;
  toasts.append(toast);
}

// What is no page of ours is shown nowhere: a session that has ended says so once.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (/^text\/html/.test(xhr.getResponseHeader("content-type") ?? "text/html")) return;
  event.detail.shouldSwap = false;
  if (xhr.status !== 401) return;
  const text = root.lang.startsWith("zh")
    ? "您已退出登录。请重新加载页面以登录。"
    : "You are signed out. Load the page again to sign in.";
  notify(text);
});

// Parts of a page are morphed: what people opened stays open, and a time that has not
// changed stays as it is written.
const { callbacks } = window.Idiomorph.defaults;
callbacks.beforeNodeMorphed = (before, after) =>
  !(before.matches?.("time[data-local]") && before.dateTime === after.dateTime);
callbacks.beforeAttributeUpdated = (name, node) =>
  !(name === "open" && node.matches("details"));

// A tab that nobody sees asks for nothing again and again; its parts follow as soon as it
// is seen (the macro `follow`).
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.target.matches("[hx-trigger^='every ']")) event.preventDefault();
});

// What cannot be undone asks before (hx-confirm).
const dialog = document.getElementById("question");
document.addEventListener("htmx:confirm", (event) => {
  const { question, issueRequest } = event.detail;
  if (!question) return;
  event.preventDefault();
  dialog.querySelector("p").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  dialog.addEventListener(
    "close",
    () => {
      if (dialog.returnValue === "yes") issueRequest(true);
    },
    { once: true },
  );
});

// Times in the browser's own zone and language.
function localise(within) {
  for (const time of within.querySelectorAll?.("time[data-local]") ?? []) {
    const date = new Date(time.dateTime);
    const isToday = date.toDateString() === new Date().toDateString();
    const format = isToday
      ? { hour: "2-digit", minute: "2-digit" }
      : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
    time.textContent = date.toLocaleString(root.lang, format);
    time.title = date.toLocaleString(root.lang);
  }
}
localise(document);
document.addEventListener("htmx:load", (event) => localise(event.target));
