// The explorer's page: choose a query, see its hits, say which are meant, and see why and where. It asks through
// `ask(request)`, a promise of the answer: of a server (page.js), or of a notebook's kernel (render, at the end).

const LARGEST_FILE = 30_000_000; // bytes; the server takes no more
const PATIENCE = 2000; // milliseconds until the page asks whether anybody is there
const NO_LIMIT = 60; // the slider of the largest distance, in twentieths of the usual one; its right end is no limit

function make(parent, tag, name, text = "") {
  const element = document.createElement(tag);
  if (name) [element.className, element.dataset.testid] = [`cbir-${name}`, name];
  element.textContent = text;
  parent.append(element);
  return element;
}

function labelled(parent, text, control) {
  const label = make(parent, "label", "control");
  const name = make(label, "span", "", text);
  label.append(control);
  return Object.assign(control, { title: text, name_of: name });
}

function choice(parent, name, text, options, changed) {
  const select = document.createElement("select");
  select.dataset.testid = name;
  for (const [value, shown] of options) select.add(new Option(shown, value));
  select.addEventListener("change", () => changed(select.value));
  return labelled(parent, text, select);
}

function slider(parent, name, text, [low, high, step, value], changed) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: low, max: high, step, value });
  input.dataset.testid = name;
  input.addEventListener("input", () => changed(Number(input.value)));
  return labelled(parent, text, input);
}

function box(parent, name, text, changed) {
  const input = document.createElement("input");
  input.type = "checkbox";
  input.dataset.testid = name;
  input.addEventListener("change", () => changed(input.checked));
  labelled(parent, text, input).parentElement.classList.add("cbir-box");
  return input;
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 30000) text += String.fromCharCode(...bytes.subarray(i, i + 30000));
  return btoa(text);
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// A cell of a CSV file; spreadsheets take a cell that begins with one of = + - @ for a formula.
const cell = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;

