// What came into force when, what it changed, and how long it took until it was served.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { to } from "../address";
import type { PublicationRecord } from "../bodies";
import { clock, duration } from "../format";
import { connection, system } from "../live";
import { DomainMark } from "../parts/domain-mark";
import { history, load, problem } from "../history";

const most = signal(20);

export default function Publications() {
  const number = system.value?.manifest;
  useEffect(() => void load(most.value), [number, most.value, connection.value]);
  const found = history.value;
  return (
    <>
      {problem.value && (
        <p class="trouble" role="alert">
          {problem.value}
        </p>
      )}
      {found?.damaged.map((each) => (
        <p class="trouble" key={each}>
          Manifest {each} can't be read any more.
        </p>
      ))}
      {found && !found.publications.length && <p class="quiet">Nothing is published yet.</p>}
      <ol class="timeline">
        {found?.publications.map((each) => (
          <One key={each.manifest} publication={each} />
        ))}
      </ol>
      {found && found.publications.length >= most.value && (
        <button onClick={() => (most.value = Math.min(1000, most.value * 5))}>Older ones</button>
      )}
    </>
  );
}

function One({ publication }: { publication: PublicationRecord }) {
  const isNow = publication.manifest === system.value?.manifest;
  const replicas = Object.entries(system.value?.replicas ?? {}).filter(([, each]) => each.manifest === publication.manifest);
  return (
    <li class="card">
      <h2>
        Manifest {publication.manifest} {isNow && <span class="state published">in force</span>}
      </h2>
      <p class="quiet">
        {clock(publication.at)}; {publication.reason}
      </p>
      <ul class="plain-list">
        {publication.changes.map((change) => (
          <li key={change.domain}>
            <a href={to("domains", change.domain)}>
              <DomainMark name={change.domain} />
            </a>{" "}
            {change.kind}
            {change.after ? `: ${change.after}` : ""}
            {change.training_seconds !== null && `, trained in ${duration(change.training_seconds)}`}
            {change.publication_seconds !== null && `, in force ${duration(change.publication_seconds)} after the gate's word`}
          </li>
        ))}
      </ul>
      {isNow && replicas.length > 0 && (
        <ul class="plain-list quiet">
          {replicas.map(([name, each]) => (
            <li key={name}>
              {name} serves it
              {each.since !== null && each.since >= publication.at && `, ${duration(each.since - publication.at)} after it was made`}
            </li>
          ))}
        </ul>
      )}
    </li>
  );
}
