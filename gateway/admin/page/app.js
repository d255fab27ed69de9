// The frame around the screens: who is signed in, where one is, keys of the keyboard, light and dark.

import { html, render, useEffect, useState } from "./vendor/preact.js";
import { Asking, Dialog, useOrder } from "./ui.js";
import { call, listenTo, useLive } from "./live.js";

const ALL = ["admin", "viewer"];
// A screen's module is loaded when it is first shown, and exports a component of its name.
const SCREENS = [
  { id: "now", name: "Now", key: "n", load: () => import("./now.js"), topics: ["overview", "requests"], roles: ALL },
  { id: "requests", name: "Requests", key: "r", load: () => import("./requests.js"), topics: ["requests", "overview"], roles: ALL },
  { id: "models", name: "Models", key: "m", load: () => import("./models.js"), topics: ["models", "speed"], mine: ["pulls"], roles: ALL },
  { id: "chat", name: "Chat", key: "h", load: () => import("./chat.js"), topics: ["models", "routing"], roles: ["admin", "user"] },
  { id: "routing", name: "Routing", key: "o", load: () => import("./routing.js"), topics: ["routing"], roles: ALL },
  { id: "cache", name: "Cache", key: "c", load: () => import("./cache.js"), topics: ["cache", "cache_tree"], roles: ALL },
  { id: "settings", name: "Settings", key: "s", load: () => import("./settings.js"), topics: ["about"], mine: ["routing", "models", "keys", "hosts"], roles: ALL },
];

