// A file of examples, its columns mapped by hand, sent in batches; what is refused is told with its reason.
import { signal } from "@preact/signals";
import { to } from "../address";
import { ask, Refused, words } from "../api";
import type { RecordsResult } from "../bodies";
import { count, plural } from "../format";
import { connection, domains, names } from "../live";
import { DeadLetters } from "../parts/dead-letters";
import { Card } from "./domains";

type Row = Record<string, unknown>;

interface Table {
  file: string;
  columns: string[];
  rows: Row[];
  /** Lines that are no row, with what is wrong with them. */
  unread: Refusal[];
}

interface Refusal {
  line: number;
  why: string;
}

interface Mapping {
  prompt: string;
  completion: string;
  /** A column, or empty where all rows are of `constant`. */
  domain: string;
  constant: string;
}

const USUAL: Record<"prompt" | "completion" | "domain", string[]> = {
  prompt: ["prompt", "input", "question", "instruction", "messages"],
  completion: ["completion", "output", "answer", "response"],
  domain: ["domain", "task", "topic", "label"],
};
const BATCH = 200;
const MOST_BYTES = 256 << 20;
const SLUG = /^[a-z0-9][a-z0-9_-]{0,62}$/;

const table = signal<Table | null>(null);
const mapping = signal<Mapping>({ prompt: "", completion: "", domain: "", constant: "" });
const closes = signal(true);
const problem = signal("");
const sent = signal(0);
const refused = signal<Refusal[]>([]);
const state = signal<"idle" | "sending" | "done">("idle");
const fed = signal<string[]>([]);
let isStopped = false;

async function read(file: File): Promise<Table> {
  if (file.size > MOST_BYTES) throw new Error("A file here may have 256 MiB; send a larger one with `anabranch feed`.");
  const text = (await file.text()).replace(/^\uFEFF/, "");
  const rows: Row[] = [];
  const unread: Refusal[] = [];
  if (/\.(csv|tsv)$/i.test(file.name)) {
    const { default: Papa } = await import("papaparse");
    const found = Papa.parse<Row>(text, { header: true, skipEmptyLines: "greedy" });
    for (const error of found.errors.slice(0, 1000)) unread.push({ line: (error.row ?? 0) + 2, why: error.message });
    const bad = new Set(found.errors.map((error) => error.row));
    found.data.forEach((row, place) => {
      if (!bad.has(place)) rows.push(Object.defineProperty(row, LINE, { value: place + 2 }));
    });
    return { file: file.name, columns: found.meta.fields ?? [], rows, unread };
  }
  const columns = new Set<string>();
  text.split("\n").forEach((line, place) => {
    if (!line.trim()) return;
    try {
      const row = JSON.parse(line) as Row;
      if (typeof row !== "object" || row === null || Array.isArray(row)) throw new Error("expected an object");
      if (row["kind"] === "end_of_domain") return;
      for (const name of Object.keys(row)) columns.add(name);
      rows.push(Object.defineProperty(row, LINE, { value: place + 1 }));
    } catch (error) {
      unread.push({ line: place + 1, why: words(error) });
    }
  });
  return { file: file.name, columns: [...columns], rows, unread };
}

/** Where a row stands in its file; not one of its columns. */
const LINE = Symbol("line");
const lineOf = (row: Row): number => (row as { [LINE]: number })[LINE];

async function take(file: File | undefined): Promise<void> {
  if (!file) return;
  problem.value = "";
  state.value = "idle";
  refused.value = [];
  sent.value = 0;
  try {
    const found = await read(file);
    const first = (wanted: string[]): string => wanted.find((name) => found.columns.includes(name)) ?? "";
    table.value = found;
    mapping.value = {
      prompt: first(USUAL.prompt),
      completion: first(USUAL.completion),
      domain: first(USUAL.domain),
      constant: file.name.replace(/\.\w+$/, "").replace(/\.(train|test)$/, "").toLowerCase().replace(/[^a-z0-9_-]+/g, "-"),
    };
    if (!found.rows.length) problem.value = `${file.name}: no row in it can be read.`;
  } catch (error) {
    problem.value = words(error);
  }
}

