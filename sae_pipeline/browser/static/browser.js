// Everything works without this file but streaming; here: sliders, live steering, context in place, copy, one open token.
"use strict";

const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

// --- a slider beside each factor
for (const range of all("[data-range]")) {
  const number = range.closest(".knob").querySelector("[name=factor]");
  range.hidden = false;
  range.addEventListener("input", () => { number.value = range.value; });
  number.addEventListener("input", () => { range.value = number.value; });
}

// --- slow forms say that they work
for (const form of all("form[data-waits]")) {
  form.addEventListener("submit", () => {
    if (form.id !== "steer") for (const button of all("button", form)) button.disabled = true;
  });
}

// --- copy
for (const button of all("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

// --- the whole block of an example, in place
for (const link of all("a.more")) {
  link.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const item = link.closest(".window");
    const open = item.querySelector(".block");
    if (open) { open.remove(); return; }
    const answer = await fetch(link.href + "?part=1");
    if (!answer.ok) { window.location.href = link.href; return; }
    // Our own server's page, escaped there; the parser runs no script and the content policy forbids any.
    const part = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".block");
    if (part) item.append(part);
  });
}

// --- one open token at a time
document.addEventListener("toggle", (event) => {
  if (event.target.open && event.target.closest(".read")) {
    for (const other of all(".read details[open]")) if (other !== event.target) other.open = false;
  }
}, true);

// --- "Steer with it" on the start page writes at once. The word goes through this tab's storage, not the address: a link from
// elsewhere cannot make the model work.
for (const link of all("a[data-write-now]")) {
  link.addEventListener("click", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) sessionStorage.setItem("write-now", link.href);
  });
}

// --- steering, streamed
const steer = document.getElementById("steer");
if (steer) {
  const sides = all("[data-side]"), status = steer.querySelector("[data-status]"), stop = steer.querySelector("[data-stop]");
  const write = steer.querySelector("button:not([type])"), save = document.getElementById("save");
  let running = null, finished = null;

  const settings = () => {
    const form = new FormData(steer), features = {};
    const ids = form.getAll("feature"), factors = form.getAll("factor");
    ids.forEach((id, at) => { if (id.trim()) features[id.trim()] = Number(factors[at] || 1); });
    const values = { features };
    for (const name of ["size", "prompt", "mode", "positions", "form", "max_new_tokens", "temperature", "seed"]) values[name] = form.get(name);
    return values;
  };

  const remember = (values) => {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) if (name !== "features") query.set(name, value);
    for (const [id, factor] of Object.entries(values.features)) query.append("f", `${id}:${factor}`);
    window.history.replaceState(null, "", "/steer?" + query);
  };

  const show = (event) => {
    if (event.text !== undefined) sides[event.side].textContent = event.text;
    if (event.note) status.textContent = event.note;
    if (event.error) status.textContent = event.error;
    if (event.done) { finished = event; sides[0].textContent = event.unsteered; sides[1].textContent = event.steered; status.textContent = "Done."; }
  };

  const follow = async (answer) => {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let left = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      left += value;
      const events = left.split("\n\n");
      left = events.pop();
      for (const event of events) { if (status.textContent.startsWith("Loading")) status.textContent = "Writing ..."; show(JSON.parse(event.slice("data: ".length))); }
    }
  };

  steer.addEventListener("submit", async (event) => {
    event.preventDefault();
    const values = settings();
    running = new AbortController();
    finished = null;
    write.disabled = true; stop.hidden = false; if (save) save.hidden = true;
    sides.forEach((side) => { side.textContent = ""; });
    status.textContent = "Writing ...";
    try {
      const answer = await fetch("/steer/stream", {
        method: "POST", signal: running.signal, body: JSON.stringify(values),
        headers: { "content-type": "application/json", accept: "text/event-stream, application/json" },
      });
      if (!answer.ok) { status.textContent = (await answer.json()).error; return; }
      remember(values);
      await follow(answer);
      if (finished && save) save.hidden = false;
    } catch (error) {
      status.textContent = error.name === "AbortError" ? "Stopped." : "The connection was lost.";
    } finally {
      write.disabled = false; stop.hidden = true; running = null;
    }
  });
  stop.addEventListener("click", () => running && running.abort());

  if (save) save.addEventListener("submit", async (event) => {
    if (!finished) return; // a page rendered without the stream carries its run in the form
    event.preventDefault();
    const answer = await fetch("/saved", {
      method: "POST", headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify({ ...settings(), unsteered: finished.unsteered, steered: finished.steered }),
    });
    const said = await answer.json(), place = save.querySelector("[data-saved]");
    if (!answer.ok) { place.textContent = said.error; return; }
    const link = document.createElement("a");
    link.href = said.url; link.textContent = "saved";
    place.replaceChildren(link);
  });

  const asked = sessionStorage.getItem("write-now");
  sessionStorage.removeItem("write-now");
  if (asked === window.location.href) steer.requestSubmit();
}
