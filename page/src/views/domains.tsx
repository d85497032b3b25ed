// Every domain as a card: where it stands, how well it does, what the gate said, and what can be done with it.
import { useComputed, useSignal } from "@preact/signals";
import { lazy, memo, Suspense } from "preact/compat";
import { place, to } from "../address";
import { ask, words } from "../api";
import type { CommandResult, DomainStatus, VersionStatus } from "../bodies";
import { count, duration, hue, number, share } from "../format";
import { domainOf, domains, names } from "../live";
import { Confirm } from "../parts/confirm";
import { DomainMark } from "../parts/domain-mark";

const Chart = lazy(() => import("../parts/chart"));

const STATES = ["open", "closed", "learning", "publishing", "published", "rejected", "failed"] as const;

export function Domains() {
  const wanted = useSignal("");
  const state = useSignal("");
  const shown = useComputed(() =>
    names.value.filter(
      (name) =>
        name.includes(wanted.value.trim().toLowerCase()) &&
        (!state.value || domainOf(name)?.value.state === state.value),
    ),
  );
  const one = place.value.what;
  if (one) {
    return (
      <>
        <p>
          <a href={to("domains")}>All domains</a>
        </p>
        {names.value.includes(one) ? <Card name={one} isWhole /> : <p>No domain {one} is known.</p>}
      </>
    );
  }
  return (
    <>
      <form class="row filters" onSubmit={(event) => event.preventDefault()}>
        <label>
          Name{" "}
          <input type="search" value={wanted.value} onInput={(event) => (wanted.value = event.currentTarget.value)} />
        </label>
        <label>
          State{" "}
          <select value={state.value} onChange={(event) => (state.value = event.currentTarget.value)}>
            <option value="">any</option>
            {STATES.map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </label>
        <span class="quiet" role="status">
          {count(shown.value.length)} of {count(names.value.length)}
        </span>
      </form>
      {names.value.length === 0 && (
        <p class="quiet">
          No domain is known yet. <a href={to("feed")}>Feed some examples</a>, or write to the stream.
        </p>
      )}
      <div class="cards">
        {shown.value.map((name) => (
          <Card key={name} name={name} />
        ))}
      </div>
    </>
  );
}

/** One domain's card; only its own changes draw it anew. */
export const Card = memo(function Card({ name, isWhole = false }: { name: string; isWhole?: boolean }) {
  const domain = domainOf(name)?.value;
  if (!domain) return null;
  const best = domain.versions.find((version) => version.name === domain.version);
  return (
    <article class={`card domain ${domain.state}`} aria-label={name}>
      <header>
        <h2>
          {isWhole ? (
            <DomainMark name={name} />
          ) : (
            <a href={to("domains", name)}>
              <DomainMark name={name} />
            </a>
          )}
        </h2>
        <span class={`state ${domain.state}`}>{domain.state}</span>
      </header>
      {domain.detail && domain.detail !== domain.version && <p class={domain.state === "failed" || domain.state === "rejected" ? "bad" : "quiet"}>{domain.detail}</p>}
      {domain.progress && <Training domain={domain} isWhole={isWhole} />}
      <dl class="facts">
        <Fact name="In service" value={domain.version ? shortName(domain.version) + (domain.pinned ? ", pinned" : "") : "nothing yet"} />
        <Fact name="Examples" value={count(domain.examples)} />
        <Fact name="Waiting" value={count(domain.waiting.train + domain.waiting.held_out)} />
        {best && <Fact name="Exam, exact" value={share(exam(best))} />}
        {domain.prequential !== null && (
          <Fact name={`Routed right, last ${count(domain.prequential_rows)}`} value={share(domain.prequential)} />
        )}
        {domain.timings["learning_seconds"] !== undefined && (
          <Fact name="Learned in" value={duration(domain.timings["learning_seconds"])} />
        )}
      </dl>
      {domain.lost.map((gap) => (
        <p class="bad" key={`${gap.partition}${gap.first}`}>
          Lost: {gap.rows} examples in {gap.partition}, offsets {gap.first} to {gap.last}.
        </p>
      ))}
      {isWhole && <Versions domain={domain} />}
      {isWhole && <Acts domain={domain} />}
    </article>
  );
});

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

/** `v2-1a2b3c4d` of `domain@v2-1a2b3c4d`. */
const shortName = (version: string): string => version.split("@")[1] ?? version;

/** 2 of `domain@v2-1a2b3c4d`. */
const numberOf = (version: string): number => Number(/@v(\d+)-/.exec(version)?.[1] ?? 0);

/** Share of the exam that a version answers exactly. */
const exam = (version: VersionStatus): number | null =>
  version.figures["candidate_exact_match"] ?? null;

function Training({ domain, isWhole }: { domain: DomainStatus; isWhole: boolean }) {
  const progress = domain.progress!;
  const curve = progress.curve as [number, number][];
  return (
    <>
      <progress value={progress.step} max={progress.steps} aria-label={`training of ${domain.domain}`} />
      <p>
        Step {progress.step} of {progress.steps}, loss {number(progress.loss, 2)} nats
        {progress.resumed_from > 0 && `, on from step ${progress.resumed_from}`}
      </p>
      {isWhole && curve.length > 1 && (
        <Suspense fallback={null}>
          <Chart
            words={`Loss by step, from ${number(curve[0]![1], 2)} to ${number(curve.at(-1)![1], 2)}`}
            x={curve.map((point) => point[0])}
            xLabel="step"
            lines={[{ label: "loss", hue: hue(domain.domain), values: curve.map((point) => point[1]) }]}
          />
        </Suspense>
      )}
    </>
  );
}

function Versions({ domain }: { domain: DomainStatus }) {
  if (!domain.versions.length) return null;
  const inService = new Set(domain.segments.map((segment) => segment.version));
  return (
    <div class="wide">
      <table>
        <caption>Versions, newest first</caption>
        <thead>
          <tr>
            <th scope="col">Version</th>
            <th scope="col">Gate</th>
            <th scope="col">Exact</th>
            <th scope="col">Loss</th>
            <th scope="col">Base's loss</th>
            <th scope="col">Examples</th>
            <th scope="col">The gate's words</th>
          </tr>
        </thead>
        <tbody>
          {[...domain.versions].reverse().map((version) => (
            <tr key={version.name}>
              <th scope="row">
                {shortName(version.name)}
                {inService.has(version.name) && <em> serves</em>}
              </th>
              <td class={version.status === "rejected" ? "bad" : ""}>{version.status}</td>
              <td>{share(exam(version))}</td>
              <td>{number(version.figures["candidate_loss"])}</td>
              <td>{number(version.figures["base_loss"])}</td>
              <td>{count(version.examples)}</td>
              <td class="words">{version.reason}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface Act {
  title: string;
  words: string;
  yes: string;
  method: string;
  path: string;
  body?: unknown;
}

function Acts({ domain }: { domain: DomainStatus }) {
  const asked = useSignal<Act | null>(null);
  const said = useSignal<{ words: string; isBad: boolean } | null>(null);
  const busy = useSignal(false);
  const path = `/v1/domains/${encodeURIComponent(domain.domain)}`;
  // What was accepted and is not in force yet is no way back.
  const now = domain.version ? numberOf(domain.version) : 0;
  const earlier = domain.versions.filter((version) => version.status === "accepted" && numberOf(version.name) < now);

  const act = async ({ method, path, body }: Act): Promise<void> => {
    asked.value = null;
    busy.value = true;
    said.value = { words: "Under way", isBad: false };
    try {
      const result = await ask<CommandResult>(method, path, body);
      said.value = { words: `Manifest ${result.manifest}: ${result.reason}`, isBad: false };
    } catch (error) {
      said.value = { words: words(error), isBad: true };
    }
    busy.value = false;
  };

  return (
    <div class="acts">
      <div class="row">
        {earlier.length > 0 && (
          <form
            class="row"
            onSubmit={(event) => {
              event.preventDefault();
              const version = String(new FormData(event.currentTarget).get("version"));
              asked.value = {
                title: `Roll ${domain.domain} back?`,
                words: `${shortName(version)} will serve, and is pinned: what is learned later waits until it is unpinned.`,
                yes: "Roll back",
                method: "POST",
                path: `${path}/rollback`,
                body: { version },
              };
            }}
          >
            <label>
              Earlier version{" "}
              <select name="version">
                {[...earlier].reverse().map((version) => (
                  <option key={version.name} value={version.name}>
                    {shortName(version.name)}
                  </option>
                ))}
              </select>
            </label>
            <button disabled={busy.value}>Roll back</button>
          </form>
        )}
        {domain.version &&
          (domain.pinned ? (
            <button
              disabled={busy.value}
              onClick={() => void act({ title: "", words: "", yes: "", method: "POST", path: `${path}/unpin` })}
            >
              Unpin
            </button>
          ) : (
            <button
              disabled={busy.value}
              onClick={() => void act({ title: "", words: "", yes: "", method: "POST", path: `${path}/pin` })}
            >
              Pin
            </button>
          ))}
        {domain.waiting.train + domain.waiting.held_out > 0 && (
          <button
            disabled={busy.value}
            onClick={() => void act({ title: "", words: "", yes: "", method: "POST", path: `${path}/learn` })}
          >
            Learn now
          </button>
        )}
        <button
          class="danger"
          disabled={busy.value}
          onClick={() =>
            (asked.value = {
              title: `Remove ${domain.domain}?`,
              words: "Its adapters go out of service, and its examples out of the router. It has to be fed anew to come back.",
              yes: "Remove it",
              method: "DELETE",
              path,
            })
          }
        >
          Remove
        </button>
      </div>
      <p role="status" class={said.value?.isBad ? "bad" : "quiet"}>
        {said.value?.words}
      </p>
      {asked.value && (
        <Confirm
          title={asked.value.title}
          words={asked.value.words}
          yes={asked.value.yes}
          onYes={() => void act(asked.value!)}
          onNo={() => (asked.value = null)}
        />
      )}
    </div>
  );
}

export const knownDomains = (): string[] => domains.value.filter((domain) => domain.version).map((d) => d.domain);
