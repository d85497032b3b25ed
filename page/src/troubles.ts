// Everything that is failing now or lost for good: the same sentences as `anabranch status` has (SystemStatus.troubles).
import type { DomainStatus, SystemStatus } from "./bodies";

export interface Trouble {
  who: string;
  what: string;
}

export function troubles(system: SystemStatus, domains: DomainStatus[]): Trouble[] {
  const found: Trouble[] = [];
  if (system.trouble) found.push({ who: "coordinator", what: system.trouble });
  const told = new Set(["coordinator", ...system.ingest.map((worker) => worker.name)]);
  for (const actor of system.actors) {
    if (actor.state !== "up") {
      const state = actor.state === "lost" ? "lost, being started again" : "being started";
      found.push({ who: actor.name, what: actor.trouble ? `${state}: ${actor.trouble}` : state });
    } else if (actor.trouble && !told.has(actor.name)) {
      found.push({ who: actor.name, what: actor.trouble });
    }
  }
  for (const gap of system.unread)
    found.push({
      who: `stream ${gap.partition}`,
      what: `offsets ${gap.first} to ${gap.last} were gone before they were read: send them again`,
    });
  for (const worker of system.ingest)
    for (const [loop, what] of Object.entries(worker.trouble)) found.push({ who: `${worker.name} ${loop}`, what });
  for (const domain of domains) {
    if (domain.state === "failed") found.push({ who: domain.domain, what: domain.detail || domain.state });
    for (const gap of domain.lost)
      found.push({
        who: `${domain.domain} lost`,
        what: `${gap.rows} examples in ${gap.partition}, offsets ${gap.first} to ${gap.last}, were counted and can't be trained on: send them again, or remove the domain`,
      });
  }
  for (const [name, replica] of Object.entries(system.replicas))
    if (replica.fenced) found.push({ who: name, what: replica.fenced });
  const own = system.replica;
  for (const what of own ? [own.engine_failure, own.unload_failure, own.trouble] : [])
    if (what) found.push({ who: "this replica", what });
  return found;
}
