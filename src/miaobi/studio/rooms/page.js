// Light or dark is the system's choice until the visitor makes one, here or on another page of the studio. What Gradio leaves
// unnamed for those who hear the page is named. (Gradio puts this script in when the page is already there.)
(() => {
  const chosen = () => /(?:^|; )miaobi_theme=(light|dark)/.exec(document.cookie)?.[1];
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    const dark = (chosen() ?? (system.matches ? "dark" : "light")) === "dark";
    if (document.body.classList.contains("dark") !== dark) document.body.classList.toggle("dark", dark);
  };
  const mend = () => {
    document.querySelectorAll(".empty[aria-label]:not([role])").forEach((empty) => empty.setAttribute("role", "img"));
  };
  // Gradio writes the browser's language there; what is read aloud is the page's.
  const language = location.pathname.startsWith("/studio/zh") ? "zh-CN" : "en";
  const say = () => { if (document.documentElement.lang !== language) document.documentElement.lang = language; };
  new MutationObserver(say).observe(document.documentElement, { attributes: true, attributeFilter: ["lang"] });
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  new MutationObserver(show).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  system.addEventListener("change", show);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#scheme")) return;
    const theme = document.body.classList.contains("dark") ? "light" : "dark";
    document.cookie = `miaobi_theme=${theme}; path=/studio; max-age=31536000; samesite=strict`;
    show();
  });
  // Tabs answer to the arrow keys, as everybody who uses a keyboard expects of them.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const tab = event.target.closest?.('[role="tab"]');
    if (!step || !tab) return;
    const tabs = [...tab.parentElement.querySelectorAll('[role="tab"]')];
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
  show();
  say();
  mend();
})();
