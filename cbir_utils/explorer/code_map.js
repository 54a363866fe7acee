// The map of all codes: thumbnails at their points. Wheel or keys zoom, a drag moves, a click searches, a lasso selects.

// In `el`; `pick(i)` searches with the i-th image of the map, `selected(list)` gets what a lasso holds.
function code_map(el, { pick, selected }) {
  let map = null, places = null, view = { x: 0, y: 0, zoom: 1 };
  let chosen = new Set(), lasso = null, lassoing = false, start = null, over = null;
  const sheet = new Image();
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.dataset.testid = "map-canvas";
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Map of the codes. Plus and minus zoom, arrows move, Enter searches with the image in the middle.");
  const tools = document.createElement("div");
  tools.className = "cbir-row";
  const lasso_button = button("lasso", "map-lasso", () => hold(!lassoing));
  lasso_button.setAttribute("aria-pressed", "false");
  const said = document.createElement("output");
  said.dataset.testid = "map-said";
  tools.append(button("zoom in", "map-in", () => zoom(1.5)), button("zoom out", "map-out", () => zoom(1 / 1.5)),
    button("all of it", "map-all", () => { view = { x: 0, y: 0, zoom: 1 }; paint(); }), lasso_button, said);
  el.append(tools, canvas);
  sheet.addEventListener("load", () => paint());

  const inner = () => Math.min(canvas.width, canvas.height) - 2 * margin();
  const margin = () => 20 * (window.devicePixelRatio || 1);
  // From a share of the map to pixels of the canvas, and back. Row 0 of a canvas is its top.
  const to_canvas = ([x, y]) => [margin() + ((x - view.x) * view.zoom) * inner(), margin() + ((1 - y - view.y) * view.zoom) * inner()];
  const to_map = ([x, y]) => [(x - margin()) / inner() / view.zoom + view.x, 1 - ((y - margin()) / inner() / view.zoom + view.y)];

  function size() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(200, Math.min(canvas.clientWidth || 600, 760));
    canvas.width = canvas.height = Math.round(width * ratio);
  }

  function shown_side() {
    const room = inner() * view.zoom / Math.sqrt(map.rows.length || 1);
    return Math.max(6, Math.min(0.9 * room, map.sprite.side * 2.4 * (window.devicePixelRatio || 1)));
  }

  function paint() {
    if (!map) return;
    size();
    const target = canvas.getContext("2d"), side = shown_side();
    target.fillStyle = "#777";
    target.fillRect(0, 0, canvas.width, canvas.height);
    const { side: cell, columns } = map.sprite;
    map.points.forEach((point, i) => {
      const [x, y] = to_canvas(point);
      if (x < -side || y < -side || x > canvas.width + side || y > canvas.height + side) return;
      target.globalAlpha = chosen.size && !chosen.has(i) ? 0.25 : 1;
      target.drawImage(sheet, (i % columns) * cell, Math.floor(i / columns) * cell, cell, cell, x - side / 2, y - side / 2, side, side);
      if (chosen.has(i)) frame(target, x, y, side, "#d55e00", 2);
    });
    target.globalAlpha = 1;
    if (over !== null) frame(target, ...to_canvas(map.points[over]), side, "#fff", 3);
    for (const [rank, place] of (places ?? []).entries()) {
      const [x, y] = to_canvas(place);
      rank ? mark(target, x, y, String(rank)) : star(target, x, y);
    }
    if (lasso) {
      target.strokeStyle = "#d55e00";
      target.lineWidth = 3;
      target.beginPath();
      lasso.forEach((point, i) => target[i ? "lineTo" : "moveTo"](...to_canvas(point)));
      target.stroke();
    }
  }

  function frame(target, x, y, side, colour, width) {
    target.strokeStyle = colour;
    target.lineWidth = width * (window.devicePixelRatio || 1);
    target.strokeRect(x - side / 2, y - side / 2, side, side);
  }

  function mark(target, x, y, text) {
    const ratio = window.devicePixelRatio || 1, angle = 2.4 * Number(text); // numbers fan out, for hits lie close
    const to = [x + 22 * ratio * Math.sin(angle), y - 22 * ratio * Math.cos(angle)];
    target.strokeStyle = target.fillStyle = "#0072b2";
    target.lineWidth = 2 * ratio;
    target.beginPath();
    target.moveTo(x, y);
    target.lineTo(...to);
    target.stroke();
    target.beginPath();
    target.arc(...to, 10 * ratio, 0, 2 * Math.PI);
    target.fill();
    target.fillStyle = "#fff";
    target.font = `bold ${12 * ratio}px sans-serif`;
    target.textAlign = "center";
    target.textBaseline = "middle";
    target.fillText(text, ...to);
  }

  function star(target, x, y) {
    const size = 13 * (window.devicePixelRatio || 1);
    target.beginPath();
    for (let i = 0; i < 10; i += 1) {
      const length = i % 2 ? size / 2.3 : size, angle = Math.PI * i / 5;
      target.lineTo(x + length * Math.sin(angle), y - length * Math.cos(angle));
    }
    target.closePath();
    target.fillStyle = "#e69f00";
    target.strokeStyle = "#000";
    target.lineWidth = 2;
    target.fill();
    target.stroke();
  }

  function zoom(factor, at = [canvas.width / 2, canvas.height / 2]) {
    const before = to_map(at);
    view.zoom = Math.min(40, Math.max(0.8, view.zoom * factor));
    const after = to_map(at);
    view.x += before[0] - after[0];
    view.y += after[1] - before[1];
    paint();
  }

  function place_of(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  }

  function nearest(at) {
    let best = null, least = shown_side() ** 2;
    map?.points.forEach((point, i) => {
      const [x, y] = to_canvas(point), far = (x - at[0]) ** 2 + (y - at[1]) ** 2;
      if (far < least) [best, least] = [i, far];
    });
    return best;
  }

  function hold(on) {
    lassoing = on;
    lasso_button.setAttribute("aria-pressed", String(on));
    canvas.style.cursor = on ? "crosshair" : "grab";
    if (!on && chosen.size) choose(new Set());
  }

  function choose(set) {
    chosen = set;
    selected([...chosen].map((i) => map.rows[i]));
    paint();
  }

  // Whether a point lies in a polygon: a ray from it crosses the sides an odd number of times.
  function inside([x, y], polygon) {
    let odd = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
      const [[xi, yi], [xj, yj]] = [polygon[i], polygon[j]];
      if (yi > y !== yj > y && x < (xj - xi) * (y - yi) / (yj - yi) + xi) odd = !odd;
    }
    return odd;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!map || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    start = { at: place_of(event), view: { ...view }, moved: false };
    if (lassoing) lasso = [to_map(start.at)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!map) return;
    const at = place_of(event);
    if (!start) {
      over = nearest(at);
      said.textContent = over === null ? "" : [map.ids[over], map.labels[over]].filter(Boolean).join(" · ");
      return paint();
    }
    if (Math.hypot(at[0] - start.at[0], at[1] - start.at[1]) > 5) start.moved = true;
    if (lasso) lasso.push(to_map(at));
    else if (start.moved) {
      view.x = start.view.x - (at[0] - start.at[0]) / inner() / view.zoom;
      view.y = start.view.y - (at[1] - start.at[1]) / inner() / view.zoom;
    }
    paint();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const polygon = lasso, { moved } = start;
    start = lasso = null;
    if (polygon && moved) choose(new Set(map.points.flatMap((point, i) => (inside(point, polygon) ? [i] : []))));
    else if (!moved) {
      const found = nearest(place_of(event));
      if (found !== null) pick(map.rows[found]);
    }
    paint();
  });
  canvas.addEventListener("pointercancel", () => { start = lasso = null; });
  canvas.addEventListener("pointerleave", () => { over = null; said.textContent = ""; paint(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, place_of(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 0.1 / view.zoom;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (move) [view.x, view.y] = [view.x + move[0], view.y + move[1]];
    else if (event.key === "+" || event.key === "=") return zoom(1.5);
    else if (event.key === "-") return zoom(1 / 1.5);
    else if (event.key === "Enter") {
      const found = nearest([canvas.width / 2, canvas.height / 2]);
      if (found !== null) pick(map.rows[found]);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    paint();
  });

  return {
    show(shown) {
      map = shown;
      chosen = new Set();
      view = { x: 0, y: 0, zoom: 1 };
      sheet.src = shown.sprite.src;
      paint();
    },
    mark(shown) {
      places = shown;
      paint();
    },
    paint,
  };
}
