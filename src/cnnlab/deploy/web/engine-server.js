// Asks the server that this page came from.

export const where = "server";

let token = "";
try { token = sessionStorage.getItem("token") || ""; } catch { /* storage is switched off */ }

export function setToken(given) {
  token = given;
  try { sessionStorage.setItem("token", given); } catch { /* then it is asked for again */ }
}

// Whether a plain link gets an answer: it cannot carry a token.
export const isOpen = () => !token;

export class Problem extends Error {
  constructor(status, sentence) { super(sentence); this.status = status; }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, said.error || `The server answered with status ${answer.status}.`);
}

function send(path, blob, signal) {
  return ask(path, { method: "POST", body: blob, signal, headers: { "Content-Type": "application/octet-stream" } });
}

export const load = async () => (await ask("model")).json();
export const predict = async (blob, signal) => (await send("predict", blob, signal)).json();
export const localize = async (blob, signal) => (await send("localize", blob, signal)).json();
export const image = async (blob, signal) => (await send("picture", blob, signal)).blob();
export const samples = async () => (await ask("samples")).json();
export const sample = async (one) => (await ask(`samples/${one.number}`)).blob();

export async function explain(blob, target, signal) {
  const query = target === null ? "" : `?target=${encodeURIComponent(target)}`;
  return (await send(`explain${query}`, blob, signal)).json();
}
