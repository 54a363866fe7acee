// The query, its hits as buttons, and what happened in words. Elements are kept and refilled: the focus stays.

function add(parent, tag, name) {
  const element = document.createElement(tag);
  element.className = `cbir-${name}`;
  element.dataset.testid = name;
  parent.append(element);
  return element;
}

function render({ model, el }) {
  el.classList.add("cbir-strip");
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab must not take Enter for its own
  const status = add(el, "p", "status");
  status.setAttribute("role", "status");
  const error = add(el, "p", "error");
  error.setAttribute("role", "alert");
  const asked = add(el, "div", "asked");
  const query = add(asked, "figure", "query");
  query.append(document.createElement("img"), document.createElement("figcaption"));
  const back = add(asked, "button", "back");
  back.type = "button";
  back.addEventListener("click", () => model.send({ back: true }));
  const hits = add(el, "ol", "hits");

  function line(rank) {
    const item = document.createElement("li");
    const hit = add(item, "button", "hit");
    hit.type = "button";
    hit.append(document.createElement("img"));
    for (const name of ["rank", "distance", "id", "label"]) add(hit, "span", name);
    hit.addEventListener("click", () => model.send({ pick: rank }));
    return item;
  }

  function show() {
    const answer = model.get("answer");
    status.textContent = answer.status ?? "";
    error.textContent = model.get("error") && `⚠ ${model.get("error")}`;
    el.dataset.error = model.get("error");
    for (const name of ["serial", "drawing", "ms", "method"]) el.dataset[name] = answer[name] ?? "";
    if (answer.query) query.firstChild.src = answer.query.src;
    query.firstChild.alt = query.lastChild.textContent = answer.query?.what ?? "";
    back.textContent = `← back (${answer.past ?? 0})`;
    back.disabled = !answer.past;
    back.setAttribute("aria-label", `back to the query before this one, ${answer.past ?? 0} steps to go`);

    const found = answer.hits ?? [];
    while (hits.children.length > found.length) hits.lastChild.remove();
    while (hits.children.length < found.length) hits.append(line(hits.children.length + 1));
    found.forEach((hit, i) => {
      const element = hits.children[i].firstChild;
      const [image, rank, distance, id, label] = element.children;
      image.src = hit.src;
      image.alt = `image ${hit.id}`;
      rank.textContent = i + 1;
      distance.textContent = hit.distance;
      id.textContent = hit.id;
      label.textContent = hit.label;
      element.title = `Search with image ${hit.id}`;
      element.setAttribute("aria-label", `Hit ${i + 1}: image ${hit.id}, distance ${hit.distance}${hit.label && ", label " + hit.label}. Search with it.`);
    });
    name_sliders();
  }

  // The slider handles of ipywidgets have a role but no name: give them the text beside them.
  function name_sliders() {
    for (const slider of el.closest(".cbir-explorer")?.querySelectorAll(".widget-slider") ?? []) {
      const text = slider.querySelector(".widget-label")?.textContent;
      if (text) slider.querySelector(".noUi-handle")?.setAttribute("aria-label", text);
    }
  }

  const seen = new IntersectionObserver(name_sliders); // the sliders appear together with the strip, after this runs
  seen.observe(el);
  model.on("change:answer change:error", show);
  show();
  return () => {
    seen.disconnect();
    model.off("change:answer change:error", show);
  };
}

export default { render };
