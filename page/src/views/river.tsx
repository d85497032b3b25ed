// What is coming in, what is being made of it, and who serves what: the whole way of a record on one look.
import type { ComponentChildren } from "preact";
import { to } from "../address";
import type { DomainStatus } from "../bodies";
import { bytes, count, duration, perSecond, plural } from "../format";
import { domains, rate, system } from "../live";
import { DomainMark } from "../parts/domain-mark";
import { troubles } from "../troubles";

interface Stage {
  name: string;
  main: string;
  unit: string;
  more: ComponentChildren;
  isBad?: boolean;
  isMoving?: boolean;
}

const BUSY = new Set(["closed", "learning", "publishing"]);

export function River() {
  const now = system.value;
  const all = domains.value;
  if (!now) return <p class="quiet">Waiting for the system's first word.</p>;
  const failing = troubles(now, all);
  return (
    <>
      <ol class="river">
        {stages().map((stage) => (
          <li key={stage.name} class={`stage ${stage.isBad ? "is-bad" : ""} ${stage.isMoving ? "is-moving" : ""}`}>
            <h2>{stage.name}</h2>
            <p class="main">
              <b>{stage.main}</b> {stage.unit}
            </p>
            <div class="more">{stage.more}</div>
          </li>
        ))}
      </ol>
      <section aria-labelledby="troubles">
        <h2 id="troubles">Trouble</h2>
        <div aria-live="polite">
          {failing.length === 0 && <p class="quiet">Nothing is failing.</p>}
          {failing.map((each) => (
            <p class="trouble" key={each.who + each.what}>
              <b>{each.who}</b>: {each.what}
            </p>
          ))}
        </div>
      </section>
      <div class="two">
        <section aria-labelledby="under-way">
          <h2 id="under-way">Under way</h2>
          <UnderWay all={all} />
        </section>
        <section aria-labelledby="replicas">
          <h2 id="replicas">Replicas</h2>
          <table>
            <thead>
              <tr>
                <th scope="col">Name</th>
                <th scope="col">Manifest</th>
                <th scope="col">State</th>
              </tr>
            </thead>
            <tbody>
              {Object.entries(now.replicas).map(([name, replica]) => (
                <tr key={name}>
                  <td>{name}</td>
                  <td>{replica.manifest}</td>
                  <td class={replica.fenced ? "bad" : ""}>
                    {replica.fenced ??
                      (replica.manifest < now.manifest ? `behind for ${duration(replica.lag_seconds)}` : "serves")}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      </div>
    </>
  );
}

function UnderWay({ all }: { all: DomainStatus[] }) {
  const busy = all.filter((domain) => BUSY.has(domain.state));
  if (!all.length)
    return (
      <p class="quiet">
        No domain is known yet. <a href={to("feed")}>Feed some examples</a>, or write to the stream.
      </p>
    );
  if (!busy.length) return <p class="quiet">Nothing is being learned.</p>;
  return (
    <ul class="plain-list">
      {busy.slice(0, 20).map((domain) => (
        <li key={domain.domain}>
          <a href={to("domains", domain.domain)}>
            <DomainMark name={domain.domain} />
          </a>{" "}
          {domain.state}
          {domain.progress && (
            <>
              <progress
                value={domain.progress.step}
                max={domain.progress.steps}
                aria-label={`training of ${domain.domain}`}
              />{" "}
              step {domain.progress.step} of {domain.progress.steps}
              {domain.progress.loss !== null && `, loss ${domain.progress.loss.toFixed(2)}`}
            </>
          )}
        </li>
      ))}
      {busy.length > 20 && <li class="quiet">and {busy.length - 20} more</li>}
    </ul>
  );
}

function stages(): Stage[] {
  const now = system.value!;
  const all = domains.value;
  const lag = now.ingest.reduce((sum, worker) => sum + Object.values(worker.lag).reduce((a, b) => a + b, 0), 0);
  const polled = now.ingest.reduce((sum, worker) => sum + worker.polled, 0);
  const refused = now.ingest.reduce((sum, worker) => sum + worker.dead_letters, 0);
  const spooled = now.ingest.reduce((sum, worker) => sum + worker.spooled, 0);
  const spooledBytes = now.ingest.reduce((sum, worker) => sum + worker.spooled_bytes, 0);
  const full = now.ingest.filter((worker) => worker.full).length;
  const learning = all.filter((domain) => domain.state === "learning");
  const published = all.filter((domain) => domain.version !== null);
  const verdicts = all.flatMap((domain) => domain.versions);
  const accepted = verdicts.filter((version) => version.status === "accepted").length;
  const resting = all.filter((domain) => domain.state === "rejected" || domain.state === "failed").length;
  const replicas = Object.values(now.replicas);
  const upToDate = replicas.filter((replica) => !replica.fenced && replica.manifest === now.manifest).length;
  const waiting = all.reduce((sum, domain) => sum + domain.waiting.train + domain.waiting.held_out, 0);
  return [
    {
      name: "Stream",
      main: count(lag),
      unit: "to be read",
      more: plural(now.ingest.reduce((sum, worker) => sum + worker.partitions.length, 0), "partition"),
      isMoving: rate.value > 0,
    },
    {
      name: "Ingest",
      main: perSecond(rate.value),
      unit: "a second",
      more: (
        <>
          {count(polled)} read{refused > 0 && <span class="bad">, {count(refused)} refused</span>}
        </>
      ),
      isBad: now.ingest.some((worker) => Object.keys(worker.trouble).length > 0),
      isMoving: rate.value > 0,
    },
    {
      name: "Spool",
      main: count(spooled),
      unit: spooled === 1 ? "example" : "examples",
      more: full ? <span class="bad">full: {plural(full, "worker")} wait</span> : `${bytes(spooledBytes)} on disk, ${count(waiting)} wait`,
      isBad: full > 0,
      isMoving: learning.length > 0,
    },
    {
      name: "Learner",
      main: count(learning.length),
      unit: learning.length === 1 ? "domain in training" : "domains in training",
      more: learning[0]?.progress ? `step ${learning[0].progress.step} of ${learning[0].progress.steps}` : "rests",
      isMoving: learning.length > 0,
    },
    {
      name: "Gate",
      main: count(accepted),
      unit: "accepted",
      more: `${count(verdicts.length - accepted)} rejected, ${count(resting)} ${resting === 1 ? "rests" : "rest"}`,
      isMoving: all.some((domain) => domain.state === "publishing"),
    },
    {
      name: `Manifest ${now.manifest}`,
      main: count(published.length),
      unit: published.length === 1 ? "domain in service" : "domains in service",
      more: now.base.delta ? "on a changed base" : "on the base as it is",
      isMoving: upToDate < replicas.length,
    },
    {
      name: "Replicas",
      main: `${upToDate} of ${replicas.length}`,
      unit: "serve it",
      more: now.replica ? plural(now.replica.loaded.length, "adapter") + " loaded here" : "",
      isBad: replicas.some((replica) => replica.fenced !== null) || replicas.length === 0,
    },
  ];
}
