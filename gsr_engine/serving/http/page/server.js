"use strict";
// The server: requests, their failures in words, and the stream of a reply.

/** What went wrong, in words for a person; `status` is 0 if no answer came. */
class Failure extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
  }
}

const KEY = `gsr-key ${location.pathname}`;

/** A response of the server; every path is relative to the page's own. Raises Failure. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Failure(inWords(response, body.error), response.status);
}

function inWords(response, error) {
  const said = error?.message ?? `It answered ${response.status} and gave no reason.`;
  if (response.status === 503) {
    const wait = response.headers.get("Retry-After");
    return `The server takes no request now${wait ? `; try again in ${wait} s` : ""}. ${said}`;
  }
  if (response.status >= 500) return `The server failed. ${said}`;
  return `The server refused this. ${said}`;
}

/** The JSON of each server-sent event, until [DONE]. Raises Failure if the stream breaks. */
async function* chunksOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Failure("The connection broke before the answer was complete.");
    });
    if (done) throw new Failure("The stream ended before the answer was complete.");
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue; // a comment keeps the connection alive
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure(`The server gave up. ${chunk.error.message}`);
      yield chunk;
    }
  }
}