const saved = (name, otherwise) => { try { return localStorage.getItem(name) ?? otherwise; } catch { return otherwise; } };
const save = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a private window */ } };
const place = () => {
  const [id = "", ...rest] = location.hash.replace(/^#\//, "").split("/");
  try { return [id, decodeURIComponent(rest.join("/"))]; } catch { return [id, ""]; }
};
const dress = (theme) => {
  const isDark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
};
dress(saved("theme", "system"));

const Screen = ({ screen, ...props }) => {
  const [Page, setPage] = useState(() => screen.page);
  const [failed, setFailed] = useState("");
  useEffect(() => {
    screen.load().then((made) => { screen.page = made[screen.name]; setPage(() => screen.page); }, (error) => setFailed(error.message));
  }, []);
  if (Page) return html`<${Page} ...${props} />`;
  return failed ? html`<p role="alert" class="notice bad">This screen cannot be loaded: ${failed} <button type="button" onClick=${() => location.reload()}>Load the page anew</button></p>` : html`<div class="skeleton" role="status"><span class="offscreen">Loading</span></div>`;
};

const SignIn = ({ onIn }) => {
  const [error, setError] = useState("");
  const sign = async (event) => {
    event.preventDefault();
    try { onIn(await call("POST", "/api/session", { key: new FormData(event.target).get("key") })); } catch (failed) { setError(failed.message); }
  };
  return html`<main class="alone"><h1>mlx-gateway</h1><form class="card" onSubmit=${sign}><label>Key <input name="key" type="password" autocomplete="current-password" required autofocus /></label>
    <p class="row"><button class="primary">Sign in</button> ${error && html`<span role="alert" class="bad">${error}</span>`}</p>
    <p class="muted">One that <code>mlx-gateway key create NAME --role viewer</code> has printed, or the owner's.</p></form></main>`;
};

const moveRow = (step) => {
  const links = [...document.querySelectorAll("main .rowlink")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
};

const useKeys = (screens, isOn, setHelp) => useEffect(() => {
  if (!isOn) return undefined;
  let before = "";
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    const was = before;
    before = event.key === "g" ? "g" : "";
    const screen = was === "g" && screens.find((each) => each.key === event.key);
    if (screen) location.hash = `#/${screen.id}`;
    else if (event.key === "/") document.querySelector("main .filter")?.focus();
    else if (event.key === "j" || event.key === "k") moveRow(event.key === "j" ? 1 : -1);
    else if (event.key === "x") (document.activeElement.closest("tr") || document.querySelector("main")).querySelector("[data-cancel]")?.closest("button").click();
    else if (event.key === "?") setHelp(true);
    else return;
    event.preventDefault();
  };
  addEventListener("keydown", press);
  return () => removeEventListener("keydown", press);
}, [isOn, screens.length]);

const App = () => {
  const [session, setSession] = useState(null);
  const [failed, setFailed] = useState("");
  const [[id, rest], setPlace] = useState(place());
  const [theme, setTheme] = useState(saved("theme", "system"));
  const [letters, setLetters] = useState(saved("letters", "on") === "on");
  const [help, setHelp] = useState(false);
  const live = useLive();
  const role = session?.signed_in ? session.role : "";
  const screens = SCREENS.filter((each) => each.roles.includes(role));
  const screen = screens.find((each) => each.id === id) || screens[0];
  const asking = useOrder();
  const look = () => {
    const isNews = asking();
    const shown = (said, error) => { if (!isNews()) return; if (said) setSession(said); setFailed(error); };
    return call("GET", "/api/session").then((said) => shown(said, ""), (error) => shown(null, error.message));
  };
  const take = (said) => { asking()(); setSession(said); }; // what was asked before somebody signed in or out is no answer now

  useEffect(() => {
    look();
    const moved = () => setPlace(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => { if (live.status === "away") look(); }, [live.status]);
  useEffect(() => { if (failed) { const timer = setInterval(look, 3000); return () => clearInterval(timer); } return undefined; }, [failed]);
  useEffect(() => {
    const topics = screen && role !== "user" ? [...screen.topics, ...((role === "admin" && screen.mine) || [])] : [];
    listenTo(topics);
  }, [screen?.id, role]);
  useEffect(() => {
    dress(theme);
    save("theme", theme);
    const query = matchMedia("(prefers-color-scheme: dark)");
    const change = () => dress(theme);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, [theme]);
  useEffect(() => save("letters", letters ? "on" : "off"), [letters]);
  useKeys(screens, letters, setHelp);
  const state = live.states.overview;
  const running = state ? Object.keys(state.running).length : 0;
  useEffect(() => { document.title = `${running ? `${running} running · ` : ""}${screen?.name || "Sign in"} · mlx-gateway`; }, [running, screen?.id]);

  if (!session) return html`<main class="alone"><h1>mlx-gateway</h1><p role="status">${failed ? `${failed}; trying again` : "Loading"}</p></main>`;
  if (!session.signed_in || !screen) return html`<${SignIn} onIn=${take} />`;
  const signOut = async () => { listenTo([]); await call("DELETE", "/api/session"); take({ signed_in: false, needs_key: true }); };
  const status = role === "user" ? "" : live.status;
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main").focus(); }}>To the content</a>
    <header><strong>mlx-gateway</strong>
      ${status && html`<span class=${`state ${status === "live" ? "ok" : status === "away" ? "bad" : "busy"}`} role="status"><span aria-hidden="true">${status === "live" ? "●" : status === "away" ? "▲" : "◐"}</span> ${status === "away" ? "no contact" : status}</span>`}
      <label class="theme">Theme <select value=${theme} onChange=${(event) => setTheme(event.target.value)}><option value="system">system</option><option value="light">light</option><option value="dark">dark</option></select></label>
    </header>
    <nav aria-label="Screens"><ul>${screens.map((each) => html`<li><a href=${`#/${each.id}`} aria-current=${each === screen ? "page" : undefined}>${each.name}</a></li>`)}</ul></nav>
    <main id="main" tabindex="-1" class=${status === "away" ? "stale" : ""}>
      ${status === "away" && html`<p role="alert" class="notice bad">No contact since ${new Date(live.since).toLocaleTimeString()}, trying again. What is shown is from before.</p>`}
      <${Screen} key=${screen.id} screen=${screen} live=${live} id=${rest} role=${role} mayWrite=${role === "admin"} session=${session} signOut=${signOut} letters=${letters} setLetters=${setLetters} />
    </main>
    <${Asking} />
    ${help && html`<${Dialog} title="Keys" onClose=${() => setHelp(false)}><dl class="facts">
      ${screens.map((each) => html`<div><dt><kbd>g</kbd> <kbd>${each.key}</kbd></dt><dd>${each.name}</dd></div>`)}
      <div><dt><kbd>/</kbd></dt><dd>filter</dd></div><div><dt><kbd>j</kbd> <kbd>k</kbd></dt><dd>next and previous row</dd></div><div><dt><kbd>Enter</kbd></dt><dd>open</dd></div>
      <div><dt><kbd>x</kbd></dt><dd>cancel the chosen request</dd></div><div><dt><kbd>Esc</kbd></dt><dd>close</dd></div></dl><button type="button" onClick=${() => setHelp(false)}>Close</button><//>`}`;
};

const root = document.getElementById("app");
root.textContent = "";
render(html`<${App} />`, root);