const text = (value: unknown): string => (typeof value === "string" ? value : value === null || value === undefined ? "" : JSON.stringify(value));

/** A row as the front door takes it. */
function record(row: Row): Row {
  const { prompt, completion, domain, constant } = mapping.value;
  const asked = row[prompt];
  return {
    domain: domain ? text(row[domain]).trim().toLowerCase() : constant,
    ...(Array.isArray(asked) ? { messages: asked } : { prompt: text(asked) }),
    completion: text(row[completion]),
    ...(typeof row["id"] === "string" && row["id"] ? { id: row["id"] } : {}),
  };
}

/** What is wrong with a row before anybody is asked; the front door has the last word. */
function fault(row: Row): string | null {
  const made = record(row);
  if (!SLUG.test(String(made["domain"]))) return `domain ${JSON.stringify(made["domain"])}: expected lower-case letters, digits, - and _`;
  if (!made["messages"] && !made["prompt"]) return "the prompt is empty";
  if (!made["completion"]) return "the completion is empty";
  return null;
}

/** Which of a batch the front door's words are about. */
const PLACE = /^number (\d+) of \d+: ([^]*)$/;

async function batch(rows: Row[]): Promise<void> {
  let rest = rows;
  while (rest.length && !isStopped) {
    try {
      await ask<RecordsResult>("POST", "/v1/records", rest.map(record));
      sent.value += rest.length;
      return;
    } catch (error) {
      const status = error instanceof Refused ? error.status : 0;
      const named = PLACE.exec(words(error));
      if (status === 400 && (named || rest.length === 1)) {
        const place = named ? Number(named[1]) - 1 : 0;
        refused.value = [...refused.value, { line: lineOf(rest[place]!), why: named ? named[2]! : words(error) }];
        rest = rest.filter((_, index) => index !== place);
      } else if (status === 413 && rest.length > 1) {
        const half = rest.length >> 1;
        await batch(rest.slice(0, half));
        rest = rest.slice(half);
      } else if (status === 413) {
        refused.value = [...refused.value, { line: lineOf(rest[0]!), why: words(error) }];
        return;
      } else if (status === 503 || status === 429 || status === 0) {
        // All or none was written, and a record counts once however often it is sent.
        problem.value = `${words(error)} Trying again.`;
        await new Promise((resolve) => setTimeout(resolve, 2_000));
        problem.value = "";
      } else {
        throw error;
      }
    }
  }
}

async function send(): Promise<void> {
  const { rows, unread } = table.value!;
  problem.value = "";
  isStopped = false;
  sent.value = 0;
  refused.value = [...unread];
  state.value = "sending";
  const good: Row[] = [];
  for (const row of rows) {
    const why = fault(row);
    if (why) refused.value.push({ line: lineOf(row), why });
    else good.push(row);
  }
  refused.value = [...refused.value];
  fed.value = [...new Set(good.map((row) => String(record(row)["domain"])))];
  try {
    for (let start = 0; start < good.length && !isStopped; start += BATCH) await batch(good.slice(start, start + BATCH));
    if (closes.value && !isStopped && sent.value)
      for (const domain of fed.value) await ask("POST", "/v1/records", { kind: "end_of_domain", domain });
  } catch (error) {
    problem.value = words(error);
  }
  state.value = "done";
}

export default function Feed() {
  return (
    <>
      <label
        class="card drop"
        onDragOver={(event) => event.preventDefault()}
        onDrop={(event) => {
          event.preventDefault();
          void take(event.dataTransfer?.files[0]);
        }}
      >
        Drop a file of examples here, or choose one: JSON Lines or CSV
        <input
          type="file"
          accept=".jsonl,.ndjson,.json,.csv,.tsv"
          onChange={(event) => void take(event.currentTarget.files?.[0])}
        />
      </label>
      {problem.value && (
        <p class="trouble" role="alert">
          {problem.value}
        </p>
      )}
      {table.value && table.value.rows.length > 0 && <Mapped table={table.value} />}
      {connection.value !== "limited" && <DeadLetters />}
    </>
  );
}