async function start(el, ask, { addressed, silence }) {
  el.classList.add("cbir-explorer");
  // JupyterLab must not take Enter and the arrows for its own; it asks the very element that has the focus.
  el.addEventListener("focusin", (event) => { event.target.dataset.lmSuppressShortcuts = "true"; });
  const status = make(el, "p", "status", "Opening the explorer ...");
  status.setAttribute("role", "status");
  const error = make(el, "p", "error");
  error.setAttribute("role", "alert");
  const tell = (text) => {
    error.textContent = text && `⚠ ${text}`;
    el.dataset.error = text;
  };

  // -- asking --------------------------------------------------------------------------------------------------------

  // An answer; where it takes long, the page says why. Undefined if there is none, or an error, which it tells.
  async function answered(request, waiting) {
    const slow = setTimeout(() => { status.textContent = waiting; }, 600);
    const deaf = setTimeout(async () => {
      const alive = await Promise.race([ask({ do: "alive" }).catch(() => null), new Promise((done) => setTimeout(done, PATIENCE))]);
      if (!alive && !over) tell(silence);
    }, PATIENCE);
    let over = false;
    try {
      const answer = await ask(request);
      if (answer.error) tell(answer.error);
      return answer.error ? undefined : answer;
    } catch {
      tell(silence);
      return undefined;
    } finally {
      over = true;
      clearTimeout(slow);
      clearTimeout(deaf);
      if (el.dataset.error === silence) setTimeout(() => ask({ do: "alive" }).then((alive) => alive && tell(""), () => {}), 0);
    }
  }

  const known = await answered({ do: "open" }, "Opening the run ...");
  if (!known) return;
  el.classList.toggle("cbir-files", known.files);
  if (addressed) document.title = document.querySelector("h1").textContent = `Explore the images of ${known.name}`;

  const state = { query: { query: 0 }, plus: [], minus: [], page: 0, other: "", labels: false, fold: false, limit: NO_LIMIT, spoil: null, ...known.start };
  if (addressed) from_address();
  let past = [], shown = null, good = null, serial = 0, busy = false, again = null, pen_down = false, best = [];

  function from_address() {
    const given = new URLSearchParams(location.hash.slice(1));
    const rows = (name) => (given.get(name) ?? "").split(".").filter(Boolean).map(Number).filter(Number.isInteger);
    for (const name of ["row", "query"]) if (given.has(name)) state.query = { [name]: Number(given.get(name)) };
    for (const name of ["method", "metric", "other"]) if (given.has(name)) state[name] = given.get(name);
    for (const name of ["k", "page"]) if (given.has(name)) state[name] = Number(given.get(name));
    [state.plus, state.minus] = [rows("plus"), rows("minus")];
  }

  function to_address() {
    if (!addressed) return;
    const kept = new URLSearchParams();
    for (const name of ["row", "query"]) if (name in state.query) kept.set(name, state.query[name]);
    for (const name of ["method", "metric", "k"]) kept.set(name, state[name]);
    for (const name of ["other", "page"]) if (state[name]) kept.set(name, state[name]);
    for (const name of ["plus", "minus"]) if (state[name].length) kept.set(name, state[name].join("."));
    history.replaceState(null, "", `#${kept}`); // a file or a drawing is not in the address
  }

  const by = (method = state.method) => ({ method, metric: state.metric });

  function request(method = state.method) {
    const { query, plus, minus, page, k, labels, fold, spoil } = state;
    const limit = state.limit < NO_LIMIT ? state.limit / 20 : null;
    return { do: "search", query, plus, minus, page, k, labels, fold, spoil, limit, map: views.map.open, ...by(method) };
  }

  // Search with the state as it is. One search runs at a time; the latest wish waits for it, those between are dropped.
  async function search(options = {}) {
    if (busy) {
      again = options;
      return;
    }
    busy = true;
    const found = await answered(request(), waiting_for(state.method));
    const beside = found && state.other ? await answered({ ...request(state.other), query: found.query.asked, map: false }, waiting_for(state.other)) : null;
    busy = false;
    if (found) {
      if (!("ink" in state.query)) state.query = found.query.asked;
      if (!options.keep_error) tell("");
      good = { ...state };
      show(found, beside, options.drawing ?? "");
    } else if (good) { // everything stays as it was
      if (options.stepped) past.pop();
      Object.assign(state, good);
      if (shown) status.textContent = shown.status;
      set_controls();
    } else if (state.method !== "pixels" && el.dataset.error !== silence) { // which needs nothing of the run
      Object.assign(state, { method: "pixels", other: "", query: { query: 0 }, plus: [], minus: [], page: 0 });
      return search({ keep_error: true });
    }
    if (again) {
      const next = again;
      again = null;
      return search(next);
    }
  }

  const waiting_for = (method) => `Searching by ${method} ... the first time, its network is loaded; that takes about 10 seconds.`;

  function step(change) {
    past.push({ query: state.query, plus: state.plus, minus: state.minus });
    if (past.length > 200) past.shift();
    Object.assign(state, { page: 0 }, change);
    return search({ stepped: true });
  }

  const query_by = (query) => step({ query, plus: [], minus: [] });

  function back() {
    const before = past.pop();
    if (!before) return;
    Object.assign(state, before, { page: 0 });
    search();
  }

  function mark_as(name, row) {
    const other = name === "plus" ? "minus" : "plus";
    const has = state[name].includes(row);
    step({ [name]: has ? state[name].filter((one) => one !== row) : [...state[name], row], [other]: state[other].filter((one) => one !== row) });
  }

  // -- the layout ------------------------------------------------------------------------------------------------------

  const columns = make(el, "div", "columns");
  const chosen = make(columns, "section", "choose"), found_in = make(columns, "section", "found");
  chosen.setAttribute("aria-label", "The query");
  found_in.setAttribute("aria-label", "The hits");

  function fold_out(parent, name, text, open, toggled) {
    const details = make(parent, "details", name);
    make(details, "summary", "", text);
    details.open = open;
    if (toggled) details.addEventListener("toggle", toggled);
    return details;
  }

  const file_part = () => {
    const part = make(chosen, "div", "file");
    const input = document.createElement("input");
    Object.assign(input, { type: "file", accept: "image/*" });
    input.dataset.testid = "upload";
    input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
    labelled(part, known.files ? "Search with a picture: choose it, drop it here or paste it" : "upload an image", input);
  };
  const draw_part = () => {
    const part = fold_out(chosen, "draw", "Draw a query", !known.files);
    const pad = make(part, "div", "pad");
    const fit = () => ({ ink: part.ink, fit: fitted.checked });
    drawing_pad(pad, known.light, (pixels, down, number) => {
      part.ink = base64(pixels);
      part.number = number;
      pen_down = down;
      const stepped = !("ink" in state.query); // the pictures of one drawing are one step
      if (stepped) past.push({ query: state.query, plus: state.plus, minus: state.minus });
      Object.assign(state, { query: fit(), plus: [], minus: [], page: 0 });
      search({ drawing: number, stepped });
    });
    const fitted = box(part, "fit", "fit to the size, place and pen of the images", () => {
      if (!("ink" in state.query)) return;
      state.query = fit();
      search({ drawing: part.number });
    });
    fitted.checked = true;
  };
  if (known.files) file_part();
  draw_part();
  const one_of = make(chosen, "div", "one-of");
  const named = document.createElement("input");
  Object.assign(named, known.files ? { type: "search", placeholder: "part of its name" } : { type: "number", min: 0, max: known.queries - 1, value: 0 });
  named.dataset.testid = "named";
  named.addEventListener("change", () => {
    if (named.value !== "") query_by(known.files ? { id: named.value } : { query: Number(named.value) });
  });
  labelled(one_of, known.files ? "an image of the collection" : "query number", named);
  one_of.append(button("a query at random", "random", () => query_by({ query: "random" })));
  if (!known.files) file_part();

  const spoilt = fold_out(chosen, "spoil", "Spoil the query", false);
  const corruption = choice(spoilt, "corruption", "spoil with", Object.keys(known.corruptions).map((kind) => [kind, kind]), () => set_strength(true));
  const strength = slider(spoilt, "strength", "strength", [0, 1, 1, 0], (value) => { state.spoil = value ? [corruption.value, value] : null; search(); });
  const unit = make(spoilt, "p", "note");
  function set_strength(search_anew) {
    const [low, high, of] = known.corruptions[corruption.value];
    Object.assign(strength, { min: low, max: high, step: (high - low) / 40, value: 0 });
    unit.textContent = `In ${of}; 0 leaves the query as it is.`;
    if (!search_anew || !state.spoil) return;
    state.spoil = null;
    search();
  }
  set_strength(false);

  const settings = make(found_in, "div", "row");
  const methods = known.methods.map(({ name, text }) => [name, text]);
  const anew = (name) => (value) => { Object.assign(state, { [name]: value, page: 0 }); search(); };
  const method = choice(settings, "method", "method", methods, anew("method"));
  const other = choice(settings, "other", "beside it", [["", "no other method"], ...methods], anew("other"));
  const metric = choice(settings, "metric", "metric", known.metrics.map((name) => [name, name]), anew("metric"));
  const count = slider(settings, "count", "hits", [1, 60, 1, state.k], anew("k"));
  const limit = slider(settings, "limit", "largest distance", [1, NO_LIMIT, 1, NO_LIMIT], anew("limit"));
  box(settings, "fold", "fold near-duplicates", anew("fold"));
  const labels = box(settings, "labels", "show labels", anew("labels"));
  labels.disabled = !known.classes.length;

  found_in.append(status, error);
  const strip = make(found_in, "div", "strip");
  const asked = make(strip, "div", "asked");
  const query = make(asked, "figure", "query");
  query.append(document.createElement("img"), document.createElement("figcaption"));
  const examples = make(asked, "div", "examples");
  const back_button = asked.appendChild(button("", "back", back));
  const lists = make(strip, "div", "lists");
  const common = make(lists, "p", "common");
  const hits = make(lists, "ol", "hits"), beside_hits = make(lists, "ol", "hits");
  beside_hits.dataset.testid = "beside";
  const pager = make(found_in, "div", "pager");
  const earlier = pager.appendChild(button("← nearer hits", "earlier", () => turn(-1)));
  const later = pager.appendChild(button("more hits →", "later", () => turn(1)));
  const turn = (by_pages) => { state.page += by_pages; search(); };

  const views = {};
  views.why = fold_out(found_in, "why", "Why this hit", false, explain);
  const why_for = choice(views.why, "why-for", "for hit", [], explain);
  const why_view = make(views.why, "div", "why-view");
  views.map = fold_out(found_in, "where", "Map of all images", false, () => views.map.open && show_map());
  const map_text = make(views.map, "p", "note");
  const map_place = make(views.map, "div", "map");
  const exported = make(views.map, "div", "row");
  const selection = make(exported, "output", "selected");
  let rows_selected = [];
  const exports = [["as a list of paths", "export-list"], ["as CSV", "export-csv"]].map(([text, name]) =>
    exported.appendChild(button(text, name, () => export_files(name))));
  const drawn_map = code_map(map_place, { pick: (row) => query_by({ row }), selected: (rows) => select(rows) });
  views.all = fold_out(found_in, "browse", "All images", false, () => views.all.open && browse(0));
  const filters = make(views.all, "div", "row");
  const filter = { folder: null, label: null, text: "" };
  const narrowed = (name) => (value) => { filter[name] = value; browse(0); };
  if (known.folders.length) choice(filters, "filter-folder", "folder", [["", "all folders"], ...known.folders.map((name) => [name, name])], narrowed("folder"));
  if (known.classes.length) choice(filters, "filter-label", "label", [["", "all labels"], ...known.classes.map((name) => [name, name])], narrowed("label"));
  const text_filter = document.createElement("input");
  text_filter.type = "search";
  text_filter.dataset.testid = "filter-text";
  text_filter.addEventListener("input", () => narrowed("text")(text_filter.value));
  labelled(filters, "part of the name", text_filter);
  const grid = make(views.all, "div", "grid");
  const grid_pager = make(views.all, "div", "pager");

  const dialog = document.createElement("dialog");
  dialog.className = "cbir-original";
  dialog.dataset.testid = "original";
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  el.append(dialog);

  // -- showing -----------------------------------------------------------------------------------------------------------

  // One line of a list of hits; elements are kept and refilled, so that the focus stays.
  function line(list, i) {
    const item = document.createElement("li");
    const hit = make(item, "button", "hit");
    hit.type = "button";
    hit.append(document.createElement("img"));
    for (const name of ["rank", "distance", "id", "label", "copies"]) make(hit, "span", name);
    hit.addEventListener("click", () => query_by({ row: item.hit.row }));
    const tools = make(item, "div", "tools");
    tools.append(
      button("+", "plus", () => mark_as("plus", item.hit.row)),
      button("−", "minus", () => mark_as("minus", item.hit.row)),
      button("⤢", "open", () => open_original(item.hit.row)),
    );
    return item;
  }

  function fill(list, found, ids_of_other) {
    while (list.children.length > found.hits.length) list.lastChild.remove();
    while (list.children.length < found.hits.length) list.append(line(list, list.children.length));
    found.hits.forEach((hit, i) => {
      const item = list.children[i], [element, tools] = item.children;
      item.hit = hit;
      const [image, rank, distance, id, label, copies] = element.children;
      image.src = hit.src;
      image.alt = `image ${hit.id}`;
      rank.textContent = found.first + i + 1;
      distance.textContent = hit.distance;
      id.textContent = hit.id;
      label.textContent = hit.label;
      copies.textContent = hit.copies.length ? `+ ${hit.copies.length} near-duplicate${hit.copies.length > 1 ? "s" : ""}` : "";
      copies.title = hit.copies.join("\n");
      item.classList.toggle("cbir-alone", Boolean(ids_of_other && !ids_of_other.has(hit.id)));
      element.title = `Search with image ${hit.id}`;
      element.setAttribute("aria-label", `Hit ${found.first + i + 1}: image ${hit.id}, distance ${hit.distance}${hit.label && ", label " + hit.label}. Search with it.`);
      for (const [tool, text] of [[0, "More like"], [1, "Less like"], [2, "Open"]]) {
        tools.children[tool].title = `${text} image ${hit.id}`;
        tools.children[tool].setAttribute("aria-label", `${text} image ${hit.id}`);
      }
    });
  }

  function show(found, beside, drawing, ms) {
    shown = found;
    serial += 1;
    const ids = (one) => new Set(one.hits.map((hit) => hit.id));
    status.textContent = found.status;
    fill(hits, found, beside && ids(beside));
    beside_hits.hidden = !beside;
    if (beside) fill(beside_hits, beside, ids(found));
    const alike = beside ? [...ids(found)].filter((id) => ids(beside).has(id)).length : 0;
    common.textContent = beside ? `Above by ${state.method}, below by ${state.other}: ${alike} of ${found.hits.length} hits in common; a dashed frame marks the others.` : "";
    query.firstChild.src = found.query.src;
    query.firstChild.alt = query.lastChild.textContent = found.query.what;
    examples.replaceChildren(...["plus", "minus"].flatMap((name) => found[name].map((one) => example(name, one))));
    back_button.textContent = `← back (${past.length})`;
    back_button.setAttribute("aria-label", `back to the query before this one, ${past.length} steps to go`);
    back_button.disabled = !past.length;
    [earlier.disabled, later.disabled] = [!state.page, !found.more];
    pager.hidden = !state.page && !found.more;
    set_controls();
    to_address();
    if (found.places) drawn_map.mark(found.places);
    best = found.hits;
    why_for.replaceChildren(...found.hits.map((hit, i) => new Option(`${found.first + i + 1}: ${hit.id}`, i)));
    Object.assign(strip.dataset, { serial, drawing, ms: found.ms, method: state.method });
    if (!pen_down) explain();
  }

  function set_controls() {
    [method.value, metric.value, other.value, count.value, limit.value] = [state.method, state.metric, state.other, state.k, state.limit];
    count.name_of.textContent = `hits: ${state.k}`;
    limit.name_of.textContent = state.limit < NO_LIMIT ? `largest distance: ${(state.limit / 20).toFixed(2)} × usual` : "largest distance: any";
    limit.title = "1.00 is the distance within which 99 of 100 images of the collection have another";
    if ("query" in state.query && !known.files) named.value = state.query.query;
  }

  function example(name, one) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = `cbir-example cbir-${name}`;
    element.dataset.testid = `example-${name}`;
    const image = document.createElement("img");
    [image.src, image.alt] = [one.src, ""];
    element.append(name === "plus" ? "+" : "−", image);
    element.setAttribute("aria-label", `Take back: ${name === "plus" ? "more" : "less"} like image ${one.id}`);
    element.title = element.getAttribute("aria-label");
    element.addEventListener("click", () => mark_as(name, one.row));
    return element;
  }

  // It takes longer than a search, so it waits until the pen is up, and only the latest is shown.
  async function explain() {
    if (!views.why.open || !shown) return;
    const place = Number(why_for.value) || 0, hit = best[place], at = serial;
    if (!hit) return why_view.replaceChildren();
    const { row, exact } = hit;
    const answer = await answered({ ...request(), do: "why", row, exact, rank: shown.first + place + 1 }, "Comparing the query without each of its parts ...");
    if (!answer || at !== serial) return;
    status.textContent = shown.status;
    why_view.replaceChildren(...answer.figures.map(({ src, text }) => {
      const element = document.createElement(src ? "img" : "p");
      if (src) [element.src, element.alt] = [src, text];
      else element.textContent = text;
      return element;
    }));
  }

  async function show_map() {
    if (views.map.key !== JSON.stringify(by())) {
      const answer = await answered({ do: "map", ...by() }, "Laying out the map; that takes about 10 seconds, once for each method.");
      if (!answer) return;
      views.map.key = JSON.stringify(by());
      map_text.textContent = `${answer.text} Click an image to search with it. Star: the query. Numbers: its hits.`;
      drawn_map.show(answer);
      select([]);
      if (shown) status.textContent = shown.status;
    }
    drawn_map.paint();
    const found = await answered({ ...request(), map: true }, "Searching ...");
    if (found?.places) drawn_map.mark(found.places);
  }

  method.addEventListener("change", () => views.map.open && show_map());
  metric.addEventListener("change", () => views.map.open && show_map());

  function select(rows) {
    rows_selected = rows;
    selection.textContent = rows.length ? `${rows.length.toLocaleString("en")} images selected` : "Lasso: press it, then draw round some images.";
    for (const one of exports) one.disabled = !rows.length;
  }
  select([]);

  async function export_files(name) {
    const answer = await answered({ do: "export", rows: rows_selected }, "Exporting ...");
    if (!answer) return;
    const lines = answer.files.map(({ id, path }) => (name === "export-csv" ? `${cell(id)},${cell(path ?? "")}` : path ?? id));
    if (name === "export-csv") save("images.csv", "text/csv", `"id","path"\n${lines.join("\n")}\n`);
    else save("images.txt", "text/plain", lines.join("\n") + "\n");
  }

  async function browse(page) {
    const wish = (browse.wish = {});
    const answer = await answered({ do: "browse", ...by(), ...filter, page }, "Looking through the collection ...");
    if (!answer || browse.wish !== wish) return;
    grid.replaceChildren(...answer.images.map((one) => {
      const element = document.createElement("button");
      element.type = "button";
      element.dataset.testid = "grid-image";
      const image = document.createElement("img");
      [image.src, image.alt] = [one.src, ""];
      const name = document.createElement("span");
      name.textContent = one.id;
      element.append(image, name);
      element.title = `Search with image ${one.id}`;
      element.addEventListener("click", () => query_by({ row: one.row }));
      return element;
    }));
    const first = button("← before", "grid-earlier", () => browse(page - 1)), last = button("next →", "grid-later", () => browse(page + 1));
    [first.disabled, last.disabled] = [page === 0, page + 1 >= answer.pages];
    const where = document.createElement("span");
    where.dataset.testid = "grid-found";
    where.textContent = `${answer.found.toLocaleString("en")} images` + (answer.pages > 1 ? `, page ${page + 1} of ${answer.pages}` : "");
    grid_pager.replaceChildren(first, where, last);
    if (shown) status.textContent = shown.status;
  }

  async function open_original(row) {
    const answer = await answered({ do: "original", row }, "Opening the picture ...");
    if (!answer) return;
    const close = button("close", "original-close", () => dialog.close());
    const image = document.createElement("img");
    [image.src, image.alt] = [answer.src, answer.id];
    const text = document.createElement("p");
    text.dataset.testid = "original-about";
    text.textContent = [answer.path || answer.id, answer.about].join("\n");
    const copy = button("copy its path", "original-copy", async () => {
      await navigator.clipboard.writeText(answer.path || answer.id).then(() => { copy.textContent = "copied"; }, () => { copy.textContent = "select the text to copy it"; });
    });
    dialog.replaceChildren(image, text, copy, close);
    dialog.showModal();
  }

  function take(file) {
    if (!file) return;
    if (file.size > LARGEST_FILE) {
      return tell(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB, and at most ${LARGEST_FILE / 1e6} MB can be searched with; choose a smaller picture`);
    }
    const reader = new FileReader();
    reader.addEventListener("load", () => query_by({ file: reader.result.slice(reader.result.indexOf(",") + 1), name: file.name }));
    reader.addEventListener("error", () => tell(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  }

  const picture_in = (items) => [...(items ?? [])].find((item) => item.kind === "file")?.getAsFile();
  el.addEventListener("dragover", (event) => event.preventDefault());
  el.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  const pasted = (event) => {
    const file = picture_in(event.clipboardData?.items);
    if (file && el.isConnected) take(file);
  };
  document.addEventListener("paste", pasted);
  await search();
  return () => document.removeEventListener("paste", pasted);
}

// In a notebook: the kernel answers messages, one after the other, whenever it is not busy with cells.
function render({ model, el }) {
  const waiting = new Map();
  let number = 0;
  const take = (message) => {
    waiting.get(message.id)?.(message.answer);
    waiting.delete(message.id);
  };
  model.on("msg:custom", take);
  const ask = (request) => new Promise((done) => {
    number += 1;
    const id = `${number}-${Math.random()}`;
    waiting.set(id, done);
    model.send({ id, request });
  });
  const silence = "The kernel does not answer: it loads a method, runs other cells, or was stopped. If it was, run this cell again.";
  let end = null;
  start(el, ask, { addressed: false, silence }).then((stop) => { end = stop; });
  return () => {
    model.off("msg:custom", take);
    end?.();
  };
}

export { start };
export default { render };
