// A pad to draw on. The strokes live in the browser, so the ink follows the pen at once; a search gets the picture.

const SEND_EVERY = 70; // milliseconds between two pictures while the pen moves; the latest wins
const STROKE = 0.085; // width of a stroke, as a share of the pad

const HELP = "Keys: arrows move the pen, space puts it down or lifts it, backspace undoes.";

function button(text, name, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.dataset.testid = name;
  element.addEventListener("click", action);
  return element;
}

// In `el`; `light` for black ink on white. `drawn(pixels, pen_down, number)` gets SIDE × SIDE bytes, light ink on black.
function drawing_pad(el, light, drawn) {
  const side = 112;
  let strokes = []; // each a list of points [x, y], as shares of the pad
  let pen = [0.5, 0.5];
  let down = false;
  let number = 0;
  let timer = null;
  let sent = 0;

  el.classList.add("cbir-pad");
  el.dataset.testid = "pad";
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab must not take the arrow keys for its own
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 448;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Drawing pad. ${HELP}`);
  const picture = document.createElement("canvas"); // what is sent: light ink on black
  picture.width = picture.height = side;
  const context = picture.getContext("2d", { willReadFrequently: true });
  const help = document.createElement("p");
  help.textContent = HELP;
  const state = document.createElement("output");
  state.dataset.testid = "pad-state";
  const row = document.createElement("div");
  row.append(button("undo", "pad-undo", undo), button("clear", "pad-clear", clear), state);
  el.append(canvas, row, help);

  function paint(target, size, ink, paper) {
    target.fillStyle = paper;
    target.fillRect(0, 0, size, size);
    target.strokeStyle = ink;
    target.lineWidth = STROKE * size;
    target.lineCap = target.lineJoin = "round";
    for (const points of strokes) {
      target.beginPath();
      target.moveTo(points[0][0] * size, points[0][1] * size);
      for (const [x, y] of points) target.lineTo(x * size, y * size);
      target.stroke();
    }
  }

  function show() {
    const [ink, paper] = light ? ["black", "white"] : ["white", "black"];
    const target = canvas.getContext("2d");
    paint(target, canvas.width, ink, paper);
    if (document.activeElement === canvas) { // where the keys would draw
      target.strokeStyle = "#D55E00";
      target.lineWidth = down ? 8 : 3;
      target.beginPath();
      target.arc(pen[0] * canvas.width, pen[1] * canvas.width, 16, 0, 2 * Math.PI);
      target.stroke();
    }
    state.textContent = down ? "pen down" : "pen up";
    el.dataset.strokes = strokes.length;
  }

  function send() {
    clearTimeout(timer);
    timer = null;
    sent = performance.now();
    number += 1;
    paint(context, side, "white", "black");
    const pixels = context.getImageData(0, 0, side, side).data.filter((_, i) => i % 4 === 0);
    el.dataset.number = number;
    drawn(pixels, down, number);
  }

  function changed(at_once = false) {
    show();
    if (at_once) send();
    else timer ??= setTimeout(send, Math.max(0, sent + SEND_EVERY - performance.now()));
  }

  function start() {
    down = true;
    strokes.push([[...pen]]);
    changed();
  }

  function move(x, y) {
    pen = [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))];
    if (!down) return show();
    strokes.at(-1).push([...pen]);
    changed();
  }

  function lift() {
    if (!down) return;
    down = false;
    changed(true);
  }

  function undo() {
    down = false;
    strokes.pop();
    changed(true);
  }

  function clear() {
    down = false;
    strokes = [];
    changed(true);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault(); // no selection of the page's text, no drag
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    down = false;
    move(...place(event));
    start();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const each of all.length ? all : [event]) move(...place(each));
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, lift);

  canvas.addEventListener("keydown", (event) => {
    const step = 1 / 28;
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [0, 0];
    if (dx || dy) move(pen[0] + dx, pen[1] + dy);
    else if (event.key === " ") down ? lift() : start();
    else if (event.key === "Backspace") undo();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  canvas.addEventListener("focus", show);
  canvas.addEventListener("blur", () => (lift(), show()));

  show();
}
