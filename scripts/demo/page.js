"use strict";
// What both pages do: find an element, show an error, ask the server.
const at = id => document.getElementById(id);

function fail(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
}

async function ask(path, body) {
  const sent = body && {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  let answer;
  try {
    answer = await fetch(path, sent || {});
  } catch {
    throw new Error("no answer from the server; is it still running?");
  }
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error);
  return data;
}
