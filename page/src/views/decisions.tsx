// What was asked of late and who answered: filters over all of it, and a link for each.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { place, to } from "../address";
import { ask, words } from "../api";
import type { DecisionList, DecisionRecord } from "../bodies";
import { clock, number } from "../format";
import { names } from "../live";
import { DomainMark } from "../parts/domain-mark";
import { Scores } from "../parts/scores";

const PAGE = 100;

const found = signal<DecisionRecord[]>([]);
const keep = signal<number | null>(null);
const problem = signal("");
const isAll = signal(false);
const domain = signal("");
const abstained = signal("");

async function load(before = ""): Promise<void> {
  const query = new URLSearchParams({ limit: String(PAGE) });
  if (domain.value) query.set("domain", domain.value);
  if (abstained.value) query.set("abstained", abstained.value);
  if (before) query.set("before", before);
  try {
    const list = await ask<DecisionList>("GET", `/v1/decisions?${query}`);
    keep.value = list.keep;
    isAll.value = list.decisions.length < PAGE;
    found.value = before ? [...found.value, ...list.decisions] : list.decisions;
    problem.value = "";
  } catch (error) {
    problem.value = words(error);
  }
}

export function OffNotice() {
  return (
    <p>
      No decisions are kept. Set <code>serving.decisions.keep</code> to keep the last so many of them, and{" "}
      <code>serving.decisions.prompts</code> for what of their texts.
    </p>
  );
}

export default function Decisions() {
  const one = place.value.what;
  useEffect(() => void load(), [domain.value, abstained.value]);
  if (one) return <One id={one} />;
  return (
    <>
      <form class="row filters" onSubmit={(event) => (event.preventDefault(), void load())}>
        <label>
          Answered by{" "}
          <select value={domain.value} onChange={(event) => (domain.value = event.currentTarget.value)}>
            <option value="">anybody</option>
            <option>base</option>
            {names.value.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <label>
          Left to the base{" "}
          <select value={abstained.value} onChange={(event) => (abstained.value = event.currentTarget.value)}>
            <option value="">or not</option>
            <option value="true">only</option>
            <option value="false">not</option>
          </select>
        </label>
        <button>Look again</button>
      </form>
      {problem.value && (
        <p class="trouble" role="alert">
          {problem.value}
        </p>
      )}
      {keep.value === 0 && <OffNotice />}
      {keep.value !== null && keep.value > 0 && !found.value.length && <p class="quiet">None yet.</p>}
      {found.value.length > 0 && (
        <div class="wide">
          <table>
            <thead>
              <tr>
                <th scope="col">When</th>
                <th scope="col">Asked</th>
                <th scope="col">Answered by</th>
                <th scope="col">Score</th>
                <th scope="col">Model</th>
                <th scope="col">Manifest</th>
              </tr>
            </thead>
            <tbody>
              {found.value.map((each) => (
                <tr key={each.id}>
                  <td>
                    <a href={to("decisions", each.id)}>{clock(each.at)}</a>
                  </td>
                  <td class="words">{each.prompt ?? "not kept"}</td>
                  <td>
                    <DomainMark name={each.decision.domain} />
                    {each.decision.abstained && <em> abstained</em>}
                  </td>
                  <td>{number(each.decision.score)}</td>
                  <td>{each.model}</td>
                  <td>{each.manifest}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {found.value.length > 0 && !isAll.value && (
        <button onClick={() => void load(found.value.at(-1)!.id)}>Older ones</button>
      )}
    </>
  );
}

const shown = signal<DecisionRecord | null>(null);
const missing = signal("");

function One({ id }: { id: string }) {
  useEffect(() => {
    shown.value = null;
    missing.value = "";
    ask<DecisionRecord>("GET", `/v1/decisions/${encodeURIComponent(id)}`)
      .then((each) => (shown.value = each))
      .catch((error: unknown) => (missing.value = words(error)));
  }, [id]);
  const each = shown.value;
  return (
    <>
      <p>
        <a href={to("decisions")}>All decisions</a>
      </p>
      {missing.value && (
        <p class="trouble" role="alert">
          {missing.value}
        </p>
      )}
      {each && (
        <article class="card">
          <h2>
            <DomainMark name={each.decision.domain} />
          </h2>
          <p class="prompt">{each.prompt ?? "The text was not kept."}</p>
          <p class="quiet">
            {clock(each.at)}; model {each.model}; {each.decision.adapter}, manifest {each.manifest}
          </p>
          <Scores decision={each.decision} most={20} />
          {each.decision.turns.length > 0 && (
            <table>
              <caption>Its turns, each by itself</caption>
              <thead>
                <tr>
                  <th scope="col">Turn</th>
                  <th scope="col">Domain</th>
                  <th scope="col">Score</th>
                </tr>
              </thead>
              <tbody>
                {each.decision.turns.map((turn, index) => (
                  <tr key={index}>
                    <th scope="row">{index === 0 ? "first" : "last"}</th>
                    <td>{turn.domain}</td>
                    <td>{number(turn.score)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </article>
      )}
    </>
  );
}
