// Asking the front door: the key, errors in its own words, and server-sent events with the key in a header.
import { signal } from "@preact/signals";
import type { ErrorAnswer } from "./bodies";

const KEPT = "anabranch-key";

/** The key that requests are sent with; kept for this tab only. */
export const key = signal(sessionStorage.getItem(KEPT) ?? "");
/** Whether the front door has asked for a key, or for another one. */
export const keyWanted = signal<string | null>(null);

export function useKey(text: string): void {
  key.value = text.trim();
  keyWanted.value = null;
  if (key.value) sessionStorage.setItem(KEPT, key.value);
  else sessionStorage.removeItem(KEPT);
}

export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export async function send(method: string, path: string, body?: unknown, stop?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = key.value ? { authorization: `Bearer ${key.value}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(stop ? { signal: stop } : {}),
    });
  } catch (error) {
    if (stop?.aborted) throw error;
    throw new Refused(0, "The service does not answer.");
  }
  if (answer.ok) return answer;
  const said = (await answer.json().catch(() => null)) as ErrorAnswer | null;
  const message = said?.error?.message ?? `status ${answer.status}`;
  if (answer.status === 401) keyWanted.value = key.value ? message : "";
  throw new Refused(answer.status, message);
}

export async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await (await send(method, path, body)).json()) as T;
}

export interface Told {
  kind: string;
  data: string;
}

/** The events of an answer, as they come. */
export async function* events(answer: Response): AsyncGenerator<Told> {
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const told = { kind: "message", data: "" };
        for (const line of block.split("\n")) {
          if (line.startsWith("event: ")) told.kind = line.slice(7);
          if (line.startsWith("data: ")) told.data += line.slice(6);
        }
        yield told;
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

export const words = (error: unknown): string => (error instanceof Error ? error.message : String(error));
