// Is it better than before, and does each domain get what is its own? A cell opens what was asked for it.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { to } from "../address";
import { ask, words } from "../api";
import type { DomainStatus, ExamList } from "../bodies";
import { count } from "../format";
import { history, load, problem } from "../history";
import { connection, domains, system } from "../live";
import { DomainMark } from "../parts/domain-mark";

const MOST_COLUMNS = 40;
const shown = signal<ExamList | null>(null);
const missing = signal("");

async function open(domain: string): Promise<void> {
  missing.value = "";
  try {
    shown.value = await ask<ExamList>("GET", `/v1/domains/${encodeURIComponent(domain)}/exam?limit=12`);
  } catch (error) {
    shown.value = null;
    missing.value = words(error);
  }
}

export default function Accuracy() {
  useEffect(() => void load(20), [system.value?.manifest, connection.value]);
  const publications = history.value?.publications ?? [];
  const names = [...new Set(publications.flatMap((each) => Object.keys(each.exact)))].sort();
  const columns = names.slice(0, MOST_COLUMNS);
  const tried = domains.value.filter((domain) => domain.prequential !== null);
  return (
    <>
      {problem.value && (
        <p class="trouble" role="alert">
          {problem.value}
        </p>
      )}
      <section aria-labelledby="matrix">
        <h2 id="matrix">Exams after each publication</h2>
        <p class="quiet">
          Share of each domain's held-out examples that the version in service answers exactly. A cell opens the domain's exam.
        </p>
        {!columns.length && <p class="quiet">Nothing is published yet.</p>}
        {columns.length > 0 && (
          <div class="wide">
            <table class="heat">
              <thead>
                <tr>
                  <th scope="col">Manifest</th>
                  {columns.map((name) => (
                    <th scope="col" key={name}>
                      {name}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {[...publications].reverse().map((each) => (
                  <tr key={each.manifest}>
                    <th scope="row">{each.manifest}</th>
                    {columns.map((name) => (
                      <Cell key={name} value={each.exact[name]} label={`${name} at manifest ${each.manifest}`} onOpen={() => void open(name)} />
                    ))}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
        {names.length > columns.length && <p class="quiet">and {count(names.length - columns.length)} more domains</p>}
        {missing.value && <p class="bad">{missing.value}</p>}
        {shown.value && <Exam exam={shown.value} />}
      </section>
      <section aria-labelledby="confusion">
        <h2 id="confusion">Where recent examples would have been routed</h2>
        <p class="quiet">
          Each example of a domain in service is tried on the router in force before the router learns it; the last 500 or so count.
        </p>
        {!tried.length && <p class="quiet">No example of a domain in service has come yet.</p>}
        {tried.length > 0 && <Confusion tried={tried.slice(0, MOST_COLUMNS)} />}
      </section>
    </>
  );
}

function Cell({ value, label, onOpen }: { value: number | undefined; label: string; onOpen?: () => void }) {
  if (value === undefined) return <td />;
  const text = value.toFixed(2);
  return (
    <td class="has" style={{ "--share": value }}>
      {onOpen ? (
        <button class="cell" aria-label={`${label}: ${text}`} onClick={onOpen}>
          {text}
        </button>
      ) : (
        text
      )}
    </td>
  );
}

function Confusion({ tried }: { tried: DomainStatus[] }) {
  const columns = [...new Set(tried.flatMap((domain) => [domain.domain, ...Object.keys(domain.routed_to)]))].sort();
  return (
    <div class="wide">
      <table class="heat">
        <thead>
          <tr>
            <th scope="col">Of</th>
            {columns.map((name) => (
              <th scope="col" key={name}>
                {name}
              </th>
            ))}
            <th scope="col">Rows</th>
          </tr>
        </thead>
        <tbody>
          {tried.map((domain) => (
            <tr key={domain.domain}>
              <th scope="row">
                <a href={to("domains", domain.domain)}>
                  <DomainMark name={domain.domain} />
                </a>
              </th>
              {columns.map((name) => (
                <Cell key={name} value={domain.routed_to[name]} label="" />
              ))}
              <td>{count(domain.prequential_rows)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Exam({ exam }: { exam: ExamList }) {
  return (
    <div class="card" role="region" aria-label={`Exam of ${exam.domain}`}>
      <h3>
        <DomainMark name={exam.domain} />
      </h3>
      <p class="quiet">
        {exam.examples.length} of the {count(exam.rows)} held-out examples that {exam.version} was judged on
      </p>
      <div class="wide">
        <table>
          <thead>
            <tr>
              <th scope="col">Prompt, as the model reads it</th>
              <th scope="col">Completion</th>
            </tr>
          </thead>
          <tbody>
            {exam.examples.map((each, place) => (
              <tr key={place}>
                <td class="words">{each.prompt}</td>
                <td class="words">{each.completion}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <button class="plain" onClick={() => (shown.value = null)}>
        Close
      </button>
    </div>
  );
}
