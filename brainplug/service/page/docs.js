// Shows the service's OpenAPI description.

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const described = await (await fetch("/openapi.json")).json();
const resolve = (schema) => (schema?.$ref ? described.components.schemas[schema.$ref.split("/").pop()] : schema ?? {});

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.contentMediaType || schema.format === "binary" ? "file" : schema.type ?? "any";
}

function table(columns, rows) {
  const cells = (tag, texts) => texts.map((text) => make(tag, { textContent: text }));
  const body = rows.map((texts) => make("tr", {}, ...cells("td", texts)));
  return make("table", {}, make("thead", {}, make("tr", {}, ...cells("th", columns))), make("tbody", {}, ...body));
}

function fieldsOf(schema) {
  const { properties = {}, required = [] } = resolve(schema);
  return Object.entries(properties).map(([name, field]) =>
    [name, typeOf(field), required.includes(name) ? "required" : String(field.default ?? "none"), field.description ?? ""]);
}

function showRoute(path, method, route) {
  const body = Object.values(route.requestBody?.content ?? {})[0];
  const good = Object.values(route.responses["200"]?.content ?? {})[0]?.schema;
  const answer = fieldsOf(good?.items ?? good).map(([name, type, , about]) => [name, type, about]);
  const statuses = Object.entries(route.responses).map(([status, { description }]) => [status, description]);
  return make("section", { className: "card" },
    make("h2", { textContent: `${method.toUpperCase()} ${path}` }),
    make("p", { textContent: route.description ?? route.summary }),
    ...(body ? [table(["field", "type", "default", ""], fieldsOf(body.schema))] : []),
    ...(answer.length ? [table(["answer", "type", ""], answer)] : []),
    table(["status", ""], statuses));
}

document.getElementById("routes").replaceChildren(...Object.entries(described.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, route]) => showRoute(path, method, route))));
