// What the system says of itself, as it changes: one stream, and a signal for each thing that is shown.
import { batch, computed, type Signal, signal } from "@preact/signals";
import { events, key, Refused, send, words } from "./api";
import type { DomainEvent, DomainStatus, SystemStatus, TroubleEvent } from "./bodies";

export type Connection = "connecting" | "live" | "away" | "limited";

export const connection = signal<Connection>("connecting");
/** Why nothing can be told now. */
export const trouble = signal<string | null>(null);
export const system = signal<SystemStatus | null>(null);
/** By name; a card looks at its own. */
const byName = new Map<string, Signal<DomainStatus>>();
/** Grows whenever a domain comes or goes, or changes its state. */
const roster = signal(0);
const changes = signal(0);

export const names = computed<string[]>(() => {
  void roster.value;
  return [...byName.keys()].sort();
});

export const domains = computed<DomainStatus[]>(() => {
  void changes.value;
  return names.value.map((name) => byName.get(name)!.peek());
});

export const domainOf = (name: string): Signal<DomainStatus> | undefined => byName.get(name);

// -- rates ------------------------------------------------------------------------------------------------------------

const CALM_MS = 5_000;
/** Records read in a second, of late. */
export const rate = signal(0);
let before: { at: number; polled: number } | null = null;
let calm: ReturnType<typeof setTimeout> | undefined;

function measure(now: SystemStatus): void {
  const polled = now.ingest.reduce((sum, worker) => sum + worker.polled, 0);
  const at = performance.now();
  if (before && at > before.at) rate.value = Math.max(0, ((polled - before.polled) * 1000) / (at - before.at));
  before = { at, polled };
  clearTimeout(calm);
  calm = setTimeout(() => (rate.value = 0), CALM_MS);
}

// -- the stream -------------------------------------------------------------------------------------------------------

function take(kind: string, data: string): void {
  if (kind === "trouble") {
    trouble.value = (JSON.parse(data) as TroubleEvent).message;
    return;
  }
  batch(() => {
    trouble.value = null;
    if (kind === "system") {
      const now = JSON.parse(data) as SystemStatus;
      measure(now);
      system.value = now;
    } else if (kind === "domains") {
      takeDomains(JSON.parse(data) as DomainEvent);
    }
  });
}

function takeDomains(told: DomainEvent): void {
  let moved = told.gone.length > 0;
  for (const name of told.gone) byName.delete(name);
  for (const domain of told.domains) {
    const known = byName.get(domain.domain);
    moved ||= known?.peek().state !== domain.state;
    if (known) known.value = domain;
    else byName.set(domain.domain, signal(domain));
  }
  if (moved) roster.value += 1;
  changes.value += 1;
}

async function once(stop: AbortSignal): Promise<void> {
  const answer = await send("GET", "/v1/events", undefined, stop);
  let first = true;
  for await (const told of events(answer)) {
    connection.value = "live";
    if (first && told.kind === "domains") {
      // The first has all of them: what is not in it is gone.
      first = false;
      byName.clear();
      roster.value += 1;
    }
    take(told.kind, told.data);
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves once there is another key than that one. */
const anotherKey = (than: string): Promise<void> =>
  new Promise((resolve) => {
    const end = key.subscribe((now) => {
      if (now === than) return;
      resolve();
      queueMicrotask(() => end());
    });
  });

/** Looks on for as long as the page is there; with another key anew. */
export async function look(): Promise<void> {
  let waiting = 500;
  for (;;) {
    const asked = key.value;
    const stop = new AbortController();
    const another = anotherKey(asked).then(() => stop.abort());
    try {
      await once(stop.signal);
      connection.value = "connecting";
      waiting = 500;
    } catch (error) {
      const status = error instanceof Refused ? error.status : 0;
      connection.value = status === 401 || status === 403 ? "limited" : "away";
      if (connection.value === "away" && !stop.signal.aborted) trouble.value = words(error);
    }
    if (stop.signal.aborted) continue;
    await (connection.value === "limited" ? another : Promise.race([pause(waiting), another]));
    waiting = Math.min(waiting * 2, 8_000);
  }
}