function Mapped({ table: { file, columns, rows, unread } }: { table: Table }) {
  const now = mapping.value;
  const set = (change: Partial<Mapping>): void => {
    mapping.value = { ...mapping.value, ...change };
  };
  const isComplete = Boolean(now.prompt && now.completion && (now.domain || SLUG.test(now.constant)));
  const total = rows.length;
  return (
    <section class="card" aria-labelledby="file">
      <h2 id="file">{file}</h2>
      <p>
        {plural(total, "row")}
        {unread.length > 0 && <span class="bad">, {plural(unread.length, "line")} can't be read</span>}
      </p>
      <div class="row">
        {(["prompt", "completion"] as const).map((field) => (
          <label key={field}>
            {field === "prompt" ? "Prompt" : "Completion"}{" "}
            <select value={now[field]} onChange={(event) => set({ [field]: event.currentTarget.value })}>
              <option value="">choose a column</option>
              {columns.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        ))}
        <label>
          Domain{" "}
          <select value={now.domain} onChange={(event) => set({ domain: event.currentTarget.value })}>
            <option value="">all of one domain</option>
            {columns.map((name) => (
              <option key={name} value={name}>
                column {name}
              </option>
            ))}
          </select>
        </label>
        {!now.domain && (
          <label>
            Its name{" "}
            <input
              value={now.constant}
              list="known-domains"
              pattern="[a-z0-9][a-z0-9_\-]{0,62}"
              onInput={(event) => set({ constant: event.currentTarget.value.trim() })}
            />
          </label>
        )}
        <datalist id="known-domains">
          {names.value.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
      </div>
      {isComplete && (
        <div class="wide">
          <table>
            <caption>The first rows as they will be sent</caption>
            <thead>
              <tr>
                <th scope="col">Domain</th>
                <th scope="col">Prompt</th>
                <th scope="col">Completion</th>
              </tr>
            </thead>
            <tbody>
              {rows.slice(0, 4).map((row, place) => {
                const made = record(row);
                return (
                  <tr key={place}>
                    <td>{String(made["domain"])}</td>
                    <td class="words">{text(made["prompt"] ?? made["messages"]).slice(0, 200)}</td>
                    <td class="words">{text(made["completion"]).slice(0, 200)}</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      <div class="row">
        <label>
          <input type="checkbox" checked={closes.value} onChange={(event) => (closes.value = event.currentTarget.checked)} />{" "}
          learn it as soon as all of it is there
        </label>
        <span class="spring" />
        {state.value === "sending" ? (
          <button onClick={() => (isStopped = true)}>Stop</button>
        ) : (
          <button disabled={!isComplete} onClick={() => void send()}>
            Send {plural(total, "row")}
          </button>
        )}
      </div>
      {state.value !== "idle" && (
        <>
          <progress value={sent.value + refused.value.length} max={total + unread.length} aria-label="rows sent" />
          <p role="status">
            {plural(sent.value, "example")} in the stream
            {refused.value.length > 0 && `, ${count(refused.value.length)} refused`}
            {state.value === "done" && (isStopped ? "; stopped" : "; done")}
          </p>
          {refused.value.length > 0 && (
            <details>
              <summary>What was refused</summary>
              <ul class="plain-list">
                {refused.value.slice(0, 100).map((each, place) => (
                  <li key={place}>
                    line {each.line}: {each.why}
                  </li>
                ))}
                {refused.value.length > 100 && <li class="quiet">and {count(refused.value.length - 100)} more</li>}
              </ul>
            </details>
          )}
          <div class="cards">
            {fed.value
              .filter((name) => domains.value.some((domain) => domain.domain === name))
              .slice(0, 12)
              .map((name) => (
                <Card key={name} name={name} />
              ))}
          </div>
          {fed.value.length > 12 && <a href={to("domains")}>All domains</a>}
        </>
      )}
    </section>
  );
}
