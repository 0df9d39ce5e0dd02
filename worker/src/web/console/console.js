// Keeps a page up to date: whenever something was applied, the page is asked for again, and what
// has changed in its live parts is replaced. Without this file a page is whole, but stands still.

const LEAST_PAUSE_MS = 1000;
const ALWAYS_MS = 5000;

const parts = [...document.querySelectorAll("[data-live][id]")];
const status = document.getElementById("live");
let isAsking = false;
let isWanted = false;
let lastAsked = 0;
let timer;

function want() {
  isWanted = true;
  if (timer || isAsking || document.hidden) return;
  const pause = Math.max(0, lastAsked + LEAST_PAUSE_MS - Date.now());
  timer = setTimeout(refresh, pause);
}

async function refresh() {
  timer = undefined;
  isWanted = false;
  isAsking = true;
  lastAsked = Date.now();
  try {
    const answer = await fetch(location.href, { cache: "no-cache", headers: { accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname === "/login") location.reload();
    if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    // The stream of events notices, too, and says so.
  }
  isAsking = false;
  if (isWanted) want();
}

function replace(fresh) {
  for (const part of parts) {
    const next = fresh.getElementById(part.id);
    if (!next || next.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement : undefined;
    const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    part.replaceChildren(...next.childNodes);
    part.querySelectorAll(".scroll").forEach((box, index) => { box.scrollLeft = scrolled[index] ?? 0; });
    if (focused) find(part, focused)?.focus({ preventScroll: true });
  }
}

// The element that stands where the focused one stood: the same link, or the region of that name.
function find(part, was) {
  for (const name of ["id", "href", "aria-label"]) {
    const value = was.getAttribute(name);
    if (value) return part.querySelector(`[${name}="${CSS.escape(value)}"]`);
  }
  return undefined;
}

function concerns(moved) {
  const partitions = parts.map((part) => part.dataset.partition).filter((number) => number !== undefined);
  return partitions.length === 0 || moved.some(({ partition }) => partitions.includes(String(partition)));
}

if (parts.length > 0) {
  const events = new EventSource("/api/v1/stream?events=false");
  events.addEventListener("open", () => { status.textContent = "Live"; want(); });
  events.addEventListener("error", () => { status.textContent = "Not connected; trying again"; });
  events.addEventListener("checkpoint", (event) => {
    if (concerns(JSON.parse(event.data).partitions)) want();
  });
  if (parts.some((part) => part.dataset.live === "always")) setInterval(want, ALWAYS_MS);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && isWanted) want(); });
  // A connection that a page in the history keeps is one that another page can't have.
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}
