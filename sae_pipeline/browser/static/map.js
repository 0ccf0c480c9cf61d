// The map of features on a canvas: move, zoom, hover, click. Groups and colours come with the points; the rest of the page is HTML.
"use strict";

(async () => {
  const place = document.getElementById("map");
  const answer = await fetch(place.dataset.points);
  if (!answer.ok) return;
  const points = await answer.json(), n = points.x.length;
  const canvas = place.querySelector("canvas"), pen = canvas.getContext("2d"), hint = place.querySelector(".map-hint");
  const form = document.getElementById("map-form"), legend = document.getElementById("legend"), view = document.getElementById("in-view");
  const number = new Map(points.feature.map((feature, at) => [`${points.size[at]}/${feature}`, at]));
  const around = number.get(place.dataset.around), near = (place.dataset.near || "").split(" ").map((key) => number.get(key)).filter((at) => at !== undefined);
  const hidden = new Set(), hints = new Map();
  let colouring = points.colourings[form.elements.colour.value], hovered = -1, scale = 1, left = 0, top = 0, drawing = false, listing = 0;
  place.hidden = false; view.hidden = false;

  const name = (at) => `${points.size[at]}/${points.feature[at]}`;
  const across = (at) => (points.x[at] - left) * scale, down = (at) => (points.y[at] - top) * scale;
  const shown = (at) => !hidden.has(colouring.of[at]);

  // --- what is where
  const fit = (which) => {
    let x0 = Infinity, x1 = -Infinity, y0 = Infinity, y1 = -Infinity;
    for (const at of which) {
      x0 = Math.min(x0, points.x[at]); x1 = Math.max(x1, points.x[at]); y0 = Math.min(y0, points.y[at]); y1 = Math.max(y1, points.y[at]);
    }
    const wide = Math.max(x1 - x0, 0.2), high = Math.max(y1 - y0, 0.2);
    scale = 0.92 * Math.min(canvas.clientWidth / wide, canvas.clientHeight / high);
    left = (x0 + x1) / 2 - canvas.clientWidth / 2 / scale; top = (y0 + y1) / 2 - canvas.clientHeight / 2 / scale;
  };
  const zoom = (factor, x, y) => {
    left += x / scale - x / (scale * factor); top += y / scale - y / (scale * factor);
    scale *= factor; draw();
  };
  const nearest = (x, y, within) => {
    let best = -1, distance = within * within;
    for (let at = 0; at < n; at++) {
      const dx = across(at) - x, dy = down(at) - y, d = dx * dx + dy * dy;
      if (d < distance && shown(at)) { best = at; distance = d; }
    }
    return best;
  };

  // --- drawing, at most once a frame
  const draw = () => { if (!drawing) { drawing = true; requestAnimationFrame(paint); } };
  const ring = (at, radius) => { pen.beginPath(); pen.arc(across(at), down(at), radius, 0, 7); pen.stroke(); };
  const paint = () => {
    drawing = false;
    const style = getComputedStyle(document.documentElement), wide = canvas.clientWidth, high = canvas.clientHeight, dots = window.devicePixelRatio || 1;
    const pixels = [Math.round(wide * dots), Math.round(high * dots)];
    if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, wide, high);
    const side = Math.min(7, Math.max(1.6, Math.sqrt(scale) * 0.3));
    colouring.groups.forEach((group, which) => {
      if (hidden.has(which)) return;
      const rest = group.colour === "rest";
      pen.fillStyle = style.getPropertyValue(`--${group.colour}`); pen.globalAlpha = rest ? 0.45 : 0.8;
      const half = rest ? side / 2 : side * (group.n < n / 20 ? 0.85 : 0.6);
      for (let at = 0; at < n; at++) {
        if (colouring.of[at] !== which) continue;
        const x = across(at), y = down(at);
        if (x > -9 && y > -9 && x < wide + 9 && y < high + 9) pen.fillRect(x - half, y - half, 2 * half, 2 * half);
      }
    });
    pen.globalAlpha = 1; pen.strokeStyle = style.getPropertyValue("--ink"); pen.lineWidth = 1;
    if (around !== undefined) {
      pen.globalAlpha = 0.5; pen.beginPath();
      for (const at of near) { pen.moveTo(across(around), down(around)); pen.lineTo(across(at), down(at)); }
      pen.stroke(); pen.globalAlpha = 1;
      pen.fillStyle = style.getPropertyValue("--ink"); pen.font = "11px system-ui, sans-serif";
      for (const at of near) { ring(at, side + 2); pen.fillText(name(at), across(at) + side + 5, down(at) - 4); }
      pen.lineWidth = 2.5; ring(around, side + 5);
    }
    if (hovered >= 0) { pen.lineWidth = 2; ring(hovered, side + 3); }
    clearTimeout(listing); listing = setTimeout(list, 250);
  };

  // --- words for points: asked for when needed, a few at a time
  const words = async (which) => {
    const missing = which.filter((at) => !hints.has(at));
    if (missing.length) {
      const said = await (await fetch("/hints?" + missing.map((at) => "f=" + name(at)).join("&"))).json();
      for (const at of missing) hints.set(at, said[name(at)] || "");
    }
  };
  const list = async () => {
    const x = canvas.clientWidth / 2, y = canvas.clientHeight / 2, order = [];
    for (let at = 0; at < n; at++) {
      if (shown(at)) { const dx = across(at) - x, dy = down(at) - y; if (Math.abs(dx) < x && Math.abs(dy) < y) order.push([dx * dx + dy * dy, at]); }
    }
    const middle = order.sort((a, b) => a[0] - b[0]).slice(0, 10).map((pair) => pair[1]);
    await words(middle);
    view.querySelector("ul").replaceChildren(...middle.map((at) => {
      const item = document.createElement("li"), link = document.createElement("a"), text = document.createElement("span");
      link.href = "/" + name(at); link.textContent = name(at); link.className = "id"; text.textContent = " " + hints.get(at); text.dir = "auto";
      item.append(link, text);
      return item;
    }));
  };
  const hover = async (at, x, y) => {
    if (at === hovered) return;
    hovered = at; canvas.classList.toggle("on-point", at >= 0); hint.hidden = true; draw();
    if (at < 0) return;
    await words([at]);
    if (at !== hovered) return;
    hint.textContent = `${name(at)}  ${hints.get(at)}`; hint.hidden = false;
    hint.style.left = Math.max(0, Math.min(x + 14, canvas.clientWidth - hint.offsetWidth - 4)) + "px";
    hint.style.top = (y + hint.offsetHeight + 20 > canvas.clientHeight ? y - hint.offsetHeight - 10 : y + 14) + "px";
  };

  // --- groups to show and hide
  const describe = () => {
    legend.replaceChildren(...colouring.groups.map((group, which) => {
      const label = document.createElement("label"), box = document.createElement("input"), key = document.createElement("span");
      box.type = "checkbox"; box.checked = !hidden.has(which); key.className = `key ${group.colour}`;
      box.addEventListener("change", () => { if (box.checked) hidden.delete(which); else hidden.add(which); draw(); });
      label.append(box, key, `${group.label} (${group.n.toLocaleString("en")})`);
      return label;
    }));
  };
  form.elements.colour.addEventListener("change", (event) => {
    colouring = points.colourings[event.target.value]; hidden.clear(); describe(); draw();
    const url = new URL(window.location.href);
    url.searchParams.set("colour", event.target.value); window.history.replaceState(null, "", url);
  });

  // --- hands
  let held = null, moved = false;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => { held = at(event); moved = false; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (!held) { hover(nearest(x, y, 9), x, y); return; }
    if (!moved && Math.hypot(x - held[0], y - held[1]) < 4) return;
    moved = true; left -= (x - held[0]) / scale; top -= (y - held[1]) / scale; held = [x, y]; draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    const found = moved || !held ? -1 : nearest(...at(event), 9);
    held = null;
    if (found >= 0) window.location.href = "/" + name(found);
  });
  canvas.addEventListener("pointerleave", () => { if (!held) hover(-1); });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), ...at(event)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] }[event.key];
    if (step) { left += step[0] / scale; top += step[1] / scale; draw(); event.preventDefault(); }
    if ("+-=".includes(event.key)) zoom(event.key === "-" ? 0.6 : 1.6, canvas.clientWidth / 2, canvas.clientHeight / 2);
  });
  for (const button of place.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      if (button.dataset.zoom !== "0") zoom(Number(button.dataset.zoom), canvas.clientWidth / 2, canvas.clientHeight / 2);
      else { fit(points.x.keys()); draw(); }
    });
  }
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  describe();
  // Around a feature: its nearest ones as far as they lie together; UMAP throws a few of them far away.
  const apart = (at) => Math.hypot(points.x[at] - points.x[around], points.y[at] - points.y[around]);
  fit(around === undefined ? points.x.keys() : [around, ...near.sort((a, b) => apart(a) - apart(b)).slice(0, Math.ceil(near.length / 2))]);
  draw();
})();
