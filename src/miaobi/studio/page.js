// Light or dark: the system's choice until the visitor makes one. The way out shows where there is a session.
(() => {
  const kept = localStorage.getItem("miaobi-scheme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = () => document.body.classList.toggle("dark", (localStorage.getItem("miaobi-scheme") ?? (system.matches ? "dark" : "light")) === "dark");
  addEventListener("DOMContentLoaded", () => {
    const leave = () => { const link = document.querySelector("#leave"); if (link) link.hidden = !document.cookie.includes("miaobi_signed_in="); return link; };
    const seen = new MutationObserver(() => leave() && seen.disconnect());
    seen.observe(document.body, { childList: true, subtree: true });
    if (kept) show();
    // Gradio sets the class itself once, from the system.
    if (kept) new MutationObserver(() => { if (document.body.classList.contains("dark") !== (localStorage.getItem("miaobi-scheme") === "dark")) show(); })
      .observe(document.body, { attributes: true, attributeFilter: ["class"] });
  });
  system.addEventListener("change", show);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#scheme")) return;
    localStorage.setItem("miaobi-scheme", document.body.classList.contains("dark") ? "light" : "dark");
    show();
  });
})();
