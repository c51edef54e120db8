// Shows openapi.json: every path with an example and the fields of its answer.

const make = (tag, text = "", name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });

let token = "";
try { token = sessionStorage.getItem("token") || ""; } catch { /* storage is switched off */ }
const answer = await fetch("openapi.json", token ? { headers: { Authorization: `Bearer ${token}` } } : {}).catch(() => null);
if (answer?.ok) show(await answer.json());
else {
  const message = document.getElementById("message");
  message.hidden = false;
  message.textContent = answer ? "Give the token on the first page." : "The server does not answer. Is it still running?";
}

function kind(schema, all) {
  if (schema.$ref) return fields(all[schema.$ref.split("/").pop()], all);
  if (schema.type === "array") return [kind(schema.items, all)];
  return schema.type ?? "any";
}

function fields(schema, all) {
  return Object.fromEntries(Object.entries(schema.properties).map(([name, one]) => [name, kind(one, all)]));
}

function show(document_) {
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, one] of Object.entries(methods)) {
      const section = make("section", "", "path"), heading = make("h2");
      heading.append(make("code", `${method.toUpperCase()} ${path}`));
      const asked = (one.parameters ?? []).filter((p) => p.in === "query").map((p) => `${p.name}=`).join("&");
      const address = `${location.origin}${path.replace("{number}", "0")}${asked ? `?${asked}…` : ""}`;
      const sent = one.requestBody ? "-F picture=@cat.jpg " : "";
      section.append(heading, make("p", one.description ?? ""), make("pre", `curl ${sent}'${address}'`));
      const schema = one.responses["200"]?.content?.["application/json"]?.schema;
      if (schema?.$ref) section.append(make("pre", JSON.stringify(kind(schema, document_.components.schemas), null, 1)));
      document.getElementById("paths").append(section);
    }
  }
}
