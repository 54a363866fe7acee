// The explorer as a page: its requests go to the server that it came from.

import { start } from "./explorer.js";

async function ask(request) {
  const response = await fetch("/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
  if (response.ok) return response.json();
  return { error: (await response.text()).trim() || `the server answers ${response.status}` };
}

const silence = "The server does not answer. Start make app again, and open the address that it prints.";
start(document.querySelector("main"), ask, { addressed: true, silence });
