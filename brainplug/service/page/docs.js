// Renders openapi.json.

const LIMITS = { minimum: "≥", ge: "≥", maximum: "≤", le: "≤", minLength: "characters ≥", maxLength: "characters ≤", minItems: "items ≥", maxItems: "items ≤" };

/** Makes an element. */
function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...[cell].flat()))));
  return make("div", { className: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

/** Text, with what stands in backticks as code. */
function words(text = "") {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

function link(reference) {
  const name = reference.split("/").pop();
  return make("a", { href: `#${name}` }, name);
}

/** The words and links of a schema's type. */
function typeOf(schema) {
  if (schema.$ref) return [link(schema.$ref)];
  if (schema.anyOf) return schema.anyOf.flatMap((one, index) => [...(index ? [" or "] : []), ...typeOf(one)]);
  const limits = Object.keys(LIMITS).filter((key) => key in schema).map((key) => `, ${LIMITS[key]} ${schema[key]}`);
  const content = schema.contentMediaType ? "file" : schema.type ?? "any";
  return [content, ...(schema.items ? [" of ", ...typeOf(schema.items)] : []), ...limits];
}

function fields(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const needed = schema.required?.includes(name) ? "needed" : JSON.stringify(field.default) ?? "";
    return [make("code", {}, name), typeOf(field), needed, words(field.description)];
  });
  return table(["Field", "Type", "Default", "Meaning"], rows);
}

function showType([name, schema]) {
  return make("section", { id: name }, make("h3", {}, name), make("p", {}, ...words(schema.description)), fields(schema));
}

function showRoute(path, method, route) {
  const title = make("h2", {}, make("code", {}, `${method.toUpperCase()} ${path}`));
  const token = route.security ? [make("p", {}, "Needs the header ", make("code", {}, "Authorization: Bearer TOKEN"), ".")] : [];
  const sent = bodyOf(route.requestBody).map((type) => make("p", {}, "Takes ", ...type, "."));
  const answers = Object.entries(route.responses).map(([status, answer]) => [status, bodyOf(answer).flat(), answer.description]);
  return make("section", {}, title, make("p", {}, ...words(route.description)), ...token, ...sent, table(["Status", "Answer", "Meaning"], answers));
}

/** What a request or an answer holds, one entry for each media type. */
function bodyOf(message) {
  return Object.entries(message?.content ?? {}).map(([media, { schema }]) => [...typeOf(schema), ` as ${media}`]);
}

async function start() {
  const { paths, components } = await (await fetch("openapi.json")).json();
  const token = components.securitySchemes ? '-H "Authorization: Bearer TOKEN" ' : "";
  const example = `curl ${token}-F file=@clip.wav -F adapters=NAME ${new URL("classify", location.href)}`;
  document.getElementById("example").textContent = example;
  const routes = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, route]) => showRoute(path, method, route)));
  document.getElementById("paths").append(...routes);
  document.getElementById("types").append(...Object.entries(components.schemas).map(showType));
}

start().catch((error) => Object.assign(document.getElementById("alert"), { textContent: error.message, hidden: false }));
