// A figure that moves under the hand, drawn from numbers in the page itself: no kernel, no server, no library.
// `data.kind` is "points" (frames of points on fixed axes; three numbers each turn with the pointer) or "pad"
// (a point that is dragged over codes of two numbers, and the image that the code decodes to).
(root, data) => {
  const SIDE = 340, MARGIN = 16, INK = "#222222", PALE = "#bbbbbb";
  const add = (parent, tag, properties = {}) => {
    const element = Object.assign(document.createElement(tag), properties);
    parent.append(element);
    return element;
  };
  root.replaceChildren();
  root.style.cssText = "background:#fff;color:#222;padding:8px;max-width:100%;font:15px sans-serif;display:inline-block";
  const row = add(root, "div", {style: "display:flex;flex-wrap:wrap;gap:14px"});

  const canvas = (title, label, focusable = true) => {
    const box = add(row, "figure", {style: "margin:0;max-width:100%"});
    add(box, "figcaption", {textContent: title, style: "font-weight:bold;margin-bottom:4px"});
    const sheet = add(box, "canvas");
    const ratio = Math.max(2, window.devicePixelRatio || 1);
    sheet.width = sheet.height = SIDE * ratio;
    sheet.style.cssText = `width:${SIDE}px;height:${SIDE}px;border:1px solid ${PALE};touch-action:none`;
    sheet.setAttribute("role", "img");
    sheet.setAttribute("aria-label", label);
    if (focusable) sheet.tabIndex = 0;
    const pen = sheet.getContext("2d");
    pen.scale(ratio, ratio);
    return [sheet, pen];
  };

  // Calls `move(dx, dy, x, y)`: the way of the pointer in pixels and its place; arrow keys are steps of `step` pixels.
  const onHand = (sheet, step, move) => {
    let last = null;
    const place = (event) => {
      const frame = sheet.getBoundingClientRect();
      return [(event.clientX - frame.left) * SIDE / frame.width, (event.clientY - frame.top) * SIDE / frame.height];
    };
    sheet.addEventListener("pointerdown", (event) => {
      sheet.setPointerCapture(event.pointerId);
      last = place(event);
      move(0, 0, ...last);
    });
    sheet.addEventListener("pointermove", (event) => {
      if (!last) return;
      const now = place(event);
      move(now[0] - last[0], now[1] - last[1], ...now);
      last = now;
    });
    for (const end of ["pointerup", "pointercancel"]) sheet.addEventListener(end, () => { last = null; });
    sheet.addEventListener("keydown", (event) => {
      const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (!way) return;
      event.preventDefault();
      event.stopPropagation();
      move(way[0] * step, way[1] * step);
    });
  };

  const mark = (pen, x, y, kind, alpha = 0.85) => {
    pen.globalAlpha = alpha;
    pen.fillStyle = data.colours[kind % data.colours.length];
    if (data.names.length) pen.fillText(data.names[kind], x, y);
    else { pen.beginPath(); pen.arc(x, y, 3, 0, 7); pen.fill(); }
    pen.globalAlpha = 1;
  };
  const ready = (pen) => {
    pen.clearRect(0, 0, SIDE, SIDE);
    pen.font = "bold 12px sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
  };
  const across = (value) => MARGIN + (SIDE - 2 * MARGIN) * value / 1000; // coordinates are whole numbers, 0 to 1000

  if (data.kind === "pad") {
    const [map, pen] = canvas(data.title, "codes of two numbers; arrow keys move the point");
    const [, screen] = canvas("decoded", "the image that the code decodes to", false);
    const says = add(root, "div", {style: "margin-top:4px"});
    says.setAttribute("aria-live", "polite");
    const sprite = new Image();
    let x = 500, y = 500;
    const draw = () => {
      ready(pen);
      data.points.forEach(([a, b], i) => mark(pen, across(a), SIDE - across(b), data.kinds[i], 0.45));
      pen.strokeStyle = INK;
      pen.lineWidth = 2.5;
      pen.beginPath();
      pen.arc(across(x), SIDE - across(y), 9, 0, 7);
      pen.stroke();
      const steps = data.cells - 1, column = Math.round(x * steps / 1000), line = Math.round(y * steps / 1000);
      screen.imageSmoothingEnabled = false;
      screen.drawImage(sprite, column * data.width, line * data.height, data.width, data.height, 0, 0, SIDE, SIDE);
      const number = (place, axis) => (data.low[axis] + place / 1000 * (data.high[axis] - data.low[axis])).toFixed(2);
      says.textContent = `code (${number(x, 0)}, ${number(y, 1)}). ${data.caption}`;
    };
    onHand(map, 1000 / (data.cells - 1) * (SIDE - 2 * MARGIN) / 1000, (dx, dy, px, py) => {
      const back = (pixel) => (pixel - MARGIN) / (SIDE - 2 * MARGIN) * 1000;
      const inside = (value) => Math.min(1000, Math.max(0, value));
      x = inside(px === undefined ? x + back(dx + MARGIN) : back(px));
      y = inside(py === undefined ? y - back(dy + MARGIN) : back(SIDE - py));
      draw();
    });
    sprite.onload = draw;
    sprite.src = data.sprite;
    return;
  }

  const deep = data.panels[0].frames[0][0].length === 3;
  let frame = data.start, angle = 0.7, tilt = 0.35, playing = null;
  const turn = ([a, b, c]) => {
    [a, b, c] = [a / 500 - 1, b / 500 - 1, c / 500 - 1];
    const across3 = a * Math.cos(angle) - b * Math.sin(angle), into = a * Math.sin(angle) + b * Math.cos(angle);
    return [across3, c * Math.cos(tilt) - into * Math.sin(tilt), into * Math.cos(tilt) + c * Math.sin(tilt)];
  };
  const seen = (point) => {
    const [right, up, depth] = turn(point), scale = 0.62 * (SIDE / 2 - MARGIN) * (1.2 + 0.15 * depth);
    return [SIDE / 2 + right * scale, SIDE / 2 - up * scale, depth];
  };
  const panels = data.panels.map((panel) => {
    const hint = deep ? "; arrow keys turn it" : "";
    const [sheet, pen] = canvas(panel.title, `${panel.title}: ${data.caption}${hint}`, deep);
    return {sheet, draw: () => {
      ready(pen);
      if (!deep) {
        panel.frames[frame].forEach(([a, b], i) => mark(pen, across(a), SIDE - across(b), data.kinds[i]));
        return;
      }
      pen.strokeStyle = PALE;
      [[1000, 0, 0], [0, 1000, 0], [0, 0, 1000]].forEach((end, axis) => {
        const [from, to] = [seen([0, 0, 0]), seen(end)];
        pen.beginPath();
        pen.moveTo(from[0], from[1]);
        pen.lineTo(to[0], to[1]);
        pen.stroke();
        pen.fillStyle = INK;
        pen.fillText("xyz"[axis], to[0] + 8, to[1] - 6);
      });
      const placed = panel.frames[frame].map((point, i) => [...seen(point), data.kinds[i]]);
      placed.sort((one, other) => one[2] - other[2]);
      for (const [x, y, depth, kind] of placed) mark(pen, x, y, kind, Math.min(1, 0.65 + 0.3 * depth));
    }};
  });
  const says = add(root, "div", {style: "margin-top:4px"});
  const draw = () => {
    panels.forEach((panel) => panel.draw());
    says.textContent = [data.captions[frame], data.caption].filter(Boolean).join(" · ");
  };
  if (deep) {
    panels.forEach(({sheet}) => onHand(sheet, 12, (dx, dy) => {
      angle += dx / 110;
      tilt = Math.min(1.5, Math.max(-1.5, tilt + dy / 110));
      draw();
    }));
  }
  const count = data.panels[0].frames.length;
  if (count > 1) {
    const controls = add(root, "div", {style: "display:flex;gap:10px;align-items:center;margin-top:6px"});
    const play = add(controls, "button", {textContent: "▶ play", type: "button"});
    const slider = add(controls, "input", {type: "range", min: 0, max: count - 1, value: frame});
    slider.style.width = `${SIDE - 90}px`;
    slider.setAttribute("aria-label", data.slider);
    const stop = () => { clearInterval(playing); playing = null; play.textContent = "▶ play"; };
    slider.addEventListener("input", () => { stop(); frame = Number(slider.value); draw(); });
    slider.addEventListener("keydown", (event) => event.stopPropagation());
    play.addEventListener("click", () => {
      if (playing) return stop();
      if (frame === count - 1) frame = 0;
      play.textContent = "❚❚ stop";
      playing = setInterval(() => {
        if (frame === count - 1 || !root.isConnected) return stop();
        frame += 1;
        slider.value = frame;
        draw();
      }, 350);
      slider.value = frame;
      draw();
    });
  }
  draw();
}
